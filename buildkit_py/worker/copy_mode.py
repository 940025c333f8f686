"""`--chmod`: octal, or symbolic as chmod(1) has it.

Symbolic clauses without `ugoa` mind a umask of 022, whatever that of this process is. `X` sets
execute bits on directories and on files that had one.
"""

from __future__ import annotations

import stat as modes
from dataclasses import dataclass

from buildkit_py.errors import CopyError

_UMASK = 0o022
_STANDARD = 0o6777
_STICKY = 0o1000
_WHO = {"a": _STANDARD, "u": 0o4700, "g": 0o2070, "o": 0o0007}
_BITS = {"r": 0o444, "w": 0o222, "x": 0o111}
_SHIFT = {"u": 6, "g": 3, "o": 0}


@dataclass(frozen=True, slots=True)
class _Clause:
    who: int
    operator: str
    permissions: str


@dataclass(frozen=True, slots=True)
class ModeChange:
    """A parsed `--chmod`."""

    octal: int | None
    clauses: tuple[_Clause, ...] = ()

    def apply(self, mode: int) -> int:
        """The permission bits that an entry of this full mode gets."""
        if self.octal is not None:
            return self.octal
        bits = mode & 0o7777
        executable = bool(mode & 0o111) or modes.S_ISDIR(mode)
        for clause in self.clauses:
            bits = _apply_clause(clause, bits, executable=executable)
        return bits

    @property
    def made_directories(self) -> int:
        """Mode of directories made on the way to the destination."""
        return 0o755 if self.octal is None else self.octal & 0o777


def parse_mode(text: str) -> ModeChange:
    """Parse the value of `--chmod`. Raises CopyError."""
    if text[:1].isdigit():
        if not all(digit in "01234567" for digit in text) or int(text, 8) > 0o7777:
            raise _invalid(text)
        return ModeChange(int(text, 8))
    clauses: list[_Clause] = []
    for part in text.split(","):
        _parse_part(part, text, clauses)
    return ModeChange(None, tuple(clauses))


def _parse_part(part: str, text: str, clauses: list[_Clause]) -> None:
    rest = part.lstrip("ugoa")
    who = 0
    for letter in part[: len(part) - len(rest)]:
        who |= _WHO[letter]
    if not rest:
        raise _invalid(text)
    while rest:
        operator, rest = rest[0], rest[1:]
        if operator not in "+-=":
            raise _invalid(text)
        end = next((i for i, letter in enumerate(rest) if letter not in "rwxXstugo"), len(rest))
        clauses.append(_Clause(who, operator, rest[:end]))
        rest = rest[end:]


def _apply_clause(clause: _Clause, bits: int, *, executable: bool) -> int:
    named = clause.who
    allowed = named or 0o7777 & ~_UMASK
    wanted = 0
    for letter in clause.permissions:
        if letter in _BITS:
            wanted |= _BITS[letter] & allowed
        elif letter == "X":
            wanted |= 0o111 & allowed if executable else 0
        elif letter == "s":
            wanted |= 0o6000 & allowed
        elif letter == "t":
            wanted |= _STICKY if not named or named & ~0o007 else 0
        else:
            class_bits = bits >> _SHIFT[letter] & 0o7
            wanted |= class_bits * 0o111 & allowed
    if clause.operator == "-":
        return bits & ~wanted
    if clause.operator == "=":
        bits &= ~(named or _STANDARD)
    return bits | wanted


def _invalid(text: str) -> CopyError:
    return CopyError(
        f"invalid chmod parameter: '{text}'. it should be octal string and between 0 and 07777"
    )
