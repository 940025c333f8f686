"""Secret values and SSH agents of a build. They enter here and reach steps by mounts only."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from buildkit_py.errors import UsageError

SECRET_LIMIT = 500 << 10
_SHORTEST_MASKED = 3
_SHORTEST_MASKED_LINE = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Secret:
    """A value from a file, from a variable, or given; the first that is set counts."""

    id: str
    value: bytes | None = field(default=None, repr=False)
    env: str | None = None
    path: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SshAgent:
    """An agent's socket, or private keys (files). Neither: SSH_AUTH_SOCK."""

    id: str = "default"
    paths: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildSecrets:
    """All that a build may hand to its steps."""

    secrets: Mapping[str, Secret] = field(default_factory=dict)
    agents: Mapping[str, SshAgent] = field(default_factory=dict)
    environ: Mapping[str, str] = field(default_factory=dict, repr=False)

    def value(self, name: str) -> bytes | None:
        """A secret's bytes, None if there is none of that id. Raises UsageError."""
        secret = self.secrets.get(name)
        if secret is None:
            return None
        if secret.value is not None:
            value = secret.value
        elif secret.env is not None:
            text = self.environ.get(secret.env)
            if text is None:
                return None
            value = os.fsencode(text)
        else:
            value = _read(secret)
        if len(value) > SECRET_LIMIT:
            raise UsageError(
                f'secret "{name}" has {len(value)} bytes',
                hint=f"at most {SECRET_LIMIT} are allowed",
            )
        return value


def _read(secret: Secret) -> bytes:
    path = Path(secret.path or secret.id)
    try:
        with path.open("rb") as file:
            return file.read(SECRET_LIMIT + 1)
    except OSError as error:
        raise UsageError(f'cannot read secret "{secret.id}": {path}: {error.strerror}') from error


class Masker:
    """Replaces secret values in a stream by `****`, also where chunks split them."""

    def __init__(self, values: list[bytes]) -> None:
        needles: set[bytes] = set()
        for value in values:
            whole = value.strip()
            if len(whole) >= _SHORTEST_MASKED:
                needles.add(whole)
            needles.update(
                line.strip()
                for line in whole.splitlines()
                if len(line.strip()) >= _SHORTEST_MASKED_LINE
            )
        self._needles = sorted(needles, key=len, reverse=True)
        self._held: dict[int, bytes] = {}

    def feed(self, stream: int, data: bytes) -> bytes:
        """What can be shown now; the beginning of a possible secret is held back."""
        if not self._needles:
            return data
        data = self._held.pop(stream, b"") + data
        for needle in self._needles:
            data = data.replace(needle, b"****")
        keep = max((_overlap(data, needle) for needle in self._needles), default=0)
        if keep:
            self._held[stream] = data[-keep:]
            data = data[:-keep]
        return data

    def flush(self) -> list[tuple[int, bytes]]:
        """What was held back, at the end."""
        held, self._held = self._held, {}
        return list(held.items())


def _overlap(data: bytes, needle: bytes) -> int:
    """Length of the longest end of `data` that begins `needle`."""
    for size in range(min(len(data), len(needle) - 1), 0, -1):
        if needle.startswith(data[-size:]):
            return size
    return 0
