"""Equal graphs have equal digests, and any field that is changed changes them."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from buildkit_py.cache.keys import CacheMap, by_content, by_key, derive_key
from buildkit_py.digest import sha256
from buildkit_py.graph import (
    CopyFiles,
    ExecOp,
    FileOp,
    ImageOp,
    MakeDirectory,
    MakeFile,
    Owner,
    Vertex,
    VertexOptions,
)
from buildkit_py.platforms import Platform

WORDS = st.text(max_size=6)
OWNERS = st.none() | st.builds(Owner, user=WORDS, group=WORDS)
COPIES = st.builds(
    CopyFiles,
    input=st.integers(0, 2),
    source=WORDS,
    destination=WORDS,
    wildcard=st.booleans(),
    owner=OWNERS,
    mode=st.none() | WORDS,
    exclude=st.lists(WORDS, max_size=2).map(tuple),
)
ACTIONS = (
    COPIES
    | st.builds(MakeDirectory, path=WORDS, mode=st.integers(0, 0o777), owner=OWNERS)
    | st.builds(MakeFile, destination=WORDS, name=WORDS, content=WORDS)
)
OPS = (
    st.builds(
        ExecOp,
        arguments=st.lists(WORDS, max_size=3).map(tuple),
        env=st.lists(WORDS, max_size=3).map(tuple),
        cwd=WORDS,
        user=WORDS,
    )
    | st.builds(FileOp, actions=st.lists(ACTIONS, max_size=3).map(tuple))
    | st.builds(
        ImageOp,
        reference=WORDS,
        digest=WORDS.map(lambda text: sha256(text.encode())),
        platform=st.just(Platform()),
    )
)
OTHER: dict[type, Any] = {
    str: lambda value: value + "x",
    bool: lambda value: not value,
    int: lambda value: value + 1,
    float: lambda value: value + 1.0,
    tuple: lambda value: (*value, "x"),
    type(None): lambda _: "x",
    Owner: lambda value: replace(value, user=value.user + "x"),
    Platform: lambda value: replace(value, architecture=value.architecture + "x"),
}


@given(OPS, OPS)
@settings(max_examples=150, deadline=None)
def test_vertices_are_equal_exactly_if_their_ops_are(one: Any, other: Any) -> None:
    again = Vertex(op=replace(one), options=VertexOptions(name="another name", no_cache=True))
    assert Vertex(op=one).digest == again.digest
    assert (Vertex(op=one) == Vertex(op=other)) == (one == other)


@given(OPS, st.data())
@settings(max_examples=150, deadline=None)
def test_any_field_that_is_changed_changes_the_vertex(op: Any, data: st.DataObject) -> None:
    # what two ops are not compared by is for display only
    name = data.draw(st.sampled_from([item.name for item in fields(op) if item.compare]))
    value = getattr(op, name)
    changed = replace(op, **{name: OTHER[type(value)](value)})
    assert Vertex(op=changed).digest != Vertex(op=op).digest
    user = Vertex(op=FileOp(actions=()), inputs=(Vertex(op=op),))
    other = Vertex(op=FileOp(actions=()), inputs=(Vertex(op=changed),))
    assert user.digest != other.digest


PARTS = (
    st.none()
    | WORDS.map(lambda t: by_key(sha256(t.encode())))
    | WORDS.map(lambda t: by_content([sha256(t.encode())]))
)


@given(st.lists(PARTS, max_size=3), st.lists(PARTS, max_size=3), WORDS, WORDS)
@settings(max_examples=150, deadline=None)
def test_keys_are_equal_exactly_if_op_and_inputs_are(
    one: list[Any], other: list[Any], left: str, right: str
) -> None:
    first = derive_key(CacheMap(parts={"op": left}), one)
    second = derive_key(CacheMap(parts={"op": right}), other)
    assert (first == second) == ((left, one) == (right, other))
