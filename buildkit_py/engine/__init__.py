"""The composition root: opens a state root, and walks builds through the pipeline.

with Engine(root="/srv/images") as engine:
    result = engine.build(".", tags=["web"])
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, Self, Unpack

from buildkit_py.engine.request import (
    BuildOptions,
    BuildRequest,
    BuildResult,
    Secret,
    SshAgent,
    StepResult,
)
from buildkit_py.errors import PybuildError, UsageError
from buildkit_py.platforms import host_platform
from buildkit_py.runtime.idmap import needs_user_namespace
from buildkit_py.store import make_store
from buildkit_py.store.paths import default_root

if TYPE_CHECKING:
    from buildkit_py.oci.config import History
    from buildkit_py.oci.descriptor import Descriptor
    from buildkit_py.progress.events import EventSink
    from buildkit_py.recall.record import RecallKey
    from buildkit_py.store import Store
    from buildkit_py.store.images import ImageSummary, StoredImage

__all__ = [
    "BuildRequest",
    "BuildResult",
    "Engine",
    "Secret",
    "SshAgent",
    "StepResult",
]

_TUPLES = frozenset(
    item.name for item in fields(BuildRequest) if str(item.type).startswith("tuple")
)


class Engine:
    """An open state root. Several builds may run on one engine, from several threads."""

    def __init__(
        self,
        root: str | os.PathLike[str] | None = None,
        *,
        executor: str | None = None,
        environment: Mapping[str, str] | None = None,
        clock: Callable[[], float] = time.time,
        in_process: bool = False,
    ) -> None:
        """Open a state root.

        Builds of a process that is not root run in a child, in a user namespace; `in_process`
        says that this process is that child.
        """
        self.environment = dict(os.environ if environment is None else environment)
        self.root = Path(root) if root else default_root(os.geteuid(), self.environment)
        self._executor = executor or "auto"
        self._clock = clock
        self._in_process = in_process or not needs_user_namespace()
        self.host = host_platform(os.uname().machine)
        self.store: Store = make_store(self.root, host=self.host)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the store."""
        self.store.close()

    # -------------------------------------------------------------- building
    def build(
        self,
        request: BuildRequest | str | os.PathLike[str] = ".",
        *,
        on_event: EventSink | None = None,
        cancelled: threading.Event | None = None,
        stdin: BinaryIO | None = None,
        stdout: BinaryIO | None = None,
        recall: RecallKey | None = None,
        **options: Unpack[BuildOptions],
    ) -> BuildResult:
        """Build an image. `options` are the fields of BuildRequest. Raises BuildError.

        `on_event` is told what happens; setting `cancelled` ends the build from another thread.
        With `recall` the command line finds the build again by that key, without an engine.
        """
        from buildkit_py.engine.defaults import settled  # noqa: PLC0415

        asked = settled(make_request(request, options), self.environment)
        if not self._in_process:
            from buildkit_py.engine.remote import RemoteBuild, build_in_child  # noqa: PLC0415

            build = RemoteBuild(
                request=asked,
                root=os.fspath(self.root),
                executor=self._executor,
                environment=self.environment,
            )
            return build_in_child(
                build, on_event=on_event, cancelled=cancelled, stdin=stdin, stdout=stdout
            )
        from buildkit_py.engine.build import BuildEnvironment, run_build  # noqa: PLC0415

        surroundings = BuildEnvironment(
            store=self.store,
            environment=self.environment,
            clock=self._clock,
            host=self.host,
            executor=self._executor,
            stdin=stdin,
            stdout=stdout,
            recall=recall,
        )
        try:
            result = run_build(asked, surroundings, sink=on_event, cancelled=cancelled)
        except PybuildError:
            self._collect()  # it may be a full disk that the build failed for
            raise
        self._collect()
        return result

    def _collect(self) -> None:
        """Automatic collection, now and then; never a failure of the build. PYBUILD_GC=0: not."""
        if self.environment.get("PYBUILD_GC") == "0":
            return
        with suppress(PybuildError, OSError):
            if self.store.is_collection_due(self._clock()):
                from buildkit_py.store.prune import collect_by_policy  # noqa: PLC0415

                collect_by_policy(self.store, clock=self._clock)

    # -------------------------------------------------------------- images
    def images(self) -> tuple[ImageSummary, ...]:
        """All images of the store, newest first."""
        return tuple(self.store.images.list())

    def image(self, name: str) -> StoredImage:
        """An image by name or id. Raises NoSuchImage."""
        return self.store.images.get(name)

    def history(self, name: str) -> tuple[History, ...]:
        """The history of an image, oldest first. Raises NoSuchImage."""
        return self.image(name).config.history

    def tag(self, name: str, *names: str) -> None:
        """Give an image further names. Raises NoSuchImage, UsageError."""
        for new in names:
            self.store.images.tag(name, new)

    def pull(self, name: str, *, platform: str | None = None) -> StoredImage:
        """Fetch an image from its registry. Raises RegistryError."""
        from buildkit_py.platforms import parse_platform  # noqa: PLC0415
        from buildkit_py.registry import open_client  # noqa: PLC0415
        from buildkit_py.sources.image import ImageSource  # noqa: PLC0415

        wanted = parse_platform(platform, self.host) if platform else self.host
        source = ImageSource(self.store, lambda: open_client(self.environment))
        return source.pull(name, wanted).image

    def push(
        self,
        name: str,
        *,
        platform: str | None = None,
        compression: str = "gzip",
        insecure: bool = False,
    ) -> Descriptor:
        """Send an image to the registry that its name leads to; what that name then leads to.

        Raises NoSuchImage, RegistryError.
        """
        from buildkit_py.exporters.stored import StoredPush, push_stored  # noqa: PLC0415
        from buildkit_py.oci.reference import parse_reference  # noqa: PLC0415
        from buildkit_py.platforms import parse_platform  # noqa: PLC0415
        from buildkit_py.registry import open_client  # noqa: PLC0415
        from buildkit_py.store.layer import Variant  # noqa: PLC0415

        target = parse_reference(name)
        if target.digest is not None:
            raise UsageError("cannot push a digest reference", hint="give the name and the tag")
        job = StoredPush(
            store=self.store,
            client=open_client(self.environment, insecure=(target.domain,) if insecure else ()),
            variant=Variant(compression=compression),
        )
        wanted = parse_platform(platform, self.host) if platform else None
        return push_stored(job, target, target, wanted)


def make_request(
    request: BuildRequest | str | os.PathLike[str], options: Mapping[str, Any]
) -> BuildRequest:
    """A BuildRequest of a context and keyword options. Raises UsageError for unknown ones."""
    if isinstance(request, BuildRequest):
        if options:
            raise UsageError("options go into the BuildRequest, not beside it")
        return request
    known = {item.name for item in fields(BuildRequest)}
    for name in options:
        if name not in known:
            from difflib import get_close_matches  # noqa: PLC0415

            close = get_close_matches(name, known, n=1)
            raise UsageError(
                f"unknown build option {name!r}",
                hint=f"did you mean {close[0]}?" if close else None,
            )
    values: dict[str, Any] = {
        name: _as_tuple(value) if name in _TUPLES else value for name, value in options.items()
    }
    return BuildRequest(context=os.fspath(request), **values)


def _as_tuple(value: Any) -> tuple[Any, ...]:
    """Several values, or one: a text, a path, an output."""
    if isinstance(value, Iterable) and not isinstance(value, str):
        return tuple(value)
    return (value,)
