"""Opt-in rules: how a file is put together."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator

from buildkit_py.instructions.add import Add
from buildkit_py.instructions.base import Instruction
from buildkit_py.instructions.copy import Copy
from buildkit_py.instructions.env import Env
from buildkit_py.instructions.expose import Expose, split_port
from buildkit_py.instructions.healthcheck import HealthCheck
from buildkit_py.instructions.run import Run
from buildkit_py.instructions.shell import Shell
from buildkit_py.instructions.user import User
from buildkit_py.instructions.workdir import Workdir
from buildkit_py.lint.rule import Problem, Subject, extended
from buildkit_py.lint.shell_text import commands_of, runs

_ARCHIVE = re.compile(r".+\.(?:tar|tgz|tbz2?|txz|tzst|tar\.(?:gz|bz2|xz|zst|lzma|Z))\Z")
_REMOTE = re.compile(r"[a-z][a-z0-9+.-]*://|git@")
_POINTLESS = frozenset("free kill mount ps service shutdown ssh top vim".split())


@extended("DL3000", "Use absolute WORKDIR", severity="error")
def absolute_workdir(subject: Subject) -> Iterator[Problem]:
    """A WORKDIR that depends on the one before."""
    for _, item in subject.instructions():
        if isinstance(item, Workdir) and not re.match(r"[\"']?(?:/|\$|[A-Za-z]:)", item.path):
            yield Problem(message="Use absolute WORKDIR", at=item)


@extended("DL3001", "Commands that make no sense in a container", severity="info")
def pointless_command(subject: Subject) -> Iterator[Problem]:
    """`ssh`, `ps`, `service`, and the like."""
    for text in runs(subject):
        for command in text.commands:
            if command.name in _POINTLESS:
                yield Problem(
                    message="For some bash commands it makes no sense running them in a Docker"
                    f" container like `{command.name}`",
                    at=text.at,
                )


@extended("DL3002", "Last USER should not be root")
def last_user_is_root(subject: Subject) -> Iterator[Problem]:
    """The target runs as root by its own wish."""
    if not subject.stages:
        return
    users = [item for item in subject.stages[-1].instructions if isinstance(item, User)]
    if users and users[-1].user.partition(":")[0] in {"root", "0"}:
        yield Problem(message="Last USER should not be root", at=users[-1])


@extended("DL3003", "Use WORKDIR to switch to a directory")
def cd_command(subject: Subject) -> Iterator[Problem]:
    """A RUN that only begins by changing the directory."""
    for text in runs(subject):
        if text.commands and text.commands[0].name == "cd":
            yield Problem(message="Use WORKDIR to switch to a directory", at=text.at)


@extended("DL3004", "Do not use sudo as it leads to unpredictable behavior", severity="error")
def sudo(subject: Subject) -> Iterator[Problem]:
    """`sudo`."""
    for text in runs(subject):
        if any(command.name == "sudo" for command in text.commands):
            yield Problem(
                message="Do not use sudo as it leads to unpredictable behavior. Use a tool like"
                " gosu to enforce root",
                at=text.at,
            )


@extended("DL3010", "Use ADD for extracting archives into an image", severity="info")
def copied_archive(subject: Subject) -> Iterator[Problem]:
    """An archive that is copied, and unpacked by a later RUN of the stage."""
    for stage in subject.stages:
        copied: dict[str, Copy] = {}
        for item in stage.instructions:
            if isinstance(item, Copy) and not item.from_:
                names = (posixpath.basename(source) for source in item.sources)
                copied.update({name: item for name in names if _ARCHIVE.match(name)})
            elif isinstance(item, Run):
                words = [
                    posixpath.basename(word)
                    for command in commands_of(item)
                    if command.name in {"tar", "gunzip", "bunzip2", "unxz"}
                    for word in command.words
                ]
                for name in [name for name in copied if name in words]:
                    yield Problem(
                        message="Use `ADD` for extracting archives into an image",
                        at=copied.pop(name),
                    )


@extended("DL3011", "Valid UNIX ports range from 0 to 65535", severity="error")
def port_range(subject: Subject) -> Iterator[Problem]:
    """`EXPOSE 80000`."""
    for _, item in subject.instructions():
        if isinstance(item, Expose):
            ports = (split_port(port)[2].partition("/")[0] for port in item.ports)
            numbers = (end for port in ports for end in port.split("-"))
            if any(end.isdigit() and int(end[:9]) > 65535 for end in numbers):
                yield Problem(message="Valid UNIX ports range from 0 to 65535", at=item)


@extended("DL3012", "Multiple HEALTHCHECK instructions", severity="error")
def several_health_checks(subject: Subject) -> Iterator[Problem]:
    """Only the last HEALTHCHECK of a stage counts."""
    for stage in subject.stages:
        checks = [item for item in stage.instructions if isinstance(item, HealthCheck)]
        for item in checks[1:]:
            yield Problem(message="Multiple `HEALTHCHECK` instructions", at=item)


@extended("DL3020", "Use COPY instead of ADD for files and folders", severity="error")
def add_for_files(subject: Subject) -> Iterator[Problem]:
    """ADD of what is neither remote nor an archive."""
    for _, item in subject.instructions():
        if isinstance(item, Add) and any(
            not _REMOTE.match(source) and not _ARCHIVE.match(source) and "$" not in source
            for source in item.sources
        ):
            yield Problem(message="Use COPY instead of ADD for files and folders", at=item)


@extended("DL3021", "COPY with several sources needs a directory", severity="error")
def plain_destination(subject: Subject) -> Iterator[Problem]:
    """Several sources, and a destination that does not say that it is a directory."""
    for _, item in subject.instructions():
        if isinstance(item, Copy) and len(item.sources) > 1:
            last = item.destination
            if not last.endswith(("/", "/.")) and last != "." and "$" not in last:
                yield Problem(
                    message="COPY with more than 2 arguments requires the last argument to end"
                    " with /",
                    at=item,
                )


@extended("DL3022", "COPY --from should reference a previously defined FROM alias")
def unknown_from(subject: Subject) -> Iterator[Problem]:
    """`--from` names neither a stage nor, by its colon or slash, an image."""
    names = {stage.name for stage in subject.dockerfile.stages if stage.name}
    for _, item in subject.instructions():
        name = item.from_ if isinstance(item, Copy) else ""
        if name and name.lower() not in names and not re.search(r"[:/@$]|\A\d+\Z", name):
            yield Problem(
                message="`COPY --from` should reference a previously defined `FROM` alias", at=item
            )


@extended("DL3023", "COPY --from cannot reference its own FROM alias", severity="error")
def from_itself(subject: Subject) -> Iterator[Problem]:
    """A stage that copies from itself."""
    for stage, item in subject.instructions():
        if isinstance(item, Copy) and item.from_ and item.from_.lower() == stage.name:
            yield Problem(message="`COPY --from` cannot reference its own `FROM` alias", at=item)


@extended("DL3024", "FROM aliases must be unique", severity="error")
def unique_aliases(subject: Subject) -> Iterator[Problem]:
    """Two stages of one name."""
    seen: set[str] = set()
    for stage in subject.dockerfile.stages:
        if stage.name in seen:
            yield Problem(message="FROM aliases (stage names) must be unique", at=stage.from_)
        if stage.name:
            seen.add(stage.name)


@extended("DL3044", "ENV refers to a variable that it defines", severity="error")
def self_reference(subject: Subject) -> Iterator[Problem]:
    """`ENV A=1 B=$A` gives B what A was before."""
    for stage in subject.stages:
        defined: set[str] = set()
        for item in stage.instructions[stage.trigger_count :]:
            if not isinstance(item, Env):
                continue
            keys = {pair.key for pair in item.pairs} - defined
            used = {
                name
                for pair in item.pairs
                for name in re.findall(r"(?<!\\)\$\{?(\w+)", pair.value)
                if name != pair.key
            }
            if keys & used:
                yield Problem(
                    message="Do not refer to an environment variable within the same `ENV`"
                    " statement where it is defined",
                    at=item,
                )
            defined |= keys


@extended("DL3045", "COPY to a relative destination without WORKDIR set")
def copy_without_workdir(subject: Subject) -> Iterator[Problem]:
    """A relative destination hangs on the base image's working directory."""
    placed: set[int] = set()
    for stage in subject.stages:
        known = stage.parent in placed
        for item in stage.instructions:
            if isinstance(item, Workdir):
                known = True
            elif isinstance(item, Copy) and not known and _is_relative(item.destination):
                yield Problem(
                    message="`COPY` to a relative destination without `WORKDIR` set", at=item
                )
        if known:
            placed.add(stage.index)


def _is_relative(path: str) -> bool:
    return re.match(r"[\"']?(?:/|\$|[A-Za-z]:)", path) is None


@extended("DL3059", "Multiple consecutive RUN instructions", severity="info")
def consecutive_runs(subject: Subject) -> Iterator[Problem]:
    """Small RUNs that follow one another and could be one."""
    for stage in subject.stages:
        before: Instruction | None = None
        for item in stage.instructions[stage.trigger_count :]:
            if isinstance(item, Run) and isinstance(before, Run) and _could_join(before, item):
                yield Problem(
                    message="Multiple consecutive `RUN` instructions. Consider consolidation.",
                    at=item,
                )
            before = item


def _could_join(one: Run, other: Run) -> bool:
    same = (one.mounts, one.network, one.security) == (other.mounts, other.network, other.security)
    return same and len(commands_of(other)) <= 1 and len(commands_of(one)) <= 1


@extended("DL3066", "USER should be numeric to be checked as non-root", severity="info")
def numeric_user(subject: Subject) -> Iterator[Problem]:
    """Kubernetes' runAsNonRoot cannot tell what a name means."""
    for stage in subject.stages[-1:]:
        users = [item for item in stage.instructions if isinstance(item, User)]
        for item in users[-1:]:
            name = item.user.partition(":")[0]
            if not name.isdigit() and "$" not in name and name != "root":
                yield Problem(message="Use a numeric USER", at=item)


@extended("DL3067", "Copying the whole file system of a stage")
def whole_stage(subject: Subject) -> Iterator[Problem]:
    """`COPY --from=build / /`."""
    for _, item in subject.instructions():
        if isinstance(item, Copy) and item.from_ and "/" in item.sources:
            yield Problem(
                message="Copy only what is needed, not the whole file system of a stage", at=item
            )


@extended("DL4005", "Use SHELL to change the default shell")
def linked_shell(subject: Subject) -> Iterator[Problem]:
    """`ln -sf /bin/bash /bin/sh`."""
    for text in runs(subject):
        if any(command.name == "ln" and "/bin/sh" in command.words for command in text.commands):
            yield Problem(message="Use SHELL to change the default shell", at=text.at)


@extended("DL4006", "Set the SHELL option -o pipefail before RUN with a pipe in it")
def pipefail(subject: Subject) -> Iterator[Problem]:
    """A pipe hides the failure of its first command."""
    safe: set[int] = set()
    for stage in subject.stages:
        is_safe = stage.parent in safe
        for item in stage.instructions[stage.trigger_count :]:
            if isinstance(item, Shell):
                is_safe = "pipefail" in " ".join(item.arguments)
            elif isinstance(item, Run) and not is_safe:
                commands = commands_of(item)
                own = any(c.name == "set" and "pipefail" in c.words for c in commands)
                if not own and any(command.piped for command in commands):
                    yield Problem(
                        message="Set the SHELL option -o pipefail before RUN with a pipe in it",
                        at=item,
                    )
        if is_safe:
            safe.add(stage.index)
