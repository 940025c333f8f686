"""SLSA provenance, version 1: what an image was built from, and how."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from buildkit_py.graph import ImageOp, Vertex, op_to_json
from buildkit_py.oci.config import rfc3339
from buildkit_py.oci.reference import parse_reference

PROVENANCE_TYPE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "https://github.com/moby/buildkit/blob/master/docs/attestations/slsa-definitions.md"


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


def provenance(facts: BuildFacts, vertices: Iterable[Vertex], *, full: bool) -> dict[str, Any]:
    """The predicate."""
    steps = list(vertices)
    request: dict[str, Any] = {"frontend": "dockerfile.v0", "locals": [{"name": "context"}]}
    arguments = {"target": facts.target} if facts.target else {}
    if full:
        arguments |= {f"build-arg:{name}": value or "" for name, value in facts.arguments.items()}
        arguments |= {f"label:{name}": value for name, value in facts.labels.items()}
        request["secrets"] = [{"id": name, "optional": True} for name in facts.secrets]
        request["ssh"] = [{"id": name, "optional": True} for name in facts.ssh]
    request["args"] = arguments
    internal: dict[str, Any] = {"builderPlatform": facts.platform}
    if full:
        internal["buildConfig"] = {"llbDefinition": [_step(vertex) for vertex in steps]}
    metadata: dict[str, Any] = {
        "invocationId": facts.ref,
        "startedOn": rfc3339(int(facts.started)),
        "finishedOn": rfc3339(int(facts.finished)),
        "buildkit_completeness": {"request": full, "resolvedDependencies": False},
    }
    if full:
        data = base64.b64encode(facts.text.encode("utf-8", "surrogateescape")).decode()
        source = {"filename": facts.dockerfile, "language": "Dockerfile", "data": data}
        metadata["buildkit_metadata"] = {"source": {"infos": [source]}}
    return {
        "buildDefinition": {
            "buildType": BUILD_TYPE,
            "externalParameters": {
                "configSource": {"path": facts.dockerfile},
                "request": request,
            },
            "internalParameters": internal,
            "resolvedDependencies": _dependencies(steps),
        },
        "runDetails": {"builder": {"id": facts.builder_id}, "metadata": metadata},
    }


def _dependencies(vertices: list[Vertex]) -> list[dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for vertex in vertices:
        if isinstance(vertex.op, ImageOp):
            platform = "" if vertex.options.platform is None else str(vertex.options.platform)
            uri = image_purl(vertex.op.reference, platform)
            algorithm, _, value = vertex.op.digest.partition(":")
            found[uri] = {"uri": uri, "digest": {algorithm: value}}
    return [found[uri] for uri in sorted(found)]


def image_purl(name: str, platform: str = "") -> str:
    """A package URL of an image: `pkg:docker/debian@bookworm?platform=linux%2Famd64`."""
    reference = parse_reference(name, default_tag=None)
    version = reference.tag or reference.digest or ""
    text = f"pkg:docker/{reference.familiar_repository}" + (f"@{version}" if version else "")
    return text + (f"?platform={platform.replace('/', '%2F')}" if platform else "")


def _step(vertex: Vertex) -> dict[str, Any]:
    return {
        "id": vertex.digest,
        "name": vertex.options.name,
        "op": op_to_json(vertex.op),
        "inputs": ["" if item is None else item.digest for item in vertex.inputs],
    }
