"""What a build says of its images, if it was asked to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from buildkit_py.attest.options import AttestOptions, parse_attest
from buildkit_py.exporters.base import Attestation

if TYPE_CHECKING:
    from buildkit_py.attest.provenance import BuildFacts
    from buildkit_py.engine.build import BuildEnvironment
    from buildkit_py.engine.request import BuildRequest
    from buildkit_py.lower import LoweredImage
    from buildkit_py.source import SourceFile
    from buildkit_py.store import Store

_TOOL = "pybuild"


def facts_of(
    request: BuildRequest, env: BuildEnvironment, dockerfile: SourceFile, ref: str, started: float
) -> BuildFacts:
    """What is said of this build. Secrets and agents are named only."""
    from buildkit_py.attest.provenance import BuildFacts  # noqa: PLC0415

    return BuildFacts(
        ref=ref,
        started=started,
        finished=env.clock(),
        platform=str(env.host),
        dockerfile=dockerfile.name,
        text=dockerfile.text,
        target=request.target or "",
        arguments=request.build_args,
        labels=request.labels,
        secrets=tuple(item.id for item in request.secrets),
        ssh=tuple(item.id for item in request.ssh),
        builder_id=parse_attest(request.provenance, request.sbom, request.attest).builder_id,
    )


def asked(request: BuildRequest) -> AttestOptions | None:
    """What to attest; None for nothing. Raises UsageError."""
    if request.provenance is None and request.sbom is None and not request.attest:
        return None
    found = parse_attest(request.provenance, request.sbom, request.attest)
    return found if found.provenance or found.sbom else None


def attest(
    store: Store,
    image: LoweredImage,
    snapshot: int | None,
    options: AttestOptions,
    facts: BuildFacts,
) -> tuple[Attestation, ...]:
    """The attestations of one image."""
    out = []
    if options.sbom:
        from buildkit_py.attest.sbom import SPDX_TYPE, spdx_document  # noqa: PLC0415
        from buildkit_py.inspection.packages import find_packages  # noqa: PLC0415
        from buildkit_py.layers.tree import MergedTree  # noqa: PLC0415

        packages = find_packages(MergedTree(store.snapshots.directories(snapshot)))
        document = spdx_document(
            packages,
            name="image",
            namespace=f"urn:pybuild:{facts.ref}:{image.platform}",
            created=image.settled if image.settled is not None else facts.started,
            tool=_TOOL,
        )
        out.append(Attestation(predicate_type=SPDX_TYPE, predicate=document))
    if options.provenance:
        from buildkit_py.attest.provenance import PROVENANCE_TYPE, provenance  # noqa: PLC0415

        document = provenance(
            facts, image.graph.vertices.values(), full=options.provenance == "max"
        )
        out.append(Attestation(predicate_type=PROVENANCE_TYPE, predicate=document))
    return tuple(out)
