"""Did-you-mean: the option nearest to a misspelt word."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_LONGEST = 64
_SHORT = 3


def edit_distance(one: str, other: str, limit: int = 1 << 30) -> int:
    """Levenshtein distance; at least `limit` where it is that or more."""
    if abs(len(one) - len(other)) >= limit:
        return limit
    row = list(range(len(other) + 1))
    for index, left in enumerate(one, 1):
        if min(row) >= limit:
            return limit
        previous, row[0] = row[0], index
        for column, right in enumerate(other, 1):
            cost = min(row[column] + 1, row[column - 1] + 1, previous + (left != right))
            previous, row[column] = row[column], cost
    return row[-1]


def nearest(word: str, options: Iterable[str], *, case_sensitive: bool = True) -> str | None:
    """The closest option at a distance below 3, in the casing of `word`; None for none.

    An option that equals the word gives None: then the name is not what is wrong. In a word of
    three letters or less one may be wrong, or their order: two wrong ones make another word.
    """
    if not word or len(word) > _LONGEST:
        return None
    wanted = word if case_sensitive else word.lower()
    best, best_distance = None, 3
    letters = sorted(wanted)
    # of equals, one with the same letters comes first: --chwon is chown rather than chmod
    near = [option for option in options if abs(len(option) - len(word)) < best_distance]
    for option in sorted(near, key=lambda name: (sorted(name) != letters, name)):
        distance = edit_distance(wanted, option if case_sensitive else option.lower(), 3)
        if distance == 0:
            return None
        other = len(option) <= len(word) <= _SHORT and sorted(option) != letters
        allowed = 1 if other else 2
        if distance <= allowed and distance < min(best_distance, len(word)):
            best, best_distance = option, distance
    if best is not None and not case_sensitive:
        return best.lower() if word.islower() else best.upper() if word.isupper() else best
    return best


def with_suggestion(
    message: str, word: str, options: Iterable[str], *, case_sensitive: bool = True
) -> str:
    """`message (did you mean option?)` where there is one."""
    option = nearest(word, options, case_sensitive=case_sensitive)
    return f"{message} (did you mean {option}?)" if option else message
