"""`type=s3` between two machines and a server that speaks S3."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from tests.conftest import Pybuild

pytestmark = [pytest.mark.sandbox, pytest.mark.root]

DOCKERFILE = """\
FROM busybox AS tools
RUN --mount=type=cache,id=things,target=/things echo tool | tee -a /things/log > /tool
FROM busybox
COPY --from=tools /tool /tool
RUN cat /tool > /copy
"""
IDENTITY = {"AWS_ACCESS_KEY_ID": "someone", "AWS_SECRET_ACCESS_KEY": "hidden"}


@pytest.fixture
def server() -> Iterator[str]:
    running = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    try:
        yield f"http://{host}:{port}"
    finally:
        running.stop()


@pytest.fixture
def bucket(server: str, monkeypatch: pytest.MonkeyPatch) -> object:
    for name, value in IDENTITY.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3", endpoint_url=server, region_name="us-east-1")
    urllib.request.urlopen(f"{server}/moto-api/reset", data=b"").close()  # one state a process
    client.create_bucket(Bucket="caches")
    return client


@pytest.fixture
def cache(server: str) -> str:
    return (
        "type=s3,bucket=caches,region=us-east-1,prefix=team/,name=main;branch,"
        f"endpoint_url={server},use_path_style=true"
    )


def keys(client: object) -> set[str]:
    found = client.list_objects_v2(Bucket="caches")  # type: ignore[attr-defined]
    return {item["Key"] for item in found.get("Contents", ())}


def other_machine(busybox: Pybuild, tmp_path: Path) -> Pybuild:
    other = Pybuild(root=tmp_path / "other", directory=tmp_path, environment=IDENTITY)
    busybox("save", "-o", tmp_path / "busybox.tar", "busybox")
    other("load", "-i", tmp_path / "busybox.tar")
    return other


def test_a_cache_in_a_bucket_serves_another_machine(
    busybox: Pybuild, context: Callable[..., Path], tmp_path: Path, bucket: object, cache: str
) -> None:
    app = context(DOCKERFILE)
    busybox("build", f"--cache-to={cache},mode=max,mounts=true", app)
    names = keys(bucket)
    assert {"team/manifests/main", "team/manifests/branch"} < names
    assert any(re.fullmatch(r"team/blobs/sha256:[0-9a-f]{64}", name) for name in names)
    other = other_machine(busybox, tmp_path)
    content = tmp_path / "content"
    log = other(
        "build", "--progress=plain", f"--cache-from={cache},mounts=true", "-o", content, app
    ).stderr
    assert not re.search(r"^#\d+ \d\.\d+ ", log, re.MULTILINE)  # no step said anything
    assert len(re.findall(r"^#\d+ CACHED", log, re.MULTILINE)) == 4
    assert (content / "copy").read_text() == "tool\n"
    changed = context(DOCKERFILE.replace("echo tool", "sed p /things/log"))
    other("build", f"--cache-from={cache},mounts=true", "-o", content, changed)
    assert (content / "copy").read_text() == "tool\ntool\n"


def test_a_second_export_sends_no_layer_again(
    busybox: Pybuild, context: Callable[..., Path], bucket: object, cache: str
) -> None:
    app = context(DOCKERFILE)
    busybox("build", f"--cache-to={cache}", app)
    stamps = {item["Key"]: item["LastModified"] for item in listed(bucket)}
    busybox("build", f"--cache-to={cache}", "--label=a=b", app)
    again = {item["Key"]: item["LastModified"] for item in listed(bucket)}
    blobs = [name for name in stamps if "/blobs/" in name]
    assert blobs
    assert [again[name] for name in blobs] == [stamps[name] for name in blobs]
    busybox("build", f"--cache-to={cache},touch_refresh=0s", "--label=a=c", app)
    touched = {item["Key"]: item["LastModified"] for item in listed(bucket)}
    assert set(touched) == set(stamps)


def listed(client: object) -> list[dict[str, object]]:
    found = client.list_objects_v2(Bucket="caches")  # type: ignore[attr-defined]
    contents: list[dict[str, object]] = found["Contents"]
    return contents


def test_a_bucket_that_is_not_there_is_a_warning_for_imports_and_an_error_for_exports(
    busybox: Pybuild, context: Callable[..., Path], bucket: object, cache: str
) -> None:
    app = context(DOCKERFILE)
    absent = cache.replace("bucket=caches", "bucket=absent")
    assert keys(bucket) == set()
    done = busybox("build", f"--cache-from={absent}", f"--cache-from={cache}", app)
    assert "cannot import the cache s3:absent: the bucket absent has no team/m" in done.stderr
    failed = busybox("build", f"--cache-to={absent}", app, status=1)
    assert "the bucket absent" in failed.stderr
    assert "Traceback" not in failed.stderr
    busybox("build", f"--cache-to={absent},ignore-error=true", app)


def test_credentials_of_an_option_do_not_reach_the_state_root(
    busybox: Pybuild,
    context: Callable[..., Path],
    tmp_path: Path,
    bucket: object,
    cache: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert keys(bucket) == set()
    for name in IDENTITY:
        monkeypatch.delenv(name)
    given = f"{cache},access_key_id=someone,secret_access_key=very-hidden"
    app = context(DOCKERFILE)
    busybox("build", f"--cache-to={given}", app)
    other = other_machine(busybox, tmp_path)
    other("build", f"--cache-from={given}", "-o", tmp_path / "content", app)
    assert (tmp_path / "content" / "copy").read_text() == "tool\n"
    for root in (busybox.root, other.root):
        held = [path for path in root.rglob("*") if path.is_file() and not path.is_symlink()]
        assert not [path for path in held if b"very-hidden" in path.read_bytes()]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("type=s3,region=x", "needs bucket="),
        ("type=s3,bucket=x", "needs region="),
        ("type=s3,bucket=x,region=y,upload_parallelism=many", "upload_parallelism"),
        ("type=s3,bucket=x,region=y,touch_refresh=soon", "touch_refresh"),
        ("type=s3,bucket=x,region=y,buckets=z", "did you mean bucket?"),
    ],
)
def test_a_wrong_option_is_one_clear_error(
    busybox: Pybuild, context: Callable[..., Path], text: str, said: str
) -> None:
    done = busybox("build", f"--cache-to={text}", context("FROM busybox\n"), status=2)
    assert said in done.stderr
