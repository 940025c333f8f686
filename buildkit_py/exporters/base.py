"""What an exporter is given and what it gives back."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

from buildkit_py.digest import Digest
from buildkit_py.oci.config import ImageConfig
from buildkit_py.oci.descriptor import Descriptor
from buildkit_py.platforms import Platform

if TYPE_CHECKING:
    from buildkit_py.exporters import OutputSpec
    from buildkit_py.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Attestation:
    """What is stated about an image: the predicate (JSON) of an in-toto statement.

    `filename` is its name beside a plain tree, where an `inline_only` one is not written. An image
    adds, at `layers_path` of the predicate, the layers of the snapshots that `steps` names.
    """

    predicate_type: str
    predicate: Mapping[str, Any]
    filename: str = ""
    inline_only: bool = False
    layers_path: tuple[str, ...] = ()
    steps: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltImage:
    """One platform's result. `config` has no diff_ids yet; its history is complete.

    The first `base_history` history entries are the base image's. `extra` adds top-level fields
    to the config (an inline cache). `settled` is what later times of files become in plain tars,
    as they do in layers.
    """

    config: ImageConfig
    snapshot: int | None
    base_history: int = 0
    extra: Mapping[str, Any] = field(default_factory=dict)
    attestations: tuple[Attestation, ...] = ()
    settled: int | None = None

    @property
    def platform(self) -> Platform:
        """The platform that the image runs on."""
        return self.config.platform


Report = Callable[[str, int, int], None]
"""Told what is being written: an id, bytes done, bytes in all (0: not known)."""


def _silent(_name: str, _current: int, _total: int) -> None:
    """Report nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportRequest:
    """What a build made and how it is called.

    `annotations` are `--annotation` values (`[type:]key=value`). `multi_platform` says that more
    than one platform was asked for. Relative destinations start at `directory`. The environment
    leads to credentials and proxies.
    """

    images: tuple[BuiltImage, ...]
    names: tuple[str, ...] = ()
    epoch: int | None = None
    annotations: tuple[str, ...] = ()
    directory: Path = field(default_factory=Path.cwd)
    stdout: BinaryIO | None = None
    multi_platform: bool = False
    report: Report = _silent
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ), repr=False)
    insecure_registries: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportedImage:
    """One platform as it was written."""

    platform: Platform
    config: Descriptor
    manifest: Descriptor


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportResult:
    """What was written: `descriptor` names the manifest or the index, None for plain files."""

    descriptor: Descriptor | None = None
    images: tuple[ExportedImage, ...] = ()
    names: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def image_id(self) -> Digest | None:
        """The config's digest, of the first platform."""
        return self.images[0].config.digest if self.images else None

    def metadata(self) -> dict[str, Any]:
        """The keys that `--metadata-file` gets for this output."""
        out: dict[str, Any] = {}
        if len(self.images) == 1:
            out["containerimage.config.digest"] = self.images[0].config.digest
        if self.descriptor is not None:
            from buildkit_py.oci.descriptor import descriptor_to_json  # noqa: PLC0415

            out["containerimage.descriptor"] = descriptor_to_json(self.descriptor)
            out["containerimage.digest"] = self.descriptor.digest
        if self.names:
            out["image.name"] = ",".join(self.names)
        return out


class Exporter(Protocol):
    """Writes a build's result somewhere. One object serves one output of one build."""

    def export(self, request: ExportRequest) -> ExportResult:
        """Write it, whole or not at all. Raises StoreError, UsageError, ContentError."""
        ...


class CacheOnlyExporter:
    """Writes nothing: the result stays in the cache."""

    def __init__(self, spec: OutputSpec, store: Store) -> None:
        del spec, store

    def export(self, request: ExportRequest) -> ExportResult:
        """Do nothing."""
        del request
        return ExportResult()
