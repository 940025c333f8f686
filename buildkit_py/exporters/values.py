"""Outputs as values: `OciOutput("out.tar")` says what `-o type=oci,dest=out.tar` says.

`str()` of one is the text that `--output` takes; attributes that were left alone are not in it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field, fields
from typing import ClassVar, TypeAlias

Path: TypeAlias = "str | os.PathLike[str]"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Attributes:
    """How an image is written, whatever it is written to (the classes below share data only)."""

    name: str | tuple[str, ...] = ()
    compression: str | None = None
    compression_level: int | None = None
    force_compression: bool | None = None
    oci_mediatypes: bool | None = None
    rewrite_timestamp: bool | None = None
    annotations: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LocalOutput:
    """The root filesystem as files below a directory."""

    kind: ClassVar[str] = "local"
    dest: Path
    _: KW_ONLY
    mode: str | None = None
    owner: str | None = None
    platform_split: bool | None = None
    attestation_prefix: str | None = None

    def __str__(self) -> str:
        return option_text(self)


@dataclass(frozen=True, slots=True)
class TarOutput:
    """The root filesystem as one tar; `-` is standard output."""

    kind: ClassVar[str] = "tar"
    dest: Path = "-"
    _: KW_ONLY
    platform_split: bool | None = None
    attestation_prefix: str | None = None

    def __str__(self) -> str:
        return option_text(self)


@dataclass(frozen=True, slots=True)
class OciOutput(_Attributes):
    """An OCI layout: a tar, or a directory with `tar=False`."""

    kind: ClassVar[str] = "oci"
    dest: Path
    _: KW_ONLY
    tar: bool | None = None

    def __str__(self) -> str:
        return option_text(self)


@dataclass(frozen=True, slots=True)
class DockerOutput(_Attributes):
    """An archive for `docker load`; without `dest` it is loaded into docker or podman."""

    kind: ClassVar[str] = "docker"
    dest: Path | None = None
    _: KW_ONLY
    tar: bool | None = None
    context: str | None = None

    def __str__(self) -> str:
        return option_text(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageOutput(_Attributes):
    """An image of the local store, sent to its registry as well with `push=True`."""

    kind: ClassVar[str] = "image"
    push: bool | None = None
    push_by_digest: bool | None = None

    def __str__(self) -> str:
        return option_text(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryOutput(_Attributes):
    """An image in a registry."""

    kind: ClassVar[str] = "registry"
    push_by_digest: bool | None = None

    def __str__(self) -> str:
        return option_text(self)


@dataclass(frozen=True, slots=True)
class CacheOnlyOutput:
    """Nothing: the result stays in the cache."""

    kind: ClassVar[str] = "cacheonly"

    def __str__(self) -> str:
        return option_text(self)


Output: TypeAlias = (
    LocalOutput
    | TarOutput
    | OciOutput
    | DockerOutput
    | ImageOutput
    | RegistryOutput
    | CacheOnlyOutput
)


def option_text(output: Output) -> str:
    """The output as a value of `--output`: one CSV line."""
    parts = [f"type={output.kind}"]
    for item in fields(output):
        value = getattr(output, item.name)
        if item.name == "annotations":
            parts += [f"annotation.{key}={text}" for key, text in value.items()]
        elif value is not None and value != ():
            parts.append(f"{item.name.replace('_', '-')}={_attribute(value)}")
    return ",".join(_quoted(part) for part in parts)


def _attribute(value: str | bool | int | tuple[str, ...] | os.PathLike[str]) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple | list):
        return ",".join(value)
    return str(value) if isinstance(value, int) else os.fspath(value)


def _quoted(part: str) -> str:
    if not any(character in part for character in ',"\r\n'):
        return part
    return '"' + part.replace('"', '""') + '"'
