"""A blob on its way to a registry while it is still being compressed.

The bytes go out in one request of unknown length, as docker sends them; the digest is said at the
end. Whatever goes wrong meanwhile is no error: the blob is whole in the store by then, and the
ordinary upload goes on from what the registry has. A blob that the registry turns out to have is
not sent to its end.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from buildkit_py.errors import PybuildError
from buildkit_py.registry.uploads import Session, SessionLost

if TYPE_CHECKING:
    from buildkit_py.oci.reference import Reference
    from buildkit_py.registry.client import RegistryClient
    from buildkit_py.store.growing import Growing


class EarlyUpload:
    """One blob that may be sent before it is done. `begin` is for the store to call."""

    def __init__(
        self,
        client: RegistryClient,
        reference: Reference,
        on_progress: Callable[[int], None] | None = None,
    ) -> None:
        self._upload = Session(client, reference)
        self._on_progress = on_progress
        self._growing: Growing | None = None
        self._thread: threading.Thread | None = None
        self._total = 0
        self._cancelled = False

    @property
    def begun(self) -> bool:
        """Whether anything was sent."""
        return self._thread is not None

    def begin(self, growing: Growing) -> None:
        """Send what is there and what comes, in a thread of its own."""
        self._growing = growing
        self._thread = threading.Thread(target=self._run, args=(growing,), daemon=True)
        self._thread.start()

    def cancel(self) -> None:
        """Send no more, and have the registry forget it; nobody waits for that."""
        self._cancelled = True
        if self._growing is not None:
            self._growing.give_up()

    def hand_over(self, upload: Session) -> None:
        """Wait for the last bytes, and let another upload go on from there."""
        assert self._thread is not None
        self._thread.join()
        upload.location, upload.sent = self._upload.location, self._upload.sent
        upload.least_chunk = self._upload.least_chunk

    def _run(self, growing: Growing) -> None:
        try:
            self._upload.stream(lambda: self._pieces(growing))
            if self._upload.sent is None:
                self._upload.sent = self._total
        except (PybuildError, SessionLost, OSError):
            self._upload.sent = None
        finally:
            growing.close()
        if self._cancelled:
            self._upload.abandon()

    def _pieces(self, growing: Growing) -> Iterator[bytes]:
        self._total = 0
        for data in growing.pieces():
            self._total += len(data)
            yield data
            if self._on_progress is not None:
                self._on_progress(self._total)
