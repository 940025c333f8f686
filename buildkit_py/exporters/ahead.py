"""What an output can do before the build is done: look at its attributes, and begin with layers.

A layer is what it will be as soon as its step has ended. So it can be compressed, and sent to a
registry, while later steps still run; the export itself then finds that done.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from buildkit_py.errors import UsageError
from buildkit_py.exporters.attributes import flag, image_options

if TYPE_CHECKING:
    from buildkit_py.exporters import OutputSpec
    from buildkit_py.exporters.attributes import ImageOptions
    from buildkit_py.exporters.base import ExportRequest
    from buildkit_py.store import Store

Watch = Callable[[], None]
"""Called now and then by what takes long; raises to end it."""

Early = Callable[[int, Watch], None]
"""Does what can be done for the top layer of a snapshot. Raises PybuildError."""


def check_output(spec: OutputSpec, request: ExportRequest) -> None:
    """Refuse attributes that would fail the export. `request` has no images yet."""
    if spec.kind in {"local", "tar"}:
        flag(spec.attributes, "platform-split")
        mode = spec.attributes.get("mode", "copy")
        if mode not in {"copy", "delete"}:
            raise UsageError(
                f'invalid mode "{mode}" for output type {spec.kind}', hint="copy or delete"
            )
    elif spec.kind != "cacheonly":
        image_options(spec.attributes, request)


def early_work(
    spec: OutputSpec, store: Store, request: ExportRequest, *, send: bool
) -> Early | None:
    """What an output wants done with each layer; nothing is sent anywhere without `send`."""
    pushes = spec.kind == "registry" or (spec.kind == "image" and flag(spec.attributes, "push"))
    if not pushes and (spec.kind not in {"oci", "docker"} or spec.destination is None):
        return None
    options = image_options(spec.attributes, request)
    if pushes and send and options.names:
        return _sender(spec, store, request, options)
    if options.variant.compression == "uncompressed":
        return None

    def pack(snapshot: int, watch: Watch) -> None:
        store.snapshots.layer(snapshot, options.variant, watch)

    return pack


def _sender(
    spec: OutputSpec, store: Store, request: ExportRequest, options: ImageOptions
) -> Early:
    from buildkit_py.exporters.registry import open_target  # noqa: PLC0415
    from buildkit_py.exporters.sending import LayerPush, push_layers  # noqa: PLC0415

    client = open_target(spec, request, options)
    repositories = list(
        dict.fromkeys(replace(name, tag=None, digest=None) for name in options.names)
    )

    def send(snapshot: int, watch: Watch) -> None:
        how = LayerPush(
            client=client,
            store=store,
            variant=options.variant,
            progress=lambda _status: watch(),
            watch=watch,
        )
        push_layers(how, repositories, [snapshot])

    return send
