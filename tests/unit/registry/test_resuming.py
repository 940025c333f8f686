"""A download that a killed process left is gone on with, and believed only as a whole."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from buildkit_py.digest import Digest, hex_of
from buildkit_py.errors import DigestMismatch
from buildkit_py.oci.descriptor import Descriptor, MediaType
from buildkit_py.oci.reference import parse_reference
from buildkit_py.registry.transfer import fetch_blob
from buildkit_py.store.content import ContentStore
from buildkit_py.store.database import Database
from buildkit_py.store.gc import collect_garbage
from buildkit_py.store.partial import forget_partials, open_partial
from buildkit_py.store.paths import StatePaths
from tests.registries import Answer, Asked, ScriptedServer, digest, new_client

DATA = random.Random(1).randbytes(3 << 20)
BLOB = Descriptor(media_type=MediaType.OCI_LAYER, digest=Digest(digest(DATA)), size=len(DATA))
HALF = len(DATA) // 2


def left_over(paths: StatePaths, data: bytes) -> Path:
    """What a process that was killed leaves."""
    paths.partial.mkdir(exist_ok=True)
    path = paths.partial / hex_of(BLOB.digest)
    path.write_bytes(data)
    return path


class Server:
    """Serves the blob; notes what was asked for and how much was sent."""

    def __init__(self, *, ranges: str = "right", cut: int | None = None) -> None:
        self.ranges, self.cut = ranges, cut
        self.asked: list[str] = []

    def __call__(self, asked: Asked) -> Answer:
        text = asked.headers.get("range", "")
        self.asked.append(text)
        cut, self.cut = self.cut, None
        if not text or self.ranges == "none":
            return Answer(body=DATA, cut=cut)
        if self.ranges == "refused":
            return Answer(status=416)
        start = int(text.removeprefix("bytes=").rstrip("-"))
        if self.ranges == "other":
            return Answer(206, DATA[start + 1 :], {"Content-Range": f"bytes {start + 1}-/*"})
        body = DATA[start:]
        if self.ranges == "lies":
            body = bytes(len(body))
        part = f"bytes {start}-{len(DATA) - 1}/{len(DATA)}"
        return Answer(206, body, {"Content-Range": part})


def fetch(server: Server, content: ContentStore) -> None:
    with ScriptedServer(server) as running:
        name = parse_reference(f"{running.host}/app", default_tag=None)
        fetch_blob(new_client(), name, BLOB, content)


def is_whole(content: ContentStore) -> bool:
    with content.open(BLOB.digest) as file:
        return file.read() == DATA


def test_what_is_there_is_not_fetched_again(db: Database, content: ContentStore) -> None:
    path = left_over(db.paths, DATA[:HALF])
    server = Server()
    fetch(server, content)
    assert server.asked == [f"bytes={HALF}-"]
    assert is_whole(content)
    assert not path.exists()


def test_a_whole_download_that_was_not_committed_needs_no_request(
    db: Database, content: ContentStore
) -> None:
    left_over(db.paths, DATA)
    server = Server()
    fetch(server, content)
    assert server.asked == []
    assert is_whole(content)


@pytest.mark.parametrize("rubbish", [b"x" * HALF, bytes(len(DATA)), DATA + b"more"])
def test_bytes_of_something_else_are_dropped_and_all_is_fetched(
    db: Database, content: ContentStore, rubbish: bytes
) -> None:
    left_over(db.paths, rubbish)
    server = Server()
    fetch(server, content)
    assert server.asked[-1] == ""
    assert is_whole(content)


@pytest.mark.parametrize("ranges", ["none", "refused", "lies"])
def test_a_server_that_cannot_go_on_sends_all(
    db: Database, content: ContentStore, ranges: str
) -> None:
    left_over(db.paths, DATA[:HALF])
    fetch(Server(ranges=ranges), content)
    assert is_whole(content)
    assert list(db.paths.partial.iterdir()) == []


def test_a_server_that_sends_another_part_is_an_error_and_the_half_stays(
    db: Database, content: ContentStore
) -> None:
    path = left_over(db.paths, DATA[:HALF])
    with pytest.raises(Exception, match="not the part that was asked for"):
        fetch(Server(ranges="other"), content)
    assert path.read_bytes() == DATA[:HALF]


def test_a_download_that_fails_leaves_what_it_had(db: Database, content: ContentStore) -> None:
    class Dead(Server):
        def __call__(self, asked: Asked) -> Answer:
            first = not self.asked
            self.asked.append("")
            return Answer(body=DATA, cut=HALF) if first else Answer(status=500)

    with pytest.raises(Exception, match="500"):
        fetch(Dead(), content)
    assert (db.paths.partial / hex_of(BLOB.digest)).read_bytes() == DATA[:HALF]
    server = Server()
    fetch(server, content)
    assert server.asked == [f"bytes={HALF}-"]


def test_wrong_bytes_from_the_start_are_no_download_to_go_on_with(
    db: Database, content: ContentStore
) -> None:
    with pytest.raises(DigestMismatch):
        fetch_wrong(content)
    assert list(db.paths.partial.iterdir()) == []


def fetch_wrong(content: ContentStore) -> None:
    with ScriptedServer(lambda _: Answer(body=bytes(len(DATA)))) as running:
        name = parse_reference(f"{running.host}/app", default_tag=None)
        fetch_blob(new_client(), name, BLOB, content)


def test_a_download_in_use_is_left_alone(db: Database, content: ContentStore) -> None:
    held = open_partial(db.paths, BLOB)
    assert held is not None
    with held.file:
        assert open_partial(db.paths, BLOB) is None
        fetch(Server(), content)
        assert forget_partials(db.paths) == 0
        assert held.path.exists()
    assert is_whole(content)


def test_collections_take_old_downloads_and_prune_takes_all(db: Database) -> None:
    path = left_over(db.paths, b"new")
    collect_garbage(db, db.paths)
    assert path.exists()
    os.utime(path, (1, 1))
    collect_garbage(db, db.paths)
    assert not path.exists()
    left_over(db.paths, b"123")
    assert forget_partials(db.paths) == 3


def test_a_link_in_place_of_a_download_is_not_followed(db: Database, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("safe")
    db.paths.partial.mkdir()
    (db.paths.partial / hex_of(BLOB.digest)).symlink_to(victim)
    with pytest.raises(Exception, match="cannot write to the store"):
        open_partial(db.paths, BLOB)
    assert victim.read_text() == "safe"
