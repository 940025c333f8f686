"""What an instruction is, and the registry that maps keywords to classes.

An instruction is a value: parsed, unresolved, frozen. `expand` gives a new value with variables
replaced; `lower` adds its effect to a StageBuilder. Each class lives in the file of its name and
registers itself by `@instruction`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Self, TypeVar

from buildkit_py.errors import InvalidArgument, SyntaxProblem, UnsetVariable
from buildkit_py.expansion import ExpansionError, Mode, Scanner
from buildkit_py.heredocs import Heredoc
from buildkit_py.instructions.gotext import quoted
from buildkit_py.lines import LogicalLine
from buildkit_py.syntax import Arguments, Command, ExecForm, Flag, Shape, parse_arguments

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from buildkit_py.expansion import Expander
    from buildkit_py.source import Span
    from buildkit_py.stage_builder import StageBuilder


@dataclass(frozen=True, slots=True, kw_only=True)
class Instruction:
    """One line of a Dockerfile. Equality ignores where it stands and how it is spelled."""

    keyword: ClassVar[str] = ""
    shape: ClassVar[Shape]

    line: LogicalLine = field(repr=False, compare=False)
    heredocs: tuple[Heredoc, ...] = ()

    @property
    def span(self) -> Span:
        """The physical lines of the instruction, here-document bodies included."""
        return self.line.span

    @property
    def text(self) -> str:
        """The instruction as written, on one line, without here-document bodies."""
        return self.line.text

    @property
    def flags(self) -> tuple[Flag, ...]:
        """The flags as written: names, and values without quotes but not expanded."""
        return parse_arguments(self.shape, self.line, self.line.escape).flags

    @property
    def arguments(self) -> tuple[str, ...]:
        """The operands as written: words, the strings of an array, or one text for the shell."""
        parsed = parse_arguments(self.shape, self.line, self.line.escape)
        if parsed.json is not None:
            return (*(word.text for word in parsed.words), *parsed.json)
        if self.shape in {Shape.COMMAND, Shape.TEXT}:
            return (parsed.rest.text,) if parsed.rest.text else ()
        if self.shape is Shape.CHECK:
            return tuple(text for text in (*parsed.operands[:1], parsed.rest.text) if text)
        return parsed.operands

    @property
    def comment(self) -> str:
        """The comment block directly above, its lines joined by newlines."""
        return self.line.comment

    @property
    def written_keyword(self) -> str:
        """The keyword in the casing of the file."""
        return self.line.keyword

    def description(self, name: str) -> str:
        """The doc comment for `name`: what follows it on a line `# name text` above."""
        for line in self.comment.split("\n"):
            if name and line.startswith(f"{name} "):
                return line[len(name) + 1 :]
        return ""

    @classmethod
    def parse(cls, arguments: Arguments) -> Self:
        """Make the instruction from its arguments. Raises DockerfileError."""
        raise NotImplementedError

    def expand(self, expander: Expander) -> Self:  # noqa: ARG002  (most instructions expand nothing)
        """The instruction with its variables replaced. Raises ExpansionError."""
        return self

    def lower(self, builder: StageBuilder) -> None:
        """Apply the (expanded) instruction to a stage. Raises DockerfileError or PlanError."""
        raise NotImplementedError


_LONGEST_WORD = 200  # of a word that an error names

REGISTRY: dict[str, type[Instruction]] = {}

_I = TypeVar("_I", bound=Instruction)


def instruction(keyword: str, shape: Shape) -> Callable[[type[_I]], type[_I]]:
    """Register a class under its keyword, with the shape of its arguments."""

    def register(cls: type[_I]) -> type[_I]:
        cls.keyword = keyword
        cls.shape = shape
        REGISTRY[keyword] = cls
        return cls

    return register


def expanded(item: _I, expander: Expander) -> _I:
    """`item.expand(expander)`, errors placed at the variable.

    Raises UnsetVariable or InvalidArgument.
    """
    try:
        return item.expand(expander)
    except ExpansionError as error:
        raise located(error, item.line) from None


def located(error: ExpansionError, line: LogicalLine) -> UnsetVariable | InvalidArgument:
    """An expansion error as an error of a line, placed where the variable is named."""
    span = line.span
    for form in (f"${{{error.variable}", f"${error.variable}"):
        at = line.text.find(form, line.arguments_start) if error.variable else -1
        if at >= 0:
            span = line.part(at, at + len(form))
            break
    kind = UnsetVariable if error.required else InvalidArgument
    word = error.word if len(error.word) <= _LONGEST_WORD else error.word[:_LONGEST_WORD] + "…"
    return kind(f"failed to process {quoted(word)}: {error.message}", span=span)


def display_text(
    text: str, variables: Mapping[str, str], *, escape: str = "\\", keep_quotes: bool = False
) -> str:
    """An instruction's text for progress output: keyword upper-case, known variables replaced."""
    keyword, blank, rest = text.partition(" ")
    mode = Mode(escape=escape, keep_quotes=keep_quotes, keep_unset=keep_quotes)
    scanner = Scanner(rest, variables, mode)
    try:
        scanner.run()
        rest = scanner.text()
    except ExpansionError:
        pass
    return keyword.upper() + blank + rest


# ------------------------------------------------------------------ argument counts
def one_argument(arguments: Arguments) -> str:
    """The single text operand of USER, WORKDIR and their like. Raises SyntaxProblem."""
    if not arguments.rest.text:
        raise SyntaxProblem(
            f"{arguments.line.keyword.upper()} requires exactly one argument",
            span=arguments.keyword_span,
        )
    return arguments.rest.text


def at_least_one(arguments: Arguments) -> tuple[str, ...]:
    """The operands, of which there must be one. Raises SyntaxProblem."""
    if not arguments.operands:
        raise no_arguments(arguments)
    return arguments.operands


def no_arguments(arguments: Arguments) -> SyntaxProblem:
    """What is said of an instruction without operands."""
    return SyntaxProblem(
        f"{arguments.line.keyword.upper()} requires at least one argument",
        span=arguments.keyword_span,
    )


def command_line(command: Command, shell: tuple[str, ...]) -> tuple[str, ...]:
    """The argument list of a command; the shell form through `shell`."""
    if isinstance(command, ExecForm):
        return command.arguments
    return (*shell, command.text)
