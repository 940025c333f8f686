"""Our signatures beside those of botocore, which comes with moto."""

from __future__ import annotations

from datetime import UTC, datetime
from unittest import mock

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as TheirCredentials

from buildkit_py.cache.signing import EMPTY, Credentials, signed_headers

NOW = datetime(2026, 3, 1, 12, 30, 45, tzinfo=UTC)


@pytest.mark.parametrize("token", ["", "a/token+="])
@pytest.mark.parametrize(
    ("method", "url", "headers"),
    [
        ("GET", "https://bucket.s3.eu-west-1.amazonaws.com/blobs/sha256%3Aab", {}),
        ("PUT", "http://127.0.0.1:9000/bucket/a%20b/c", {"Content-Type": "a/b", "X-A": " x  y "}),
        ("HEAD", "http://host/?prefix=a%2Fb&list-type=2&empty=", {}),
    ],
)
def test_a_signature_is_the_one_that_botocore_makes(
    method: str, url: str, headers: dict[str, str], token: str
) -> None:
    ours = signed_headers(
        method,
        url,
        headers,
        payload=EMPTY,
        credentials=Credentials(key="AKID", secret="SECRET", token=token),
        region="eu-west-1",
        now=NOW,
    )
    theirs = AWSRequest(method=method, url=url, headers={**headers, "X-Amz-Content-SHA256": EMPTY})
    signer = SigV4Auth(TheirCredentials("AKID", "SECRET", token or None), "s3", "eu-west-1")
    with (
        mock.patch("botocore.auth.get_current_datetime", return_value=NOW),
        mock.patch.object(signer, "_normalize_url_path", lambda path: path),
    ):
        signer.add_auth(theirs)
    assert ours["Authorization"] == theirs.headers["Authorization"]
