"""Provenance and bills of materials, read back from what was written."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Pybuild

pytestmark = pytest.mark.sandbox

STATUS = "Package: fixed\nStatus: install ok installed\nVersion: 1.2-3\nArchitecture: amd64\n"
DOCKERFILE = "FROM busybox\nCOPY status /var/lib/dpkg/status\nARG WORD\nRUN echo $WORD\n"


def document(layout: Path, digest: str) -> Any:
    return json.loads((layout / "blobs/sha256" / digest.partition(":")[2]).read_bytes())


def statements(layout: Path) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """The index, the attestation manifest, and statements by predicate type."""
    (top,) = json.loads((layout / "index.json").read_bytes())["manifests"]
    index = document(layout, top["digest"])
    image, entry = index["manifests"]
    assert entry["platform"] == {"architecture": "unknown", "os": "unknown"}
    assert entry["annotations"] == {
        "vnd.docker.reference.digest": image["digest"],
        "vnd.docker.reference.type": "attestation-manifest",
    }
    manifest = document(layout, entry["digest"])
    found = {}
    for layer in manifest["layers"]:
        assert layer["mediaType"] == "application/vnd.in-toto+json"
        said = document(layout, layer["digest"])
        assert said["predicateType"] == layer["annotations"]["in-toto.io/predicate-type"]
        assert said["subject"][0]["digest"]["sha256"] == image["digest"].partition(":")[2]
        found[said["predicateType"]] = said["predicate"]
    return index, manifest, found


@pytest.fixture
def attested(busybox: Pybuild, context: Callable[..., Path]) -> Callable[..., Path]:
    folder = context(DOCKERFILE, {"status": STATUS})

    def build(*options: str, attributes: str = "") -> Path:
        target = folder.parent / "layout"
        output = f"type=oci,tar=false,dest={target}{attributes}"
        busybox("build", *options, "-t", "attested", "-o", output, folder)
        return target

    return build


def test_provenance_and_materials_stand_in_the_index(attested: Callable[..., Path]) -> None:
    layout = attested("--provenance=mode=max", "--sbom=true", "--build-arg=WORD=hello")
    _, manifest, found = statements(layout)
    assert manifest["artifactType"] == "application/vnd.docker.attestation.manifest.v1+json"
    assert manifest["config"]["mediaType"] == "application/vnd.oci.empty.v1+json"
    built = found["https://slsa.dev/provenance/v1"]["buildDefinition"]
    assert built["externalParameters"]["request"]["args"] == {"build-arg:WORD": "hello"}
    (base,) = built["resolvedDependencies"]
    assert base["uri"].startswith("pkg:docker/busybox@latest?platform=linux%2F")
    names = [item["name"] for item in found["https://spdx.dev/Document"]["packages"]]
    assert "fixed" in names


def test_minimal_provenance_holds_no_arguments(attested: Callable[..., Path]) -> None:
    _, _, found = statements(attested("--provenance=mode=min", "--build-arg=WORD=hello"))
    assert list(found) == ["https://slsa.dev/provenance/v1"]
    assert "hello" not in json.dumps(found)


def test_the_older_form_is_an_image_manifest(attested: Callable[..., Path]) -> None:
    layout = attested("--sbom=true", attributes=",oci-artifact=false")
    _, manifest, _ = statements(layout)
    assert "artifactType" not in manifest
    config = document(layout, manifest["config"]["digest"])
    assert config["rootfs"]["diff_ids"] == [layer["digest"] for layer in manifest["layers"]]


def test_nothing_is_attested_unless_asked_for(attested: Callable[..., Path]) -> None:
    for options in ((), ("--provenance=false",), ("--attest=type=sbom,disabled=true",)):
        (top,) = json.loads((attested(*options) / "index.json").read_bytes())["manifests"]
        assert top["mediaType"] == "application/vnd.oci.image.manifest.v1+json"


@pytest.mark.requires("skopeo")
def test_other_programs_read_the_index(attested: Callable[..., Path], tmp_path: Path) -> None:
    layout = attested("--provenance=true", "--sbom=true")
    words = ["skopeo", "copy", "--all", f"oci:{layout}:latest", f"oci:{tmp_path}/copy:x"]
    subprocess.run(words, check=True, capture_output=True)
    assert statements(tmp_path / "copy")[2].keys() == statements(layout)[2].keys()


def test_files_stand_beside_a_plain_tree_and_follow_no_link(
    busybox: Pybuild, context: Callable[..., Path], tmp_path: Path
) -> None:
    victim = tmp_path / "victim"
    victim.write_text("safe")
    folder = context(f"FROM busybox\nRUN ln -s {victim} /sbom.spdx.json\n")
    busybox("build", "--sbom=true", "--provenance=true", "-o", str(tmp_path / "out"), folder)
    assert victim.read_text() == "safe"
    for name in ("sbom.spdx.json", "provenance.json"):
        assert json.loads((tmp_path / "out" / name).read_bytes())["_type"].startswith(
            "https://in-"
        )


def test_wrong_parameters_are_refused(busybox: Pybuild, context: Callable[..., Path]) -> None:
    folder = context("FROM scratch\n")
    for option, text in (
        ("--provenance=mode=most", 'invalid mode "most"'),
        ("--attest=type=other", 'unknown attestation type "other"'),
        ("--sbom=generator=x", "scanner images are not run yet"),
    ):
        assert text in busybox("build", option, folder, status=2).stderr
