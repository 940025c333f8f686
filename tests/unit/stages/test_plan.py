"""Stages: what FROM means, what is needed, and what is refused."""

from __future__ import annotations

import pytest

from buildkit_py.contexts import parse_context
from buildkit_py.dockerfile import parse
from buildkit_py.errors import (
    InvalidArgument,
    PlanError,
    StageCycle,
    UnknownTarget,
    UnsetVariable,
    UsageError,
)
from buildkit_py.graph import HttpOp
from buildkit_py.oci.config import ContainerConfig, ImageConfig
from buildkit_py.platforms import Platform
from buildkit_py.stages import (
    BuildOptions,
    FromContext,
    FromImage,
    FromScratch,
    FromStage,
    StagePlan,
    plan,
    triggers_of,
)

ARM = Platform(architecture="arm64")


def planned(text: str, platform: Platform | None = None, **options: object) -> StagePlan:
    return plan(parse(text), BuildOptions(**options), platform)  # type: ignore[arg-type]


def bases(found: StagePlan) -> list[str]:
    return [base.reference for base in found.bases]


def test_a_base_knows_whether_its_from_names_the_platform() -> None:
    text = "FROM a AS one\nFROM --platform=linux/amd64 a\nCOPY --from=one / /\nCOPY --from=b / /\n"
    assert {base.reference[-8:]: base.explicit for base in planned(text).bases} == {
        "a:latest": True,
        "b:latest": False,
    }


def test_only_bases_of_needed_stages_are_wanted() -> None:
    found = planned(
        "FROM golang AS build\nFROM node AS web\nFROM debian\nCOPY --from=build /a /a\n"
    )
    assert bases(found) == ["docker.io/library/golang:latest", "docker.io/library/debian:latest"]
    assert [stage.reachable for stage in found.stages] == [True, False, True]


def test_a_target_drops_the_stages_behind_it() -> None:
    found = planned("FROM golang AS build\nFROM debian\n", target="build")
    assert found.target == 0
    assert bases(found) == ["docker.io/library/golang:latest"]


def test_a_target_may_be_a_number_and_any_casing() -> None:
    text = "FROM a AS One\nFROM b AS two\nFROM c\n"
    assert planned(text, target="1").target == 1
    assert planned(text, target="ONE").target == 0


def test_an_unknown_target_suggests_a_stage() -> None:
    with pytest.raises(UnknownTarget) as caught:
        planned("FROM a AS build\n", target="bulid")
    assert caught.value.message == (
        'target stage "bulid" could not be found (did you mean build?)'
    )


def test_a_target_number_out_of_range_is_unknown() -> None:
    with pytest.raises(UnknownTarget):
        planned("FROM a\n", target="1")


def test_a_stage_name_shadows_an_image_from_its_line_on() -> None:
    found = planned("FROM debian AS golang\nFROM golang\n")
    assert found.stages[1].origin == FromStage(index=0)
    found = planned("FROM golang AS Golang\nFROM golang\n")
    assert isinstance(found.stages[0].origin, FromImage)
    assert found.stages[1].origin == FromStage(index=0)


def test_from_names_a_stage_in_lower_case() -> None:
    with pytest.raises(PlanError) as caught:
        planned("FROM golang AS Base\nFROM Base\n")
    assert caught.value.message.startswith('failed to parse stage name "Base"')
    assert caught.value.hint == "stages are named in lower case: FROM base"


def test_the_last_of_two_equal_names_serves_later_references() -> None:
    found = planned("FROM a AS x\nFROM b AS x\nFROM x\n")
    assert found.stages[2].origin == FromStage(index=1)


def test_copy_from_takes_a_number() -> None:
    found = planned("FROM a\nFROM b\nCOPY --from=0 /x /\n")
    assert found.stages[1].dependencies == (0,)


def test_a_mount_takes_no_number() -> None:
    with pytest.raises(PlanError, match="from=0: a mount takes a stage's name") as caught:
        planned("FROM a\nFROM b\nRUN --mount=from=0,target=/m true\n")
    assert caught.value.spans[0].start.line == 3


def test_a_stage_number_out_of_range_names_the_line() -> None:
    with pytest.raises(PlanError, match="invalid stage index 7") as caught:
        planned("FROM a\nCOPY --from=7 /x /\n")
    assert caught.value.spans[0].start.line == 2


def test_scratch_needs_nothing() -> None:
    found = planned("FROM scratch\nCOPY --from=scratch / /\n")
    assert found.stages[0].origin == FromScratch()
    assert found.bases == ()


def test_a_later_stage_cannot_be_copied_from() -> None:
    text = "FROM a AS one\nCOPY --from=two /x /\nFROM b AS two\n"
    with pytest.raises(PlanError) as caught:
        planned(text, target="one")
    assert caught.value.message == (
        'cannot copy from stage "two", it needs to be defined before current stage "one"'
    )
    assert [span.start.line for span in caught.value.spans] == [2]


def test_a_later_stage_cannot_be_mounted() -> None:
    text = "FROM a AS one\nRUN --mount=from=two,target=/m true\nFROM b AS two\nFROM one\n"
    with pytest.raises(PlanError, match='cannot mount from stage "two" to "/m"'):
        planned(text)


def test_order_does_not_matter_in_stages_that_are_not_built() -> None:
    assert planned("FROM a AS one\nCOPY --from=two /x /\nFROM b AS two\n").target == 1


def test_a_cycle_is_told_with_all_its_lines() -> None:
    text = "FROM a AS one\nCOPY --from=two /x /\nFROM b AS two\nRUN true\nCOPY --from=one /y /\n"
    with pytest.raises(StageCycle) as caught:
        planned(text)
    assert caught.value.message == "circular dependency detected on stage: one"
    assert [span.start.line for span in caught.value.spans] == [2, 5]


def test_a_stage_cannot_copy_from_itself() -> None:
    with pytest.raises(StageCycle, match="circular dependency detected on stage: stage-0"):
        planned("FROM a\nCOPY --from=0 /x /\n")


def test_a_cycle_leaves_out_the_way_to_it() -> None:
    text = (
        "FROM x AS a\nCOPY --from=b /x /\nFROM x AS b\nCOPY --from=c /x /\n"
        "FROM x AS c\nCOPY --from=b /x /\n"
    )
    with pytest.raises(StageCycle) as caught:
        planned(text)
    assert [span.start.line for span in caught.value.spans] == [4, 6]


# -------------------------------------------------------------- ARG in FROM
def test_global_arguments_serve_from_and_are_overridden() -> None:
    text = "ARG V=12\nARG NAME=debian:$V\nFROM $NAME\n"
    assert bases(planned(text)) == ["docker.io/library/debian:12"]
    assert bases(planned(text, build_args={"V": "13"})) == ["docker.io/library/debian:13"]


def test_a_build_argument_without_value_comes_from_the_environment() -> None:
    text = "ARG V=12\nFROM debian:$V\n"
    found = planned(text, build_args={"V": None}, environment={"V": "14"})
    assert bases(found) == ["docker.io/library/debian:14"]
    assert bases(planned(text, build_args={"V": None})) == ["docker.io/library/debian:12"]


def test_an_overridden_default_is_not_evaluated() -> None:
    text = "ARG B=${A:?missing}\nFROM $B\n"
    assert bases(planned(text, build_args={"B": "debian"})) == ["docker.io/library/debian:latest"]
    with pytest.raises(UnsetVariable, match="A: missing"):
        planned(text)


def test_a_blank_base_name_is_refused() -> None:
    with pytest.raises(PlanError, match=r"base name \(\$\{X\}\) should not be blank"):
        planned("ARG X\nFROM ${X}\n")


def test_a_base_that_is_no_image_name_is_refused_even_unused() -> None:
    with pytest.raises(PlanError, match='failed to parse stage name "a:b:c"'):
        planned("FROM a:b:c AS unused\nFROM scratch\n")


def test_target_stage_is_a_predefined_argument() -> None:
    assert planned("FROM scratch AS web\n").scope.values["TARGETSTAGE"] == "web"
    assert planned("FROM scratch\n").scope.values["TARGETSTAGE"] == "default"
    assert planned("FROM scratch AS a\nFROM a\n", target="a").scope.values["TARGETSTAGE"] == "a"


def test_platform_arguments_are_predefined_and_can_be_overridden() -> None:
    found = planned("FROM scratch\n", ARM, platforms=(ARM,), build_args={"TARGETOS": "plan9"})
    values = found.scope.values
    assert values["TARGETPLATFORM"] == "linux/arm64"
    assert values["BUILDPLATFORM"] == "linux/amd64"
    assert (values["TARGETARCH"], values["TARGETVARIANT"], values["TARGETOS"]) == (
        "arm64",
        "",
        "plan9",
    )


# -------------------------------------------------------------- platforms
def test_the_platform_flag_decides_which_image_is_wanted() -> None:
    text = "FROM --platform=$BUILDPLATFORM golang AS build\nFROM debian\nCOPY --from=build / /\n"
    found = planned(text, ARM, platforms=(ARM,))
    assert [str(base.platform) for base in found.bases] == ["linux/amd64", "linux/arm64"]


def test_a_child_has_the_platform_of_its_parent() -> None:
    text = "FROM --platform=linux/arm64 golang AS build\nFROM --platform=linux/386 build\n"
    assert planned(text).stages[1].platform == ARM


def test_an_empty_platform_suggests_an_argument() -> None:
    with pytest.raises(InvalidArgument) as caught:
        planned("FROM --platform=$BUILDPLATFROM debian\n")
    assert caught.value.message == (
        "empty platform value from expression $BUILDPLATFROM (did you mean BUILDPLATFORM?)"
    )


def test_a_malformed_platform_names_the_line() -> None:
    with pytest.raises(InvalidArgument, match="failed to parse platform a/b/c/d") as caught:
        planned("FROM --platform=a/b/c/d debian\n")
    assert caught.value.spans[0].start.line == 1


# -------------------------------------------------------------- named contexts
def test_a_context_named_like_a_stage_replaces_it() -> None:
    text = "FROM golang AS build\nRUN make\nFROM scratch\nCOPY --from=build /a /\n"
    found = planned(text, build_contexts={"build": "../elsewhere"})
    stage = found.stages[0]
    assert stage.replaced
    assert stage.instructions == ()
    assert isinstance(stage.origin, FromContext)
    assert found.bases == ()


def test_a_context_named_like_an_image_replaces_it() -> None:
    found = planned("FROM golang:latest\n", build_contexts={"golang": "docker-image://my/go:1"})
    assert bases(found) == ["docker.io/my/go:1"]
    assert found.bases[0].context == "golang"


def test_a_context_for_one_platform_is_preferred() -> None:
    contexts = {"golang::linux/arm64": "docker-image://arm", "golang": "docker-image://other"}
    found = planned("FROM golang\n", ARM, platforms=(ARM,), build_contexts=contexts)
    assert bases(found) == ["docker.io/library/arm:latest"]
    assert bases(planned("FROM golang\n", build_contexts=contexts)) == [
        "docker.io/library/other:latest"
    ]


def test_copy_from_finds_a_named_context() -> None:
    found = planned("FROM scratch\nCOPY --from=src /a /\n", build_contexts={"src": "dir"})
    assert isinstance(found.sources["src"], FromContext)


def test_scratch_is_never_a_named_context() -> None:
    found = planned("FROM scratch\n", build_contexts={"scratch": "dir"})
    assert found.stages[0].origin == FromScratch()


def test_a_context_may_be_an_empty_root() -> None:
    found = planned("FROM golang\n", build_contexts={"golang": "docker-image://scratch"})
    assert found.stages[0].origin == FromScratch()


@pytest.mark.parametrize(
    ("value", "layout", "reference"),
    [
        ("oci-layout://dir", "dir", ""),
        ("oci-layout:///a/dir:tag", "/a/dir", ":tag"),
        ("oci-layout://dir@sha256:" + "a" * 64, "dir", "@sha256:" + "a" * 64),
    ],
)
def test_an_oci_layout_is_a_base(value: str, layout: str, reference: str) -> None:
    base = planned("FROM golang\n", build_contexts={"golang": value}).bases[0]
    assert (base.layout, base.reference) == (layout, reference)


def test_an_unknown_scheme_is_refused() -> None:
    with pytest.raises(UsageError, match="unsupported context source s3 for x"):
        planned("FROM scratch\n", build_contexts={"x": "s3://bucket"})


@pytest.mark.parametrize(
    ("value", "message"),
    [("", "the named context x has no value"), ("http:///f", "invalid URL 'http:///f'")],
)
def test_a_context_without_a_place_is_refused(value: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        planned("FROM scratch\n", build_contexts={"x": value})


@pytest.mark.parametrize(
    ("url", "filename"),
    [("http://h/d/a.tar.gz?x=1", "a.tar.gz"), ("http://h/", "download")],
)
def test_a_context_from_a_url_is_one_file_of_its_name(url: str, filename: str) -> None:
    assert parse_context("x", url).op() == HttpOp(url=url, filename=filename)


# -------------------------------------------------------------- ours
def test_copy_from_may_use_an_argument() -> None:
    text = "FROM a AS one\nFROM b AS two\nFROM c\nARG SRC=one\nCOPY --from=$SRC /x /\n"
    assert planned(text).stages[2].dependencies == (0,)
    assert planned(text, build_args={"SRC": "two"}).stages[2].dependencies == (1,)


def test_a_mount_may_use_an_argument() -> None:
    text = "FROM a AS one\nFROM c\nARG SRC=one\nRUN --mount=from=$SRC,target=/m true\n"
    assert planned(text).stages[1].dependencies == (0,)


def test_an_argument_without_value_is_no_stage() -> None:
    with pytest.raises(InvalidArgument, match=r"--from=\$SRC is empty"):
        planned("FROM a\nCOPY --from=$SRC /x /\n")


# -------------------------------------------------------------- ONBUILD
def test_triggers_of_a_base_add_stages_and_bases() -> None:
    dockerfile = parse("FROM tools AS t\nFROM base\n")
    options = BuildOptions()
    first = plan(dockerfile, options)
    config = ImageConfig(
        config=ContainerConfig(on_build=("COPY --from=t /a /a", "COPY --from=busybox /b /b"))
    )
    triggers = triggers_of(first, {first.bases[0].key: config})
    second = plan(dockerfile, options, triggers=triggers)
    assert bases(first) == ["docker.io/library/base:latest"]
    assert bases(second) == [
        "docker.io/library/tools:latest",
        "docker.io/library/base:latest",
        "docker.io/library/busybox:latest",
    ]
    assert second.stages[1].trigger_count == 2


def test_triggers_of_a_stage_fire_in_its_children_only() -> None:
    text = "FROM scratch AS a\nONBUILD ENV X=1\nFROM a AS b\nFROM b\n"
    assert [stage.trigger_count for stage in planned(text).stages] == [0, 1, 0]


# -------------------------------------------------------------- numbers and names
def test_the_only_stage_has_no_name_for_display() -> None:
    assert planned("FROM a\nRUN x\n").stages[0].name == ""
    assert planned("FROM a AS web\nRUN x\n").stages[0].name == ""
    assert planned("FROM a\nCOPY --from=b /x /\n").stages[0].name == "stage-0"
    assert planned("FROM a\nRUN --mount=type=cache,target=/c x\n").stages[0].name == "stage-0"


def test_steps_count_from_and_what_makes_layers() -> None:
    text = "FROM a\nENV x=1\nWORKDIR /w\nCOPY a b\nADD a b\nRUN x\nCMD y\n"
    assert planned(text).stages[0].step_total == 5
    assert planned("FROM scratch\nCOPY a b\n").stages[0].step_total == 1


# -------------------------------------------------------------- SOURCE_DATE_EPOCH
def test_the_epoch_comes_from_a_build_argument_or_a_global_one() -> None:
    assert planned("FROM scratch\n", build_args={"SOURCE_DATE_EPOCH": "5"}).epoch == 5
    assert planned("ARG SOURCE_DATE_EPOCH=7\nFROM scratch\n").epoch == 7
    assert planned("FROM scratch\n", build_args={"SOURCE_DATE_EPOCH": ""}).epoch is None


def test_the_epoch_may_name_a_source() -> None:
    found = planned("FROM scratch\n", build_args={"SOURCE_DATE_EPOCH": "context"})
    assert (found.epoch, found.epoch_source) == (None, "context")
    settled = planned("FROM scratch\n", build_args={"SOURCE_DATE_EPOCH": "context"}, epoch=9)
    assert settled.epoch == 9
    assert settled.build_args["SOURCE_DATE_EPOCH"] == "9"


@pytest.mark.parametrize("text", ["soon", "9" * 30, "1.5"])
def test_a_malformed_epoch_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="invalid SOURCE_DATE_EPOCH"):
        planned("FROM scratch\n", build_args={"SOURCE_DATE_EPOCH": text})


# -------------------------------------------------------------- cache
def test_no_cache_filter_names_stages() -> None:
    text = "FROM a AS one\nFROM b AS two\n"
    found = planned(text, no_cache_filter=("TWO",))
    assert [stage.no_cache for stage in found.stages] == [False, True]
    assert all(stage.no_cache for stage in planned(text, no_cache=True).stages)
