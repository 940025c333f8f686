"""Plans of generated files: what is needed is planned; only typed errors leave the compiler."""

from __future__ import annotations

from contextlib import suppress

from hypothesis import given, settings
from hypothesis import strategies as st

from buildkit_py.digest import Digest
from buildkit_py.dockerfile import parse
from buildkit_py.errors import PybuildError
from buildkit_py.graph import ImageOp
from buildkit_py.lint import CheckOptions, lint
from buildkit_py.lower import LoweredImage, ResolvedBase, lower
from buildkit_py.oci.config import ImageConfig
from buildkit_py.outline import outline
from buildkit_py.stages import BuildOptions, FromImage, StagePlan, plan

DIGEST = Digest("sha256:" + "c" * 64)
CONFIG = ImageConfig(diff_ids=(DIGEST,))
NAMES = ("a", "b", "c", "debian", "scratch", "0", "1", "9", "$X", "${X:-a}")
NAME = st.sampled_from(NAMES)

LINE = st.one_of(
    st.builds("COPY --from={} x /y".format, NAME),
    st.builds("RUN --mount=type=bind,from={},target=/m true".format, NAME),
    st.builds("ARG {}".format, st.sampled_from(["X", "X=a", "X=$Y", "Y=${X?no}", "X=b Y"])),
    st.builds("ENV {}".format, st.sampled_from(["X=b", "X $Y", "Y=$X X=$Y", "Z=${Z:?no}"])),
    st.builds("ONBUILD {}".format, st.sampled_from(["RUN x", "COPY --from=a x /", "ENV X=c"])),
    st.sampled_from(
        [
            "RUN --mount=type=cache,target=/c a | b && cd /x && sudo apt-get install y",
            "WORKDIR $X/w",
            "CMD a",
            'ENTRYPOINT ["a"]',
            "EXPOSE $X",
            "USER ${X}",
            "SHELL [\"/bin/sh\", '$X']",
            "# check=skip=all",
            "LABEL a=$X",
        ]
    ),
)
STAGE = st.builds(
    lambda base, name, lines: "\n".join([f"FROM {base}{name}", *lines]),
    NAME,
    st.sampled_from(["", " AS a", " AS b", " AS c", " AS scratch"]),
    st.lists(LINE, max_size=5),
)
FILE = st.builds(
    lambda head, stages: "\n".join([*head, *stages]) + "\n",
    st.lists(st.sampled_from(["ARG X=a", "ARG X", "ARG X=$Y Y=b"]), max_size=2),
    st.lists(STAGE, min_size=1, max_size=4),
)
OPTIONS = st.builds(
    BuildOptions,
    target=st.sampled_from([None, "a", "b", "0"]),
    build_args=st.dictionaries(st.sampled_from(["X", "Y"]), st.sampled_from(["a", "", None])),
    all_stages=st.booleans(),
)


def compiled(text: str, options: BuildOptions) -> tuple[StagePlan, LoweredImage] | None:
    try:
        found = plan(parse(text), options)
        bases = {
            base.key: ResolvedBase(
                op=ImageOp(reference=base.reference, digest=DIGEST, platform=base.platform),
                config=CONFIG,
            )
            for base in found.bases
        }
        return found, lower(found, bases)
    except PybuildError:
        return None


@settings(max_examples=150, deadline=None)
@given(text=FILE, options=OPTIONS)
def test_what_a_stage_needs_is_reachable_and_above_it(text: str, options: BuildOptions) -> None:
    result = compiled(text, options)
    if result is None:
        return
    found, image = result
    for stage in found.reachable:
        assert all(found.stages[index].reachable for index in stage.dependencies)
        assert all(index < stage.index for index in stage.dependencies)
        if isinstance(stage.origin, FromImage):
            assert stage.origin.wanted.key in {base.key for base in found.bases}
    assert found.stages[found.target].reachable
    layers = sum(not entry.empty_layer for entry in image.config.history)
    assert (layers == 0) == (image.root is None or isinstance(image.root.op, ImageOp))


@settings(max_examples=60, deadline=None)
@given(text=FILE, options=OPTIONS)
def test_compiling_twice_gives_the_same(text: str, options: BuildOptions) -> None:
    first, second = compiled(text, options), compiled(text, options)
    assert (first is None) == (second is None)
    if first is not None and second is not None:
        assert first[1].config == second[1].config
        assert list(first[1].graph.vertices) == list(second[1].graph.vertices)


@settings(max_examples=100, deadline=None)
@given(text=FILE, options=OPTIONS)
def test_only_typed_errors_leave_checks_and_outlines(text: str, options: BuildOptions) -> None:
    with suppress(PybuildError):
        dockerfile = parse(text)
        lint(dockerfile, options=options, check=CheckOptions(extended=True))
        found = plan(dockerfile, options)
        lint(dockerfile, plan=found, check=CheckOptions(extended=True, experimental_all=True))
        outline(found)
