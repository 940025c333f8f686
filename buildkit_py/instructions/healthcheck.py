"""HEALTHCHECK: how to tell that a container is well."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from buildkit_py.errors import InvalidArgument, InvalidFlag, SyntaxProblem
from buildkit_py.instructions.base import Instruction, instruction, no_arguments
from buildkit_py.instructions.flags import FlagSet
from buildkit_py.instructions.gotext import duration_text, parse_duration, plain_list, quoted
from buildkit_py.oci.config import HealthCheck as HealthConfig
from buildkit_py.syntax import Arguments, Command, ExecForm, Shape

if TYPE_CHECKING:
    from buildkit_py.stage_builder import StageBuilder

_DURATIONS = ("interval", "timeout", "start-period", "start-interval")
_MINIMUM = 1_000_000
_INTEGER = re.compile(r"[+-]?[0-9]+\Z")


@instruction("HEALTHCHECK", Shape.CHECK)
@dataclass(frozen=True, slots=True, kw_only=True)
class HealthCheck(Instruction):
    """`HEALTHCHECK NONE` (command None) or `HEALTHCHECK [flags] CMD …`; times in nanoseconds."""

    command: Command | None
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0

    @classmethod
    def parse(cls, arguments: Arguments) -> Self:
        """Read type, flags and command."""
        if not arguments.words:
            raise no_arguments(arguments)
        kind = arguments.words[0].text.upper()
        has_command = arguments.json is not None or bool(arguments.rest.text)
        if kind == "NONE":
            if has_command:
                raise SyntaxProblem(
                    "HEALTHCHECK NONE takes no arguments", span=arguments.operands_span
                )
            return cls(line=arguments.line, command=None)
        flags = FlagSet(arguments, strings=(*_DURATIONS, "retries"))
        if kind != "CMD":
            raise SyntaxProblem(
                f"Unknown type {quoted(kind)} in HEALTHCHECK (try CMD)",
                span=arguments.span(arguments.words[0]),
            )
        if not has_command or arguments.json == ():
            raise SyntaxProblem(
                "Missing command after HEALTHCHECK CMD", span=arguments.operands_span
            )
        times = [_duration(flags, name) for name in _DURATIONS]
        return cls(
            line=arguments.line,
            command=arguments.command,
            interval=times[0],
            timeout=times[1],
            start_period=times[2],
            start_interval=times[3],
            retries=_retries(flags),
        )

    def lower(self, builder: StageBuilder) -> None:
        """Set `Healthcheck`."""
        health = self.config()
        builder.update(healthcheck=health)
        builder.commit_metadata(
            f"HEALTHCHECK {{Test:{plain_list(health.test)}"
            f" Interval:{duration_text(health.interval)}"
            f" Timeout:{duration_text(health.timeout)}"
            f" StartPeriod:{duration_text(health.start_period)}"
            f" StartInterval:{duration_text(health.start_interval)}"
            f" Retries:{health.retries}}}"
        )

    def config(self) -> HealthConfig:
        """The value for the image config."""
        if self.command is None:
            test: tuple[str, ...] = ("NONE",)
        elif isinstance(self.command, ExecForm):
            test = ("CMD", *self.command.arguments)
        else:
            test = ("CMD-SHELL", self.command.text)
        return HealthConfig(
            test=test,
            interval=self.interval,
            timeout=self.timeout,
            start_period=self.start_period,
            start_interval=self.start_interval,
            retries=self.retries,
        )


def _duration(flags: FlagSet, name: str) -> int:
    text = flags.text(name)
    if not text:
        return 0
    try:
        value = parse_duration(text)
    except ValueError as error:
        raise InvalidFlag(str(error), span=flags.span(name)) from None
    if value and value < _MINIMUM:
        raise InvalidArgument(
            f"Interval {quoted(name)} cannot be less than 1ms", span=flags.span(name)
        )
    return value


def _retries(flags: FlagSet) -> int:
    text = flags.text("retries")
    if not text:
        return 0
    if not _INTEGER.match(text):
        raise InvalidFlag(
            f"strconv.ParseInt: parsing {quoted(text)}: invalid syntax", span=flags.span("retries")
        )
    if len(text) > 10 or not -(1 << 31) <= int(text) < 1 << 31:
        raise InvalidFlag(
            f"strconv.ParseInt: parsing {quoted(text)}: value out of range",
            span=flags.span("retries"),
        )
    if int(text) < 0:
        raise InvalidFlag(
            f"--retries cannot be negative ({int(text)})", span=flags.span("retries")
        )
    return int(text)
