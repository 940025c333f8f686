"""Rules about variables: undefined ones, and secrets in ARG and ENV."""

from __future__ import annotations

import re
from collections.abc import Iterator

from buildkit_py.instructions.arg import Arg
from buildkit_py.instructions.base import Instruction
from buildkit_py.instructions.env import Env
from buildkit_py.instructions.expose import Expose
from buildkit_py.lint.rule import Problem, Subject, rule
from buildkit_py.lint.rules_form import place
from buildkit_py.stage_builder import BUILDER_ARGS
from buildkit_py.suggest import nearest

_SECRET = re.compile(
    r"(?:_|^)(?:apikey|auth|credential|credentials|key|password|pword|passwd|secret|token)(?:_|$)",
    re.IGNORECASE,
)
_HARMLESS = re.compile(r"(?:_|^)(?:public|file|version)(?:_|$)", re.IGNORECASE)


@rule("UndefinedVar", "Variables should be defined before their use", slug="undefined-var")
def undefined_variable(subject: Subject) -> Iterator[Problem]:
    """A variable that neither ENV nor ARG nor the base image sets.

    While the base image is unknown, only what looks like a misspelling of a known name is told.
    """
    for step in subject.walked:
        if isinstance(step.written, Expose):
            continue  # the reference builder says nothing of ports
        for name in sorted(step.unset - BUILDER_ARGS):
            guess = nearest(name, step.known)
            if not step.base_known and (guess is None or guess in name):
                continue  # GOPATH is no misspelling of PATH
            meant = f" (did you mean ${guess}?)" if guess else ""
            yield Problem(message=f"Usage of undefined variable '${name}'{meant}", at=step.at)


@rule(
    "SecretsUsedInArgOrEnv",
    "Sensitive data should not be used in the ARG or ENV commands",
    slug="secrets-used-in-arg-or-env",
)
def secrets(subject: Subject) -> Iterator[Problem]:
    """ARG or ENV whose name says that it holds a secret."""
    for stage in subject.stages:
        for item in stage.instructions:
            for name in _declared(item):
                if _SECRET.search(name) and not _HARMLESS.search(name):
                    yield Problem(
                        message="Do not use ARG or ENV instructions for sensitive data"
                        f' ({item.keyword} "{name}")',
                        at=place(stage, item),
                    )


def _declared(item: Instruction) -> tuple[str, ...]:
    if isinstance(item, Arg):
        return tuple(entry.name for entry in item.items)
    return tuple(pair.key for pair in item.pairs) if isinstance(item, Env) else ()
