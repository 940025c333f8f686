"""What a build says of its images, if it was asked to."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from buildkit_py.attest.options import AttestOptions, parse_attest
from buildkit_py.exporters.base import Attestation, BuiltImage

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from buildkit_py.attest.provenance import BuildFacts
    from buildkit_py.digest import Digest
    from buildkit_py.engine.inputs import BuildInputs
    from buildkit_py.engine.request import BuildRequest
    from buildkit_py.engine.workshop import Workshop
    from buildkit_py.graph import Vertex
    from buildkit_py.layers.tree import Tree
    from buildkit_py.lower import LoweredImage
    from buildkit_py.solver.solution import Solution

_TOOL = "pybuild"
_SBOM = "sbom"


def asked(request: BuildRequest) -> AttestOptions | None:
    """What to attest; None for nothing. Raises UsageError."""
    if request.provenance is None and request.sbom is None and not request.attest:
        return None
    found = parse_attest(request.provenance, request.sbom, request.attest)
    return found if found.provenance or found.sbom else None


def scanned_roots(request: BuildRequest, images: Sequence[LoweredImage]) -> list[Vertex]:
    """Stages that a bill of materials was asked for, besides the images: they are built too."""
    wanted = asked(request)
    if wanted is None or not wanted.sbom:
        return []
    return [vertex for image in images for vertex in image.scanned.values()]


@dataclass(frozen=True, slots=True, kw_only=True)
class Attestor:
    """What is known at the end of a build."""

    inputs: BuildInputs
    shop: Workshop
    solution: Solution
    lowered: tuple[LoweredImage, ...]
    ref: str
    started: float

    def attested(self, images: tuple[BuiltImage, ...]) -> tuple[BuiltImage, ...]:
        """The images with what is said of them. Raises SolveError if a scanner fails."""
        options = asked(self.shop.request)
        if options is None:
            return images
        facts = self._facts(options)
        return tuple(
            replace(built, attestations=self._attest(built, lowered, options, facts))
            for built, lowered in zip(images, self.lowered, strict=True)
        )

    def metadata(self) -> dict[str, object]:
        """What the result says of the build; provenance only for a file, as buildx has it."""
        out: dict[str, object] = {"buildx.build.ref": self.ref}
        request = self.shop.request
        mode = self.shop.env.environment.get("BUILDX_METADATA_PROVENANCE", "min").lower()
        if not request.metadata_file or mode not in {"min", "max"}:
            return out
        from buildkit_py.attest.provenance import provenance  # noqa: PLC0415

        options = parse_attest(request.provenance, request.sbom, request.attest)
        if not options.provenance and (request.provenance is not None or request.attest):
            return out
        facts = self._facts(options)
        full = "max" in {mode, options.provenance}
        for image in self.lowered:
            key = f"/{image.platform}" if len(self.lowered) > 1 else ""
            predicate = provenance(
                facts, image.graph.vertices.values(), full=full, version=options.version
            )
            out[f"buildx.build.provenance{key}"] = predicate
        return out

    def _attest(
        self,
        built: BuiltImage,
        lowered: LoweredImage,
        options: AttestOptions,
        facts: BuildFacts,
    ) -> tuple[Attestation, ...]:
        out: list[Attestation] = []
        if options.generator:
            from buildkit_py.engine.scanning import scan_by_image  # noqa: PLC0415

            out += scan_by_image(self.shop, lowered, options)
        elif options.sbom:
            out += self._bills(built, lowered)
        if options.provenance:
            from buildkit_py.attest.provenance import (  # noqa: PLC0415
                PROVENANCE_TYPES,
                layers_path,
                provenance,
            )

            full = options.provenance == "max"
            vertices = lowered.graph.vertices
            predicate = provenance(facts, vertices.values(), full=full, version=options.version)
            out.append(
                Attestation(
                    predicate_type=PROVENANCE_TYPES[options.version],
                    predicate=predicate,
                    filename=options.filename or "provenance.json",
                    inline_only=options.inline_only,
                    layers_path=layers_path(options.version),
                    steps=self._step_snapshots(vertices) if full else {},
                )
            )
        return tuple(out)

    def _step_snapshots(self, vertices: Mapping[Digest, Vertex]) -> dict[str, int]:
        out = {}
        for number, digest in enumerate(vertices):
            result = self.solution.get(digest)
            if result is not None and result.snapshot is not None:
                out[f"step{number}:0"] = result.snapshot
        return out

    def _vcs(self) -> dict[str, str]:
        """What the checkout that holds a local context says of itself."""
        if self.inputs.remote:
            return {}
        from buildkit_py.sources.vcs import vcs_facts  # noqa: PLC0415

        places = {"context": self.inputs.directory}
        if self.inputs.path is not None:
            places["dockerfile"] = self.inputs.path.parent
        return vcs_facts(places, self.shop.env.environment)

    def _facts(self, options: AttestOptions) -> BuildFacts:
        """What provenance says of this build. Secrets and agents are named only."""
        from buildkit_py.attest.provenance import BuildFacts  # noqa: PLC0415

        request, env = self.shop.request, self.shop.env
        return BuildFacts(
            ref=self.ref,
            started=self.started,
            finished=env.clock(),
            platform=str(env.host),
            dockerfile=self.inputs.dockerfile.name,
            text=self.inputs.dockerfile.text,
            target=request.target or "",
            arguments=request.build_args,
            labels=request.labels,
            secrets=tuple(item.id for item in request.secrets),
            ssh=tuple(item.id for item in request.ssh),
            builder_id=options.builder_id,
            reproducible=options.reproducible,
            source=self.inputs.facts,
            fetched=self.shop.worker.sources.fetched(),
            vcs=self._vcs(),
        )

    # -------------------------------------------------------------- the scanners built in
    def _bills(self, built: BuiltImage, lowered: LoweredImage) -> list[Attestation]:
        trees: dict[str, Tree] = {_SBOM: self.shop.snapshot_tree(built.snapshot)}
        for name, vertex in lowered.scanned.items():
            tree = self.shop.tree_of(self.solution[vertex.digest])
            if tree is not None:
                trees[f"{_SBOM}-{name}"] = tree
        created = built.settled if built.settled is not None else self.started
        return [_bill(name, tree, created) for name, tree in trees.items()]


def _bill(name: str, tree: Tree, created: float) -> Attestation:
    from buildkit_py.attest.sbom import SPDX_TYPE, Bill, spdx_document  # noqa: PLC0415
    from buildkit_py.inspection.packages import (  # noqa: PLC0415
        find_distribution,
        find_packages,
    )

    bill = Bill(
        name=name,
        packages=find_packages(tree),
        distribution=find_distribution(tree),
        created=created,
        tool=_TOOL,
    )
    return Attestation(
        predicate_type=SPDX_TYPE, predicate=spdx_document(bill), filename=f"{name}.spdx.json"
    )
