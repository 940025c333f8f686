"""`type=inline`: a cache inside of an image's config, for its own layers only.

The field holds base64 of a cache config's records, as BuildKit has it. Their layers are the
image's, in their order; its manifest, which is made after the config, has their blobs.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from buildkit_py.cache.base import ExportedResult
from buildkit_py.cache.config import INLINE_FIELD, CacheConfig, decode, encode_records
from buildkit_py.cache.exports import choose_results, collect
from buildkit_py.errors import ContentError

if TYPE_CHECKING:
    from buildkit_py.oci.descriptor import Descriptor
    from buildkit_py.store.snapshots import SnapshotStore


def inline_field(
    results: Sequence[ExportedResult], root: int, snapshots: SnapshotStore
) -> Mapping[str, Any]:
    """What to add to the config of the image whose file system is `root`."""
    from buildkit_py.store.layer import Variant  # noqa: PLC0415

    chosen = choose_results(results, [root], snapshots, "min")
    if not chosen:
        return {}
    export = collect(chosen, snapshots, Variant(), with_blobs=False)
    # all are parts of one chain, so that layers are numbered as in the image
    own = [snapshots.diff_id(item.id) for item in snapshots.chain(root)]
    if [layer.diff_id for layer in export.config.layers] != own[: len(export.config.layers)]:
        return {}
    return {INLINE_FIELD: base64.b64encode(encode_records(export.config)).decode("ascii")}


def read_inline(config: Mapping[str, Any], layers: Sequence[Descriptor]) -> CacheConfig | None:
    """The cache inside of an image's config, None if there is none. Raises ContentError."""
    value = config.get(INLINE_FIELD)
    if not isinstance(value, str):
        return None
    root = config.get("rootfs")
    diff_ids = root.get("diff_ids") if isinstance(root, dict) else None
    image = [str(item) for item in diff_ids] if isinstance(diff_ids, list) else []
    try:
        found = decode(base64.b64decode(value, validate=True), image)
    except binascii.Error as error:
        raise ContentError("inline cache is not valid base64") from error
    if len(found.layers) > len(layers):
        raise ContentError("inline cache names more layers than the image has")
    if any(layer.parent != index - 1 for index, layer in enumerate(found.layers)):
        raise ContentError("inline cache is malformed: its layers are not the image's")
    filled = tuple(
        replace(layer, blob=blob) for layer, blob in zip(found.layers, layers, strict=False)
    )
    return CacheConfig(layers=filled, results=found.results)
