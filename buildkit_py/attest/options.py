"""`--provenance`, `--sbom` and `--attest`, parsed.

Nothing is attested unless asked for: provenance holds times, so an index with it has another
digest each time, and the store and `docker load` have no place for it.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass, field

from buildkit_py.errors import UsageError
from buildkit_py.suggest import with_suggestion

_TRUE = frozenset(("1", "t", "true", ""))
_FALSE = frozenset(("0", "f", "false"))
_KINDS = ("provenance", "sbom")
_PROVENANCE_KEYS = (
    *("mode", "version", "builder-id", "filename", "reproducible", "inline-only"),
    "disabled",
)
_KNOWN = frozenset((*_PROVENANCE_KEYS, "type", "generator"))
VERSIONS = ("v1", "v0.2")


@dataclass(frozen=True, slots=True, kw_only=True)
class AttestOptions:
    """What is attested: `provenance` is `min`, `max` or empty.

    `filename` is that of the provenance beside a plain tree; `inline_only` writes it into images
    alone. `generator` is a scanner image, empty for the scanners built in; `parameters` are its.
    """

    provenance: str = ""
    version: str = "v1"
    builder_id: str = ""
    filename: str = ""
    reproducible: bool = False
    inline_only: bool = False
    sbom: bool = False
    generator: str = ""
    parameters: Mapping[str, str] = field(default_factory=dict)


def parse_attest(
    provenance: str | None, sbom: str | None, attest: tuple[str, ...]
) -> AttestOptions:
    """The options of a build. Raises UsageError."""
    found: dict[str, Mapping[str, str] | None] = {}
    for text in attest:
        values = _pairs(text)
        kind = values.pop("type", "")
        if not kind:
            raise UsageError(f'attestation type not specified: "{text}"', hint=_example(text))
        if kind not in _KINDS:
            raise UsageError(f'unknown attestation type "{kind}"', hint="provenance or sbom")
        if kind in found:
            raise UsageError(f"duplicate attestation field {kind}")
        found[kind] = None if _bool(values, "disabled") else values
    for kind, given in (("provenance", provenance), ("sbom", sbom)):
        if given is not None:
            if kind in found:
                raise UsageError(
                    f"--{kind} and --attest type={kind} are one option: give one of them"
                )
            found[kind] = _short(given)
    asked, scanner = found.get("provenance"), found.get("sbom")
    mode = "" if asked is None else asked.get("mode", "min" if provenance == "true" else "max")
    asked = asked or {}
    _check_provenance(asked, mode)
    parameters = {k: v for k, v in (scanner or {}).items() if k not in {"generator", "disabled"}}
    return AttestOptions(
        provenance=mode,
        version=asked.get("version", "v1"),
        builder_id=asked.get("builder-id", ""),
        filename=asked.get("filename", ""),
        reproducible=_bool(asked, "reproducible"),
        inline_only=_bool(asked, "inline-only"),
        sbom=scanner is not None,
        generator="" if scanner is None else scanner.get("generator", ""),
        parameters=parameters,
    )


def _check_provenance(asked: Mapping[str, str], mode: str) -> None:
    for key in asked:
        if key not in _PROVENANCE_KEYS:
            text = f'unknown provenance attribute "{key}"'
            raise UsageError(
                with_suggestion(text, key, _PROVENANCE_KEYS),
                hint="one of " + ", ".join(_PROVENANCE_KEYS),
            )
    if mode not in {"", "min", "max"}:
        raise UsageError(f'invalid mode "{mode}" of provenance', hint="min or max")
    version = asked.get("version", "v1")
    if version not in VERSIONS:
        raise UsageError(f"invalid provenance SLSA version: {version}", hint=" or ".join(VERSIONS))
    filename = asked.get("filename", "")
    if "/" in filename or filename in {".", ".."}:
        raise UsageError(f'invalid file name "{filename}" of provenance', hint="a plain name")


def _bool(values: Mapping[str, str], key: str) -> bool:
    if key not in values:
        return False
    text = values[key].lower()
    if text not in _TRUE | _FALSE:
        raise UsageError(f'invalid value "{values[key]}" of {key}', hint="true or false")
    return text in _TRUE


def _example(text: str) -> str:
    return f"--attest type=sbom or type=provenance, as in --attest type=sbom,{text}"


def _pairs(text: str) -> dict[str, str]:
    """One CSV record, so that a value may hold commas: `"generator=x,y"`."""
    fields = next(csv.reader([text]), [])
    return {_key(key): value for key, _, value in (x.partition("=") for x in fields)}


def _key(text: str) -> str:
    """Our own names in any case; a scanner's parameters as they are written."""
    key = text.strip()
    return key.lower() if key.lower() in _KNOWN else key


def _short(text: str) -> Mapping[str, str] | None:
    if text.lower() in _FALSE:
        return None
    values = {} if text.lower() in _TRUE else _pairs(text)
    return None if _bool(values, "disabled") else values
