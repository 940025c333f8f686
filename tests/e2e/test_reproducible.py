"""The same inputs give the same image, wherever and whenever they are built."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Pybuild

pytestmark = pytest.mark.sandbox

DOCKERFILE = """FROM busybox
WORKDIR /made/here
COPY app.py lib/ ./
COPY --link app.py /linked
COPY <<here /note
text
here
RUN mkdir /new && echo new > /new/file && cp -p app.py /copied && touch /new
RUN --mount=type=bind,target=/src cp -p /src/app.py /from-mount
"""
LONG_AGO = 200_000_000
FILES = {"app.py": "print(1)\n", "lib/one.txt": "1\n"}


def build_archive(pybuild: Pybuild, folder: Path, *options: str) -> bytes:
    target = folder.parent / "out.tar"
    pybuild("build", *options, "--no-cache", "-o", f"type=oci,dest={target}", folder)
    return target.read_bytes()


def test_checkouts_of_any_age_give_the_same_archive(
    busybox: Pybuild, context: Callable[..., Path]
) -> None:
    folder = context(DOCKERFILE, FILES)
    fresh = build_archive(busybox, folder)
    for path in (folder / "app.py", folder / "lib/one.txt", folder / "lib"):
        os.utime(path, (LONG_AGO, LONG_AGO))
    assert build_archive(busybox, folder) == fresh


def test_kept_times_are_those_of_the_files(busybox: Pybuild, context: Callable[..., Path]) -> None:
    folder = context("FROM scratch\nCOPY app.py /\n", FILES)
    os.utime(folder / "app.py", (1_700_000_000, 1_700_000_000))
    out = subprocess.run(
        busybox.command("build", "--timestamps=keep", "-q", "-o", "-", folder),
        env=busybox.variables(),
        capture_output=True,
        check=True,
    ).stdout
    with tarfile.open(fileobj=io.BytesIO(out)) as archive:
        assert archive.getmember("app.py").mtime == 1_700_000_000


def test_a_step_sees_which_file_is_newer(busybox: Pybuild, context: Callable[..., Path]) -> None:
    folder = context(
        "FROM busybox\nCOPY app.py /\nRUN touch /built\nRUN test ! /app.py -nt /built\n",
        FILES,
    )
    os.utime(folder / "app.py", (1_700_000_000, 1_700_000_000))
    busybox("build", folder)


def test_source_date_epoch_is_the_time_of_everything_new(
    busybox: Pybuild, context: Callable[..., Path]
) -> None:
    folder = context("FROM scratch\nCOPY app.py /x/y/\n", FILES)
    epoch = "--build-arg=SOURCE_DATE_EPOCH=1000000000"
    assert build_archive(busybox, folder, epoch) == build_archive(busybox, folder, epoch)
    assert build_archive(busybox, folder, epoch) != build_archive(busybox, folder)


def test_an_unknown_way_with_times_is_refused(
    busybox: Pybuild, context: Callable[..., Path]
) -> None:
    done = busybox("build", "--timestamps=maybe", context("FROM scratch\n"), status=2)
    assert 'unknown value "maybe" for --timestamps' in done.stderr


def test_a_build_that_differs_is_told_apart_by_file_byte_and_step(
    busybox: Pybuild, context: Callable[..., Path]
) -> None:
    folder = context(
        "FROM busybox\nRUN echo same > /same\n"
        "RUN printf 'ab' > /random && cat /proc/sys/kernel/random/uuid >> /random\n"
        "RUN cat /proc/sys/kernel/random/uuid > /other\n"
    )
    done = busybox("build", "--verify-reproducible", folder, status=1)
    lines = done.stderr.splitlines()
    assert lines[-1] == "ERROR: the build is not reproducible: 2 differences"
    (first,) = [number for number, line in enumerate(lines) if line.startswith("  /random (")]
    assert lines[first].startswith("  /random (content from byte 2 on, 39 → 39 bytes): RUN printf")
    assert lines[first + 1].startswith("  /other (content from byte 0 on")
    assert "  /same" not in done.stderr


def test_a_build_that_is_the_same_twice_passes(
    busybox: Pybuild, context: Callable[..., Path]
) -> None:
    busybox("build", "--verify-reproducible", "-t", "same", context(DOCKERFILE, FILES))
    assert busybox("inspect", "same").returncode == 0


def test_the_time_of_an_archive_can_be_the_epoch(
    busybox: Pybuild, context: Callable[..., Path]
) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, when in (("Dockerfile", 1_500_000_000), ("older", 1_400_000_000)):
            member = tarfile.TarInfo(name)
            text = b"FROM scratch\nCOPY . /\n"
            member.size, member.mtime = len(text), when
            archive.addfile(member, io.BytesIO(text))
    build = ("build", "--build-arg=SOURCE_DATE_EPOCH=context", "-t", "timed", "-")
    busybox(*build, stdin=out.getvalue())
    assert '"Created": "2017-07-14T02:40:00Z"' in busybox("inspect", "timed").stdout


@pytest.mark.parametrize(
    ("step", "where"),
    [
        ("RUN --mount=type=secret,id=token cat /run/secrets/token > /leak", "in /leak"),
        ("RUN --mount=type=secret,id=token cp /run/secrets/token /a && rm /a && true", ""),
        (
            "RUN --mount=type=secret,id=token,env=T echo -n me:$T | base64 > /auth",
            'secret "token", as base64, is in /auth',
        ),
        ("ENV TOKEN=hunter2-hunter2", "config of the image (Env), by line 2"),
        ("RUN echo hunter2-hunter2 > /dev/null", "history of the image, by line 2"),
    ],
)
def test_values_of_secrets_are_refused_in_images(
    busybox: Pybuild, context: Callable[..., Path], tmp_path: Path, step: str, where: str
) -> None:
    (tmp_path / "token").write_text("hunter2-hunter2\n")
    folder = context(f"FROM busybox\n{step}\n")
    words = ("build", "--secret", f"id=token,src={tmp_path}/token", folder)
    done = busybox(*words, status=1 if where else 0)
    assert where in done.stderr
    assert busybox(*words, "--scan-secrets=false").returncode == 0


def test_the_store_check_knows_of_settled_times(
    busybox: Pybuild, context: Callable[..., Path]
) -> None:
    busybox("build", context("FROM busybox\nRUN echo new > /file\n"))
    assert "problem" not in busybox("system", "check").stdout
