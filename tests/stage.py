"""A stage to lower instructions into, without planner: `lowered("RUN x")` gives the builder."""

from __future__ import annotations

from typing import Any

from buildkit_py.digest import sha256
from buildkit_py.dockerfile import parse
from buildkit_py.expansion import Expander
from buildkit_py.graph import ContextOp, ExecOp, FileOp, ImageOp, Vertex
from buildkit_py.instructions.base import Instruction, expanded
from buildkit_py.oci.config import DEFAULT_PATH, ContainerConfig
from buildkit_py.oci.growing import GrowingConfig
from buildkit_py.platforms import Platform
from buildkit_py.source import Span
from buildkit_py.stage_builder import StageBuilder, StageInputs

CONTEXT = Vertex(op=ContextOp(name="context"))
BASE = Vertex(op=ImageOp(reference="base", digest=sha256(b"base"), platform=Platform()))
OTHER = Vertex(op=ImageOp(reference="other", digest=sha256(b"other"), platform=Platform()))


def resolve(name: str, span: Span) -> Vertex | None:
    return None if name == "scratch" else OTHER


def new_builder(*, root: Vertex | None = BASE, user: str = "", **inputs: Any) -> StageBuilder:
    """A stage on `root`, with PATH in its environment."""
    values: dict[str, Any] = {
        "name": "stage",
        "index": 0,
        "platform": Platform(),
        "build_platform": Platform(),
        "context": CONTEXT,
        "resolve_from": resolve,
        "from_keeps_owner": lambda name: name != "folder",
        "build_args": {},
        "global_args": {},
        **inputs,
    }
    return StageBuilder(
        inputs=StageInputs(**values),
        root=root,
        growing=GrowingConfig(ContainerConfig(env=(f"PATH={DEFAULT_PATH}",), user=user)),
        env={"PATH": DEFAULT_PATH},
        vertex_total=9,
    )


def instructions(text: str) -> tuple[Instruction, ...]:
    """The instructions of a stage, FROM left out."""
    return parse("FROM base\n" + text).stages[0].instructions


def lowered(text: str, builder: StageBuilder | None = None, **inputs: Any) -> StageBuilder:
    """Expand and lower instructions one after the other."""
    stage = new_builder(**inputs) if builder is None else builder
    for item in instructions(text):
        expanded(item, Expander(stage.env, escape=stage.inputs.escape)).lower(stage)
    return stage


def history(stage: StageBuilder) -> list[str]:
    return [entry.created_by for entry in stage.history]


def exec_op(stage: StageBuilder) -> ExecOp:
    assert stage.root is not None
    assert isinstance(stage.root.op, ExecOp)
    return stage.root.op


def file_op(stage: StageBuilder) -> FileOp:
    assert stage.root is not None
    assert isinstance(stage.root.op, FileOp)
    return stage.root.op
