"""pull, push, login against Debian's docker-registry, with skopeo on the other side."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tarfile
import threading
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Pybuild
from tests.registries import (
    RealRegistry,
    ScriptedServer,
    fake_image,
    fake_index,
    real_registry,
    serve_image,
)

pytestmark = pytest.mark.requires("docker-registry", "skopeo")


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[RealRegistry]:
    folder = tmp_path / "registry"
    folder.mkdir()
    with real_registry(folder) as registry:
        yield registry


def skopeo(*words: str | Path) -> str:
    done = subprocess.run(
        ["skopeo", "--insecure-policy", *map(os.fspath, words)], capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def inspect(registry: RealRegistry, name: str, *options: str) -> Any:
    return json.loads(
        skopeo("inspect", "--tls-verify=false", *options, f"docker://{registry.host}/{name}")
    )


def imported(pybuild: Pybuild, name: str, files: dict[str, bytes]) -> None:
    out = BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for path, data in files.items():
            info = tarfile.TarInfo(path)
            info.size = len(data)
            tar.addfile(info, BytesIO(data))
    pybuild("import", "-", name, stdin=out.getvalue())


def upload(pybuild: Pybuild, registry: RealRegistry, name: str, *options: str) -> None:
    """Let skopeo put an image there: what we save, it sends."""
    archive = pybuild.directory / "image.tar"
    imported(pybuild, "seed", {"hello.txt": b"hello\n", "big": os.urandom(1 << 20)})
    pybuild("save", "-o", archive, "seed")
    target = f"docker://{registry.host}/{name}"
    skopeo("copy", "--dest-tls-verify=false", *options, f"docker-archive:{archive}", target)
    pybuild("rmi", "seed")


def test_pull_of_what_skopeo_pushed(pybuild: Pybuild, registry: RealRegistry) -> None:
    upload(pybuild, registry, "team/app:1")
    done = pybuild("pull", f"{registry.host}/team/app:1")
    assert "1: Pulling from team/app" in done.stdout
    assert "Pull complete" in done.stdout
    assert f"Status: Downloaded newer image for {registry.host}/team/app:1" in done.stdout
    again = pybuild("pull", f"{registry.host}/team/app:1").stdout
    assert f"Status: Image is up to date for {registry.host}/team/app:1" in again
    assert f"{registry.host}/team/app" in pybuild("images").stdout


@pytest.mark.parametrize("form", ["oci", "v2s2"])
def test_build_on_a_pulled_base(
    pybuild: Pybuild, registry: RealRegistry, context: Callable[..., Path], form: str
) -> None:
    upload(pybuild, registry, "base:1", "--format", form)
    folder = context(f"FROM {registry.host}/base:1\nCOPY new.txt /\n", {"new.txt": "new"})
    out = pybuild.directory / "out"
    pybuild("build", "-o", out, folder)
    assert (out / "hello.txt").read_text() == "hello\n"
    assert (out / "new.txt").read_text() == "new"


def test_unknown_base_image_is_one_clear_error(
    pybuild: Pybuild, registry: RealRegistry, context: Callable[..., Path]
) -> None:
    folder = context(f"FROM {registry.host}/nothing/here:1\n")
    done = pybuild("build", folder, status=1)
    assert f"{registry.host}/nothing/here:1: not found" in done.stderr
    assert "Traceback" not in done.stderr


def test_pull_by_digest(pybuild: Pybuild, registry: RealRegistry) -> None:
    upload(pybuild, registry, "app:1")
    digest = inspect(registry, "app:1")["Digest"]
    pybuild("pull", f"{registry.host}/app@{digest}")
    found = json.loads(pybuild("inspect", f"{registry.host}/app@{digest}").stdout)
    assert f"{registry.host}/app@{digest}" in found[0]["RepoDigests"]


def test_push_is_read_by_skopeo(pybuild: Pybuild, registry: RealRegistry) -> None:
    name = f"{registry.host}/team/out:1"
    imported(pybuild, name, {"a.txt": b"a"})
    image_id = pybuild("images", "-q", "--no-trunc", name).stdout.strip()
    done = pybuild("push", name)
    assert f"The push refers to repository [{registry.host}/team/out]" in done.stdout
    raw = inspect(registry, "team/out:1", "--raw")
    assert raw["config"]["digest"] == image_id
    assert [layer["mediaType"].rpartition("+")[2] for layer in raw["layers"]] == ["gzip"]
    assert f"1: digest: {inspect(registry, 'team/out:1')['Digest']}" in done.stdout
    layout = pybuild.directory / "layout"
    skopeo("copy", "--src-tls-verify=false", f"docker://{name}", f"oci:{layout}:1")


def test_second_push_sends_no_layer(pybuild: Pybuild, registry: RealRegistry) -> None:
    name = f"{registry.host}/team/out:1"
    imported(pybuild, name, {"a.txt": b"a"})
    first = pybuild("push", name)
    (layer,) = json.loads(pybuild("inspect", name).stdout)[0]["RootFS"]["Layers"]
    short = layer.partition(":")[2][:12]
    assert f"{short}: Preparing\n{short}: Pushed\n" in first.stdout
    before = len(asked(registry))
    done = pybuild("push", name)
    assert "Layer already exists" in done.stdout
    assert "Pushed" not in done.stdout
    assert done.stdout.splitlines()[-1] == first.stdout.splitlines()[-1]
    (only,) = asked(registry)[before:]
    assert only.startswith("HEAD /v2/team/out/manifests/1 ")


def test_a_tag_that_leads_elsewhere_by_now_is_put_again(
    pybuild: Pybuild, registry: RealRegistry
) -> None:
    name = f"{registry.host}/team/out:1"
    imported(pybuild, name, {"a.txt": b"a"})
    pybuild("push", name)
    mine = inspect(registry, "team/out:1")["Digest"]
    upload(pybuild, registry, "team/out:1")
    assert inspect(registry, "team/out:1")["Digest"] != mine
    pybuild("push", name)
    assert inspect(registry, "team/out:1")["Digest"] == mine


def asked(registry: RealRegistry) -> list[str]:
    """Method and path of every request so far."""
    lines = (registry.folder / "log").read_text().splitlines()
    return [line.split('"')[1] for line in lines if " HTTP/1.1" in line and line[0].isdigit()]


def test_pulled_image_is_pushed_under_its_own_digest_and_mounted(
    pybuild: Pybuild, registry: RealRegistry
) -> None:
    upload(pybuild, registry, "team/app:1")
    pybuild("pull", f"{registry.host}/team/app:1")
    pybuild("tag", f"{registry.host}/team/app:1", f"{registry.host}/other/copy:2")
    done = pybuild("push", f"{registry.host}/other/copy:2")
    assert "Mounted from team/app" in done.stdout
    assert inspect(registry, "other/copy:2")["Digest"] == inspect(registry, "team/app:1")["Digest"]


@pytest.mark.parametrize("compression", ["gzip", "zstd", "uncompressed"])
def test_build_output_to_the_registry(
    pybuild: Pybuild, registry: RealRegistry, context: Callable[..., Path], compression: str
) -> None:
    folder = context("FROM scratch\nCOPY a.txt /\nCOPY a.txt /b.txt\n", {"a.txt": "a"})
    name = f"{registry.host}/built:{compression}"
    pybuild("build", "-o", f"type=registry,name={name},compression={compression}", folder)
    other = Pybuild(root=pybuild.root.with_name("other"), directory=pybuild.directory)
    out = pybuild.directory / "out"
    other("build", "-o", out, context(f"FROM {name}\n"))
    assert sorted(path.name for path in out.iterdir()) == ["a.txt", "b.txt"]


def test_tags_are_either_named_or_all(pybuild: Pybuild, registry: RealRegistry) -> None:
    name = f"{registry.host}/team/tags"
    imported(pybuild, name, {"a.txt": b"a"})
    assert pybuild("push", name).stdout.startswith("Using default tag: latest\n")
    for command in ("push", "pull"):
        failed = pybuild(command, "-a", f"{name}:latest", status=2)
        assert "tag can't be used with --all-tags/-a" in failed.stderr


def test_pulling_another_platform_than_there_is_warns(pybuild: Pybuild) -> None:
    with ScriptedServer(serve_image(fake_image(architecture="arm64"))) as server:
        done = pybuild("pull", "--platform", "linux/amd64", f"{server.host}/one:1")
    assert "does not match the specified platform (linux/amd64)" in done.stderr


def test_pulled_layers_are_pushed_in_another_form_when_forced(
    pybuild: Pybuild, registry: RealRegistry
) -> None:
    upload(pybuild, registry, "team/app:1")
    name = f"{registry.host}/team/app:1"
    pybuild("pull", name)
    options = ("--compression", "zstd", "--compression-level", "4")
    pybuild("push", *options, name)
    assert "zstd" not in str(inspect(registry, "team/app:1", "--raw"))
    pybuild("push", *options, "--force-compression", name)
    layers = inspect(registry, "team/app:1", "--raw")["layers"]
    assert all(layer["mediaType"].endswith("+zstd") for layer in layers)
    failed = pybuild("push", "--compression-level", "77", name, status=2)
    assert "compression level of gzip must be in 0-9" in failed.stderr


def test_push_option_of_build(
    pybuild: Pybuild, registry: RealRegistry, context: Callable[..., Path]
) -> None:
    folder = context("FROM scratch\nCOPY a.txt /\n", {"a.txt": "a"})
    pybuild("build", "--push", "-t", f"{registry.host}/built:1", folder)
    assert inspect(registry, "built:1")["Architecture"]


def test_platform_is_chosen_from_an_index(pybuild: Pybuild) -> None:
    amd, arm = fake_image(), fake_image(architecture="arm64")
    index = fake_index({"linux/amd64": amd, "linux/arm64": arm})
    with ScriptedServer(serve_image(amd, arm, index=index)) as server:
        name = f"{server.host}/one:1"
        for architecture in ("arm64", "amd64"):
            pybuild("pull", "--platform", f"linux/{architecture}", name)
    for architecture in ("arm64", "amd64"):
        words = ("inspect", "--platform", f"linux/{architecture}", name)
        assert json.loads(pybuild(*words).stdout)[0]["Architecture"] == architecture


def test_killed_push_is_finished_by_the_next_which_sends_only_the_rest(
    pybuild: Pybuild, registry: RealRegistry, context: Callable[..., Path]
) -> None:
    settings = pybuild.directory / "pybuild.toml"
    settings.write_text("[transfer]\nparallel = 1\n")
    pybuild.environment["PYBUILD_CONFIG"] = os.fspath(settings)
    folder = context("FROM scratch\nCOPY small /\nCOPY large /\n", {"small": "s"})
    (folder / "large").write_bytes(os.urandom(64 << 20))
    name = f"{registry.host}/app:1"
    pybuild("build", "-t", name, folder)
    process = subprocess.Popen(
        pybuild.command("push", "--compression=uncompressed", name),
        env=pybuild.variables(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    with process:
        assert process.stdout is not None
        first = next(line for line in process.stdout if line.endswith(b": Pushed\n"))
        process.send_signal(signal.SIGKILL)
    done = pybuild("push", "--compression=uncompressed", name)
    assert f"{first.decode().partition(':')[0]}: Layer already exists" in done.stdout
    assert len(inspect(registry, "app:1")["Layers"]) == 2


def test_push_goes_on_after_the_registry_was_killed(
    pybuild: Pybuild, registry: RealRegistry
) -> None:
    name = f"{registry.host}/large:1"
    imported(pybuild, name, {"large": os.urandom(96 << 20)})
    process = subprocess.Popen(
        pybuild.command("push", "--compression=uncompressed", name),
        env=pybuild.variables(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    with process:
        for _ in range(6000):
            parts = list((registry.folder / "data").rglob("_uploads/*/data"))
            if parts and parts[0].stat().st_size:
                break
            threading.Event().wait(0.005)
        registry.stop(signal.SIGKILL)
        registry.start()
        assert process.stdout is not None
        said = process.stdout.read().decode()
    assert process.returncode == 0, said
    assert len(inspect(registry, "large:1")["Layers"]) == 1


def test_push_survives_a_restart_of_the_registry(pybuild: Pybuild, registry: RealRegistry) -> None:
    name = f"{registry.host}/large:1"
    imported(pybuild, name, {"small": b"s"})
    pybuild("push", name)
    registry.stop(signal.SIGKILL)
    refused = pybuild("push", name, status=1)
    assert "connection refused" in refused.stderr
    registry.start()
    assert "Layer already exists" in pybuild("push", name).stdout


# ------------------------------------------------------------------ login
@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[RealRegistry]:
    folder = tmp_path / "guarded"
    folder.mkdir()
    with real_registry(folder, login=True) as registry:
        yield registry


def test_login_then_push_then_logout(pybuild: Pybuild, guarded: RealRegistry) -> None:
    name = f"{guarded.host}/private:1"
    imported(pybuild, name, {"a": b"a"})
    denied = pybuild("push", name, status=1)
    assert "denies access" in denied.stderr
    assert f"pybuild login {guarded.host}" in denied.stderr
    words = ["login", "-u", "tester", "--password-stdin", guarded.host]
    wrong = pybuild(*words, stdin=b"wrong", status=1)
    assert "incorrect username or password" in wrong.stderr
    assert "Login Succeeded" in pybuild(*words, stdin=b"secret\n").stdout
    config = Path(os.environ["DOCKER_CONFIG"]) / "config.json"
    assert config.stat().st_mode & 0o777 == 0o600
    pybuild("push", name)
    assert "Removing login credentials" in pybuild("logout", guarded.host).stdout
    pybuild("push", name, status=1)


def test_skopeo_uses_our_login(pybuild: Pybuild, guarded: RealRegistry) -> None:
    name = f"{guarded.host}/private:1"
    imported(pybuild, name, {"a": b"a"})
    pybuild("login", "-u", "tester", "--password-stdin", guarded.host, stdin=b"secret")
    pybuild("push", name)
    config = Path(os.environ["DOCKER_CONFIG"]) / "config.json"
    options = ["--authfile", os.fspath(config)]
    assert inspect(guarded, "private:1", *options)["Name"].endswith("/private")


# ------------------------------------------------------------------ lists
def test_search_lists_repositories_and_tags(pybuild: Pybuild, registry: RealRegistry) -> None:
    for tag in ("1", "2"):
        imported(pybuild, f"{registry.host}/team/out:{tag}", {"a": tag.encode()})
    pybuild("push", "-a", f"{registry.host}/team/out")
    assert f"{registry.host}/team/out" in pybuild("search", f"{registry.host}/out").stdout
    lines = pybuild("search", "--list-tags", f"{registry.host}/team/out").stdout.splitlines()
    assert [line.split()[-1] for line in lines] == ["TAG", "1", "2"]


@pytest.mark.requires("root", "overlay", "namespaces")
@pytest.mark.parametrize("secret", [False, True])
def test_layers_are_sent_while_later_steps_run_unless_secrets_are_to_be_searched_first(
    pybuild: Pybuild,
    registry: RealRegistry,
    context: Callable[..., Path],
    tiny_tar: bytes,
    secret: bool,
) -> None:
    pybuild("import", "-", "shell:1", stdin=tiny_tar)
    wait = "RUN --mount=type=bind,target=/c until test -e /c/go; do sleep 0.1; done; echo > /late"
    folder = context(f"FROM shell:1\nCOPY first /\n{wait}\n", {"first": "1", ".env": "pw=hidden"})
    words = ["--secret", f"id=pw,src={folder}/.env"] if secret else []
    process = subprocess.Popen(
        pybuild.command("build", "--push", *words, "-t", f"{registry.host}/ahead:1", folder),
        env=pybuild.variables(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    said: list[str] = []
    reached = threading.Event()

    def read() -> None:
        assert process.stderr is not None
        for line in process.stderr:
            said.append(line)
            if "RUN --mount" in line:
                reached.set()

    reader = threading.Thread(target=read)
    reader.start()
    with process:
        assert reached.wait(60), said
        for _ in range(30 if secret else 600):
            sent = list((registry.folder / "data").rglob("ahead/_layers/sha256/*/link"))
            if len(sent) >= 2:
                break
            threading.Event().wait(0.1)
        (folder / "go").touch()
        reader.join()
    assert process.returncode == 0, "".join(said)
    assert bool(sent) is not secret
    assert len(inspect(registry, "ahead:1")["Layers"]) == 3
