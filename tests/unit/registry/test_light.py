"""Whether a tag leads to a manifest: one plain question where that is enough."""

from __future__ import annotations

import pytest

from buildkit_py.digest import Digest
from buildkit_py.oci.reference import parse_reference
from tests.registries import Answer, Asked, ScriptedServer, digest, fake_image, new_client

MANIFEST = fake_image().manifest
WANTED = Digest(digest(MANIFEST))
KIND = {"Content-Type": "application/vnd.oci.image.manifest.v1+json"}


def test_an_open_registry_is_asked_once() -> None:
    def script(_: Asked) -> Answer:
        return Answer(200, MANIFEST, {**KIND, "Docker-Content-Digest": WANTED})

    with ScriptedServer(script) as server:
        reference = parse_reference(f"{server.host}/team/app:1")
        assert new_client().leads_to(reference, WANTED)
        assert [(a.method, a.path) for a in server.asked] == [("HEAD", "/v2/team/app/manifests/1")]


@pytest.mark.parametrize("first", [404, 301, 200, 500])
def test_any_other_answer_is_asked_for_in_the_ordinary_way(first: int) -> None:
    def script(asked: Asked) -> Answer:
        plain = asked.method == "HEAD" and len(server.asked) == 1
        if plain:
            return Answer(first)
        return Answer(200, MANIFEST, {**KIND, "Docker-Content-Digest": WANTED})

    with ScriptedServer(script) as server:
        reference = parse_reference(f"{server.host}/team/app:1")
        assert new_client().leads_to(reference, WANTED)
        assert len(server.asked) > 1


def test_another_digest_or_none_is_no() -> None:
    other = "sha256:" + "0" * 64

    def script(asked: Asked) -> Answer:
        if asked.path.endswith("/gone"):
            return Answer(404)
        return Answer(200, b"", {**KIND, "Docker-Content-Digest": other})

    with ScriptedServer(script) as server:
        for tag in ("1", "gone"):
            reference = parse_reference(f"{server.host}/team/app:{tag}")
            assert not new_client().leads_to(reference, WANTED)
