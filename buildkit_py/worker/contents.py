"""Content digests of results: of build contexts by their own memory, of snapshots by the cache's.

A worker hands `content_digest`, `content_files` and `unchanged` on to this.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from buildkit_py.cache.contenthash import digest_with_files, selection_digest
from buildkit_py.digest import digest_of

if TYPE_CHECKING:
    from buildkit_py.cache.keys import Selection
    from buildkit_py.cache.local import LocalCache
    from buildkit_py.layers.tree import Tree
    from buildkit_py.solver.ports import Result
    from buildkit_py.sources.local import ContextSource


class ContentDigests:
    """Digests of what is selected of a result.

    `tree_of` gives the tree of a snapshot (None: an empty root), fetching and unpacking its layers
    when they are first needed.
    """

    def __init__(
        self,
        contexts: Mapping[str, ContextSource],
        cache: LocalCache,
        tree_of: Callable[[int | None], Tree],
    ) -> None:
        self._contexts = contexts
        self._cache = cache
        self._tree_of = tree_of

    def content_digest(self, result: Result, selection: Selection) -> str:
        """The digest of the selected files. Raises CopyError for a missing literal path."""
        if result.context is not None:
            return self._contexts[result.context].digest(selection)
        if result.snapshot is None:
            return selection_digest(self._tree_of(None), selection)
        name = digest_of(selection.to_json())
        known = self._cache.snapshot_digest(result.snapshot, name)
        if known is not None:
            return known
        digest, files = digest_with_files(self._tree_of(result.snapshot), selection)
        self._cache.save_snapshot_digest(result.snapshot, name, digest)
        self._cache.save_files(digest, files)
        return digest

    def content_files(self, result: Result, selection: Selection) -> Mapping[str, str]:
        """The selected files, with digits of their digests."""
        if result.context is not None:
            return self._contexts[result.context].files(selection)
        files = self._cache.files(self.content_digest(result, selection))
        return {} if files is None else files

    def unchanged(
        self, result: Result, selection: Selection, digest: str, *, mounted: bool
    ) -> bool:
        """Whether the files are still those that the digest was taken of."""
        if result.context is None:
            return True  # snapshots do not change
        return self._contexts[result.context].unchanged(selection, digest, mounted=mounted)
