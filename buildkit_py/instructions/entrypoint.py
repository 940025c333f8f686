"""ENTRYPOINT: what the command is given to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from buildkit_py.instructions.base import Instruction, command_line, instruction
from buildkit_py.instructions.flags import FlagSet
from buildkit_py.instructions.gotext import quoted_list
from buildkit_py.syntax import Arguments, Command, Shape

if TYPE_CHECKING:
    from buildkit_py.stage_builder import StageBuilder


@instruction("ENTRYPOINT", Shape.COMMAND)
@dataclass(frozen=True, slots=True, kw_only=True)
class Entrypoint(Instruction):
    """`ENTRYPOINT ["a", "b"]` or `ENTRYPOINT text`."""

    command: Command

    @classmethod
    def parse(cls, arguments: Arguments) -> Self:
        """Read either form; `[]` takes the entrypoint away."""
        FlagSet(arguments)
        return cls(line=arguments.line, command=arguments.command)

    def lower(self, builder: StageBuilder) -> None:
        """Set `Entrypoint`; a CMD that this stage did not set itself is dropped."""
        arguments = command_line(self.command, builder.shell)
        builder.update(entrypoint=arguments or None)
        if not builder.cmd_set:
            builder.update(cmd=None)
        builder.commit_metadata(f"ENTRYPOINT {quoted_list(arguments)}")
