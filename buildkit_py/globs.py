r"""Shell patterns of `${v#p}` and `${v/p/r}`: `*`, `?` and the escapes `\*`, `\?`, `\\`.

A pattern is matched by simulating its states as the bits of one integer, so the cost is the
product of the two lengths at worst, whatever the pattern.
"""

from __future__ import annotations

from dataclasses import dataclass, field

_ANY = object()
_STAR = object()


class GlobError(ValueError):
    """A pattern with an escape that has no meaning."""


@dataclass(slots=True)
class _Automaton:
    """Bit i of a state set: the first i tokens have been matched."""

    tokens: list[object]
    stars: int = field(init=False, default=0)
    any_one: int = field(init=False, default=0)
    literal: dict[str, int] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        for index, token in enumerate(self.tokens):
            if token is _STAR:
                self.stars |= 1 << index
            elif token is _ANY:
                self.any_one |= 1 << index
            else:
                self.literal[str(token)] = self.literal.get(str(token), 0) | 1 << index

    @property
    def final(self) -> int:
        return 1 << len(self.tokens)

    def close(self, states: int) -> int:
        """Add the states reached by letting stars match nothing."""
        while True:
            more = states | (states & self.stars) << 1
            if more == states:
                return states
            states = more

    def step(self, states: int, character: str) -> int:
        moved = states & self.literal.get(character, 0)
        stay = 0
        if character != "\n":  # as in RE2 without the `s` flag, wildcards stay on a line
            moved |= states & self.any_one
            stay = states & self.stars
        return self.close(moved << 1 | stay)


def _tokens(pattern: str) -> list[object]:
    tokens: list[object] = []
    index = 0
    while index < len(pattern):
        character = pattern[index]
        index += 1
        if character == "*":
            if not tokens or tokens[-1] is not _STAR:
                tokens.append(_STAR)
        elif character == "?":
            tokens.append(_ANY)
        elif character != "\\":
            tokens.append(character)
        elif pattern[index : index + 1] in {"}", "/"} and index < len(pattern):
            continue
        else:
            follower = pattern[index : index + 1]
            if follower not in {"*", "?", "\\"}:
                raise GlobError(f"invalid escape '\\{follower}'")
            tokens.append(follower)
            index += 1
    return tokens


def _match_end(automaton: _Automaton, value: str, start: int, *, longest: bool) -> int:
    """Where a match that begins at `start` ends, -1 for none."""
    states = automaton.close(1)
    end = start if states & automaton.final else -1
    if end >= 0 and not longest:
        return end
    for index in range(start, len(value)):
        states = automaton.step(states, value[index])
        if not states:
            break
        if states & automaton.final:
            end = index + 1
            if not longest:
                break
    return end


def trim_prefix(pattern: str, value: str, *, longest: bool) -> str:
    """`value` without the shortest or longest prefix that matches. Raises GlobError."""
    end = _match_end(_Automaton(_tokens(pattern)), value, 0, longest=longest)
    return value[end:] if end > 0 else value


def trim_suffix(pattern: str, value: str, *, longest: bool) -> str:
    """`value` without the shortest or longest suffix that matches. Raises GlobError."""
    backwards = _Automaton(_tokens(pattern)[::-1])
    end = _match_end(backwards, value[::-1], 0, longest=longest)
    return value[: len(value) - end] if end > 0 else value


def _starts(tokens: list[object], value: str) -> list[bool]:
    """For each position whether some match begins there."""
    backwards = _Automaton(tokens[::-1])
    initial = backwards.close(1)
    begins = [False] * (len(value) + 1)
    states = initial
    begins[len(value)] = bool(states & backwards.final)
    for index in range(len(value) - 1, -1, -1):
        states = backwards.step(states, value[index]) | initial
        begins[index] = bool(states & backwards.final)
    return begins


def replace_matches(pattern: str, value: str, replacement: str, *, every: bool) -> str:
    """Replace the first leftmost-longest match, or all of them. Raises GlobError."""
    tokens = _tokens(pattern)
    forwards = _Automaton(tokens)
    begins = _starts(tokens, value)
    out: list[str] = []
    position = copied = 0
    previous_end = -1
    while position <= len(value):
        if not begins[position]:
            position += 1
            continue
        end = _match_end(forwards, value, position, longest=True)
        if end == position == previous_end:  # no empty match right behind another match
            position += 1
            continue
        out += [value[copied:position], replacement]
        copied = previous_end = end
        if not every:
            break
        position = end if end > position else position + 1
    out.append(value[copied:])
    return "".join(out)
