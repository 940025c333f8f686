"""Rules about files and ports: COPY, ADD, WORKDIR, EXPOSE."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator

from buildkit_py.dockerignore import IgnoreMatcher
from buildkit_py.instructions.add import Add
from buildkit_py.instructions.base import Instruction
from buildkit_py.instructions.copy import Copy
from buildkit_py.instructions.expose import Expose, split_port
from buildkit_py.instructions.workdir import Workdir
from buildkit_py.lint.rule import Problem, Subject, rule

_WILDCARD = re.compile(r"[*?\[]")
_REMOTE = re.compile(r"[a-z][a-z0-9+.-]*://|git@", re.IGNORECASE)
_EVERYTHING = frozenset({"*", "**", "**/*"})


@rule(
    "WorkdirRelativePath",
    "Relative workdir without an absolute workdir declared within the build can have unexpected"
    " results if the base image changes",
    slug="workdir-relative-path",
)
def relative_workdir(subject: Subject) -> Iterator[Problem]:
    """The first WORKDIR of a chain of stages is relative."""
    is_set: dict[int, bool] = {}
    for step in subject.walked:
        stage, item = step.stage, step.expanded
        inherited = stage.parent is not None and is_set.get(stage.parent, False)
        already = is_set.setdefault(stage.index, inherited)
        if isinstance(item, Workdir):
            if not already and not item.path.startswith("/"):
                yield Problem(
                    message=f'Relative workdir "{item.path}" can have unexpected results if the'
                    " base image changes",
                    at=step.at,
                )
            is_set[stage.index] = True


@rule(
    "CopyIgnoredFile",
    "Attempting to Copy file that is excluded by .dockerignore",
    slug="copy-ignored-file",
)
def ignored_source(subject: Subject) -> Iterator[Problem]:
    """A literal source that the ignore file leaves out."""
    if not subject.ignore:
        return
    matcher = IgnoreMatcher(subject.ignore)
    for step in subject.walked:
        word = "Add" if isinstance(step.expanded, Add) else "Copy"
        for source in _local_sources(step.expanded):
            path = posixpath.normpath(source)
            if _is_ignored(path, matcher, subject.ignore):
                yield Problem(
                    message=f'Attempting to {word} file "{path}" that is excluded by'
                    " .dockerignore",
                    at=step.at,
                )


def _local_sources(item: Instruction | None) -> tuple[str, ...]:
    if isinstance(item, Add):
        sources = tuple(source for source in item.sources if not _REMOTE.match(source))
    elif isinstance(item, Copy) and not item.from_:
        sources = item.sources
    else:
        return ()
    return tuple(source for source in sources if source and not _WILDCARD.search(source))


def _is_ignored(path: str, matcher: IgnoreMatcher, patterns: tuple[str, ...]) -> bool:
    if path in {".", "/"} and not _EVERYTHING.intersection(patterns):
        return False  # the root itself is left out only by a pattern for all that it holds
    if any(_may_bring_back(pattern[1:], path) for pattern in patterns if pattern[:1] == "!"):
        return False
    return path in {".", "/"} or matcher.excluded(path.lstrip("/"))


def _may_bring_back(pattern: str, path: str) -> bool:
    """Whether an exception could match something at or below a path."""
    path = "" if path in {".", "/"} else path.lstrip("/")
    parts = pattern.strip().strip("/").split("/")
    literal: list[str] = []
    for part in parts:
        if _WILDCARD.search(part):
            break
        literal.append(part)
    prefix = "/".join(literal)
    if _at_or_below(prefix, path):
        return True
    return len(literal) < len(parts) and _at_or_below(path, prefix)


def _at_or_below(path: str, base: str) -> bool:
    return not base or path == base or path.startswith(base + "/")


@rule(
    "ExposeProtoCasing",
    "Protocol in EXPOSE instruction should be lowercase",
    slug="expose-proto-casing",
)
def protocol_casing(subject: Subject) -> Iterator[Problem]:
    """`EXPOSE 80/TCP`."""
    for _, at, port in _ports(subject):
        _, _, protocol = split_port(port)[2].partition("/")
        if protocol != protocol.lower():
            yield Problem(
                message=f"Defined protocol '{port}' in EXPOSE instruction should be lowercase",
                at=at,
            )


@rule(
    "ExposeInvalidFormat",
    "IP address and host-port mapping should not be used in EXPOSE instruction. This will become"
    " an error in a future release",
    slug="expose-invalid-format",
)
def port_format(subject: Subject) -> Iterator[Problem]:
    """`EXPOSE 127.0.0.1:80:80`."""
    for _, at, port in _ports(subject):
        address, host, _ = split_port(port)
        if address or host:
            yield Problem(
                message=f"EXPOSE instruction should not define an IP address or host-port"
                f" mapping, found '{port}'",
                at=at,
            )


def _ports(subject: Subject) -> Iterator[tuple[Expose, Instruction, str]]:
    for step in subject.walked:
        if isinstance(step.expanded, Expose):
            for port in step.expanded.ports:
                yield step.expanded, step.at, port
