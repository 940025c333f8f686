"""Values of `--chown` and `--chmod`, and USER where it owns what is made."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from buildkit_py.errors import InvalidArgument
from buildkit_py.graph import Owner

if TYPE_CHECKING:
    from buildkit_py.source import Span

_OCTAL = re.compile(r"[0-7]+\Z")
_SYMBOLIC = re.compile(r"[ugoa]*(?:[-+=](?:[rwxXst]*|[ugo]))+\Z")


def parse_owner(text: str) -> Owner | None:
    """`user[:group]` as an Owner; None for an empty text. Nothing behind a colon is group 0."""
    if not text:
        return None
    user, colon, group = text.partition(":")
    return Owner(user=user, group=group or ("0" if colon else ""))


def check_linked_owner(owner: Owner, span: Span) -> None:
    """The layer of --link stands on nothing, so that there is no file to look names up in."""
    for name in (owner.user, owner.group):
        if name and name != "root" and not name.isdigit():
            raise InvalidArgument(
                f'--link cannot look up "{name}" of --chown: its layer stands on no base',
                span=span,
                hint="give numbers, as in --chown=1000:1000, or leave out --link",
            )


def check_mode(text: str, span: Span) -> str | None:
    """An octal or symbolic mode, None for an empty text. Raises InvalidArgument."""
    if not text:
        return None
    if _OCTAL.match(text):
        if len(text.lstrip("0")) <= 4:
            return text
    elif all(_SYMBOLIC.match(part) for part in text.split(",")):
        return text
    raise InvalidArgument(
        f"invalid chmod parameter: '{text}'. it should be octal string and between 0 and 07777",
        span=span,
    )
