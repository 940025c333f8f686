"""Build contexts: a user's directory, its ignore rules, and digests of what is selected of it.

Only what a selection names is looked at, and what the ignore rules leave out is not walked into.
An unchanged file costs one lstat. The plain walk below gives the same digests as
`contenthash.selection_digest` over the context's tree (a property test says so), at a fraction of
the cost; patterns, which are few, take the general way.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from buildkit_py.cache.contenthash import (
    digest_entries,
    entry_digest,
    exclusion,
    listed,
    not_found,
    selection_digest,
    selection_files,
)
from buildkit_py.errors import SourceError
from buildkit_py.filestamps import STAMP, is_settled, same_stamps, stamp_of
from buildkit_py.layers.context import ContextTree, IgnoreRules, list_directory
from buildkit_py.sources.statcache import StatCache

if TYPE_CHECKING:
    from buildkit_py.cache.keys import Selection
    from buildkit_py.layers.tree import Node

_Listing: TypeAlias = "list[tuple[bytes, bytes]]"


class ContextSource:
    """One build context. `cache` is a folder that remembers file digests between builds.

    `normalize_modes` keys files with the modes that git knows (0644, 0755); whoever copies must
    read them through `tree`, which shows them the same way.
    """

    def __init__(
        self,
        root: Path,
        ignore: IgnoreRules | None = None,
        *,
        cache: Path | None = None,
        normalize_modes: bool = False,
        keeps_owners: bool = False,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.root = root
        self.ignore = ignore
        self.normalize_modes = normalize_modes
        self.tree = ContextTree(
            root, ignore, normalize_modes=normalize_modes, keeps_owners=keeps_owners
        )
        identity = self.tree.directory + (b"\0normalized" if normalize_modes else b"")
        self._stats = StatCache(cache, identity + (b"\0owned" if keeps_owners else b""))
        self._clock_ns = clock_ns
        self._opened_ns = clock_ns()
        self._entered: dict[bytes, bytes] = {}  # what was looked at one by one, with its digest
        self._gaps: set[bytes] = set()  # tops of listings that leave out directories within
        self._moved = False
        self._listings: dict[tuple[bytes, tuple[str, ...]], _Listing] = {}
        self._digests: dict[Selection, str] = {}

    def digest(self, selection: Selection) -> str:
        """The digest of what is selected. Raises CopyError for a literal path not there."""
        if selection not in self._digests:
            with _explained(self.root):
                self._digests[selection] = self._digest(selection)
        return self._digests[selection]

    def files(self, selection: Selection) -> Mapping[str, str]:
        """The selected files and digits of their digests."""
        with _explained(self.root):
            if selection.wildcard or selection.parents:
                return selection_files(self.tree, selection, self._entry)
            found: dict[str, str] = {}
            for path in selection.paths:
                top = self._top(path, follow=selection.follow_links)
                base = top.path.rstrip(b"/")
                listing = self._listing(top, selection.exclude)
                few = len(listing) <= _MOST_DESCRIBED
                for name, digest in listing:
                    node = self.tree.lookup(base + name or b"/", follow=False) if few else None
                    found[os.fsdecode((base + name)[1:]) or "."] = listed(digest, node)
            return found

    def unchanged(self, selection: Selection, digest: str, *, mounted: bool = False) -> bool:
        """Whether the files are what they were: to ask after they have been copied.

        Of what was copied through `tree` only the files that were read can have been others: the
        rest was linked to what has the same digest. Not so where the directory was `mounted`.
        """
        if self._stands(selection, every=mounted):
            return True
        again = ContextSource(
            self.root,
            self.ignore,
            normalize_modes=self.normalize_modes,
            keeps_owners=self.tree.keeps_owners,
        )
        again._stats = self._stats  # a second look, same memory
        try:
            return again.digest(selection) == digest
        except (SourceError, OSError):
            return False

    def _stands(self, selection: Selection, *, every: bool) -> bool:
        """Whether stamps alone tell that a selection (what was read of it) is what it was."""
        if selection.wildcard or selection.parents or self.tree.listed_again:
            return False
        known, touched = self._stats.known, self.tree.touched
        names: list[bytes] = []
        stamps: list[bytes] = []
        for asked in selection.paths:
            top = self.tree.lookup(asked, follow=selection.follow_links)
            base = b"" if top is None else top.path.rstrip(b"/")
            listing = self._listings.get((base, selection.exclude))
            if top is None or listing is None or base in self._gaps:
                return False
            for name, digest in listing:
                path = base + name or b"/"
                if not every and path not in touched:
                    continue
                stamp = known.get(path)
                if stamp is None or stamp[STAMP:] != digest:
                    return False
                names.append(base + name)
                stamps.append(stamp[:STAMP])
        return same_stamps(self.tree.directory, names, b"".join(stamps))

    def save(self) -> None:
        """Remember the digests for the next build."""
        self._stats.keep_only(
            {top + name for (top, _), listing in self._listings.items() for name, _ in listing}
        )
        self._stats.save()

    def stamps(self) -> tuple[list[bytes], bytes] | None:
        """Everything that the digests came from: paths with a leading slash, and their stamps.

        While these stay the same, so do the digests: files by their own stamps, what is in a
        directory by the directory's. None if something has changed too lately to tell.
        """
        known = self._stats.known
        for path, digest in self._entered.items():
            if known.get(path, b"")[STAMP:] != digest:
                return None  # it has been changed meanwhile, or too lately
        if self._moved:
            return None
        entered = {path.rstrip(b"/") for path in self._entered}
        for (top, _), listing in self._listings.items():
            for name, digest in listing:
                path = top + name
                stamp = known.get(path or b"/")
                if stamp is None or stamp[STAMP:] != digest:
                    return None  # another selection found it changed
                entered.add(path)
        looked = {path.rstrip(b"/") for path in self.tree.looked} | {b""}
        for path in entered | looked:
            parent = path.rpartition(b"/")[0]
            while parent not in looked:
                looked.add(parent)
                parent = parent.rpartition(b"/")[0]
        names = sorted(entered | looked)
        out = []
        for name in names:
            stamp = known.get(name or b"/") if name in entered else self._stamp(name)
            if stamp is None:
                return None
            out.append(stamp[:STAMP])
        return names, b"".join(out)

    def _stamp(self, name: bytes) -> bytes | None:
        """The stamp of a path, if it has not changed since before this object first looked."""
        try:
            status = os.lstat(self.tree.directory + name)
        except OSError:
            return None
        return stamp_of(status) if is_settled(status.st_ctime_ns, self._opened_ns) else None

    # -------------------------------------------------------------- digests
    def _digest(self, selection: Selection) -> str:
        if selection.wildcard or selection.parents:
            return selection_digest(self.tree, selection, self._entry)
        entries: _Listing = []
        for path in selection.paths:
            top = self._top(path, follow=selection.follow_links)
            entries += self._listing(top, selection.exclude)
        return digest_entries(entries)

    def _top(self, path: str, *, follow: bool) -> Node:
        node = self.tree.lookup(path, follow=follow)
        if node is None:
            raise not_found(self.tree, path)
        return node

    def _entry(self, node: Node) -> bytes:
        """The digest of one entry, from memory where its stat data is known."""
        known = self._stats.known.get(node.path)
        if known is not None and known[:STAMP] == stamp_of(node.status):
            digest = known[STAMP:]
        else:
            now = self._clock_ns()
            digest = entry_digest(self.tree, node)
            self._stats.put(node.path, node.status, digest, now)
        # what one step took as it was, and another as it is now, is not to be recalled
        self._moved |= self._entered.setdefault(node.path, digest) != digest
        return digest

    # -------------------------------------------------------------- walking
    def _listing(self, top: Node, exclude: tuple[str, ...]) -> _Listing:
        """Names below `top` (itself first, named b'') with digests, in walk order."""
        key = (top.path.rstrip(b"/"), exclude)
        if key not in self._listings:
            listing: _Listing = [(b"", self._entry(top))]
            if top.is_dir:
                listing += self._walk(top, exclude)
            self._listings[key] = listing
        return self._listings[key]

    def _walk(self, top: Node, exclude: tuple[str, ...]) -> _Listing:
        filters = self._filters(top, exclude)
        known = self._stats.known
        base = top.path.rstrip(b"/")
        skip = len(base)
        hidden: set[bytes] = set()
        listing: _Listing = []
        enter = self.tree.list_for_digest
        stack = list(enter(base, top.real, top.status))
        while stack:
            path, entry, real = stack.pop()
            if filters:
                verdict = _verdict(filters, path, entry)
                if verdict is _OUT:
                    continue
                if verdict is not _IN:
                    self.tree.looked.add(path)
                    self._gaps.add(base)
                    if verdict is _DROPPED:
                        stack += list_directory(real, path)
                        continue
                    hidden.add(path[skip:])
            status = entry.stat(follow_symlinks=False)
            remembered = known.get(path)
            if remembered is not None and remembered.startswith(stamp_of(status)):
                listing.append((path[skip:], remembered[STAMP:]))
            else:
                listing.append((path[skip:], self._entry(self.tree.show(path, status, real))))
            if status.st_mode & 0o170000 == 0o040000:
                stack += enter(path, real, status)
        return _without_empty(listing, hidden) if hidden else listing

    def _filters(self, top: Node, exclude: tuple[str, ...]) -> list[_Filter]:
        filters = []
        if self.ignore is not None:
            filters.append(_Filter(self.ignore, 1, keeps_parents=True))
        rules = exclusion(exclude)
        if rules is not None:
            filters.append(_Filter(rules, len(top.path.rstrip(b"/")) + 1, keeps_parents=False))
        return filters


_MOST_DESCRIBED = 5000  # entries whose modes and owners are looked up for a list
_IN, _PERHAPS, _DROPPED, _OUT = "in", "perhaps", "dropped", "out"


@contextmanager
def _explained(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        name = os.path.relpath(os.fsdecode(error.filename or root), root)
        raise SourceError(f"cannot read {name} in the build context: {error.strerror}") from error


def _without_empty(listing: _Listing, hidden: set[bytes]) -> _Listing:
    """Drop excluded directories that hold nothing. What follows a directory tells if it does."""
    kept: _Listing = []
    following = b""
    for name, digest in reversed(listing):
        if name in hidden and not following.startswith(name + b"/"):
            continue
        kept.append((name, digest))
        following = name
    kept.reverse()
    return kept


class _Filter:
    """Rules over paths relative to some directory, whose length is cut off.

    With `keeps_parents` an excluded directory that holds something else is shown.
    """

    __slots__ = ("keeps_parents", "rules", "skip")

    def __init__(self, rules: IgnoreRules, skip: int, *, keeps_parents: bool) -> None:
        self.rules = rules
        self.skip = skip
        self.keeps_parents = keeps_parents


def _verdict(filters: list[_Filter], path: bytes, entry: os.DirEntry[bytes]) -> str:
    result = _IN
    for item in filters:
        name = os.fsdecode(path[item.skip :])
        if not item.rules.excluded(name):
            continue
        if not entry.is_dir(follow_symlinks=False) or not item.rules.may_descend(name):
            return _OUT
        result = _PERHAPS if item.keeps_parents and result is _IN else _DROPPED
    return result
