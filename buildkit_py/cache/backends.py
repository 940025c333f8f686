"""Opens the caches to import, and writes those to export. Backends are imported on use."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from buildkit_py.errors import ContentError, PybuildError, UsageError

if TYPE_CHECKING:
    from buildkit_py.cache.base import ExportedResult
    from buildkit_py.cache.config import CachedMount
    from buildkit_py.cache.exports import CacheExport, Warn
    from buildkit_py.cache.imports import ImportedCache, LoadedCache
    from buildkit_py.cache.options import CacheOption
    from buildkit_py.digest import Digest
    from buildkit_py.registry.client import RegistryClient
    from buildkit_py.registry.transfer import Progress
    from buildkit_py.store.snapshots import SnapshotStore


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheAccess:
    """What backends work with. `client` is called only by those that need a registry.

    `mounts` packs the cache mounts of the build; `mount_ready` has the blob of one that comes from
    an imported cache, or raises MountLost. Relative paths start at `directory`.
    """

    snapshots: SnapshotStore
    client: Callable[[], RegistryClient]
    warn: Warn
    directory: Path
    progress: Progress | None = None
    mounts: Callable[[], tuple[CachedMount, ...]] = tuple
    mount_ready: Callable[[CachedMount], None] = lambda _: None
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenCache:
    """A cache that has been exported."""

    option: CacheOption
    digest: Digest


def open_imports(options: Sequence[CacheOption], access: CacheAccess) -> list[ImportedCache]:
    """Backends for the solver; nothing is read before the first look-up."""
    from buildkit_py.cache.imports import ImportedCache  # noqa: PLC0415

    return [
        ImportedCache(option.shown, _loader(option, access), access.snapshots, access.warn)
        for option in options
    ]


def _loader(option: CacheOption, access: CacheAccess) -> Callable[[], LoadedCache]:
    def load() -> LoadedCache:
        if option.kind == "local":
            from buildkit_py.cache.directory import read_directory  # noqa: PLC0415

            return read_directory(
                access.directory / option.text("src"),
                tag=option.text("tag", "latest"),
                digest=option.text("digest") or None,
            )
        if option.kind in {"registry", "inline"}:
            from buildkit_py.cache.registry import pull_cache  # noqa: PLC0415
            from buildkit_py.oci.reference import parse_reference  # noqa: PLC0415

            return pull_cache(access.client(), parse_reference(option.text("ref")))
        if option.kind == "s3":
            from buildkit_py.cache import s3  # noqa: PLC0415

            return s3.pull_cache(
                s3.open_bucket(option, access.client().transport, access.environment)
            )
        if option.kind == "gha":
            from buildkit_py.cache import gha  # noqa: PLC0415

            return gha.pull_cache(
                gha.open_cache(option, access.client().transport, access.environment)
            )
        raise UsageError(f"cache type {option.kind} cannot be imported")

    return load


def check_exports(options: Sequence[CacheOption], access: CacheAccess) -> None:
    """Look, before anything is built, whether each option says where its cache is to be written.

    What the environment lacks is left to the export, if that may fail. Raises UsageError.
    """
    for option in options:
        if option.kind not in {"s3", "gha"} or option.flag("ignore-error"):
            continue
        transport = access.client().transport
        if option.kind == "s3":
            from buildkit_py.cache import s3  # noqa: PLC0415

            s3.open_bucket(option, transport, access.environment)
        else:
            from buildkit_py.cache import gha  # noqa: PLC0415

            gha.open_cache(option, transport, access.environment)


def write_exports(
    options: Sequence[CacheOption],
    results: Sequence[ExportedResult],
    roots: Sequence[int],
    access: CacheAccess,
) -> list[WrittenCache]:
    """Write every cache asked for, but inline ones, which are part of their image.

    Raises the first error of a cache that has no `ignore-error`, after all have been tried.
    """
    written: list[WrittenCache] = []
    failure: PybuildError | None = None
    for option in options:
        if option.kind == "inline":
            continue
        try:
            written.append(
                WrittenCache(option=option, digest=_write(option, results, roots, access))
            )
        except (PybuildError, OSError) as error:
            said = f"cannot export the cache {option.shown}: {_text(error)}"
            if option.flag("ignore-error"):
                access.warn(said)
            elif isinstance(error, PybuildError):
                failure = failure or error
            else:
                failure = failure or ContentError(said)
    if failure is not None:
        raise failure
    return written


def _text(error: PybuildError | OSError) -> str:
    if isinstance(error, PybuildError):
        return error.message
    place = f"{error.filename}: " if error.filename else ""
    return f"{place}{(error.strerror or str(error)).lower()}"


def _write(
    option: CacheOption,
    results: Sequence[ExportedResult],
    roots: Sequence[int],
    access: CacheAccess,
) -> Digest:
    from buildkit_py.cache.mounts import MountLost  # noqa: PLC0415

    export = _collect(option, results, roots, access)
    while True:
        try:
            return _send(option, export, access)
        except MountLost as lost:
            access.warn(lost.message)
            mounts = tuple(item for item in export.config.mounts if item != lost.mount)
            export = replace(export, config=replace(export.config, mounts=mounts))


def _send(option: CacheOption, export: CacheExport, access: CacheAccess) -> Digest:
    form = option.form
    if option.kind == "local":
        from buildkit_py.cache.directory import write_directory  # noqa: PLC0415

        return write_directory(
            access.directory / option.text("dest"),
            export,
            access.snapshots,
            form=form,
            tag=option.text("tag", "latest"),
            reset=option.flag("reset"),
        )
    if option.kind == "registry":
        from buildkit_py.cache.registry import push_cache  # noqa: PLC0415
        from buildkit_py.oci.reference import parse_reference  # noqa: PLC0415

        return push_cache(
            access.client(),
            parse_reference(option.text("ref")),
            export,
            access.snapshots,
            form=form,
            progress=access.progress,
        )
    if option.kind == "s3":
        return _write_s3(option, export, access)
    if option.kind == "gha":
        from buildkit_py.cache import gha  # noqa: PLC0415

        transport = access.client().transport
        return gha.push_cache(
            gha.open_cache(option, transport, access.environment), export, access.snapshots
        )
    raise UsageError(f"cache type {option.kind} cannot be exported")


def _write_s3(option: CacheOption, export: CacheExport, access: CacheAccess) -> Digest:
    from buildkit_py.cache import s3  # noqa: PLC0415

    return s3.push_cache(
        s3.open_bucket(option, access.client().transport, access.environment),
        export,
        access.snapshots,
        parallel=option.number("upload_parallelism", 4),
        refresh=option.seconds("touch_refresh", 24 * 3600.0),
    )


def _collect(
    option: CacheOption,
    results: Sequence[ExportedResult],
    roots: Sequence[int],
    access: CacheAccess,
) -> CacheExport:
    from buildkit_py.cache.exports import choose_results, collect  # noqa: PLC0415
    from buildkit_py.store.layer import Variant  # noqa: PLC0415

    level = option.text("compression-level")
    variant = Variant(
        compression=option.text("compression", "gzip"),
        level=int(level) if level else None,
        force=option.flag("force-compression"),
    )
    chosen = choose_results(results, roots, access.snapshots, option.mode)
    export = collect(chosen, access.snapshots, variant)
    if not option.flag("mounts"):
        return export
    config = replace(export.config, mounts=access.mounts())
    return replace(export, config=config, ready=access.mount_ready)
