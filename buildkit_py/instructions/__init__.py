"""Imports every instruction module, which fills the registry; makes an instruction of a line."""

from __future__ import annotations

from functools import lru_cache

from buildkit_py.errors import UnknownInstruction
from buildkit_py.instructions import (
    add,
    arg,
    cmd,
    copy,
    entrypoint,
    env,
    expose,
    from_,
    healthcheck,
    label,
    maintainer,
    onbuild,
    run,
    shell,
    stopsignal,
    user,
    volume,
    workdir,
)
from buildkit_py.instructions.base import REGISTRY, Instruction
from buildkit_py.lines import LogicalLine
from buildkit_py.suggest import nearest
from buildkit_py.syntax import parse_arguments

MODULES = (
    add,
    arg,
    cmd,
    copy,
    entrypoint,
    env,
    expose,
    from_,
    healthcheck,
    label,
    maintainer,
    onbuild,
    run,
    shell,
    stopsignal,
    user,
    volume,
    workdir,
)


@lru_cache(maxsize=256)
def _nearest_keyword(word: str) -> str | None:
    return nearest(word, REGISTRY, case_sensitive=False)


def parse_instruction(line: LogicalLine, escape: str = "\\") -> Instruction:
    """Parse one logical line. Raises DockerfileError."""
    cls = REGISTRY.get(line.keyword.upper())
    if cls is None:
        option = _nearest_keyword(line.keyword)
        message = f"unknown instruction: {line.keyword}"
        if option:
            message += f" (did you mean {option}?)"
        raise UnknownInstruction(message, span=line.part(0, len(line.keyword)))
    return cls.parse(parse_arguments(cls.shape, line, escape))
