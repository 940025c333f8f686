"""ARG: declares build arguments."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from buildkit_py.errors import SyntaxProblem
from buildkit_py.expansion import Expander, ExpansionError
from buildkit_py.instructions.base import Instruction, at_least_one, instruction, located
from buildkit_py.syntax import Arguments, Shape

if TYPE_CHECKING:
    from buildkit_py.stage_builder import StageBuilder


@dataclass(frozen=True, slots=True, kw_only=True)
class ArgItem:
    """`name[=default]`; the default as written, quotes included."""

    name: str
    default: str | None = None
    description: str = field(default="", compare=False)


@instruction("ARG", Shape.PAIRS)
@dataclass(frozen=True, slots=True, kw_only=True)
class Arg(Instruction):
    """`ARG name[=default] …`.

    Defaults are expanded while lowering, one after the other, because a default that `--build-arg`
    replaces must not be evaluated.
    """

    items: tuple[ArgItem, ...]

    @classmethod
    def parse(cls, arguments: Arguments) -> Self:
        """Read names and defaults. Flags are dropped, as the reference builder does."""
        at_least_one(arguments)
        items = []
        for word in arguments.words:
            name, equals, default = word.text.partition("=")
            if equals and not name:
                raise SyntaxProblem("ARG names can not be blank", span=arguments.span(word))
            items.append((name, default if equals else None))
        bare = cls(line=arguments.line, items=())
        return cls(
            line=arguments.line,
            items=tuple(
                ArgItem(name=name, default=default, description=bare.description(name))
                for name, default in items
            ),
        )

    def lower(self, builder: StageBuilder) -> None:
        """Declare each name: --build-arg, else own default, else the global ARG, else unset."""
        written = []
        for item in self.items:
            value = self._value(item, builder)
            builder.declare_arg(item.name, value)
            written.append(item.name if value is None else f"{item.name}={value}")
        builder.commit_metadata("ARG " + " ".join(written))

    def _value(self, item: ArgItem, builder: StageBuilder) -> str | None:
        if item.name in builder.inputs.build_args:
            return builder.inputs.build_args[item.name]
        if item.default is None:
            return builder.inputs.global_args.get(item.name)
        try:
            return Expander(builder.env, escape=builder.inputs.escape).word(item.default)
        except ExpansionError as error:
            raise located(error, self.line) from None
