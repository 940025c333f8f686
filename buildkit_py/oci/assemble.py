"""Config and layers to the exact bytes of an image, and manifests to an index.

The bytes are those that BuildKit's image exporter writes: the config compact with sorted keys on
top, manifests and indexes indented by two blanks, both with the escapes of Go's JSON encoder.
History entries without a time get one from their layer, else from the entries around them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from buildkit_py.digest import Digest, sha256
from buildkit_py.errors import ContentError
from buildkit_py.oci.config import History, ImageConfig, config_to_json, rfc3339
from buildkit_py.oci.descriptor import Descriptor, MediaType
from buildkit_py.oci.manifest import Index, Manifest, manifest_to_json

FILLER_COMMENT = "buildkit.exporter.image.v0"
FILLER_DESCRIPTION = "created by buildkit"

_TO_DOCKER = {
    MediaType.OCI_LAYER: MediaType.DOCKER_LAYER,
    MediaType.OCI_LAYER_GZIP: MediaType.DOCKER_LAYER_GZIP,
}
_TO_OCI = {docker: oci for oci, docker in _TO_DOCKER.items()} | {
    "application/vnd.docker.image.rootfs.diff.tar.zstd": MediaType.OCI_LAYER_ZSTD,
}
_GO_ESCAPES = {
    "<": "\\u003c",
    ">": "\\u003e",
    "&": "\\u0026",
    "\u2028": "\\u2028",
    "\u2029": "\\u2029",
}
_SURROGATES = re.compile("[\ud800-\udfff]")  # what stands for bytes that are no UTF-8


def docker_media_type(media_type: str) -> str:
    """Docker's name for the type of a layer, where it has one."""
    return _TO_DOCKER.get(media_type, media_type)


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerFacts:
    """What is known of one layer besides its blob: used where the history says nothing."""

    diff_id: Digest
    created: str | None = None
    description: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AssembledImage:
    """The documents of one image, and what names them."""

    image: ImageConfig
    config: bytes
    manifest: bytes
    config_descriptor: Descriptor
    manifest_descriptor: Descriptor


@dataclass(frozen=True, slots=True, kw_only=True)
class AssembledIndex:
    """An index and what names it."""

    index: bytes
    descriptor: Descriptor


@dataclass(frozen=True, slots=True, kw_only=True)
class AssembleOptions:
    """How an image is written.

    `epoch` clamps every time of a new history entry; the first `base_history` entries are the
    base image's and keep theirs. `extra` adds top-level config fields (an inline cache).
    """

    oci_types: bool = True
    epoch: int | None = None
    base_history: int = 0
    annotations: Mapping[str, str] = field(default_factory=dict)
    descriptor_annotations: Mapping[str, str] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)


def go_json(value: Any, *, indent: int | None = None) -> bytes:
    """JSON as Go's encoder writes it: `<`, `>`, `&` escaped, other text as UTF-8."""
    separators = (",", ":") if indent is None else (",", ": ")
    text = json.dumps(value, ensure_ascii=False, separators=separators, indent=indent)
    for character, escape in _GO_ESCAPES.items():
        text = text.replace(character, escape)
    return _SURROGATES.sub(r"\\ufffd", text).encode()


def assemble(
    config: ImageConfig,
    layers: Sequence[Descriptor],
    facts: Sequence[LayerFacts],
    options: AssembleOptions | None = None,
) -> AssembledImage:
    """Make the config and the manifest of an image whose blobs are `layers`, lowest first.

    Raises ContentError when a layer cannot be named by the media types asked for.
    """
    options = options or AssembleOptions()
    if len(layers) != len(facts):
        raise ContentError(f"image has {len(layers)} layers and {len(facts)} diff ids")
    image = complete_config(config, facts, options)
    config_bytes = go_json(config_to_json(image))
    config_type = MediaType.OCI_CONFIG if options.oci_types else MediaType.DOCKER_CONFIG
    config_descriptor = _describe(config_bytes, config_type)
    manifest_type = MediaType.OCI_MANIFEST if options.oci_types else MediaType.DOCKER_MANIFEST
    manifest = Manifest(
        media_type=manifest_type,
        config=config_descriptor,
        layers=tuple(convert_layer(layer, oci_types=options.oci_types) for layer in layers),
        annotations=dict(sorted(options.annotations.items())),
    )
    manifest_bytes = go_json(manifest_to_json(manifest), indent=2)
    return AssembledImage(
        image=image,
        config=config_bytes,
        manifest=manifest_bytes,
        config_descriptor=config_descriptor,
        manifest_descriptor=replace(
            _describe(manifest_bytes, manifest_type),
            platform=image.platform,
            annotations=dict(sorted(options.descriptor_annotations.items())),
        ),
    )


def complete_config(
    config: ImageConfig, facts: Sequence[LayerFacts], options: AssembleOptions
) -> ImageConfig:
    """The config with diff ids, a history that accounts for every layer, and all times."""
    history = _fill_times(_match_layers(config.history, facts), facts)
    created = config.created
    if options.epoch is not None:
        history = _clamp(history, options.epoch, options.base_history)
        if created is not None and _later(created, options.epoch):
            created = rfc3339(options.epoch)
    if created is None:
        created = next((entry.created for entry in reversed(history) if entry.created), None)
    if created is None and options.epoch is not None:
        created = rfc3339(options.epoch)
    return replace(
        config,
        created=created,
        history=tuple(history),
        diff_ids=tuple(fact.diff_id for fact in facts),
        extra={**config.extra, **options.extra},
    )


def assemble_index(
    manifests: Sequence[Descriptor],
    *,
    oci_types: bool = True,
    annotations: Mapping[str, str] | None = None,
) -> AssembledIndex:
    """Make an index of manifests (their descriptors carry the platforms)."""
    media_type = MediaType.OCI_INDEX if oci_types else MediaType.DOCKER_LIST
    index = Index(
        manifests=tuple(manifests),
        media_type=media_type,
        annotations=dict(sorted((annotations or {}).items())),
    )
    data = go_json(manifest_to_json(index), indent=2)
    return AssembledIndex(index=data, descriptor=_describe(data, media_type))


def convert_layer(layer: Descriptor, *, oci_types: bool) -> Descriptor:
    """The descriptor with the media type of the family asked for. Raises ContentError."""
    if oci_types:
        return replace(
            layer,
            media_type=_TO_OCI.get(layer.media_type, layer.media_type),
            annotations=dict(sorted(layer.annotations.items())),
        )
    if layer.media_type == MediaType.OCI_LAYER_ZSTD:
        raise ContentError(
            "docker's media types have no name for a zstd layer",
            hint="use oci-mediatypes=true or compression=gzip",
        )
    kind = _TO_DOCKER.get(layer.media_type, layer.media_type)
    return replace(layer, media_type=kind, annotations={})


def _describe(data: bytes, media_type: str) -> Descriptor:
    return Descriptor(media_type=media_type, digest=sha256(data), size=len(data))


def _match_layers(history: Sequence[History], facts: Sequence[LayerFacts]) -> list[History]:
    out: list[History] = []
    count = 0
    for entry in history:
        if not entry.empty_layer and count >= len(facts):
            out.append(replace(entry, empty_layer=True))
            continue
        count += not entry.empty_layer
        out.append(entry)
    for fact in facts[count:]:
        description = fact.description or FILLER_DESCRIPTION
        out.append(History(created=fact.created, created_by=description, comment=FILLER_COMMENT))
    return out


def _fill_times(history: list[History], facts: Sequence[LayerFacts]) -> list[History]:
    timed: list[History] = []
    layer = iter(facts)
    for entry in history:
        fact = None if entry.empty_layer else next(layer)
        created = entry.created or (fact.created if fact else None)
        timed.append(replace(entry, created=created))
    # an entry without a time has that of the first layer after the first such gap (the first new
    # layer: metadata of a Dockerfile is not older than its first step), later that before it
    current: str | None = None
    gap = False
    for entry in timed:
        if entry.created is None:
            gap = True
        else:
            current = entry.created
            if gap:
                break
    out: list[History] = []
    gap = False
    for entry in timed:
        if entry.created is None:
            gap = True
        elif gap:
            current = entry.created
        out.append(replace(entry, created=entry.created or current))
    return out


def _clamp(history: list[History], epoch: int, base_history: int) -> list[History]:
    limit = rfc3339(epoch)
    return [
        replace(entry, created=limit)
        if index >= base_history and (entry.created is None or _later(entry.created, epoch))
        else entry
        for index, entry in enumerate(history)
    ]


def _later(created: str, epoch: int) -> bool:
    try:
        return datetime.fromisoformat(created).timestamp() > epoch
    except ValueError:
        return True
