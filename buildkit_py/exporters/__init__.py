"""Outputs: what `--output` may say, and which module writes each kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, cast

from buildkit_py.errors import UsageError

if TYPE_CHECKING:
    from buildkit_py.exporters.base import Exporter
    from buildkit_py.store import Store

EXPORTERS = {
    "image": "image:ImageExporter",
    "registry": "registry:RegistryExporter",
    "oci": "oci:OciExporter",
    "docker": "docker:DockerExporter",
    "local": "directory:DirectoryExporter",
    "tar": "tar:TarExporter",
    "cacheonly": "base:CacheOnlyExporter",
}
_TREE_KEYS = frozenset(
    "dest platform-split mode attestation-prefix owner source-date-epoch".split()
)
_IMAGE_KEYS = frozenset(
    "dest tar context name push push-by-digest registry.insecure unpack store dangling-name-prefix"
    " danging-name-empty-only dangling-name-empty-only name-canonical oci-mediatypes oci-artifact"
    " attestation-inline prefer-nondist-layers compression compression-level force-compression"
    " source-date-epoch rewrite-timestamp compatibility-version buildinfo buildinfo-attrs".split()
)


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputSpec:
    """One `--output`: its type and its attributes, `dest` among them."""

    kind: str
    attributes: Mapping[str, str] = field(default_factory=dict)

    @property
    def destination(self) -> str | None:
        """Path to write to; `-` is standard output."""
        return self.attributes.get("dest")


def parse_output(text: str) -> OutputSpec:
    """Parse `type=oci,dest=out.tar`, a directory, or `-`. Raises UsageError."""
    fields = split_csv(text)
    if not fields or not text:
        raise UsageError("invalid value for --output: it is empty")
    if len(fields) == 1 and "=" not in fields[0]:
        if fields[0] == "-":
            return OutputSpec(kind="tar", attributes={"dest": "-"})
        return OutputSpec(kind="local", attributes={"dest": fields[0]})
    attributes: dict[str, str] = {}
    kind = ""
    for item in fields:
        key, equals, value = item.partition("=")
        key = key.strip().lower()
        if not equals:
            raise UsageError(
                f'invalid value for --output: "{item}" is not key=value',
                hint='quote a value that holds commas: type=image,"name=a,b"',
            )
        if key == "type":
            kind = value.strip()
        else:
            attributes[key] = value
    if not kind:
        raise UsageError("type is required for output", hint=f"one of {', '.join(EXPORTERS)}")
    if kind not in EXPORTERS:
        raise UsageError(f'unknown output type "{kind}"', hint=f"one of {', '.join(EXPORTERS)}")
    _check(kind, attributes)
    return OutputSpec(kind=kind, attributes=attributes)


def _check(kind: str, attributes: Mapping[str, str]) -> None:
    known = _TREE_KEYS if kind in {"local", "tar"} else _IMAGE_KEYS
    if kind == "cacheonly":
        known = frozenset()
    for key in attributes:
        if key not in known and not (known is _IMAGE_KEYS and key.startswith("annotation")):
            raise UsageError(
                f'unknown key "{key}" for output type {kind}',
                hint=f"known: {', '.join(sorted(known))}" if known else "it takes none",
            )


def split_csv(text: str) -> list[str]:
    """The fields of one CSV line: commas part, double quotes hold together."""
    import csv  # noqa: PLC0415 - only a value with quotes needs it

    if '"' not in text:
        return text.split(",") if text else []
    try:
        rows = list(csv.reader([text], strict=True))
    except csv.Error as error:
        raise UsageError(f"invalid value {text!r}: {error}") from error
    return rows[0] if rows else []


def open_exporter(spec: OutputSpec, store: Store) -> Exporter:
    """The exporter for an output. Raises UsageError for attributes that contradict."""
    module, _, name = EXPORTERS[spec.kind].partition(":")
    factory = getattr(import_module(f"buildkit_py.exporters.{module}"), name)
    return cast("Exporter", factory(spec, store))
