from __future__ import annotations

from typing import Any

from buildkit_py.cache.base import CacheRecord
from buildkit_py.cache.explain import NEW_TIMES, changed_files, closest, explain_miss
from buildkit_py.digest import Digest, sha256


def parts(kind: str = "exec", *, inputs: list[Any] | None = None, **op: Any) -> dict[str, Any]:
    inputs = [{"key": "k"}] if inputs is None else inputs
    lists = [item.get("content") if item else None for item in inputs]
    return {"op": {"kind": kind, **op}, "inputs": inputs, "lists": lists}


def record(of: dict[str, Any], description: str = "RUN make") -> CacheRecord:
    key = Digest(sha256(repr(of).encode()))
    return CacheRecord(key=key, canonical=key, snapshot=1, parts=of, description=description)


def test_a_step_never_seen_is_built_for_the_first_time() -> None:
    assert explain_miss("RUN make", parts(), None) == "first build of this step"


def test_a_step_without_cache_says_so() -> None:
    assert (
        explain_miss("RUN make", parts(), record(parts()), no_cache="--no-cache-filter")
        == "--no-cache-filter"
    )


def test_a_changed_argument_is_named_with_both_values() -> None:
    old, new = parts(env=["PATH=/", "VERSION=1.2"]), parts(env=["PATH=/", "VERSION=1.3"])
    names = frozenset({"VERSION"})
    reason = explain_miss("RUN make", new, record(old), argument_names=names)
    assert reason == "ARG VERSION 1.2 → 1.3"


def test_a_changed_variable_is_named() -> None:
    old, new = parts(env=["MODE=a"]), parts(env=["MODE=b", "MORE=1"])
    assert explain_miss("RUN make", new, record(old)) == "ENV MODE a → b, ENV MORE is new (1)"


def test_changed_files_are_named() -> None:
    old = parts("file", inputs=[None, {"content": ["old"]}])
    new = parts("file", inputs=[None, {"content": ["new"]}])
    lists = {
        "old": {".": "1", "README.md": "1", "src": "1", "src/a.py": "1"},
        "new": {".": "1", "README.md": "2", "src": "1", "src/a.py": "2"},
    }
    reason = explain_miss("COPY . /app", new, record(old, "COPY . /app"), files=lists.get)
    assert reason == "2 files changed (README.md, src/a.py)"


def test_of_many_changed_files_a_few_are_named() -> None:
    old = parts("file", inputs=[{"content": ["old"]}])
    new = parts("file", inputs=[{"content": ["new"]}])
    lists = {"old": {}, "new": {f"f{number}": "1" for number in range(9)}}
    reason = explain_miss("COPY . .", new, record(old, "COPY . ."), files=lists.get)
    assert reason == "9 files added (f0, f1, f2, …)"


def test_added_deleted_and_renamed_files_are_told_apart() -> None:
    old = parts("file", inputs=[{"content": ["old"]}])
    new = parts("file", inputs=[{"content": ["new"]}])
    lists = {
        "old": {"a": "1", "b": "2", "c": "3", "x/d": "4"},
        "new": {"a": "5", "e": "6", "y/d": "4", "c": "3"},
    }
    reason = explain_miss("COPY . .", new, record(old, "COPY . ."), files=lists.get)
    assert reason == ("1 file changed (a), 1 added (e), 1 deleted (b), 1 renamed (x/d → y/d)")


def test_a_removed_record_is_no_first_build() -> None:
    reason = explain_miss("RUN make", parts(), None, was_built=True)
    assert reason == "its record was removed from the cache"


def test_a_moved_base_image_shows_both_digests() -> None:
    old = parts("image", inputs=[], digest="sha256:" + "a" * 64)
    new = parts("image", inputs=[], digest="sha256:" + "b" * 64)
    reason = explain_miss("FROM debian", new, record(old, "FROM debian"))
    assert reason == "digest moved aaaaaaaaaaaa… → bbbbbbbbbbbb…"


def test_an_edited_instruction_shows_what_it_was() -> None:
    old = parts(arguments=["make"])
    reason = explain_miss("RUN make all", parts(arguments=["make all"]), record(old))
    assert reason == "the instruction was: RUN make"


def test_a_step_after_a_changed_one_names_that() -> None:
    old, new = parts(inputs=[{"key": "1"}]), parts(inputs=[{"key": "2"}])
    reason = explain_miss("RUN make", new, record(old), causes=[("COPY . /app", True)])
    assert reason == "follows COPY . /app"


def test_another_field_of_the_step_is_named() -> None:
    old, new = parts(user="root", cwd="/"), parts(user="web", cwd="/")
    assert explain_miss("RUN make", new, record(old)) == "user root → web"


def test_the_closest_record_is_compared_with() -> None:
    far = record(parts(env=["A=1"], user="x", cwd="/x"))
    near = record(parts(env=["A=2"], user="root", cwd="/"))
    assert closest(parts(env=["A=3"], user="root", cwd="/"), [far, near]) == near


def test_a_directory_is_named_only_if_nothing_in_it_changed() -> None:
    assert changed_files({"d": "1", "d/f": "1"}, {"d": "2", "d/f": "1"}) == ["d"]
    assert changed_files({"d": "1", "d/f": "1"}, {"d": "1"}) == ["d/f"]


def test_a_value_in_a_run_is_named_as_such_though_its_text_shows_it() -> None:
    old, new = (parts(arguments=["echo $V"], env=[f"V={value}"]) for value in (1, 2))
    names = frozenset({"V"})
    reason = explain_miss("RUN echo 2", new, record(old, "RUN echo 1"), argument_names=names)
    assert reason == "ARG V 1 → 2"


def test_times_that_follow_from_a_moved_base_are_not_named_before_it() -> None:
    old, new = (
        parts("file", inputs=[{"key": key}], settle=key, actions=[{"to": "/", "earliest": key}])
        for key in (1, 2)
    )
    was = record(old, "COPY a /")
    assert explain_miss("COPY a /", new, was, causes=[("FROM x", True)]) == "follows FROM x"
    alone = {**new, "inputs": old["inputs"]}
    assert explain_miss("COPY a /", alone, was) == NEW_TIMES
