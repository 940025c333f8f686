"""An ordinary user, with a range of ids and with one: the examples, and a package of Debian."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path

import pytest

from tests.conftest import PROJECT, Pybuild, example_images
from tests.sandbox.test_rootless import SETUP, UID

pytestmark = [
    pytest.mark.root,
    pytest.mark.sandbox,
    pytest.mark.requires("setpriv", "newuidmap", "userns", "overlay"),
    pytest.mark.timeout(900),
]
EXAMPLES = PROJECT / "examples" / "Dockerfiles"
NAMED = EXAMPLES / "named-contexts"
SIMPLE = {
    "heredocs": (),
    "mounts": ("--secret=id=token,env=TOKEN",),
    "parents-exclude": (),
    "onbuild": (),
    "args-targets": (),
    "metadata": (),
    "link-ownership": (),
    "add-archive": (),
    "ignore-file": (),
    "parallel-stages": (),
    "export-files": (),
    "multi-platform": ("--platform=linux/amd64,linux/arm64",),
    "named-contexts/context": tuple(
        f"--build-context={name}={NAMED / name}" for name in ("assets", "settings")
    ),
}
OF_DEBIAN = {"golang", "go-multistage", "mywebdocker", "python-multistage"}
INSTALL = """\
FROM debian:bookworm
RUN apt-get update && apt-get install -y --no-install-recommends hello openssh-client
RUN hello && stat -c '%G %a' /usr/bin/ssh-agent && ls /etc/apt/apt.conf.d /var/lib/apt
"""


@dataclass(frozen=True)
class User:
    """A command line that another user runs, in a folder of his."""

    folder: Path
    ranged: bool

    def __call__(self, *words: str | Path, stdin: bytes | None = None) -> str:
        command = ["setpriv", "--reuid", UID, "--regid", UID, "--clear-groups", interpreter()]
        command += ["-m", "buildkit_py", *map(str, words)]
        if self.ranged:
            script = SETUP.format(uid=UID)
            command = ["unshare", "-m", "sh", "-c", script, "sh", str(self.folder), *command]
        environment = {
            "PATH": "/usr/bin:/usr/sbin:/bin",
            "HOME": os.fspath(self.folder),
            "PYBUILD_ROOT": os.fspath(self.folder / "state"),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONPATH": f"{PROJECT}:{sysconfig.get_path('purelib')}",
            "TOKEN": "s3cret",
            **{name: os.environ[name] for name in ("http_proxy",) if name in os.environ},
        }
        done = subprocess.run(
            command, env=environment, cwd=PROJECT, input=stdin, capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode() + done.stderr.decode()


@cache
def interpreter() -> str:
    """Ours, or the system's where ours lies out of that user's reach."""
    words = ["setpriv", "--reuid", UID, "--regid", UID, "--clear-groups", sys.executable, "-c"]
    again = "import subprocess, sys; subprocess.run([sys.executable, '-c', ''], check=True)"
    works = subprocess.run([*words, again], capture_output=True, check=False).returncode == 0
    return sys.executable if works else "/usr/bin/python3"


@pytest.fixture(params=["range", "one id"])
def user(request: pytest.FixtureRequest) -> Iterator[User]:
    place = "/dev/shm" if Path("/dev/shm").is_dir() else None
    folder = Path(tempfile.mkdtemp(prefix="pybuild-user-", dir=place))
    try:
        folder.chmod(0o777)
        yield User(folder=folder, ranged=request.param == "range")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def hand_over(pybuild: Pybuild, user: User, image: str) -> None:
    """Give a user the same image."""
    archive = user.folder / "image.tar"
    pybuild("save", "-o", archive, image)
    archive.chmod(0o644)
    user("load", "-i", archive)
    archive.unlink()


def test_every_example_is_built_by_users_too() -> None:
    folders = {path.name for path in EXAMPLES.iterdir() if path.is_dir()}
    assert folders == {name.partition("/")[0] for name in SIMPLE} | OF_DEBIAN


def test_examples_come_out_as_for_root(busybox: Pybuild, user: User) -> None:
    """The same bytes; where one id is mapped, but for the one that is about owners."""
    hand_over(busybox, user, "busybox")
    for name, options in SIMPLE.items():
        words = ("build", "-q", *options, EXAMPLES / name)
        expected = busybox(*words, environment={"TOKEN": "s3cret"}).stdout
        found = user(*words)
        if user.ranged or name != "link-ownership":
            assert found.startswith(expected), name


@pytest.mark.parametrize(
    ("dockerfile", "owned"),
    [
        ("FROM scratch\nCOPY file /\n", True),
        ("FROM scratch\nADD inner.tar /\n", True),
        ("FROM scratch\nCOPY --chown=7:7 file /\n", True),
        ("FROM scratch\nCOPY --chown=0:0 Dockerfile /\n", False),
    ],
)
def test_owners_that_cannot_be_kept_are_spoken_of_once(
    user: User, dockerfile: str, owned: bool
) -> None:
    context = BytesIO()
    with tarfile.open(fileobj=context, mode="w") as tar:
        for name, data, owner in (
            ("Dockerfile", dockerfile.encode(), 0),
            ("file", b"x", 7 * ("COPY file" in dockerfile)),
            ("inner.tar", archive_of("inside", 7), 0),
        ):
            tar.addfile(member(name, data, owner), BytesIO(data))
    log = user("build", "--progress=plain", "-", stdin=context.getvalue())
    expected = owned and not user.ranged
    assert log.count("this user has one id only") == expected


def archive_of(name: str, owner: int) -> bytes:
    out = BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        tar.addfile(member(name, b"x", owner), BytesIO(b"x"))
    return out.getvalue()


def member(name: str, data: bytes, owner: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.uid, info.gid = len(data), owner, owner
    return info


@pytest.fixture(scope="module")
def debian(tmp_path_factory: pytest.TempPathFactory) -> Pybuild:
    """A store with `debian:bookworm`, made by mmdebstrap as the demo does."""
    directory = tmp_path_factory.mktemp("debian")
    pybuild = Pybuild(root=directory / "state", directory=directory)
    script = [sys.executable, os.fspath(PROJECT / "examples/base_images.py")]
    words = ["--pybuild", f"{sys.executable} -m buildkit_py", "debian"]
    subprocess.run([*script, *words], env=pybuild.variables(), check=True, capture_output=True)
    assert example_images().IMAGES["debian"]
    return pybuild


@pytest.mark.requires("mmdebstrap", "debian-mirror")
def test_root_installs_a_package(debian: Pybuild) -> None:
    done = debian("build", "--progress=plain", "-", stdin=INSTALL.encode(), timeout=800)
    assert "Hello, world!" in done.stderr
    assert "_ssh 2755" in done.stderr


@pytest.mark.requires("mmdebstrap", "debian-mirror")
def test_a_user_installs_a_package(debian: Pybuild, user: User) -> None:
    """Where one id is mapped changes of owner do nothing, and apt is told to stay root."""
    hand_over(debian, user, "debian:bookworm")
    log = user("build", "--progress=plain", "-", stdin=INSTALL.encode())
    assert "Hello, world!" in log
    assert ("_ssh 2755" if user.ranged else "root 2755") in log
    assert ("this user has one id only" in log) is not user.ranged
    layer = log.partition("RUN hello")[2]
    assert ("zz-one-id" in layer) is not user.ranged  # there while a step runs, in no layer
    user("build", "-t", "installed", "-", stdin=INSTALL.encode())
    user("export", "-o", user.folder / "root.tar", "installed")
    names = subprocess.run(
        ["tar", "tf", user.folder / "root.tar"], capture_output=True, text=True, check=True
    ).stdout
    assert "usr/bin/hello" in names
    assert "zz-one-id" not in names
