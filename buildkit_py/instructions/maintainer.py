"""MAINTAINER: the author (deprecated)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from buildkit_py.instructions.base import Instruction, instruction, one_argument
from buildkit_py.instructions.flags import FlagSet
from buildkit_py.syntax import Arguments, Shape

if TYPE_CHECKING:
    from buildkit_py.stage_builder import StageBuilder


@instruction("MAINTAINER", Shape.TEXT)
@dataclass(frozen=True, slots=True, kw_only=True)
class Maintainer(Instruction):
    """`MAINTAINER name`."""

    name: str

    @classmethod
    def parse(cls, arguments: Arguments) -> Self:
        """Read the text."""
        name = one_argument(arguments)
        FlagSet(arguments)
        return cls(line=arguments.line, name=name)

    def lower(self, builder: StageBuilder) -> None:
        """Set the image's author."""
        builder.author = self.name
        builder.commit_metadata(f"MAINTAINER {self.name}")
