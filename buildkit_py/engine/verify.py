"""`--verify-reproducible`: two builds from nothing, compared file by file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import IO, TYPE_CHECKING

from buildkit_py.errors import PybuildError
from buildkit_py.inspection.differ import Change, file_changes
from buildkit_py.inspection.entries import layer_content, layer_tar
from buildkit_py.layers.compression import open_decompressor
from buildkit_py.layers.tar_reader import LayerReader

if TYPE_CHECKING:
    from buildkit_py.engine.request import BuildRequest
    from buildkit_py.store import Store

_MOST_SHOWN = 20
_PIECE = 1 << 16


def twice(request: BuildRequest) -> tuple[BuildRequest, BuildRequest]:
    """The requests of a first build, which writes nothing, and of the second; without a cache."""
    second = replace(request, no_cache=True, verify_reproducible=False)
    first = replace(
        second,
        outputs=("type=cacheonly",),
        tags=(),
        push=False,
        load=False,
        cache_to=(),
        iidfile=None,
        metadata_file=None,
    )
    return first, second


def compare(store: Store, first: Sequence[int | None], second: Sequence[int | None]) -> None:
    """Compare the results (top snapshots, a platform each) of two builds.

    Raises PybuildError that names files, bytes and steps, if they differ.
    """
    found: list[str] = []
    for one, two in zip(first, second, strict=True):
        found += _differences(store, one, two)
    if found:
        shown = found[:_MOST_SHOWN]
        if len(found) > len(shown):
            shown.append(f"and {len(found) - len(shown)} more")
        raise PybuildError(
            f"the build is not reproducible: {_counted(len(found))}\n  " + "\n  ".join(shown),
            hint="let the step write the same bytes each time, or remove what it need not keep",
        )


def _counted(number: int) -> str:
    return f"{number} difference" + ("s" if number > 1 else "")


def _differences(store: Store, one: int | None, two: int | None) -> Iterator[str]:
    snapshots = store.snapshots
    for left, right in zip(snapshots.chain(one), snapshots.chain(two), strict=True):
        if left.id == right.id or snapshots.diff_id(left.id) == snapshots.diff_id(right.id):
            continue
        old, new = layer_content(store, left.id), layer_content(store, right.id)
        step = left.description
        for change in file_changes(old.entries, new.entries):
            yield f"{_shown(store, change, left.id, right.id)}: {step}"
        for path in sorted(old.hidden ^ new.hidden):
            yield f"/{path.decode('utf-8', 'replace')} deleted in one build only: {step}"


def _shown(store: Store, change: Change, left: int, right: int) -> str:
    if change.kind != "C":
        which = "second" if change.kind == "A" else "first"
        return f"{change.name} only in the {which} build"
    detail = change.detail
    if "content" in detail:
        place = _first_difference(store, change.name, left, right)
        detail = detail.replace("content", f"content from byte {place} on", 1)
    return f"{change.name} ({detail})"


def _first_difference(store: Store, name: str, left: int, right: int) -> int:
    with layer_tar(store, left) as one, layer_tar(store, right) as two:
        first, second = _reader(one, name), _reader(two, name)
        place = 0
        while True:
            a, b = first(_PIECE), second(_PIECE)
            if a != b or not a:
                same = next(
                    (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), None
                )
                return place + (min(len(a), len(b)) if same is None else same)
            place += len(a)


def _reader(file: IO[bytes], name: str) -> Callable[[int], bytes]:
    """Reads the content of one file of a layer."""
    import io  # noqa: PLC0415
    import os  # noqa: PLC0415
    import tempfile  # noqa: PLC0415

    wanted = os.fsencode(name).strip(b"/")
    with open_decompressor(file) as stream:
        reader = LayerReader(stream)
        for entry in reader:
            if entry.name.strip(b"/") == wanted:
                content = tempfile.SpooledTemporaryFile(max_size=_PIECE * 64)  # noqa: SIM115
                for chunk in reader.chunks():
                    content.write(chunk)
                content.seek(0)
                return content.read
    return io.BytesIO().read
