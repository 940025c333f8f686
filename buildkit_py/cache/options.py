"""`--cache-from` and `--cache-to`: their text, checked, as values."""

from __future__ import annotations

import csv
import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from buildkit_py.errors import UsageError

if TYPE_CHECKING:
    from buildkit_py.cache.documents import Form

_FORM = "image-manifest oci-mediatypes compression compression-level force-compression"
_S3 = (
    "bucket region name prefix blobs_prefix manifests_prefix endpoint_url use_path_style"
    " access_key_id secret_access_key session_token retry_mode retry_max_attempts"
    " disable_accept_encoding touch_refresh upload_parallelism mounts"
)
_GHA = "scope url url_v2 version token timeout mounts"
_IMPORT: dict[str, frozenset[str]] = {
    "registry": frozenset("ref mounts".split()),
    "local": frozenset("src tag digest mounts".split()),
    "inline": frozenset("ref".split()),
    "s3": frozenset(_S3.split()),
    "gha": frozenset(_GHA.split()),
}
_EXPORT: dict[str, frozenset[str]] = {
    "registry": frozenset(f"ref mode mounts ignore-error {_FORM}".split()),
    "local": frozenset(f"dest tag mode reset mounts ignore-error {_FORM}".split()),
    "inline": frozenset("mode ignore-error".split()),
    "s3": frozenset(f"{_S3} mode ignore-error {_FORM}".split()),
    "gha": frozenset(f"{_GHA} mode ignore-error repository ghtoken {_FORM}".split()),
}
_NEEDED = {
    ("from", "registry"): "ref",
    ("to", "registry"): "ref",
    ("from", "inline"): "ref",
    ("from", "local"): "src",
    ("to", "local"): "dest",
}
_FLAGS = (
    "image-manifest",
    "oci-mediatypes",
    "force-compression",
    "ignore-error",
    "reset",
    "mounts",
    "use_path_style",
    "disable_accept_encoding",
)
_DURATION = re.compile(r"(?:([\d.]+)h)?(?:([\d.]+)m)?(?:([\d.]+)s)?")
_TRUE = frozenset({"1", "t", "T", "TRUE", "true", "True"})
_FALSE = frozenset({"0", "f", "F", "FALSE", "false", "False"})


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheOption:
    """One cache to import or export."""

    kind: str
    attributes: Mapping[str, str]

    def text(self, name: str, default: str = "") -> str:
        """The value of an attribute."""
        return self.attributes.get(name, default)

    def flag(self, name: str, *, default: bool = False) -> bool:
        """A yes or no. Raises UsageError."""
        value = self.attributes.get(name)
        if value is None:
            return default
        if value in _TRUE or value in _FALSE:
            return value in _TRUE
        raise UsageError(f"invalid value {value!r} for {name} of a cache: expected true or false")

    def number(self, name: str, default: int) -> int:
        """A count. Raises UsageError."""
        value = self.attributes.get(name)
        if value is None:
            return default
        if not value.isdecimal() or len(value) > 6:
            raise UsageError(f"invalid value {value!r} for {name} of a cache: expected a number")
        return int(value)

    def seconds(self, name: str, default: float) -> float:
        """A time as Go writes it (`24h`, `90m`, `1h30m`). Raises UsageError."""
        value = self.attributes.get(name)
        if value is None:
            return default
        parts = _DURATION.fullmatch(value)
        if not value or parts is None:
            raise UsageError(f"invalid value {value!r} for {name} of a cache: expected a duration")
        hours, minutes, seconds = (float(part or 0) for part in parts.groups())
        return hours * 3600 + minutes * 60 + seconds

    @property
    def mode(self) -> str:
        """`min` or `max`."""
        return self.attributes.get("mode", "min")

    @property
    def form(self) -> Form:
        """How the cache is wrapped. An image manifest exists by OCI's types only."""
        from buildkit_py.cache.documents import Form  # noqa: PLC0415  # exports only

        oci = self.flag("oci-mediatypes", default=True)
        return Form(image_manifest=self.flag("image-manifest", default=oci), oci=oci)

    @property
    def shown(self) -> str:
        """How warnings name it."""
        for name in ("ref", "src", "dest", "bucket"):
            if name in self.attributes:
                return f"{self.kind}:{self.attributes[name]}"
        return self.kind


def parse_import(text: str) -> CacheOption:
    """The value of `--cache-from`. Raises UsageError."""
    return _checked(_parse(text, "from", _IMPORT))


def parse_export(text: str) -> CacheOption:
    """The value of `--cache-to`. Raises UsageError."""
    option = _parse(text, "to", _EXPORT)
    if option.mode not in {"min", "max"}:
        raise UsageError(f"invalid mode {option.mode!r} of a cache: expected min or max")
    kinds = ("uncompressed", "gzip", "zstd", "estargz")
    if option.text("compression", "gzip") not in kinds:
        raise UsageError(
            f"invalid compression {option.text('compression')!r} of a cache",
            hint="one of " + ", ".join(kinds),
        )
    _check_level(option)
    _check_types(option)
    return _checked(option)


def _check_level(option: CacheOption) -> None:
    from buildkit_py.layers.compression import Compression  # noqa: PLC0415  # exports only

    level = option.text("compression-level")
    if level and not level.isdecimal():
        raise UsageError(f"invalid compression-level {level!r} of a cache")
    if level:
        Compression(kind=option.text("compression", "gzip"), level=int(level))


def _check_types(option: CacheOption) -> None:
    if option.flag("oci-mediatypes", default=True):
        return
    if option.flag("image-manifest"):
        raise UsageError("image-manifest=true of a cache needs oci-mediatypes=true")
    if option.text("compression", "gzip") not in {"gzip", "uncompressed"}:
        raise UsageError(
            f"compression={option.text('compression')} of a cache needs oci-mediatypes=true"
        )


def _checked(option: CacheOption) -> CacheOption:
    """The same, when each value has the form that its name wants. Raises UsageError."""
    for name in _FLAGS:
        option.flag(name)
    for name in ("retry_max_attempts", "upload_parallelism"):
        option.number(name, 0)
    for name in ("timeout", "touch_refresh"):
        option.seconds(name, 0.0)
    if option.text("version", "1") not in {"1", "2"}:
        raise UsageError(
            f"invalid version {option.text('version')!r} of a cache", hint="one of 1, 2"
        )
    if option.text("ref"):
        from buildkit_py.oci.reference import parse_reference  # noqa: PLC0415

        parse_reference(option.text("ref"))
    return option


def _known(names: frozenset[str]) -> str:
    return "known: " + ", ".join(sorted(names)) if names else "it has none"


def _parse(text: str, direction: str, known: Mapping[str, frozenset[str]]) -> CacheOption:
    option = f"--cache-{direction}"
    fields = next(csv.reader([text]), [])
    if not fields:
        raise UsageError(f"{option} needs a value")
    if len(fields) == 1 and "=" not in fields[0]:
        fields = ["type=registry", f"ref={fields[0]}"]
    attributes: dict[str, str] = {}
    for field in fields:
        name, equals, value = field.partition("=")
        if not equals:
            raise UsageError(f"invalid value {field!r} of {option}: expected name=value")
        name = name.strip().lower()
        if name in attributes:
            raise UsageError(f"{name}= is given twice in {option} {text}")
        attributes[name] = value
    kind = attributes.pop("type", "")
    if kind not in known:
        raise UsageError(
            f"unknown cache type {kind!r} of {option}" if kind else f"{option} needs type=",
            hint="one of " + ", ".join(known),
        )
    for name in attributes:
        if name not in known[kind]:
            near = difflib.get_close_matches(name, known[kind], 1)
            raise UsageError(
                f"unknown attribute {name!r} of {option} type={kind}",
                hint=f"did you mean {near[0]}?" if near else _known(known[kind]),
            )
    needed = _NEEDED.get((direction, kind))
    if needed and not attributes.get(needed):
        raise UsageError(f"{option} type={kind} needs {needed}=")
    return CacheOption(kind=kind, attributes=attributes)
