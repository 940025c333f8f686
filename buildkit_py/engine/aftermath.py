"""What is left of a build beside its image: id and metadata files, and its steps by id."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from buildkit_py.errors import PybuildError
from buildkit_py.oci.assemble import go_json

if TYPE_CHECKING:
    from buildkit_py.engine.request import BuildRequest, BuildResult
    from buildkit_py.engine.steps import FinishedStep
    from buildkit_py.store import Store
    from buildkit_py.store.database import Database


def step_sizes(
    store: Store, steps: Sequence[FinishedStep], *, measure: bool = False
) -> dict[int, int]:
    """Bytes of the layers that steps made, by snapshot.

    Of one that no image has, the size is not known before `measure` looks at all of its files.
    """
    wanted = {
        step.outcome.snapshot
        for step in steps
        if step.step.vertex is not None and step.outcome.snapshot is not None
    }
    if measure:
        return {item: store.snapshots.usage(item) for item in wanted if store.snapshots.find(item)}
    found = {item: store.snapshots.find(item) for item in wanted}
    return {item: snap.size or 0 for item, snap in found.items() if snap is not None}


def write_result_files(request: BuildRequest, directory: Path, result: BuildResult) -> None:
    """Write `--iidfile` and `--metadata-file`. Raises PybuildError."""
    if request.iidfile and result.image_id:
        _write(directory / request.iidfile, result.image_id.encode())
    if request.metadata_file:
        _write(directory / request.metadata_file, metadata_text(result.metadata))


def metadata_text(metadata: Mapping[str, object]) -> bytes:
    """What `--metadata-file` holds, as buildx writes it."""
    return go_json(dict(sorted(metadata.items())), indent=2)


def _write(path: Path, data: bytes) -> None:
    from buildkit_py.exporters.destination import write_file  # noqa: PLC0415

    try:
        write_file(path, data)
    except OSError as error:
        raise PybuildError(f"cannot write {path}: {error.strerror}") from error


def keep_steps(db: Database, steps: Sequence[FinishedStep], now: float) -> None:
    """Make the steps of a build known by their ids."""
    from buildkit_py.store.steps import NewStep, remember_steps  # noqa: PLC0415

    remember_steps(
        db,
        [
            NewStep(
                id=item.id,
                text=item.step.text,
                stage=item.step.stage,
                snapshot=item.outcome.snapshot,
                moment=item.step.moment,
            )
            for item in steps
        ],
        now,
    )
