"""Decodes `--flag[=value]` into typed values, with did-you-mean."""

from __future__ import annotations

from typing import TYPE_CHECKING

from buildkit_py.errors import InvalidFlag
from buildkit_py.suggest import nearest

if TYPE_CHECKING:
    from buildkit_py.source import Span
    from buildkit_py.syntax import Arguments, Flag


class FlagSet:
    """The flags of one line, checked against what the instruction knows.

    Flags named in `lists` may be repeated; those in `booleans` need no value.
    """

    def __init__(
        self,
        arguments: Arguments,
        *,
        strings: tuple[str, ...] = (),
        lists: tuple[str, ...] = (),
        booleans: tuple[str, ...] = (),
    ) -> None:
        self._arguments = arguments
        self._found: dict[str, list[Flag]] = {}
        known = {*strings, *lists, *booleans}
        for flag in arguments.flags:
            if flag.name not in known:
                self._unknown(flag, known)
            if flag.name in self._found and flag.name not in lists:
                raise self.problem(flag, f"duplicate flag specified: --{flag.name}")
            if flag.value is None and flag.name not in booleans:
                raise self.problem(flag, f"missing a value on flag: --{flag.name}")
            if flag.name in booleans:
                self._check_boolean(flag)
            self._found.setdefault(flag.name, []).append(flag)

    def problem(self, flag: Flag, message: str) -> InvalidFlag:
        """An error at the place of a flag."""
        return InvalidFlag(message, span=self._arguments.span(flag))

    def text(self, name: str) -> str:
        """A flag's value, empty where it is not given."""
        flags = self._found.get(name)
        return flags[0].value or "" if flags else ""

    def optional_text(self, name: str) -> str | None:
        """A flag's value, None where it is not given."""
        flags = self._found.get(name)
        return flags[0].value if flags else None

    def flags(self, name: str) -> tuple[Flag, ...]:
        """All occurrences of a list flag."""
        return tuple(self._found.get(name, ()))

    def texts(self, name: str) -> tuple[str, ...]:
        """All values of a list flag."""
        return tuple(flag.value or "" for flag in self.flags(name))

    def truth(self, name: str) -> bool | None:
        """A boolean flag, None where it is not given."""
        flags = self._found.get(name)
        return (flags[0].value or "true").lower() == "true" if flags else None

    def span(self, name: str) -> Span | None:
        """Where a flag stands."""
        flags = self._found.get(name)
        return self._arguments.span(flags[0]) if flags else None

    def _unknown(self, flag: Flag, known: set[str]) -> None:
        keyword = self._arguments.line.keyword.upper()
        option = nearest(flag.name, known)
        message = f"unknown flag: --{flag.name}"
        if option:
            message += f" (did you mean {option}?)"
        elif not known:
            raise InvalidFlag(
                message, span=self._arguments.span(flag), hint=f"{keyword} takes no flags"
            )
        raise self.problem(flag, message)

    def _check_boolean(self, flag: Flag) -> None:
        if flag.value == "":
            raise self.problem(flag, f"missing a value on flag: --{flag.name}")
        if flag.value is not None and flag.value.lower() not in {"true", "false"}:
            raise self.problem(
                flag, f"expecting boolean value for flag --{flag.name}, not: {flag.value}"
            )
