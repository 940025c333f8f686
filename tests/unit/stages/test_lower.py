"""Lowering: graph, config, history and environments of whole files."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from buildkit_py.digest import Digest
from buildkit_py.dockerfile import parse
from buildkit_py.errors import UnsetVariable
from buildkit_py.graph import ContextOp, ExecOp, FileOp, ImageOp, MakeDirectory, Vertex
from buildkit_py.lower import LoweredImage, ResolvedBase, lower
from buildkit_py.oci.config import DEFAULT_PATH, ContainerConfig, History, ImageConfig
from buildkit_py.platforms import Platform
from buildkit_py.stages import BuildOptions, plan, triggers_of

ARM = Platform(architecture="arm64")
LAYER = Digest("sha256:" + "1" * 64)
NAMED = Digest("sha256:" + "2" * 64)
BASE = ImageConfig(
    author="somebody",
    created="2020-01-01T00:00:00Z",
    config=ContainerConfig(
        env=("PATH=/go/bin:/bin", "GOPATH=/go"),
        working_dir="/go/",
        labels={"base": "yes"},
        cmd=("sh",),
        extra={"Hostname": "abc"},
    ),
    diff_ids=(LAYER,),
    history=(History(created="2020-01-01T00:00:00Z", created_by="base layer"),),
    extra={"docker_version": "1.9"},
)


def lowered(text: str, *, base: ImageConfig = BASE, **options: Any) -> LoweredImage:
    """Lower a file whose images all have the config `base`, as the engine does."""
    dockerfile = parse(text)
    build = BuildOptions(**options)
    triggers: dict[int, tuple[str, ...]] = {}
    while True:
        found = plan(dockerfile, build, triggers=triggers)
        bases = {
            wanted.key: ResolvedBase(
                op=ImageOp(
                    reference=wanted.reference,
                    digest=LAYER,
                    platform=wanted.platform,
                    named=NAMED if "golang" in wanted.reference else None,
                ),
                config=base,
            )
            for wanted in found.bases
        }
        new = triggers_of(found, {key: item.config for key, item in bases.items()})
        if new == triggers:
            return lower(found, bases)
        triggers = new


def history(image: LoweredImage) -> list[str]:
    return [entry.created_by for entry in image.config.history]


def last_run(image: LoweredImage) -> ExecOp:
    ops = [v.op for v in image.graph.vertices.values() if isinstance(v.op, ExecOp)]
    return ops[-1]


def names(image: LoweredImage) -> list[str]:
    return [vertex.options.name for vertex in image.graph.vertices.values()]


# -------------------------------------------------------------- bases
def test_config_and_history_of_the_base_are_inherited() -> None:
    image = lowered("FROM golang\n")
    assert image.config.config.labels == {"base": "yes"}
    assert image.config.config.cmd == ("sh",)
    assert image.config.author == "somebody"
    assert image.config.history == BASE.history
    assert image.base_history == 1
    assert image.config.created is None


def test_fields_that_no_dockerfile_knows_end_with_the_base() -> None:
    image = lowered("FROM golang\n", base=replace(BASE, extra={"a": 1, "os.features": ["x"]}))
    assert image.config.extra == {"os.features": ["x"]}
    assert image.config.config.extra == {}


def test_the_working_directory_of_the_base_is_kept_as_it_is_written() -> None:
    assert lowered("FROM golang\n").config.config.working_dir == "/go/"


@pytest.mark.parametrize(
    ("lines", "kept", "directory"),
    [
        (["/x/./y//z/"], "/x/./y//z/", "/x/y/z"),
        (["/a/", "b/../c/"], "/a/c", "/a/c"),
        (["/a/", "$nothing"], "/a/", "/a"),
        (["//"], "//", "/"),
    ],
)
def test_an_absolute_workdir_is_kept_and_a_relative_one_cleaned(
    lines: list[str], kept: str, directory: str
) -> None:
    image = lowered("FROM golang\n" + "".join(f"WORKDIR {line}\n" for line in lines))
    assert image.config.config.working_dir == kept
    assert image.config.history[-1].created_by == f"WORKDIR {kept}"
    assert isinstance(image.root, Vertex)
    assert isinstance(image.root.op, FileOp)
    action = image.root.op.actions[0]
    assert isinstance(action, MakeDirectory)
    assert action.path == directory


def test_a_base_without_path_gets_the_default_one() -> None:
    base = replace(BASE, config=ContainerConfig(env=("A=b",)))
    image = lowered("FROM golang\n", base=base)
    assert image.config.config.env == ("A=b", f"PATH={DEFAULT_PATH}")


def test_scratch_begins_with_path_and_root_directory() -> None:
    image = lowered("FROM scratch\nENV A=b\n")
    assert image.root is None
    assert image.config.config.env == (f"PATH={DEFAULT_PATH}", "A=b")
    assert image.config.config.working_dir == "/"
    assert image.graph.vertices == {}


def test_a_base_without_layers_is_an_empty_root() -> None:
    base = ImageConfig(history=(History(created_by="ENV x", empty_layer=True),))
    image = lowered("FROM golang\nCOPY a b\n", base=base)
    assert names(image) == ["[internal] load build context", "[2/2] COPY a b"]


def test_from_is_a_vertex_with_the_digest_in_its_name() -> None:
    image = lowered("FROM golang:1 AS x\nRUN make\n")
    assert names(image) == [
        f"[1/2] FROM docker.io/library/golang:1@{NAMED}",
        "[2/2] RUN make",
    ]


def test_a_base_that_only_this_store_knows_has_no_digest_in_its_name() -> None:
    assert names(lowered("FROM mine\nRUN make\n"))[0] == "[1/2] FROM docker.io/library/mine:latest"


# -------------------------------------------------------------- environment
def test_variables_of_the_base_are_visible() -> None:
    image = lowered("FROM golang\nENV BIN=$GOPATH/bin\nWORKDIR $GOPATH/src\n")
    assert "BIN=/go/bin" in image.config.config.env
    assert image.config.config.working_dir == "/go/src"


def test_one_env_sees_the_values_from_before_it() -> None:
    image = lowered("FROM scratch\nENV a=1\nENV a=2 b=$a\n")
    assert image.config.config.env_map()["b"] == "1"


def test_an_argument_reaches_run_but_not_the_config() -> None:
    image = lowered("FROM golang\nARG V=1\nARG NONE\nRUN make\n")
    assert last_run(image).env == ("PATH=/go/bin:/bin", "GOPATH=/go", "V=1")
    assert "V=1" not in image.config.config.env
    assert history(image)[-1] == "RUN |2 V=1 NONE= /bin/sh -c make # buildkit"


def test_a_redeclared_argument_keeps_its_place_with_its_last_value() -> None:
    image = lowered("FROM golang\nARG A=1\nARG B=2\nARG A=3\nRUN x\n")
    assert history(image)[-1] == "RUN |2 A=3 B=2 /bin/sh -c x # buildkit"


def test_a_global_argument_is_seen_only_where_it_is_declared_again() -> None:
    image = lowered("ARG V=1\nFROM golang\nENV a=$V\nARG V\nENV b=$V\n")
    env = image.config.config.env_map()
    assert (env["a"], env["b"]) == ("", "1")


def test_an_own_default_beats_the_global_one_and_build_arg_beats_both() -> None:
    text = "ARG V=1\nFROM golang\nARG V=2\nENV b=$V\n"
    assert lowered(text).config.config.env_map()["b"] == "2"
    given = lowered(text, build_args={"V": "3"})
    assert given.config.config.env_map()["b"] == "3"


def test_an_empty_build_argument_counts_as_set() -> None:
    image = lowered("FROM golang\nARG V=2\nENV b=x$V\n", build_args={"V": ""})
    assert image.config.config.env_map()["b"] == "x"


def test_a_later_declaration_wins_in_run_by_position() -> None:
    image = lowered("FROM golang\nENV X=e\nARG X=v\nRUN a\n")
    assert "X=v" in last_run(image).env
    assert "X=e" in image.config.config.env
    image = lowered("FROM golang\nARG X=v\nENV X=e\nRUN a\n")
    assert "X=e" in last_run(image).env


def test_platform_arguments_must_be_declared() -> None:
    text = "FROM golang\nENV a=$TARGETARCH\nARG TARGETARCH\nENV b=$TARGETARCH\n"
    env = lowered(text, platforms=(ARM,)).config.config.env_map()
    assert (env["a"], env["b"]) == ("", "arm64")


def test_scan_arguments_never_reach_run() -> None:
    text = "FROM golang AS a\nARG BUILDKIT_SBOM_SCAN_STAGE=true\nRUN x\nFROM a\n"
    image = lowered(text)
    assert not any("SBOM" in entry for entry in last_run(image).env)
    assert list(image.scanned) == ["a"]


def test_proxies_are_passed_in_both_cases_and_stay_out_of_history() -> None:
    image = lowered("FROM golang\nRUN x\n", build_args={"http_proxy": "p"})
    assert last_run(image).proxy_env == ("HTTP_PROXY=p", "http_proxy=p")
    assert history(image)[-1] == "RUN /bin/sh -c x # buildkit"


def test_a_required_variable_is_told_at_its_place() -> None:
    with pytest.raises(UnsetVariable) as caught:
        lowered("FROM golang\nWORKDIR ${DIR:?please}\n")
    assert caught.value.spans[0].start.line == 2


# -------------------------------------------------------------- stages
def test_a_child_inherits_arguments_directory_and_files() -> None:
    image = lowered("FROM golang AS a\nARG V=1\nWORKDIR /x\nFROM a\nWORKDIR y\nRUN x\n")
    assert image.config.config.working_dir == "/x/y"
    assert history(image)[-1] == "RUN |1 V=1 /bin/sh -c x # buildkit"
    assert [step.text for step in image.steps][3] == "FROM a"


def test_env_of_a_parent_wins_again_over_its_arguments_in_the_child() -> None:
    text = "FROM golang AS a\nENV X=e\nARG X=v\nFROM a\nRUN x\n"
    assert "X=e" in last_run(lowered(text)).env


def test_a_command_of_the_parent_is_reset_by_an_entrypoint() -> None:
    image = lowered('FROM golang AS a\nCMD ["x"]\nFROM a\nENTRYPOINT ["y"]\n')
    assert image.config.config.cmd is None
    image = lowered('FROM golang\nCMD ["x"]\nENTRYPOINT ["y"]\n')
    assert image.config.config.cmd == ("x",)


def test_unneeded_stages_leave_no_trace() -> None:
    image = lowered("FROM golang AS a\nRUN slow\nFROM scratch\nCOPY f /\n")
    assert [step.text for step in image.steps] == ["FROM scratch", "COPY f /"]
    assert not any(isinstance(v.op, ExecOp) for v in image.graph.vertices.values())


def test_only_contexts_that_are_read_are_named() -> None:
    assert lowered("FROM golang\nRUN x\n").contexts == frozenset()
    assert lowered("FROM golang\nCOPY a b\n").contexts == {"context"}
    text = "FROM scratch\nCOPY --from=src a b\n"
    assert lowered(text, build_contexts={"src": "dir"}).contexts == {"src"}


def test_files_of_a_stage_keep_their_owner_and_those_of_a_context_do_not() -> None:
    text = "FROM golang AS a\nFROM scratch\nCOPY --from=a /x /\nCOPY --from=src y /\nCOPY z /\n"
    image = lowered(text, build_contexts={"src": "dir"})
    actions = [
        action
        for vertex in image.graph.vertices.values()
        if isinstance(vertex.op, FileOp)
        for action in vertex.op.actions
    ]
    assert [getattr(action, "keep_owner", None) for action in actions] == [True, False, False]


def test_a_replaced_stage_gives_the_files_of_its_context() -> None:
    text = "FROM golang AS build\nRUN make\nFROM scratch\nCOPY --from=build /a /\n"
    image = lowered(text, build_contexts={"build": "dir"})
    ops = [vertex.op for vertex in image.graph.vertices.values()]
    assert ContextOp(name="build") in ops
    assert not any(isinstance(op, ExecOp) for op in ops)


# -------------------------------------------------------------- ONBUILD
def test_triggers_run_first_and_are_cleared() -> None:
    base = replace(BASE, config=replace(BASE.config, on_build=("ENV Z=1", "RUN t")))
    image = lowered("FROM golang\nRUN own\n", base=base)
    assert history(image)[1:] == [
        "ENV Z=1",
        "RUN /bin/sh -c t # buildkit",
        "RUN /bin/sh -c own # buildkit",
    ]
    assert image.config.config.on_build == ()
    assert [(step.text, step.triggers) for step in image.steps] == [
        ("FROM golang", 2),
        ("RUN own", 0),
    ]
    assert names(image)[1:] == ["[2/4] ONBUILD RUN t", "[3/4] RUN own"]


def test_the_step_of_from_ends_behind_its_triggers() -> None:
    base = replace(BASE, config=replace(BASE.config, on_build=("RUN t",)))
    first = lowered("FROM golang\nRUN own\n", base=base).steps[0]
    assert first.vertex is not None
    assert isinstance(first.vertex.op, ImageOp)
    assert first.root is not None
    assert isinstance(first.root.op, ExecOp)


def test_triggers_of_this_file_stay_in_its_image() -> None:
    image = lowered("FROM golang\nONBUILD RUN x\n")
    assert image.config.config.on_build == ("RUN x",)
    assert history(image) == ["base layer"]


# -------------------------------------------------------------- result
def test_labels_of_the_command_line_come_last() -> None:
    image = lowered("FROM golang\nLABEL a=1 b=2\n", labels={"b": "9", "c": "3"})
    assert image.config.config.labels == {"base": "yes", "a": "1", "b": "9", "c": "3"}
    assert history(image)[-1] == "LABEL a=1 b=2"


def test_the_image_has_the_platform_asked_for() -> None:
    assert lowered("FROM scratch\n", platforms=(ARM,)).platform == ARM
    assert lowered("FROM golang\n", base=replace(BASE, platform=ARM)).platform == ARM


def test_an_epoch_dates_new_history_only() -> None:
    image = lowered("FROM golang\nENV a=b\n", build_args={"SOURCE_DATE_EPOCH": "60"})
    assert [entry.created for entry in image.config.history] == [
        "2020-01-01T00:00:00Z",
        "1970-01-01T00:01:00Z",
    ]
    assert image.epoch == 60


def test_history_entries_have_no_author() -> None:
    image = lowered("FROM scratch\nMAINTAINER me\nENV a=b\n")
    assert {entry.author for entry in image.config.history} == {""}
    assert image.config.author == "me"


def test_several_platforms_are_shown_in_step_names() -> None:
    image = lowered("FROM golang\nARG TARGETARCH\nRUN x\n", platforms=(Platform(), ARM))
    assert names(image)[1] == "[linux/amd64 2/2] RUN x"


def test_a_cross_building_stage_shows_both_platforms() -> None:
    dockerfile = parse("FROM --platform=linux/amd64 golang\nARG TARGETARCH\nRUN x\n")
    found = plan(dockerfile, BuildOptions(platforms=(Platform(), ARM)), ARM)
    key = found.bases[0].key
    op = ImageOp(reference="golang", digest=LAYER, platform=Platform())
    image = lower(found, {key: ResolvedBase(op=op, config=BASE)})
    assert names(image)[1] == "[linux/amd64->arm64 2/2] RUN x"


def test_step_numbers_are_as_wide_as_their_total() -> None:
    image = lowered("FROM golang\n" + "RUN x\n" * 10)
    assert names(image)[1].startswith("[ 2/11] ")


def test_equal_steps_of_two_files_have_equal_digests() -> None:
    one = lowered("FROM golang\nRUN x\nLABEL a=b\n").root
    other = lowered("# comment\nFROM golang\n\nRUN x\n").root
    assert one is not None
    assert other is not None
    assert one.digest == other.digest


def test_no_cache_marks_the_vertices_of_its_stages() -> None:
    text = "FROM golang AS a\nRUN x\nFROM a\nRUN y\n"
    image = lowered(text, no_cache_filter=("a",))
    flags = {v.options.instruction: v.options.no_cache for v in image.graph.vertices.values()}
    assert flags["RUN x"] is True
    assert flags["RUN y"] is False


def test_a_step_holds_its_entry_and_a_digest_of_the_history_before() -> None:
    one = lowered("FROM scratch\nENV a=1\nENV b=2\n").steps
    other = lowered("FROM scratch\nENV a=2\nENV b=2\n").steps
    assert [step.entry.created_by for step in one[1:] if step.entry] == ["ENV a=1", "ENV b=2"]
    assert len({step.trail for step in (*one, *other)}) == 5  # the two FROMs are alike
