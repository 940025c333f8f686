"""CMD: the default command."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from buildkit_py.instructions.base import Instruction, command_line, instruction
from buildkit_py.instructions.flags import FlagSet
from buildkit_py.instructions.gotext import quoted_list
from buildkit_py.syntax import Arguments, Command, Shape

if TYPE_CHECKING:
    from buildkit_py.stage_builder import StageBuilder


@instruction("CMD", Shape.COMMAND)
@dataclass(frozen=True, slots=True, kw_only=True)
class Cmd(Instruction):
    """`CMD ["a", "b"]` or `CMD text`."""

    command: Command

    @classmethod
    def parse(cls, arguments: Arguments) -> Self:
        """Read either form; `[]` empties the command."""
        FlagSet(arguments)
        return cls(line=arguments.line, command=arguments.command)

    def lower(self, builder: StageBuilder) -> None:
        """Set `Cmd`."""
        arguments = command_line(self.command, builder.shell)
        builder.update(cmd=arguments, args_escaped=True)
        builder.cmd_set = True
        builder.commit_metadata(f"CMD {quoted_list(arguments)}")
