"""The document of an exported cache: which keys lead to which chains of layers.

It has the form of BuildKit's `application/vnd.buildkit.cacheconfig.v0`: `layers` with the index of
their parent, and `records`, each a digest with the layers that it leads to. Our keys are complete
in themselves, so our records have no `inputs`. A record carries its canonical key and its step
besides, in fields of our own (`pybuild.*`) that other readers pass over.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from buildkit_py.digest import Digest, canonical_json, parse_digest
from buildkit_py.errors import ContentError
from buildkit_py.oci.descriptor import Descriptor, descriptor_from_json, descriptor_to_json

CONFIG_TYPE = "application/vnd.buildkit.cacheconfig.v0"
CONFIG_LIMIT = 64 << 20
INLINE_FIELD = "moby.buildkit.cache.v0"
DIFF_ID_ANNOTATION = "containerd.io/uncompressed"
UNNAMED = Digest("")  # the diff_id of layers that a document does not tell
_MOST_LAYERS = 50_000
_TIME = "%Y-%m-%dT%H:%M:%SZ"


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedLayer:
    """A layer on the layer of index `parent` (-1: on nothing). Inline caches name no blob."""

    diff_id: Digest
    parent: int
    blob: Descriptor | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedResult:
    """The keys of one result, and the index of its top layer."""

    keys: tuple[Digest, ...]
    canonical: Digest
    layer: int
    created: float = 0.0
    description: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedMount:
    """The contents of a cache mount: its name in the store, and the blob that holds them.

    `owner` (uid, gid, mode) is the directory's own, None if the document does not say. `origin`
    is where the blob can be fetched, where it was not packed here.
    """

    name: str
    blob: Descriptor
    description: str
    owner: tuple[int, int, int] | None = None
    origin: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheConfig:
    """A whole exported cache."""

    layers: tuple[CachedLayer, ...] = ()
    results: tuple[CachedResult, ...] = ()
    mounts: tuple[CachedMount, ...] = ()

    def indexes(self, index: int) -> tuple[int, ...]:
        """Which layers a result has, lowest first."""
        out: list[int] = []
        while index >= 0:
            out.append(index)
            index = self.layers[index].parent
        return tuple(reversed(out))

    def chain(self, index: int) -> tuple[CachedLayer, ...]:
        """The layers of a result, lowest first."""
        return tuple(self.layers[item] for item in self.indexes(index))


def encode(config: CacheConfig) -> bytes:
    """Canonical JSON."""
    layers = [_layer_to_json(layer) for layer in config.layers]
    document: dict[str, Any] = {"layers": layers, "records": _records_to_json(config)}
    if config.mounts:
        document["pybuild.mounts"] = [_mount_to_json(mount) for mount in config.mounts]
    return canonical_json(document)


def encode_records(config: CacheConfig) -> bytes:
    """The records alone, as an image holds them, whose layers are the cache's."""
    return canonical_json(_records_to_json(config))


def _records_to_json(config: CacheConfig) -> list[dict[str, Any]]:
    return [
        {
            "digest": key,
            "layers": [{"layer": item.layer, "createdAt": _time_text(item.created)}],
            "pybuild.canonical": item.canonical,
            "pybuild.description": item.description,
        }
        for item in config.results
        for key in item.keys
    ]


def _mount_to_json(mount: CachedMount) -> dict[str, Any]:
    out = {
        "name": mount.name,
        "description": mount.description,
        "blob": descriptor_to_json(mount.blob),
    }
    return out if mount.owner is None else {**out, "owner": list(mount.owner)}


def _mount_from_json(raw: Mapping[str, Any]) -> CachedMount:
    name = str(raw["name"])
    if not re.fullmatch(r"[0-9a-f]{8,64}", name):
        raise ContentError("cache config is malformed: a mount has an invalid name")
    return CachedMount(
        name=name,
        description=str(raw["description"]),
        blob=descriptor_from_json(raw["blob"]),
        owner=_owner(raw.get("owner")),
    )


def _owner(raw: Any) -> tuple[int, int, int] | None:
    if raw is None:
        return None
    uid, gid, mode = (int(item) for item in raw)
    if not 0 <= min(uid, gid) <= max(uid, gid) < (1 << 32) - 1:
        raise ContentError("cache config is malformed: a mount has an invalid owner")
    return uid, gid, mode & 0o7777


def _layer_to_json(layer: CachedLayer) -> dict[str, Any]:
    annotations: dict[str, Any] = {"diffID": layer.diff_id}
    out: dict[str, Any] = {"parent": layer.parent, "annotations": annotations}
    if layer.blob is not None:
        out["blob"] = layer.blob.digest
        annotations["mediaType"] = layer.blob.media_type
        annotations["size"] = layer.blob.size
        if layer.blob.annotations:
            annotations["additional"] = dict(layer.blob.annotations)
    return out


def decode(data: bytes, image: Sequence[str] = ()) -> CacheConfig:
    """Read a document of anybody's. Raises ContentError.

    Records alone are about the layers of an image, whose diff_ids are `image`.
    """
    if len(data) > CONFIG_LIMIT:
        raise ContentError(f"cache config of {len(data)} bytes is too large")
    try:
        raw = json.loads(data)
        if isinstance(raw, list):
            raw = {"layers": [_layer_of_image(*item) for item in enumerate(image)], "records": raw}
        layers = [_layer_from_json(item, index) for index, item in enumerate(raw["layers"])]
        mounts = tuple(_mount_from_json(item) for item in raw.get("pybuild.mounts", ()))
        results = _results(raw["records"], layers)
        return CacheConfig(layers=tuple(layers), results=results, mounts=mounts)
    except KeyError as error:
        raise ContentError(f"cache config is malformed: it has no {error}") from error
    except json.JSONDecodeError as error:
        raise ContentError(f"cache config is not valid JSON: {error}") from error
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ContentError("cache config is malformed: a value is of a wrong kind") from error


def _layer_from_json(raw: Mapping[str, Any], index: int) -> CachedLayer:
    parent = int(raw.get("parent", 0))
    if not -1 <= parent < index or index >= _MOST_LAYERS:
        raise ContentError("cache config is malformed: a layer lies on a later one")
    annotations = raw.get("annotations") or {}
    blob = None
    if raw.get("blob"):
        blob = Descriptor(
            media_type=str(annotations.get("mediaType", "")),
            digest=parse_digest(str(raw["blob"])),
            size=int(annotations.get("size", 0)),
            annotations={str(k): str(v) for k, v in annotations.get("additional", {}).items()},
        )
    named = annotations.get("diffID")
    diff_id = UNNAMED if named is None else parse_digest(str(named))
    return CachedLayer(diff_id=diff_id, parent=parent, blob=blob)


def _layer_of_image(index: int, diff_id: str) -> dict[str, Any]:
    return {"parent": index - 1, "annotations": {"diffID": diff_id}}


def _results(
    records: Sequence[Mapping[str, Any]], places: Sequence[CachedLayer]
) -> tuple[CachedResult, ...]:
    found: list[CachedResult] = []
    named: list[bool] = []
    for place in places:
        below = place.parent < 0 or named[place.parent]
        named.append(below and place.diff_id != UNNAMED)
    for record in records:
        layers = record.get("layers") or []
        if not layers:
            continue  # a link of another builder's chain of keys
        layer = int(layers[0]["layer"])
        if not 0 <= layer < len(places):
            raise ContentError("cache config is malformed: a record names no layer")
        if not named[layer]:
            continue  # as other builders write them, whose keys are of no use here
        key = parse_digest(str(record["digest"]))
        found.append(
            CachedResult(
                keys=(key,),
                canonical=parse_digest(str(record.get("pybuild.canonical", key))),
                layer=layer,
                created=_time_value(layers[0].get("createdAt")),
                description=str(record.get("pybuild.description", "")),
            )
        )
    return tuple(found)


def merge(configs: Sequence[CacheConfig]) -> CacheConfig:
    """Several caches (of platforms, say) in one; equal layers once, the first of equal keys."""
    layers: list[CachedLayer] = []
    places: dict[tuple[int, Digest], int] = {}
    results: list[CachedResult] = []
    seen: set[Digest] = set()
    for config in configs:
        moved: list[int] = []
        for layer in config.layers:
            parent = moved[layer.parent] if layer.parent >= 0 else -1
            place = places.setdefault((parent, layer.diff_id), len(layers))
            if place == len(layers):
                layers.append(CachedLayer(diff_id=layer.diff_id, parent=parent, blob=layer.blob))
            moved.append(place)
        for item in config.results:
            keys = tuple(key for key in item.keys if key not in seen)
            seen.update(keys)
            if keys:
                results.append(
                    CachedResult(
                        keys=keys,
                        canonical=item.canonical,
                        layer=moved[item.layer],
                        created=item.created,
                        description=item.description,
                    )
                )
    mounts = {mount.name: mount for config in configs for mount in config.mounts}
    return CacheConfig(layers=tuple(layers), results=tuple(results), mounts=tuple(mounts.values()))


def _time_text(seconds: float) -> str:
    return time.strftime(_TIME, time.gmtime(seconds))


def _time_value(text: object) -> float:
    import calendar  # noqa: PLC0415  # reading caches only

    try:
        return float(calendar.timegm(time.strptime(str(text)[:19] + "Z", _TIME)))
    except ValueError:
        return 0.0
