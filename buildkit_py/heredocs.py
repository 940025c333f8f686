"""Here-documents: which instructions take them, their markers, and their bodies.

What decides about them (leading flags, JSON arrays) is shared with `syntax.py`.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from functools import cache, lru_cache

from buildkit_py.expansion import ExpansionError, Mode, split_words

BLANKS = "\t\n\v\f\r \x85\xa0"
"""What surrounds words; the ASCII part separates them."""

_HEREDOC_KEYWORDS = frozenset({"ADD", "COPY", "RUN"})
_HEREDOC_WORD = re.compile(r"(\d*)<<(-?)([^<]*)\Z", re.DOTALL)
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_.]+\Z")
_DANGLING_MARKER = re.compile(r"\d*<<-?\Z")
_SEPARATOR = re.compile(r"[\t\v\f\r ]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Heredoc:
    """A here-document: `[descriptor]<<[-]name` and its body as written, line ends kept.

    `expand` is False when any part of the name is quoted; `strip_tabs` is the dash.
    """

    name: str
    body: str
    expand: bool = True
    strip_tabs: bool = False
    descriptor: int = 0
    first_line: int = field(default=0, compare=False)

    @property
    def content(self) -> str:
        """The body, without its leading tabs where the marker has a dash."""
        return re.sub(r"(?m)^\t+", "", self.body) if self.strip_tabs else self.body


def may_have_heredocs(text: str) -> bool:
    """Whether the instruction's keyword takes here-documents and its form is not JSON."""
    keyword, text = _split_keyword(text)
    if keyword == "ONBUILD":
        keyword, text = _split_keyword(text)
    if keyword not in _HEREDOC_KEYWORDS:
        return False
    try:
        return parse_json_array(text[skip_flags(text) :]) is None
    except NotStrings:
        return False


def _split_keyword(text: str) -> tuple[str, str]:
    match = _SEPARATOR.search(text)
    if not match:
        return text.upper(), ""
    return text[: match.start()].upper(), text[match.end() :]


def heredoc_markers(text: str) -> tuple[Heredoc, ...]:
    """The here-document markers of an instruction, bodies empty. Raises ExpansionError."""
    mode = Mode(keep_quotes=True, keep_escapes=True, keep_unset=True)
    try:
        words = split_words(text, mode)
    except ExpansionError:
        return ()
    found = []
    prefix = ""
    for word in words:
        if not prefix and _DANGLING_MARKER.match(word):
            prefix = word + " "
            continue
        marker = parse_marker(prefix + word)
        prefix = ""
        if marker is not None:
            found.append(marker)
    return tuple(found)


@lru_cache(maxsize=512)
def parse_marker(word: str) -> Heredoc | None:
    """Read `[descriptor]<<[-]name`; None where the word is no marker. Raises ExpansionError."""
    match = _HEREDOC_WORD.match(word)
    if not match or not match.group(3):
        return None
    rest = match.group(3)
    name, expand = rest, True
    if not _PLAIN_NAME.match(rest):
        names = split_words(rest, Mode(keep_unset=True))
        if len(names) != 1:
            return None
        name = names[0]
        raw = split_words(rest, Mode(keep_unset=True, keep_quotes=True))
        expand = _quotes(name) == _quotes("".join(raw))
    return Heredoc(
        name=name,
        body="",
        expand=expand,
        strip_tabs=match.group(2) == "-",
        descriptor=int(match.group(1)[-9:] or 0),
    )


def _quotes(text: str) -> int:
    return text.count("'") + text.count('"')


# ------------------------------------------------------------------ flags and arrays
@cache
def _flags() -> re.Pattern[str]:
    double = r'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)'
    single = r"'(?:[^'\\]|\\.)*+(?:'|\\?\Z)"
    flag = rf"""--(?=[^\s])(?:[^\s"'\\]|\\.|{double}|{single})*+\s*+"""
    return re.compile(rf"(?:{flag})*+(?:--(?=\s|\Z)\s*+)?", re.DOTALL)


def skip_flags(text: str) -> int:
    """Where the operands begin, behind any leading `--flags`; a backslash escapes in those."""
    match = _flags().match(text) if text.startswith("--") else None
    return match.end() if match else 0


class NotStrings(ValueError):
    """A JSON array that holds something else than strings."""


def parse_json_array(text: str) -> tuple[str, ...] | None:
    """The strings of a JSON array; None for any other text. Raises NotStrings."""
    text = text.lstrip(BLANKS)
    if not text.startswith("["):
        return None
    try:
        value = json.loads(text, parse_constant=_no_constant, parse_int=str.__len__)
    except (ValueError, RecursionError):
        return None
    if not all(isinstance(item, str) for item in value):
        raise NotStrings
    return tuple(_valid_unicode(item) for item in value)


def _no_constant(name: str) -> None:
    raise ValueError(name)


def _valid_unicode(text: str) -> str:
    return re.sub("[\ud800-\udfff]", "\ufffd", text)
