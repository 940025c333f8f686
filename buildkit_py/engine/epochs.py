"""Settles a SOURCE_DATE_EPOCH that names a source: a commit, a download, an archive."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

from buildkit_py.epoch import epoch_op
from buildkit_py.graph import GitOp

if TYPE_CHECKING:
    from buildkit_py.engine.inputs import BuildInputs
    from buildkit_py.engine.workshop import Workshop
    from buildkit_py.stage_plan import BuildOptions, StagePlan


def settled_options(
    options: BuildOptions, plan: StagePlan, inputs: BuildInputs, shop: Workshop
) -> BuildOptions:
    """The options with the time that the plan's SOURCE_DATE_EPOCH stands for."""
    epoch = settle_epoch(plan, inputs, shop)
    text = "" if epoch is None else str(epoch)
    arguments = {**options.build_args, "SOURCE_DATE_EPOCH": text}
    return replace(options, epoch=epoch, build_args=arguments)


def settle_epoch(plan: StagePlan, inputs: BuildInputs, shop: Workshop) -> int | None:
    """The time of the source that the plan's epoch names; None where it has none.

    Raises PlanError, SourceError.
    """
    if plan.epoch_source == "context":
        return inputs.modified
    op = epoch_op(plan)
    if op is None:
        return None
    from buildkit_py.sources.context import archive_time  # noqa: PLC0415
    from buildkit_py.store.trash import remove_tree  # noqa: PLC0415

    store, secrets = shop.env.store, shop.secrets.value
    folder = store.db.scratch("epoch")
    folder.mkdir()
    target = folder / "source"
    target.mkdir()
    try:
        if isinstance(op, GitOp):
            return shop.git.write(op, shop.git.resolve(op, secrets), target, secrets)
        when = shop.http.write(op, shop.http.resolve(op, secrets), target, secrets)
        if when:
            return when
        with open(os.path.join(target, op.filename), "rb") as file:
            return archive_time(file, folder / "unpacked")
    finally:
        remove_tree(folder)
