"""Which variables are visible where: global ARGs, predefined ones, and those of a stage.

These are the static rules (FEATURES: ARG and predefined arguments); `lower` has the environment of
the base image besides. A `--build-arg` beats a default, a default beats the global ARG's value.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from buildkit_py.errors import UsageError
from buildkit_py.expansion import Expander, ExpansionError, expand
from buildkit_py.instructions.arg import Arg
from buildkit_py.instructions.base import Instruction, located
from buildkit_py.instructions.env import Env

if TYPE_CHECKING:
    from buildkit_py.oci.config import ContainerConfig
    from buildkit_py.platforms import Platform
    from buildkit_py.source import Span

PROXY_ARGS = ("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY")
EPOCH_ARG = "SOURCE_DATE_EPOCH"
_FIRST_SECOND, _LAST_SECOND = -62135596800, 253402300799


@dataclass(frozen=True, slots=True, kw_only=True)
class DeclaredArg:
    """An ARG as declared: its value here, its doc comment, and the ARGs that its default uses."""

    name: str
    value: str | None
    span: Span
    comment: str = ""
    uses: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class GlobalScope:
    """What FROM can use: predefined values and the ARGs before the first FROM."""

    values: Mapping[str, str]
    declared: Mapping[str, DeclaredArg] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """Every name that a FROM may use."""
        return tuple(dict.fromkeys((*self.values, *self.declared)))


def given_args(
    build_args: Mapping[str, str | None], environment: Mapping[str, str]
) -> dict[str, str]:
    """`--build-arg` values; one without a value is taken from the caller's environment."""
    found = ((k, environment.get(k) if v is None else v) for k, v in build_args.items())
    return {name: value for name, value in found if value is not None}


def predefined_args(
    target: Platform, build: Platform, stage: str, build_args: Mapping[str, str]
) -> dict[str, str]:
    """TARGET*, BUILD* and TARGETSTAGE, each overridden by a build argument of its name."""
    values = {"TARGETSTAGE": stage or "default"}
    for prefix, platform in (("BUILD", build), ("TARGET", target)):
        values[f"{prefix}PLATFORM"] = str(platform)
        values[f"{prefix}OS"] = platform.os
        values[f"{prefix}OSVERSION"] = platform.os_version
        values[f"{prefix}ARCH"] = platform.architecture
        values[f"{prefix}VARIANT"] = platform.variant
    return {name: build_args.get(name, value) for name, value in values.items()}


def proxy_environment(build_args: Mapping[str, str]) -> dict[str, str]:
    """The proxy variables of every RUN, in both cases, from build arguments in either."""
    out: dict[str, str] = {}
    for name in PROXY_ARGS:
        # the lower-case spelling wins where both are given (sorted order, last one)
        for spelling in (name, name.lower()):
            if build_args.get(spelling):
                out[name] = out[name.lower()] = build_args[spelling]
    return out


def evaluate_globals(
    args: Iterable[Arg],
    predefined: Mapping[str, str],
    build_args: Mapping[str, str],
    escape: str,
) -> GlobalScope:
    """Evaluate the ARGs before the first FROM. Raises UnsetVariable or InvalidArgument."""
    values = dict(predefined)
    declared: dict[str, DeclaredArg] = {}
    for arg in args:
        for item in arg.items:
            uses: frozenset[str] = frozenset()
            value = build_args.get(item.name)
            if value is None and item.default is not None:
                try:
                    result = expand(item.default, values, escape=escape)
                except ExpansionError as error:
                    raise located(error, arg.line) from error
                value, uses = result.text, result.used - {item.name}
                if item.name in result.used and item.name in declared:
                    uses |= declared[item.name].uses
            if value is not None:
                values.pop(item.name, None)
                values[item.name] = value
            declared[item.name] = DeclaredArg(
                name=item.name, value=value, span=arg.span, comment=arg.comment, uses=uses
            )
    return GlobalScope(values=values, declared=declared)


def epoch_seconds(text: str) -> int | None:
    """SOURCE_DATE_EPOCH as a number; None for an empty text and for a name."""
    digits = text.removeprefix("-").removeprefix("+")
    if not (digits.isascii() and digits.isdigit()):
        return None
    value = int(text) if len(digits) < 20 else _LAST_SECOND + 1
    if not _FIRST_SECOND <= value <= _LAST_SECOND:
        raise UsageError(f"invalid {EPOCH_ARG}: {text}", hint="expected a time in years 1 to 9999")
    return value


def replace_epoch(scope: GlobalScope, build_args: dict[str, str], text: str) -> GlobalScope:
    """Put a settled epoch where SOURCE_DATE_EPOCH was given; an empty one is taken out."""
    values = dict(scope.values)
    for known in (build_args, values):
        if EPOCH_ARG in known and text:
            known[EPOCH_ARG] = text
        elif EPOCH_ARG in known:
            del known[EPOCH_ARG]
    return replace(scope, values=values)


@dataclass(slots=True, kw_only=True)
class StageScope:
    """The variables of one stage while its instructions are walked, nothing being lowered.

    `base_known` says that the base image's environment is in `env`; else a name that is missing
    may still come from there.
    """

    globals: Mapping[str, str]
    build_args: Mapping[str, str]
    escape: str = "\\"
    env: dict[str, str] = field(default_factory=dict)
    args: dict[str, str | None] = field(default_factory=dict)
    image_env: dict[str, str] = field(default_factory=dict)
    base_known: bool = False

    def child(self) -> StageScope:
        """The scope that a stage based on this one starts with."""
        env = dict(self.env)
        for name, value in self.image_env.items():
            env.pop(name, None)
            env[name] = value
        return StageScope(
            globals=self.globals,
            build_args=self.build_args,
            escape=self.escape,
            env=env,
            args=dict(self.args),
            image_env=dict(self.image_env),
            base_known=self.base_known,
        )

    def take_image(self, config: ContainerConfig) -> None:
        """Start from a base image's environment."""
        self.image_env = config.env_map()
        self.env = dict(self.image_env)
        self.base_known = True

    def expander(self) -> Expander:
        """An expander over the variables that are visible now."""
        return Expander(self.env, escape=self.escape)

    def apply(self, instruction: Instruction) -> Expander:
        """Take over what an ARG or ENV declares; gives the expander that was used."""
        expander = self.expander()
        if isinstance(instruction, Arg):
            for item in instruction.items:
                self._declare(item.name, item.default, expander)
        elif isinstance(instruction, Env):
            for pair in instruction.expand(expander).pairs:
                self.image_env[pair.key] = pair.value
                self.env.pop(pair.key, None)
                self.env[pair.key] = pair.value
        return expander

    def _declare(self, name: str, default: str | None, expander: Expander) -> None:
        value = self.build_args.get(name)
        if value is None:
            value = expander.word(default) if default is not None else self.globals.get(name)
        self.args[name] = value
        if value is not None:
            self.env.pop(name, None)
            self.env[name] = value
