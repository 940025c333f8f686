"""Instruction values back to Dockerfile text that parses to equal values."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from buildkit_py.heredocs import BLANKS
from buildkit_py.instructions.add import Add
from buildkit_py.instructions.arg import Arg
from buildkit_py.instructions.cmd import Cmd
from buildkit_py.instructions.copy import Copy
from buildkit_py.instructions.entrypoint import Entrypoint
from buildkit_py.instructions.env import Env
from buildkit_py.instructions.expose import Expose
from buildkit_py.instructions.from_ import From
from buildkit_py.instructions.gotext import duration_text
from buildkit_py.instructions.healthcheck import HealthCheck
from buildkit_py.instructions.label import Label
from buildkit_py.instructions.maintainer import Maintainer
from buildkit_py.instructions.onbuild import OnBuild
from buildkit_py.instructions.run import Run
from buildkit_py.instructions.shell import Shell
from buildkit_py.instructions.stopsignal import StopSignal
from buildkit_py.instructions.user import User
from buildkit_py.instructions.volume import Volume
from buildkit_py.instructions.workdir import Workdir
from buildkit_py.syntax import Command, ExecForm

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from buildkit_py.dockerfile import Dockerfile
    from buildkit_py.heredocs import Heredoc
    from buildkit_py.instructions.base import Instruction

_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")


def print_dockerfile(dockerfile: Dockerfile) -> str:
    """The whole file: directives, then the instructions, a blank line before each FROM."""
    directives = dockerfile.directives
    named = (("syntax", directives.syntax), ("check", directives.check))
    out = [f"# {name}={value}" for name, value in named if value is not None]
    if directives.escape != "\\":
        out.append(f"# escape={directives.escape}")
    for instruction in dockerfile.instructions:
        if isinstance(instruction, From) and out:
            out.append("")
        out.append(print_instruction(instruction))
    return "\n".join(out) + "\n"


def print_instruction(instruction: Instruction) -> str:
    """One instruction with its here-documents, without a line end."""
    flags = "".join(f" {_flag(name, value)}" for name, value in _flags(instruction))
    text = f"{instruction.keyword}{flags} {_operands(instruction)}".rstrip(" ")
    if isinstance(instruction, OnBuild):
        return text  # its bodies are part of its text
    return text + "".join(f"\n{item.body}{item.name}" for item in instruction.heredocs)


# ------------------------------------------------------------------ flags
def _flag(name: str, value: str | None) -> str:
    if value is None:
        return f"--{name}"
    if value and not any(character in value for character in " \t\v\f\r\x85\xa0\"'\\"):
        return f"--{name}={value}"
    inner = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'--{name}="{inner}"'


def _flags(instruction: Instruction) -> Iterable[tuple[str, str | None]]:
    if isinstance(instruction, From) and instruction.platform is not None:
        yield "platform", instruction.platform
    elif isinstance(instruction, Run):
        yield from (("mount", mount.raw) for mount in instruction.mounts)
        yield from _given(network=instruction.network, security=instruction.security)
        for device in instruction.devices:
            yield "device", device.name + (",required" if device.required else "")
    elif isinstance(instruction, (Copy, Add)):
        yield from _file_flags(instruction)
    elif isinstance(instruction, HealthCheck):
        times = {
            "interval": instruction.interval,
            "timeout": instruction.timeout,
            "start-period": instruction.start_period,
            "start-interval": instruction.start_interval,
        }
        yield from ((name, duration_text(value)) for name, value in times.items() if value)
        if instruction.retries:
            yield "retries", str(instruction.retries)


def _given(**values: str) -> Iterable[tuple[str, str]]:
    return ((name.rstrip("_"), value) for name, value in values.items() if value)


def _file_flags(instruction: Copy | Add) -> Iterable[tuple[str, str | None]]:
    if isinstance(instruction, Copy):
        yield from _given(from_=instruction.from_)
        if instruction.parents:
            yield "parents", None
    else:
        yield from _given(checksum=instruction.checksum)
        for name, value in (
            ("keep-git-dir", instruction.keep_git_dir),
            ("unpack", instruction.unpack),
        ):
            if value is not None:
                yield name, str(value).lower()
    yield from _given(chown=instruction.chown, chmod=instruction.chmod)
    if instruction.link:
        yield "link", None
    yield from (("exclude", pattern) for pattern in instruction.exclude)


# ------------------------------------------------------------------ operands
def _operands(instruction: Instruction) -> str:
    match instruction:
        case From():
            name = instruction.name_written or instruction.name
            return instruction.image + (f" AS {name}" if name else "")
        case Arg():
            return " ".join(
                item.name if item.default is None else f"{item.name}={item.default}"
                for item in instruction.items
            )
        case Env() | Label():
            joint = " " if instruction.legacy else "="
            return " ".join(f"{pair.key}{joint}{pair.value}" for pair in instruction.pairs)
        case Run() | Cmd() | Entrypoint():
            return _command(instruction.command)
        case HealthCheck():
            command = instruction.command
            return "NONE" if command is None else f"CMD {_command(command)}"
        case Copy() | Add():
            return _paths(instruction)
        case Volume() | Expose() | Shell():
            return _list(instruction)
        case _:
            return _text(instruction)


def _list(instruction: Volume | Expose | Shell) -> str:
    if isinstance(instruction, Expose):
        text = " ".join(_placed(instruction.ports))
        # a blank that a line loses at its end, but that keeps it from going on
        return text + "\xa0" * text.endswith(("\\", "`"))
    return _array(instruction.paths if isinstance(instruction, Volume) else instruction.arguments)


def _placed(words: Sequence[str]) -> list[str]:
    """Words whose order says nothing, those that a line may begin and end with at its ends.

    A line's ends lose their blanks, also those that are no blanks between words; a flag must not
    come first, nor a line go on.
    """
    left = list(words)
    begin = {word: word.lstrip(BLANKS) == word and not word.startswith("--") for word in words}
    end = [word for word in words if word.rstrip(BLANKS) == word]
    if end:  # one that could not begin it, if there is one
        last = min(end, key=lambda word: begin[word])
        left.remove(last)
        left.append(last)
    first = next((word for word in left[:-1] if begin[word]), None)
    if first is not None:
        left.remove(first)
        left.insert(0, first)
    return left if begin[left[0]] else ["--", *left]  # after which no flag is looked for


def _text(instruction: Instruction) -> str:
    match instruction:
        case User():
            return instruction.user
        case Workdir():
            return instruction.path
        case StopSignal():
            return instruction.signal
        case Maintainer():
            return instruction.name
        case OnBuild():
            return instruction.body
        case _:
            raise TypeError(type(instruction))


def _command(command: Command) -> str:
    if isinstance(command, ExecForm):
        return _array(command.arguments)
    return command.text


def _array(items: Iterable[str]) -> str:
    return json.dumps(list(items), ensure_ascii=False)


def _paths(instruction: Copy | Add) -> str:
    if instruction.documents:
        markers = [_marker(document) for document in instruction.documents]
        return " ".join([*instruction.sources, *markers, instruction.destination])
    words = [*instruction.sources, instruction.destination]
    blank = any(not word or any(c in word for c in "\t\v\f\r \n") for word in words)
    if blank or words[0].startswith(("[", "-")):
        return _array(words)
    return " ".join(words)


def _marker(document: Heredoc) -> str:
    name = document.name
    if not document.expand:
        name = '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'
    elif not set(name) <= _PLAIN:
        name = "".join(c if c in _PLAIN or c == "$" else f"\\{c}" for c in name)
    dash = "-" if document.strip_tabs else ""
    return f"{document.descriptor or ''}<<{dash}{name}"
