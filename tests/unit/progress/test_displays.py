"""The displays' texts, event by event."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterable

import pytest

from buildkit_py.digest import Digest, sha256
from buildkit_py.progress import KINDS, open_display
from buildkit_py.progress.clip import LogClip
from buildkit_py.progress.codec import decode, encode
from buildkit_py.progress.events import (
    BuildCompleted,
    BuildStarted,
    BuildWarning,
    Event,
    StepCompleted,
    StepInfo,
    VertexCached,
    VertexCompleted,
    VertexLog,
    VertexStarted,
    VertexStatus,
)
from buildkit_py.progress.tty import Screen

A, B = sha256(b"a"), sha256(b"b")
ID_1, ID_2, ID_3 = "1" * 64, "2" * 64, "3" * 64


def started(vertex: Digest, name: str, time: float = 0.0) -> VertexStarted:
    return VertexStarted(vertex=vertex, name=name, time=time)


def completed(vertex: Digest, time: float = 1.0, error: str | None = None) -> VertexCompleted:
    return VertexCompleted(vertex=vertex, name="", time=time, error=error)


def log(vertex: Digest, data: bytes, time: float = 0.5) -> VertexLog:
    return VertexLog(vertex=vertex, stream=1, data=data, time=time)


def step(index: int, identity: str, *, cached: bool = False) -> StepCompleted:
    return StepCompleted(index=index, id=identity, cached=cached, time=1.0)


def show(kind: str, events: Iterable[Event], environment: dict[str, str] | None = None) -> str:
    stream = io.StringIO()
    display = open_display(kind, stream, environment=environment or {})
    for event in events:
        display(event)
    display.close()
    return stream.getvalue()


THREE_STEPS = BuildStarted(
    ref="x",
    total=2,
    steps=(
        StepInfo(text="FROM golang", vertex=A, triggers=0),
        StepInfo(text="MAINTAINER youngqqcn", vertex=None),
        StepInfo(text="RUN go build", vertex=B),
    ),
)


# ------------------------------------------------------------------ plain
def test_plain_shows_a_block_for_each_vertex() -> None:
    text = show(
        "plain",
        [
            started(A, "[1/2] FROM busybox"),
            completed(A, 0.1),
            started(B, "[2/2] RUN echo hi", 1.0),
            log(B, b"hi\nthe", 1.288),
            log(B, b"re\n", 1.3),
            completed(B, 1.35),
        ],
    )
    assert text == (
        "#1 [1/2] FROM busybox\n#1 DONE 0.1s\n\n"
        "#2 [2/2] RUN echo hi\n#2 0.288 hi\n#2 0.300 there\n#2 DONE 0.4s\n"
    )


def test_plain_says_when_it_leaves_a_vertex_and_names_it_again_on_return() -> None:
    text = show(
        "plain",
        [
            started(A, "first"),
            started(B, "second"),
            log(B, b"waits for its end\n"),
            completed(B),
            log(A, b"goes on\n"),
            completed(A),
        ],
    )
    assert text == (
        "#1 first\n#1 ...\n\n#2 second\n#2 0.500 waits for its end\n#2 DONE 1.0s\n\n"
        "#1 first\n#1 0.500 goes on\n#1 DONE 1.0s\n"
    )


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (VertexCached(vertex=A, name="x", time=0.0), "#1 CACHED"),
        (completed(A, error="canceled"), "#1 CANCELED"),
        (completed(A, error="exit code: 2"), "#1 ERROR: exit code: 2"),
        (BuildWarning(message="careful", vertex=A), "#1 WARN: careful"),
        (
            VertexStatus(
                vertex=A,
                id="transferring context",
                action="transferring context",
                current=2,
                total=0,
                time=0.1,
                done=True,
            ),
            "#1 transferring context: 2B done",
        ),
    ],
)
def test_plain_words_every_outcome(event: Event, line: str) -> None:
    assert show("plain", [started(A, "x"), event]).splitlines()[-1] == line


def test_plain_lets_a_patient_vertex_take_over_from_one_that_keeps_talking() -> None:
    events: list[Event] = [started(A, "talker"), started(B, "patient")]
    for second in range(15):
        events.append(log(A, b"talk\n", float(second)))
        events.append(log(B, b"at last\n", second + 0.5))
    text = show("plain", events)
    assert text.index("#1 ...") < text.index("#2 patient")
    assert "#2 10.50 at last" in text


def test_plain_says_of_a_late_download_when_it_begins_and_ends_only() -> None:
    def fetched(current: int, time: float) -> VertexStatus:
        return VertexStatus(
            vertex=A,
            id="sha256:1",
            action="downloading",
            current=current,
            total=100,
            time=time,
            done=current == 100,
        )

    pieces = [fetched(current, 2 + current / 100) for current in range(0, 101, 10)]
    begun = [started(A, "FROM x"), completed(A), started(B, "RUN y")]
    text = show("plain", [*begun, *pieces, completed(B, 4.0)])
    assert text.count("#1 FROM x\n") == 3
    assert text.count("sha256:1") == 2
    assert "#1 sha256:1 100B / 100B 1.0s done\n" in text


def test_plain_clips_what_is_over_the_size_limit_and_says_so_once() -> None:
    limits = {"BUILDKIT_STEP_LOG_MAX_SIZE": "8", "BUILDKIT_STEP_LOG_MAX_SPEED": "-1"}
    text = show("plain", [started(A, "x"), log(A, b"12345678901\n"), log(A, b"more\n")], limits)
    assert "#1 0.500 12345678\n" in text
    assert text.count("[output clipped, log limit 8B reached]") == 1
    assert "more" not in text


def test_plain_names_the_default_limit_as_buildkit_does() -> None:
    speed_off = {"BUILDKIT_STEP_LOG_MAX_SPEED": "-1"}
    text = show("plain", [started(A, "x"), log(A, b"a" * (3 << 20) + b"\n")], speed_off)
    assert "[output clipped, log limit 2MiB reached]" in text
    fast = show("plain", [started(A, "x"), log(A, b"a" * (1 << 20) + b"\n")])
    assert "[output clipped, log limit 200KiB/s reached]" in fast


# ------------------------------------------------------------------ classic
def test_classic_shows_steps_as_the_classic_builder_did() -> None:
    text = show(
        "classic",
        [
            THREE_STEPS,
            step(0, ID_1, cached=True),
            step(1, ID_2),
            started(B, "[2/2] RUN go build"),
            log(B, b"compiling\n"),
            completed(B),
            step(2, ID_3),
            BuildCompleted(
                time=2.0, image_id=f"sha256:{ID_3}", names=("docker.io/you/web:latest",)
            ),
        ],
    )
    short = B.removeprefix("sha256:")[:12]
    assert text == (
        "Step 1/3 : FROM golang\n ---> 111111111111\n"
        "Step 2/3 : MAINTAINER youngqqcn\n ---> 222222222222\n"
        f"Step 3/3 : RUN go build\n ---> Running in {short}\ncompiling\n"
        f" ---> Removed intermediate container {short}\n ---> 333333333333\n"
        "Successfully built 333333333333\nSuccessfully tagged you/web:latest\n"
    )


def test_classic_says_using_cache_at_every_cached_step_but_from() -> None:
    cached = [step(index, ID_1, cached=True) for index in range(3)]
    text = show("classic", [THREE_STEPS, VertexCached(vertex=B, name="", time=0.0), *cached])
    assert text.count(" ---> Using cache\n") == 2
    assert "Running in" not in text
    assert text.startswith("Step 1/3 : FROM golang\n ---> 111111111111\n")


def test_classic_keeps_a_later_steps_output_until_its_turn() -> None:
    text = show("classic", [THREE_STEPS, log(B, b"early\n"), step(0, ID_1), step(1, ID_2)])
    assert text.index("Step 2/3") < text.index("early")


def test_classic_announces_build_triggers() -> None:
    steps = (StepInfo(text="FROM base", vertex=A, triggers=2),)
    text = show("classic", [BuildStarted(ref="x", steps=steps)])
    assert "Step 1/1 : FROM base\n# Executing 2 build triggers\n" in text


def test_classic_starts_a_new_line_behind_output_without_one() -> None:
    text = show(
        "classic", [THREE_STEPS, step(0, ID_1), step(1, ID_2), log(B, b"no end"), step(2, ID_3)]
    )
    assert "no end\n ---> Removed intermediate container" in text


# ------------------------------------------------------------------ tty
def frame(events: Iterable[Event], now: float = 3.4, height: int | None = None) -> list[str]:
    screen = Screen({})
    for event in events:
        screen.update(event)
    return [left for left, _, _ in screen.frame(now, height)]


def test_tty_heads_the_frame_with_time_and_counts() -> None:
    lines = frame([BuildStarted(ref="x", total=9, time=0.0), started(A, "x"), completed(A)])
    assert lines[0] == "[+] Building 3.4s (1/9)"
    ended = frame(
        [BuildStarted(ref="x", total=1), started(A, "x"), completed(A), BuildCompleted(time=2.0)]
    )
    assert ended[0] == "[+] Building 2.0s (1/1) FINISHED"


def test_tty_marks_cached_failed_and_cancelled_vertices() -> None:
    lines = frame(
        [
            VertexCached(vertex=A, name="[base 2/4] RUN x", time=0.0),
            started(B, "RUN y"),
            completed(B, error="exit code: 1"),
        ]
    )
    assert lines[1:] == [" => CACHED [base 2/4] RUN x", " => ERROR RUN y"]
    assert frame([started(A, "z"), completed(A, error="canceled")])[1] == " => CANCELED z"


def test_tty_shows_the_last_six_lines_of_a_running_step_without_escapes() -> None:
    many = b"".join(b"\x1b[31mline %d\x1b[0m\n" % number for number in range(9))
    lines = frame([started(A, "x"), log(A, many)])
    assert lines[2:] == [f" => => # line {number}" for number in range(3, 9)]
    assert len(frame([started(A, "x"), log(A, many), completed(A)])) == 2


def test_tty_drops_finished_vertices_when_the_screen_is_too_small() -> None:
    events: list[Event] = []
    for number in range(30):
        vertex = sha256(b"%d" % number)
        events += [started(vertex, f"step {number}"), completed(vertex)]
    events.append(started(A, "running"))
    lines = frame(events, height=10)
    assert len(lines) <= 10
    assert lines[-1] == " => running"


def test_tty_prints_the_whole_last_frame_on_a_stream_that_is_no_terminal() -> None:
    text = show(
        "tty",
        [BuildStarted(ref="x", total=1), started(A, "x"), completed(A), BuildCompleted(time=1.0)],
    )
    assert re.search(r"^\[\+\] Building 1\.0s \(1/1\) FINISHED$", text, re.MULTILINE)
    assert re.search(r"^ => x +1\.0s *$", text, re.MULTILINE)


# ------------------------------------------------------------------ others
def test_rawjson_writes_solve_statuses() -> None:
    text = show("rawjson", [started(A, "x"), log(A, b"hi"), completed(A, error="bad")])
    lines = [json.loads(line) for line in text.splitlines()]
    assert lines[0]["vertexes"][0]["digest"] == A
    assert lines[1]["logs"][0]["data"] == "aGk="
    assert lines[2]["vertexes"][0]["error"] == "bad"
    assert lines[2]["vertexes"][0]["started"] == "1970-01-01T00:00:00.000000Z"


@pytest.mark.parametrize("kind", ["quiet", "none"])
def test_silent_displays_write_nothing(kind: str) -> None:
    assert show(kind, [THREE_STEPS, started(A, "x"), log(A, b"hi\n")]) == ""


def test_auto_is_plain_where_no_terminal_is() -> None:
    assert show("auto", [started(A, "x")]) == show("plain", [started(A, "x")])


def test_every_kind_can_be_opened_and_closed_unused() -> None:
    assert {show(kind, []) for kind in KINDS} == {""}


@pytest.mark.parametrize(
    "event",
    [
        THREE_STEPS,
        log(A, b"\xff\x00 bytes"),
        BuildWarning(message="m", rule="R", line=3, vertex=B),
        BuildCompleted(time=1.5, names=("a", "b"), warnings=(BuildWarning(message="w"),)),
    ],
)
def test_an_event_survives_its_line_of_json(event: Event) -> None:
    assert decode(encode(event)) == event


def test_the_size_limit_is_named_after_the_speed_limit_was_met() -> None:
    clip = LogClip(max_size=30, max_speed=10)
    shown = [clip.pass_on(b"x" * 20, 0.0), clip.pass_on(b"y" * 20, 1.0), clip.pass_on(b"z", 2.0)]
    shown += [clip.pass_on(b"w" * 20, 9.0), clip.pass_on(b"v", 9.5)]
    assert b"".join(shown) == (
        b"x" * 10
        + b"\n[output clipped, log limit 10B/s reached]\n"
        + b"y" * 10
        + b"z"
        + b"w" * 9
        + b"\n[output clipped, log limit 30B reached]\n"
    )


def test_a_clip_that_passes_from_one_limit_to_the_other_says_so() -> None:
    clip = LogClip(max_size=25, max_speed=10)
    shown = clip.pass_on(b"x" * 20, 0.0) + clip.pass_on(b"y" * 20, 9.0)
    assert shown.count(b"clipped") == 2
