"""`--cache-from` and `--cache-to` of one build."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from buildkit_py.cache.backends import CacheAccess, check_exports, write_exports
from buildkit_py.cache.backends import open_imports as open_backends
from buildkit_py.cache.options import CacheOption, parse_export, parse_import
from buildkit_py.digest import digest_of
from buildkit_py.errors import PybuildError
from buildkit_py.graph import BuildGraph, CacheMount, ExecOp
from buildkit_py.progress.events import BuildWarning, VertexCompleted, VertexStarted

if TYPE_CHECKING:
    from buildkit_py.cache.base import CacheBackend
    from buildkit_py.cache.config import CachedMount
    from buildkit_py.cache.mounts import MountSource
    from buildkit_py.engine.build import BuildEnvironment
    from buildkit_py.engine.compile import Compiled
    from buildkit_py.engine.request import BuildRequest
    from buildkit_py.engine.workshop import Workshop
    from buildkit_py.graph import Vertex
    from buildkit_py.solver.solution import Solution

_TRUE = frozenset({"1", "t", "T", "true", "True", "TRUE"})


def cache_exports(request: BuildRequest) -> tuple[CacheOption, ...]:
    """The caches to export, checked. Raises UsageError."""
    options = [parse_export(text) for text in request.cache_to]
    asked = request.build_args.get("BUILDKIT_INLINE_CACHE") in _TRUE
    if asked and not any(option.kind == "inline" for option in options):
        options.append(parse_export("type=inline"))
    return tuple(options)


def look_ahead(shop: Workshop) -> None:
    """Find what is wrong with `--cache-to` before anything is built. Raises UsageError."""
    check_exports(cache_exports(shop.request), _access(shop))


def open_imports(shop: Workshop) -> tuple[CacheBackend, ...]:
    """The caches to look into after our own. Raises UsageError for a malformed option."""
    options = [parse_import(text) for text in shop.request.cache_from]
    return tuple(open_backends(options, _access(shop)))


def imported_mounts(shop: Workshop) -> MountSource | None:
    """The cache mounts of caches to import with `mounts=true`; None if there are none."""
    asked = [parse_import(text).flag("mounts") for text in shop.request.cache_from]
    backends = [item for item, wanted in zip(shop.imports, asked, strict=True) if wanted]
    if not backends:
        return None
    from buildkit_py.cache.imports import ImportedCache  # noqa: PLC0415
    from buildkit_py.cache.mounts import MountSource  # noqa: PLC0415

    def mounts() -> tuple[CachedMount, ...]:
        return tuple(
            mount
            for backend in backends
            if isinstance(backend, ImportedCache)
            for mount in backend.mounts()
        )

    return MountSource(
        mounts=mounts,
        database=shop.env.store.db,
        content=shop.env.store.content,
        fetch=shop.images.fetch,
        warn=lambda message: _warn(shop, message),
    )


def mount_ids(graph: BuildGraph) -> frozenset[str]:
    """The ids of all cache mounts of a build."""
    return frozenset(
        mount.id
        for vertex in graph.vertices.values()
        if isinstance(vertex.op, ExecOp)
        for mount in vertex.op.mounts
        if isinstance(mount, CacheMount)
    )


def export_caches(shop: Workshop, compiled: Compiled, solution: Solution) -> None:
    """Write every cache asked for. Raises PybuildError, unless told to ignore errors."""
    options = [option for option in cache_exports(shop.request) if option.kind != "inline"]
    results = solution.exportable() if options else ()
    roots = _roots(compiled, solution)
    vertices = tuple(image.root for image in compiled.images if image.root is not None)
    for option in options:
        vertex = digest_of({"export": "cache", "to": option.shown})
        name = f"exporting cache to {option.kind}"
        shop.emit(VertexStarted(vertex=vertex, name=name, time=shop.env.clock()))
        error: str | None = "canceled"
        try:
            write_exports([option], results, roots, _access(shop, vertices))
            error = None
        except PybuildError as failure:
            error = failure.message
            raise
        finally:
            shop.emit(
                VertexCompleted(vertex=vertex, name=name, time=shop.env.clock(), error=error)
            )


def inline_cache(
    request: BuildRequest, solution: Solution, root: int | None, env: BuildEnvironment
) -> Mapping[str, Any]:
    """What an inline cache adds to the config of an image; nothing unless it was asked for."""
    if root is None or not any(option.kind == "inline" for option in cache_exports(request)):
        return {}
    from buildkit_py.cache.inline import inline_field  # noqa: PLC0415

    return inline_field(solution.exportable(), root, env.store.snapshots)


def _roots(compiled: Compiled, solution: Solution) -> list[int]:
    found = [solution[image.root.digest].snapshot for image in compiled.images if image.root]
    return [snapshot for snapshot in found if snapshot is not None]


def _warn(shop: Workshop, message: str) -> None:
    warning = BuildWarning(message=message)
    shop.warnings.append(warning)
    shop.emit(warning)


def _access(shop: Workshop, roots: tuple[Vertex, ...] = ()) -> CacheAccess:
    source = imported_mounts(shop) if shop.imports else None

    def mounts() -> tuple[CachedMount, ...]:
        from buildkit_py.cache.mounts import MountPacker  # noqa: PLC0415

        packer = MountPacker(
            ids=mount_ids(BuildGraph(roots=roots)),
            database=shop.env.store.db,
            content=shop.env.store.content,
            warn=lambda message: _warn(shop, message),
        )
        found = {mount.name: mount for mount in packer.pack()}
        for mount in () if source is None else source.mounts():
            if packer.wants(mount.description):  # what no step needed is handed on unopened
                found.setdefault(mount.name, mount)
        return tuple(found.values())

    return CacheAccess(
        snapshots=shop.env.store.snapshots,
        client=lambda: shop.client,
        warn=lambda message: _warn(shop, message),
        mounts=mounts,
        mount_ready=(lambda _: None) if source is None else source.ready,
        directory=shop.env.directory,
        environment=shop.env.environment,
    )
