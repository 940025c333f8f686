"""Attributes of image outputs, parsed: compression, media types, times, annotations, names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from buildkit_py.errors import UsageError
from buildkit_py.oci.reference import Reference, parse_reference
from buildkit_py.platforms import Platform
from buildkit_py.store.layer import Variant

if TYPE_CHECKING:
    from buildkit_py.exporters.base import ExportRequest

TRUE = frozenset(("1", "t", "T", "TRUE", "true", "True"))
FALSE = frozenset(("0", "f", "F", "FALSE", "false", "False"))
_ANNOTATION_KEY = re.compile(
    r"annotation(?:-(?P<kind>[a-z-]+?))?(?:\[(?P<platform>[^\]]+)\])?\.(?P<key>.+)\Z"
)
_ANNOTATION_FLAG = re.compile(
    r"(?:(?P<kinds>[a-z-]+(?:\[[^\]]*\])?(?:,[a-z-]+(?:\[[^\]]*\])?)*):)?(?P<key>[^=]+)=(?P<value>.*)\Z",
    re.DOTALL,
)
_GENERATIONS = ("10", "20", "30")
_CURRENT = 30  # before it, docker's media types were the default but for images with attestations
_KINDS = frozenset(("manifest", "index", "manifest-descriptor", "index-descriptor"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Annotations:
    """Annotations by the document that carries them; manifest ones perhaps of one platform."""

    entries: tuple[tuple[str, str, str, str], ...] = ()  # kind, platform or "", key, value

    def of(self, kind: str, platform: Platform | None = None) -> dict[str, str]:
        """What the document of that kind (and platform) carries."""
        wanted = {"", str(platform)} if platform is not None else {""}
        return {
            key: value
            for entry, where, key, value in self.entries
            if entry == kind and where in wanted
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageOptions:
    """How an image is written."""

    variant: Variant
    oci_types: bool = True
    oci_artifact: bool = True
    epoch: int | None = None
    annotations: Annotations = field(default_factory=Annotations)
    names: tuple[Reference, ...] = ()


def image_options(
    attributes: Mapping[str, str], request: ExportRequest, *, compression: str = "gzip"
) -> ImageOptions:
    """The options of an output of type image, oci or docker. Raises UsageError."""
    flag(attributes, "prefer-nondist-layers")  # layers keep the kind that their base gives them
    kind = attributes.get("compression", compression)
    if kind not in {"uncompressed", "gzip", "estargz", "zstd"}:
        raise UsageError(
            f"unsupported compression type {kind}", hint="uncompressed, gzip, estargz or zstd"
        )
    only_oci = kind in {"zstd", "estargz"}
    modern = _compatibility(attributes) >= _CURRENT
    attested = any(image.attestations for image in request.images)
    oci_types = flag(attributes, "oci-mediatypes", default=modern or attested or only_oci)
    if only_oci and not oci_types:
        raise UsageError(
            f"compression={kind} conflicts with oci-mediatypes=false",
            hint=f"docker's media types cannot express {kind}",
        )
    epoch = _epoch(attributes, request)
    clamp = None
    if flag(attributes, "rewrite-timestamp"):
        if flag(attributes, "unpack"):
            raise UsageError('exporter option "rewrite-timestamp" conflicts with "unpack"')
        if epoch is None:
            raise UsageError(
                "rewrite-timestamp needs a SOURCE_DATE_EPOCH",
                hint="give --build-arg SOURCE_DATE_EPOCH=<seconds>",
            )
        clamp = epoch
    return ImageOptions(
        variant=Variant(
            compression=kind,
            level=_level(attributes, kind),
            force=flag(attributes, "force-compression"),
            clamp_mtime=clamp,
        ),
        oci_types=oci_types,
        oci_artifact=flag(attributes, "oci-artifact", default=modern),
        epoch=epoch,
        annotations=parse_annotations(attributes, request.annotations),
        names=image_names(attributes, request.names),
    )


def _compatibility(attributes: Mapping[str, str]) -> int:
    """The generation of BuildKit whose defaults for media types are wanted."""
    text = attributes.get("compatibility-version", str(_CURRENT))
    if text not in _GENERATIONS:
        raise UsageError(
            f'invalid value "{text}" for compatibility-version',
            hint=f"one of {', '.join(_GENERATIONS)}",
        )
    return int(text)


def flag(attributes: Mapping[str, str], key: str, *, default: bool = False) -> bool:
    """A boolean attribute, in Go's spellings. Raises UsageError."""
    value = attributes.get(key)
    if value is None:
        return default
    if value in TRUE or value == "":
        return True
    if value in FALSE:
        return False
    raise UsageError(f'invalid value "{value}" for {key}: not a boolean')


def _level(attributes: Mapping[str, str], kind: str) -> int | None:
    text = attributes.get("compression-level")
    if text is None:
        return None
    if not text.isdigit():
        raise UsageError(f'invalid value "{text}" for compression-level: not a number')
    from buildkit_py.layers.compression import Compression  # noqa: PLC0415  (seldom needed)

    return Compression(kind=kind, level=int(text)).level


def _epoch(attributes: Mapping[str, str], request: ExportRequest) -> int | None:
    text = attributes.get("source-date-epoch")
    if text is None:
        return request.epoch
    if text == "":
        return None
    if not text.isdigit():
        raise UsageError(f"invalid SOURCE_DATE_EPOCH: {text}")
    return int(text)


def image_names(attributes: Mapping[str, str], given: tuple[str, ...]) -> tuple[Reference, ...]:
    """The names of the attribute `name`, else those of `--tag`. Raises UsageError."""
    listed = [name.strip() for name in attributes.get("name", "").split(",") if name.strip()]
    names = [parse_reference(name) for name in listed or given]
    return tuple(dict.fromkeys(names))


def parse_annotations(attributes: Mapping[str, str], flags: tuple[str, ...]) -> Annotations:
    """Annotations of an output's attributes and of `--annotation`. Raises UsageError."""
    entries: list[tuple[str, str, str, str]] = []
    for name, value in attributes.items():
        if not name.startswith("annotation"):
            continue
        match = _ANNOTATION_KEY.match(name)
        if match is None:
            raise UsageError(f'invalid annotation key "{name}"', hint="annotation.<key>=<value>")
        kind = match["kind"] or "manifest"
        entries.append((_known_kind(kind), match["platform"] or "", match["key"], value))
    for text in flags:
        match = _ANNOTATION_FLAG.match(text)
        if match is None:
            raise UsageError(f'invalid annotation "{text}": expected key=value')
        for item in (match["kinds"] or "manifest").split(","):
            kind, _, platform = item.partition("[")
            entries.append((_known_kind(kind), platform.rstrip("]"), match["key"], match["value"]))
    return Annotations(entries=tuple(entries))


def _known_kind(kind: str) -> str:
    if kind not in _KINDS:
        raise UsageError(
            f'unknown annotation type "{kind}"', hint=f"one of {', '.join(sorted(_KINDS))}"
        )
    return kind
