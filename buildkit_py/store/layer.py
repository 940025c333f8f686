"""A layer as its row says, the forms that it can take outside, and the blob of one form."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from buildkit_py.digest import Digest
from buildkit_py.oci.descriptor import Descriptor


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """The form that a layer should have outside.

    Layers that came from outside keep theirs unless `force`. `clamp_mtime` (seconds) lowers later
    times of files, in layers that were made here only, as a base image's layers stay what they
    are; with `rewrite` in any (unpacked) layer: it is that of a step, from an imported cache.
    """

    compression: str = "uncompressed"  # gzip, zstd, estargz
    level: int | None = None
    force: bool = False
    clamp_mtime: int | None = None
    rewrite: bool = False

    @property
    def key(self) -> str:
        """What tells stored variants apart."""
        return f"{self.compression}:{self.level}:{self.clamp_mtime}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """What a layer's row says; `diff_id` is None until known."""

    id: int
    directory: Path
    unpacked: bool
    diff_id: Digest | None
    blob: Descriptor | None
    origin: str
    settle: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerBlob:
    """A layer in one form outside: its blob, and the digest of its uncompressed tar."""

    descriptor: Descriptor
    diff_id: Digest
    origin: str = ""
