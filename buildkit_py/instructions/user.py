"""USER: who runs what follows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

from buildkit_py.instructions.base import Instruction, instruction, one_argument
from buildkit_py.instructions.flags import FlagSet
from buildkit_py.syntax import Arguments, Shape

if TYPE_CHECKING:
    from buildkit_py.expansion import Expander
    from buildkit_py.stage_builder import StageBuilder


@instruction("USER", Shape.TEXT)
@dataclass(frozen=True, slots=True, kw_only=True)
class User(Instruction):
    """`USER name[:group]`, stored as written."""

    user: str

    @classmethod
    def parse(cls, arguments: Arguments) -> Self:
        """Read the text."""
        user = one_argument(arguments)
        FlagSet(arguments)
        return cls(line=arguments.line, user=user)

    def expand(self, expander: Expander) -> Self:
        """The whole text."""
        return replace(self, user=expander.word(self.user))

    def lower(self, builder: StageBuilder) -> None:
        """Set `User`; the name is looked up when something runs."""
        builder.update(user=self.user)
        builder.commit_metadata(f"USER {self.user}")
