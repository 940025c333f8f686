"""Digests of selected files of a tree: what a COPY or a mount counts of its input.

Of each entry count: name (relative to what was selected), type, mode bits, owner, size, link
target, device number, extended attributes (of `security.*` and `system.*` only the capability)
and content. Times, inodes and the tree's place on disk do not. An entry's digest covers all but
its name; a selection's digest covers names and entry digests in walk order, so that the list of
both explains which files made the difference.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat as modes
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import pairwise, takewhile
from typing import TYPE_CHECKING, Protocol, TypeAlias

from buildkit_py.errors import CopyError
from buildkit_py.layers.tree import clean_path

if TYPE_CHECKING:
    from buildkit_py.cache.keys import Selection
    from buildkit_py.layers.tree import Node, Tree

EntryDigest: TypeAlias = "Callable[[Node], bytes]"
"""The 32-byte digest of an entry; a build context remembers them by stat data."""

SHOWN = 12  # bytes of an entry's digest that file lists keep
_CHUNK = 1 << 20
_FORMAT = b"contenthash/1\n"
_META = re.compile(rb"[*?\[\\]")
_WILDCARD = re.compile(rb"(?<!\\)(?:\\\\)*[*?\[]")


class _Rules(Protocol):
    def excluded(self, path: str) -> bool: ...

    def may_descend(self, path: str) -> bool: ...


def selection_digest(tree: Tree, selection: Selection, entry: EntryDigest | None = None) -> str:
    """The digest of what is selected. Raises CopyError for a literal path that is not there."""
    digest_entry = entry or (lambda node: entry_digest(tree, node))
    return digest_entries((name, digest_entry(node)) for name, node in selected(tree, selection))


def digest_entries(entries: Iterable[tuple[bytes, bytes]]) -> str:
    """The digest of (name, entry digest) pairs in their order."""
    hasher = hashlib.sha256(_FORMAT)
    hasher.update(b"".join([name + b"\0" + digest for name, digest in entries]))
    return "sha256:" + hasher.hexdigest()


def selection_files(
    tree: Tree, selection: Selection, entry: EntryDigest | None = None
) -> Mapping[str, str]:
    """The same entries by path in the tree, each as `listed`."""
    digest_entry = entry or (lambda node: entry_digest(tree, node))
    return {
        os.fsdecode(node.path[1:]) or ".": listed(digest_entry(node), node)
        for _, node in selected(tree, selection)
    }


def digest_with_files(tree: Tree, selection: Selection) -> tuple[str, Mapping[str, str]]:
    """`selection_digest` and `selection_files` by one walk that reads every file once."""
    files: dict[str, str] = {}
    entries: list[tuple[bytes, bytes]] = []
    for name, node in selected(tree, selection):
        digest = entry_digest(tree, node)
        entries.append((name, digest))
        files[os.fsdecode(node.path[1:]) or "."] = listed(digest, node)
    return digest_entries(entries), files


def listed(digest: bytes, node: Node | None) -> str:
    """An entry in a list of files: digits of its digest, and what a person can tell of it."""
    digits = digest[:SHOWN].hex()
    return digits if node is None else f"{digits} {node.mode:o} {node.uid}:{node.gid}"


def entry_digest(tree: Tree, node: Node) -> bytes:
    """The digest of one entry: its header, then its content."""
    hasher = hashlib.sha256(header(tree, node))
    if node.is_file and modes.S_ISREG(node.status.st_mode):
        hash_file(hasher, tree.open(node), node.size)
    return hasher.digest()


def header(tree: Tree, node: Node) -> bytes:
    """Everything of an entry but its name and content."""
    link = tree.readlink(node) if node.is_symlink else b""
    device = node.rdev if modes.S_ISCHR(node.mode) or modes.S_ISBLK(node.mode) else 0
    fields = b"%o %d %d %d %d %d:" % (node.mode, node.uid, node.gid, node.size, device, len(link))
    xattrs = tree.xattrs(node)
    if not xattrs:
        return fields + link + b"\0"
    kept = [
        b"%s=%d:%s" % (os.fsencode(name), len(value), value)
        for name, value in sorted(xattrs.items())
        if counts_xattr(name)
    ]
    return fields + link + b"\0".join(kept) + b"\0"


def counts_xattr(name: str) -> bool:
    """Whether an extended attribute belongs to a file's identity."""
    return name == "security.capability" or not name.startswith(("security.", "system."))


def hash_file(hasher: hashlib._Hash, descriptor: int, size: int) -> None:
    """Feed a file to a hasher, and close it. A small file whose size is right is read at once."""
    try:
        while chunk := os.read(descriptor, min(size + 1, _CHUNK)):
            hasher.update(chunk)
            if len(chunk) == size < _CHUNK:
                break
    finally:
        os.close(descriptor)


# ------------------------------------------------------------------ which files
def selected(tree: Tree, selection: Selection) -> Iterator[tuple[bytes, Node]]:
    """The entries of a selection with their names, in walk order.

    The first name of each path is what a change of which matters: empty for a literal path (the
    op names it), the base name for a match of a pattern, the whole path under `--parents`.
    """
    rules = exclusion(selection.exclude)
    for path in selection.paths:
        if selection.parents:
            yield from _with_parents(tree, selection, path, rules)
            continue
        if selection.wildcard:
            matches = match_pattern(tree, os.fsencode(path))
        else:
            matches = iter([_literal(tree, path, follow=selection.follow_links)])
        for match in matches:
            node = match
            if match.is_symlink and selection.follow_links:
                node = tree.lookup(match.path) or match
            base = b""
            if selection.wildcard:
                base = match.name
                if rules and not match.is_dir and rules.excluded(os.fsdecode(base)):
                    continue
            yield base, node
            if node.is_dir:
                yield from walk_below(tree, node, base, rules)


def _with_parents(
    tree: Tree, selection: Selection, path: str, rules: _Rules | None
) -> Iterator[tuple[bytes, Node]]:
    """Matches under `--parents`, each after the directories above it; links are not followed."""
    for found in pivots(tree, selection.pivot):
        base = _literal(tree, os.fsdecode(found.path), follow=True)
        if not base.is_dir:
            yield found.path, base
            continue
        top = base.path.rstrip(b"/")
        for match in pivot_matches(tree, base, path, selection.pivot, wildcard=selection.wildcard):
            relative = os.fsdecode(match.path[len(top) + 1 :])
            hidden = rules is not None and bool(relative) and rules.excluded(relative)
            if hidden and not (match.is_dir and rules is not None and rules.may_descend(relative)):
                continue
            yield from _above(tree, match.path, len(top) + 1)
            yield match.path, match
            if match.is_dir:
                yield from walk_below(tree, match, match.path, rules, skip=len(top) + 1)


def pivots(tree: Tree, pivot: str) -> Iterator[Node]:
    """What `COPY --parents` takes paths below: the root, or what stands before `/./`.

    A link among them is meant to be followed. Raises CopyError for a literal path not there.
    """
    path = os.fsencode(clean_path(pivot))
    if _WILDCARD.search(path):
        yield from match_pattern(tree, path)
    else:
        yield _literal(tree, os.fsdecode(path), follow=False)


def pivot_matches(
    tree: Tree, base: Node, source: str, pivot: str, *, wildcard: bool
) -> Iterator[Node]:
    """What `COPY --parents` takes below one of its pivots.

    The walk follows no link, so nothing has a path that leads through one: as in BuildKit that is
    no error. Raises CopyError for a literal path that is not there.
    """
    above = os.fsencode(clean_path(pivot))
    whole = os.fsencode(clean_path(source))
    inside = above != b"/" and (whole + b"/").startswith(above + b"/")
    below = base.path.rstrip(b"/") + (whole[len(above) :] if inside else whole)
    if not wildcard:
        found = _literal(tree, os.fsdecode(below) or "/", follow=False)
        if found.path == (below or b"/"):
            yield found
        return
    plain = takewhile(lambda part: not _META.search(part), below.split(b"/"))
    start = b"/".join(plain).rstrip(b"/") + b"/"
    for found in match_pattern(tree, below, deep=True):
        if (found.path + b"/").startswith(start):
            yield found


def exclusion(patterns: tuple[str, ...]) -> _Rules | None:
    """The rules of `--exclude`, relative to the directory that is copied."""
    if not patterns:
        return None
    from buildkit_py.dockerignore import IgnoreMatcher  # noqa: PLC0415  # rare

    rules: _Rules = IgnoreMatcher(patterns)
    return rules


def walk_below(
    tree: Tree, top: Node, base: bytes, rules: _Rules | None, *, skip: int | None = None
) -> Iterator[tuple[bytes, Node]]:
    """Everything below a directory, names prefixed with `base`; rules see them without `skip`."""
    base = base.rstrip(b"/")
    stack = [(base + b"/" + name, node) for name, node in reversed(tree.children(top))]
    skip = len(base) + 1 if skip is None else skip
    while stack:
        name, node = stack.pop()
        hidden = False
        if rules is not None:
            relative = os.fsdecode(name[skip:])
            hidden = rules.excluded(relative)
            if hidden and not (node.is_dir and rules.may_descend(relative)):
                continue
        if not hidden:
            yield name, node
        if node.is_dir:
            stack.extend(
                (name + b"/" + below, child) for below, child in reversed(tree.children(node))
            )


def _literal(tree: Tree, path: str, *, follow: bool) -> Node:
    node = tree.lookup(path, follow=follow)
    if node is None:
        raise not_found(tree, path)
    return node


def not_found(tree: Tree, path: str) -> CopyError:
    """The error for a literal path that is not there, or that an ignore file hides."""
    hides = getattr(tree, "excluded", None)
    name = os.fsdecode(clean_path(path))
    hint = None
    if hides is not None and hides(path):
        hint = f"{name} is excluded by the ignore file of the build context"
    return CopyError(f'failed to compute cache key: "{name}": not found', hint=hint)


def _above(tree: Tree, path: bytes, start: int) -> Iterator[tuple[bytes, Node]]:
    """The directories above a match: --parents makes them with their own metadata."""
    end = path.find(b"/", start)
    while end > 0:
        node = tree.lookup(path[:end])
        if node is not None:
            yield path[:end], node
        end = path.find(b"/", end + 1)


def match_pattern(tree: Tree, pattern: bytes, *, deep: bool = False) -> Iterator[Node]:
    """Entries that match, in the order of a walk. `*` does not cross `/`; `**` does if `deep`.

    A symbolic link is followed where the pattern has a plain name, not where it has a wildcard.
    Unless `deep`, the directory before the first wildcard has to be there. Raises CopyError.
    """
    parts = [part for part in pattern.split(b"/") if part]
    if not deep:
        plain = list(takewhile(lambda part: not _META.search(part), parts))
        _literal(tree, os.fsdecode(b"/" + b"/".join(plain)), follow=True)
    if deep:  # one `**` says as much as several, and costs less
        parts = [part for part, after in pairwise([*parts, b""]) if part != after or part != b"**"]
    seen: set[bytes] = set()
    for node in _match_below(tree, tree.root(), parts, deep=deep):
        if node.path not in seen:
            seen.add(node.path)
            yield node


def _match_below(tree: Tree, here: Node, parts: list[bytes], *, deep: bool) -> Iterator[Node]:
    if not parts:
        yield here
        return
    if not here.is_dir:
        return
    part, rest = parts[0], parts[1:]
    if deep and part == b"**":
        yield from _match_below(tree, here, rest, deep=deep) if rest else ()
        for _, node in tree.children(here):
            if not rest:
                yield node
            if node.is_dir:
                yield from _match_below(tree, node, parts, deep=deep)
        return
    if not _META.search(part):
        found = tree.lookup(here.path + b"/" + part, follow=bool(rest))
        if found is not None:
            yield from _match_below(tree, found, rest, deep=deep)
        return
    matcher = compile_component(part)
    for name, node in tree.children(here):
        if matcher.fullmatch(name):
            yield from _match_below(tree, node, rest, deep=deep)


def compile_component(part: bytes) -> re.Pattern[bytes]:
    r"""One path element in the pattern language of COPY: `*`, `?`, `[a-z]`, `[^a]`, `\x`."""
    out: list[bytes] = []
    index = 0
    while index < len(part):
        character = part[index : index + 1]
        index += 1
        if character == b"*":
            out.append(b".*")
        elif character == b"?":
            # one character, which in UTF-8 may be several bytes
            out.append(rb"(?:[\x00-\x7f\x80-\xbf]|[\xc0-\xff][\x80-\xbf]*)")
        elif character == b"[":
            text, index = _character_class(part, index)
            out.append(text)
        elif character == b"\\" and index < len(part):
            out.append(re.escape(part[index : index + 1]))
            index += 1
        elif character == b"\\":
            raise _bad_pattern(part)
        else:
            out.append(re.escape(character))
    return re.compile(b"".join(out), re.DOTALL)


def _character_class(part: bytes, index: int) -> tuple[bytes, int]:
    negated = part[index : index + 1] == b"^"
    index += negated
    ranges: list[bytes] = []
    while part[index : index + 1] != b"]" or not ranges:
        low, index = _class_member(part, index)
        high = low
        if part[index : index + 1] == b"-":
            high, index = _class_member(part, index + 1)
        if low <= high:
            ranges.append(re.escape(low) + b"-" + re.escape(high))
        else:
            ranges.append(b"")
    members = b"".join(ranges)
    if not members:
        return (b"." if negated else b"(?!)"), index + 1
    return b"[" + (b"^" if negated else b"") + members + b"]", index + 1


def _class_member(part: bytes, index: int) -> tuple[bytes, int]:
    if part[index : index + 1] == b"\\":
        index += 1
    elif part[index : index + 1] in {b"-", b"]"}:
        raise _bad_pattern(part)
    member = part[index : index + 1]
    if not member or index + 1 >= len(part):
        raise _bad_pattern(part)
    return member, index + 1


def _bad_pattern(part: bytes) -> CopyError:
    return CopyError(f"syntax error in pattern {os.fsdecode(part)!r}")
