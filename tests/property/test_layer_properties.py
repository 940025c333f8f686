"""Layers, stated as properties over random trees and random changes to them."""

from __future__ import annotations

import io
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from buildkit_py.errors import CopyError, CorruptArchive
from buildkit_py.graph import CopyFiles, FileOp
from buildkit_py.layers.apply import apply_layer
from buildkit_py.layers.attributes import Attributes
from buildkit_py.layers.context import ContextTree
from buildkit_py.layers.copy import TreeWriter
from buildkit_py.layers.diff import write_layer
from buildkit_py.layers.members import Members
from buildkit_py.layers.squash import squash
from buildkit_py.layers.tar import (
    CHARACTER,
    DIRECTORY,
    FIFO,
    HARD_LINK,
    REGULAR,
    SYMLINK,
    LayerWriter,
    TarEntry,
)
from buildkit_py.layers.tar_reader import LayerReader, TarLimits
from buildkit_py.layers.tree import MergedTree
from buildkit_py.worker.copy_tree import PreviousCopy
from buildkit_py.worker.file import FileRun, run_file_op
from tests.trees import make_tree, read_stack

ROOT = os.geteuid() == 0
quick = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)

component = st.sampled_from([b"a", b"b", b"c", b"lib", "é".encode(), b"\xff\x01", b"n" * 120])
path = st.lists(component, min_size=1, max_size=3).map(b"/".join)
ids = st.sampled_from([0, 0, 1, 1000, 2_097_152, 4_000_000_000] if ROOT else [os.geteuid()])
groups = ids if ROOT else st.just(os.getegid())
attributes = st.builds(
    Attributes,
    mode=st.sampled_from([0o644, 0o755, 0o4711, 0o2755, 0o1777, 0o600]),
    uid=ids,
    gid=groups,
    mtime_ns=st.integers(-10, 5_000_000_000).map(lambda seconds: seconds * 10**9),
    xattrs=st.sampled_from([{}, {}, {"user.a": b"1"}, {"user.b": b"\0\n="}]),
)
change = st.one_of(
    st.tuples(st.just("file"), path, attributes, st.binary(max_size=40)),
    st.tuples(st.just("directory"), path, attributes, st.none()),
    st.tuples(st.just("symlink"), path, attributes, st.sampled_from([b"/a", b"../b", b"x/y"])),
    st.tuples(st.just("link"), path, attributes, path),
    st.tuples(st.just("remove"), path, attributes, st.none()),
    st.tuples(st.just("fifo"), path, attributes, st.none()),
)
changes = st.lists(change, max_size=12)


@contextmanager
def folders(*names: str) -> Iterator[list[Path]]:
    place = Path(tempfile.mkdtemp(prefix="pt-", dir="/dev/shm"))
    try:
        for name in names:
            (place / name).mkdir()
        yield [place / name for name in names]
    finally:
        shutil.rmtree(place)


def carry_out(writer: TreeWriter, steps: list[Any]) -> None:  # noqa: C901 - a table
    """Do the changes that are possible."""
    for kind, name, wanted, extra in steps:
        try:
            parent_path, _, last = writer.resolve(b"/" + name, follow=False).rpartition(b"/")
            writer.make_directories(parent_path, Attributes(mode=0o755, mtime_ns=10**9))
            parent = writer.directory(parent_path or b"/")
            there = writer.entry(parent, last)
            if kind == "remove":
                if there is not None:
                    writer.remove(parent, last)
            elif kind == "directory":
                if there is None:
                    writer.make_directory(parent, last, wanted)
                elif there.is_dir:
                    writer.set_directory(writer.directory(there.path), wanted)
            elif there is not None and there.is_dir:
                continue
            elif kind == "file":
                writer.write_file(parent, last, wanted, (extra,))
            elif kind == "symlink":
                writer.symlink(parent, last, extra, Attributes(mode=0o777, mtime_ns=10**9))
            elif kind == "fifo":
                writer.node(parent, last, stat.S_IFIFO, 0, wanted)
            else:
                target = writer.lookup(b"/" + extra, follow=False)
                if target is not None and target.is_file and target.path != b"/" + name:
                    writer.link(parent, last, *writer.copy_up(target.path))
        except CopyError:
            continue


def layer_of(upper: Path, members: Members | None = None) -> bytes:
    out = io.BytesIO()
    write_layer(upper, out, members=members)
    return out.getvalue()


@quick
@given(first=changes, second=changes)
def test_a_layer_applied_to_its_base_gives_the_changed_tree(first: Any, second: Any) -> None:
    with folders("base", "upper", "applied") as (base, upper, applied):
        with TreeWriter([], base) as writer:
            carry_out(writer, first)
        with TreeWriter([base], upper) as writer:
            carry_out(writer, second)
        data = layer_of(upper)
        apply_layer(io.BytesIO(data), applied)
        assert read_stack(base, applied, times=True) == read_stack(base, upper, times=True)
        assert layer_of(applied) == data


@quick
@given(first=changes, second=changes, third=changes)
def test_squashed_layers_show_what_the_stack_showed(first: Any, second: Any, third: Any) -> None:
    with folders("base", "one", "two", "upper", "all") as (base, one, two, upper, every):
        below: list[Path] = []
        for place, steps in ((base, first), (one, second), (two, third)):
            with TreeWriter(below, place) as writer:
                carry_out(writer, steps)
            below.append(place)
        before = [layer_of(place) for place in below]
        squash([one, two], [base], upper)
        squash(below, [], every)
        expected = read_stack(*below, times=True)
        assert read_stack(base, upper, times=True) == expected
        assert read_stack(every, times=True) == expected
        assert b".wh." not in layer_of(every)
        assert [layer_of(place) for place in below] == before


@quick
@given(first=changes, second=changes)
def test_lower_directories_never_change(first: Any, second: Any) -> None:
    with folders("base", "upper") as (base, upper):
        with TreeWriter([], base) as writer:
            carry_out(writer, first)
        before = layer_of(base)
        with TreeWriter([base], upper) as writer:
            carry_out(writer, second)
        assert layer_of(base) == before


@quick
@given(steps=changes, order=st.randoms())
def test_two_layers_of_equal_trees_are_byte_identical(steps: Any, order: Any) -> None:
    with folders("one", "copy") as (one, copied):
        with TreeWriter([], one) as writer:
            carry_out(writer, steps)
        data = layer_of(one)
        # the same files made in another order, in another directory
        reader = LayerReader(io.BytesIO(data))
        members = [(entry, reader.read_all()) for entry in reader]
        firsts = [m for m in members if m[0].kind != HARD_LINK]
        order.shuffle(firsts)
        shuffled = [*firsts, *[m for m in members if m[0].kind == HARD_LINK]]
        out = io.BytesIO()
        shuffling = LayerWriter(out)
        for entry, content in shuffled:
            shuffling.add(entry, content)
        shuffling.finish()
        apply_layer(io.BytesIO(out.getvalue()), copied)
        assert layer_of(copied) == data


@quick
@given(
    entry=st.builds(
        TarEntry,
        name=st.binary(min_size=1, max_size=400).filter(
            lambda name: b"\0" not in name and not name.endswith(b"/")
        ),
        kind=st.sampled_from([REGULAR, SYMLINK, HARD_LINK, FIFO]),
        mode=st.integers(0, 0o7777),
        uid=st.integers(0, 2**32 - 2),
        gid=st.integers(0, 2**32 - 2),
        size=st.just(0),
        mtime_ns=st.integers(-(2**33), 2**33).map(lambda seconds: seconds * 10**9),
        link=st.binary(min_size=1, max_size=300).filter(lambda link: b"\0" not in link),
        xattrs=st.dictionaries(
            st.text(st.characters(codec="utf-8", exclude_characters="=\0"), min_size=1),
            st.binary(max_size=50),
            max_size=3,
        ),
    )
)
def test_any_entry_survives_a_tar(entry: TarEntry) -> None:
    out = io.BytesIO()
    writer = LayerWriter(out)
    writer.add(entry)
    writer.finish()
    assert list(LayerReader(io.BytesIO(out.getvalue()))) == [entry]


hostile_name = st.lists(
    st.sampled_from([b"..", b"", b".", b"a", b"b", b"l", b"victim", b".wh.a", b".wh..wh..opq"]),
    min_size=1,
    max_size=4,
).map(b"/".join)
hostile_entry = st.tuples(
    hostile_name,
    st.sampled_from([REGULAR, DIRECTORY, SYMLINK, HARD_LINK, CHARACTER, FIFO]),
    st.sampled_from([b"..", b"/", b"../..", b"a", b"../victim", b"/proc/self/root", b"l/victim"]),
)


@settings(quick, max_examples=150)
@given(members=st.lists(hostile_entry, max_size=8))
def test_a_tar_never_writes_outside_its_root(members: Any) -> None:
    out = io.BytesIO()
    writer = LayerWriter(out)
    for name, kind, link in members:
        if name:
            writer.add(TarEntry(name=name, kind=kind, link=link, mode=0o755, major=0, minor=0))
    writer.finish()
    with folders("jail") as (jail,):
        make_tree(jail, {"victim": "precious", "layer/": None, "base/a": "1"})
        before = {k: v for k, v in read_stack(jail, times=True).items() if k[:6] != "/layer"}
        with suppress(CorruptArchive):
            apply_layer(io.BytesIO(out.getvalue()), jail / "layer", lowers=[jail / "base"])
        after = {k: v for k, v in read_stack(jail, times=True).items() if k[:6] != "/layer"}
        assert after == before


@settings(quick, max_examples=200)
@given(
    data=st.binary(max_size=1500), cut=st.integers(0, 2000), flips=st.lists(st.integers(0, 2047))
)
def test_only_typed_errors_leave_the_reader(data: bytes, cut: int, flips: list[int]) -> None:
    out = io.BytesIO()
    writer = LayerWriter(out)
    writer.add(TarEntry(name=b"n" * 150, size=len(data), xattrs={"user.x": data[:20]}), data)
    writer.finish()
    damaged = bytearray(out.getvalue()[: cut or None])
    for flip in flips:
        if flip < len(damaged):
            damaged[flip] ^= 0x5A
    reader = LayerReader(io.BytesIO(bytes(damaged)), TarLimits(total_size=1 << 20))
    try:
        for _ in reader:
            for _ in reader.chunks():
                pass
    except CorruptArchive:
        pass


edit = st.tuples(
    st.sampled_from(["write", "touch", "delete", "chmod", "link"]), st.integers(0, 30)
)


@quick
@given(edits=st.lists(edit, max_size=8), known=st.booleans())
@pytest.mark.parametrize("mode", [None, "u=rwX,go=rX"])
def test_a_copy_from_an_earlier_result_is_a_copy_from_nothing(
    edits: Any, known: bool, mode: str | None
) -> None:
    names = [f"d{number % 3}/f{number}" for number in range(12)]
    with folders("context", "old", "new", "plain") as (context, old, new, plain):
        make_tree(context, {name: name * 50 for name in names})
        (context / "d0/hard").hardlink_to(context / "d0/f0")
        action = CopyFiles(input=1, source="/", destination="/app", mode=mode)

        def run(upper: Path, previous: PreviousCopy | None = None) -> bytes:
            inputs = [None, ContextTree(context)]
            run_file_op(
                FileOp(actions=(action,)),
                FileRun(base=[], inputs=inputs, upper=upper, previous=previous),
            )
            return layer_of(upper)

        first = run(old)
        before = read_stack(context)
        edit_files(context, names, edits)
        after = read_stack(context)

        def unchanged(_: int, name: bytes) -> bool:
            key = os.fsdecode(name)
            return strip(before.get(key)) == strip(after.get(key)) is not None

        previous = PreviousCopy(upper=old, unchanged=unchanged if known else None)
        members = Members()
        assert write_layer(old, members=members).size == len(first)
        assert members.made
        wanted = run(plain)
        assert run(new, previous) == wanted
        assert layer_of(new, Members(members.made)) == wanted
        assert write_layer(new, members=Members(members.made)) == write_layer(plain)
        assert layer_of(old) == first


def strip(value: Any) -> Any:
    """Without what says that a file has further names."""
    if value is None:
        return None
    return tuple(item for item in value if not str(item).startswith("linked to"))


def edit_files(context: Path, names: list[str], edits: Any) -> None:
    for kind, number in edits:
        target = context / names[number % len(names)]
        other = context / names[(number * 7 + 1) % len(names)]
        if kind == "delete":
            target.unlink(missing_ok=True)
        elif kind == "link":
            if other.exists() and target != other:
                target.unlink(missing_ok=True)
                target.hardlink_to(other)
        elif not target.exists():
            continue
        elif kind == "write":
            times = target.stat()
            data = target.read_bytes()
            target.write_bytes(data[::-1])
            os.utime(target, ns=(times.st_mtime_ns, times.st_mtime_ns))  # the nastiest change
        elif kind == "touch":
            os.utime(target, (9, 9))
        else:
            target.chmod(0o600 | number)


def test_merged_views_are_lookups(tmp_path: Path) -> None:
    """`children` and `child` agree on every entry of a stack."""
    with folders("base", "upper") as (base, upper):
        steps = [
            ("file", b"a/b", Attributes(mode=0o644), b"1"),
            ("remove", b"a/b", Attributes(mode=0o644), None),
        ]
        with TreeWriter([], base) as writer:
            carry_out(writer, steps[:1])
        with TreeWriter([base], upper) as writer:
            carry_out(writer, steps[1:])
        tree = MergedTree([base, upper])
        folder = tree.lookup("/a")
        assert folder is not None
        assert tree.children(folder) == []
        assert tree.child(folder, b"b") is None
