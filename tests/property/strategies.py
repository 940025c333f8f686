"""Dockerfiles, words and patterns, generated."""

from __future__ import annotations

import string

from hypothesis import strategies as st

NAMES = st.sampled_from(["a", "b", "HOME", "x_1", "unset", "empty"])
VALUES = {
    "a": "one",
    "b": "two words",
    "HOME": "/root/dir.d/file.tar.gz",
    "x_1": "*?",
    "empty": "",
}
PLAIN = st.text(
    alphabet=string.ascii_letters + string.digits + "_./-,:@%+", min_size=1, max_size=8
)


# ------------------------------------------------------------------ words for sh
def _braced(word: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    defaults = st.tuples(NAMES, st.sampled_from([":-", "-", ":+", "+"]), word).map(
        lambda t: f"${{{t[0]}{t[1]}{t[2]}}}"
    )
    patterns = st.text(alphabet="abeo/.*?", min_size=1, max_size=5)
    trims = st.tuples(NAMES, st.sampled_from(["#", "##", "%", "%%"]), patterns).map(
        lambda t: f"${{{t[0]}{t[1]}{t[2]}}}"
    )
    return st.one_of(defaults, trims, NAMES.map(lambda name: f"${{{name}}}"))


_TEXT = st.text(alphabet=string.ascii_letters + string.digits + "_./-", min_size=1, max_size=5)
_SINGLE = st.text(alphabet='ab $"{}', max_size=5).map(lambda text: f"'{text}'")


def _quoted(word: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    inner = st.one_of(_TEXT, NAMES.map(lambda name: f"${{{name}}}"), _braced(_TEXT))
    return st.lists(inner, max_size=3).map(lambda parts: '"' + "".join(parts) + '"')


SHELL_WORDS = st.lists(
    st.one_of(
        _TEXT,
        _SINGLE,
        _braced(_TEXT),
        _braced(_braced(_TEXT)),
        _quoted(_TEXT),
        st.sampled_from(["\\$", "\\\\", '\\"', "\\'"]),
    ),
    min_size=1,
    max_size=5,
).map("".join)
"""Words whose expansion sh and a Dockerfile agree on."""


# ------------------------------------------------------------------ Dockerfiles
_WORD = st.text(alphabet=string.ascii_letters + "0123456789_./-", min_size=1, max_size=8).filter(
    lambda text: not text.startswith("-")
)
_QUOTED_VALUE = st.one_of(
    PLAIN,
    st.text(alphabet="ab c$'", max_size=6).map(lambda text: f'"{text}"'),
    st.text(alphabet='ab c$"', max_size=6).map(lambda text: f"'{text}'"),
    st.just("a\\ b"),
    st.just(""),
)
_KEYWORD = st.sampled_from([str.upper, str.lower, str.title])
_NAME = st.text(alphabet=string.ascii_lowercase, min_size=1, max_size=6)
_PAIR = st.tuples(_NAME, _QUOTED_VALUE).map("=".join)
_ARRAY = st.lists(
    st.text(alphabet="ab c\\é'$-", max_size=5).map(
        lambda text: '"' + text.replace("\\", "\\\\") + '"'
    ),
    min_size=1,
    max_size=3,
).map(lambda items: "[" + ", ".join(items) + "]")
_SHELL = st.text(alphabet=string.ascii_letters + " &|;$'\"(){}<>=-é", min_size=1, max_size=20).map(
    lambda text: f"x{text}".replace("<<", "<").rstrip()
)
_COMMAND = st.one_of(_ARRAY, _SHELL)
_SETS = st.sampled_from(["env ", "label "])
_TEXTS = st.sampled_from(["user ", "workdir ", "maintainer ", "stopsignal "])
_BODY = st.text(alphabet="ab \t$#\\'\"\n", max_size=12).map(
    lambda text: f"{text}\n" if text else ""
)
_CHOWN = st.sampled_from(["", "--chown=1:2 ", "--chmod=u+x ", "--link ", '--exclude="a b" '])
_MOUNT = st.sampled_from(
    ["", "--mount=type=cache,target=/c ", "--network=none ", "--mount=type=secret,id=$a ", "-- "]
)
_TIMES = st.sampled_from(
    ["", "--interval=1m30s ", "--timeout=1.5h --retries=3 ", "--start-period=5ms "]
)


@st.composite
def _heredoc(draw: st.DrawFn, head: str, tail: str) -> str:
    name = draw(st.sampled_from(["EOF", "file.txt", "E1"]))
    marker = draw(st.sampled_from([name, f"'{name}'", f'"{name}"']))
    dash = draw(st.sampled_from(["", "-"]))
    body = "".join(
        f"{line}\n" for line in draw(_BODY).split("\n")[:-1] if line.lstrip("\t") != name
    )
    return f"{head} <<{dash}{marker}{tail}\n{body}{name}"


def _instruction() -> st.SearchStrategy[str]:
    words = st.lists(_WORD, min_size=2, max_size=4).map(" ".join)
    return st.one_of(
        st.tuples(st.just("run "), _MOUNT, _COMMAND).map("".join),
        st.tuples(st.sampled_from(["cmd ", "entrypoint "]), _COMMAND).map("".join),
        st.tuples(
            st.sampled_from(["env ", "label "]), st.lists(_PAIR, min_size=1, max_size=3)
        ).map(lambda t: t[0] + " ".join(t[1])),
        st.tuples(_SETS, _NAME, _SHELL).map(lambda t: f"{t[0]}{t[1]} {t[2]}"),
        st.lists(st.one_of(_NAME, _PAIR), min_size=1, max_size=3).map(
            lambda items: "arg " + " ".join(items)
        ),
        st.tuples(st.sampled_from(["copy ", "add "]), _CHOWN, words).map("".join),
        _ARRAY.map(lambda array: f'copy {array[:-1]}, "/d"]'),
        st.one_of(
            _heredoc("run", ""),
            _heredoc("run", " sh | x"),
            _heredoc("copy", " /d/"),
            _heredoc("onbuild run", ""),
        ),
        st.tuples(
            st.sampled_from(["user ", "workdir ", "maintainer ", "stopsignal "]), _SHELL
        ).map("".join),
        st.tuples(st.sampled_from(["expose ", "volume "]), words).map("".join),
        _ARRAY.map(lambda array: f"shell {array}"),
        st.tuples(st.just("healthcheck "), _TIMES, st.just("CMD "), _COMMAND).map("".join),
        st.just("healthcheck NONE"),
        _SHELL.map(lambda text: f"onbuild run {text}"),
    )


@st.composite
def _cased(draw: st.DrawFn) -> str:
    text = draw(_instruction())
    keyword, blank, rest = text.partition(" ")
    gap = draw(st.sampled_from([" ", "  ", "\t"]))
    return draw(_KEYWORD)(keyword) + (gap if blank else "") + rest


_FROM = st.tuples(
    st.sampled_from(["", "--platform=linux/arm64 "]),
    st.sampled_from(["scratch", "debian:12", "$BASE", "h:5000/x/y@sha256:" + "0" * 64]),
    st.sampled_from(["", " AS one", " as Two"]),
).map(lambda t: "FROM " + "".join(t))
_COMMENT = st.sampled_from(["", "# comment", "   # indented \\", "#", "# name text"])


@st.composite
def dockerfiles(draw: st.DrawFn) -> str:
    """The text of a file that parses."""
    stages = draw(
        st.lists(st.tuples(_FROM, st.lists(_cased(), max_size=5)), min_size=1, max_size=3)
    )
    lines = []
    for from_, items in stages:
        for item in (from_, *items):
            if draw(st.booleans()):
                lines.append(draw(_COMMENT))
            lines.append(item)
    return "\n".join(lines) + draw(st.sampled_from(["\n", "", "\n\n"]))


NOISE = st.one_of(
    st.text(max_size=200),
    st.text(alphabet="FROMRUNCOPYADENV \n\\\t<<-EOF'\"[]{}$:=,#`", max_size=200),
    st.lists(
        st.sampled_from(
            [
                "FROM a",
                "RUN",
                "COPY",
                "ONBUILD",
                "HEALTHCHECK",
                "ENV",
                " ",
                "\n",
                "\\\n",
                "<<E",
                "<<-'E'",
                "E\n",
                "[",
                "]",
                '"',
                "'",
                "${",
                "}",
                ":-",
                "$",
                "--",
                "--mount=",
                "=",
                "type=",
                ",",
                "# escape=`\n",
                "\r\n",
                "\x00",
                "\ufeff",
                "\udc80",
                "\\",
                "`",
                "é",
            ]
        ),
        max_size=60,
    ).map("".join),
)
"""Text that is mostly no Dockerfile."""

IGNORE_PATTERNS = st.lists(
    st.tuples(
        st.sampled_from(["", "", "", "!"]),
        st.lists(
            st.sampled_from(["a", "b", "ab", "*", "?", "a*", "*b", "**", "[ab]", "[^a]", "a.b"]),
            min_size=1,
            max_size=4,
        ).map("/".join),
    ).map("".join),
    max_size=4,
)
PATHS = st.lists(st.sampled_from(["a", "b", "ab", "a.b", "aab", "c"]), min_size=1, max_size=4).map(
    "/".join
)
