"""`--on-failure=shell`: an interactive shell in the root that a failed step has left."""

from __future__ import annotations

import os
import sys
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

from buildkit_py.runtime.executor import RunHooks
from buildkit_py.runtime.terminal import TerminalRelay

if TYPE_CHECKING:
    from buildkit_py.worker.failed import FailedStep

_ONE_AT_A_TIME = threading.Lock()


def open_shell(failed: FailedStep) -> None:
    """Run the step's shell with its environment, mounts and user; for ExecSettings.on_failure.

    Without a terminal there is nobody to type, and only that is said.
    """
    if not os.isatty(0):
        sys.stderr.write("no shell in the failed step: standard input is not a terminal\n")
        return
    process = failed.spec.process
    shell = process.arguments[0] if process.arguments[1:2] == ("-c",) else "/bin/sh"
    env = (*process.env, f"TERM={os.environ.get('TERM', 'xterm')}")
    spec = replace(failed.spec, process=replace(process, arguments=(shell,), env=env, tty=True))
    with _ONE_AT_A_TIME, TerminalRelay() as relay:
        sys.stderr.write(
            f"\r\n{failed.error.message}\r\nshell in the failed step; leave: exit\r\n"
        )
        failed.executor.run(
            spec,
            on_output=lambda _stream, data: _show(data),
            cancelled=threading.Event(),
            hooks=replace(failed.hooks or RunHooks(), terminal=relay.attach),
        )


def _show(data: bytes) -> None:
    while data:
        data = data[os.write(1, data) :]
