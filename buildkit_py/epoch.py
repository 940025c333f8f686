"""SOURCE_DATE_EPOCH that names a source: what the engine must look at to settle the time.

The value may be `context` (the main context), a named context, or a stage that does nothing but
fetch one remote source: a commit's time, a Last-Modified, or an archive's newest member counts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from buildkit_py.contexts import ContextKind, find_context
from buildkit_py.errors import InvalidArgument, PlanError, UsageError
from buildkit_py.expansion import ExpansionError
from buildkit_py.graph import GitOp, HttpOp
from buildkit_py.instructions.add import Add
from buildkit_py.instructions.arg import Arg
from buildkit_py.instructions.base import located
from buildkit_py.remotes import is_git_url, is_web_url, parse_git_url
from buildkit_py.scopes import EPOCH_ARG, StageScope

if TYPE_CHECKING:
    from buildkit_py.instructions.base import Instruction
    from buildkit_py.stage_plan import PlannedStage, StagePlan

_ONE = f"{EPOCH_ARG} stage must contain exactly one remote ADD"


def epoch_op(plan: StagePlan) -> GitOp | HttpOp | None:
    """The remote source that the epoch is taken from.

    None for a local source, which has no time of its own, and for the main context, which the
    engine knows. Raises PlanError for a stage that is no such source.
    """
    name = plan.epoch_source
    if name is None or name == "context":
        return None
    context = find_context(plan.contexts, name, plan.platform)
    if context is not None:
        if context.kind not in {ContextKind.GIT, ContextKind.HTTP}:
            return None
        op = context.op()
        return op if isinstance(op, (GitOp, HttpOp)) else None
    for stage in plan.stages:
        if (stage.stage.name or "") == name.lower():
            return _stage_source(stage, plan)
    return None


def _stage_source(stage: PlannedStage, plan: StagePlan) -> GitOp | HttpOp:
    from_ = stage.stage.from_
    if stage.base_name != "scratch":
        raise PlanError(f"{EPOCH_ARG} stage must use FROM scratch", span=from_.span)
    values = {k: v for k, v in plan.scope.values.items() if k != EPOCH_ARG}
    scope = StageScope(
        globals=values, build_args=plan.build_args, escape=plan.escape, env=dict(values)
    )
    found: GitOp | HttpOp | None = None
    for item in stage.stage.instructions:
        try:
            found = _step(item, scope, found)
        except ExpansionError as error:
            raise located(error, item.line) from error
    if found is None:
        raise PlanError(_ONE, span=from_.span)
    return found


def _step(
    item: Instruction, scope: StageScope, found: GitOp | HttpOp | None
) -> GitOp | HttpOp | None:
    if isinstance(item, Arg):
        scope.apply(item)
        return found
    if not isinstance(item, Add):
        raise PlanError(
            f"{EPOCH_ARG} stage does not meet source-only requirements:"
            f" unsupported {item.keyword} instruction",
            span=item.span,
        )
    if found is not None:
        raise PlanError(_ONE, span=item.span)
    return _source(item.expand(scope.expander()))


def _source(add: Add) -> GitOp | HttpOp:
    if len(add.sources) != 1 or add.documents:
        raise PlanError(f"{_ONE} source", span=add.span)
    source = add.sources[0]
    if is_git_url(source):
        try:
            return parse_git_url(
                source, keep_git_dir=add.keep_git_dir, checksum=add.checksum or None
            )
        except UsageError as error:
            raise InvalidArgument(error.message, span=add.span, hint=error.hint) from error
    if is_web_url(source):
        return HttpOp(url=source, filename="source", checksum=add.checksum or None)
    raise PlanError(f"{EPOCH_ARG} stage source must be a single HTTP(S) or Git ADD", span=add.span)
