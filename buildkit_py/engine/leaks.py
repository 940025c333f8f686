"""Looks for the values of a build's secrets in what it made, before anything is written.

Searched are the files of new layers, their names and link targets, and the config: environment,
labels, commands, history. Values shorter than eight bytes are not looked for: they occur by
chance. A value is found as it is and in base64 (wherever in the encoded text it begins), in hex,
in percent encoding and as a JSON string; not in compressed or encrypted files.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import quote_from_bytes

from buildkit_py.errors import PybuildError, SolveError
from buildkit_py.graph import ImageOp

if TYPE_CHECKING:
    from pathlib import Path

    from buildkit_py.engine.compile import Compiled
    from buildkit_py.engine.steps import FinishedStep
    from buildkit_py.oci.config import ImageConfig
    from buildkit_py.stage_builder import LoweredStep
    from buildkit_py.store import Store
    from buildkit_py.worker.secrets import BuildSecrets

Needles: TypeAlias = tuple[tuple[str, bytes], ...]
"""What is looked for, each with the words for it."""

_URL_SAFE = bytes.maketrans(b"+/", b"-_")
_SHORTEST = 8
_PIECE = 1 << 20
_LONGEST = 40  # of an encoded form: programs wrap lines
_HINT = "mount it where no file of it stays, or build with --scan-secrets=false"


def refuse_leaks(
    store: Store, secrets: BuildSecrets, compiled: Compiled, steps: Iterable[FinishedStep]
) -> None:
    """Raise PybuildError (SolveError) if a secret's value is in a new layer or a config."""
    values = _values(secrets)
    if not values:
        return
    for image in compiled.images:
        for step in image.steps:
            _search_step(step, values)
        _search_labels(image.config, values)
    done: set[int] = set()
    for finished in steps:
        snapshot = finished.outcome.snapshot
        if snapshot is None or snapshot in done or finished.step.vertex is None:
            continue
        done.add(snapshot)
        if isinstance(finished.step.vertex.op, ImageOp):
            continue  # a base image was there before the secret was given
        found = store.snapshots.find(snapshot)
        if found is None or found.blob is not None or not found.unpacked:
            continue
        leak = search_directory(found.directory, values)
        if leak is not None:
            name, path = leak
            raise SolveError(
                f"the value of {name} is in {path}, by {finished.step.text}",
                span=finished.step.span,
                hint=_HINT,
            )


def _values(secrets: BuildSecrets) -> Needles:
    out: list[tuple[str, bytes]] = []
    for name in secrets.secrets:
        value = (secrets.value(name) or b"").strip()
        if len(value) >= _SHORTEST:
            shown = f'secret "{name}"'
            out.append((shown, value))
            out += [(f"{shown}, as {form},", text) for form, text in encoded_forms(value)]
    return tuple(out)


def encoded_forms(value: bytes) -> list[tuple[str, bytes]]:
    """What a value looks like when it is encoded, as far as that does not depend on its place."""
    found: dict[bytes, str] = {}
    for shift in range(3):
        # the first and the last character mix with what stands beside the value
        text = base64.b64encode(bytes(shift) + value)
        text = text[(0, 2, 3)[shift] : len(text) - 4 if text.endswith(b"=") else len(text)]
        for form in (text, text.translate(_URL_SAFE)):
            found.setdefault(form[:_LONGEST], "base64")
    found.setdefault(value.hex().encode()[:_LONGEST], "hex")
    found.setdefault(value.hex().upper().encode()[:_LONGEST], "hex")
    found.setdefault(quote_from_bytes(value, safe="").encode(), "percent encoding")
    text = json.dumps(value.decode("utf-8", "surrogateescape"))[1:-1].encode()
    found.setdefault(text, "JSON")
    return [
        (form, item) for item, form in found.items() if item != value and len(item) >= _SHORTEST
    ]


def _search_step(step: LoweredStep, values: Needles) -> None:
    """The config after a step and its entry of the history. The step itself may show the value."""
    where = f"line {step.span.start.line}" if step.span else "a trigger of the base image"
    for key, value in step.moment.written.items():
        name = _in_text(value, values)
        if name is not None:
            raise PybuildError(
                f"the value of {name} is in the config of the image ({key}), by {where}",
                hint=_HINT,
            )
    name = _in_text([step.entry.created_by] if step.entry else [], values)
    if name is not None:
        raise PybuildError(
            f"the value of {name} is in the history of the image, by {where}", hint=_HINT
        )


def _search_labels(config: ImageConfig, values: Needles) -> None:
    """What options add to the config."""
    name = _in_text(dict(config.config.labels), values)
    if name is not None:
        raise PybuildError(
            f"the value of {name} is in a label of the image, by --label", hint=_HINT
        )


def _in_text(value: object, values: Needles) -> str | None:
    text = json.dumps(value, ensure_ascii=False)
    for name, secret in values:
        escaped = json.dumps(secret.decode("utf-8", "surrogateescape"), ensure_ascii=False)
        if escaped[1:-1] in text:
            return name
    return None


def search_directory(folder: Path, values: Needles) -> tuple[str, str] | None:
    """The first secret found below a directory, with the path of its file."""
    top = os.fsencode(folder)
    for real, directories, files in os.walk(top):
        directories.sort()
        for name in sorted((*directories, *files)):
            path = real + b"/" + name
            secret = _in_entry(path, name, values)
            if secret is not None:
                return secret, os.fsdecode(path[len(top) :])
    return None


def _in_entry(path: bytes, name: bytes, values: Needles) -> str | None:
    if os.path.islink(path):
        return _in_bytes(name + b"\0" + os.readlink(path), values)
    found = _in_bytes(name, values)
    if found is not None or not os.path.isfile(path):
        return found
    keep = max(len(value) for _, value in values) - 1
    with open(path, "rb", buffering=0) as file:
        tail = b""
        while piece := file.read(_PIECE):
            data = tail + piece
            found = _in_bytes(data, values)
            if found is not None:
                return found
            tail = data[-keep:]
    return None


def _in_bytes(data: bytes, values: Needles) -> str | None:
    return next((name for name, value in values if value in data), None)
