"""What of an op and of its inputs belongs into its cache key. Pure: op data in, CacheMap out.

Not in any key: proxies, the addresses of extra hosts, resource limits, time-outs, the values of
secrets and agents, what cache mounts hold, their ids and their sharing.
"""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING, Any, assert_never

from buildkit_py.cache.keys import CacheMap, InputKey, Selection
from buildkit_py.graph import (
    BindMount,
    CacheMount,
    CopyFiles,
    ExecMount,
    ExecOp,
    FileAction,
    FileOp,
    ImageOp,
    MakeDirectory,
    MakeFile,
    MergeOp,
    SecretMount,
    SshMount,
    TmpfsMount,
    op_to_json,
)

if TYPE_CHECKING:
    from buildkit_py.graph import Vertex


def cache_map(vertex: Vertex) -> CacheMap:
    """The key parts of a vertex whose op needs no look at the world."""
    op = vertex.op
    count = len(vertex.inputs)
    if isinstance(op, ExecOp):
        return CacheMap(parts=_exec_parts(op, vertex), inputs=_exec_inputs(op, count))
    if isinstance(op, FileOp):
        return CacheMap(parts=_file_parts(op, vertex), inputs=_file_inputs(op, count))
    if isinstance(op, MergeOp):
        return CacheMap(parts={"kind": "merge"}, inputs=(InputKey(),) * count)
    if isinstance(op, ImageOp):
        parts = {"kind": "image", "digest": op.digest, "platform": op_to_json(op.platform)}
        return CacheMap(parts=parts, uncacheable=True)
    raise TypeError(f"{type(op).__name__} is keyed by its source")


# ------------------------------------------------------------------ exec
def _exec_parts(op: ExecOp, vertex: Vertex) -> dict[str, Any]:
    return {
        "kind": "exec",
        "arguments": list(op.arguments),
        "env": list(op.env),
        "cwd": op.cwd,
        "user": op.user,
        "hostname": op.hostname,
        "network": op.network,
        "security": op.security,
        "mounts": [_mount_parts(mount) for mount in op.mounts],
        "devices": op_to_json(op.devices),
        "hosts": sorted({name for name, _ in op.extra_hosts}),
        "ulimits": list(op.ulimits),
        "shm_size": op.shm_size,
        "cgroup_parent": op.cgroup_parent,
        "heredocs": [list(item) for item in op.heredocs],
        "platform": op_to_json(op.platform),
        "empty_inputs": [index for index, item in enumerate(vertex.inputs) if item is None],
        **_settle_parts(op),
    }


def _settle_parts(op: ExecOp | FileOp) -> dict[str, int]:
    return {} if op.settle is None else {"settle": op.settle}


def _mount_parts(mount: ExecMount) -> dict[str, Any]:
    if isinstance(mount, BindMount):
        # what is mounted counts by content, so where it lay does not
        return {
            "kind": "bind",
            "target": mount.target,
            "input": mount.input,
            "writable": mount.writable,
        }
    if isinstance(mount, CacheMount):
        return {
            "kind": "cache",
            "target": mount.target,
            "input": mount.input,
            "readonly": mount.readonly,
            "mode": mount.mode,
            "uid": mount.uid,
            "gid": mount.gid,
        }
    if isinstance(mount, (TmpfsMount, SecretMount, SshMount)):
        parts: dict[str, Any] = op_to_json(mount)
        return parts
    assert_never(mount)


def _exec_inputs(op: ExecOp, count: int) -> tuple[InputKey, ...]:
    selected: dict[int, list[Selection]] = {}
    for mount in op.mounts:
        if isinstance(mount, (BindMount, CacheMount)) and mount.input is not None:
            selection = Selection(paths=(mount.source or "/",))
            selected.setdefault(mount.input, []).append(selection)  # one each: which is where
    selected.pop(0, None)  # the root counts as a whole, by its key
    return tuple(InputKey(selections=tuple(selected.get(index, ()))) for index in range(count))


# ------------------------------------------------------------------ files
def _file_parts(op: FileOp, vertex: Vertex) -> dict[str, Any]:
    return {
        "kind": "file",
        "actions": [_action_parts(action) for action in op.actions],
        "empty_inputs": [index for index, item in enumerate(vertex.inputs) if item is None],
        **_settle_parts(op),
    }


def _action_parts(action: FileAction) -> dict[str, Any]:
    parts: dict[str, Any] = op_to_json(action)
    if isinstance(action, (MakeDirectory, MakeFile)):
        return parts
    if isinstance(action, CopyFiles):
        if not action.parents:
            # content says what was there; only the last name can show in the result
            parts["source"] = posixpath.basename(action.source)
        return parts
    assert_never(action)


def _file_inputs(op: FileOp, count: int) -> tuple[InputKey, ...]:
    selected: dict[int, list[Selection]] = {}
    for action in op.actions:
        if isinstance(action, CopyFiles):
            selected.setdefault(action.input, []).append(copy_selection(action))
    selected.pop(0, None)  # the tree that is changed counts as a whole, by its key
    return tuple(InputKey(selections=tuple(selected.get(index, ()))) for index in range(count))


def copy_selection(action: CopyFiles) -> Selection:
    """The files that one copy looks at."""
    return Selection(
        paths=(action.source,),
        wildcard=action.wildcard,
        exclude=action.exclude,
        parents=action.parents,
        pivot=action.parents_pivot,
    )
