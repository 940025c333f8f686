"""Rules about form: casing, deprecated spellings, instructions that have no effect."""

from __future__ import annotations

from collections.abc import Iterator

from buildkit_py.instructions.arg import Arg
from buildkit_py.instructions.base import Instruction
from buildkit_py.instructions.cmd import Cmd
from buildkit_py.instructions.entrypoint import Entrypoint
from buildkit_py.instructions.env import Env
from buildkit_py.instructions.from_ import From
from buildkit_py.instructions.healthcheck import HealthCheck
from buildkit_py.instructions.label import Label
from buildkit_py.instructions.maintainer import Maintainer
from buildkit_py.instructions.shell import Shell
from buildkit_py.lint.rule import Problem, StageView, Subject, rule
from buildkit_py.source import lines_span
from buildkit_py.syntax import ShellForm


@rule(
    "NoEmptyContinuation",
    "Empty continuation lines will become errors in a future release",
    slug="no-empty-continuation",
)
def empty_continuation(subject: Subject) -> Iterator[Problem]:
    """An empty line inside a continued instruction."""
    for item in _all_instructions(subject):
        if item.line.empty_continuations:
            last = lines_span(item.line.source, item.line.last_of_text, item.line.last_of_text)
            yield Problem(message="Empty continuation line", at=item, span=last)


@rule(
    "ConsistentInstructionCasing",
    "All commands within the Dockerfile should use the same casing (either upper or lower)",
    slug="consistent-instruction-casing",
)
def consistent_casing(subject: Subject) -> Iterator[Problem]:
    """A keyword in another casing than most of the file's."""
    items = list(_instructions_of_stages(subject))
    lower = sum(item.written_keyword.islower() for item in items)
    upper = sum(item.written_keyword.isupper() for item in items)
    casing = "lowercase" if lower > upper else "uppercase"
    for item in items:
        word = item.written_keyword
        right = word.lower() if lower > upper else word.upper()
        if word != right:
            yield Problem(
                message=f"Command '{word}' should match the case of the command majority"
                f" ({casing})",
                at=item,
            )


@rule(
    "JSONArgsRecommended",
    "JSON arguments recommended for ENTRYPOINT/CMD to prevent unintended behavior related to OS"
    " signals",
    slug="json-args-recommended",
)
def json_arguments(subject: Subject) -> Iterator[Problem]:
    """CMD or ENTRYPOINT as shell text while no SHELL is set."""
    with_shell: set[int] = set()
    for stage in subject.stages:
        chosen = stage.parent in with_shell or bool(stage.config and stage.config.shell)
        for item in stage.instructions:
            if isinstance(item, Shell):
                chosen = True
            elif (
                isinstance(item, (Cmd, Entrypoint))
                and isinstance(item.command, ShellForm)
                and not chosen
            ):
                yield Problem(
                    message=f"JSON arguments recommended for {item.written_keyword} to prevent"
                    " unintended behavior related to OS signals",
                    at=place(stage, item),
                )
        if chosen:
            with_shell.add(stage.index)


@rule(
    "MaintainerDeprecated",
    "The MAINTAINER instruction is deprecated, use a label instead to define an image author",
    slug="maintainer-deprecated",
)
def maintainer(subject: Subject) -> Iterator[Problem]:
    """MAINTAINER."""
    for item in _all_instructions(subject):
        if isinstance(item, Maintainer):
            yield Problem(
                message="Maintainer instruction is deprecated in favor of using label", at=item
            )


@rule(
    "MultipleInstructionsDisallowed",
    "Multiple instructions of the same type should not be used in the same stage",
    slug="multiple-instructions-disallowed",
)
def multiple_instructions(subject: Subject) -> Iterator[Problem]:
    """A CMD, ENTRYPOINT or HEALTHCHECK that a later one makes void, told at the earlier one."""
    for stage in subject.stages:
        seen: dict[type[Instruction], Instruction] = {}
        for item in stage.instructions:
            if not isinstance(item, (Cmd, Entrypoint, HealthCheck)):
                continue
            earlier = seen.get(type(item))
            if earlier is not None:
                yield Problem(
                    message=f"Multiple {item.written_keyword} instructions should not be used in"
                    " the same stage because only the last one will be used",
                    at=place(stage, earlier),
                )
            seen[type(item)] = item


@rule(
    "LegacyKeyValueFormat",
    "Legacy key/value format with whitespace separator should not be used",
    slug="legacy-key-value-format",
)
def legacy_pairs(subject: Subject) -> Iterator[Problem]:
    """`ENV key value`."""
    for stage in subject.stages:
        for item in stage.instructions:
            if isinstance(item, (Env, Label)) and item.legacy:
                word = item.written_keyword
                yield Problem(
                    message=f'"{word} key=value" should be used instead of legacy "{word} key'
                    ' value" format',
                    at=place(stage, item),
                )


@rule(
    "InvalidDefinitionDescription",
    "Comment for build stage or argument should follow the format:"
    " `# <arg/stage name> <description>`. If this is not intended to be a description comment, add"
    " an empty line or comment between the instruction and the comment.",
    slug="invalid-definition-description",
    experimental=True,
)
def definition_description(subject: Subject) -> Iterator[Problem]:
    """A comment above ARG or FROM that does not begin with the name it describes."""
    for item in _all_instructions(subject):
        if isinstance(item, From):
            names = [item.name] if item.name else []
        elif isinstance(item, Arg):
            names = [entry.name for entry in item.items]
        else:
            continue
        lines = item.comment.splitlines()
        if not names or not lines or lines[-1].strip().split(" ")[0] in names:
            continue
        shown = names[0] if len(names) == 1 else "<arg_key>"
        yield Problem(
            message=f"Comment for {item.keyword} should follow the format:"
            f" `# {shown} <description>`",
            at=item,
        )


def place(stage: StageView, item: Instruction) -> Instruction:
    """Where to tell a problem: a trigger of the base image stands at the FROM."""
    triggers = stage.instructions[: stage.trigger_count]
    return stage.from_ if any(item is trigger for trigger in triggers) else item


def _all_instructions(subject: Subject) -> Iterator[Instruction]:
    yield from subject.dockerfile.global_args
    yield from _instructions_of_stages(subject)


def _instructions_of_stages(subject: Subject) -> Iterator[Instruction]:
    for stage in subject.dockerfile.stages:
        yield stage.from_
        yield from stage.instructions
