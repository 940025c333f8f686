"""In words: how the op of a step that was not found differs from that of an earlier one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_SHOWN = 3
_SHOWN_VALUE = 40
_TIMES = frozenset({"mtime", "earliest"})
_LABELS = {
    "cwd": "working directory",
    "user": "user",
    "network": "network mode",
    "security": "security mode",
    "hostname": "host name",
    "mounts": "mounts",
    "devices": "device",
    "hosts": "extra host",
    "ulimits": "ulimit",
    "shm_size": "size of /dev/shm",
    "cgroup_parent": "parent cgroup",
    "platform": "platform",
    "arguments": "command",
    "actions": "flags or destination",
}
_DEFAULTS = {"user": "root by default", "shm_size": "default", "cgroup_parent": "none"}
_MOUNTS = {"SecretMount": "secret", "SshMount": "ssh", "TmpfsMount": "tmpfs"}


def op_change(op: Mapping[str, Any], before: Mapping[str, Any]) -> str:
    """The first differences between two ops of one kind, their environments and times aside."""
    if op.get("kind") == "image" and op.get("digest") != before.get("digest"):
        return f"digest moved {_digits(before.get('digest'))} → {_digits(op.get('digest'))}"
    op, before = _without_times(op), _without_times(before)
    names = [name for name in op if name not in {"env", "kind", "empty_inputs"}]
    changed = [name for name in names if op.get(name) != before.get(name)]
    said = [_field_change(name, op.get(name), before.get(name)) for name in changed]
    return ", ".join(said[:_SHOWN])


def short(text: str) -> str:
    """A value on one line, cut where it is long."""
    line = " ".join(text.split())
    if not line:
        return '""'
    return line if len(line) <= _SHOWN_VALUE else line[: _SHOWN_VALUE - 1] + "…"


def _field_change(name: str, now: Any, then: Any) -> str:
    label = _LABELS.get(name, name.replace("_", " "))
    if name == "mounts":
        return _mounts_change(now or (), then or ())
    if name in {"hosts", "ulimits", "devices"}:
        return _members_change(label, list(map(_shown, now or ())), list(map(_shown, then or ())))
    if name == "arguments":
        return _command_change(now or (), then or ())
    if name == "heredocs":
        return _documents_change(dict(now or ()), dict(then or ()))
    if name == "actions":
        return _actions_change(now or (), then or ())
    if now is None or then is None or isinstance(now, list):
        return f"changed: {label}"
    default = _DEFAULTS.get(name, '""')
    values = [_shown(value) if value else default for value in (then, now)]
    return f"{label} {short(values[0])} → {short(values[1])}"


def _shown(value: Any) -> str:
    if not isinstance(value, Mapping):
        return str(value)
    if value.get("kind") == "Platform":
        return "/".join(
            part
            for name in ("os", "architecture", "variant")
            if (part := str(value.get(name) or ""))
        )
    return str(value.get("name", ""))


def _members_change(label: str, now: Sequence[str], then: Sequence[str]) -> str:
    new = [f"{label} {short(item)} is new" for item in now if item not in then]
    gone = [f"{label} {short(item)} is gone" for item in then if item not in now]
    return ", ".join([*new, *gone][:_SHOWN]) or f"order of each {label}"


def _command_change(now: Sequence[str], then: Sequence[str]) -> str:
    if now[:-1] != then[:-1] and now[-1:] == then[-1:]:
        return f"shell {short(' '.join(then[:-1]))} → {short(' '.join(now[:-1]))}"
    return _lines_change("command", "\n".join(now), "\n".join(then))


def _documents_change(now: Mapping[str, str], then: Mapping[str, str]) -> str:
    for name, text in now.items():
        if name in then and then[name] != text:
            return _lines_change(f"here-document {name}", text, then[name])
    return "changed: here-documents"


def _lines_change(label: str, now: str, then: str) -> str:
    """The first line of a text that differs."""
    new, old = now.splitlines(), then.splitlines()
    if len(new) == len(old) == 1:
        return f"{label} {short(then)} → {short(now)}"
    number = next((i for i, (a, b) in enumerate(zip(new, old, strict=False)) if a != b), None)
    if number is None:
        number = min(len(new), len(old))
        more = new[number:] or old[number:]
        how = "is new" if len(new) > len(old) else "is gone"
        return f"{label}, line {number + 1} {how} ({short(more[0] if more else '')})"
    return f"{label}, line {number + 1}: {short(old[number])} → {short(new[number])}"


def _actions_change(now: Sequence[Any], then: Sequence[Any]) -> str:
    if len(now) == len(then):
        for here, there in zip(now, then, strict=True):
            names = [name for name in here if here[name] != there.get(name)]
            if names == ["content"]:
                return _lines_change(
                    f"here-document {here.get('name', '')}", here["content"], there["content"]
                )
    return f"changed: {_LABELS['actions']}"


# ------------------------------------------------------------------ mounts
def _mounts_change(now: Sequence[Any], then: Sequence[Any]) -> str:
    """Mounts are the same mount while kind and target (or id) are."""
    new, old = ({_mount_name(item): item for item in mounts} for mounts in (now, then))
    said = [
        f"{name}: {_mount_fields(item, old[name])}"
        for name, item in new.items()
        if name in old and item != old[name]
    ]
    said += [f"{name} is new" for name in new if name not in old]
    said += [f"{name} is gone" for name in old if name not in new]
    return ", ".join(said[:_SHOWN]) or "order of the mounts"


def _mount_name(mount: Mapping[str, Any]) -> str:
    kind = str(mount.get("kind"))
    words = f"--mount=type={_MOUNTS.get(kind, kind)}"
    if kind in {"SecretMount", "SshMount"}:
        return f"{words},id={mount.get('id')}"
    return f"{words},target={mount.get('target')}"


def _mount_fields(now: Mapping[str, Any], then: Mapping[str, Any]) -> str:
    said = []
    for name in now:
        values = [_mount_value(name, side.get(name)) for side in (then, now)]
        if values[0] != values[1]:
            said.append(
                "another source" if name == "input" else f"{name} {values[0]} → {values[1]}"
            )
    return ", ".join(said)


def _mount_value(name: str, value: Any) -> str:
    if name == "mode" and isinstance(value, int):
        return f"{value:04o}"
    if isinstance(value, bool):
        return str(value).lower()
    return "none" if value is None else str(value)


def _without_times(op: Mapping[str, Any]) -> dict[str, Any]:
    """Times follow from the base image or the epoch, which are said by themselves."""
    out = {key: value for key, value in op.items() if key != "settle"}
    if "actions" in out:
        out["actions"] = [
            {key: value for key, value in action.items() if key not in _TIMES}
            for action in out["actions"]
        ]
    return out


def _digits(digest: object) -> str:
    return str(digest).partition(":")[2][:12] + "…"
