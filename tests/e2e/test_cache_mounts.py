"""Contents of cache mounts on another machine: `mounts=true`."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import Pybuild
from tests.e2e.test_cache import copy_base
from tests.registries import RealRegistry, real_registry

pytestmark = [pytest.mark.sandbox, pytest.mark.root, pytest.mark.requires("docker-registry")]

Context = Callable[..., Path]
FILL = """\
FROM busybox
ARG N
RUN --mount=type=cache,id=one,target=/c,uid=1000,gid=1001,mode=0750 \\
    --mount=type=cache,id=two,target=/d \\
    if [ $N = 1 ]; then echo 1 > /c/f; ln /c/f /c/h; ln -s f /c/s; mkfifo /c/p; \\
    mkdir -m 1777 /c/t; chown 5:6 /c/f; chmod 4711 /c/f; chmod 0700 /c; echo 2 > /d/f; true; \\
    else stat -c '%n %a %u:%g %h %F' /c /c/* > /seen; cat /c/f /d/* >> /seen || true; fi
"""
SEEN = """\
/c 700 1000:1001 3 directory
/c/f 4711 5:6 2 regular file
/c/h 4711 5:6 2 regular file
/c/p 644 0:0 1 fifo
/c/s 777 0:0 1 symbolic link
/c/t 1777 0:0 2 directory
1
2
"""


SLOW = """\
FROM busybox
RUN --mount=type=cache,id=two,target=/d echo up; until [ -e /d/end ]; do sleep 0.1; done
"""
COUNT = """\
FROM busybox
ARG N
RUN --mount=type=cache,target=/c echo $N >> /c/l; cat /c/l > /seen
"""


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[RealRegistry]:
    with real_registry(tmp_path) as found:
        yield found


@pytest.fixture
def machine(busybox: Pybuild, tmp_path: Path) -> Callable[[str], Pybuild]:
    def make(name: str) -> Pybuild:
        found = Pybuild(root=tmp_path / name, directory=tmp_path)
        copy_base(busybox, found, tmp_path)
        return found

    return make


def cache(place: object, kind: str = "registry") -> str:
    if isinstance(place, RealRegistry):
        return f"type=registry,ref={place.host}/cache,mounts=true"
    return f"type=local,{kind}={place},mounts=true"


def seen(machine: Pybuild, app: Path, *options: str) -> str:
    """What the second step finds in its mounts."""
    out = app.parent / "out"
    machine("build", "--build-arg=N=2", f"--output=type=local,dest={out}", *options, app)
    return (out / "seen").read_text()


def mounts_of(machine: Pybuild) -> int:
    return machine("du", "--verbose").stdout.count("exec.cachemount")


def test_owners_modes_and_links_travel_over_a_registry(
    busybox: Pybuild, machine: Callable[[str], Pybuild], context: Context, registry: RealRegistry
) -> None:
    app = context(FILL)
    busybox("build", "--build-arg=N=1", f"--cache-to={cache(registry)}", app)
    assert seen(machine("other"), app, f"--cache-from={cache(registry)}") == SEEN


def test_mounts_that_no_step_needs_are_not_fetched_but_handed_on(
    busybox: Pybuild, machine: Callable[[str], Pybuild], context: Context, registry: RealRegistry
) -> None:
    app = context(FILL)
    both = f"--cache-from={cache(registry)}", f"--cache-to={cache(registry)},mode=max"
    busybox("build", "--build-arg=N=1", both[1], app)
    second, third = machine("second"), machine("third")
    second("build", "--build-arg=N=1", *both, app)
    assert mounts_of(second) == 0
    assert seen(third, app, both[0]) == SEEN


def test_mounts_go_from_a_registry_to_a_directory(
    busybox: Pybuild,
    machine: Callable[[str], Pybuild],
    context: Context,
    registry: RealRegistry,
    tmp_path: Path,
) -> None:
    app = context(FILL)
    busybox("build", "--build-arg=N=1", f"--cache-to={cache(registry)}", app)
    second, third = machine("second"), machine("third")
    sent = f"--cache-to={cache(tmp_path / 'layout', 'dest')},mode=max"
    second("build", "--build-arg=N=1", f"--cache-from={cache(registry)}", sent, app)
    assert seen(third, app, f"--cache-from={cache(tmp_path / 'layout', 'src')}") == SEEN


APPENDS = """\
FROM busybox
ARG N
RUN --mount=type=cache,target=/c echo $N >> /c/l; cat /c/l > /seen
"""


def test_what_is_in_a_mount_already_stays(
    busybox: Pybuild, machine: Callable[[str], Pybuild], context: Context, tmp_path: Path
) -> None:
    app = context(APPENDS)
    other = machine("other")
    other("build", "--build-arg=N=own", app)
    busybox("build", "--build-arg=N=1", f"--cache-to={cache(tmp_path / 'layout', 'dest')}", app)
    assert seen(other, app, f"--cache-from={cache(tmp_path / 'layout', 'src')}") == "own\n2\n"


def test_a_step_without_cache_starts_with_an_empty_mount(
    busybox: Pybuild, machine: Callable[[str], Pybuild], context: Context, tmp_path: Path
) -> None:
    app = context(APPENDS)
    busybox("build", "--build-arg=N=1", f"--cache-to={cache(tmp_path / 'layout', 'dest')}", app)
    source = f"--cache-from={cache(tmp_path / 'layout', 'src')}"
    assert seen(machine("other"), app, source, "--no-cache") == "2\n"


def test_a_mount_that_cannot_be_packed_is_left_out_with_a_warning(
    busybox: Pybuild, machine: Callable[[str], Pybuild], context: Context, tmp_path: Path
) -> None:
    app = context(FILL.replace("true; \\", "touch /d/.wh.x; \\"))
    sent = f"--cache-to={cache(tmp_path / 'layout', 'dest')}"
    said = busybox("build", "--build-arg=N=1", sent, app).stderr
    assert "cache mount two was not exported: /.wh.x cannot be stored in a layer" in said
    other = machine("other")
    source = f"--cache-from={cache(tmp_path / 'layout', 'src')}"
    assert seen(other, app, source) == SEEN.removesuffix("2\n")


def test_a_mount_that_another_build_uses_is_left_out_with_a_warning(
    busybox: Pybuild, context: Context, tmp_path: Path
) -> None:
    app = context(FILL)
    busybox("build", "--build-arg=N=1", app)
    (app / "slow").write_text(SLOW)
    words = busybox.command("build", "--progress=plain", "-f", app / "slow", app)
    running = subprocess.Popen(
        words, env=busybox.variables(), stderr=subprocess.PIPE, text=True, cwd=tmp_path
    )
    assert running.stderr is not None
    try:
        for line in running.stderr:
            if line.rstrip().endswith(" up"):
                break
        sent = f"--cache-to={cache(tmp_path / 'layout', 'dest')}"
        said = busybox("build", "--build-arg=N=1", sent, app).stderr
    finally:
        end = context("FROM busybox\nRUN --mount=type=cache,id=two,target=/d touch /d/end\n")
        busybox("build", end)
        running.communicate(timeout=60)
    assert running.returncode == 0
    assert "cache mount two was not exported: another build is using it" in said


def test_lost_contents_are_a_warning_for_steps_and_for_exports(
    busybox: Pybuild, machine: Callable[[str], Pybuild], context: Context, tmp_path: Path
) -> None:
    app = context(FILL)
    layout = tmp_path / "layout"
    busybox("build", "--build-arg=N=1", f"--cache-to={cache(layout, 'dest')}", app)
    documents = [path.read_bytes() for path in layout.rglob("blobs/sha256/*")]
    (config,) = [text for text in documents if b'"pybuild.mounts"' in text]
    for mount in json.loads(config)["pybuild.mounts"]:
        (layout / "blobs" / mount["blob"]["digest"].replace(":", "/")).unlink()
    other = machine("other")
    options = f"--cache-from={cache(layout, 'src')}", f"--cache-to={cache(tmp_path / 'b', 'dest')}"
    said = other("build", "--build-arg=N=1", *options, app).stderr
    for name in ("one", "two"):
        assert f"cache mount {name} was not exported: " in said
    said = other("build", "--build-arg=N=2", options[0], app, status=None).stderr
    assert "cannot import the cache mount two: " in said
