"""One walk over the stages of a subject: every instruction expanded, with what was unset then.

Rules about values share it. The walk of a stage ends at the first instruction that does not expand
(the build stops there with that error).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from buildkit_py.errors import PybuildError
from buildkit_py.expansion import ExpansionError
from buildkit_py.instructions.arg import Arg
from buildkit_py.instructions.base import Instruction
from buildkit_py.lint.rule import StageView, Subject
from buildkit_py.oci.config import DEFAULT_PATH, ContainerConfig
from buildkit_py.scopes import GlobalScope, StageScope, evaluate_globals

_BARE = ContainerConfig(env=(f"PATH={DEFAULT_PATH}",))


@dataclass(frozen=True, slots=True, kw_only=True)
class WalkedStep:
    """An instruction as written and as expanded (None: it does not expand).

    `unset` names the variables that it uses and nothing declares; then `known` names those that
    have a value.
    `at` is where to tell of it: the FROM, for a trigger of the base image.
    """

    stage: StageView
    written: Instruction
    expanded: Instruction | None
    at: Instruction
    unset: frozenset[str]
    known: tuple[str, ...]
    base_known: bool


def walk(subject: Subject) -> Iterator[WalkedStep]:
    """Walk the stages that are looked into, in file order."""
    scope = global_scope(subject)
    if scope is None:
        return
    ends: dict[int, StageScope] = {}
    for stage in subject.stages:
        variables = _first_scope(stage, subject, scope, ends)
        ends[stage.index] = variables
        for position, item in enumerate(stage.instructions):
            at = stage.from_ if position < stage.trigger_count else item
            step = _step(stage, item, at, variables)
            yield step
            if step.expanded is None:
                break


def _step(
    stage: StageView, item: Instruction, at: Instruction, variables: StageScope
) -> WalkedStep:
    expander = variables.expander()
    expanded: Instruction | None = None
    unset = expander.unset
    known: tuple[str, ...] = ()
    try:
        expanded = item if isinstance(item, Arg) else item.expand(expander)
        if expander.unset or _asks(item):
            known = tuple(variables.env)
        unset = expander.unset | variables.apply(item).unset
    except ExpansionError:
        expanded, known = None, tuple(variables.env)
    return WalkedStep(
        stage=stage,
        written=item,
        expanded=expanded,
        at=at,
        unset=frozenset(name for name in unset if name not in variables.args),
        known=known,
        base_known=variables.base_known,
    )


def _asks(item: Instruction) -> bool:
    """Whether a default of an ARG uses variables; those are looked up while it is declared."""
    return isinstance(item, Arg) and any("$" in (entry.default or "") for entry in item.items)


def _first_scope(
    stage: StageView, subject: Subject, scope: GlobalScope, ends: dict[int, StageScope]
) -> StageScope:
    if stage.parent is not None and stage.parent in ends:
        return ends[stage.parent].child()
    variables = StageScope(
        globals=scope.values, build_args=subject.build_args, escape=subject.escape
    )
    variables.take_image(stage.config or _BARE)
    variables.base_known = stage.config is not None
    return variables


def global_scope(subject: Subject) -> GlobalScope | None:
    """What FROM can use; None when the global ARGs cannot be evaluated."""
    if subject.plan is not None:
        return subject.plan.scope
    try:
        return evaluate_globals(
            subject.dockerfile.global_args, subject.predefined, subject.build_args, subject.escape
        )
    except PybuildError:
        return None
