"""Images between us and the daemons of others: docker's and podman's, by socket and registry."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import Pybuild
from tests.daemons import CannotStart, RunningDaemon, dockerd, podman_service
from tests.registries import RealRegistry, real_registry

pytestmark = [pytest.mark.root, pytest.mark.sandbox, pytest.mark.requires("docker-registry")]

DOCKERFILE = 'FROM busybox\nRUN echo built > /made\nLABEL made=here\nCMD ["cat", "/made"]\n'


@pytest.fixture(scope="module")
def docker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    try:
        with dockerd(tmp_path_factory.mktemp("d") / "d") as running:
            yield running
    except CannotStart as error:
        pytest.skip(f"dockerd does not run here: {error}")


@pytest.fixture(scope="module")
def podman(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    with podman_service(tmp_path_factory.mktemp("p") / "p") as running:
        yield running


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealRegistry]:
    with real_registry(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture
def built(busybox: Pybuild, context: Callable[..., Path]) -> Pybuild:
    busybox("build", "-t", "local/app:1", context(DOCKERFILE))
    return busybox


def image_id(pybuild: Pybuild, name: str) -> str:
    return pybuild("inspect", "-f", "{{.Id}}", name).stdout.strip()


def check_load(pybuild: Pybuild, daemon: RunningDaemon, context: Path, kind: str) -> None:
    where = {"DOCKER_HOST": daemon.address}
    options = ["--progress=plain", "-t", "local/app:1", "--load"]
    done = pybuild("build", *options, context, environment=where)
    assert f"{kind} at {daemon.address}: Loaded image" in done.stderr
    own = image_id(pybuild, "local/app:1").removeprefix("sha256:")
    theirs = daemon("image", "inspect", "--format", "{{.Id}}", "local/app:1").strip()
    assert theirs.removeprefix("sha256:") == own
    name = daemon("create", "local/app:1").strip()
    daemon("cp", f"{name}:/made", pybuild.directory / "copied")
    assert (pybuild.directory / "copied").read_text() == "built\n"
    daemon("rm", name)


# ------------------------------------------------------------------ load
def test_load_brings_the_image_into_docker(
    busybox: Pybuild, docker: RunningDaemon, context: Callable[..., Path]
) -> None:
    check_load(busybox, docker, context(DOCKERFILE), "docker")


@pytest.mark.requires("podman")
def test_load_brings_the_image_into_podman(
    busybox: Pybuild, podman: RunningDaemon, context: Callable[..., Path]
) -> None:
    check_load(busybox, podman, context(DOCKERFILE), "podman")


def test_load_without_a_daemon_goes_to_the_store_and_says_so(
    busybox: Pybuild, context: Callable[..., Path]
) -> None:
    options = ["--progress=plain", "-t", "local/app:1", "--load"]
    done = busybox("build", *options, context(DOCKERFILE))
    assert "loading into the local store: no docker or podman listens here" in done.stderr
    assert image_id(busybox, "local/app:1")


def test_load_into_a_daemon_that_is_not_there_is_one_clear_error(
    busybox: Pybuild, context: Callable[..., Path]
) -> None:
    where = {"DOCKER_HOST": f"unix://{busybox.directory}/nothing"}
    done = busybox("build", "--load", context(DOCKERFILE), environment=where, status=1)
    assert f"cannot reach a container daemon at {where['DOCKER_HOST']}" in done.stderr
    assert "Traceback" not in done.stderr


# ------------------------------------------------------------------ archives
@pytest.mark.parametrize("compression", ["gzip", "uncompressed"])
def test_docker_loads_our_archives_and_we_load_what_it_saves(
    built: Pybuild, docker: RunningDaemon, context: Callable[..., Path], compression: str
) -> None:
    output = f"type=docker,dest=ours.tar,compression={compression}"
    built("build", "-t", "local/app:1", "-o", output, context())
    docker("load", "-i", built.directory / "ours.tar")
    own = image_id(built, "local/app:1")
    assert docker("image", "inspect", "-f", "{{.Id}}", "local/app:1").strip() == own
    docker("save", "-o", built.directory / "theirs.tar", "local/app:1")
    built("rmi", "local/app:1")
    assert built("load", "-i", "theirs.tar").stdout == "Loaded image: local/app:1\n"
    assert image_id(built, "local/app:1") == own


# ------------------------------------------------------------------ registry
@pytest.mark.parametrize("types", ["oci", "docker"])
def test_docker_pulls_what_we_push_and_we_pull_what_it_pushes(
    built: Pybuild,
    docker: RunningDaemon,
    registry: RealRegistry,
    context: Callable[..., Path],
    types: str,
) -> None:
    name = f"{registry.host}/{types}/app"
    output = f"type=registry,oci-mediatypes={'true' if types == 'oci' else 'false'}"
    built("build", "-t", f"{name}:ours", "-o", output, context())
    docker("pull", "-q", f"{name}:ours")
    own = image_id(built, "local/app:1")
    assert docker("image", "inspect", "-f", "{{.Id}}", f"{name}:ours").strip() == own
    docker("tag", f"{name}:ours", f"{name}:theirs")
    docker("push", "-q", f"{name}:theirs")
    built("pull", f"{name}:theirs")
    assert image_id(built, f"{name}:theirs") == own


@pytest.mark.requires("podman")
@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_podman_pulls_what_we_push_and_we_pull_what_it_pushes(
    built: Pybuild,
    podman: RunningDaemon,
    registry: RealRegistry,
    context: Callable[..., Path],
    compression: str,
) -> None:
    name = f"{registry.host}/podman/{compression}"
    output = f"type=registry,compression={compression},force-compression=true"
    built("build", "-t", f"{name}:ours", "-o", output, context())
    podman("pull", "--tls-verify=false", f"{name}:ours")
    facts = json.loads(podman("image", "inspect", f"{name}:ours"))[0]
    assert facts["Labels"]["made"] == "here"
    own = image_id(built, "local/app:1")
    assert f"sha256:{facts['Id']}" == own
    podman("push", "--tls-verify=false", f"{name}:ours", f"docker://{name}:theirs")
    built("pull", f"{name}:theirs")
    assert image_id(built, f"{name}:theirs") == own


@pytest.mark.requires("podman")
def test_we_pull_an_index_that_podman_made(
    built: Pybuild, podman: RunningDaemon, registry: RealRegistry
) -> None:
    name = f"{registry.host}/podman/list:1"
    built("tag", "local/app:1", f"{registry.host}/podman/one:1")
    built("push", f"{registry.host}/podman/one:1")
    podman("manifest", "create", "--all", "made")
    podman(
        "manifest", "add", "--tls-verify=false", "made", f"docker://{registry.host}/podman/one:1"
    )
    podman("manifest", "push", "--all", "--tls-verify=false", "made", f"docker://{name}")
    built("pull", name)
    assert image_id(built, name) == image_id(built, "local/app:1")


def test_contexts_of_docker_name_a_daemon(
    built: Pybuild, docker: RunningDaemon, context: Callable[..., Path]
) -> None:
    import hashlib

    digits = hashlib.sha256(b"mine").hexdigest()
    folder = Path(os.environ["DOCKER_CONFIG"]) / "contexts" / "meta" / digits
    folder.mkdir(parents=True)
    meta = {"Name": "mine", "Endpoints": {"docker": {"Host": docker.address}}}
    (folder / "meta.json").write_text(json.dumps(meta))
    built("build", "-t", "by/context:1", "-o", "type=docker,context=mine", context())
    assert docker("images", "-q", "by/context:1").strip()
    wrong = built("build", "-o", "type=docker,context=other", context(), status=2)
    assert 'docker context "other" does not exist' in wrong.stderr
