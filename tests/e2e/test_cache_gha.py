"""`type=gha` between two machines and a cache service of the documented protocols."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.actions_cache import GITHUB_TOKEN, ActionsService, workflow_token
from tests.conftest import Pybuild

pytestmark = [pytest.mark.sandbox, pytest.mark.root]

DOCKERFILE = """\
FROM busybox AS tools
RUN --mount=type=cache,id=things,target=/things echo tool | tee -a /things/log > /tool
FROM busybox
COPY --from=tools /tool /tool
RUN cat /tool > /copy
"""
MAIN = ("refs/heads/main", 3)
BRANCH = (("refs/heads/topic", 3), ("refs/heads/main", 1))


@pytest.fixture
def service() -> Iterator[ActionsService]:
    made = ActionsService()
    with made.server:
        yield made


@pytest.fixture(params=[1, 2])
def place(request: pytest.FixtureRequest, service: ActionsService) -> str:
    return f"url={service.v1}" if request.param == 1 else f"url_v2={service.v2}"


def other_machine(busybox: Pybuild, tmp_path: Path) -> Pybuild:
    other = Pybuild(root=tmp_path / "other", directory=tmp_path)
    busybox("save", "-o", tmp_path / "busybox.tar", "busybox")
    other("load", "-i", tmp_path / "busybox.tar")
    return other


def said(log: str) -> list[str]:
    return re.findall(r"^#\d+ \d\.\d+ (.*)$", log, re.MULTILINE)


def test_a_cache_of_a_workflow_serves_another_machine(
    busybox: Pybuild,
    context: Callable[..., Path],
    tmp_path: Path,
    service: ActionsService,
    place: str,
) -> None:
    cache = f"type=gha,scope=app,{place},token={workflow_token(MAIN)}"
    app = context(DOCKERFILE)
    busybox("build", f"--cache-to={cache},mode=max,mounts=true", app)
    assert (
        len([key for key in service.committed() if key.startswith("buildkit-blob-1-sha256:")]) == 4
    )
    assert [key for key in service.committed() if re.fullmatch(r"index-app-1-[0-9a-f]{8}#1", key)]
    other = other_machine(busybox, tmp_path)
    content = tmp_path / "content"
    log = other(
        "build", "--progress=plain", f"--cache-from={cache},mounts=true", "-o", content, app
    ).stderr
    assert len(re.findall(r"^#\d+ CACHED", log, re.MULTILINE)) == 4
    assert (content / "copy").read_text() == "tool\n"
    changed = context(DOCKERFILE.replace("echo tool", "sed p /things/log"))
    other("build", f"--cache-from={cache},mounts=true", "-o", content, changed)
    assert (content / "copy").read_text() == "tool\ntool\n"
    assert service.refused == []
    token = cache.rpartition("=")[2].encode()
    for root in (busybox.root, other.root):
        held = [path for path in root.rglob("*") if path.is_file() and not path.is_symlink()]
        assert not [path for path in held if token in path.read_bytes()]


def test_a_second_export_sends_no_layer_again_and_counts_its_config_on(
    busybox: Pybuild, context: Callable[..., Path], service: ActionsService, place: str
) -> None:
    cache = f"type=gha,{place},token={workflow_token(MAIN)}"
    app = context(DOCKERFILE)
    busybox("build", f"--cache-to={cache}", app)
    first = list(service.uploads)
    busybox("build", f"--cache-to={cache}", "--label=a=b", app)
    again = service.uploads[len(first) :]
    assert [key.rpartition("#")[2] for key in again] == ["2"]
    assert again[0].startswith("index-buildkit-1-")


def test_variables_of_the_workflow_are_taken(
    busybox: Pybuild, context: Callable[..., Path], service: ActionsService
) -> None:
    new = {"ACTIONS_RESULTS_URL": service.v2, "ACTIONS_RUNTIME_TOKEN": workflow_token(MAIN)}
    app = context(DOCKERFILE)
    busybox("build", "--cache-to=type=gha", app, environment=new)
    asked = {item.path for item in service.server.asked}
    assert [path for path in asked if path.startswith("/twirp/")]
    assert not [path for path in asked if "_apis" in path]
    old = {"ACTIONS_CACHE_URL": service.v1, "ACTIONS_RUNTIME_TOKEN": workflow_token(MAIN)}
    busybox("build", "--cache-to=type=gha", app, environment=old)
    assert [item for item in service.server.asked if "_apis" in item.path]
    busybox("build", "--cache-to=type=gha,version=1", app, environment={**new, **old})
    assert service.refused == []


def test_a_branch_reads_the_main_branchs_cache_and_writes_its_own(
    busybox: Pybuild,
    context: Callable[..., Path],
    tmp_path: Path,
    service: ActionsService,
    place: str,
) -> None:
    app = context(DOCKERFILE)
    busybox("build", f"--cache-to=type=gha,{place},token={workflow_token(MAIN)}", app)
    cache = f"type=gha,{place},token={workflow_token(*BRANCH)}"
    other = other_machine(busybox, tmp_path)
    log = other(
        "build", "--progress=plain", f"--cache-from={cache}", f"--cache-to={cache}", app
    ).stderr
    assert len(re.findall(r"^#\d+ CACHED", log, re.MULTILINE)) >= 2
    owners = {entry.branch for entry in service.entries if entry.key.startswith("index-")}
    assert owners == {"refs/heads/main", "refs/heads/topic"}
    readonly = f"type=gha,{place},token={workflow_token(('refs/heads/main', 1))}"
    failed = other("build", f"--cache-to={readonly}", "--label=x=y", app, status=1)
    assert "this token may not write" in failed.stderr
    assert "Traceback" not in failed.stderr


def test_entries_that_were_evicted_are_built_again(
    busybox: Pybuild,
    context: Callable[..., Path],
    tmp_path: Path,
    service: ActionsService,
    place: str,
) -> None:
    cache = f"type=gha,{place},token={workflow_token(MAIN)}"
    app = context(DOCKERFILE)
    busybox("build", f"--cache-to={cache},mode=max", app)
    service.drop("buildkit-blob-1-")
    other = other_machine(busybox, tmp_path)
    content = tmp_path / "content"
    done = other("build", "--progress=plain", f"--cache-from={cache}", "-o", content, app)
    assert (content / "copy").read_text() == "tool\n"
    assert "cannot be had from where it was" in done.stderr


def test_a_number_that_another_job_holds_is_passed_over(
    busybox: Pybuild,
    context: Callable[..., Path],
    service: ActionsService,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from buildkit_py.cache.actions import ActionsCache
    from tests.registries import new_client

    naps: list[float] = []
    cache = ActionsCache(
        url=service.v2,
        version=2,
        token=workflow_token(MAIN),
        transport=new_client().transport,
        deadline=4e9,
        pause=naps.append,
    )
    cache.save_next("index-a-1-00000000", b"first")
    service.entries[0].data = None  # its job was killed before it ended the upload
    cache.save_next("index-a-1-00000000", b"second")
    assert service.committed() == {"index-a-1-00000000#2"}
    assert sum(naps) >= 15


def test_a_large_layer_goes_in_parts(
    service: ActionsService, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from io import BytesIO

    from buildkit_py.cache import actions
    from tests.registries import new_client

    monkeypatch.setattr(actions, "_PART", 1000)
    data = bytes(range(256)) * 17
    cache = actions.ActionsCache(
        url=place.partition("=")[2],
        version=2 if "v2" in place else 1,
        token=workflow_token(MAIN),
        transport=new_client().transport,
        deadline=4e9,
    )
    cache.save("blob", lambda: BytesIO(data), len(data))
    assert service.refused == []
    assert service.entries[0].data == data
    found = cache.load("blo")
    assert found is not None
    with cache.open(found) as response:
        assert response.read(1 << 20) == data
    with pytest.raises(actions.AlreadyThere, match="already exists"):
        cache.save("blob", lambda: BytesIO(data), len(data))


def test_githubs_list_of_keys_spares_a_question_for_each_layer(
    busybox: Pybuild, context: Callable[..., Path], service: ActionsService
) -> None:
    cache = (
        f"type=gha,url_v2={service.v2},token={workflow_token(MAIN)}"
        f",repository=someone/project,ghtoken={GITHUB_TOKEN}"
    )
    api = {"GITHUB_API_URL": service.api}
    app = context(DOCKERFILE)
    busybox("build", f"--cache-to={cache}", app, environment=api)
    sent = len(service.uploads)
    busybox("build", f"--cache-to={cache}", "--label=a=b", app, environment=api)
    assert len(service.uploads) == sent + 1
    asked = [
        json.loads(item.body)["key"]
        for item in service.server.asked
        if item.path.endswith("GetCacheEntryDownloadURL")
    ]
    assert {key for key in asked if key.startswith("buildkit-blob")} == set()


def test_a_busy_service_is_asked_again(
    busybox: Pybuild, context: Callable[..., Path], service: ActionsService, place: str
) -> None:
    service.busy = 2
    cache = f"type=gha,{place},token={workflow_token(MAIN)}"
    busybox("build", f"--cache-to={cache}", context(DOCKERFILE))
    assert service.committed()


def test_the_timeout_ends_an_export(
    busybox: Pybuild, context: Callable[..., Path], service: ActionsService, place: str
) -> None:
    service.busy = 1_000_000
    cache = f"type=gha,{place},token={workflow_token(MAIN)},timeout=1s"
    app = context(DOCKERFILE)
    failed = busybox("build", f"--cache-to={cache}", app, status=1)
    assert "no answer in time" in failed.stderr or "no time is left" in failed.stderr
    changed = context(DOCKERFILE.replace("echo tool", "echo other"))
    done = busybox("build", f"--cache-from={cache}", changed)
    assert "cannot import the cache gha" in done.stderr
    busybox("build", f"--cache-to={cache},ignore-error=true", changed)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("type=gha", "needs url_v2= or url="),
        ("type=gha,url=http://127.0.0.1:1/", "needs token="),
        ("type=gha,url=ftp://x,token=a.b.c", "invalid address 'ftp://x'"),
        ("type=gha,url=http://x,token=a.b.c", "does not say what it gives access to"),
        (f"type=gha,url=http://x,token={workflow_token(MAIN, expires=9)}", "has expired"),
        ("type=gha,version=3", "invalid version '3'"),
        ("type=gha,timeout=soon", "invalid value 'soon' for timeout"),
        ("type=gha,scop=a", "did you mean scope?"),
        ("type=gha,ignore-error=perhaps", "for ignore-error"),
    ],
)
def test_a_wrong_option_is_one_clear_error(
    busybox: Pybuild, context: Callable[..., Path], text: str, told: str
) -> None:
    done = busybox("build", f"--cache-to={text}", context("FROM busybox\n"), status=2)
    assert told in done.stderr
    assert "Traceback" not in done.stderr
