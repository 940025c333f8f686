"""STOPSIGNAL: the signal that ends a container."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

from buildkit_py.errors import InvalidArgument
from buildkit_py.instructions.base import Instruction, instruction, one_argument
from buildkit_py.syntax import Arguments, Shape

if TYPE_CHECKING:
    from buildkit_py.expansion import Expander
    from buildkit_py.stage_builder import StageBuilder

_SIGNALS = (
    "ABRT ALRM BUS CHLD CLD CONT FPE HUP ILL INT IO IOT KILL PIPE POLL PROF PWR QUIT SEGV STKFLT"
    " STOP SYS TERM TRAP TSTP TTIN TTOU URG USR1 USR2 VTALRM WINCH XCPU XFSZ RTMIN RTMAX"
)
_REAL_TIME = [f"RTMIN+{n}" for n in range(1, 16)] + [f"RTMAX-{n}" for n in range(1, 15)]
_NAMES = frozenset([*_SIGNALS.split(), *_REAL_TIME])
_NUMBER = re.compile(r"[+-]?\d+\Z")


@instruction("STOPSIGNAL", Shape.TEXT)
@dataclass(frozen=True, slots=True, kw_only=True)
class StopSignal(Instruction):
    """`STOPSIGNAL name|number`, stored as written."""

    signal: str

    @classmethod
    def parse(cls, arguments: Arguments) -> Self:
        """Read the text. Flags are dropped, as the reference builder does."""
        return cls(line=arguments.line, signal=one_argument(arguments))

    def expand(self, expander: Expander) -> Self:
        """The whole text."""
        return replace(self, signal=expander.word(self.signal))

    def lower(self, builder: StageBuilder) -> None:
        """Check and set `StopSignal`."""
        known = self.signal.upper().removeprefix("SIG") in _NAMES
        if not known and not (_NUMBER.match(self.signal) and int(self.signal[-9:])):
            raise InvalidArgument(f"invalid signal: {self.signal}", span=self.span)
        builder.update(stop_signal=self.signal)
        builder.commit_metadata(f"STOPSIGNAL {self.signal}")
