"""Fixtures that every kind of test may use, and the rule that skips cannot hide.

A test that needs something of its host says so: `@pytest.mark.requires("overlay", "skopeo")`, or
by the markers `root` and `sandbox`. Where it is missing the test is skipped; with
PYBUILD_REQUIRE=all (in CI) it fails.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest

PROJECT = Path(__file__).resolve().parent.parent
_MIRROR = ("deb.debian.org", 80)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "requires(*names): what the test needs of its host")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    needed = [name for mark in item.iter_markers("requires") for name in mark.args]
    needed += ["root"] * bool(item.get_closest_marker("root"))
    needed += ["namespaces"] * bool(item.get_closest_marker("sandbox"))
    for name in needed:
        why = _missing(name)
        if why is None:
            continue
        if os.environ.get("PYBUILD_REQUIRE") == "all":
            pytest.fail(f"needs {name}: {why}", pytrace=False)
        pytest.skip(f"needs {name}: {why}")


@cache
def _missing(name: str) -> str | None:
    """Why this host does not have `name`; None if it has."""
    check = _CHECKS.get(name)
    if check is not None:
        return check()
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    return None if found else "no such program on this machine"


def _not_root() -> str | None:
    return None if os.geteuid() == 0 else "runs as another user than root"


def _no_namespaces() -> str | None:
    options = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    return _fails("unshare", *options, "--mount", "--pid", "--fork", "true")


def _no_user_namespaces() -> str | None:
    return _fails("unshare", "--user", "--map-root-user", "true")


def _no_overlay() -> str | None:
    """Try a mount on the file system that the tests use."""
    script = (
        'cd "$1" && mkdir m && mount -t tmpfs none m && mkdir m/l m/u m/w m/m && '
        "mount -t overlay overlay -o lowerdir=m/l,upperdir=m/u,workdir=m/w m/m"
    )
    options = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    place = Path(os.environ.get("TMPDIR", "/tmp")) / f"pybuild-overlay-{os.getpid()}"
    place.mkdir()
    try:
        return _fails("unshare", *options, "--mount", "sh", "-c", script, "sh", os.fspath(place))
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _no_private_binfmt() -> str | None:
    """Handlers of foreign programs that only a user namespace sees: Linux 6.7 and later."""
    script = "mount -t binfmt_misc none /proc/sys/fs/binfmt_misc"
    return _fails("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script)


def _no_debian_mirror() -> str | None:
    """Whether packages can be had: the mirror answers, or apt goes through a proxy."""
    if os.environ.get("http_proxy") or shutil.which("apt-get") is None:
        return None if shutil.which("apt-get") else "no apt-get on this machine"
    try:
        with socket.create_connection(_MIRROR, timeout=5):
            return None
    except OSError as error:
        return f"no answer from Debian's mirror: {error}"


def _fails(*command: str) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return None if done.returncode == 0 else done.stderr.strip() or f"{command[0]} failed"


def _no_loop_device() -> str | None:
    return _fails("losetup", "--find")


def _no_libfaketime() -> str | None:
    found = list(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
    return None if found else "libfaketime is not installed"


_CHECKS: dict[str, Callable[[], str | None]] = {
    "root": _not_root,
    "namespaces": _no_namespaces,
    "userns": _no_user_namespaces,
    "overlay": _no_overlay,
    "private-binfmt": _no_private_binfmt,
    "debian-mirror": _no_debian_mirror,
    "libfaketime": _no_libfaketime,
    "loop": _no_loop_device,
}


@dataclass(slots=True)
class Pybuild:
    """The command line, as a user runs it: another process, its own state root."""

    root: Path
    directory: Path
    environment: dict[str, str] = field(default_factory=dict)

    def __call__(
        self,
        *words: str | Path,
        stdin: bytes | None = None,
        cwd: Path | None = None,
        status: int | None = 0,
        environment: dict[str, str] | None = None,
        timeout: float = 280,
    ) -> subprocess.CompletedProcess[str]:
        """Run it; `status` is the exit status to insist on (None: any)."""
        done = subprocess.run(
            self.command(*words),
            input=stdin,
            cwd=cwd or self.directory,
            env=self.variables(environment),
            capture_output=True,
            check=False,
            timeout=timeout,
        )
        out = done.stdout.decode("utf-8", "surrogateescape")
        err = done.stderr.decode("utf-8", "surrogateescape")
        if status is not None and done.returncode != status:
            pytest.fail(
                f"pybuild {' '.join(map(str, words))}: status {done.returncode}, not {status}\n"
                f"--- stdout\n{out[-8000:]}\n--- stderr\n{err[-8000:]}"
            )
        return subprocess.CompletedProcess(done.args, done.returncode, out, err)

    def command(self, *words: str | Path) -> list[str]:
        """The words that start it."""
        return [sys.executable, "-m", "buildkit_py", *map(str, words)]

    def variables(self, more: dict[str, str] | None = None) -> dict[str, str]:
        """The environment that it runs in."""
        kept = {name: value for name, value in os.environ.items() if name not in _FOREIGN}
        own = {"PYBUILD_ROOT": os.fspath(self.root), "PYTHONPATH": os.fspath(PROJECT)}
        return kept | own | self.environment | (more or {})


_FOREIGN = frozenset(
    ("BUILDKIT_PROGRESS", "PYBUILD_PROGRESS", "PYBUILD_DEBUG", "SOURCE_DATE_EPOCH", "NO_COLOR")
)


@pytest.fixture
def state_root(tmp_path: Path) -> Path:
    """A state root of the test's own, on the file system of `--basetemp` (tmpfs)."""
    return tmp_path / "state"


@pytest.fixture
def pybuild(state_root: Path, tmp_path: Path) -> Pybuild:
    """The command line on an empty store."""
    return Pybuild(root=state_root, directory=tmp_path)


@pytest.fixture(scope="session")
def busybox_program() -> Path:
    """Debian's static busybox."""
    path = shutil.which("busybox", path="/bin:/usr/bin")
    if path is None:
        if os.environ.get("PYBUILD_REQUIRE") == "all":
            pytest.fail("needs busybox-static")
        pytest.skip("needs busybox-static")
    return Path(path)


@pytest.fixture(scope="session")
def tiny_tar(busybox_program: Path) -> bytes:
    """A root filesystem with a shell, as a tar: the `busybox` of the examples."""
    tar: bytes = example_images().busybox_tar(os.fspath(busybox_program))
    return tar


@pytest.fixture(scope="session")
def tiny_root(tiny_tar: bytes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as a directory; tests must not change it."""
    root = tmp_path_factory.mktemp("tiny-root")
    subprocess.run(["tar", "-x", "-C", root], input=tiny_tar, check=True)
    return root


@cache
def example_images() -> Any:
    """`examples/base_images.py`, which is a script and no part of the package."""
    import importlib.util

    path = PROJECT / "examples" / "base_images.py"
    spec = importlib.util.spec_from_file_location("example_base_images", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def busybox(pybuild: Pybuild, tiny_tar: bytes) -> Pybuild:
    """The command line on a store that has `busybox:latest`."""
    path = "ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    pybuild("import", "-c", path, "-c", 'CMD ["sh"]', "-", "busybox:latest", stdin=tiny_tar)
    return pybuild


@pytest.fixture
def context(tmp_path: Path) -> Callable[..., Path]:
    """Make a build context: `context("FROM scratch", {"a.txt": "hello"})`."""

    def make(dockerfile: str | None = None, files: dict[str, str] | None = None) -> Path:
        directory = tmp_path / "context"
        directory.mkdir(exist_ok=True)
        if dockerfile is not None:
            (directory / "Dockerfile").write_text(dockerfile, encoding="utf-8")
        for name, text in (files or {}).items():
            path = directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        return directory

    return make


@pytest.fixture(autouse=True)
def _no_user_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the user's own credentials or state."""
    home = tmp_path / "home"
    monkeypatch.setenv("XDG_DATA_HOME", os.fspath(home / "data"))
    monkeypatch.setenv("XDG_CONFIG_HOME", os.fspath(home / "config"))
    monkeypatch.setenv("DOCKER_CONFIG", os.fspath(home / "docker"))
    monkeypatch.setenv("DOCKER_HOST", "none")  # no test loads into this machine's daemon
