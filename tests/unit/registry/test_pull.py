"""Pulling: what is verified, what is retried, what is refused."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

import pytest

from buildkit_py.digest import Digest
from buildkit_py.errors import (
    ContentError,
    DigestMismatch,
    ManifestUnknown,
    PybuildError,
    RegistryError,
    SizeMismatch,
)
from buildkit_py.oci.reference import parse_reference
from buildkit_py.platforms import Platform
from buildkit_py.registry.client import RegistryClient
from buildkit_py.registry.config import HostConfig, RegistryConfig
from buildkit_py.registry.transfer import TransferStatus, fetch_layers, resolve
from buildkit_py.registry.transport import ConnectionFailed, Request, Transport
from buildkit_py.store.content import ContentStore
from tests.registries import (
    Answer,
    Asked,
    ScriptedServer,
    digest,
    fake_image,
    fake_index,
    layer_tar,
    new_client,
    serve_image,
)

AMD64 = Platform()
ARM64 = Platform(architecture="arm64")


def make_client(config: RegistryConfig | None = None) -> RegistryClient:
    return new_client(config=config)


def pull(
    server: ScriptedServer,
    content: ContentStore,
    *,
    name: str = "team/app:1",
    platform: Platform = AMD64,
    config: RegistryConfig | None = None,
) -> str:
    client = make_client(config)
    image = resolve(client, parse_reference(f"{server.host}/{name}"), platform, content)
    fetch_layers(client, image, content)
    return image.descriptor.digest


@contextmanager
def changed(
    script: Callable[[Asked], Answer], change: Callable[[Asked, Answer], Answer]
) -> Iterator[ScriptedServer]:
    with ScriptedServer(lambda asked: change(asked, script(asked))) as server:
        yield server


def is_layer(asked: Asked, data: bytes) -> bool:
    return asked.path.partition("?")[0].endswith(f"/blobs/{digest(data)}")


# ------------------------------------------------------------------ what works
def test_pull_stores_manifest_config_and_layers(content: ContentStore) -> None:
    image = fake_image(layer_tar({"a": b"1"}), layer_tar({"b": b"2"}))
    with ScriptedServer(serve_image(image)) as server:
        found = pull(server, content)
    assert found == image.digest
    assert all(content.has(Digest(key)) for key in (image.digest, *image.blobs))


def test_resolve_fetches_no_layer(content: ContentStore) -> None:
    image = fake_image()
    with ScriptedServer(serve_image(image)) as server:
        reference = parse_reference(f"{server.host}/app")
        resolve(make_client(), reference, AMD64, content)
        assert not any(is_layer(asked, image.layers[0]) for asked in server.asked)


def test_index_gives_the_image_of_the_platform(content: ContentStore) -> None:
    amd, arm = fake_image(), fake_image(architecture="arm64")
    index = fake_index({"linux/amd64": amd, "linux/arm64": arm})
    with ScriptedServer(serve_image(amd, arm, index=index)) as server:
        assert pull(server, content, platform=ARM64) == arm.digest


def test_missing_platform_names_those_that_exist(content: ContentStore) -> None:
    arm = fake_image(architecture="arm64")
    index = fake_index({"linux/arm64": arm})
    with (
        ScriptedServer(serve_image(arm, index=index)) as server,
        pytest.raises(ManifestUnknown, match="no image for linux/amd64") as caught,
    ):
        pull(server, content)
    assert caught.value.hint == "it has: linux/arm64"


def test_what_is_here_is_not_fetched_again(content: ContentStore) -> None:
    image = fake_image()
    with ScriptedServer(serve_image(image)) as server:
        pull(server, content)
        server.asked.clear()
        pull(server, content)
        assert [a.path for a in server.asked if "/blobs/" in a.path] == []


def test_progress_ends_with_the_whole_size(content: ContentStore) -> None:
    image = fake_image()
    seen: list[TransferStatus] = []
    with ScriptedServer(serve_image(image)) as server:
        client = make_client()
        found = resolve(client, parse_reference(f"{server.host}/app"), AMD64, content)
        fetch_layers(client, found, content, seen.append)
    assert seen[-1].done
    assert (seen[-1].id, seen[-1].current) == (digest(image.layers[0]), len(image.layers[0]))


# ------------------------------------------------------------------ broken connections
def test_cut_download_resumes_where_it_broke(content: ContentStore) -> None:
    layer = layer_tar({"big": bytes(300_000)})
    image = fake_image(layer)
    ranges: list[str] = []

    def cut_once(asked: Asked, answer: Answer) -> Answer:
        if not is_layer(asked, layer):
            return answer
        ranges.append(asked.headers.get("range", ""))
        if len(ranges) == 1:
            return replace(answer, cut=100_000)
        start = int(ranges[-1].removeprefix("bytes=").rstrip("-"))
        part = f"bytes {start}-{len(layer) - 1}/{len(layer)}"
        return Answer(206, layer[start:], {"Content-Range": part})

    with changed(serve_image(image), cut_once) as server:
        pull(server, content)
    assert len(ranges) == 2
    assert ranges[1] == "bytes=100000-"
    assert content.has(Digest(digest(layer)))


def test_cut_download_from_a_server_without_ranges_is_made_whole(content: ContentStore) -> None:
    layer = layer_tar({"big": bytes(range(256)) * 1000})
    image = fake_image(layer)
    tries: list[Asked] = []

    def cut_once(asked: Asked, answer: Answer) -> Answer:
        if is_layer(asked, layer):
            tries.append(asked)
            return replace(answer, cut=70_001) if len(tries) == 1 else answer
        return answer

    with changed(serve_image(image), cut_once) as server:
        pull(server, content)
    assert content.read(Digest(digest(layer))) == layer


@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_busy_registry_is_asked_again(content: ContentStore, status: int) -> None:
    image = fake_image()
    seen: list[str] = []

    def busy_once(asked: Asked, answer: Answer) -> Answer:
        first = asked.path not in seen and asked.path != "/v2/"
        seen.append(asked.path)
        return Answer(status, headers={"Retry-After": "1"}) if first else answer

    with changed(serve_image(image), busy_once) as server:
        assert pull(server, content) == image.digest


def test_registry_that_stays_busy_is_an_error(content: ContentStore) -> None:
    with (
        ScriptedServer(lambda asked: Answer(429)) as server,
        pytest.raises(RegistryError, match="too many requests"),
    ):
        pull(server, content, config=RegistryConfig(retries=2))


def test_blob_that_always_breaks_is_given_up(content: ContentStore) -> None:
    image = fake_image()

    def cut(asked: Asked, answer: Answer) -> Answer:
        return replace(answer, cut=10) if is_layer(asked, image.layers[0]) else answer

    with (
        changed(serve_image(image), cut) as server,
        pytest.raises(ConnectionFailed),
    ):
        pull(server, content, config=RegistryConfig(retries=3))
    assert not content.has(Digest(digest(image.layers[0])))


def test_unreachable_registry_says_why(content: ContentStore) -> None:
    with ScriptedServer(lambda asked: Answer()) as server:
        host = server.host
    with pytest.raises(ConnectionFailed, match="connection refused"):
        resolve(
            make_client(RegistryConfig(retries=0)),
            parse_reference(f"{host}/app"),
            AMD64,
            content,
        )


# ------------------------------------------------------------------ mirrors
def test_mirror_is_asked_first(content: ContentStore) -> None:
    image = fake_image()
    with ScriptedServer(serve_image(image)) as mirror:
        config = RegistryConfig(hosts={"docker.io": HostConfig(mirrors=(f"{mirror.host}/hub",))})
        client = make_client(config)
        found = resolve(client, parse_reference("busybox"), AMD64, content)
        paths = [asked.path for asked in mirror.asked if "/manifests/" in asked.path]
    assert found.descriptor.digest == image.digest
    assert paths == ["/v2/hub/library/busybox/manifests/latest?ns=docker.io"]


def test_registry_serves_when_its_mirror_lies(content: ContentStore) -> None:
    image = fake_image()

    def lie(asked: Asked, answer: Answer) -> Answer:
        if is_layer(asked, image.layers[0]):
            return Answer(200, bytes(len(image.layers[0])))
        return answer

    with changed(serve_image(image), lie) as mirror, ScriptedServer(serve_image(image)) as server:
        config = RegistryConfig(hosts={server.host: HostConfig(mirrors=(mirror.host,))})
        assert pull(server, content, config=config) == image.digest
    assert content.has(Digest(digest(image.layers[0])))


# ------------------------------------------------------------------ hostile answers
def refused(
    content: ContentStore,
    change: Callable[[Asked, Answer], Answer],
    error: type[PybuildError],
    match: str | None,
) -> None:
    image = fake_image()
    with changed(serve_image(image), change) as server, pytest.raises(error, match=match):
        pull(server, content, config=RegistryConfig(retries=1))
    assert not content.has(Digest(digest(image.layers[0])))


def test_layer_with_another_digest_is_refused(content: ContentStore) -> None:
    layer = fake_image().layers[0]

    def swap(asked: Asked, answer: Answer) -> Answer:
        return Answer(200, b"x" * len(layer)) if is_layer(asked, layer) else answer

    refused(content, swap, DigestMismatch, "digest")


def test_layer_that_never_ends_is_refused(content: ContentStore) -> None:
    layer = fake_image().layers[0]

    def endless(asked: Asked, answer: Answer) -> Answer:
        return Answer(200, endless=True) if is_layer(asked, layer) else answer

    refused(content, endless, SizeMismatch, "longer than")


def test_answer_whose_head_trickles_for_ever_is_ended() -> None:
    def trickle(listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection, suppress(OSError):
                    connection.sendall(b"HTTP/1.1 200 OK\r\nX-Long: ")
                    while True:
                        connection.sendall(b"x")
                        threading.Event().wait(0.05)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=trickle, args=(listener,), daemon=True)
        server.start()
        config = RegistryConfig(read_timeout=0.4, retries=0)
        transport = Transport(config)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/v2/"
        with pytest.raises(ConnectionFailed):
            transport.request(Request(method="GET", url=url))
        transport.close()
        listener.shutdown(socket.SHUT_RDWR)
        server.join()


def test_short_layer_is_refused(content: ContentStore) -> None:
    layer = fake_image().layers[0]

    def short(asked: Asked, answer: Answer) -> Answer:
        return Answer(200, layer[:100]) if is_layer(asked, layer) else answer

    refused(content, short, ConnectionFailed, "ends after")


def test_huge_manifest_is_refused(content: ContentStore) -> None:
    def huge(asked: Asked, answer: Answer) -> Answer:
        return Answer(200, endless=True) if "/manifests/" in asked.path else answer

    refused(content, huge, RegistryError, "larger than")


def test_redirect_loop_is_refused(content: ContentStore) -> None:
    layer = fake_image().layers[0]

    def loop(asked: Asked, answer: Answer) -> Answer:
        if is_layer(asked, layer):
            target = asked.path.partition("?")[0]
            turn = "?b" if asked.path.endswith("?a") else "?a"
            return Answer(307, headers={"Location": target + turn})
        return answer

    refused(content, loop, RegistryError, "redirect loop")


def test_endless_chain_of_redirects_is_refused(content: ContentStore) -> None:
    layer = fake_image().layers[0]
    count = iter(range(1000))

    def chain(asked: Asked, answer: Answer) -> Answer:
        if is_layer(asked, layer):
            target = f"{asked.path.partition('?')[0]}?{next(count)}"
            return Answer(302, headers={"Location": target})
        return answer

    refused(content, chain, RegistryError, "more than 10 redirects")


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/x", "gopher://x/"])
def test_redirect_off_the_web_is_refused(content: ContentStore, target: str) -> None:
    layer = fake_image().layers[0]

    def away(asked: Asked, answer: Answer) -> Answer:
        return Answer(302, headers={"Location": target}) if is_layer(asked, layer) else answer

    refused(content, away, RegistryError, "refused")


def test_traversal_in_a_layer_digest_is_refused(content: ContentStore) -> None:
    image = fake_image()
    raw = json.loads(image.manifest)
    raw["layers"][0]["digest"] = "sha256:../../../../etc/passwd"

    def change(asked: Asked, answer: Answer) -> Answer:
        if "/manifests/" in asked.path:
            return Answer(200, json.dumps(raw).encode(), {"Content-Type": raw["mediaType"]})
        return answer

    refused(content, change, ContentError, "invalid digest")


@pytest.mark.parametrize(
    "body",
    [
        b"not json",
        b"[]",
        b'{"schemaVersion": 2}',
        b'{"schemaVersion": 1, "fsLayers": []}',
        b'{"schemaVersion": 2, "config": 3, "layers": {}}',
        b'{"schemaVersion": 2, "config": {"mediaType":"x","digest":"sha256:0","size":1}}',
        b'{"schemaVersion": 2, "manifests": [], "layers": []}',
        b"[" * 100_000,
    ],
)
def test_malformed_manifest_is_one_clear_error(content: ContentStore, body: bytes) -> None:
    def change(asked: Asked, answer: Answer) -> Answer:
        return Answer(200, body) if "/manifests/" in asked.path else answer

    refused(content, change, PybuildError, None)


def test_manifest_that_is_not_the_digest_asked_for_is_refused(content: ContentStore) -> None:
    image, other = fake_image(), fake_image(layer_tar({"evil": b"!"}))

    def swap(asked: Asked, answer: Answer) -> Answer:
        return Answer(200, other.manifest) if "/manifests/" in asked.path else answer

    with (
        changed(serve_image(image), swap) as server,
        pytest.raises(DigestMismatch, match="expected sha256"),
    ):
        pull(server, content, name=f"app@{image.digest}")


def test_manifest_unlike_its_header_is_refused(content: ContentStore) -> None:
    def change(asked: Asked, answer: Answer) -> Answer:
        answer.headers["Docker-Content-Digest"] = digest(b"something else")
        return answer

    refused(content, change, DigestMismatch, "expected")


def test_control_characters_of_an_error_message_do_not_come_through(
    content: ContentStore,
) -> None:
    body = json.dumps({"errors": [{"code": "DENIED", "message": "no\x1b[31m\nway"}]}).encode()
    with (
        ScriptedServer(lambda asked: Answer(404, body)) as server,
        pytest.raises(ManifestUnknown) as caught,
    ):
        pull(server, content)
    assert caught.value.message.endswith("no[31mway")
