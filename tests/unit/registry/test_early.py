"""Blobs that are sent while they are written, and what happens when that goes wrong."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from buildkit_py.errors import ContentError
from buildkit_py.oci.descriptor import Descriptor
from buildkit_py.oci.reference import parse_reference
from buildkit_py.registry.config import RegistryConfig
from buildkit_py.registry.early import EarlyUpload
from buildkit_py.registry.uploads import UploadResult, upload_blob
from buildkit_py.store.content import ContentStore
from buildkit_py.store.database import open_database
from buildkit_py.store.growing import Growing, GrowingSink
from tests.registries import Answer, Asked, FakeRegistry, ScriptedServer, digest, new_client

DATA = random.Random(3).randbytes(12 << 20)
PIECE = 1 << 20


@pytest.fixture
def content(tmp_path: Path) -> Iterator[ContentStore]:
    with open_database(tmp_path / "state") as db:
        yield ContentStore(db.paths, db)


@dataclass
class Sending:
    server: ScriptedServer
    content: ContentStore
    chunk_size: int = 0

    def send(self, data: bytes = DATA) -> UploadResult:
        client = new_client(config=RegistryConfig(retries=2, chunk_size=self.chunk_size))
        reference = parse_reference(f"{self.server.host}/team/app:1")
        early = EarlyUpload(client, reference)
        descriptor = self.write(data, early)
        return upload_blob(
            client, reference, descriptor, lambda offset: [data[offset:]], early=early
        )

    def write(self, data: bytes, early: EarlyUpload) -> Descriptor:
        with self.content.writer() as writer, GrowingSink(writer, early.begin) as sink:
            for start in range(0, len(data), PIECE):
                sink.write(data[start : start + PIECE])
            sink.end()
            return writer.commit()

    @property
    def sent(self) -> list[tuple[str, int]]:
        wanted = {"PATCH", "PUT", "DELETE"}
        return [(a.method, len(a.body)) for a in self.server.asked if a.method in wanted]


def test_a_large_blob_is_sent_before_its_digest_is_known(content: ContentStore) -> None:
    registry = FakeRegistry()
    with ScriptedServer(registry) as server:
        sending = Sending(server, content)
        assert sending.send().kind == "pushed"
        assert sending.sent == [("PATCH", len(DATA)), ("PUT", 0)]
        methods = [asked.method for asked in server.asked]
    assert methods.index("HEAD") > methods.index("POST")
    assert registry.blobs == {digest(DATA): DATA}


def test_a_small_blob_waits_for_its_digest(content: ContentStore) -> None:
    with ScriptedServer(FakeRegistry(blobs={digest(b"small"): b"small"})) as server:
        sending = Sending(server, content)
        assert sending.send(b"small").kind == "exists"
        assert sending.sent == []


@pytest.mark.parametrize("forget", [False, True])
def test_what_broke_meanwhile_is_gone_on_with(content: ContentStore, forget: bool) -> None:
    registry = FakeRegistry(break_at=5 << 20, forget=forget)
    with ScriptedServer(registry) as server:
        sending = Sending(server, content)
        sending.send()
        rest = len(DATA) if forget else len(DATA) - (5 << 20)
        assert sending.sent[-2:] == [("PATCH", rest), ("PUT", 0)]
    assert registry.blobs == {digest(DATA): DATA}


def test_a_registry_that_wants_sizes_gets_the_ordinary_upload(content: ContentStore) -> None:
    registry = FakeRegistry()

    def strict(asked: Asked) -> Answer:
        if asked.method == "PATCH" and "content-length" not in asked.headers:
            return Answer(411)
        return registry(asked)

    with ScriptedServer(strict) as server:
        assert Sending(server, content).send().kind == "pushed"
    assert registry.blobs == {digest(DATA): DATA}


@pytest.mark.parametrize("minimum", [0, 4 << 20])
def test_chunks_of_a_size_are_sent_when_the_digest_is_known(
    content: ContentStore, minimum: int
) -> None:
    registry = FakeRegistry(minimum_chunk=minimum)
    with ScriptedServer(registry) as server:
        sending = Sending(server, content, chunk_size=4 << 20)
        sending.send()
        assert [size for method, size in sending.sent if method == "PATCH"] == [4 << 20] * 3
    assert registry.blobs == {digest(DATA): DATA}


def test_a_blob_that_turns_out_to_be_there_is_not_put_again(content: ContentStore) -> None:
    registry = FakeRegistry(blobs={digest(DATA): DATA})
    with ScriptedServer(registry) as server:
        sending = Sending(server, content)
        assert sending.send().kind == "exists"
        assert not [method for method, _ in sending.sent if method == "PUT"]


def test_an_unreachable_registry_is_the_error_of_the_ordinary_upload(
    content: ContentStore,
) -> None:
    with ScriptedServer(FakeRegistry()) as server:
        pass
    with pytest.raises(Exception, match="connection refused"):
        Sending(server, content).send()


def test_a_reader_ends_with_an_error_when_the_writer_fails(content: ContentStore) -> None:
    followed: list[Growing] = []

    def fail() -> None:
        with content.writer() as writer, GrowingSink(writer, followed.append) as sink:
            sink.write(DATA)
            raise OSError("no more")

    with pytest.raises(OSError, match="no more"):
        fail()
    (growing,) = followed
    with pytest.raises(ContentError, match="not written to its end"):
        list(growing.pieces())
    growing.close()
