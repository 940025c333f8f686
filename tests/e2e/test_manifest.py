"""Lists of images of several platforms, made by hand, and what skopeo reads of them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Pybuild
from tests.registries import RealRegistry, real_registry

pytestmark = pytest.mark.requires("docker-registry", "skopeo")


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealRegistry]:
    with real_registry(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture
def images(pybuild: Pybuild, context: Callable[..., Path]) -> Pybuild:
    """`app:amd64` and `app:arm64`, of one file each."""
    for name in ("amd64", "arm64"):
        folder = context("FROM scratch\nCOPY file /\n", {"file": name})
        pybuild("build", "--platform", f"linux/{name}", "-t", f"app:{name}", folder)
    return pybuild


def raw(registry: RealRegistry, name: str) -> Any:
    command = ["skopeo", "--insecure-policy", "inspect", "--raw", "--tls-verify=false"]
    place = f"docker://{registry.host}/{name}"
    done = subprocess.run([*command, place], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def architectures(index: Any) -> list[str]:
    return [item["platform"]["architecture"] for item in index["manifests"]]


def test_a_list_of_local_images_is_pushed_with_them(
    images: Pybuild, registry: RealRegistry
) -> None:
    name = f"{registry.host}/made:1"
    assert images("manifest", "create", name, "app:arm64", "app:amd64").stdout.startswith(
        "Created manifest list"
    )
    said = images("manifest", "push", name).stdout.splitlines()[-1]
    index = raw(registry, "made:1")
    assert architectures(index) == ["arm64", "amd64"]
    assert said == images("pull", name).stdout.splitlines()[-3].removeprefix("Digest: ")


def test_entries_are_annotated_replaced_and_removed(
    images: Pybuild, registry: RealRegistry
) -> None:
    name = f"{registry.host}/edited:1"
    images("manifest", "create", name, "app:amd64")
    images("manifest", "add", "--arch=arm", "--variant=v6", name, "app:arm64")
    images("manifest", "annotate", "--annotation=note=entry", name, "app:arm64")
    images("manifest", "annotate", "--annotation=note=whole", name)
    images("manifest", "annotate", "--os-features=sse4,avx", name, "app:arm64")
    shown = json.loads(images("manifest", "inspect", name).stdout)
    assert shown["annotations"] == {"note": "whole"}
    entry = shown["manifests"][1]
    assert entry["annotations"] == {"note": "entry"}
    assert entry["platform"] == {
        "architecture": "arm",
        "os": "linux",
        "os.features": ["sse4", "avx"],
        "variant": "v6",
    }
    images("index", "remove", name, "app:amd64")
    images("manifest", "push", "--purge", name)
    index = raw(registry, "edited:1")
    assert [item["platform"] for item in index["manifests"]] == [entry["platform"]]
    assert index["annotations"] == {"note": "whole"}
    images("manifest", "exists", name, status=1)


def test_images_of_a_registry_are_listed_without_being_fetched(
    images: Pybuild, registry: RealRegistry, tmp_path: Path
) -> None:
    for arch in ("amd64", "arm64"):
        images("tag", f"app:{arch}", f"{registry.host}/one:{arch}")
        images("push", f"{registry.host}/one:{arch}")
    fresh = Pybuild(root=tmp_path / "fresh", directory=tmp_path)
    name = f"{registry.host}/elsewhere/both:1"
    sources = [f"docker://{registry.host}/one:{arch}" for arch in ("amd64", "arm64")]
    fresh("manifest", "create", name)
    fresh("manifest", "add", name, *sources)
    assert "Mounted from one" in fresh("manifest", "push", name).stdout
    entries = raw(registry, "elsewhere/both:1")["manifests"]
    digests = {item["digest"] for item in entries}
    for arch in ("amd64", "arm64"):
        shown = images("inspect", "-f", "{{json .RepoDigests}}", f"app:{arch}").stdout
        assert any(item.partition("@")[2] in digests for item in json.loads(shown))


def test_a_build_of_two_platforms_is_a_list_and_keeps_its_digest_when_pushed_later(
    images: Pybuild, registry: RealRegistry, context: Callable[..., Path]
) -> None:
    folder = context("FROM scratch\nCOPY file /\n", {"file": "x"})
    name = f"{registry.host}/built:1"
    note = "--annotation=index:team=red"
    options = ["--platform", "linux/arm64,linux/amd64", "--provenance=false", "-t", name, note]
    images("build", *options, "--metadata-file=facts.json", "--push", folder)
    facts = json.loads((images.directory / "facts.json").read_text())
    images("build", *options, folder)
    images("tag", name, f"{registry.host}/later:1")
    said = images("push", f"{registry.host}/later:1").stdout
    assert facts["containerimage.digest"] in said
    assert architectures(raw(registry, "later:1")) == ["arm64", "amd64"]
    assert raw(registry, "later:1")["annotations"] == {"team": "red"}


def test_wrong_uses_are_one_clear_error(images: Pybuild, registry: RealRegistry) -> None:
    assert "unknown verb" in images("manifest", "made", "x", status=2).stderr
    assert "no such manifest list" in images("manifest", "push", "no:1", status=1).stderr
    assert "exists already" in images("manifest", "create", "app:amd64", status=2).stderr
    images("manifest", "create", "mine", "app:amd64")
    wrong = images("manifest", "annotate", "mine", "app:arm64", status=1)
    assert "has no image called app:arm64" in wrong.stderr
    missing = images("manifest", "add", "mine", f"docker://{registry.host}/nothing:1", status=1)
    assert "not found" in missing.stderr
