"""Dumps of the compiler's hand-overs as JSON values: lines, syntax, plan and graph.

They are for people and for golden tests: places are line numbers, defaults are left out, and keys
keep the order of the dataclasses.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from buildkit_py.digest import short_id
from buildkit_py.oci.config import config_to_json
from buildkit_py.platforms import Platform
from buildkit_py.source import Span
from buildkit_py.stage_plan import FromContext, FromImage, FromStage, Origin

if TYPE_CHECKING:
    from buildkit_py.dockerfile import Dockerfile
    from buildkit_py.graph import BuildGraph, Vertex
    from buildkit_py.instructions.base import Instruction
    from buildkit_py.lines import SplitFile
    from buildkit_py.lower import LoweredImage
    from buildkit_py.stage_plan import PlannedStage, StagePlan


def dump_lines(split: SplitFile) -> dict[str, Any]:
    """Directives and logical lines."""
    directives = split.directives
    return {
        "directives": {
            key: value
            for key in ("syntax", "escape", "check")
            if (value := getattr(directives, key)) is not None
        },
        "lines": [
            _without_empty(
                {
                    "lines": [line.first, line.last],
                    "text": line.text,
                    "comment": line.comment,
                    "heredocs": [_value(document) for document in line.heredocs],
                    "empty_continuations": list(line.empty_continuations),
                }
            )
            for line in split.lines
        ],
        "warnings": [[message, span.start.line] for message, span in split.warnings],
        "problems": [
            [problem.message, *(span.start.line for span in problem.spans[:1])]
            for problem in split.problems
        ],
    }


def dump_ast(dockerfile: Dockerfile) -> dict[str, Any]:
    """Global ARGs and stages with their instructions."""
    return {
        "global_args": [dump_instruction(arg) for arg in dockerfile.global_args],
        "stages": [
            {
                "index": stage.index,
                "name": stage.name,
                "from": dump_instruction(stage.from_),
                "instructions": [dump_instruction(item) for item in stage.instructions],
            }
            for stage in dockerfile.stages
        ],
    }


def dump_instruction(item: Instruction) -> dict[str, Any]:
    """Keyword, line, and all fields that have a value."""
    out: dict[str, Any] = {"keyword": item.keyword, "line": item.span.start.line}
    values = _value(item)
    values.pop("line", None)
    return {**out, **values}


def dump_plan(plan: StagePlan) -> dict[str, Any]:
    """Stages with their origins and dependencies, and the bases wanted."""
    return {
        "target": plan.target,
        "platform": str(plan.platform),
        "stages": [_stage(stage) for stage in plan.stages],
        "bases": [_value(base) for base in plan.bases],
        "sources": {name: _origin(origin) for name, origin in plan.sources.items()},
        **({"epoch": plan.epoch} if plan.epoch is not None else {}),
        **({"epoch_source": plan.epoch_source} if plan.epoch_source else {}),
    }


def _stage(stage: PlannedStage) -> dict[str, Any]:
    return {
        "index": stage.index,
        "name": stage.name,
        "line": stage.stage.from_.span.start.line,
        "origin": _origin(stage.origin),
        "platform": str(stage.platform),
        "dependencies": list(stage.dependencies),
        "reachable": stage.reachable,
        **({"replaced": True} if stage.replaced else {}),
        **({"no_cache": True} if stage.no_cache else {}),
        **({"triggers": stage.trigger_count} if stage.trigger_count else {}),
        "instructions": [item.text for item in stage.instructions],
    }


def _origin(origin: Origin) -> str:
    match origin:
        case FromStage(index=index):
            return f"stage {index}"
        case FromImage(wanted=wanted):
            where = f"oci-layout://{wanted.layout}" if wanted.layout else ""
            return f"image {where}{wanted.reference}"
        case FromContext(context=context):
            return f"context {context.name} ({context.kind})"
        case _:
            return "scratch"


def dump_lowered(image: LoweredImage) -> dict[str, Any]:
    """The graph, and the config without layers."""
    return {
        "platform": str(image.platform),
        "contexts": sorted(image.contexts),
        "graph": dump_graph(image.graph),
        "config": config_to_json(image.config),
    }


def dump_graph(graph: BuildGraph) -> list[dict[str, Any]]:
    """All vertices, inputs before users; inputs are given by their position."""
    positions = {digest: index for index, digest in enumerate(graph.vertices)}
    return [_vertex(vertex, positions) for vertex in graph.vertices.values()]


def _vertex(vertex: Vertex, positions: Mapping[Any, int]) -> dict[str, Any]:
    return {
        "id": short_id(vertex.digest),
        "name": vertex.options.name,
        "inputs": [None if v is None else positions[v.digest] for v in vertex.inputs],
        "op": {"kind": type(vertex.op).__name__, **_value(vertex.op)},
    }


def _value(value: Any) -> Any:
    """A JSON value: dataclasses by their fields, those at their default left out."""
    match value:
        case Span():
            return value.start.line
        case Platform():
            return str(value)
        case Enum():
            return str(value.value)
        case tuple() | list():
            return [_tagged(item) for item in value]
        case Mapping():
            return {str(key): _tagged(item) for key, item in value.items()}
        case _ if is_dataclass(value) and not isinstance(value, type):
            return {
                item.name: _tagged(getattr(value, item.name))
                for item in fields(value)
                if item.compare and not _is_default(item, getattr(value, item.name))
            }
        case _:
            return value


def _tagged(value: Any) -> Any:
    plain = _value(value)
    if isinstance(plain, dict) and is_dataclass(value):
        return {"kind": type(value).__name__, **plain}
    return plain


def _is_default(item: Field[Any], value: Any) -> bool:
    if item.default is not MISSING:
        return bool(item.default == value)
    if item.default_factory is not MISSING:
        return bool(item.default_factory() == value)
    return False


def _without_empty(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value not in ("", [], None)}
