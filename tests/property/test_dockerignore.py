from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from buildkit_py.dockerignore import IgnoreMatcher
from tests.property.strategies import IGNORE_PATTERNS, PATHS


def component(pattern: str, name: str) -> bool:
    """Go's Match on one path component, tried one character at a time."""
    if not pattern:
        return not name
    if pattern[0] == "*":
        return any(component(pattern[1:], name[index:]) for index in range(len(name) + 1))
    if not name:
        return False
    if pattern[0] == "?":
        return component(pattern[1:], name[1:])
    if pattern[0] == "[":
        end = pattern.index("]")
        inside = pattern[1:end]
        negated = inside.startswith("^")
        found = name[0] in inside.removeprefix("^")
        return found is not negated and component(pattern[end + 1 :], name[1:])
    return pattern[0] == name[0] and component(pattern[1:], name[1:])


def whole(pattern: list[str], path: list[str]) -> bool:
    """A pattern on exactly this path; `**` at the end wants one component at least."""
    if not pattern:
        return not path
    if pattern[0] == "**":
        if len(pattern) == 1:
            return bool(path)
        return any(whole(pattern[1:], path[index:]) for index in range(len(path) + 1))
    return bool(path) and component(pattern[0], path[0]) and whole(pattern[1:], path[1:])


def reference(patterns: list[str], path: str) -> bool:
    """The rules said plainly: the last pattern that matches the path or a parent decides."""
    parts = path.split("/")
    excluded = False
    for pattern in patterns:
        words = pattern.removeprefix("!").split("/")
        if any(whole(words, parts[:end]) for end in range(1, len(parts) + 1)):
            excluded = not pattern.startswith("!")
    return excluded


@settings(max_examples=400, deadline=None)
@given(IGNORE_PATTERNS, PATHS)
def test_matching_agrees_with_the_plain_rules(patterns: list[str], path: str) -> None:
    assert IgnoreMatcher(patterns).excluded(path) == reference(patterns, path)


@settings(max_examples=200, deadline=None)
@given(IGNORE_PATTERNS, st.lists(PATHS, min_size=1, max_size=8))
def test_what_was_asked_before_changes_nothing(patterns: list[str], paths: list[str]) -> None:
    together = IgnoreMatcher(patterns)
    for path in paths:
        assert together.excluded(path) == IgnoreMatcher(patterns).excluded(path)


@settings(max_examples=300, deadline=None)
@given(IGNORE_PATTERNS, PATHS)
def test_a_walk_reaches_everything_that_is_not_excluded(patterns: list[str], path: str) -> None:
    matcher = IgnoreMatcher(patterns)
    if not matcher.excluded(path):
        parents = path.split("/")[:-1]
        for end in range(1, len(parents) + 1):
            assert matcher.may_descend("/".join(parents[:end]))
