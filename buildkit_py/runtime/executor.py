"""What runs a sandbox, and what a run gives."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, Self, TypeAlias

from buildkit_py.errors import SandboxError, UnsupportedHost, UsageError

if TYPE_CHECKING:
    import threading
    from types import TracebackType

    from buildkit_py.runtime.spec import SandboxSpec

OnOutput: TypeAlias = Callable[[int, bytes], None]
"""Called with 1 or 2 (the stream) and bytes as they came; from the thread that called `run`."""


_OVERLAY_CALLS = frozenset({"mount", "fsopen", "fsconfig", "fsconfig lowerdir+", "fsmount"})


@dataclass(frozen=True, slots=True, kw_only=True)
class StubRecord:
    """Mount points that the sandbox made, and the directories that this changed.

    `before` is (atime, mtime, mode, uid, gid) with times in nanoseconds; `after` is (mtime,
    ctime) when all was made. Paths are real paths inside the root. `restored` are files that were
    moved out of the way, and back again.
    """

    made: tuple[str, ...] = ()
    before: Mapping[str, tuple[int, int, int, int, int]] = field(default_factory=dict)
    after: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    restored: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ExitStatus:
    """How a process ended.

    `code` is its exit code, 128 + n after signal n. `failure` says why the program was never
    started (then `code` is 127 or 126, as shells and docker have it).
    """

    code: int
    signal: int = 0
    failure: str = ""
    oom: bool = False
    timed_out: bool = False
    cancelled: bool = False
    exceeded: bool = False
    max_rss_kib: int = 0
    stubs: StubRecord = field(default_factory=StubRecord)
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RunHooks:
    """What else a caller may want of a run.

    `started` gets the process id and a handle to send it signals; `terminal` gets the master
    side of its terminal (its own copy, to be closed by the callee); `connect` is called with the
    process id when `network` is `wait`, before the program starts, and then `disconnect` at the
    end, however that came. `exceeded` is asked about ten times a second: True ends the process.
    `waiting` is called when all is on its way and there is nothing else to do; an error ends it.
    """

    started: Callable[[int, Callable[[int], None]], None] | None = None
    terminal: Callable[[int], None] | None = None
    connect: Callable[[int], None] | None = None
    disconnect: Callable[[], None] | None = None
    exceeded: Callable[[], bool] | None = None
    waiting: Callable[[], None] | None = None


class Executor(Protocol):
    """Runs processes in sandboxes. `run` may be called from several threads."""

    name: str

    def run(
        self,
        spec: SandboxSpec,
        *,
        on_output: OnOutput,
        cancelled: threading.Event,
        stdin: int | None = None,
        timeout: float = 0.0,
        hooks: RunHooks | None = None,
    ) -> ExitStatus:
        """Run to the end. Raises SandboxError when the sandbox cannot be made.

        When `cancelled` is set, or `timeout` seconds have passed, the whole process tree is
        killed, and the status says so. When this returns, no process and no mount is left.
        """
        ...

    def close(self) -> None:
        """End everything that still runs."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


def open_executor(
    name: str = "auto", *, scratch: str | os.PathLike[str] | None = None
) -> Executor:
    """Open an executor: `namespaces`, `chroot`, or `auto` (what this host allows).

    `scratch` is a directory for a temporary mount point, the system's by default.
    """
    from buildkit_py.runtime.namespaces import NamespaceExecutor  # noqa: PLC0415

    if name in {"namespaces", "native"}:
        return NamespaceExecutor(scratch=scratch)
    if name == "chroot":
        from buildkit_py.runtime.chroot import ChrootExecutor  # noqa: PLC0415

        return ChrootExecutor(scratch=scratch)
    if name != "auto":
        raise UsageError(
            f'unknown executor "{name}"', hint="known are auto, namespaces and chroot"
        )
    executor = NamespaceExecutor(scratch=scratch)
    try:
        executor.start()
    except UnsupportedHost:
        if os.geteuid() != 0:
            raise
        executor.close()
        return open_executor("chroot", scratch=scratch)
    return executor


def is_stack_too_high(error: SandboxError) -> bool:
    """Whether a run failed because there are more layers than the kernel stacks (500)."""
    return error.errno == errno.E2BIG and error.syscall in _OVERLAY_CALLS


def is_overlay_refused(error: SandboxError) -> bool:
    """Whether a run failed because the kernel does not mount overlay on these directories."""
    if isinstance(error, UnsupportedHost) and not error.syscall:
        return False
    return error.syscall in _OVERLAY_CALLS and (
        error.path.endswith("/root") or error.syscall != "mount"
    )
