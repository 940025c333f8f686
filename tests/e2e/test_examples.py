"""Every folder of examples/Dockerfiles builds, and does what its first comment says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import PROJECT, Pybuild, example_images

EXAMPLES = PROJECT / "examples" / "Dockerfiles"
pytestmark = pytest.mark.sandbox


def files_of(pybuild: Pybuild, name: str, tmp_path: Path, *options: str) -> Path:
    """Build an example into a directory."""
    out = tmp_path / "out"
    pybuild("build", *options, "-o", f"type=local,dest={out}", EXAMPLES / name)
    return out


def config_of(pybuild: Pybuild, name: str, *options: str) -> dict[str, object]:
    """Build an example into the store; its configuration."""
    pybuild("build", "-t", "example", *options, EXAMPLES / name)
    details = json.loads(pybuild("inspect", "example").stdout)
    config: dict[str, object] = details[0]["Config"]
    return config


def test_every_example_is_named_in_the_readme_and_tested_here() -> None:
    readme = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    tests = Path(__file__).read_text(encoding="utf-8")
    folders = sorted(path.name for path in EXAMPLES.iterdir() if path.is_dir())
    assert len(folders) >= 12
    assert [name for name in folders if f"[{name}]({name}/)" not in readme] == []
    assert [name for name in folders if f'"{name}' not in tests] == []


def test_heredocs(busybox: Pybuild, tmp_path: Path) -> None:
    out = files_of(busybox, "heredocs", tmp_path)
    assert (out / "srv/www/index.html").read_text() == "<h1>hello from a heredoc</h1>\n"
    conf = (out / "srv/www/app.conf").read_text()
    assert conf == "# Quoted: $GREETING stays as it is, and leading tabs go.\nlisten 8080\n"
    assert (out / "srv/www/builder.txt").read_text() == "built by root\n"
    assert (out / "usr/bin/serve").stat().st_mode & 0o777 == 0o755
    assert "total" in (out / "srv/lines.txt").read_text()


def test_mounts(busybox: Pybuild, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("s3cret")
    out = files_of(busybox, "mounts", tmp_path, "--secret", f"id=token,src={token}")
    assert (out / "installed.txt").read_text() == "attrs\nlark\nurllib3\n"
    assert (out / "tool-version.txt").read_text() == "tool 1.0\n"
    assert (out / "size.txt").read_text() == f"{4 << 20}\n"
    for gone in ("tmp/requirements.txt", "usr/bin/tool.txt", "var/cache", "work", "run/secrets"):
        assert not (out / gone).exists()
    text = b"".join(path.read_bytes() for path in out.glob("*.txt"))
    assert b"s3cret" not in text


def test_parents_exclude(busybox: Pybuild, tmp_path: Path) -> None:
    out = files_of(busybox, "parents-exclude", tmp_path)
    assert (out / "files.txt").read_text().splitlines() == [
        "/app/services/api/package.txt",
        "/app/services/web/package.txt",
        "/sources/api/lib/util.src",
        "/sources/api/main.src",
        "/sources/web/lib/util.src",
        "/sources/web/main.src",
        "/srv/services/api/lib/util.src",
        "/srv/services/api/main.src",
        "/srv/services/api/package.txt",
        "/srv/services/web/lib/util.src",
        "/srv/services/web/main.src",
        "/srv/services/web/package.txt",
    ]


def test_onbuild(busybox: Pybuild) -> None:
    config = config_of(busybox, "onbuild", "--build-arg", "APP_NAME=tester")
    assert config["Labels"] == {"org.example.kind": "onbuild-child"}
    assert not config.get("OnBuild")
    assert busybox("run", "--rm", "example").stdout == "I am tester\n"


def test_multi_platform(busybox: Pybuild, tmp_path: Path) -> None:
    out = files_of(busybox, "multi-platform", tmp_path, "--platform=linux/amd64,linux/arm64")
    for platform in ("amd64", "arm64"):
        text = (out / f"linux_{platform}" / "platform.txt").read_text()
        assert f"built for linux/{platform}\n" in text


def test_named_contexts(busybox: Pybuild, tmp_path: Path) -> None:
    folder = EXAMPLES / "named-contexts"
    contexts = [f"--build-context={name}={folder / name}" for name in ("assets", "settings")]
    out = files_of(busybox, "named-contexts/context", tmp_path, *contexts)
    assert (out / "srv/www/assets/style.css").exists()
    assert [path.name for path in (out / "etc/app").iterdir()] == ["app.conf"]
    assert (out / "count.txt").read_text() == "1\n"


def test_args_targets(busybox: Pybuild) -> None:
    release = config_of(busybox, "args-targets", "--build-arg", "VERSION=2.5.1")
    assert "LOG_LEVEL=warning" in release["Env"]  # type: ignore[operator]
    assert busybox("run", "--rm", "example").stdout == "version 2, in full 2.5.1\n"
    debug = config_of(busybox, "args-targets", "--target=debug")
    assert "LOG_LEVEL=debug" in debug["Env"]  # type: ignore[operator]


def test_metadata(busybox: Pybuild) -> None:
    config = config_of(busybox, "metadata")
    assert config["User"] == "www-data:www-data"
    assert config["WorkingDir"] == "/var/www"
    assert set(config["ExposedPorts"]) == {  # type: ignore[call-overload]
        "8080/tcp", "8443/tcp", "9000/udp", "9001/udp", "9002/udp",
    }  # fmt: skip
    assert config["Entrypoint"] == ["/bin/httpd", "-f"]
    assert config["Cmd"] == ["-p", "8080"]
    assert config["StopSignal"] == "SIGINT"
    assert config["Shell"] == ["/bin/sh", "-eu", "-c"]
    assert config["Healthcheck"]["Interval"] == 30_000_000_000  # type: ignore[index]


def test_link_ownership(busybox: Pybuild, tmp_path: Path) -> None:
    out = files_of(busybox, "link-ownership", tmp_path)
    assert (out / "owners.txt").read_text().splitlines() == [
        "app:app 644 /etc/app/app.conf",
        "www-data:www-data 640 /srv/private.conf",
        "app:app 644 /var/lib/app/seed.txt",
    ]


def test_add_archive(busybox: Pybuild, tmp_path: Path) -> None:
    out = files_of(busybox, "add-archive", tmp_path)
    assert (out / "srv/www/latest.html").readlink() == Path("index.html")
    assert (out / "srv/www/css/site.css").exists()
    assert not (out / "srv/www/site.bundle").exists()
    packed = (EXAMPLES / "add-archive/site.bundle").read_bytes()
    assert (out / "downloads/site.bundle").read_bytes() == packed


def test_ignore_file(busybox: Pybuild, tmp_path: Path) -> None:
    out = files_of(busybox, "ignore-file", tmp_path)
    assert (out / "files.txt").read_text() == "/app/logs/keep.log\n/app/src/main.txt\n"


def test_parallel_stages(busybox: Pybuild, tmp_path: Path) -> None:
    out = files_of(busybox, "parallel-stages", tmp_path)
    assert sorted(path.name for path in out.iterdir()) == ["one", "three", "two"]


def test_export_files(busybox: Pybuild, tmp_path: Path) -> None:
    out = files_of(busybox, "export-files", tmp_path, "--build-arg", "TITLE=Results")
    assert [path.name for path in out.iterdir()] == ["report.txt"]
    assert (out / "report.txt").read_text() == "Results\n======\n"


@pytest.fixture(scope="module")
def debian(tmp_path_factory: pytest.TempPathFactory) -> Pybuild:
    """A store with `debian:bookworm` and `golang`, made by the script that the demo uses."""
    directory = tmp_path_factory.mktemp("debian")
    pybuild = Pybuild(root=directory / "state", directory=directory)
    script = [sys.executable, str(PROJECT / "examples/base_images.py")]
    words = ["--pybuild", f"{sys.executable} -m buildkit_py", "debian", "golang"]
    done = subprocess.run(
        [*script, *words], env=pybuild.variables(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return pybuild


@pytest.mark.root
@pytest.mark.requires("mmdebstrap", "debian-mirror")
@pytest.mark.timeout(900)
def test_golang(debian: Pybuild) -> None:
    assert debian("run", "--rm", "golang", "go", "version").stdout.startswith("go version go1.")


@pytest.mark.root
@pytest.mark.requires("mmdebstrap", "debian-mirror")
@pytest.mark.timeout(900)
def test_mywebdocker_as_in_the_tutorial(debian: Pybuild) -> None:
    words = ("--progress=classic", "-t", "youngqqcn/mywebdocker", ".")
    folder = EXAMPLES / "mywebdocker"
    first = debian(*words, cwd=folder).stdout
    assert "Step 1/7 : FROM golang\n ---> " in first
    assert "Step 5/7 : RUN go build\n" in first
    assert "\n ---> Running in " in first
    assert "Successfully built " in first
    assert first.endswith("Successfully tagged youngqqcn/mywebdocker:latest\n")
    second = debian(*words, cwd=folder).stdout
    assert second.count(" ---> Using cache\n") == 6
    assert "Running in" not in second
    assert second.splitlines()[-2:] == first.splitlines()[-2:]
    history = debian("history", "youngqqcn/mywebdocker").stdout
    for instruction in ("CMD ", "EXPOSE ", "RUN ", "WORKDIR ", "COPY ", "MAINTAINER "):
        assert instruction in history
    assert "youngqqcn/mywebdocker" in debian("images").stdout


@pytest.mark.root
@pytest.mark.requires("mmdebstrap", "debian-mirror")
@pytest.mark.timeout(900)
def test_go_multistage(debian: Pybuild) -> None:
    debian("build", "-t", "greet", "--build-arg", "VERSION=1.2", EXAMPLES / "go-multistage")
    assert debian("run", "--rm", "greet", "there").stdout == "hello, there (greet 1.2)\n"


@pytest.mark.root
@pytest.mark.requires("mmdebstrap", "debian-mirror")
@pytest.mark.timeout(900)
def test_python_multistage(debian: Pybuild) -> None:
    debian("build", "-t", "wordcount", EXAMPLES / "python-multistage")
    text = b"to be or not to be"
    out = debian("run", "--rm", "-i", "wordcount", stdin=text).stdout
    assert out.splitlines()[:2] == ["   2 to", "   2 be"]


def test_the_script_knows_how_to_make_every_base_image() -> None:
    bases = set()
    for path in EXAMPLES.rglob("Dockerfile"):
        lines = path.read_text(encoding="utf-8").splitlines()
        bases |= {
            line.split()[-1 if " AS " not in line else -3]
            for line in lines
            if line.startswith("FROM ")
        }
    known = {
        reference.removesuffix(":latest") for reference, _ in example_images().IMAGES.values()
    }
    own = {"scratch", "runtime", "python", "base", "${BASE}"}
    assert bases - own <= known
