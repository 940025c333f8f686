"""What a build writes: the outputs asked for, checked before the build and written after it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from buildkit_py.digest import Digest, digest_of
from buildkit_py.engine.attestations import asked
from buildkit_py.errors import UsageError
from buildkit_py.exporters import OutputSpec, open_exporter, parse_output
from buildkit_py.exporters.ahead import check_output
from buildkit_py.exporters.base import BuiltImage, ExportRequest, ExportResult
from buildkit_py.oci.reference import parse_reference
from buildkit_py.progress.events import (
    EventSink,
    VertexCompleted,
    VertexStarted,
    VertexStatus,
)

if TYPE_CHECKING:
    from buildkit_py.engine.build import BuildEnvironment
    from buildkit_py.engine.compile import Compiled
    from buildkit_py.engine.request import BuildRequest
    from buildkit_py.solver.solution import Solution

_DELETE = "buildx.local.delete"
_NAMES = {
    "image": "exporting to image",
    "registry": "exporting to image",
    "oci": "exporting to oci image format",
    "docker": "exporting to docker image format",
    "local": "exporting to client directory",
    "tar": "exporting to client tarball",
    "cacheonly": "exporting cache only",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Outputs:
    """The outputs of a build, parsed."""

    specs: tuple[OutputSpec, ...]
    names: tuple[str, ...]

    @staticmethod
    def of(request: BuildRequest) -> Outputs:
        """Read `-o`, `--push`, `--load` and `-t`. Raises UsageError."""
        asked(request)
        specs = [parse_output(text) for text in request.output_texts]
        names = tuple(str(parse_reference(tag)) for tag in request.tags)
        if any(parse_reference(tag).digest for tag in request.tags):
            raise UsageError("a tag for a new image cannot hold a digest")
        if request.push:
            specs = [_pushing(spec) for spec in specs]
            if not any(_pushes(spec) for spec in specs):
                specs.append(OutputSpec(kind="image", attributes={"push": "true"}))
        if request.load and not any(_loads(spec) for spec in specs):
            specs.append(OutputSpec(kind="docker"))
        if not specs:
            specs.append(OutputSpec(kind="image"))
        for spec in specs:
            if _pushes(spec) and not (names or spec.attributes.get("name")):
                raise UsageError(
                    "tag is needed when pushing to registry", hint="name the image by -t"
                )
        return Outputs(specs=tuple(specs), names=names)


def _pushes(spec: OutputSpec) -> bool:
    return spec.kind == "registry" or spec.attributes.get("push") in {"true", "1"}


def _loads(spec: OutputSpec) -> bool:
    return spec.kind == "docker" and spec.destination is None


def _pushing(spec: OutputSpec) -> OutputSpec:
    if spec.kind != "image":
        return spec
    return replace(spec, attributes={**spec.attributes, "push": "true"})


def check_outputs(
    outputs: Outputs, request: BuildRequest, compiled: Compiled, env: BuildEnvironment
) -> None:
    """Refuse what would fail once everything is built. Raises UsageError."""
    wanted = export_request(outputs, request, (), compiled, env)
    for spec in outputs.specs:
        check_output(spec, wanted)
        if spec.attributes.get("mode") != "delete" or _DELETE in request.allow:
            continue
        place = (env.directory / (spec.destination or ".")).resolve()
        if env.directory.resolve() not in place.parents:
            raise UsageError(
                f"mode=delete would remove files of {place}, which is not below the working"
                " directory",
                hint=f"--allow {_DELETE}, if that is meant",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What all outputs together gave."""

    image_id: Digest | None = None
    digest: Digest | None = None
    names: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    metadata: Mapping[str, object] = field(default_factory=dict)


def export_all(
    outputs: Outputs,
    request: BuildRequest,
    compiled: Compiled,
    solution: Solution,
    env: BuildEnvironment,
    emit: EventSink,
    attested: Callable[[tuple[BuiltImage, ...]], tuple[BuiltImage, ...]],
) -> Exported:
    """Write every output of the images as `attested` gives them. Raises what exporters raise."""
    images = built_images(compiled, solution, request, env)
    if request.squash and any(spec.kind != "cacheonly" for spec in outputs.specs):
        from buildkit_py.engine.squashing import squashed  # noqa: PLC0415

        images = tuple(squashed(env.store, image, request.squash) for image in images)
    images = attested(images)
    results = [
        _export(spec, outputs, request, images, compiled, env, emit) for spec in outputs.specs
    ]
    with_image = [result for result in results if result.image_id is not None]
    metadata: dict[str, object] = {}
    for result in reversed(results):
        metadata.update(result.metadata())
    first = with_image[0] if with_image else None
    return Exported(
        image_id=first.image_id if first else None,
        digest=first.descriptor.digest if first and first.descriptor else None,
        names=tuple(dict.fromkeys(name for result in results for name in result.names)),
        warnings=tuple(text for result in results for text in result.warnings),
        metadata=metadata,
    )


def built_images(
    compiled: Compiled, solution: Solution, request: BuildRequest, env: BuildEnvironment
) -> tuple[BuiltImage, ...]:
    """The platforms' configs on their top snapshots."""
    out = []
    for image in compiled.images:
        snapshot = None
        if image.root is not None:
            snapshot = solution[image.root.digest].snapshot
        out.append(
            BuiltImage(
                config=image.config,
                snapshot=snapshot,
                base_history=image.base_history,
                extra=_extra(request, solution, snapshot, env),
                settled=image.settled,
            )
        )
    return tuple(out)


def _extra(
    request: BuildRequest, solution: Solution, snapshot: int | None, env: BuildEnvironment
) -> Mapping[str, object]:
    """Fields of the config beyond the specification: an inline cache, if asked for."""
    if not request.cache_to and "BUILDKIT_INLINE_CACHE" not in request.build_args:
        return {}
    from buildkit_py.engine.remote_cache import inline_cache  # noqa: PLC0415

    return inline_cache(request, solution, snapshot, env)


def export_request(
    outputs: Outputs,
    request: BuildRequest,
    images: tuple[BuiltImage, ...],
    compiled: Compiled,
    env: BuildEnvironment,
) -> ExportRequest:
    """What every exporter is given."""
    epochs = [image.epoch for image in compiled.images if image.epoch is not None]
    return ExportRequest(
        images=images,
        names=outputs.names,
        epoch=epochs[0] if epochs else None,
        annotations=request.annotations,
        directory=env.directory,
        stdout=env.stdout if env.stdout is not None else sys.stdout.buffer,
        multi_platform=compiled.plans[0].options.multi_platform,
        environment=env.environment,
        insecure_registries=request.insecure_registries,
    )


def _export(
    spec: OutputSpec,
    outputs: Outputs,
    request: BuildRequest,
    images: tuple[BuiltImage, ...],
    compiled: Compiled,
    env: BuildEnvironment,
    emit: EventSink,
) -> ExportResult:
    name = _NAMES[spec.kind]
    vertex = digest_of({"export": spec.kind, "attributes": dict(spec.attributes)})
    emit(VertexStarted(vertex=vertex, name=name, time=env.clock()))

    def report(what: str, current: int, total: int) -> None:
        emit(
            VertexStatus(
                vertex=vertex,
                id=what,
                action="exporting",
                current=current,
                total=total,
                time=env.clock(),
                done=current >= total,
            )
        )

    exporter = open_exporter(spec, env.store)
    try:
        result = exporter.export(
            replace(export_request(outputs, request, images, compiled, env), report=report)
        )
    except BaseException as error:
        emit(VertexCompleted(vertex=vertex, name=name, time=env.clock(), error=str(error)))
        raise
    if result.image_id is not None:
        report(f"writing image {result.image_id}", 0, 0)
    for tag in result.names:
        report(f"naming to {tag}", 0, 0)
    emit(VertexCompleted(vertex=vertex, name=name, time=env.clock()))
    return result
