"""The command parser: argparse with the habits of docker's command line.

Values may follow with a space or `=` and may start with a dash; a flag without value takes one
by `=` only (`--pull=false`, `--squash=all`); options and operands mix freely, except behind the
first operand of commands that run a program. Help has docker's layout; errors are UsageError.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from buildkit_py.errors import UsageError

_TRUE = frozenset(("1", "t", "T", "TRUE", "true", "True"))
_FALSE = frozenset(("0", "f", "F", "FALSE", "false", "False"))
_WIDTH = 99


def state_root(args: argparse.Namespace) -> Path:
    """The state root that `--root` or the environment names."""
    from buildkit_py.store.paths import default_root

    return Path(args.root) if args.root else default_root(os.getuid(), os.environ)


def boolean(text: str) -> bool:
    """The words that Go's ParseBool knows."""
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise argparse.ArgumentTypeError(f'invalid boolean value "{text}"')


def seconds(text: str) -> float:
    """A duration in Go's form (`90s`, `1h30m`), or a plain number of seconds."""
    units = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text)
    parts = re.findall(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)", text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise argparse.ArgumentTypeError(f'invalid duration "{text}"')
    return sum(float(number) * units[unit] for number, unit in parts)


def byte_count(text: str) -> int:
    """A size as docker takes it: `64m`, `1.5g`, `1024`, with an optional `b` or `ib`."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([kmgtp]?)(?:i?b)?", text.lower())
    if found is None:
        raise argparse.ArgumentTypeError(f"invalid size: '{text}'")
    return int(float(found[1]) * 1024 ** " kmgtp".index(found[2] or " "))


class CommandParser(argparse.ArgumentParser):
    """One command's options. `options_first` ends options at the first operand."""

    options_first = False

    def __init__(self, name: str, summary: str) -> None:
        super().__init__(prog=f"pybuild {name}".rstrip(), add_help=False, allow_abbrev=False)
        self.command = name
        self.summary = summary
        self.add_argument("-h", "--help", action="store_true", help="Show this text and exit")
        self.add_argument(
            "-D", "--debug", action="store_true", help="Say more: tracebacks, whole warnings"
        )
        self.add_argument(
            "--root", metavar="dir", help="State directory (PYBUILD_ROOT; see 'pybuild info')"
        )

    def flag(self, *names: str, help: str, default: bool | None = False) -> None:  # noqa: A002
        """Add a yes/no option: `--pull`, `--pull=false`."""
        self.add_argument(
            *names, nargs="?", const="true", default=default, type=boolean, help=help
        )

    def parse(self, argv: Sequence[str]) -> argparse.Namespace:
        """Parse the words behind the command's name. Raises UsageError."""
        options, operands = self._part(argv)
        if "-h" in options or "--help" in options:
            return argparse.Namespace(help=True)
        # argparse gives an optional operand up at the first option, so options come first.
        args, extras = self.parse_known_args([*options, *(["--"] if operands else []), *operands])
        if extras := [word for word in extras if word != "--" or word in operands]:
            self._refuse(extras, operands)
        return args

    def first_operand(self, argv: Sequence[str]) -> int | None:
        """Index of the first word that is neither an option nor an option's value."""
        index = 0
        while index < len(argv):
            word = argv[index]
            if word == "--":
                return index + 1 if index + 1 < len(argv) else None
            if word == "-" or not word.startswith("-"):
                return index
            index += 2 if self._wants_next(word) else 1
        return None

    def _wants_next(self, word: str) -> bool:
        """Whether the value of this option is the next word."""
        table = self._option_string_actions
        if word.startswith("--"):
            action = table.get(word)
            return action is not None and action.nargs is None
        for position, letter in enumerate(word[1:], start=1):
            action = table.get(f"-{letter}")
            if action is None:
                return False
            if action.nargs is None:
                return position == len(word) - 1
        return False

    def _part(self, argv: Sequence[str]) -> tuple[list[str], list[str]]:
        """Options, each joined with its value, and operands."""
        options: list[str] = []
        operands: list[str] = []
        index = 0
        while index < len(argv):
            word = argv[index]
            index += 1
            if word == "--":
                return options, operands + list(argv[index:])
            if word == "-" or not word.startswith("-"):
                operands.append(word)
                if self.options_first:
                    return options, operands + list(argv[index:])
                continue
            flags, word = self._split_cluster(word)
            options += flags
            if self._wants_next(word):
                if index == len(argv):
                    self.error(f"flag needs an argument: {word}")
                options.append(word + ("=" if word.startswith("--") else "") + argv[index])
                index += 1
            else:
                options.append(self._with_constant(word))
        return options, operands

    def _split_cluster(self, word: str) -> tuple[list[str], str]:
        """`-it` becomes `-itrue` and `-t`: argparse would take the `t` for a value of `-i`."""
        flags: list[str] = []
        while len(word) > 2 and not word.startswith("--"):
            action = self._option_string_actions.get(word[:2])
            known = f"-{word[2]}" in self._option_string_actions
            if action is None or action.nargs != "?" or not known:
                break
            flags.append(f"{word[:2]}{action.const}")
            word = f"-{word[2:]}"
        return flags, word

    def _with_constant(self, word: str) -> str:
        """`--pull` becomes `--pull=true`, so that the next word stays an operand."""
        action = self._option_string_actions.get(word)
        if action is None or action.nargs != "?":
            return word
        joint = "=" if word.startswith("--") else ""
        return f"{word}{joint}{action.const}"

    def _refuse(self, extras: list[str], operands: list[str]) -> NoReturn:
        unknown = next((word for word in extras if word.startswith("-")), None)
        if unknown is None or unknown in operands:
            raise UsageError(
                f'"{self.prog}" does not take the argument "{extras[0]}"', hint=self._see()
            )
        name = unknown.split("=", 1)[0]
        if not name.startswith("--"):
            raise UsageError(f"unknown shorthand flag: {name}", hint=self._see())
        close = closest(name, list(self._option_string_actions))
        also = f" (did you mean {close}?)" if close else ""
        raise UsageError(f"unknown flag: {name}{also}", hint=self._see())

    def error(self, message: str) -> NoReturn:
        """Raise argparse's complaint as a UsageError in our words."""
        found = re.fullmatch(r"argument (\S+?): (.*)", message, re.DOTALL)
        if found is not None:
            name = found[1].split("/")[-1]
            if "expected one argument" in found[2]:
                message = f"flag needs an argument: {name}"
            elif "ignored explicit argument" in found[2]:
                message = f"flag takes no value: {name}"
            else:
                message = f"invalid argument for {name}: {found[2]}"
        elif message.startswith("the following arguments are required: "):
            wanted = message.partition(": ")[2]
            message = f'"{self.prog}" needs an argument: {wanted}'
        raise UsageError(message, hint=self._see())

    def _see(self) -> str:
        return f"see '{self.prog} --help'"

    def format_help(self) -> str:
        """Usage, summary and options, as docker lays them out."""
        lines = ["", f"Usage:  {self._usage_line()}", "", self.summary]
        operands = [
            (str(action.metavar or action.dest), action.help)
            for action in self._actions
            if not action.option_strings and action.help and action.help != argparse.SUPPRESS
        ]
        if operands:
            lines += ["", "Arguments:", *_columns(operands)]
        options = sorted(
            (
                action
                for action in self._actions
                if action.option_strings and action.help != argparse.SUPPRESS
            ),
            key=lambda action: _long_name(action).lstrip("-"),
        )
        lines += ["", "Options:", *_columns([_option_row(action) for action in options])]
        if self.epilog:
            lines += ["", self.epilog]
        return "\n".join(lines) + "\n"

    def _usage_line(self) -> str:
        if self.usage is not None:
            return self.usage
        words = [self.prog, "[OPTIONS]"]
        for action in self._actions:
            if action.option_strings or action.help == argparse.SUPPRESS:
                continue
            name = str(action.metavar or action.dest).upper()
            shape = {"?": f"[{name}]", "*": f"[{name}...]", "+": f"{name} [{name}...]"}
            words.append(shape.get(str(action.nargs), name))
        return " ".join(words)


def closest(word: str, known: Sequence[str]) -> str | None:
    """The known word that was probably meant."""
    import difflib  # needed on the way to an error only

    found = difflib.get_close_matches(word, known, n=1, cutoff=0.75)
    return found[0] if found else None


def _long_name(action: argparse.Action) -> str:
    return max(action.option_strings, key=len)


def _option_row(action: argparse.Action) -> tuple[str, str | None]:
    short = next((name for name in action.option_strings if len(name) == 2), None)
    name = (f"{short}, " if short else "    ") + ", ".join(
        option for option in action.option_strings if len(option) > 2
    )
    if action.nargs is None:
        kind = "list" if isinstance(action.default, list) else "string"
        name += f" {action.metavar or kind}"
    elif action.metavar:
        name += f"[={action.metavar}]"
    return name, action.help


def _columns(rows: Sequence[tuple[str, str | None]]) -> list[str]:
    width = max((len(left) for left, _ in rows if len(left) <= 32), default=0)
    out: list[str] = []
    for left, right in rows:
        wrapped = _wrap(right or "", _WIDTH - width - 5)
        heads = [left] if len(left) <= width else [""]
        if heads != [left]:
            out.append(f"  {left}")
        heads += [""] * (len(wrapped) - 1)
        out.extend(
            f"  {head:<{width}}   {text}".rstrip()
            for head, text in zip(heads, wrapped, strict=True)
        )
    return out


def _wrap(text: str, width: int) -> list[str]:
    lines, line = [], ""
    for word in text.split():
        if line and len(line) + 1 + len(word) > width:
            lines.append(line)
            line = word
        else:
            line = f"{line} {word}".strip()
    return [*lines, line]


Configure = Callable[[CommandParser], None]
Run = Callable[[argparse.Namespace], int]
