"""An archive for `docker load` that is an OCI layout too; without `dest` into a daemon.

The daemon is the one that docker's client would talk to, or podman by its socket. The image is
kept in our own store as well, where all but its names and config is shared with the cache; without
a daemon it is only there.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, BinaryIO

from buildkit_py.errors import UsageError
from buildkit_py.exporters.base import ExportRequest, ExportResult
from buildkit_py.exporters.image import ImageExporter
from buildkit_py.exporters.oci import OciExporter

if TYPE_CHECKING:
    from buildkit_py.registry.daemon import Daemon

_PIECE = 1 << 20


class DockerExporter(OciExporter):
    """`type=docker`. Old `docker load` knows one platform, so an archive holds one."""

    kind = "docker"
    docker_files = True

    def export(self, request: ExportRequest) -> ExportResult:
        """Write the archive, or load the image where no destination is given."""
        if self._spec.destination is not None:
            return super().export(request)
        from buildkit_py.registry.daemon import Daemon, find_daemon  # noqa: PLC0415

        context = self._spec.attributes.get("context", "")
        endpoint = find_daemon(request.environment, context)
        result = ImageExporter(self._spec, self._store).export(request)
        if endpoint is None:
            request.report("loading into the local store: no docker or podman listens here", 0, 0)
            return result
        daemon = Daemon(endpoint)
        try:
            self._load(daemon, request)
        finally:
            daemon.close()
        return result

    def _load(self, daemon: Daemon, request: ExportRequest) -> None:
        kind, several = daemon.describe()
        if len(request.images) > 1 and not several:
            raise UsageError(
                f"{kind} at {daemon.address} cannot hold an image of several platforms",
                hint="choose one by --platform, or leave --load away: the local store holds it",
            )
        attributes = {"compression": "uncompressed", **self._spec.attributes, "dest": "-"}
        writer = _Archive(replace(self._spec, attributes=attributes), self._store)

        def write(stream: BinaryIO) -> None:
            writer.export(replace(request, stdout=stream, report=_quiet))

        for text in send_archive(daemon, write):
            request.report(f"{kind} at {daemon.address}: {text}", 0, 0)

    def _check(self, request: ExportRequest) -> None:
        if len(request.images) > 1:
            raise UsageError(
                "docker exporter does not support exporting manifest lists, use the oci exporter"
                " instead",
                hint="--output type=oci,dest=FILE",
            )


class _Archive(OciExporter):
    """What a daemon is sent."""

    kind = "docker"
    docker_files = True


def _quiet(_name: str, _current: int, _total: int) -> None:
    """Report nothing: the layers have been reported."""


def send_archive(daemon: Daemon, write: Callable[[BinaryIO], None]) -> tuple[str, ...]:
    """Send to a daemon what `write` writes, while it is written. Gives the daemon's messages."""
    problems: list[BaseException] = []
    given_up = threading.Event()
    reader, writer = os.pipe()

    def produce() -> None:
        try:
            with os.fdopen(writer, "wb", buffering=_PIECE) as stream:
                write(stream)
        except BaseException as error:  # noqa: BLE001  (raised by the thread that waits)
            if not given_up.is_set():  # else it is only that nobody reads any more
                problems.append(error)

    def pieces() -> Iterator[bytes]:
        while data := os.read(reader, _PIECE):
            yield data
        thread.join()
        if problems:  # the daemon must not take what is cut for an archive
            raise problems[0]

    thread = threading.Thread(target=produce, name="archive")
    thread.start()
    try:
        return daemon.load(pieces)
    finally:
        given_up.set()
        os.close(reader)
        thread.join()
