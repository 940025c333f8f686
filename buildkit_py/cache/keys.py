"""Cache keys: what identifies a result across builds, and the parts that went into it.

A vertex has up to three keys, tried in this order (a hit by any of them is a hit):

- the *definition* key: the op's parts and the definition keys of the inputs, known before anything
  runs. Inputs that are build contexts count by content even here, as they have no other identity;
- the *chained* key: the same with the canonical keys of the inputs' results;
- the *content* key: inputs that count by content give the digest of what is selected of them.

The content key is the canonical key of a result; the others are recorded as aliases of it. Every
key keeps its parts (JSON values), so that a miss can be explained by comparing them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from buildkit_py.digest import Digest, digest_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The files of an input that a vertex looks at; equal selections have equal digests.

    `paths` are absolute and clean. With `wildcard` they are patterns. `parents` (COPY --parents)
    lets `**` match any number of components below `pivot`, and makes the directories between that
    and a match count; exclusions are then relative to the pivot.
    """

    paths: tuple[str, ...] = ("/",)
    wildcard: bool = False
    exclude: tuple[str, ...] = ()
    follow_links: bool = True
    parents: bool = False
    pivot: str = ""

    def to_json(self) -> dict[str, Any]:
        """The form that stands in key parts; defaults are left out."""
        out: dict[str, Any] = {"paths": list(self.paths)}
        if self.wildcard:
            out["wildcard"] = True
        if self.exclude:
            out["exclude"] = list(self.exclude)
        if not self.follow_links:
            out["follow_links"] = False
        if self.parents:
            out["parents"] = True
            out["pivot"] = self.pivot
        return out


@dataclass(frozen=True, slots=True, kw_only=True)
class InputKey:
    """How one input counts: by its own key (`selections` empty), or by selected content."""

    selections: tuple[Selection, ...] = ()

    @property
    def by_content(self) -> bool:
        """Whether the input's content, not its key, identifies it."""
        return bool(self.selections)


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheMap:
    """An op's own part of its key (`parts`, JSON values), and how each input counts.

    `uncacheable` ops are neither looked up nor recorded, since making their result costs nothing
    (an image's rows); their digest still is their key.
    """

    parts: Mapping[str, Any]
    inputs: tuple[InputKey, ...] = ()
    uncacheable: bool = False
    digest: Digest = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "digest", digest_of(self.parts))


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheKey:
    """A digest and its pre-image."""

    digest: Digest
    parts: Mapping[str, Any] = field(compare=False, repr=False)


InputPart: TypeAlias = Mapping[str, Any] | None
"""One input in a key: `by_key(...)`, `by_content(...)`, or None for an empty root."""


def by_key(key: Digest, selections: Sequence[Selection] = ()) -> InputPart:
    """An input that counts by its key; what is selected of it then counts by its description."""
    if not selections:
        return {"key": key}
    return {"key": key, "selections": [selection.to_json() for selection in selections]}


def by_content(digests: Sequence[str]) -> InputPart:
    """An input that counts by the digests of its selections, in their order."""
    return {"content": list(digests)}


def derive_key(cache_map: CacheMap, inputs: Sequence[InputPart]) -> CacheKey:
    """The key of an op over its inputs."""
    parts = {"op": dict(cache_map.parts), "inputs": list(inputs)}
    return CacheKey(
        digest=digest_of({"op": cache_map.digest, "inputs": list(inputs)}), parts=parts
    )
