r"""The exception tree. Each error holds the facts that are needed to render it.

Messages start in lower case and fit on one line; `hint` says what to do. Only `cli/` prints.
Both may hold names out of archives and registries: control characters are shown as `\x1b`, so
that no message moves a terminal's cursor.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from buildkit_py.source import Span


_CONTROLS = {
    code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if code not in b"\t\n"
}


def printable(text: str) -> str:
    r"""Text whose control characters are shown as `\x1b`; tabs and ends of lines stay."""
    return text.translate(_CONTROLS)


class PybuildError(Exception):
    """Anything that this package refuses or fails at.

    `warnings` (BuildWarning) is what a build that ended so had to say until then.
    """

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        message = printable(message)
        hint = None if hint is None else printable(hint)
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.warnings: tuple[object, ...] = ()

    @property
    def spans(self) -> tuple[Span, ...]:
        """Source ranges at fault, empty where there is none."""
        return ()


BuildError = PybuildError
"""What `build()` raises; the name that library users catch."""


class _Located(PybuildError):
    def __init__(
        self,
        message: str,
        *,
        span: Span | None = None,
        also: Sequence[Span] = (),
        hint: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.span = span
        self.also = tuple(also)

    @property
    def spans(self) -> tuple[Span, ...]:
        """The range at fault, and others that belong to it."""
        first = () if self.span is None else (self.span,)
        return first + self.also


class DockerfileError(_Located):
    """A Dockerfile that does not parse."""


class SyntaxProblem(DockerfileError):
    """Text that fits no form of its instruction."""


class UnknownInstruction(DockerfileError):
    """A keyword that is no instruction."""


class InvalidFlag(DockerfileError):
    """An unknown, repeated or malformed `--flag`."""


class InvalidArgument(DockerfileError):
    """An argument whose value is refused."""


class DockerfileErrors(PybuildError):
    """Every problem of one file, in the order of its lines."""

    def __init__(self, problems: Sequence[DockerfileError | PlanError]) -> None:
        first = problems[0]
        super().__init__(first.message, hint=first.hint)
        self.problems = tuple(problems)

    @property
    def spans(self) -> tuple[Span, ...]:
        """The ranges of all problems."""
        return tuple(span for problem in self.problems for span in problem.spans)


class PlanError(_Located):
    """Stages that cannot be put in order."""


class UnknownStage(PlanError):
    """A stage name that the file does not define."""


class StageCycle(PlanError):
    """Stages that need each other."""


class UnknownTarget(PlanError):
    """`--target` names no stage."""


class UnsetVariable(PlanError):
    """`${name:?message}` of a variable without value."""


class PlatformMismatch(PlanError):
    """A base image or a step that this platform cannot serve."""


class SolveError(_Located):
    """A vertex that failed. `vertex` is its display name."""

    def __init__(
        self,
        message: str,
        *,
        vertex: str = "",
        span: Span | None = None,
        also: Sequence[Span] = (),
        hint: str | None = None,
    ) -> None:
        super().__init__(message, span=span, also=also, hint=hint)
        self.vertex = vertex


class ExecError(SolveError):
    """A RUN that ended with a status other than 0."""

    def __init__(
        self,
        message: str,
        *,
        exit_code: int,
        log_tail: tuple[str, ...] = (),
        replay: str | None = None,
        vertex: str = "",
        span: Span | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, vertex=vertex, span=span, hint=hint)
        self.exit_code = exit_code
        self.log_tail = log_tail
        self.replay = replay


class SourceError(SolveError):
    """An image, a context, a URL or a repository that cannot be had."""


class CopyError(SolveError):
    """A COPY or ADD that cannot be carried out."""


class BuildCancelled(SolveError):
    """The build was interrupted."""


class ContentError(PybuildError):
    """Stored or received bytes that are not what they should be."""


class BlobNotFound(ContentError):
    """No blob of that digest."""


class DigestMismatch(ContentError):
    """Bytes that have another digest than promised."""


class SizeMismatch(ContentError):
    """Bytes of another length than promised."""


class CorruptArchive(ContentError):
    """A tar, a compressed stream or a layout that cannot be read."""


class NoSuchImage(PybuildError):
    """No image of that name or id in the store."""


class StoreError(PybuildError):
    """The state root cannot be used (permission, full disk, foreign format)."""


class SandboxError(PybuildError):
    """A kernel call of the sandbox that failed."""

    def __init__(
        self,
        message: str,
        *,
        syscall: str = "",
        path: str = "",
        errno: int = 0,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.syscall = syscall
        self.path = path
        self.errno = errno


class UnsupportedHost(SandboxError):
    """This host lacks something that was asked for; `hint` holds the remedy."""


class RegistryError(PybuildError):
    """A registry that refused, or answered what it must not."""

    def __init__(
        self,
        message: str,
        *,
        reference: str = "",
        status: int = 0,
        code: str = "",
        hint: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.reference = reference
        self.status = status
        self.code = code


class AuthenticationRequired(RegistryError):
    """Credentials are missing or not accepted."""


class ManifestUnknown(RegistryError):
    """The registry has no such repository, tag or digest."""


class ContainerError(PybuildError):
    """A container that cannot be made, started or found."""


class UsageError(PybuildError):
    """A wrong option or combination of options."""
