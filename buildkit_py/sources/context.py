"""Build contexts that are no directory: standard input, a URL, a git repository.

An archive (by its first bytes, compressed or not) is unpacked; a repository is checked out;
anything else is the text of a Dockerfile, with an empty context.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from buildkit_py.errors import ContentError, SourceError, UsageError
from buildkit_py.graph import HttpOp
from buildkit_py.remotes import is_git_url, is_web_url, parse_git_url
from buildkit_py.sources.base import Report, Secrets, no_report, no_secrets

if TYPE_CHECKING:
    from buildkit_py.sources.git import GitSource
    from buildkit_py.sources.http import HttpSource

_HEAD = 1024
_BLOCK = 512
_DOCKERFILE_LIMIT = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteContext:
    """Files in a directory; `dockerfile` is set when what came was no archive but that.

    `owned` says that the files have the owners that an archive gave them.
    `modified` (seconds) is the commit's time, the server's Last-Modified, or that of the newest
    file. `facts` say what was fetched: `url`, `commit`, `digest`; `lacks` what of an archive could
    not be set here.
    """

    directory: Path
    dockerfile: bytes | None = None
    modified: int | None = None
    owned: bool = False
    facts: Mapping[str, str] = field(default_factory=dict)
    lacks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextFetcher:
    """What contexts are fetched with; sources are made when they are needed."""

    http: Callable[[], HttpSource]
    git: Callable[[], GitSource]
    secrets: Secrets = no_secrets
    report: Report = no_report
    keep_git_dir: bool = False  # BUILDKIT_CONTEXT_KEEP_GIT_DIR

    def fetch(self, context: str, directory: Path, stdin: BinaryIO | None = None) -> RemoteContext:
        """Bring a context into an empty directory. Raises SourceError, UsageError."""
        if context == "-":
            if stdin is None:
                raise UsageError("there is no standard input to read the build context from")
            return _from_stream(stdin, directory, "standard input", {})
        if is_git_url(context, context=True):
            return self._git(context, directory)
        if is_web_url(context):
            return self._http(context, directory)
        raise UsageError(f"{context} is no remote build context")

    def text(self, url: str) -> bytes:
        """A Dockerfile from a URL (`-f URL`)."""
        source = self.http()
        resolved = source.resolve(HttpOp(url=url, filename="Dockerfile"), self.secrets)
        with source.open(resolved) as stream:
            return _limited(stream, url)

    def _git(self, context: str, directory: Path) -> RemoteContext:
        op = parse_git_url(context, keep_git_dir=self.keep_git_dir or None)
        source = self.git()
        resolved = source.resolve(op, self.secrets)
        modified = source.write(op, resolved, directory, self.secrets, self.report)
        facts = {"url": context, "commit": resolved.facts["commit"]}
        return RemoteContext(directory=directory, modified=modified, facts=facts)

    def _http(self, context: str, directory: Path) -> RemoteContext:
        source = self.http()
        op = HttpOp(url=context, filename="context")
        resolved = source.resolve(op, self.secrets, self.report)
        facts = {"url": context, "digest": str(resolved.parts["digest"])}
        with source.open(resolved) as stream:
            found = _from_stream(stream, directory, context, facts)
        return RemoteContext(
            directory=found.directory,
            dockerfile=found.dockerfile,
            modified=resolved.modified or found.modified,
            owned=found.owned,
            facts=facts,
            lacks=found.lacks,
        )


def _from_stream(
    stream: BinaryIO, directory: Path, name: str, facts: Mapping[str, str]
) -> RemoteContext:
    head = _read(stream, _HEAD)
    joined = _Joined(head, stream)
    if not is_archive_head(head):
        return RemoteContext(directory=directory, dockerfile=_limited(joined, name), facts=facts)
    try:
        modified, lacks = _unpack(joined, directory)
    except ContentError as error:
        raise SourceError(
            f"cannot unpack the build context from {name}: {error.message}", hint=error.hint
        ) from error
    return RemoteContext(
        directory=directory,
        modified=modified,
        owned=os.geteuid() == 0,
        facts=facts,
        lacks=lacks,
    )


def _unpack(stream: _Joined, directory: Path) -> tuple[int | None, tuple[str, ...]]:
    """The newest time among the files, and what of the archive could not be set."""
    from buildkit_py.layers.attributes import lacks  # noqa: PLC0415
    from buildkit_py.layers.copy import TreeWriter  # noqa: PLC0415
    from buildkit_py.layers.extract import ExtractOptions, extract_archive  # noqa: PLC0415

    own = (os.geteuid(), os.getegid())
    options = ExtractOptions(owner=None if own[0] == 0 else own)
    with TreeWriter([], directory) as writer:
        extract_archive(stream, writer, b"/", options)
        missing = lacks(writer.setter.squashed_owners, writer.setter.skipped_devices)
    newest = 0
    for folder, _, files in os.walk(directory):
        for name in files:
            newest = max(newest, int(os.lstat(os.path.join(folder, name)).st_mtime))
    return newest or None, tuple(missing)


def archive_time(stream: BinaryIO, directory: Path) -> int | None:
    """The newest time in an archive, which is unpacked into `directory`; None for other files."""
    head = _read(stream, _HEAD)
    if not is_archive_head(head):
        return None
    directory.mkdir()
    return _unpack(_Joined(head, stream), directory)[0]


def is_archive_head(head: bytes) -> bool:
    """Whether a stream that begins so is a tar or a compressed file."""
    from buildkit_py.layers.compression import detect  # noqa: PLC0415

    if detect(head) != "uncompressed":
        return True
    block = head[:_BLOCK]
    if len(block) < _BLOCK:
        return False
    if not any(head):
        return len(head) == _HEAD  # an empty tar: two blocks of zeros
    # the header's checksum counts its own field as blanks (POSIX, pax, "ustar Interchange Format")
    field_text = block[148:156].strip(b" \0")
    try:
        stated = int(field_text, 8)
    except ValueError:
        return False
    return stated == sum(block[:148]) + 8 * 0x20 + sum(block[156:])


def _limited(stream: BinaryIO | _Joined, name: str) -> bytes:
    data = _read(stream, _DOCKERFILE_LIMIT + 1)
    if len(data) > _DOCKERFILE_LIMIT:
        raise UsageError(f"{name} is neither an archive nor a Dockerfile: it is too large")
    return data


def _read(stream: BinaryIO | _Joined, size: int) -> bytes:
    out = bytearray()
    while len(out) < size and (data := stream.read(size - len(out))):
        out += data
    return bytes(out)


class _Joined:
    """A stream whose first bytes were read already."""

    def __init__(self, head: bytes, rest: BinaryIO) -> None:
        self._head = head
        self._rest = rest

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes."""
        if self._head:
            data, self._head = self._head[:size], self._head[size:]
            return data
        return self._rest.read(size)
