"""Findings, outlines and targets as text and as JSON (the fields of BuildKit's subrequests)."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from buildkit_py.errors import DockerfileErrors, PybuildError
from buildkit_py.source import excerpt

if TYPE_CHECKING:
    from buildkit_py.lint import Finding
    from buildkit_py.outline import Outline, Target
    from buildkit_py.source import SourceFile, Span


_FAILED = "failed to build: failed to solve: "  # what a check does not say of errors


def check_to_text(findings: Sequence[Finding], error: PybuildError | None) -> str:
    """The report as people read it."""
    count = len(findings)
    if count == 0:
        said = "Check complete, no warnings found.\n" if error is None else ""
    elif count == 1:
        said = "Check complete, 1 warning has been found!\n"
    else:
        said = f"Check complete, {count} warnings have been found!\n"
    parts = [said]
    for finding in findings:
        url = f" - {finding.url}" if finding.url else ""
        parts.append(f"\nWARNING: {finding.rule}{url}\n{finding.message}\n")
        parts.append(excerpt((finding.span,), caret=False) + "\n")
    if error is not None:
        from buildkit_py.cli.render import render_error

        parts.append(("\n" if findings else "") + render_error(error))
    return "".join(parts)


def check_to_json(
    findings: Sequence[Finding], source: SourceFile, error: PybuildError | None
) -> dict[str, Any]:
    """The report as programs read it (the fields of BuildKit's lint subrequest)."""
    out: dict[str, Any] = {
        "warnings": [
            {
                "ruleName": finding.rule,
                "description": finding.description,
                **({"url": finding.url} if finding.url else {}),
                "detail": finding.message,
                "location": _location((finding.span,)),
            }
            for finding in findings
        ],
        "sources": [{"filename": source.name, "data": _data(source), "language": "Dockerfile"}],
    }
    if error is not None:
        from buildkit_py.cli.render import final_line

        problems = error.problems if isinstance(error, DockerfileErrors) else (error,)
        message = "; ".join(final_line(problem).removeprefix(_FAILED) for problem in problems)
        out["buildError"] = {"message": message, "location": _location(error.spans)}
    return out


def outline_to_text(found: Outline) -> str:
    """Tables of what a target takes."""
    head = [("TARGET:", found.name or "(default)")]
    if found.description:
        head.append(("DESCRIPTION:", found.description))
    shown = found.name or found.description
    blocks = [columns(head, gap=1)] if shown else []
    if found.args:
        rows = [(arg.name, arg.value, arg.description) for arg in found.args]
        blocks.append(columns([("BUILD ARG", "VALUE", "DESCRIPTION"), *rows]))
    for title, mounts in (("SECRET", found.secrets), ("SSH", found.ssh)):
        if mounts:
            rows2 = [(mount.name, "true" if mount.required else "") for mount in mounts]
            blocks.append(columns([(title, "REQUIRED"), *rows2]))
    if found.caches:
        blocks.append(columns([("CACHE MOUNT",), *((name,) for name in found.caches)]))
    return "\n".join(blocks)


def outline_to_json(found: Outline, source: SourceFile) -> dict[str, Any]:
    """The fields of BuildKit's outline subrequest."""
    out: dict[str, Any] = {}
    if found.name:
        out["name"] = found.name
    if found.description:
        out["description"] = found.description
    if found.args:
        out["args"] = [
            {
                "name": arg.name,
                **({"description": arg.description} if arg.description else {}),
                **({"value": arg.value} if arg.value else {}),
                "location": _location((arg.span,)),
            }
            for arg in found.args
        ]
    for key, mounts in (("secrets", found.secrets), ("ssh", found.ssh)):
        if mounts:
            out[key] = [
                {
                    "name": mount.name,
                    **({"required": True} if mount.required else {}),
                    "location": _location((mount.span,)),
                }
                for mount in mounts
            ]
    if found.caches:
        out["cache"] = [{"ID": name} for name in found.caches]
    out["sources"] = [_data(source)]
    return out


def targets_to_text(found: Sequence[Target]) -> str:
    """One line a stage."""
    rows = [("TARGET", "DESCRIPTION")]
    for target in found:
        name = target.name
        if target.default:
            name = f"{name} (default)" if name else "(default)"
        rows.append((name, target.description))
    return columns(rows)


def targets_to_json(found: Sequence[Target], source: SourceFile) -> dict[str, Any]:
    """The fields of BuildKit's targets subrequest."""
    targets: list[dict[str, Any]] = []
    for target in found:
        entry: dict[str, Any] = {"name": target.name} if target.name else {}
        if target.default:
            entry["default"] = True
        for key in ("description", "base", "platform"):
            if getattr(target, key):
                entry[key] = getattr(target, key)
        entry["location"] = _location((target.span,))
        targets.append(entry)
    return {"targets": targets, "sources": [_data(source)]}


def columns(rows: Sequence[Sequence[str]], *, gap: int = 3) -> str:
    """Left-aligned columns, `gap` blanks apart."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = (
        (" " * gap).join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    )
    return "".join(line.rstrip() + "\n" for line in lines)


def _location(spans: Sequence[Span]) -> dict[str, Any]:
    return {
        "ranges": [
            {"start": {"line": span.lines[0]}, "end": {"line": span.lines[-1]}} for span in spans
        ]
    }


def _data(source: SourceFile) -> str:
    return base64.b64encode(source.text.encode("utf-8", "surrogateescape")).decode("ascii")
