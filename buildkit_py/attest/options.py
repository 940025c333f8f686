"""`--provenance`, `--sbom` and `--attest`, parsed.

Nothing is attested unless asked for: provenance holds times, so an index with it has another
digest each time, and the store and `docker load` have no place for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from buildkit_py.errors import UsageError

_TRUE = frozenset(("1", "t", "true", ""))
_FALSE = frozenset(("0", "f", "false"))


@dataclass(frozen=True, slots=True, kw_only=True)
class AttestOptions:
    """What is attested: `provenance` is `min`, `max` or empty."""

    provenance: str = ""
    builder_id: str = ""
    sbom: bool = False


def parse_attest(
    provenance: str | None, sbom: str | None, attest: tuple[str, ...]
) -> AttestOptions:
    """The options of a build. Raises UsageError."""
    found: dict[str, Mapping[str, str] | None] = {}
    for text in attest:
        values = _pairs(text)
        kind = values.pop("type", "")
        if kind not in {"provenance", "sbom"}:
            raise UsageError(f'unknown attestation type "{kind}"', hint="provenance or sbom")
        found[kind] = None if values.get("disabled", "false").lower() in _TRUE else values
    for kind, given in (("provenance", provenance), ("sbom", sbom)):
        if given is not None:
            found[kind] = _short(given)
    asked = found.get("provenance")
    mode = "" if asked is None else asked.get("mode", "max" if provenance != "true" else "min")
    if mode not in {"", "min", "max"}:
        raise UsageError(f'invalid mode "{mode}" of provenance', hint="min or max")
    if asked is not None and asked.get("version", "v1") != "v1":
        raise UsageError("only version v1 of provenance is written", hint="leave version away")
    scanner = found.get("sbom")
    if scanner is not None and scanner.get("generator"):
        raise UsageError(
            "scanner images are not run yet", hint="leave generator away: scanners are built in"
        )
    return AttestOptions(
        provenance=mode,
        builder_id="" if asked is None else asked.get("builder-id", ""),
        sbom=scanner is not None,
    )


def _pairs(text: str) -> dict[str, str]:
    return {key.strip(): value for key, _, value in (x.partition("=") for x in text.split(","))}


def _short(text: str) -> Mapping[str, str] | None:
    if text.lower() in _FALSE:
        return None
    return {} if text.lower() in _TRUE else _pairs(text)
