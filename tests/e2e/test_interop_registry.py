"""What we push, skopeo reads; what skopeo pushes, we pull: every compression, type and shape."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Pybuild
from tests.registries import RealRegistry, real_registry

pytestmark = pytest.mark.requires("docker-registry", "skopeo")

FORMS = [
    (compression, types, shape)
    for compression in ("gzip", "zstd", "uncompressed")
    for types in ("oci", "docker")
    for shape in ("single", "index")
    if (compression, types) != ("zstd", "docker")  # docker's types have no name for it
]


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealRegistry]:
    with real_registry(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture
def folder(context: Callable[..., Path]) -> Path:
    text = "FROM scratch\nARG TARGETARCH\nLABEL arch=$TARGETARCH\nCOPY a /\nCOPY b /\n"
    return context(text, {"a": "a" * 5000, "b": "b"})


def skopeo(*words: str | Path) -> bytes:
    command = ["skopeo", "--insecure-policy", *map(str, words)]
    done = subprocess.run(command, capture_output=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def raw(place: str) -> Any:
    return json.loads(skopeo("inspect", "--raw", "--tls-verify=false", place))


@pytest.mark.parametrize(("compression", "types", "shape"), FORMS)
def test_every_form_makes_the_round_trip(
    pybuild: Pybuild,
    registry: RealRegistry,
    folder: Path,
    compression: str,
    types: str,
    shape: str,
) -> None:
    name = f"{registry.host}/{compression}/{types}/{shape}"
    platforms = "linux/amd64" if shape == "single" else "linux/amd64,linux/arm64"
    form = f"compression={compression},oci-mediatypes={'true' if types == 'oci' else 'false'}"
    options = ["--platform", platforms, "--provenance=false", "-t", f"{name}:ours"]
    pybuild("build", *options, "-o", f"type=image,push=true,{form}", folder)
    own = pybuild("inspect", "-f", "{{.Id}}", f"{name}:ours").stdout

    found = raw(f"docker://{name}:ours")
    assert ("manifests" in found) == (shape == "index")
    assert ("oci" in found["mediaType"]) == (types == "oci")
    copied = f"dir:{pybuild.directory}/copied"
    skopeo("copy", "--all", "--src-tls-verify=false", f"docker://{name}:ours", copied)
    for blob in (pybuild.directory / "copied").iterdir():
        if len(blob.name) == 64:
            assert hashlib.sha256(blob.read_bytes()).hexdigest() == blob.name
    config = json.loads(
        skopeo("inspect", "--config", "--tls-verify=false", f"docker://{name}:ours")
    )
    assert config["config"]["Labels"] == {"arch": "amd64"}

    skopeo("copy", "--all", "--dest-tls-verify=false", copied, f"docker://{name}:theirs")
    fresh = Pybuild(root=pybuild.directory / "fresh", directory=pybuild.directory)
    fresh("pull", f"{name}:theirs")
    assert fresh("inspect", "-f", "{{.Id}}", f"{name}:theirs").stdout == own
    fresh("export", "-o", "root.tar", f"{name}:theirs")
    tar = subprocess.run(
        ["tar", "-xOf", pybuild.directory / "root.tar", "a"], capture_output=True, check=True
    )
    assert tar.stdout == b"a" * 5000
    if shape == "index":
        fresh("pull", "--platform", "linux/arm64", f"{name}:theirs")
        label = ["inspect", "--platform", "linux/arm64", "-f", "{{.Config.Labels.arch}}"]
        assert fresh(*label, f"{name}:theirs").stdout == "arm64\n"


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_forms_that_skopeo_makes_are_pulled(
    pybuild: Pybuild, registry: RealRegistry, folder: Path, compression: str
) -> None:
    archive = pybuild.directory / "seed.tar"
    pybuild("build", "-o", f"type=oci,dest={archive}", "--provenance=false", folder)
    name = f"{registry.host}/made/{compression}:1"
    options = ["--dest-tls-verify=false", f"--dest-compress-format={compression}", "--format=oci"]
    skopeo("copy", *options, f"oci-archive:{archive}", f"docker://{name}")
    pybuild("pull", name)
    assert pybuild("inspect", "-f", "{{.Config.Labels.arch}}", name).stdout == "amd64\n"


def test_all_tags_are_pulled_and_pushed(
    pybuild: Pybuild, registry: RealRegistry, folder: Path, tmp_path: Path
) -> None:
    name = f"{registry.host}/tags"
    pybuild("build", "-t", f"{name}:1", "-t", f"{name}:2", folder)
    pushed = pybuild("push", "--all-tags", name).stdout
    assert f"The push refers to repository [{name}]" in pushed
    assert "1: digest: sha256:" in pushed
    assert "2: digest: sha256:" in pushed
    assert "Layer already exists" in pybuild("push", f"{name}:1").stdout
    fresh = Pybuild(root=tmp_path / "fresh", directory=tmp_path)
    fresh("pull", "-q", "--all-tags", name)
    assert {line.split()[1] for line in fresh("images").stdout.splitlines()[1:]} == {"1", "2"}
    assert "tag can't be used" in fresh("pull", "-a", f"{name}:1", status=2).stderr
