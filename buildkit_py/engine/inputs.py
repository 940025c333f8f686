"""What a build reads: its context directory, its Dockerfile, its ignore rules, named contexts.

A context that is not a directory here (standard input, a URL, a repository) is brought into the
process' scratch folder first, and goes with it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeAlias

from buildkit_py.dockerignore import IgnoreError, IgnoreMatcher, read_patterns
from buildkit_py.errors import PybuildError, UsageError
from buildkit_py.remotes import is_git_url, is_web_url
from buildkit_py.source import SourceFile

if TYPE_CHECKING:
    from buildkit_py.engine.request import BuildRequest
    from buildkit_py.sources.context import ContextFetcher

_DOCKERFILE_LIMIT = 64 << 20
_Rules: TypeAlias = "tuple[tuple[str, ...], IgnoreMatcher | None]"


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildInputs:
    """A directory to build from, the Dockerfile's text, and the patterns of the ignore file.

    `facts` say where a remote context came from (its URL, its commit); `path` is the Dockerfile's
    where it is a file here.
    """

    directory: Path
    dockerfile: SourceFile
    patterns: tuple[str, ...] = ()
    matcher: IgnoreMatcher | None = None
    remote: bool = False
    facts: Mapping[str, str] = field(default_factory=dict)
    modified: int | None = None
    path: Path | None = None
    owned: bool = False  # the files' owners count: an archive gave them
    lacks: tuple[str, ...] = ()  # what of the archive could not be set


@dataclass(frozen=True, slots=True, kw_only=True)
class InputSources:
    """How remote contexts are brought, and where to: `scratch` names a path that is free."""

    fetcher: Callable[[], ContextFetcher]
    scratch: Callable[[str], Path]
    stdin: BinaryIO | None = None

    def standard_input(self) -> BinaryIO:
        """The stream for `-`."""
        return self.stdin if self.stdin is not None else sys.stdin.buffer


@contextmanager
def open_inputs(request: BuildRequest, sources: InputSources) -> Iterator[BuildInputs]:
    """Resolve context, Dockerfile and ignore file. Raises UsageError, SourceError."""
    _check(request)
    if not _is_remote(request.context):
        yield _inputs(request, sources, _directory(request.context))
        return
    from buildkit_py.store.trash import remove_tree  # noqa: PLC0415

    directory = sources.scratch("context")
    directory.mkdir(mode=0o755)
    try:
        stdin = sources.standard_input() if request.context == "-" else None
        found = sources.fetcher().fetch(request.context, directory, stdin)
        text = found.dockerfile
        given = None
        if text is not None:
            given = SourceFile(name="Dockerfile", text=decode(text, "the Dockerfile"))
        inputs = _inputs(request, sources, directory, given, remote=True)
        yield replace(
            inputs,
            facts=found.facts,
            modified=found.modified,
            owned=found.owned,
            lacks=found.lacks,
        )
    finally:
        remove_tree(directory)


def _is_remote(context: str) -> bool:
    return context == "-" or is_git_url(context, context=True) or is_web_url(context)


def _check(request: BuildRequest) -> None:
    if request.context == "-" and request.dockerfile == "-":
        raise UsageError("invalid argument: can't use stdin for both build context and dockerfile")
    if request.context == "-" and request.dockerfile_text is not None:
        raise UsageError(
            "a Dockerfile's text and a context from standard input cannot go together"
        )


def _directory(text: str) -> Path:
    path = Path(text)
    if path.is_dir():
        return path
    if path.exists():
        raise UsageError(
            f"the build context {text} is not a directory",
            hint="give the directory, and the Dockerfile by -f",
        )
    raise UsageError(
        f"the build context {text} does not exist",
        hint="give a directory, a URL, or - for standard input",
    )


def _inputs(
    request: BuildRequest,
    sources: InputSources,
    directory: Path,
    dockerfile: SourceFile | None = None,
    *,
    remote: bool = False,
) -> BuildInputs:
    path: Path | None = None
    if request.dockerfile_text is not None:
        dockerfile = SourceFile(name="Dockerfile", text=request.dockerfile_text)
    elif request.dockerfile == "-":
        data = sources.standard_input().read(_DOCKERFILE_LIMIT + 1)
        dockerfile = SourceFile(name="Dockerfile", text=decode(data, "the Dockerfile"))
    elif request.dockerfile is not None and is_web_url(request.dockerfile):
        data = sources.fetcher().text(request.dockerfile)
        dockerfile = SourceFile(name=request.dockerfile, text=decode(data, "the Dockerfile"))
    elif dockerfile is None:
        path = find_dockerfile(directory, request.dockerfile, inside=remote)
        dockerfile = SourceFile(name=_shown(path, request, directory), text=read_text(path))
    patterns, matcher = _ignore_rules(request, directory, path, remote=remote)
    return BuildInputs(
        directory=directory,
        dockerfile=dockerfile,
        patterns=patterns,
        matcher=matcher,
        remote=remote,
        path=path,
    )


def find_dockerfile(directory: Path, asked: str | None, *, inside: bool = False) -> Path:
    """The Dockerfile's path: as asked for, or `Dockerfile`, or `dockerfile`. Raises UsageError.

    `inside` (a context that came from elsewhere) keeps it, links followed, in the directory.
    """
    candidates = _candidates(directory, asked, inside=inside)
    for path in candidates:
        if path.is_file() or _is_substitution(path):
            if inside and not path.resolve().is_relative_to(directory.resolve()):
                raise UsageError(f"the Dockerfile {path.name} is outside of the build context")
            return path
    for path in candidates:
        if path.is_dir():
            raise UsageError(f"failed to read dockerfile: {path} is a directory")
    name = asked or "Dockerfile"
    where = "the build context" if inside else directory
    raise PybuildError(
        f"failed to read dockerfile: open {name}: no such file or directory",
        hint=f"there is no {name} in {where}; name another one by -f",
    )


def _is_substitution(path: Path) -> bool:
    """Whether a path is /dev/stdin or the shell's `<(command)`: a pipe that is written to."""
    named = path.parent == Path("/dev/fd") or path == Path("/dev/stdin")
    return named and path.is_fifo()


def _candidates(directory: Path, asked: str | None, *, inside: bool) -> list[Path]:
    candidates = [directory / (asked or "Dockerfile")]
    if asked is not None and not inside:
        candidates = [Path(asked), directory / asked]
    if os.path.basename(asked or "Dockerfile") == "Dockerfile":
        candidates += [item.with_name("dockerfile") for item in candidates]
    return candidates


def consulted(request: BuildRequest, inputs: BuildInputs) -> dict[Path, bytes | None] | None:
    """The Dockerfile and ignore file with their bytes, and names tried in vain (None).

    None as a whole if what was read is no file here, or has changed since.
    """
    asked = request.dockerfile
    if inputs.remote or request.dockerfile_text is not None or asked == "-":
        return None
    found: dict[Path, bytes | None] = {}
    for path in _candidates(inputs.directory, asked, inside=False):
        found[path] = content_if_file(path)
        if found[path] is not None:
            break
    else:
        return None
    if decode(found[path] or b"", str(path)) != inputs.dockerfile.text:
        return None
    ignores = [path.with_name(path.name + ".dockerignore"), inputs.directory / ".dockerignore"]
    text = b""
    for ignore in [Path(request.ignorefile)] if request.ignorefile else ignores:
        found[ignore] = content_if_file(ignore)
        if found[ignore] is not None:
            text = found[ignore] or b""
            break
    known = read_patterns(text.decode("utf-8", "surrogateescape")) == inputs.patterns
    return found if known else None


def content_if_file(path: Path) -> bytes | None:
    """The bytes of a regular file, else None."""
    return path.read_bytes() if path.is_file() else None


def read_text(path: Path) -> str:
    """The text of a Dockerfile; bytes that are no UTF-8 survive as surrogates."""
    try:
        with path.open("rb") as file:
            return decode(file.read(_DOCKERFILE_LIMIT + 1), str(path))
    except OSError as error:
        raise PybuildError(f"failed to read dockerfile: {path}: {error.strerror}") from error


def decode(data: bytes, name: str) -> str:
    """Bytes of a Dockerfile as text. Raises UsageError for more than 64 MiB."""
    if len(data) > _DOCKERFILE_LIMIT:
        raise UsageError(f"{name} is larger than 64 MiB", hint="is it the right file?")
    return data.decode("utf-8", "surrogateescape")


def _shown(path: Path, request: BuildRequest, directory: Path) -> str:
    if request.dockerfile is not None:
        return request.dockerfile
    try:
        return str(path.relative_to(directory))
    except ValueError:
        return str(path)


def _ignore_rules(
    request: BuildRequest, directory: Path, dockerfile: Path | None, *, remote: bool
) -> _Rules:
    """One ignore file counts: the one asked for, the Dockerfile's own, the context's.

    Those that a context from elsewhere (an archive, a repository) brings do not, as with BuildKit:
    what it holds was chosen where it was made.
    """
    if request.ignorefile is not None:
        return _rules(Path(request.ignorefile), required=True)
    if remote:
        return (), None
    if dockerfile is not None:
        own = dockerfile.with_name(dockerfile.name + ".dockerignore")
        if os.path.lexists(own):
            return _rules(own)
    return _rules(directory / ".dockerignore")


def directory_matcher(directory: Path) -> IgnoreMatcher | None:
    """The ignore rules at the root of a named context."""
    return _rules(directory / ".dockerignore")[1]


def _rules(path: Path, *, required: bool = False) -> _Rules:
    if not path.is_file():
        if path.exists():
            raise UsageError(f"cannot read {path}: it is no regular file")
        if required:
            raise UsageError(f"the ignore file {path} does not exist")
        return (), None
    try:
        with path.open("rb") as file:
            text = decode(file.read(_DOCKERFILE_LIMIT + 1), str(path))
    except OSError as error:
        raise PybuildError(f"cannot read {path}: {error.strerror}") from error
    patterns = read_patterns(text)
    try:
        return patterns, IgnoreMatcher(patterns) if patterns else None
    except IgnoreError as error:
        raise IgnoreError(f"failed parsing {path}: {error.message}") from error
