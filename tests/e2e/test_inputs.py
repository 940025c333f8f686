"""What a build reads: every kind of context, Dockerfile and named context, as a user gives it."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zstandard

from tests.conftest import Pybuild
from tests.registries import Answer, Asked, ScriptedServer

Context = Callable[..., Path]
COPY_ALL = "FROM scratch\nCOPY . /\n"


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder and the URL that shows it."""
    folder = tmp_path / "served"
    folder.mkdir()

    def answer(asked: Asked) -> Answer:
        file = folder / asked.path.partition("?")[0].lstrip("/")
        if not file.is_file():
            return Answer(status=404)
        return Answer(body=file.read_bytes())

    with ScriptedServer(answer) as server:
        yield folder, server.url


@pytest.fixture
def repository(served: tuple[Path, str]) -> str:
    """The URL of a repository with a tag and a Dockerfile in a folder."""
    folder, url = served
    work = folder.parent / "work"
    (work / "app").mkdir(parents=True)
    (work / "Dockerfile").write_text(COPY_ALL)
    (work / "app/Dockerfile").write_text("FROM scratch\nCOPY . /app/\n")
    (work / "app/f").write_text("1")
    git(work, "init", "-q", "-b", "main")
    git(work, "add", ".")
    git(work, "commit", "-qm", "one")
    git(work, "tag", "v1")
    (work / "later").write_text("2")
    git(work, "add", ".")
    git(work, "commit", "-qm", "two")
    git(folder.parent, "clone", "-q", "--bare", str(work), str(folder / "x.git"))
    git(folder / "x.git", "update-server-info")
    return f"{url}/x.git"


def git(folder: Path, *words: str) -> None:
    settings = ("user.name=n", "user.email=e@x", "protocol.file.allow=always")
    options = [word for setting in settings for word in ("-c", setting)]
    subprocess.run(["git", *options, *words], cwd=folder, check=True, capture_output=True)


def packed(folder: Path) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        tar.add(folder, arcname=".")
    return out.getvalue()


def built(pybuild: Pybuild, *words: str | Path, stdin: bytes | None = None) -> list[str]:
    """The files of the image that the words build."""
    out = pybuild.directory / "out.tar"
    pybuild("build", "-q", "-o", f"type=tar,dest={out}", *words, stdin=stdin)
    with tarfile.open(out) as tar:
        return sorted(member.name for member in tar if not member.isdir())


# ------------------------------------------------------------------ contexts
@pytest.mark.parametrize(
    "compress",
    [bytes, gzip.compress, bz2.compress, lzma.compress, zstandard.compress],
    ids=["tar", "gzip", "bzip2", "xz", "zstd"],
)
def test_a_context_from_standard_input_in_every_compression(
    pybuild: Pybuild, context: Context, compress: Callable[[bytes], bytes]
) -> None:
    folder = context(COPY_ALL, {"a/b": "1", "c": "2"})
    found = built(pybuild, "-", stdin=compress(packed(folder)))
    assert found == ["Dockerfile", "a/b", "c"]


@pytest.mark.root
def test_the_owners_in_an_archive_are_those_of_copies(pybuild: Pybuild, context: Context) -> None:
    folder = context("FROM scratch\nCOPY a /\nCOPY --chown=8 a /b\n", {"a": "1"})
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name in ("Dockerfile", "a"):
            entry = tar.gettarinfo(folder / name, arcname=name)
            entry.uid, entry.gid = 1234, 567
            tar.addfile(entry, io.BytesIO((folder / name).read_bytes()))
    assert built(pybuild, "-", stdin=out.getvalue()) == ["a", "b"]
    with tarfile.open(pybuild.directory / "out.tar") as image:
        found = {entry.name: (entry.uid, entry.gid) for entry in image}
    assert (found["a"], found["b"]) == ((1234, 567), (8, 8))


def test_a_dockerfile_inside_a_context_from_standard_input(
    pybuild: Pybuild, context: Context
) -> None:
    folder = context(None, {"deep/D": COPY_ALL})
    assert built(pybuild, "-f", "deep/D", "-", stdin=packed(folder)) == ["deep/D"]
    failed = pybuild("build", "-f", "../D", "-", stdin=packed(folder), status=1)
    assert "open ../D: no such file" in failed.stderr
    assert "in the build context" in failed.stderr


def test_a_dockerfile_from_standard_input_has_an_empty_context(pybuild: Pybuild) -> None:
    text = b"FROM scratch\nCOPY <<EOF /made\n1\nEOF\nCOPY . /all/\n"
    assert built(pybuild, "-", stdin=text) == ["made"]


def test_a_context_from_a_url(
    pybuild: Pybuild, context: Context, served: tuple[Path, str]
) -> None:
    folder, url = served
    (folder / "c.tgz").write_bytes(gzip.compress(packed(context(COPY_ALL, {"a": "1"}))))
    (folder / "D").write_text("FROM scratch\nCOPY <<EOF /made\nEOF\n")
    assert built(pybuild, f"{url}/c.tgz") == ["Dockerfile", "a"]
    assert built(pybuild, f"{url}/D") == ["made"]
    assert "404" in pybuild("build", f"{url}/none", status=1).stderr


def test_a_context_from_a_repository(pybuild: Pybuild, repository: str) -> None:
    assert built(pybuild, repository) == ["Dockerfile", "app/Dockerfile", "app/f", "later"]
    assert built(pybuild, f"{repository}#v1") == ["Dockerfile", "app/Dockerfile", "app/f"]
    assert built(pybuild, f"{repository}#v1:app") == ["app/Dockerfile", "app/f"]
    assert built(pybuild, f"{repository}#:app") == ["app/Dockerfile", "app/f"]
    assert built(pybuild, f"{repository}?tag=v1&subdir=app") == ["app/Dockerfile", "app/f"]
    found = built(pybuild, "-f", "app/Dockerfile", f"{repository}#v1")
    assert found == ["app/Dockerfile", "app/app/Dockerfile", "app/app/f"]


def test_a_repository_keeps_its_git_directory_when_asked(
    pybuild: Pybuild, repository: str
) -> None:
    found = built(pybuild, "--build-arg=BUILDKIT_CONTEXT_KEEP_GIT_DIR=1", f"{repository}#v1")
    assert ".git/HEAD" in found


# ------------------------------------------------------------------ Dockerfiles
def test_the_dockerfile_from_standard_input_or_a_pipe(pybuild: Pybuild, context: Context) -> None:
    folder = context(None, {"a": "1"})
    assert built(pybuild, "-f", "-", folder, stdin=COPY_ALL.encode()) == ["a"]
    command = subprocess.list2cmdline(pybuild.command("build", "-q", "-t", "x"))
    subprocess.run(
        ["bash", "-c", f'{command} -f <(printf "FROM scratch\\nCOPY a /\\n") {folder}'],
        env=pybuild.variables(),
        check=True,
        capture_output=True,
    )


def test_the_dockerfile_from_a_url(
    pybuild: Pybuild, context: Context, served: tuple[Path, str]
) -> None:
    folder, url = served
    (folder / "D").write_text(COPY_ALL)
    assert built(pybuild, "-f", f"{url}/D", context(None, {"a": "1"})) == ["a"]


def test_a_dockerfile_outside_of_the_context(
    pybuild: Pybuild, context: Context, tmp_path: Path
) -> None:
    (tmp_path / "D").write_text(COPY_ALL)
    (tmp_path / "D.dockerignore").write_text("b")
    folder = context(None, {"a": "1", "b": "2", ".dockerignore": "a"})
    assert built(pybuild, "-f", tmp_path / "D", folder) == [".dockerignore", "a"]


def test_a_lower_case_dockerfile(pybuild: Pybuild, context: Context) -> None:
    assert built(pybuild, context(None, {"dockerfile": COPY_ALL})) == ["dockerfile"]


def test_a_dockerfile_that_is_a_link(pybuild: Pybuild, context: Context, tmp_path: Path) -> None:
    folder = context(None, {"docker/D": COPY_ALL})
    (folder / "Dockerfile").symlink_to("docker/D")
    assert built(pybuild, folder) == ["Dockerfile", "docker/D"]
    (folder / "Dockerfile").unlink()
    (tmp_path / "D").write_text("FROM scratch\nCOPY docker /\n")
    (folder / "Dockerfile").symlink_to(tmp_path / "D")
    assert built(pybuild, folder) == ["D"]


def special(kind: bytes, target: str = "") -> tarfile.TarInfo:
    entry = tarfile.TarInfo()
    entry.type, entry.linkname = kind, target
    return entry


@pytest.mark.parametrize(
    ("name", "entry", "message"),
    [
        (
            "Dockerfile",
            special(tarfile.SYMTYPE, "/etc/passwd"),
            "the Dockerfile Dockerfile is out",
        ),
        ("Dockerfile", special(tarfile.FIFOTYPE), "failed to read dockerfile: open Dockerfile"),
    ],
)
@pytest.mark.timeout(60)
def test_a_foreign_context_makes_no_file_of_the_host_be_read(
    pybuild: Pybuild, name: str, entry: tarfile.TarInfo, message: str
) -> None:
    entry.name = name
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        tar.addfile(entry)
    failed = pybuild("build", "-", stdin=out.getvalue(), status=None, timeout=40)
    assert failed.returncode in {1, 2}
    assert message in failed.stderr


# ------------------------------------------------------------------ named contexts
NAMED = "FROM scratch\nCOPY --from=other / /\n"


def test_named_contexts_of_every_kind(
    pybuild: Pybuild,
    context: Context,
    tmp_path: Path,
    served: tuple[Path, str],
    repository: str,
) -> None:
    app = context(NAMED, {})
    other = tmp_path / "other"
    other.mkdir()
    for name, text in {"f": "1", "g": "2", ".dockerignore": "g"}.items():
        (other / name).write_text(text)
    (served[0] / "file.bin").write_text("3")
    layout = tmp_path / "layout"
    image = b"FROM scratch\nCOPY <<EOF /in\nEOF\n"
    pybuild(
        "build", "-q", "-o", f"type=oci,dest={layout},tar=false", "-t", "l:1", "-", stdin=image
    )
    pybuild("build", "-q", "-t", "local/base", "-", stdin=image)
    for value, files in {
        str(other): [".dockerignore", "f"],
        f"{repository}#v1:app": ["Dockerfile", "f"],
        f"{served[1]}/file.bin": ["file.bin"],
        f"oci-layout://{layout}": ["in"],
        f"oci-layout://{layout}:1": ["in"],
        "docker-image://local/base": ["in"],
        "docker-image://scratch": [],
    }.items():
        assert built(pybuild, f"--build-context=other={value}", app) == files, value


def test_a_named_context_stands_for_a_stage_or_an_image(
    pybuild: Pybuild, context: Context, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "f").write_text("1")
    app = context("FROM alpine AS build\nRUN false\nFROM scratch\nCOPY --from=build / /\n")
    assert built(pybuild, f"--build-context=build={other}", app) == ["f"]
    app = context("FROM alpine AS build\nRUN false\nFROM build\nCOPY Dockerfile /\n")
    assert built(pybuild, f"--build-context=build={other}", app) == ["Dockerfile", "f"]
    app = context("FROM alpine:latest\nCOPY Dockerfile /\n")
    name = "docker.io/library/alpine"
    assert built(pybuild, f"--build-context={name}={other}", app) == ["Dockerfile", "f"]
    app = context("FROM alpine\nCOPY --link Dockerfile /\n")
    assert built(pybuild, f"--build-context=alpine={other}", app) == ["Dockerfile", "f"]
    assert built(pybuild, f"--build-context=alpine={other}", context("FROM alpine\n")) == ["f"]


# ------------------------------------------------------------------ ignore files
def test_a_foreign_context_is_not_filtered_unless_asked(
    pybuild: Pybuild, context: Context, repository: str, tmp_path: Path
) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        tar.add(context(COPY_ALL, {"a": "1"}), arcname=".")
        link = special(tarfile.SYMTYPE, "/etc/passwd")
        link.name = "Dockerfile.dockerignore"
        tar.addfile(link)
        pipe = special(tarfile.FIFOTYPE)
        pipe.name = ".dockerignore"
        tar.addfile(pipe)
    found = built(pybuild, "-", stdin=out.getvalue())
    assert found == [".dockerignore", "Dockerfile", "Dockerfile.dockerignore", "a"]
    (tmp_path / "ignore").write_text("app\n")
    found = built(pybuild, f"--ignorefile={tmp_path}/ignore", f"{repository}#v1")
    assert found == ["Dockerfile"]


def test_a_wrong_ignore_file_is_named(pybuild: Pybuild, context: Context) -> None:
    folder = context(COPY_ALL, {".dockerignore": "a\n[\n"})
    said = pybuild("build", folder, status=1).stderr
    assert f"failed parsing {folder}/.dockerignore: syntax error in pattern: [" in said
