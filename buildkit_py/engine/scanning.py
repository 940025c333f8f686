"""Bills of materials by a scanner image, as BuildKit's `sbom-protocol.md` has it.

The scanner is an exec step like any other: what it scans is mounted below `/run/src`, and the
`*.spdx.json` files that it leaves in `/run/out` are the attestations. It runs on this machine's
platform whatever the image's, and is cached by what it is given.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from buildkit_py.errors import SolveError, UsageError
from buildkit_py.exporters.base import Attestation
from buildkit_py.graph import (
    BindMount,
    BuildGraph,
    ExecMount,
    ExecOp,
    FileOp,
    MakeDirectory,
    TmpfsMount,
    Vertex,
    VertexOptions,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from buildkit_py.attest.options import AttestOptions
    from buildkit_py.engine.workshop import Workshop
    from buildkit_py.layers.tree import Tree
    from buildkit_py.lower import LoweredImage

_SOURCES, _OUT = "/run/src", "/run/out"
_CORE = "sbom"
_SUFFIX = b".spdx.json"
_LIMIT = 40 << 20
_TYPES = ("https://spdx.dev/Document", "https://cyclonedx.org/bom")


def scan_by_image(
    shop: Workshop, image: LoweredImage, options: AttestOptions
) -> list[Attestation]:
    """Run the scanner over an image and the stages asked for. Raises SolveError, SourceError."""
    vertex = _scan(shop, image, options)
    solution = shop.solver(None).solve(BuildGraph(roots=(vertex,)), cancelled=shop.cancelled)
    found = list(_documents(shop.tree_of(solution[vertex.digest]), options.generator))
    if not found:
        raise SolveError(
            f"the scanner {options.generator} wrote no {_OUT}/*.spdx.json",
            hint="it must follow BuildKit's SBOM protocol, as docker/buildkit-syft-scanner does",
        )
    return found


def _scan(shop: Workshop, image: LoweredImage, options: AttestOptions) -> Vertex:
    host = shop.env.host
    pinned = shop.images.pin(options.generator, host, pull=shop.request.pull)
    config = pinned.config.config
    arguments = (*(config.entrypoint or ()), *(config.cmd or ()))
    if not arguments or pinned.op is None:
        raise UsageError(f"scanner {options.generator} does not have cmd")
    mounts: list[ExecMount] = [BindMount(target=f"{_SOURCES}/core/{_CORE}", input=1)]
    inputs: list[Vertex | None] = [image.root]
    for name, extra in image.scanned.items():
        inputs.append(extra)
        target = f"{_SOURCES}/extras/{_CORE}-{name}"
        mounts.append(BindMount(target=target, input=len(inputs)))
    mounts.append(TmpfsMount(target="/tmp"))  # noqa: S108 - in the scanner's root
    env = {
        "BUILDKIT_SCAN_DESTINATION": f"{_OUT}/",
        "BUILDKIT_SCAN_SOURCE": f"{_SOURCES}/core/{_CORE}",
    }
    if image.scanned:
        env["BUILDKIT_SCAN_SOURCE_EXTRAS"] = f"{_SOURCES}/extras"
    for key, value in options.parameters.items():
        env[f"BUILDKIT_SCAN_{key}"] = value
    given = [item for item in config.env if item.partition("=")[0] not in env]
    scanner = Vertex(op=pinned.op, options=VertexOptions(name=f"[internal] {options.generator}"))
    made = Vertex(
        op=FileOp(actions=(MakeDirectory(path=_OUT),)),
        inputs=(scanner,),
        options=VertexOptions(name="[internal] make room for what the scanner writes"),
    )
    return Vertex(
        op=ExecOp(
            arguments=arguments,
            env=(*given, *(f"{key}={value}" for key, value in sorted(env.items()))),
            cwd=config.working_dir or "/",
            user=config.user,
            mounts=tuple(mounts),
            platform=host,
        ),
        inputs=(made, *inputs),
        options=VertexOptions(
            name=f"[{image.platform}] generating sbom using {options.generator}",
            no_cache=shop.request.no_cache is True,
        ),
    )


def _documents(tree: Tree | None, scanner: str) -> Iterator[Attestation]:
    folder = None if tree is None else tree.lookup(_OUT)
    if tree is None or folder is None or not folder.is_dir:
        return
    for name, node in tree.children(folder):
        if not name.endswith(_SUFFIX) or not node.is_file:
            continue
        shown = os.fsdecode(name)
        with os.fdopen(tree.open(node), "rb") as file:
            data = file.read(_LIMIT + 1)
        if len(data) > _LIMIT:
            raise SolveError(f"{shown} of the scanner {scanner} has more than {_LIMIT} bytes")
        yield _attestation(shown, data, scanner)


def _attestation(name: str, data: bytes, scanner: str) -> Attestation:
    """A scan is an in-toto statement without subjects (BuildKit's way), or the bare document."""
    try:
        document: Any = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise SolveError(f"{name} of the scanner {scanner} is no JSON") from error
    if not isinstance(document, dict):
        raise SolveError(f"{name} of the scanner {scanner} is no JSON object")
    kind, predicate = document.get("predicateType"), document.get("predicate")
    if kind is None and "spdxVersion" in document:
        kind, predicate = _TYPES[0], document
    if kind not in _TYPES or not isinstance(predicate, dict):
        raise SolveError(f"{name} of the scanner {scanner} is no SPDX document: {kind}")
    return Attestation(predicate_type=kind, predicate=predicate, filename=name)
