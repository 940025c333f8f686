"""Reports of builds that went in all kinds of ways, as values."""

from __future__ import annotations

from buildkit_py.digest import sha256
from buildkit_py.progress.events import (
    BuildCompleted,
    BuildStarted,
    BuildWarning,
    Event,
    StepInfo,
    VertexCached,
    VertexCompleted,
    VertexLog,
    VertexStarted,
)
from buildkit_py.report import render_report
from buildkit_py.report.model import collect
from buildkit_py.report.text import byte_size, clipped, duration, escape
from buildkit_py.store.builds import BuildRecord

A, B, C = (sha256(name) for name in (b"a", b"b", b"c"))
STEPS = (
    StepInfo(text="FROM debian AS one", vertex=A, stage="one", name="[one 1/2] FROM debian"),
    StepInfo(text="RUN make", vertex=B, stage="one", name="[one 2/2] RUN make", needs=(A,)),
    StepInfo(text="FROM debian AS two", vertex=A, stage="two", name="[two 1/2] FROM debian"),
    StepInfo(text="ENV X=1", vertex=None, stage="two"),
    StepInfo(text="COPY --from=one / /", vertex=C, stage="two", needs=(A, B)),
)


def record(status: str = "completed", **data: object) -> BuildRecord:
    completed = None if status in {"running", "interrupted"} else 110.0
    return BuildRecord(
        ref="r", started=100.0, completed=completed, status=status, image=None, data=data
    )


def started(*more: Event) -> list[Event]:
    return [BuildStarted(ref="r", steps=STEPS, total=3, time=100.5), *more]


def test_stages_need_what_they_copy_from_and_not_who_shares_their_base() -> None:
    report = collect(record(), started())
    assert [(stage.name, stage.needs) for stage in report.stages] == [("one", ()), ("two", (0,))]


def test_bars_lie_between_the_beginning_and_the_end() -> None:
    events = started(
        VertexCached(vertex=A, name="FROM", time=101.0),
        VertexStarted(vertex=B, name="RUN make", time=102.0),
        VertexCompleted(vertex=B, name="RUN make", time=105.5),
        VertexStarted(vertex=C, name="COPY", time=106.0),
    )
    bars = {(bar.step, bar.status): bar for bar in collect(record("interrupted"), events).bars}
    assert (bars[2, "ran"].start, bars[2, "ran"].seconds) == (2.0, 3.5)
    assert bars[1, "cached"].seconds == bars[3, "cached"].seconds == 0
    assert (bars[5, "canceled"].start, bars[5, "canceled"].seconds) == (6.0, 0.0)


def test_a_build_that_failed_before_it_had_a_plan_is_a_page() -> None:
    events = [BuildCompleted(time=101.0, error="no such file")]
    page = render_report(record("error", summary={"error": "no <such> file"}), events)
    assert "no &lt;such&gt; file" in page
    assert "data-step" not in page


def test_every_text_is_escaped() -> None:
    evil = "<script>\x1b[31m\"'&\x00\udcff\u202e"
    steps = (StepInfo(text=evil, vertex=A, stage=evil, name=evil),)
    events = [
        BuildStarted(ref="r", steps=steps, time=100.0),
        VertexStarted(vertex=A, name=evil, time=101.0),
        VertexLog(vertex=A, stream=1, data=evil.encode("utf-8", "replace"), time=101.0),
        VertexCompleted(vertex=A, name=evil, time=102.0, error=evil),
        BuildCompleted(time=103.0, warnings=(BuildWarning(message=evil, rule=evil),)),
    ]
    summary = {"error": evil, "steps": [{"reason": evil, "size": 3, "line": 1}]}
    request = {"tags": [evil], "build_args": {evil: evil}, evil: evil}
    page = render_report(record("error", request=request, summary=summary), events)
    assert "<script" not in page
    assert not {"\x00", "\x1b", "\u202e", "\udcff"} & set(page)
    page.encode()


def test_long_output_keeps_its_end() -> None:
    log = b"".join(b"line %d\n" % number for number in range(5000))
    events = started(
        VertexStarted(vertex=B, name="RUN", time=101.0),
        VertexLog(vertex=B, stream=1, data=log, time=101.0),
    )
    shown = collect(record(), events).steps[1].log
    assert shown.startswith("…\nline ")
    assert shown.endswith("line 4999")
    assert len(shown) < 7000


def test_units() -> None:
    assert [duration(value) for value in (0.0124, 3.44, 125)] == ["12 ms", "3.4 s", "2 min 5 s"]
    assert [byte_size(value) for value in (512, 1440, 123456789)] == ["512 B", "1.4 kB", "123 MB"]
    assert clipped("a  b\nc", 9) == "a b c"
    assert clipped("abcdef", 4) == "abc…"
    assert escape("a\x1b[1;31mb\x07") == "ab\ufffd"


def test_layers_are_counted_once_and_what_was_not_reached_comes_last() -> None:
    events = started(
        VertexStarted(vertex=A, name="FROM", time=101.0),
        VertexCompleted(vertex=A, name="FROM", time=102.0),
    )
    sizes = [{"size": 1000}, {"size": 7}, {"size": 1000}, {}, {}]
    report = collect(record(summary={"steps": sizes}), events)
    assert [(step.number, step.size) for step in report.layers] == [(1, 1000), (2, 7)]
    assert [bar.status for bar in report.bars] == ["ran", "ran", "not reached", "not reached"]
    page = render_report(record(summary={"steps": sizes}), events)
    assert "<dt>Layers</dt><dd>1.0 kB</dd>" in page


def test_stages_of_several_platforms_are_told_apart() -> None:
    steps = tuple(
        StepInfo(text=text, vertex=vertex, stage="app", name=name)
        for vertex, platform in ((A, "linux/amd64"), (B, "linux/arm/v7"))
        for text, name in (("FROM x", f"[{platform} app 1/2] FROM x"), ("COPY --link a b", "LINK"))
    )
    report = collect(record(), [BuildStarted(ref="r", steps=steps, total=2, time=100.5)])
    assert [stage.name for stage in report.stages] == ["app linux/amd64", "app linux/arm/v7"]
    assert report.steps[3].stage == "app linux/arm/v7"
