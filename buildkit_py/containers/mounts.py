"""`run --mount`: docker's records (bind, tmpfs), and trees of the store (`type=image`).

What is written below a mount with `overlay`, or below an image's that is not read-only, is thrown
away at the end.
"""

from __future__ import annotations

import csv
import os
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from buildkit_py.errors import UsageError
from buildkit_py.runtime import spec as sandbox
from buildkit_py.runtime.limits import parse_size
from buildkit_py.store.trash import remove_tree
from buildkit_py.suggest import with_suggestion

if TYPE_CHECKING:
    from buildkit_py.store import Store

_TYPES = ("bind", "tmpfs", "image")
_NAMES = {"src": "source", "dst": "target", "destination": "target", "ro": "readonly"}
_KEYS = {
    "bind": {"type", "source", "target", "readonly", "overlay"},
    "tmpfs": {"type", "target", "tmpfs-size"},
    "image": {"type", "source", "target", "readonly", "image-subpath"},
}


def open_mount(text: str, cwd: str, store: Store, stack: ExitStack) -> sandbox.SandboxMount:
    """The mount of a record; what it needs is taken away by the stack. Raises UsageError."""
    record = _record(text)
    target = record["target"]
    if record["type"] == "tmpfs":
        return sandbox.TmpfsMount(target=target, size=parse_size(record.get("tmpfs-size", "0")))
    readonly = record.get("readonly", "false") not in {"false", "0"}
    if record["type"] == "image":
        lowers = _layers(record["source"], text, store)
        inside = f"/{record.get('image-subpath', '').lstrip('/')}"
        return _overlay(target, lowers, inside, store, None if readonly else stack)
    source = os.path.realpath(Path(cwd, record["source"]))
    if not os.path.lexists(source):
        raise UsageError(f'invalid mount "{text}": bind source path does not exist: {source}')
    if "overlay" not in record:
        return sandbox.HostMount(target=target, source=source, readonly=readonly, recursive=True)
    if Path(source).is_dir():
        return _overlay(target, (source,), "/", store, stack)
    folder, _, name = source.rpartition("/")
    return _overlay(target, (folder or "/",), f"/{name}", store, stack)


def _record(text: str) -> dict[str, str]:
    try:
        fields = next(csv.reader([text], strict=True), [])
    except csv.Error as error:
        raise UsageError(f'invalid mount "{text}": {error}') from None
    record = {"type": "bind"}
    for item in fields:
        key, _, value = item.partition("=")
        record[_NAMES.get(key.lower(), key.lower())] = value
    if record["type"] not in _TYPES:
        message = f'unsupported mount type "{record["type"]}"'
        raise UsageError(with_suggestion(message, record["type"], _TYPES))
    known = sorted(_KEYS[record["type"]])
    for key in record:
        if key not in known:
            message = f'unexpected key "{key}" in mount "{text}"'
            raise UsageError(with_suggestion(message, key, known))
    for key in ("source", "target"):
        if key in known and not record.get(key):
            raise UsageError(f'invalid mount "{text}": it needs {key}=…')
    if not record["target"].startswith("/") or not record["target"].strip("/"):
        raise UsageError(f'invalid mount target "{record["target"]}"', hint="give a path below /")
    return record


def _layers(name: str, text: str, store: Store) -> tuple[str, ...]:
    """The directories of an image, or of `snapshot:N`."""
    kind, _, number = name.partition(":")
    if kind == "snapshot" and number.isdigit():
        snapshot: int | None = int(number)
    else:
        image = store.images.find(name, None)
        if image is None:
            raise UsageError(f'invalid mount "{text}": no such image: {name}')
        snapshot = image.snapshot
    if snapshot is None or not store.snapshots.use(snapshot):
        raise UsageError(f'invalid mount "{text}": its files are no longer in the store')
    return tuple(os.fsdecode(item) for item in store.snapshots.directories(snapshot))


def _overlay(
    target: str, lowers: tuple[str, ...], source: str, store: Store, stack: ExitStack | None
) -> sandbox.TreeMount:
    """A path of a stack of directories; writable for as long as the stack is open, if given."""
    if stack is None:
        tree = sandbox.OverlayTree(lowers=lowers)
        return sandbox.TreeMount(target=target, tree=tree, source=source)
    scratch = store.db.scratch("m")
    scratch.mkdir(mode=0o711)
    stack.callback(remove_tree, scratch)
    upper, work = scratch / "fs", scratch / "work"
    upper.mkdir()
    work.mkdir()
    tree = sandbox.OverlayTree(lowers=lowers, upper=os.fspath(upper), work=os.fspath(work))
    return sandbox.TreeMount(target=target, tree=tree, source=source, readonly=False)
