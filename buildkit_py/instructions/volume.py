"""VOLUME: names mount points."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

from buildkit_py.errors import InvalidArgument
from buildkit_py.heredocs import BLANKS
from buildkit_py.instructions.base import Instruction, at_least_one, instruction
from buildkit_py.instructions.flags import FlagSet
from buildkit_py.instructions.gotext import plain_list
from buildkit_py.syntax import Arguments, Shape

if TYPE_CHECKING:
    from buildkit_py.expansion import Expander
    from buildkit_py.stage_builder import StageBuilder

_EMPTY = "VOLUME specified can not be an empty string"


@instruction("VOLUME", Shape.PATHS)
@dataclass(frozen=True, slots=True, kw_only=True)
class Volume(Instruction):
    """`VOLUME path …` or `VOLUME ["path", …]`."""

    paths: tuple[str, ...]

    @classmethod
    def parse(cls, arguments: Arguments) -> Self:
        """Read the paths."""
        paths = tuple(path.strip(BLANKS) for path in at_least_one(arguments))
        FlagSet(arguments)
        if not all(paths):
            raise InvalidArgument(_EMPTY, span=arguments.operands_span)
        return cls(line=arguments.line, paths=paths)

    def expand(self, expander: Expander) -> Self:
        """Each path."""
        return replace(self, paths=tuple(expander.word(path) for path in self.paths))

    def lower(self, builder: StageBuilder) -> None:
        """Merge into `Volumes`; later steps still write there."""
        if not all(self.paths):
            raise InvalidArgument(_EMPTY, span=self.span)
        builder.growing.add_volumes(self.paths)
        builder.commit_metadata(f"VOLUME {plain_list(self.paths)}")
