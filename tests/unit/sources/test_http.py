"""ADD URL: names, modes, times, revalidation, checksums, credentials."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from buildkit_py.errors import SourceError
from buildkit_py.graph import HttpOp
from buildkit_py.sources.http import HttpSource
from buildkit_py.store.content import ContentStore
from buildkit_py.store.database import open_database
from tests.registries import Answer, Asked, ScriptedServer, digest, new_client

DATE = "Thu, 05 Oct 2023 10:00:00 GMT"
SECONDS = 1696500000
BODY = bytes(range(256)) * 1000


@pytest.fixture
def source(tmp_path: Path) -> Iterator[HttpSource]:
    transport = new_client().transport
    with open_database(tmp_path / "state") as db:
        yield HttpSource(lambda: transport, ContentStore(db.paths, db), db)


def op(server: ScriptedServer, **more: object) -> HttpOp:
    return replace(HttpOp(url=f"{server.url}/dir/file.bin?x=1", filename="file.bin"), **more)


def served(asked: Asked) -> Answer:
    if asked.headers.get("if-none-match") == '"v1"':
        return Answer(304)
    return Answer(200, BODY, {"ETag": '"v1"', "Last-Modified": DATE})


def test_file_has_the_servers_time_and_nobody_elses_permission(
    source: HttpSource, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with ScriptedServer(served) as server:
        resolved = source.resolve(op(server))
        source.write(op(server), resolved, out)
    found = (out / "file.bin").stat()
    assert (out / "file.bin").read_bytes() == BODY
    assert (found.st_mode & 0o7777, found.st_mtime, resolved.modified) == (0o600, SECONDS, SECONDS)


def test_unchanged_file_is_not_transferred_again(source: HttpSource) -> None:
    with ScriptedServer(served) as server:
        first = source.resolve(op(server))
        assert source.resolve(op(server)) == first
        assert server.asked[1].headers["if-none-match"] == '"v1"'


def test_changed_file_has_another_key(source: HttpSource) -> None:
    with ScriptedServer(served) as server:
        first = source.resolve(op(server))
        server.script = lambda asked: Answer(200, b"new")
        assert source.resolve(op(server)).parts != first.parts


def test_right_checksum_needs_no_request_once_it_is_here(
    source: HttpSource, tmp_path: Path
) -> None:
    with ScriptedServer(served) as server:
        wanted = op(server, checksum=digest(BODY))
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            assert source.write(wanted, source.resolve(wanted), tmp_path / name) == SECONDS
        assert len(server.asked) == 1


def test_wrong_checksum_is_refused(source: HttpSource, tmp_path: Path) -> None:
    with ScriptedServer(served) as server:
        wanted = op(server, checksum=digest(b"other"))
        with pytest.raises(SourceError, match=r"digest mismatch for .*: expected sha256"):
            source.write(wanted, source.resolve(wanted), tmp_path)


def test_missing_file_gives_the_status(source: HttpSource) -> None:
    with (
        ScriptedServer(lambda asked: Answer(404)) as server,
        pytest.raises(SourceError, match=r"/dir/file.bin: invalid response status 404"),
    ):
        source.resolve(op(server))


def test_cut_download_goes_on_where_it_broke(source: HttpSource) -> None:
    def cut(asked: Asked) -> Answer:
        headers = {"ETag": '"v1"'}
        if "range" not in asked.headers:
            return Answer(200, BODY, headers, cut=100_000)
        assert asked.headers["if-range"] == '"v1"'
        start = int(asked.headers["range"].removeprefix("bytes=").rstrip("-"))
        part = f"bytes {start}-{len(BODY) - 1}/{len(BODY)}"
        return Answer(206, BODY[start:], headers | {"Content-Range": part})

    with ScriptedServer(cut) as server:
        assert source.resolve(op(server)).parts["digest"] == digest(BODY)
        assert len(server.asked) == 2


def test_token_secret_is_sent_to_its_host_only(source: HttpSource) -> None:
    with ScriptedServer(served) as server:
        name = f"HTTP_AUTH_TOKEN_{server.host}"
        secrets = {name: b"abc\n", "HTTP_AUTH_TOKEN_other.example": b"no"}
        source.resolve(op(server), secrets.get)
        assert server.asked[0].headers["authorization"] == "Bearer abc"


def test_header_secret_is_sent_whole(source: HttpSource) -> None:
    with ScriptedServer(served) as server:
        host = server.host.partition(":")[0]
        source.resolve(op(server), {f"HTTP_AUTH_HEADER_{host}": b"Custom x"}.get)
        assert server.asked[0].headers["authorization"] == "Custom x"


def test_what_one_credential_saw_is_no_answer_for_another(source: HttpSource) -> None:
    with ScriptedServer(served) as server:
        name = f"HTTP_AUTH_TOKEN_{server.host}"
        source.resolve(op(server), {name: b"one"}.get)
        source.resolve(op(server), {name: b"two"}.get)
        assert "if-none-match" not in server.asked[1].headers


def test_secret_with_a_line_break_is_refused(source: HttpSource) -> None:
    with ScriptedServer(served) as server:
        name = f"HTTP_AUTH_HEADER_{server.host}"
        with pytest.raises(SourceError, match="no header value"):
            source.resolve(op(server), {name: b"a\r\nX-Evil: 1"}.get)


def test_file_name_cannot_leave_the_directory(source: HttpSource, tmp_path: Path) -> None:
    with ScriptedServer(served) as server:
        wanted = op(server, filename="../evil")
        with pytest.raises(SourceError, match="invalid file name"):
            source.write(wanted, source.resolve(wanted), tmp_path)
