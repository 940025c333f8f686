"""Runs processes in sandboxes. `open_executor()` chooses the executor; it is imported on use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from buildkit_py.runtime.executor import Executor, ExitStatus, open_executor
    from buildkit_py.runtime.spec import SandboxSpec

_LAZY = {
    "Executor": "executor",
    "ExitStatus": "executor",
    "SandboxSpec": "spec",
    "open_executor": "executor",
}

__all__ = ["Executor", "ExitStatus", "SandboxSpec", "open_executor"]


def __getattr__(name: str) -> Any:
    module = _LAZY.get(name)
    if module is None:
        raise AttributeError(f"module 'buildkit_py.runtime' has no attribute {name!r}")
    # The sandbox child imports this package too, and must stay small.
    from importlib import import_module  # noqa: PLC0415

    return getattr(import_module(f"buildkit_py.runtime.{module}"), name)
