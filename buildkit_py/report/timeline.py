"""The timeline: a line for each step, a bar from its start to its end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from buildkit_py.report.text import duration, escape

if TYPE_CHECKING:
    from buildkit_py.report.model import Bar

_MOST_TICKS = 8
_LEGEND = (
    '<div class="legend">'
    + "".join(
        f'<i class="{kind}"></i>{name}'
        for kind, name in (
            ("ran", "ran"),
            ("cached", "cached"),
            ("failed", "failed"),
            ("other", "around the steps"),
        )
    )
    + "</div>"
)
_NICE = (1, 2, 5, 10)


def timeline(bars: Sequence[Bar], seconds: float) -> str:
    """The lines with their axis."""
    length = max(seconds, *(bar.start + bar.seconds for bar in bars), 0.001) if bars else 0.001
    ticks = "".join(
        f'<span class="tick" style="left:{at / length * 100:.3f}%">{escape(duration(at))}</span>'
        for at in _ticks(length)
    )
    axis = f'<div class="row axis"><div></div><div class="track">{ticks}</div><div></div></div>'
    rows = "".join(_row(bar, length) for bar in bars)
    step = _interval(length) / length * 100
    return f'{_LEGEND}<div class="gantt" style="--step:{step:.3f}%">{axis}{rows}</div>'


def _row(bar: Bar, length: float) -> str:
    left, width = bar.start / length * 100, bar.seconds / length * 100
    left = min(left, 99.7)
    kind = bar.status.replace(" ", "-") + (" other" if bar.step is None else "")
    number = "" if bar.step is None else f' data-step="{bar.step}"'
    told = {"cached": "cached", "not reached": "–"}.get(bar.status) or duration(bar.seconds)
    title = f"{bar.label}: {bar.status}, {duration(bar.seconds)}, from {duration(bar.start)} on"
    return (
        f'<div class="row" title="{escape(title)}"><div class="label">{escape(bar.label)}</div>'
        f'<div class="track"><div class="bar {escape(kind)}"{number}'
        f' style="left:{left:.3f}%;width:{width:.3f}%"></div></div>'
        f'<div class="told">{escape(told)}</div></div>'
    )


def _interval(length: float) -> float:
    unit = 0.001
    while True:
        for nice in _NICE:
            if length / (unit * nice) <= _MOST_TICKS:
                return unit * nice
        unit *= 10


def _ticks(length: float) -> Iterator[float]:
    interval = _interval(length)
    for number in range(int(length / interval) + 1):
        yield number * interval
