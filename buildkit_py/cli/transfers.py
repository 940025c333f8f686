"""What pull and push show: a line for each layer, in docker's words, redrawn on a terminal."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, TextIO

from buildkit_py.cli.render import human_size
from buildkit_py.digest import Digest, short_id

if TYPE_CHECKING:
    from buildkit_py.registry.transfer import TransferStatus

_WIDTH = 50
_BEFORE = {"preparing": "Preparing", "waiting": "Pulling fs layer"}
_WORDS = {
    "downloading": ("Downloading", "Pull complete"),
    "pushing": ("Pushing", "Pushed"),
}


class LayerLines:
    """A progress callback for transfers; several threads may call it."""

    def __init__(self, stream: TextIO, *, terminal: bool, quiet: bool = False) -> None:
        self._stream = stream
        self._terminal = terminal
        self._quiet = quiet
        self._lines: dict[str, str] = {}
        self._lock = threading.Lock()  # lines of parallel transfers must not mix

    def __call__(self, status: TransferStatus) -> None:
        """Show one step of a transfer."""
        if status.done or self._terminal or status.action in _BEFORE:
            self._show(status.id, describe(status))

    def _show(self, identity: str, words: str) -> None:
        if self._quiet:
            return
        with self._lock:
            if self._lines.get(identity) == words:
                return
            known = identity in self._lines
            self._lines[identity] = words
            text = f"{short_id(Digest(identity))}: {words}"
            if not self._terminal or not known:
                self._stream.write(text + "\n")
            else:
                up = len(self._lines) - list(self._lines).index(identity)
                self._stream.write(f"\x1b[{up}A\r\x1b[2K{text}\r\x1b[{up}B")
            self._stream.flush()


def describe(status: TransferStatus) -> str:
    """Docker's words for a state."""
    if status.action in _BEFORE:
        return _BEFORE[status.action]
    if status.action == "exists":
        return "Layer already exists" if status.note == "push" else "Already exists"
    if status.action == "mounted":
        return f"Mounted from {status.note}"
    doing, done = _WORDS.get(status.action, (status.action.capitalize(), "Done"))
    return done if status.done else f"{doing} {bar(status.current, status.total)}"


def bar(current: int, total: int) -> str:
    """`[=====>     ]  2.7MB/18MB`."""
    if total <= 0:
        return human_size(current)
    filled = min(_WIDTH, current * _WIDTH // total)
    head = ">" if filled < _WIDTH else ""
    line = ("=" * filled + head).ljust(_WIDTH)
    return f"[{line}]  {human_size(current)}/{human_size(total)}"
