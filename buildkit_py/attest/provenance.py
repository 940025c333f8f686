"""SLSA provenance, versions 1 and 0.2: what an image was built from, and how.

Both say the same in other places; the names are those of BuildKit's `slsa-definitions.md`.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from buildkit_py.graph import ExecOp, GitOp, HttpOp, ImageOp, Vertex, op_to_json
from buildkit_py.oci.config import rfc3339
from buildkit_py.oci.reference import parse_reference

PROVENANCE_TYPES = {
    "v1": "https://slsa.dev/provenance/v1",
    "v0.2": "https://slsa.dev/provenance/v0.2",
}
BUILD_TYPE = "https://github.com/moby/buildkit/blob/master/docs/attestations/slsa-definitions.md"
_USER = re.compile(r"\b([A-Za-z][A-Za-z0-9+.-]*://)[^/@:\s]*:[^/@\s]*@")
_OLD_BUILD_TYPE = "https://mobyproject.org/buildkit@v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildFacts:
    """What is said of a build. Values of secrets never are; `max` adds arguments and steps."""

    ref: str
    started: float
    finished: float
    platform: str
    dockerfile: str
    text: str
    target: str = ""
    arguments: Mapping[str, str | None] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    secrets: tuple[str, ...] = ()
    ssh: tuple[str, ...] = ()
    builder_id: str = ""
    reproducible: bool = False
    source: Mapping[str, str] = field(default_factory=dict)  # of a remote context: url, commit
    fetched: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # by vertex digest
    vcs: Mapping[str, str] = field(default_factory=dict)  # of the checkout of a local context


def provenance(
    facts: BuildFacts, vertices: Iterable[Vertex], *, full: bool, version: str = "v1"
) -> dict[str, Any]:
    """The predicate."""
    steps = list(vertices)
    materials, complete = _materials(steps, facts)
    said = _Said(
        request=_request(facts, full=full),
        steps={"llbDefinition": [_step(number, steps) for number in range(len(steps))]}
        if full
        else {},
        metadata=_metadata(facts, steps, full=full),
        config_source=_config_source(facts),
        materials=materials,
        complete=complete,
        hermetic=complete and not any(_uses_network(step) for step in steps),
        whole=full or not (facts.arguments or facts.labels),
    )
    return _version_1(facts, said) if version == "v1" else _version_02(facts, said)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Said:
    request: dict[str, Any]
    steps: dict[str, Any]
    metadata: dict[str, Any]
    config_source: dict[str, Any]
    materials: list[dict[str, Any]]
    complete: bool
    hermetic: bool
    whole: bool


def layers_path(version: str) -> tuple[str, ...]:
    """Where in a predicate the layers of its steps stand."""
    if version == "v1":
        return ("runDetails", "metadata", "buildkit_metadata", "layers")
    return ("metadata", f"{_OLD_BUILD_TYPE}#metadata", "layers")


def _version_1(facts: BuildFacts, said: _Said) -> dict[str, Any]:
    internal: dict[str, Any] = {"builderPlatform": facts.platform}
    if said.steps:
        internal["buildConfig"] = said.steps
    metadata: dict[str, Any] = {
        "invocationId": facts.ref,
        "startedOn": rfc3339(int(facts.started)),
        "finishedOn": rfc3339(int(facts.finished)),
        "buildkit_completeness": {
            "request": said.whole,
            "resolvedDependencies": said.complete,
        },
    }
    if said.hermetic:
        metadata["buildkit_hermetic"] = True
    if facts.reproducible:
        metadata["buildkit_reproducible"] = True
    if said.metadata:
        metadata["buildkit_metadata"] = said.metadata
    return {
        "buildDefinition": {
            "buildType": BUILD_TYPE,
            "externalParameters": {
                "configSource": said.config_source,
                "request": said.request,
            },
            "internalParameters": internal,
            "resolvedDependencies": said.materials,
        },
        "runDetails": {"builder": {"id": facts.builder_id}, "metadata": metadata},
    }


def _version_02(facts: BuildFacts, said: _Said) -> dict[str, Any]:
    source = dict(said.config_source)
    if "path" in source:
        source["entryPoint"] = source.pop("path")
    metadata: dict[str, Any] = {
        "buildInvocationID": facts.ref,
        "buildStartedOn": rfc3339(int(facts.started)),
        "buildFinishedOn": rfc3339(int(facts.finished)),
        "completeness": {
            "parameters": said.whole,
            "environment": True,
            "materials": said.complete,
        },
        "reproducible": facts.reproducible,
    }
    if said.hermetic:
        metadata["completeness"][f"{_OLD_BUILD_TYPE}#hermetic"] = True
    if said.metadata:
        metadata[f"{_OLD_BUILD_TYPE}#metadata"] = said.metadata
    out: dict[str, Any] = {
        "builder": {"id": facts.builder_id},
        "buildType": _OLD_BUILD_TYPE,
        "materials": said.materials,
        "invocation": {
            "configSource": source,
            "parameters": said.request,
            "environment": {"platform": facts.platform},
        },
        "metadata": metadata,
    }
    if said.steps:
        out["buildConfig"] = said.steps
    return out


# ------------------------------------------------------------------ parts
def _request(facts: BuildFacts, *, full: bool) -> dict[str, Any]:
    request: dict[str, Any] = {"frontend": "dockerfile.v0", "locals": [{"name": "context"}]}
    arguments = {"target": facts.target} if facts.target else {}
    if full:
        arguments |= {f"build-arg:{name}": value or "" for name, value in facts.arguments.items()}
        arguments |= {f"label:{name}": value for name, value in facts.labels.items()}
        request["secrets"] = [{"id": name, "optional": True} for name in facts.secrets]
        request["ssh"] = [{"id": name, "optional": True} for name in facts.ssh]
    request["args"] = arguments
    if facts.source:
        del request["locals"]
    return request


def _config_source(facts: BuildFacts) -> dict[str, Any]:
    out: dict[str, Any] = {"path": facts.dockerfile}
    url, commit, digest = (facts.source.get(key, "") for key in ("url", "commit", "digest"))
    if url:
        out["uri"] = redacted(url)
    if commit:
        out["digest"] = {_git_algorithm(commit): commit}
    elif digest:
        out["digest"] = _digest(digest)
    return out


def _metadata(facts: BuildFacts, vertices: list[Vertex], *, full: bool) -> dict[str, Any]:
    out: dict[str, Any] = {"vcs": dict(facts.vcs)} if facts.vcs else {}
    return out | {"source": _source(facts, vertices)} if full else out


def _uses_network(vertex: Vertex) -> bool:
    return isinstance(vertex.op, ExecOp) and vertex.op.network != "none"


def _source(facts: BuildFacts, vertices: list[Vertex]) -> dict[str, Any]:
    """The Dockerfile, and the lines of it that each step came from."""
    locations = {}
    for number, vertex in enumerate(vertices):
        span = vertex.options.span
        if span is not None:
            lines = {"start": {"line": span.start.line}, "end": {"line": span.end.line}}
            locations[f"step{number}"] = {"locations": [{"ranges": [lines]}]}
    data = base64.b64encode(facts.text.encode("utf-8", "surrogateescape")).decode()
    info = {"filename": facts.dockerfile, "language": "Dockerfile", "data": data}
    return {"locations": locations, "infos": [info]}


def _materials(vertices: list[Vertex], facts: BuildFacts) -> tuple[list[dict[str, Any]], bool]:
    """What came from outside, by URI; and whether that is all (a local context has no URI)."""
    found: dict[str, dict[str, Any]] = {}
    complete = True
    for vertex in vertices:
        op, known = vertex.op, facts.fetched.get(vertex.digest, {})
        if isinstance(op, ImageOp):
            platform = "" if vertex.options.platform is None else str(vertex.options.platform)
            uri = image_purl(op.reference, platform)
            found[uri] = {"uri": uri, "digest": _digest(op.named or op.digest)}
        elif isinstance(op, HttpOp):
            digest = known.get("digest") or op.checksum or ""
            uri = redacted(op.url)
            found[uri] = {"uri": uri, "digest": _digest(digest)}
        elif isinstance(op, GitOp):
            commit = known.get("commit", "")
            uri = redacted(op.remote) + (f"#{op.ref}" if op.ref else "")
            found[uri] = {"uri": uri, "digest": {_git_algorithm(commit): commit}}
        elif not vertex.inputs:
            complete = complete and bool(facts.source)
    if facts.source.get("url"):
        source = _config_source(facts)
        found[source["uri"]] = {"uri": source["uri"], "digest": source.get("digest", {})}
    return [found[uri] for uri in sorted(found)], complete


def redacted(text: str) -> str:
    """Text whose URLs have no user's name and password."""
    return _USER.sub(r"\1xxxxx:xxxxx@", text)


def _digest(text: str) -> dict[str, str]:
    algorithm, _, value = text.partition(":")
    return {algorithm: value} if value else {}


def _git_algorithm(commit: str) -> str:
    return "sha1" if len(commit) == 40 else "sha256"


def image_purl(name: str, platform: str = "") -> str:
    """A package URL of an image: `pkg:docker/debian@bookworm?platform=linux%2Famd64`."""
    reference = parse_reference(name, default_tag=None)
    version = reference.tag or reference.digest or ""
    text = f"pkg:docker/{reference.familiar_repository}" + (f"@{version}" if version else "")
    return text + (f"?platform={quote(platform, safe='')}" if platform else "")


def _step(number: int, vertices: list[Vertex]) -> dict[str, Any]:
    vertex = vertices[number]
    numbers = {item.digest: f"step{index}:0" for index, item in enumerate(vertices)}
    return {
        "id": f"step{number}",
        "digest": vertex.digest,
        "name": redacted(vertex.options.name),
        "op": {
            key: redacted(value) if key in {"url", "remote"} else value
            for key, value in op_to_json(vertex.op).items()
        },
        "inputs": ["" if item is None else numbers.get(item.digest, "") for item in vertex.inputs],
    }
