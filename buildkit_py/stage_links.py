"""How stages refer to one another: names in `--from` and `from=`, cycles, and order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from buildkit_py.errors import PlanError, StageCycle
from buildkit_py.instructions.base import Instruction
from buildkit_py.instructions.copy import Copy
from buildkit_py.instructions.mounts import MountSpec
from buildkit_py.instructions.run import Run
from buildkit_py.stage_plan import (
    BaseKey,
    BaseWanted,
    FromImage,
    FromStage,
    Origin,
    PlannedStage,
)


def from_names(instruction: Instruction) -> tuple[str, ...]:
    """The names in a COPY's `--from` or a RUN's mounts."""
    if isinstance(instruction, Copy):
        return (instruction.from_,) if instruction.from_ else ()
    if isinstance(instruction, Run):
        return tuple(mount.from_ for mount in instruction.mounts if mount.from_)
    return ()


def with_from_names(instruction: Instruction, names: Sequence[str]) -> Instruction:
    """The instruction with other names, in the order of `from_names`."""
    if isinstance(instruction, Copy):
        return replace(instruction, from_=names[0])
    if isinstance(instruction, Run):
        left = iter(names)
        mounts = tuple(
            replace(mount, from_=next(left)) if mount.from_ else mount
            for mount in instruction.mounts
        )
        return replace(instruction, mounts=mounts)
    return instruction


def edges_of(stage: PlannedStage, sources: Mapping[str, Origin]) -> list[tuple[int, Instruction]]:
    """The stages that a stage copies or mounts from, with the instruction of each."""
    edges = []
    for item in stage.instructions:
        for name in from_names(item):
            origin = sources[name.lower()]
            if isinstance(origin, FromStage):
                edges.append((origin.index, item))
    return edges


def bases_of(
    stages: Sequence[PlannedStage], sources: Mapping[str, Origin]
) -> tuple[BaseWanted, ...]:
    """The images that reachable stages are based on, copy from or mount, each once."""
    out: dict[BaseKey, BaseWanted] = {}
    for stage in stages:
        if not stage.reachable:
            continue
        if isinstance(stage.origin, FromImage):
            wanted = replace(stage.origin.wanted, explicit=stage.explicit_platform)
            if wanted.explicit or wanted.key not in out:
                out[wanted.key] = wanted
        for item in stage.instructions:
            for origin in (sources[name.lower()] for name in from_names(item)):
                if isinstance(origin, FromImage):
                    out.setdefault(origin.wanted.key, origin.wanted)
    return tuple(out.values())


def has_outside(stage: PlannedStage, sources: Mapping[str, Origin]) -> bool:
    """Whether a stage copies or mounts from what is no stage.

    Images, and the empty bases of cache mounts, count as stages of their own: BuildKit shows the
    only stage of such a file as `stage-0`.
    """
    for item in stage.instructions[stage.trigger_count :]:
        if any(not isinstance(sources[name.lower()], FromStage) for name in from_names(item)):
            return True
        if isinstance(item, Run) and any(_is_scratch_cache(mount) for mount in item.mounts):
            return True
    return False


def _is_scratch_cache(mount: MountSpec) -> bool:
    return mount.type == "cache" and not mount.from_


def check_cycles(edges: Sequence[Sequence[tuple[int, Instruction]]], names: Sequence[str]) -> None:
    """Refuse stages that need each other. The error has the lines of the whole cycle."""
    done: set[int] = set()
    for first in range(len(edges)):
        cycle = _find_cycle(first, edges, done)
        if cycle:
            raise StageCycle(
                f"circular dependency detected on stage: {names[first]}",
                span=cycle[0].span,
                also=[item.span for item in cycle[1:]],
                hint="a stage can only copy from stages above it",
            )


def _find_cycle(
    first: int, edges: Sequence[Sequence[tuple[int, Instruction]]], done: set[int]
) -> list[Instruction]:
    path = [first]
    taken: list[Instruction] = []
    open_edges = [iter(edges[first])]
    if first in done:
        return []
    done.add(first)
    while path:
        step = next(open_edges[-1], None)
        if step is None:
            path.pop()
            open_edges.pop()
            if taken:
                taken.pop()
            continue
        index, item = step
        if index in path:
            return [*taken[path.index(index) :], item]
        if index not in done:
            done.add(index)
            path.append(index)
            taken.append(item)
            open_edges.append(iter(edges[index]))
    return []


def check_order(
    instructions: Sequence[Instruction],
    stage: int,
    stage_name: str,
    index_of: Callable[[str], int | None],
) -> None:
    """Refuse a COPY or a mount from a stage that is not above this one."""
    for item in instructions:
        if isinstance(item, Copy):
            if item.from_ and (index_of(item.from_) or 0) > stage:
                raise PlanError(
                    f'cannot copy from stage "{item.from_}", it needs to be defined before current'
                    f' stage "{stage_name}"',
                    span=item.span,
                )
        elif isinstance(item, Run):
            for mount in item.mounts:
                if mount.from_.isascii() and mount.from_.isdecimal():
                    raise PlanError(
                        f"from={mount.from_}: a mount takes a stage's name, not its number",
                        span=item.span,
                        hint="name the stage by FROM … AS name",
                    )
                if mount.from_ and (index_of(mount.from_) or 0) > stage:
                    raise PlanError(
                        f'cannot mount from stage "{mount.from_}" to "{mount.target}", stage needs'
                        " to be defined before current command",
                        span=item.span,
                    )
