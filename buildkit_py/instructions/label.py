"""LABEL: sets labels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

from buildkit_py.instructions.base import Instruction, instruction
from buildkit_py.instructions.flags import FlagSet
from buildkit_py.instructions.pairs import Pair, expand_pairs, history, parse_pairs
from buildkit_py.syntax import Arguments, Shape

if TYPE_CHECKING:
    from buildkit_py.expansion import Expander
    from buildkit_py.stage_builder import StageBuilder


@instruction("LABEL", Shape.PAIRS)
@dataclass(frozen=True, slots=True, kw_only=True)
class Label(Instruction):
    """`LABEL k=v …`, or `LABEL k rest of line` (legacy)."""

    pairs: tuple[Pair, ...]
    legacy: bool = False

    @classmethod
    def parse(cls, arguments: Arguments) -> Self:
        """Read the pairs."""
        FlagSet(arguments)
        pairs, legacy = parse_pairs(arguments)
        return cls(line=arguments.line, pairs=pairs, legacy=legacy)

    def expand(self, expander: Expander) -> Self:
        """Keys and values."""
        return replace(self, pairs=expand_pairs(self.pairs, expander))

    def lower(self, builder: StageBuilder) -> None:
        """Merge into the labels."""
        builder.growing.add_labels({pair.key: pair.value for pair in self.pairs})
        builder.commit_metadata(history("LABEL", self.pairs))
