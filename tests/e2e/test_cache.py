"""What is built again and what is not, as a user sees it."""

from __future__ import annotations

import os
import re
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Pybuild
from tests.registries import real_registry

pytestmark = [pytest.mark.sandbox, pytest.mark.root]

DOCKERFILE = """\
FROM busybox AS tools
RUN echo tool > /tool
FROM busybox
COPY src /src
COPY --from=tools /tool /tool
RUN cat /src/a /tool > /all
"""
FILES = {"src/a": "a\n", "README": "read me\n"}


def build(pybuild: Pybuild, context: Path, *options: str) -> dict[str, bool]:
    """Build; each step's text and whether it was cached."""
    done = pybuild("build", "--progress=plain", "-t", "app", *options, context)
    return steps_of(done.stderr)


def steps_of(log: str) -> dict[str, bool]:
    names = dict(re.findall(r"^#(\d+) (\[.*\d+/\d+\] .*)$", log, re.MULTILINE))
    cached = set(re.findall(r"^#(\d+) CACHED", log, re.MULTILINE))
    return {name.partition("] ")[2]: number in cached for number, name in names.items()}


def ran(steps: dict[str, bool]) -> set[str]:
    return {name for name, cached in steps.items() if not cached and not name.startswith("FROM")}


COPY, FROM_TOOLS, CAT = (
    "COPY src /src",
    "COPY --from=tools /tool /tool",
    "RUN cat /src/a /tool > /all",
)
TOOL = "RUN echo tool > /tool"


@pytest.fixture
def app(context: Callable[..., Path]) -> Path:
    return context(DOCKERFILE, FILES)


def test_an_unchanged_build_runs_nothing(busybox: Pybuild, app: Path) -> None:
    assert ran(build(busybox, app)) == {COPY, FROM_TOOLS, CAT, TOOL}
    assert ran(build(busybox, app)) == set()


def test_times_and_unselected_files_change_nothing(busybox: Pybuild, app: Path) -> None:
    build(busybox, app)
    os.utime(app / "src" / "a", (1, 1))
    (app / "README").write_text("changed")
    assert ran(build(busybox, app)) == set()


def test_a_changed_file_misses_from_its_copy_on(busybox: Pybuild, app: Path) -> None:
    build(busybox, app)
    (app / "src" / "a").write_text("changed")
    assert ran(build(busybox, app)) == {COPY, FROM_TOOLS, CAT}


def test_a_changed_mode_misses_unless_modes_are_normalized(busybox: Pybuild, app: Path) -> None:
    (app / "src" / "a").chmod(0o644)
    build(busybox, app)
    (app / "src" / "a").chmod(0o664)
    assert COPY in ran(build(busybox, app))
    (app / "src" / "a").chmod(0o640)
    build(busybox, app, "--normalize-modes")
    (app / "src" / "a").chmod(0o604)
    assert ran(build(busybox, app, "--normalize-modes")) == set()


def test_normalized_modes_may_be_the_default_of_a_configuration(
    busybox: Pybuild, app: Path, tmp_path: Path
) -> None:
    config = tmp_path / "pybuild.toml"
    busybox.environment["PYBUILD_CONFIG"] = str(config)
    (app / "src" / "a").chmod(0o640)
    assert COPY in ran(build(busybox, app))
    config.write_text("[build]\nnormalize-modes = true\n")  # a recorded build is no answer now
    assert COPY in ran(build(busybox, app))
    (app / "src" / "a").chmod(0o604)
    assert ran(build(busybox, app)) == set()
    assert COPY in ran(build(busybox, app, "--normalize-modes=false"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[build]\nnormalise = true\n", "pybuild.toml: unknown key build.normalise"),
        ("[build]\nnormalize-modes = 1\n", "normalize-modes is neither true nor false"),
        ("build = 1\n", "pybuild.toml: build is not a table"),
        ("[build\n", "pybuild.toml: "),
    ],
)
def test_a_malformed_configuration_is_one_clear_error(
    busybox: Pybuild, app: Path, tmp_path: Path, text: str, said: str
) -> None:
    config = tmp_path / "pybuild.toml"
    config.write_text(text)
    done = busybox("build", app, status=2, environment={"PYBUILD_CONFIG": str(config)})
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_time_to_live_of_nothing_is_no_cache(busybox: Pybuild, app: Path) -> None:
    build(busybox, app)
    assert ran(build(busybox, app, "--cache-ttl=1h")) == set()
    assert ran(build(busybox, app, "--cache-ttl=0")) == {COPY, FROM_TOOLS, CAT, TOOL}


def test_a_negative_number_of_jobs_is_refused(busybox: Pybuild, app: Path) -> None:
    assert "invalid number of jobs -1" in busybox("build", "--jobs=-1", app, status=2).stderr


def test_a_stage_that_gives_the_same_file_again_is_a_hit_above(
    busybox: Pybuild, app: Path
) -> None:
    build(busybox, app)
    changed = DOCKERFILE.replace("echo tool >", "echo  tool  >")
    (app / "Dockerfile").write_text(changed)
    assert ran(build(busybox, app)) == {"RUN echo  tool  > /tool"}


def test_no_cache_runs_everything_and_a_filter_one_stage(busybox: Pybuild, app: Path) -> None:
    build(busybox, app)
    assert ran(build(busybox, app, "--no-cache")) == {COPY, FROM_TOOLS, CAT, TOOL}
    assert ran(build(busybox, app, "--no-cache-filter=tools")) == {TOOL}


def test_explain_names_the_changed_file(busybox: Pybuild, app: Path) -> None:
    build(busybox, app)
    (app / "src" / "a").write_text("changed")
    done = busybox("build", "--explain", "-t", "app", app)
    assert "COPY src /src: 1 file changed (src/a)" in done.stderr + done.stdout


def test_explain_names_a_changed_mode_owner_or_kind(busybox: Pybuild, app: Path) -> None:
    (app / "src" / "a").chmod(0o644)
    build(busybox, app)
    (app / "src" / "a").chmod(0o755)
    said = busybox("build", "--explain", app).stderr
    assert "COPY src /src: 1 file changed (src/a mode 644 → 755)" in said
    (app / "src" / "a").unlink()
    (app / "src" / "a").symlink_to("/bin/busybox")
    said = busybox("build", "--explain", app).stderr
    assert "COPY src /src: 1 file changed (src/a file → link)" in said


def test_a_dry_run_says_of_each_step_what_would_be(busybox: Pybuild, app: Path) -> None:
    (app / "Dockerfile").write_text(DOCKERFILE + "ENV A=1\nCMD true\n")
    fresh = busybox("build", "--dry-run", "--progress=none", app).stderr
    assert fresh.splitlines() == [
        f"would run: {step}: first build of this step" for step in (TOOL, COPY, FROM_TOOLS, CAT)
    ]
    assert busybox("builds", "ls").stdout.count("\n") == 2
    busybox("build", app)
    cached = busybox("build", "--dry-run", "--progress=none", app).stderr
    assert cached.splitlines() == [f"cached: {step}" for step in (TOOL, COPY, FROM_TOOLS, CAT)]


def test_explain_names_a_base_image_that_moved(
    busybox: Pybuild, context: Callable[..., Path], tiny_tar: bytes
) -> None:
    app = context("FROM busybox\nCOPY src /src\n", FILES)
    busybox("build", "-t", "app", app)
    busybox("import", "-c", "ENV NEW=1", "-", "busybox:latest", stdin=tiny_tar)
    moved = r"FROM busybox: digest moved [0-9a-f]{12}… → [0-9a-f]{12}…\n"
    for option in ("--dry-run", "--explain"):
        shown = busybox("build", option, "--progress=none", "-t", "app", app).stderr
        assert re.search(moved, shown), shown
        assert "COPY src /src: follows FROM busybox" in shown


@pytest.mark.parametrize("mode", ["min", "max"])
def test_a_cache_in_a_directory_serves_another_machine(
    busybox: Pybuild, app: Path, tmp_path: Path, mode: str
) -> None:
    cache = tmp_path / "cache"
    build(busybox, app, f"--cache-to=type=local,dest={cache},mode={mode}")
    other = Pybuild(root=tmp_path / "other", directory=tmp_path)
    base = busybox("save", "busybox")
    assert base.returncode == 0
    copy_base(busybox, other, tmp_path)
    assert ran(build(other, app, f"--cache-from=type=local,src={cache}")) == set()
    content = tmp_path / "content"
    build(other, app, "-o", f"type=local,dest={content}")
    assert (content / "all").read_text() == "a\ntool\n"
    (app / "src" / "a").write_text("changed\n")
    third = Pybuild(root=tmp_path / "third", directory=tmp_path)
    copy_base(busybox, third, tmp_path)
    steps = ran(build(third, app, f"--cache-from=type=local,src={cache}"))
    assert (TOOL in steps) == (mode == "min")


def copy_base(source: Pybuild, target: Pybuild, folder: Path) -> None:
    archive = folder / "busybox.tar"
    source("save", "-o", archive, "busybox")
    target("load", "-i", archive)


@pytest.mark.requires("docker-registry")
@pytest.mark.parametrize(
    "form",
    [
        "--cache-to=type=registry,ref={},mode=max",
        "--cache-to=type=inline",
        "--build-arg=BUILDKIT_INLINE_CACHE=1",
    ],
)
def test_a_cache_in_a_registry_serves_another_machine(
    busybox: Pybuild, app: Path, tmp_path: Path, form: str
) -> None:
    with real_registry(tmp_path) as registry:
        image, cache = f"{registry.host}/app", f"{registry.host}/cache:main"
        busybox("build", "-t", image, "--push", form.format(cache), app, timeout=120)
        other = Pybuild(root=tmp_path / "other", directory=tmp_path)
        copy_base(busybox, other, tmp_path)
        source = cache if "registry" in form else image
        assert ran(build(other, app, f"--cache-from={source}")) == set()
        content = tmp_path / "content"
        build(other, app, "-o", f"type=local,dest={content}")
        assert (content / "all").read_text() == "a\ntool\n"


def test_a_cache_that_cannot_be_read_is_a_warning(busybox: Pybuild, app: Path) -> None:
    done = busybox("build", "--cache-from=type=local,src=nowhere", "-t", "app", app)
    assert "cannot import the cache local:nowhere" in done.stderr


@pytest.mark.parametrize("damage", ["gone", "garbage"])
def test_cached_layers_that_are_lost_are_made_again(
    busybox: Pybuild, app: Path, tmp_path: Path, damage: str
) -> None:
    cache = tmp_path / "cache"
    build(busybox, app, f"--cache-to=type=local,dest={cache},mode=max")
    other = Pybuild(root=tmp_path / "other", directory=tmp_path)
    copy_base(busybox, other, tmp_path)
    option = f"--cache-from=type=local,src={cache}"
    for path in (cache / "blobs" / "sha256").iterdir():
        if path.read_bytes()[:2] == b"\x1f\x8b":
            path.write_bytes(b"garbage") if damage == "garbage" else path.unlink()
    changed = DOCKERFILE.replace("cat /src/a /tool", "cat /tool /src/a")
    (app / "Dockerfile").write_text(changed)
    content = tmp_path / "content"
    done = other("build", "--progress=plain", option, "-o", f"type=local,dest={content}", app)
    assert "cannot be had from where it was" in done.stderr
    assert (content / "all").read_text() == "tool\na\n"
    assert "Store is sound" in other("system", "check").stdout
    assert ran(build(other, app)) == set()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("type=loca,dest=x", "unknown cache type 'loca'"),
        ("type=registry,ref=x@sha256:a", "invalid reference format"),
        ("type=local,dest=x,compression-level=99", "compression level of gzip must be in 0-9"),
        ("type=inline,ref=x", "known: ignore-error, mode"),
        ("type=s3,bucket=x", "a cache of type=s3 needs region="),
        ("type=gha", "a cache of type=gha needs url_v2= or url="),
    ],
)
def test_a_malformed_cache_option_ends_the_build_before_it_begins(
    busybox: Pybuild, app: Path, text: str, said: str
) -> None:
    done = busybox("build", "--progress=plain", f"--cache-to={text}", app, status=2)
    assert said in done.stderr
    assert "#1" not in done.stderr


def test_a_directory_that_cannot_be_written_is_named(busybox: Pybuild, app: Path) -> None:
    (app.parent / "file").touch()
    option = f"--cache-to=type=local,dest={app.parent}/file/cache"
    done = busybox("build", "--progress=plain", option, app, status=1)
    said = f"cannot export the cache local:{app.parent}/file/cache: "
    assert f"ERROR: {said}" in done.stderr.splitlines()[-1]
    assert re.search(rf"^#\d+ ERROR: {said}.*not a directory", done.stderr, re.MULTILINE)
    assert said in busybox("build", f"{option},ignore-error=true", app).stderr


def test_builds_at_the_same_time_run_each_step_once(busybox: Pybuild, app: Path) -> None:
    builds = [
        subprocess.Popen(
            busybox.command("build", "--progress=plain", "-t", f"app{number}", app),
            env=busybox.variables(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(6)
    ]
    logs = [build.communicate(timeout=120)[1] for build in builds]
    assert [build.returncode for build in builds] == [0] * 6, logs
    everything = [name for log in logs for name in ran(steps_of(log))]
    assert sorted(everything) == sorted({COPY, FROM_TOOLS, CAT, TOOL})


OVERLAPPING = """\
FROM busybox AS shared
RUN sleep 0.3; echo one > /one
RUN echo two > /two
FROM shared AS tail
ARG V
RUN sleep 0.2; echo $V > /v
FROM busybox
COPY --from=tail /v /one /
COPY --from=shared /two /
"""


def test_eight_overlapping_builds_from_a_cold_root_run_each_distinct_step_once(
    busybox: Pybuild, context: Callable[..., Path]
) -> None:
    app = context(OVERLAPPING)
    variants = ["1", "2", "3", "4"] * 2
    builds = [
        subprocess.Popen(
            busybox.command("build", "--progress=plain", f"--build-arg=V={variant}", app),
            env=busybox.variables(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for variant in variants
    ]
    logs = [build.communicate(timeout=120)[1] for build in builds]
    assert [build.returncode for build in builds] == [0] * 8, logs
    steps = Counter(
        (variant if own else "shared", name)
        for variant, log in zip(variants, logs, strict=True)
        for name in ran(steps_of(log))
        for own in ["$V" in name or "/v" in name or "/two /" in name]
    )
    assert set(steps.values()) == {1}, steps
    assert len(steps) == 2 + 4 * 3


MOUNTING = """\
FROM busybox
ARG N
RUN --mount=type=cache,id=things,target=/things echo $N >> /things/log && cat /things/log > /seen
"""


@pytest.mark.requires("docker-registry")
@pytest.mark.parametrize("kind", ["local", "registry"])
def test_cache_mounts_travel_with_a_cache(
    busybox: Pybuild, context: Callable[..., Path], tmp_path: Path, kind: str
) -> None:
    app = context(MOUNTING)
    with real_registry(tmp_path) as registry:
        where = {
            "local": (f"dest={tmp_path}/cache", f"src={tmp_path}/cache"),
            "registry": (f"ref={registry.host}/cache", f"ref={registry.host}/cache"),
        }[kind]
        build(busybox, app, "--build-arg=N=1", f"--cache-to=type={kind},{where[0]},mounts=true")
        other = Pybuild(root=tmp_path / "other", directory=tmp_path)
        copy_base(busybox, other, tmp_path)
        content = tmp_path / "content"
        build(
            other,
            app,
            "--build-arg=N=2",
            f"--cache-from=type={kind},{where[1]},mounts=true",
            f"--output=type=local,dest={content}",
        )
        assert (content / "seen").read_text() == "1\n2\n"
