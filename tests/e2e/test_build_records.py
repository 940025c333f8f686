"""`pybuild builds ls`: which records are listed, and in which form."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Pybuild

pytestmark = [pytest.mark.sandbox, pytest.mark.root]


@pytest.fixture
def records(busybox: Pybuild, context: Callable[..., Path]) -> Pybuild:
    """A store with two builds that went well, and one that failed."""
    busybox("build", "-t", "team/app:1", context("FROM busybox\nRUN true\n"))
    busybox("build", "-t", "other", context("FROM busybox\nRUN true\nRUN echo 1\n"))
    busybox("build", context("FROM busybox\nRUN false\n"), status=1)
    return busybox


def names(pybuild: Pybuild, *filters: str) -> list[str]:
    options = [f"--filter={text}" for text in filters]
    found = pybuild("builds", "ls", "--format={{.Status}} {{.Name}}", *options).stdout
    return [line.rpartition("/")[2] for line in found.splitlines()]


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ([], ["context", "completed other", "app:1"]),
        (["status=error"], ["context"]),
        (["status!=error"], ["completed other", "app:1"]),
        (["repository=team/app"], ["app:1"]),
        (["repository=docker.io/team/app"], ["app:1"]),
        (["name~=^oth"], ["completed other"]),
        (["duration<10m", "status==completed"], ["completed other", "app:1"]),
        (["duration>10m"], []),
        (["startedAt>1h"], ["context", "completed other", "app:1"]),
        (["startedAt<2020-01-31"], []),
        (["completedAt>=2020-01-31T00:00:00Z", "ref~=."], ["context", "completed other", "app:1"]),
    ],
)
def test_records_are_chosen_by_what_is_known_of_them(
    records: Pybuild, filters: list[str], expected: list[str]
) -> None:
    assert names(records, *filters) == expected


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("ls", "--filter=bogus=1"), 'invalid filter "bogus=1"'),
        (("ls", "--filter=startedAt=1h"), 'invalid filter "startedAt=1h"'),
        (("ls", "--filter=duration>soon"), 'invalid duration "soon"'),
        (("ls", "--filter=startedAt>soon"), 'invalid time "soon"'),
        (("ls", "--filter=ref~=("), "invalid filter pattern"),
        (("inspect", "--filter=ref=1"), "--filter is for ls"),
        (("ls", "--format=words"), 'unsupported format "words"'),
        (("ls", "app"), 'does not take the argument "app"'),
        (("logs", "--format=json"), "--format is for ls and inspect"),
        (("inspect",), "there are no records of builds"),
    ],
)
def test_a_wrong_filter_or_form_is_one_clear_error(
    pybuild: Pybuild, words: tuple[str, ...], said: str
) -> None:
    done = pybuild("builds", *words, status=2)
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_template_names_what_is_known_of_a_build(records: Pybuild) -> None:
    form = "--format={{.Name}} {{.TotalSteps}} {{.CachedSteps}}"
    assert records("builds", "inspect", form, "^1").stdout == "other 3 2\n"
    table = records("builds", "ls", "--format=table {{.Name}}\t{{.Status}}").stdout.splitlines()
    assert table[0].split() == ["NAME", "STATUS"]
    assert [line.split()[-1] for line in table[1:]] == ["error", "completed", "completed"]
    assert "exit code: 1" in records("builds", "inspect", "--format={{.Error}}").stdout


def test_steps_are_counted_as_displays_number_them(
    busybox: Pybuild, context: Callable[..., Path]
) -> None:
    app = context('FROM busybox\nARG A=1\nENV B=2\nRUN true\nmaintainer me\nCMD ["x"]\n')
    busybox("build", app)
    busybox("build", app)  # recalled
    counts = "--format={{.CachedSteps}}/{{.TotalSteps}} {{len .Warnings}}"
    assert busybox("builds", "ls", counts).stdout.split("\n")[:2] == ["2/2 2", "0/2 2"]
    shown = busybox("builds", "inspect").stdout
    assert "Steps:          2 (2 cached)\n" in shown
    assert "\nWarnings:\n - ConsistentInstructionCasing: " in shown
    assert "MaintainerDeprecated: " in shown


def test_a_failed_build_has_its_steps_and_reasons(
    busybox: Pybuild, context: Callable[..., Path]
) -> None:
    busybox("build", context("FROM busybox\nRUN echo 1 > /a\n"))
    app = context("FROM busybox\nRUN echo 1 > /a\nRUN echo 2 > /b\nRUN false\nRUN true\n")
    busybox("build", app, status=1)
    shown = busybox("builds", "inspect").stdout
    assert "Steps:          3 of 5 (2 cached)\n" in shown
    found = busybox("builds", "inspect", "--format={{.CachedSteps}} {{.TotalSteps}}").stdout
    assert found == "2 5\n"
    assert "first build of this step" in busybox("builds", "inspect", "--format=json").stdout


def test_a_running_build_is_shown_as_one_and_its_record_stays(
    busybox: Pybuild, context: Callable[..., Path], tmp_path: Path
) -> None:
    busybox("build", "-t", "done", context("FROM busybox\nRUN true\n"))
    app = context("FROM busybox\nRUN echo hello && sleep 1000\n")
    process = subprocess.Popen(
        busybox.command("build", "--progress=plain", app),
        env=busybox.variables(),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stderr is not None
        assert any("hello" in line and "echo" not in line for line in process.stderr)
        shown = busybox("builds", "inspect").stdout
        assert "Status:         running\n" in shown
        assert [line.split()[1] for line in shown.splitlines() if "[2/2]" in line] == ["running"]
        page = busybox("builds", "report").stdout
        assert 'class="bar running" data-step="2"' in page
        busybox("builds", "rm", "^0", status=2)
        removed = busybox("builds", "rm", "--all")
        assert len(removed.stdout.split()) == 1
        assert "is running: its record stays" in removed.stderr
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    shown = busybox("builds", "inspect").stdout
    assert "Status:         interrupted\n" in shown
    assert [line.split()[1] for line in shown.splitlines() if "[2/2]" in line] == ["interrupted"]
    assert len(busybox("builds", "rm", "--all").stdout.split()) == 1


def test_devices_are_written_to_and_never_replaced(
    busybox: Pybuild, context: Callable[..., Path], tmp_path: Path
) -> None:
    device, stdout = tmp_path / "null", tmp_path / "stdout"
    os.mknod(device, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    stdout.symlink_to("/proc/self/fd/1")
    words = ("build", "-q", f"--iidfile={device}", f"--metadata-file={stdout}")
    app = context("FROM busybox\nRUN true\n")
    for _ in range(2):  # the second one is recalled
        assert "containerimage.config.digest" in busybox(*words, app).stdout
    busybox("build", f"--report={device}", f"--output=type=tar,dest={device}", app)
    busybox("builds", "report", "-o", device)
    busybox("save", "-o", device, "busybox")
    assert device.is_char_device()
    assert stdout.is_symlink()
