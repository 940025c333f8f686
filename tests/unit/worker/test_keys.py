"""What is in a step's key and what is not: the table of cache keys, row by row."""

from __future__ import annotations

from dataclasses import replace

import pytest

from buildkit_py.cache.keys import Selection
from buildkit_py.digest import sha256
from buildkit_py.graph import (
    BindMount,
    CacheMount,
    CopyFiles,
    Device,
    ExecOp,
    FileOp,
    ImageOp,
    MakeDirectory,
    MakeFile,
    MergeOp,
    Op,
    Owner,
    SecretMount,
    SshMount,
    TmpfsMount,
    Vertex,
)
from buildkit_py.platforms import Platform
from buildkit_py.worker.keys import cache_map

IMAGE = ImageOp(reference="debian:12", digest=sha256(b"1"), platform=Platform())
BASE = Vertex(op=IMAGE)
OTHER = Vertex(op=MergeOp())

EXEC = ExecOp(
    arguments=("/bin/sh", "-c", "make"),
    env=("PATH=/bin", "V=1"),
    mounts=(
        BindMount(target="/src", input=1, source="/a"),
        CacheMount(target="/cache", id="one"),
        SecretMount(id="token", target="/run/secrets/token"),
        SshMount(id="default", target="/run/buildkit/ssh_agent.0"),
        TmpfsMount(target="/tmp", size=1024),
    ),
    extra_hosts=(("db", "10.0.0.1"),),
)
COPY = CopyFiles(input=1, source="/src/a.txt", destination="/app/")


def key(op: Op, inputs: tuple[Vertex | None, ...] = (BASE, OTHER)) -> str:
    return cache_map(Vertex(op=op, inputs=inputs)).digest


def with_mount(index: int, **changes: object) -> ExecOp:
    mounts = list(EXEC.mounts)
    mounts[index] = replace(mounts[index], **changes)  # type: ignore[arg-type]
    return replace(EXEC, mounts=tuple(mounts))


@pytest.mark.parametrize(
    "changed",
    [
        replace(EXEC, arguments=("/bin/sh", "-c", "make all")),
        replace(EXEC, env=("PATH=/bin", "V=2")),
        replace(EXEC, env=("PATH=/bin", "V=1", "UNUSED=1")),
        replace(EXEC, env=("V=1", "PATH=/bin")),
        replace(EXEC, cwd="/work"),
        replace(EXEC, user="nobody"),
        replace(EXEC, hostname="other"),
        replace(EXEC, network="none"),
        replace(EXEC, security="insecure"),
        replace(EXEC, mounts=EXEC.mounts[1:]),
        replace(EXEC, devices=(Device(name="vendor.com/gpu=0"),)),
        replace(EXEC, ulimits=("nofile=10:10",)),
        replace(EXEC, cgroup_parent="/builds"),
        replace(EXEC, shm_size=1 << 20),
        replace(EXEC, platform=Platform(architecture="arm64")),
        replace(EXEC, heredocs=(("EOF", "echo"),)),
        replace(EXEC, extra_hosts=(("other", "10.0.0.1"),)),
        with_mount(0, target="/other"),
        with_mount(0, writable=True),
        with_mount(1, target="/other"),
        with_mount(1, uid=1000),
        with_mount(1, mode=0o700),
        with_mount(2, id="other"),
        with_mount(2, required=True),
        with_mount(2, mode=0o444),
        with_mount(2, env="TOKEN"),
        with_mount(3, id="github"),
        with_mount(4, size=2048),
    ],
)
def test_what_a_run_is_made_of_is_in_its_key(changed: ExecOp) -> None:
    assert key(changed) != key(EXEC)


@pytest.mark.parametrize(
    "changed",
    [
        replace(EXEC, proxy_env=("HTTP_PROXY=http://proxy",)),
        replace(EXEC, extra_hosts=(("db", "10.9.9.9"),)),
        replace(EXEC, resources=("memory=1g",)),
        replace(EXEC, timeout=60.0),
        with_mount(0, source="/elsewhere"),  # its content counts, not where it lies
        with_mount(1, id="two"),
        with_mount(1, sharing="locked"),
    ],
)
def test_what_does_not_change_a_result_is_not_in_its_key(changed: ExecOp) -> None:
    assert key(changed) == key(EXEC)


@pytest.mark.parametrize(
    "changed",
    [
        replace(COPY, destination="/other/"),
        replace(COPY, source="/src/b.txt"),
        replace(COPY, owner=Owner(user="1000")),
        replace(COPY, mode="0755"),
        replace(COPY, exclude=("*.md",)),
        replace(COPY, wildcard=True),
        replace(COPY, parents=True),
        replace(COPY, mtime=1),
        replace(COPY, keep_owner=True),
        replace(COPY, unpack=True),
        replace(COPY, follow_destination_links=False),
    ],
)
def test_what_a_copy_is_made_of_is_in_its_key(changed: CopyFiles) -> None:
    assert key(FileOp(actions=(changed,))) != key(FileOp(actions=(COPY,)))


def test_of_a_copied_path_the_last_name_only_is_in_the_key() -> None:
    moved = replace(COPY, source="/elsewhere/a.txt")
    assert key(FileOp(actions=(moved,))) == key(FileOp(actions=(COPY,)))


def test_the_order_of_copies_is_in_the_key() -> None:
    other = replace(COPY, source="/b.txt")
    assert key(FileOp(actions=(COPY, other))) != key(FileOp(actions=(other, COPY)))


def test_what_is_copied_counts_by_content_and_what_it_is_copied_onto_does_not() -> None:
    found = cache_map(Vertex(op=FileOp(actions=(COPY,)), inputs=(BASE, OTHER))).inputs
    assert not found[0].by_content
    assert found[1].selections == (Selection(paths=("/src/a.txt",)),)


def test_what_is_mounted_counts_by_content_and_the_root_does_not() -> None:
    found = cache_map(Vertex(op=EXEC, inputs=(BASE, OTHER))).inputs
    assert not found[0].by_content
    assert found[1].selections == (Selection(paths=("/a",)),)


def test_a_source_that_is_taken_twice_counts_twice() -> None:
    one, other = replace(COPY, source="/b/a.txt"), COPY
    for third in (one, other):
        op = FileOp(actions=(one, other, third))
        found = cache_map(Vertex(op=op, inputs=(BASE, OTHER))).inputs[1].selections
        assert [item.paths[0] for item in found] == ["/b/a.txt", "/src/a.txt", third.source]


def test_a_copy_onto_nothing_differs_from_one_onto_something() -> None:
    op = FileOp(actions=(COPY,))
    assert key(op, (None, OTHER)) != key(op, (BASE, OTHER))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (MakeDirectory(path="/w"), MakeDirectory(path="/w", mode=0o700)),
        (MakeDirectory(path="/w"), MakeDirectory(path="/x")),
        (MakeDirectory(path="/w"), MakeDirectory(path="/w", owner=Owner(user="web"))),
        (MakeDirectory(path="/w"), MakeDirectory(path="/w", mtime=0)),
        (
            MakeFile(destination="/f", name="EOF", content="a"),
            MakeFile(destination="/f", name="EOF", content="b"),
        ),
    ],
)
def test_directories_and_here_documents_count_with_all_their_fields(
    one: MakeDirectory | MakeFile, other: MakeDirectory | MakeFile
) -> None:
    assert key(FileOp(actions=(one,))) != key(FileOp(actions=(other,)))


def test_an_image_counts_by_digest_and_platform_and_not_by_name() -> None:
    assert key(replace(IMAGE, reference="debian:bookworm")) == key(IMAGE)
    assert key(replace(IMAGE, digest=sha256(b"2"))) != key(IMAGE)
    assert key(replace(IMAGE, platform=Platform(architecture="arm64"))) != key(IMAGE)
