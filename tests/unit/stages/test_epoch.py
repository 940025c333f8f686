"""SOURCE_DATE_EPOCH that names a context or a stage."""

from __future__ import annotations

import pytest

from buildkit_py.dockerfile import parse
from buildkit_py.epoch import epoch_op
from buildkit_py.errors import PlanError
from buildkit_py.graph import GitOp, HttpOp
from buildkit_py.stages import BuildOptions, plan


def op_of(stage: str, **build_args: str | None) -> GitOp | HttpOp | None:
    options = BuildOptions(build_args={"SOURCE_DATE_EPOCH": "src", **build_args})
    return epoch_op(plan(parse(f"{stage}\nFROM scratch\n"), options))


def test_a_stage_with_one_remote_add_names_its_source() -> None:
    found = op_of("FROM scratch AS src\nADD https://example.com/a.tar.gz /")
    assert isinstance(found, HttpOp)
    assert found.url == "https://example.com/a.tar.gz"
    found = op_of("FROM scratch AS src\nADD https://example.com/a.git#v1 /")
    assert isinstance(found, GitOp)
    assert found.ref == "v1"


def test_arguments_of_the_stage_are_expanded() -> None:
    stage = "FROM scratch AS src\nARG V=1\nADD https://example.com/$V.tar /"
    found = op_of(stage, V="2")
    assert isinstance(found, HttpOp)
    assert found.url == "https://example.com/2.tar"


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ("FROM debian AS src\nADD https://x/y /", "stage must use FROM scratch"),
        ("FROM scratch AS src", "must contain exactly one remote ADD"),
        (
            "FROM scratch AS src\nADD https://x/y /\nADD https://x/z /",
            "must contain exactly one remote ADD",
        ),
        ("FROM scratch AS src\nADD https://x/y https://x/z /", "exactly one remote ADD source"),
        ("FROM scratch AS src\nADD file /", r"source must be a single HTTP\(S\) or Git ADD"),
        ("FROM scratch AS src\nRUN x", "unsupported RUN instruction"),
    ],
)
def test_another_stage_is_refused(stage: str, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        op_of(stage)


def test_a_named_context_may_be_the_source() -> None:
    options = BuildOptions(
        build_args={"SOURCE_DATE_EPOCH": "src"},
        build_contexts={"src": "https://example.com/a.git#main"},
    )
    assert isinstance(epoch_op(plan(parse("FROM scratch\n"), options)), GitOp)


def test_local_sources_have_no_time() -> None:
    options = BuildOptions(
        build_args={"SOURCE_DATE_EPOCH": "src"}, build_contexts={"src": "directory"}
    )
    assert epoch_op(plan(parse("FROM scratch\n"), options)) is None
