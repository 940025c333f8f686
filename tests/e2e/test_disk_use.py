"""What a state root holds, what may go, and what stays."""

from __future__ import annotations

import json
import re
import sqlite3
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Pybuild

pytestmark = [pytest.mark.sandbox, pytest.mark.root]

DOCKERFILE = """\
FROM busybox AS tools
RUN --mount=type=cache,id=things,target=/things echo x | tee /things/x > /tool
FROM busybox
COPY --from=tools /tool /tool
"""


@pytest.fixture
def built(busybox: Pybuild, context: Callable[..., Path]) -> Pybuild:
    busybox("build", "-t", "app", context(DOCKERFILE))
    return busybox


def records(pybuild: Pybuild, *filters: str) -> list[dict[str, object]]:
    options = [f"--filter={text}" for text in filters]
    lines = pybuild("du", "--format=json", *options).stdout.splitlines()
    return [json.loads(line) for line in lines]


def test_du_lists_layers_and_cache_mounts(built: Pybuild) -> None:
    shown = built("du").stdout
    header = shown.splitlines()[0]
    assert re.split(r" {2,}", header.strip())[:4] == ["ID", "RECLAIMABLE", "SIZE", "LAST ACCESSED"]
    assert "Reclaimable:" in shown
    kinds = {record["Type"] for record in records(built)}
    assert kinds >= {"regular", "exec.cachemount"}
    (mount,) = records(built, "type=exec.cachemount")
    assert mount["Mutable"]
    assert not mount["InUse"]
    assert all(record["InUse"] for record in records(built, "shared"))


def test_prune_takes_what_was_chosen_and_never_an_image(built: Pybuild) -> None:
    built("prune", "-f", "--filter=type=exec.cachemount")
    assert records(built, "type=exec.cachemount") == []
    assert records(built, "private")
    assert "Total reclaimed space: 0B" in built("prune", "-f", "--keep-duration=1h").stdout
    assert records(built, "private")
    built("prune", "-f")
    assert records(built, "private") == []
    assert "x" in built("run", "--rm", "app", "cat", "/tool").stdout
    assert "Store is sound" in built("system", "check").stdout


def test_a_filter_of_records_leaves_images_and_one_of_images_leaves_records(
    built: Pybuild, context: Callable[..., Path]
) -> None:
    built("build", context("FROM busybox\nLABEL a=b\nRUN echo > /nameless\n"))
    images = built("images", "-a", "-q").stdout
    built("prune", "-f", "-a", "--filter=type=exec.cachemount")
    assert built("images", "-a", "-q").stdout == images
    cached = {record["ID"] for record in records(built, "private")}
    assert cached
    assert "Deleted: " in built("prune", "-f", "--filter=label=a=b").stdout
    assert built("images", "-a", "-q").stdout != images
    assert cached <= {record["ID"] for record in records(built, "private")}


def test_a_build_collects_garbage_and_leaves_what_is_below_the_caps(
    built: Pybuild, context: Callable[..., Path]
) -> None:
    before = {record["ID"] for record in records(built)}
    stray = built.root / "snapshots" / "stray"
    stray.mkdir()
    with sqlite3.connect(built.root / "state.db") as db:
        for table in ("snapshots", "cache_mounts"):
            db.execute(f"UPDATE {table} SET last_used = 1, created = 1")
    other = context("FROM busybox\nRUN echo other > /other\n")
    built("build", "-t", "other", other)
    assert stray.exists()  # the last collection was a moment ago
    with sqlite3.connect(built.root / "state.db") as db:
        db.execute("UPDATE meta SET value = '1' WHERE key = 'collected'")
    built("build", "--no-cache", "-t", "other", other, environment={"PYBUILD_GC": "0"})
    assert stray.exists()
    built("build", "--no-cache", "-t", "other", other)
    assert not stray.exists()
    assert {record["ID"] for record in records(built)} >= before


def test_pruning_takes_nothing_that_a_running_build_works_with(
    busybox: Pybuild, context: Callable[..., Path]
) -> None:
    app = context(
        "FROM busybox AS tools\n"
        "RUN echo tool > /tool && sleep 4\n"
        "RUN --mount=type=cache,target=/c cat /tool | tee /c/x > /more\n"
        "FROM busybox\n"
        "COPY --from=tools /more /more\n"
        "RUN cat /more > /all\n"
    )
    words = busybox.command("build", "--progress=plain", "-t", "app", app)
    with subprocess.Popen(
        words, env=busybox.variables(), stderr=subprocess.PIPE, text=True
    ) as building:
        assert building.stderr is not None
        said = ""
        while "RUN echo tool" not in said:  # that step sleeps for a while
            line = building.stderr.readline()
            assert line, said
            said += line
        removed = busybox("prune", "-a", "-f").stdout
        rest = building.stderr.read()
    assert "Untagged: busybox:latest" in removed
    assert building.returncode == 0, said + rest
    assert busybox("run", "--rm", "app", "cat", "/all").stdout == "tool\n"
    assert "Store is sound" in busybox("system", "check").stdout


def test_disk_use_has_the_forms_that_docker_has(
    built: Pybuild, context: Callable[..., Path]
) -> None:
    built("build", context("FROM busybox\nRUN head -c 5000 /dev/zero > /nameless\n"))
    rows = [
        json.loads(line) for line in built("system", "df", "--format=json").stdout.split("\n")[:3]
    ]
    assert [row["Type"] for row in rows] == ["Images", "Build Cache", "Cache Mounts"]
    assert rows[0]["TotalCount"] == "3"
    assert rows[0]["Reclaimable"].startswith("5kB (")  # what the nameless image shares stays
    table = built("du", "--format=table {{.ID}}\t{{.Size}}").stdout.splitlines()
    assert table[0].split() == ["ID", "SIZE"]
    assert len(table) == 1 + len(records(built))
    plain, named = (
        built("du").stdout.splitlines(),
        built("du", "--format=table").stdout.splitlines(),
    )
    assert [line.split()[0] for line in plain] == [line.split()[0] for line in named]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("du", "--filter=inuse=perhaps"), 'invalid filter "inuse=perhaps"'),
        (("du", "--format={{.Nothing}}"), 'there is no field "Nothing"'),
        (("du", "something"), 'does not take the argument "something"'),
        (("system", "df", "--nothing"), "unknown flag: --nothing"),
    ],
)
def test_a_wrong_question_about_disk_use_is_one_clear_error(
    built: Pybuild, words: tuple[str, ...], said: str
) -> None:
    done = built(*words, status=2)
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("verb", ["check", "df", "prune"])
def test_verbs_of_system_explain_themselves(pybuild: Pybuild, verb: str) -> None:
    done = pybuild("system", verb, "--help")
    assert done.stdout.lstrip().startswith("Usage:")
    assert "--" in done.stdout
