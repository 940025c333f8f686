"""SHELL: the shell of shell forms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from buildkit_py.errors import SyntaxProblem
from buildkit_py.instructions.base import Instruction, instruction, no_arguments
from buildkit_py.instructions.flags import FlagSet
from buildkit_py.instructions.gotext import plain_list
from buildkit_py.syntax import Arguments, Shape

if TYPE_CHECKING:
    from buildkit_py.stage_builder import StageBuilder


@instruction("SHELL", Shape.COMMAND)
@dataclass(frozen=True, slots=True, kw_only=True)
class Shell(Instruction):
    """`SHELL ["/bin/bash", "-c"]`."""

    arguments: tuple[str, ...]

    @classmethod
    def parse(cls, arguments: Arguments) -> Self:
        """Read the array."""
        FlagSet(arguments)
        if arguments.json is None and arguments.rest.text:
            raise SyntaxProblem(
                "SHELL requires the arguments to be in JSON form", span=arguments.operands_span
            )
        if not arguments.json:
            raise no_arguments(arguments)
        return cls(line=arguments.line, arguments=arguments.json)

    def lower(self, builder: StageBuilder) -> None:
        """Set `Shell`."""
        builder.update(shell=self.arguments)
        builder.commit_metadata(f"SHELL {plain_list(self.arguments)}")
