"""Contexts from standard input and URLs: archives by content, anything else a Dockerfile."""

from __future__ import annotations

import bz2
import gzip
import lzma
import tarfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import pytest

from buildkit_py.errors import PybuildError, SourceError
from buildkit_py.sources.context import ContextFetcher
from buildkit_py.sources.git import GitSource
from buildkit_py.sources.http import HttpSource
from buildkit_py.store.content import ContentStore
from buildkit_py.store.database import open_database
from tests.registries import Answer, ScriptedServer, layer_tar, new_client

DOCKERFILE = b"FROM scratch\nCOPY a /\n"


@pytest.fixture
def fetcher(tmp_path: Path) -> Iterator[ContextFetcher]:
    transport = new_client().transport
    with open_database(tmp_path / "state") as db:
        http = HttpSource(lambda: transport, ContentStore(db.paths, db), db)
        yield ContextFetcher(http=lambda: http, git=lambda: GitSource(db, {}))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "context"
    folder.mkdir()
    return folder


@pytest.mark.parametrize(
    "compress",
    [bytes, gzip.compress, bz2.compress, lzma.compress],
    ids=["plain", "gzip", "bzip2", "xz"],
)
def test_archive_on_standard_input_is_unpacked(
    fetcher: ContextFetcher, folder: Path, compress: Callable[[bytes], bytes]
) -> None:
    data = compress(layer_tar({"Dockerfile": DOCKERFILE, "a": b"x"}))
    found = fetcher.fetch("-", folder, BytesIO(data))
    assert found.dockerfile is None
    assert sorted(path.name for path in folder.iterdir()) == ["Dockerfile", "a"]


@pytest.mark.parametrize("text", [DOCKERFILE, b"", b"#" * 2000], ids=["short", "empty", "long"])
def test_other_text_on_standard_input_is_the_dockerfile(
    fetcher: ContextFetcher, folder: Path, text: bytes
) -> None:
    assert fetcher.fetch("-", folder, BytesIO(text)).dockerfile == text
    assert list(folder.iterdir()) == []


def test_archive_at_a_url_is_unpacked(fetcher: ContextFetcher, folder: Path) -> None:
    tar = gzip.compress(layer_tar({"Dockerfile": DOCKERFILE}))
    date = {"Last-Modified": "Thu, 05 Oct 2023 10:00:00 GMT"}
    with ScriptedServer(lambda asked: Answer(200, tar, date)) as server:
        found = fetcher.fetch(f"{server.url}/context", folder)
    assert (folder / "Dockerfile").read_bytes() == DOCKERFILE
    assert found.modified == 1696500000


def test_dockerfile_at_a_url_has_an_empty_context(fetcher: ContextFetcher, folder: Path) -> None:
    with ScriptedServer(lambda asked: Answer(200, DOCKERFILE)) as server:
        assert fetcher.fetch(f"{server.url}/Dockerfile", folder).dockerfile == DOCKERFILE


def test_truncated_archive_is_one_clear_error(fetcher: ContextFetcher, folder: Path) -> None:
    data = gzip.compress(layer_tar({"a": bytes(100_000)}))[:60]
    with pytest.raises(SourceError, match="cannot unpack the build context from standard input"):
        fetcher.fetch("-", folder, BytesIO(data))


def test_archive_cannot_write_outside_its_directory(fetcher: ContextFetcher, folder: Path) -> None:
    out = BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        link = tarfile.TarInfo("way")
        link.type, link.linkname = tarfile.SYMTYPE, str(folder.parent)
        tar.addfile(link)
        for name in ("../evil", "/evil", "way/evil"):
            info = tarfile.TarInfo(name)
            info.size = 1
            tar.addfile(info, BytesIO(b"x"))
    with suppress(PybuildError):  # refusing is as good as keeping it inside
        fetcher.fetch("-", folder, BytesIO(out.getvalue()))
    assert not (folder.parent / "evil").exists()
