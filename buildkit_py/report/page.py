"""The page itself: head, numbers, timeline, stages, layers, steps, warnings."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from buildkit_py.report.graph import stage_graph
from buildkit_py.report.model import CACHED
from buildkit_py.report.style import STYLE
from buildkit_py.report.text import byte_size, clipped, duration, escape
from buildkit_py.report.timeline import timeline

if TYPE_CHECKING:
    from buildkit_py.report.model import Report, ReportStep

_STATUS = {"completed": "ran", "error": "failed", "running": "running"}
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def page(report: Report) -> str:
    """The whole document."""
    title = f"Build of {report.name}" if report.name else "Build"
    sections = [
        ("Timeline", timeline(report.bars, report.seconds)),
        ("Stages", f'<div class="scroll">{stage_graph(report.stages)}</div>'),
        ("Layers", _layers(report)),
        ("Steps", _steps(report)),
        ("Warnings", _warnings(report)),
        ("Request", _request(report)),
    ]
    body = "".join(f"<section><h2>{name}</h2>{text}</section>" for name, text in sections if text)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(_POLICY)}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        '<link rel="icon" href="data:,">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>"
        '<input type="checkbox" id="theme"><main>'
        f"{_head(report, title)}{_error(report)}{_numbers(report)}{body}</main></body></html>\n"
    )


def _head(report: Report, title: str) -> str:
    began = datetime.fromtimestamp(report.started, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    kind = _STATUS.get(report.status, "canceled")
    return (
        f'<header><div><h1>{escape(title)} <span class="badge {kind}">{escape(report.status)}'
        f'</span></h1><p class="sub">{escape(began)} · <code>{escape(report.ref)}</code></p></div>'
        '<label for="theme" title="Light or dark">◐</label></header>'
    )


def _error(report: Report) -> str:
    return f'<pre class="error">{escape(report.error)}</pre>' if report.error else ""


def _numbers(report: Report) -> str:
    steps = report.timed_steps
    cached = sum(step.status == CACHED for step in steps)
    numbers = [
        ("Time", duration(report.seconds)),
        ("Steps", str(len(steps))),
        ("Cached", f"{cached} of {len(steps)}"),
        ("Stages", str(len(report.stages))),
        ("Layers", byte_size(sum(step.size for step in report.layers))),
    ]
    if report.image:
        numbers.append(("Image", report.image.partition(":")[2][:12]))
    cards = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in numbers
    )
    return f'<dl class="numbers">{cards}</dl>'


def _layers(report: Report) -> str:
    steps = report.layers
    if not steps:
        return ""
    largest = steps[0].size
    rows = "".join(
        f'<div class="row"><div class="label">{escape(_named(step))}</div><div class="track">'
        f'<div class="bar size" style="left:0;width:{step.size / largest * 100:.3f}%"></div></div>'
        f'<div class="told">{byte_size(step.size)}</div></div>'
        for step in steps
    )
    return f'<div class="gantt sizes">{rows}</div>'


def _named(step: ReportStep) -> str:
    return f"[{step.stage}] {step.text}" if step.stage else step.text


def _steps(report: Report) -> str:
    rows = "".join(_step(step) for step in report.steps)
    return (
        '<div class="scroll"><table><thead><tr><th>#</th><th>Stage</th><th>Instruction</th>'
        "<th>Result</th><th>Time</th><th>Size</th></tr></thead>"
        f"<tbody>{rows}</tbody></table></div>"
    )


def _step(step: ReportStep) -> str:
    why = f'<div class="why">{escape(step.reason)}</div>' if step.reason else ""
    log = ""
    if step.log:
        state = " open" if step.status == "failed" else ""
        log = f"<details{state}><summary>output</summary><pre>{escape(step.log)}</pre></details>"
    line = f' title="line {step.line}"' if step.line else ""
    kind = step.status.replace(" ", "-") if step.timed else "meta"
    told = step.status if step.timed else "metadata"
    return (
        f"<tr><td>{step.number}</td><td>{escape(step.stage)}</td>"
        f"<td{line}><code>{escape(clipped(step.text, 400))}</code>{why}{log}</td>"
        f'<td><span class="badge {escape(kind)}">{escape(told)}</span></td>'
        f"<td>{duration(step.seconds) if step.seconds else ''}</td>"
        f"<td>{byte_size(step.size) if step.size else ''}</td></tr>"
    )


def _warnings(report: Report) -> str:
    if not report.warnings:
        return ""
    items = []
    for warning in report.warnings:
        rule = f"<b>{escape(warning.rule)}</b> " if warning.rule else ""
        line = f" (line {warning.line})" if warning.line else ""
        items.append(f"<li>{rule}{escape(warning.message)}{line}</li>")
    return f"<ul>{''.join(items)}</ul>"


def _request(report: Report) -> str:
    rows = "".join(
        f"<tr><th>{escape(name.replace('_', ' '))}</th><td><code>{escape(_value(value))}</code>"
        "</td></tr>"
        for name, value in sorted(report.request.items())
    )
    return f'<table class="facts">{rows}</table>' if rows else ""


def _value(value: object) -> str:
    if isinstance(value, dict):
        items = sorted(value.items())
        return ", ".join(name if item is None else f"{name}={item}" for name, item in items)
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return str(value)
