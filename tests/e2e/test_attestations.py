"""Provenance and bills of materials, read back from what was written."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Pybuild
from tests.registries import Answer, ScriptedServer

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
    steps = built["internalParameters"]["buildConfig"]["llbDefinition"]
    named = [step["name"].partition("@sha256:")[2] for step in steps]
    assert base["digest"]["sha256"] in named
    names = [item["name"] for item in found["https://spdx.dev/Document"]["packages"]]
    assert "fixed" in names


def test_full_provenance_names_the_layers_of_steps_and_the_checkout(
    attested: Callable[..., Path],
) -> None:
    folder = attested().parent
    subprocess.run(["git", "init", "-q", folder], check=True)
    layout = attested("--provenance=mode=max")
    index, _, found = statements(layout)
    layers = document(layout, index["manifests"][0]["digest"])["layers"]
    details = found["https://slsa.dev/provenance/v1"]["runDetails"]["metadata"]
    chains = [chain for (chain,) in details["buildkit_metadata"]["layers"].values()]
    assert layers in chains
    assert all(chain == layers[: len(chain)] for chain in chains)
    assert details["buildkit_metadata"]["vcs"]["localdir:context"] == "context"
    assert details["buildkit_completeness"]["request"] is True


@pytest.mark.parametrize(("flag", "hermetic"), [("--network=none ", True), ("", None)])
def test_a_build_that_reaches_nothing_is_hermetic(
    busybox: Pybuild, context: Callable[..., Path], flag: str, hermetic: bool | None
) -> None:
    folder = context(f"FROM busybox\nRUN {flag}true\n")
    output = "type=oci,tar=false,dest=layout"
    busybox("build", "--provenance=version=v1", "-o", output, folder)
    _, _, found = statements(busybox.directory / "layout")
    details = found["https://slsa.dev/provenance/v1"]["runDetails"]["metadata"]
    assert details.get("buildkit_hermetic") is hermetic


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
        said = json.loads((tmp_path / "out" / name).read_bytes())
        assert said["_type"].startswith("https://in-")
        digests = {item["name"]: item["digest"]["sha256"] for item in said["subject"]}
        content = (tmp_path / "out" / "bin" / "busybox").read_bytes()
        assert digests["bin/busybox"] == hashlib.sha256(content).hexdigest()


def test_wrong_parameters_are_refused(busybox: Pybuild, context: Callable[..., Path]) -> None:
    folder = context("FROM scratch\n")
    for option, text in (
        ("--provenance=mode=most", 'invalid mode "most"'),
        ("--attest=type=other", 'unknown attestation type "other"'),
        ("--attest=mode=min", "attestation type not specified"),
        ("--provenance=version=v2", "invalid provenance SLSA version: v2"),
        ("--provenance=mod=min", 'unknown provenance attribute "mod" (did you mean mode?)'),
        ("--provenance=reproducible=perhaps", 'invalid value "perhaps" of reproducible'),
        ("--provenance=filename=../x", 'invalid file name "../x"'),
    ):
        assert text in busybox("build", option, folder, status=2).stderr


def test_the_older_provenance_says_the_same_in_other_places(
    attested: Callable[..., Path],
) -> None:
    options = "--provenance=mode=max,version=v0.2,builder-id=https://me,reproducible=true"
    _, _, found = statements(attested(options, "--build-arg=WORD=hello"))
    (said,) = found.values()
    assert list(found) == ["https://slsa.dev/provenance/v0.2"]
    assert said["buildType"] == "https://mobyproject.org/buildkit@v1"
    assert said["builder"]["id"] == "https://me"
    assert said["invocation"]["parameters"]["args"] == {"build-arg:WORD": "hello"}
    assert said["invocation"]["configSource"] == {"entryPoint": "Dockerfile"}
    assert said["metadata"]["reproducible"] is True
    assert said["metadata"]["completeness"] == {
        "parameters": True,
        "environment": True,
        "materials": False,
    }
    assert said["materials"][0]["uri"].startswith("pkg:docker/busybox@latest")
    steps = said["buildConfig"]["llbDefinition"]
    assert {name for step in steps for name in step["inputs"]} <= {
        f"step{number}:0" for number in range(len(steps))
    }
    source = said["metadata"]["https://mobyproject.org/buildkit@v1#metadata"]["source"]
    lines = [item["locations"][0]["ranges"][0] for item in source["locations"].values()]
    assert {"start": {"line": 4}, "end": {"line": 4}} in lines


def test_provenance_beside_a_tree_has_the_name_asked_for_or_is_not_there(
    busybox: Pybuild, context: Callable[..., Path]
) -> None:
    folder = context("FROM busybox\n")
    busybox("build", "--provenance=filename=made.json", "-o", "named", folder)
    busybox("build", "--provenance=inline-only=true", "-o", "inline", folder)
    assert (busybox.directory / "named" / "made.json").exists()
    assert not (busybox.directory / "named" / "provenance.json").exists()
    assert not (busybox.directory / "inline" / "provenance.json").exists()


def test_passwords_in_addresses_are_not_written(
    busybox: Pybuild, context: Callable[..., Path]
) -> None:
    with ScriptedServer(lambda _: Answer(body=b"data")) as server:
        folder = context(f"FROM scratch\nADD http://me:hidden@{server.host}/file /\n")
        busybox("build", "--provenance=mode=max", "-o", "out", folder)
    text = (busybox.directory / "out" / "provenance.json").read_text()
    predicate = json.loads(text)["predicate"]
    (material,) = predicate["buildDefinition"]["resolvedDependencies"]
    assert material == {
        "uri": f"http://xxxxx:xxxxx@{server.host}/file",
        "digest": {"sha256": hashlib.sha256(b"data").hexdigest()},
    }
    assert "hidden" not in text.replace(predicate_source(predicate), "")


def predicate_source(predicate: Any) -> str:
    """The Dockerfile itself, which stands in full provenance as it is."""
    metadata = predicate["runDetails"]["metadata"]["buildkit_metadata"]
    data: str = metadata["source"]["infos"][0]["data"]
    return data


SCANNED = """\
ARG BUILDKIT_SBOM_SCAN_CONTEXT=true
FROM busybox AS tools
ARG BUILDKIT_SBOM_SCAN_STAGE=true
COPY status /var/lib/dpkg/status
FROM busybox
COPY package.json /node_modules/left-pad/package.json
COPY --from=tools /bin/sh /tool
"""


def test_stages_and_the_context_are_scanned_where_arguments_say_so(
    busybox: Pybuild, context: Callable[..., Path]
) -> None:
    package = json.dumps({"name": "left-pad", "version": "1.0", "license": "WTFPL"})
    folder = context(SCANNED, {"status": STATUS, "package.json": package})
    busybox("build", "--sbom=true", "-o", "out", folder)
    found = {}
    for name in ("sbom", "sbom-tools", "sbom-context"):
        said = json.loads((busybox.directory / "out" / f"{name}.spdx.json").read_bytes())
        packages = said["predicate"]["packages"]
        found[name] = {(item["name"], item.get("licenseDeclared")) for item in packages[1:]}
    assert found == {
        "sbom": {("left-pad", "WTFPL")},
        "sbom-tools": {("fixed", "NOASSERTION")},
        "sbom-context": set(),
    }


SCANNER = """\
FROM busybox
COPY scan /scan
ENTRYPOINT ["/bin/sh", "/scan"]
"""
SCAN = """\
for place in $BUILDKIT_SCAN_SOURCE ${BUILDKIT_SCAN_SOURCE_EXTRAS:-/none}/*; do
  [ -d $place ] || continue
  touch $place/x 2>/dev/null && exit 3
  out=$BUILDKIT_SCAN_DESTINATION/$(basename $place).spdx.json
  echo "{\\"predicateType\\": \\"https://spdx.dev/Document\\", \\"predicate\\": {\\"name\\":
    \\"$(cat $place/marker) $BUILDKIT_SCAN_FLAVOUR\\"}}" > $out
done
"""


def test_a_scanner_image_is_run_by_its_protocol(
    busybox: Pybuild, context: Callable[..., Path]
) -> None:
    busybox("build", "-t", "scanner", context(SCANNER, {"scan": SCAN}))
    folder = context(
        "FROM busybox AS tools\nARG BUILDKIT_SBOM_SCAN_STAGE=true\nRUN echo of tools > /marker\n"
        "FROM scratch\nCOPY marker /\nCOPY --from=tools /bin/sh /tool\n",
        {"marker": "of image"},
    )
    layout = busybox.directory / "layout"
    for output in (f"type=oci,tar=false,dest={layout}", "type=local,dest=out"):
        busybox("build", "--sbom=generator=scanner,FLAVOUR=sweet", "-o", output, folder)
    (top,) = json.loads((layout / "index.json").read_bytes())["manifests"]
    _, entry = document(layout, top["digest"])["manifests"]
    said = [
        document(layout, item["digest"]) for item in document(layout, entry["digest"])["layers"]
    ]
    assert sorted(item["predicate"]["name"] for item in said) == [
        "of image sweet",
        "of tools sweet",
    ]
    assert {item.name for item in (busybox.directory / "out").glob("*.json")} == {
        "sbom.spdx.json",
        "sbom-tools.spdx.json",
    }
    assert not (busybox.directory / "out" / "x").exists()


@pytest.mark.parametrize(
    ("script", "text"),
    [
        ("true", "wrote no /run/out/*.spdx.json"),
        ("echo x > $BUILDKIT_SCAN_DESTINATION/a.spdx.json", "a.spdx.json of the scanner scanner"),
        ("exit 7", "exit code: 7"),
    ],
)
def test_a_scanner_that_fails_is_named(
    busybox: Pybuild, context: Callable[..., Path], script: str, text: str
) -> None:
    busybox("build", "-t", "scanner", context(SCANNER, {"scan": script}))
    folder = context("FROM busybox\n")
    done = busybox("build", "--sbom=generator=scanner", "-o", "out", folder, status=1)
    assert text in done.stderr
    assert "internal error" not in done.stderr
