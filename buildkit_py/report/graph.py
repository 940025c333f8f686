"""The graph of a build's stages as SVG: left to right, what is needed before what needs it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

from buildkit_py.report.model import CACHED, FAILED
from buildkit_py.report.text import clipped, duration, escape

if TYPE_CHECKING:
    from buildkit_py.report.model import ReportStage

_WIDTH, _HEIGHT, _GAP_X, _GAP_Y, _MARGIN = 250, 78, 70, 22, 8
_NAME_CHARACTERS, _BASE_CHARACTERS = 26, 34

Place: TypeAlias = tuple[int, int]


def stage_graph(stages: Sequence[ReportStage]) -> str:
    """The drawing; empty without stages."""
    if not stages:
        return ""
    places, ways = _layout(stages)
    width = max(x for x, _ in places) + _WIDTH + _MARGIN
    height = max(y for _, y in [*places, *(at for way in ways for at in way)]) + _HEIGHT + _MARGIN
    edges = [_edge(way) for way in ways]
    boxes = [_box(stage, *places[index]) for index, stage in enumerate(stages)]
    return (
        f'<svg class="graph" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
        ' role="img" aria-label="Stages and what they take from one another">'
        '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7"'
        ' markerHeight="7" orient="auto"><path d="M0 0 8 4 0 8z"/></marker></defs>'
        + "".join(edges)
        + "".join(boxes)
        + "</svg>"
    )


def _layout(stages: Sequence[ReportStage]) -> tuple[list[Place], list[list[Place]]]:
    """Where boxes lie, and the places that each edge visits.

    Columns are ranks. An edge across a column has a row of its own there, so it crosses no box.
    """
    ranks = _ranks(stages)
    columns: list[list[tuple[int, int]]] = [[] for _ in range(max(ranks) + 1)]
    for index, rank in enumerate(ranks):
        columns[rank].append((index, index))
    edges = [(need, index) for index, stage in enumerate(stages) for need in stage.needs]
    for need, index in edges:
        for rank in range(ranks[need] + 1, ranks[index]):
            columns[rank].append((need, index))
    tallest = max(map(len, columns))
    at: dict[tuple[int, int, int], Place] = {}
    for rank, column in enumerate(columns):
        spare = (tallest - len(column)) * (_HEIGHT + _GAP_Y) // 2
        for row, (need, index) in enumerate(column):
            x, y = _MARGIN + rank * (_WIDTH + _GAP_X), _MARGIN + spare + row * (_HEIGHT + _GAP_Y)
            at[rank, need, index] = (x, y)
    places = [at[rank, index, index] for index, rank in enumerate(ranks)]
    ways = [
        [
            places[need],
            *(at[rank, need, index] for rank in range(ranks[need] + 1, ranks[index])),
            places[index],
        ]
        for need, index in edges
    ]
    return places, ways


def _ranks(stages: Sequence[ReportStage]) -> list[int]:
    """The longest way to each stage; what it needs comes before it in the file."""
    ranks = [0] * len(stages)
    for index, stage in enumerate(stages):
        ranks[index] = max((ranks[need] + 1 for need in stage.needs if need < index), default=0)
    return ranks


def _edge(way: Sequence[Place]) -> str:
    """From the right side of the first box through the rows between to the left of the last."""
    x, y = way[0][0] + _WIDTH, way[0][1] + _HEIGHT // 2
    parts = [f"M{x} {y}"]
    for number, (left, top) in enumerate(way[1:], 1):
        last = number == len(way) - 1
        middle, end = top + _HEIGHT // 2, left - 2 * last
        bend = (end - x) // 2
        parts.append(f"C{x + bend} {y} {end - bend} {middle} {end} {middle}")
        x, y = end, middle
        if not last:
            x += _WIDTH
            parts.append(f"L{x} {y}")
    return f'<path class="edge" d="{" ".join(parts)}" marker-end="url(#head)"/>'


def _box(stage: ReportStage, x: int, y: int) -> str:
    timed = [step for step in stage.steps if step.timed]
    cached = sum(step.status == CACHED for step in timed)
    failed = any(step.status == FAILED for step in timed)
    kind = "failed" if failed else "cached" if timed and cached == len(timed) else "ran"
    name = stage.name or "the only stage"
    count = f"{len(timed)} step{'s' * (len(timed) != 1)}"
    facts = f"{count} · {cached} cached · {duration(stage.seconds)}"
    return (
        f'<g class="stage {kind}" transform="translate({x} {y})">'
        f"<title>{escape(stage.base)}</title>"
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" rx="9"/>'
        f'<rect class="edge-mark" width="5" height="{_HEIGHT - 18}" x="9" y="9" rx="2.5"/>'
        f'<text class="name" x="26" y="27">{escape(clipped(name, _NAME_CHARACTERS))}</text>'
        f'<text class="base" x="26" y="46">{escape(clipped(stage.base, _BASE_CHARACTERS))}</text>'
        f'<text class="facts" x="26" y="64">{escape(facts)}</text></g>'
    )
