"""Uploads: what is not sent, what is resumed, what is mounted."""

from __future__ import annotations

import re

import pytest

from buildkit_py.digest import Digest
from buildkit_py.errors import AuthenticationRequired, RegistryError
from buildkit_py.oci.descriptor import Descriptor
from buildkit_py.oci.reference import Reference, parse_reference
from buildkit_py.registry.config import RegistryConfig
from buildkit_py.registry.transport import ConnectionFailed
from buildkit_py.registry.uploads import UploadResult, upload_blob
from tests.registries import Answer, Asked, FakeRegistry, ScriptedServer, digest, new_client

LARGE = bytes(range(256)) * 8192  # 2 MiB: more than is sent in one request


def descriptor(data: bytes) -> Descriptor:
    return Descriptor(media_type="x", digest=Digest(digest(data)), size=len(data))


def send(
    server: ScriptedServer,
    data: bytes,
    *,
    mount_from: tuple[str, ...] = (),
    chunk_size: int = 0,
    claimed: Descriptor | None = None,
) -> UploadResult:
    client = new_client(config=RegistryConfig(chunk_size=chunk_size, retries=2))
    reference: Reference = parse_reference(f"{server.host}/team/app:1")
    return upload_blob(
        client,
        reference,
        claimed or descriptor(data),
        lambda offset: [data[offset:]],
        mount_from=mount_from,
    )


def sent(server: ScriptedServer) -> list[tuple[str, int]]:
    return [(a.method, len(a.body)) for a in server.asked if a.method in {"PATCH", "PUT"}]


def test_small_blob_goes_in_one_request() -> None:
    registry = FakeRegistry()
    with ScriptedServer(registry) as server:
        assert send(server, b"small").kind == "pushed"
        assert sent(server) == [("PUT", 5)]
    assert registry.blobs == {digest(b"small"): b"small"}


def test_blob_that_exists_is_not_sent() -> None:
    with ScriptedServer(FakeRegistry(blobs={digest(LARGE): LARGE})) as server:
        assert send(server, LARGE).kind == "exists"
        assert sent(server) == []


def test_large_blob_is_streamed() -> None:
    registry = FakeRegistry()
    with ScriptedServer(registry) as server:
        send(server, LARGE)
        assert sent(server) == [("PATCH", len(LARGE)), ("PUT", 0)]
    assert registry.blobs[digest(LARGE)] == LARGE


def test_chunks_carry_their_range() -> None:
    registry = FakeRegistry()
    with ScriptedServer(registry) as server:
        send(server, LARGE, chunk_size=1 << 20)
        ranges = [a.headers["content-range"] for a in server.asked if a.method == "PATCH"]
    assert ranges == ["0-1048575", "1048576-2097151"]
    assert registry.blobs[digest(LARGE)] == LARGE


def test_registry_may_ask_for_larger_chunks() -> None:
    registry = FakeRegistry(minimum_chunk=len(LARGE))
    with ScriptedServer(registry) as server:
        send(server, LARGE, chunk_size=1 << 20)
        assert [method for method, _ in sent(server)] == ["PATCH", "PUT"]


def test_cut_upload_goes_on_where_the_registry_got() -> None:
    registry = FakeRegistry(break_at=1_500_000)
    with ScriptedServer(registry) as server:
        send(server, LARGE)
        assert sent(server)[1] == ("PATCH", len(LARGE) - 1_500_000)
    assert registry.blobs[digest(LARGE)] == LARGE


def test_forgotten_upload_begins_again() -> None:
    registry = FakeRegistry(break_at=1_500_000, forget=True)
    with ScriptedServer(registry) as server:
        send(server, LARGE)
    assert registry.blobs[digest(LARGE)] == LARGE


def test_lost_answer_to_the_last_request_is_no_failure() -> None:
    registry = FakeRegistry(lose_answer_to_put=True)
    with ScriptedServer(registry) as server:
        send(server, b"small")
        assert sent(server) == [("PUT", 5)]


def test_blob_is_mounted_from_a_neighbour() -> None:
    registry = FakeRegistry(elsewhere={digest(LARGE): LARGE})
    with ScriptedServer(registry) as server:
        result = send(server, LARGE, mount_from=("team/base",))
        assert sent(server) == []
    assert (result.kind, result.source) == ("mounted", "team/base")


def test_refused_mount_is_sent_in_the_upload_that_it_began() -> None:
    registry = FakeRegistry()
    with ScriptedServer(registry) as server:
        assert send(server, LARGE, mount_from=("team/base",)).kind == "pushed"
        assert len([a for a in server.asked if a.method == "POST"]) == 1


def test_wrong_digest_is_the_registrys_refusal() -> None:
    claimed = Descriptor(media_type="x", digest=Digest(digest(b"other")), size=5)
    with (
        ScriptedServer(FakeRegistry()) as server,
        pytest.raises(RegistryError, match=r"400 for .*: digest"),
    ):
        send(server, b"small", claimed=claimed)


def test_registry_that_always_fails_is_given_up() -> None:
    def broken(asked: Asked) -> Answer:
        if asked.method == "PATCH":
            return Answer(503)
        return FakeRegistry(sessions={"0": b""})(asked)

    with ScriptedServer(broken) as server, pytest.raises(ConnectionFailed, match="503"):
        send(server, LARGE)


def test_denied_push_names_the_repository() -> None:
    body = b'{"errors":[{"code":"DENIED","message":"requested access to the resource is denied"}]}'
    with (
        ScriptedServer(lambda asked: Answer(403, body)) as server,
        pytest.raises(AuthenticationRequired, match=r"denies access to .*/team/app") as caught,
    ):
        send(server, b"x")
    assert re.match(r"check the name, or log in: pybuild login 127", caught.value.hint or "")
