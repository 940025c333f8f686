"""The values of `RUN --mount=…`: one CSV record each, keys checked as they come.

What a mount says is checked when its step is made, with variables replaced: a bad mount in a stage
that no build reaches is no error. Parsing refuses only what is no record.
"""

from __future__ import annotations

import csv
import posixpath
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from buildkit_py.graph import (
    BindMount,
    CacheMount,
    ExecMount,
    SecretMount,
    SshMount,
    TmpfsMount,
)
from buildkit_py.instructions.gotext import parse_bool, parse_size
from buildkit_py.suggest import with_suggestion

if TYPE_CHECKING:
    from buildkit_py.expansion import Expander

TYPES = ("bind", "cache", "tmpfs", "secret", "ssh")
SHARING = ("shared", "private", "locked")
_KEYS = (
    "type from source target readonly id sharing required size mode uid gid src dst destination"
    " ro rw readwrite env"
).split()
_BARE = frozenset({"readonly", "ro", "readwrite", "rw", "required"})
_OWNED = frozenset({"cache", "secret", "ssh"})
_NUMBER_LIMIT = 1 << 32


class MountProblem(ValueError):
    """A mount that is refused; the caller knows where it stands."""


class RecordProblem(MountProblem):
    """A mount that is no CSV record."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MountSpec:
    """One `--mount`, decoded. `readonly` None: the default of the type.

    `raw` is the value as written; `expand` decodes it again with variables replaced. A mount that
    is `unchecked` has only its `from_` decoded.
    """

    type: str = "bind"
    from_: str = ""
    source: str = ""
    target: str = ""
    readonly: bool | None = None
    id: str = ""
    sharing: str = ""
    required: bool = False
    size: int = 0
    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    env: str | None = None
    raw: str = field(default="", compare=False)
    unchecked: bool = False

    def expand(self, expander: Expander) -> MountSpec:
        """The mount with variables replaced. Raises ExpansionError or MountProblem."""
        if not self.unchecked and not any(character in self.raw for character in "$\"'\\`"):
            return self
        spec = parse_mount(self.raw, expander.word)
        return spec if "$" in self.from_ else replace(spec, from_=self.from_)


Expand = Callable[[str], str]


def read_mount(raw: str) -> MountSpec:
    """A mount as far as it can be known without variables. Raises RecordProblem."""
    try:
        return parse_mount(raw)
    except RecordProblem:
        raise
    except MountProblem:
        fields = (item.partition("=") for item in _fields(raw))
        pairs = {key.lower(): value for key, _, value in fields}
        # What a secret cannot be taken from is not looked for either.
        from_ = "" if pairs.get("type", "").lower() == "secret" else pairs.get("from", "")
        return MountSpec(raw=raw, from_=from_, unchecked=True)


def parse_mount(raw: str, expand: Expand | None = None) -> MountSpec:
    """Decode one mount; without `expand`, values with a variable are left. Raises MountProblem."""
    values: dict[str, object] = {"type": "bind"}
    deferred = False
    for item in _fields(raw):
        key, equals, value = item.partition("=")
        key = key.lower()
        if not equals:
            _bare(values, key, item)
            continue
        if key not in _KEYS:
            message = f"unexpected key '{key}' in '{item}'"
            raise MountProblem(with_suggestion(message, key, _KEYS))
        if expand is not None:
            value = expand(value)
        elif "$" in value:
            deferred = True
            if key in {"from", "source", "src", "target", "dst", "destination", "id", "env"}:
                _assign(values, key, value)
            continue
        _assign(values, key, value)
    spec = MountSpec(raw=raw, **values)  # type: ignore[arg-type]  # values were typed one by one
    if not deferred:
        _check(spec)
    return spec


def _fields(raw: str) -> list[str]:
    if not raw:
        raise RecordProblem("failed to parse csv mounts: EOF")
    if '"' not in raw:
        return raw.split(",")
    try:
        rows = list(csv.reader([raw], strict=True))
    except csv.Error as error:
        raise RecordProblem(f"failed to parse csv mounts: {error}") from None
    return rows[0] if rows else []


def _bare(values: dict[str, object], key: str, item: str) -> None:
    if key not in _BARE:
        raise MountProblem(f"invalid field '{item}' must be a key=value pair")
    if key == "required":
        _only_for(values, key, "secret", "ssh")
        values["required"] = True
    else:
        values["readonly"] = key in {"readonly", "ro"}


def _only_for(values: dict[str, object], key: str, *types: str) -> None:
    if values["type"] not in types:
        raise MountProblem(f"unexpected key '{key}' for mount type '{values['type']}'")


def _assign(values: dict[str, object], key: str, value: str) -> None:
    if key in {"from", "id", "env"}:
        values["from_" if key == "from" else key] = value
    elif key in {"source", "src"}:
        values["source"] = value
    elif key in {"target", "dst", "destination"}:
        values["target"] = value
    elif key in {"type", "sharing"}:
        _choice(values, key, value)
    elif key in {"mode", "uid", "gid"}:
        values[key] = _number(key, value)
    elif key == "size":
        _only_for(values, key, "tmpfs")
        values["size"] = _converted(parse_size, key, value)
    else:
        _truth(values, key, value)


def _choice(values: dict[str, object], key: str, value: str) -> None:
    options = TYPES if key == "type" else SHARING
    what = "mount type" if key == "type" else "sharing value"
    if value.lower() not in options:
        raise MountProblem(with_suggestion(f'unsupported {what} "{value}"', value, options))
    values[key] = value.lower()


def _truth(values: dict[str, object], key: str, value: str) -> None:
    if key == "required":
        _only_for(values, key, "secret", "ssh")
        values[key] = _converted(parse_bool, key, value)
        return
    truth = bool(_converted(parse_bool, key, value))
    values["readonly"] = truth if key in {"readonly", "ro"} else not truth


def _converted(convert: Callable[[str], int | bool], key: str, value: str) -> int | bool:
    try:
        return convert(value)
    except ValueError:
        raise MountProblem(f"invalid value for {key}: {value}") from None


def _number(key: str, value: str) -> int:
    digits = "01234567" if key == "mode" else "0123456789"
    if value and len(value) < 20 and all(character in digits for character in value):
        number = int(value, len(digits))
        if number < _NUMBER_LIMIT:
            return number
    raise MountProblem(f"invalid value {value} for {key}")


def _check(spec: MountSpec) -> None:
    if spec.type not in _OWNED:
        for name in ("mode", "uid", "gid"):
            if getattr(spec, name) is not None:
                raise MountProblem(f'{name} not allowed for "{spec.type}" type mounts')
    if spec.type == "secret":
        _check_secret(spec)
    if spec.sharing and spec.type != "cache":
        raise MountProblem(f"invalid cache sharing set for {spec.type} mount")
    if spec.type == "ssh" and spec.source:
        raise MountProblem("ssh does not support source")


def _check_secret(spec: MountSpec) -> None:
    if spec.from_:
        raise MountProblem("secret mount should not have a from")
    if spec.sharing:
        raise MountProblem("secret mount should not define sharing")
    if not spec.source and not spec.target and not spec.id:
        raise MountProblem("invalid secret mount. one of source, target required")
    if spec.source and spec.id:
        raise MountProblem("both source and id can't be set")


# ------------------------------------------------------------------ lowering
@dataclass(frozen=True, slots=True, kw_only=True)
class MountPlace:
    """What the position of a mount in its stage decides."""

    workdir: str
    namespace: str = ""
    input: int | None = None  # the vertex input that holds `from`
    ssh_number: int = 0


def lower_mount(spec: MountSpec, place: MountPlace) -> ExecMount:
    """The op's form of an expanded mount. Raises MountProblem."""
    if spec.type == "secret":
        return _secret(spec, place)
    if spec.type == "ssh":
        target = spec.target or f"/run/buildkit/ssh_agent.{place.ssh_number}"
        return SshMount(
            id=spec.id or "default",
            target=_below_root(target, place),
            required=spec.required,
            mode=0o600 if spec.mode is None else spec.mode,
            uid=spec.uid or 0,
            gid=spec.gid or 0,
        )
    target = _below_root(spec.target, place)
    if spec.type == "tmpfs":
        return TmpfsMount(target=target, size=spec.size)
    source = posixpath.normpath("/" + spec.source.lstrip("/"))
    if spec.type == "cache":
        return _cache(spec, place, target, source)
    return BindMount(
        target=target, input=place.input or 0, source=source, writable=spec.readonly is False
    )


def _below_root(path: str, place: MountPlace) -> str:
    joined = posixpath.normpath(posixpath.join("/", place.workdir, path)).lstrip("/")
    if not joined:
        raise MountProblem('invalid mount target "/"')
    return f"/{joined}"


def _cache(spec: MountSpec, place: MountPlace, target: str, source: str) -> CacheMount:
    identity = spec.id or posixpath.normpath(spec.target)
    return CacheMount(
        target=target,
        id=f"{place.namespace}/{identity}" if place.namespace else identity,
        sharing=spec.sharing or "shared",
        input=place.input,
        source=source,
        readonly=bool(spec.readonly),
        mode=0o755 if spec.mode is None else spec.mode,
        uid=spec.uid or 0,
        gid=spec.gid or 0,
    )


def _secret(spec: MountSpec, place: MountPlace) -> SecretMount:
    identity = spec.id or spec.source or posixpath.basename(posixpath.normpath(spec.target))
    target: str | None = spec.target
    if not target:
        target = None if spec.env is not None else f"/run/secrets/{posixpath.basename(identity)}"
    return SecretMount(
        id=identity,
        target=None if target is None else _below_root(target, place),
        env=spec.env,
        required=spec.required,
        mode=0o400 if spec.mode is None else spec.mode,
        uid=spec.uid or 0,
        gid=spec.gid or 0,
    )
