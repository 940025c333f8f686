"""Signatures beside images of a registry, checked by openssl too.

Debian's skopeo and podman are built without their verifier of such signatures.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Pybuild
from tests.registries import RealRegistry, real_registry

pytestmark = [pytest.mark.sandbox, pytest.mark.requires("docker-registry", "openssl")]


def openssl(*words: str | Path) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["openssl", *map(os.fspath, words)], check=False, capture_output=True)


def make_key(place: Path, name: str = "key") -> Path:
    path = place / f"{name}.pem"
    curve = ("-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256")
    assert openssl("genpkey", *curve, "-out", path).returncode == 0
    assert openssl("pkey", "-in", path, "-pubout", "-out", place / f"{name}.pub").returncode == 0
    return path


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[RealRegistry]:
    folder = tmp_path / "registry"
    folder.mkdir()
    with real_registry(folder) as running:
        yield running


@pytest.fixture
def pushed(registry: RealRegistry, pybuild: Pybuild, context: Callable[..., Path]) -> str:
    name = f"{registry.host}/team/app:1"
    pybuild("build", "-t", name, "--push", context("FROM scratch\nCOPY f /\n", {"f": "x"}))
    return name


def raw(pybuild: Pybuild, name: str) -> Any:
    return json.loads(pybuild("manifest", "inspect", name).stdout)


def test_what_is_signed_is_verified_and_openssl_agrees(
    pybuild: Pybuild, pushed: str, registry: RealRegistry, tmp_path: Path
) -> None:
    key = make_key(tmp_path)
    done = pybuild("sign", "--key", key, pushed)
    digest = done.stdout.strip().partition("@")[2]
    assert done.stdout == f"Signed: {registry.host}/team/app@{digest}\n"
    verified = pybuild("verify", "--key", tmp_path / "key.pub", pushed).stdout
    assert verified == f"Verified: {registry.host}/team/app@{digest}\n"
    document = raw(pybuild, f"{registry.host}/team/app:{digest.replace(':', '-')}.sig")
    (layer,) = document["layers"]
    hexadecimal = layer["digest"].partition(":")[2]
    store = registry.folder / "data/docker/registry/v2/blobs/sha256"
    payload = store / hexadecimal[:2] / hexadecimal / "data"
    assert json.loads(payload.read_bytes())["critical"] == {
        "identity": {"docker-reference": f"{registry.host}/team/app"},
        "image": {"docker-manifest-digest": digest},
        "type": "cosign container image signature",
    }
    signature = tmp_path / "signature"
    signature.write_bytes(
        base64.b64decode(layer["annotations"]["dev.cosignproject.cosign/signature"])
    )
    check = ("dgst", "-sha256", "-verify", tmp_path / "key.pub", "-signature", signature)
    assert openssl(*check, payload).stdout == b"Verified OK\n"


def test_signatures_of_others_stay_and_do_not_count(
    pybuild: Pybuild, pushed: str, tmp_path: Path, context: Callable[..., Path]
) -> None:
    make_key(tmp_path)
    make_key(tmp_path, "other")
    other = ("verify", "--key", tmp_path / "other.pub", pushed)
    assert "was made by this key (none found)" in pybuild(*other, status=1).stderr
    pybuild("sign", "--key", tmp_path / "key.pem", pushed)
    assert "was made by this key (1 signature found)" in pybuild(*other, status=1).stderr
    pybuild("sign", "--key", tmp_path / "other.pem", pushed)
    pybuild(*other)
    pybuild("verify", "--key", tmp_path / "key.pub", pushed)
    changed = context("FROM scratch\nCOPY f /\n", {"f": "changed"})
    pybuild("build", "-t", pushed, "--push", changed)
    assert "none found" in pybuild(*other, status=1).stderr


def test_keys_that_cannot_be_used_are_refused_with_the_way_to_one(
    pybuild: Pybuild, pushed: str, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.pem"
    bad.write_text("-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----\n")
    locked = tmp_path / "locked.pem"
    key = make_key(tmp_path)
    words = ("pkcs8", "-topk8", "-in", key, "-passout", "pass:open", "-out", locked)
    assert openssl(*words).returncode == 0
    for path, text in (
        (bad, "cosign's own encrypted keys are not read"),
        (tmp_path / "none.pem", "cannot read the key"),
        (tmp_path / "key.pub", "the private key cannot be read"),
        (locked, "the private key cannot be read"),
    ):
        assert text in pybuild("sign", "--key", path, pushed, status=2).stderr
    assert "--key is missing" in pybuild("sign", pushed, status=2).stderr
    opened = {"COSIGN_PASSWORD": "open"}
    pybuild("sign", "--key", locked, pushed, environment=opened)
    pybuild("verify", "--key", tmp_path / "key.pub", pushed)
