"""`--format`: the part of Go's text/template that people write on a docker command line.

    {{.Config.Env}}  {{json .Config}}  {{index .RepoTags 0}}  {{len .RootFS.Layers}}
    {{range .RepoTags}}{{println .}}{{end}}  {{if .Author}}by {{.Author}}{{else}}-{{end}}

Values are plain JSON; they print as Go prints them: lists `[a b]`, maps `map[k:v]`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from buildkit_py.errors import UsageError

_ACTION = re.compile(r"\{\{(-?)\s*(.*?)\s*(-?)\}\}", re.DOTALL)
_WORD = re.compile(r'"(?:[^"\\]|\\.)*"|`[^`]*`|\(|\)|\||[^\s()|]+')
_ESCAPES = {"\\t": "\t", "\\n": "\n"}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Node:
    kind: str  # text, value, range, if
    text: str = ""
    body: tuple[_Node, ...] = ()
    otherwise: tuple[_Node, ...] = ()


def render_template(template: str, value: Any) -> str:
    """Evaluate a template on a JSON value. Raises UsageError."""
    return _render(parse_template(template), value)


def parse_template(template: str) -> tuple[_Node, ...]:
    """Check and prepare a template. Raises UsageError."""
    for written, meant in _ESCAPES.items():
        template = template.replace(written, meant)
    pieces: list[tuple[str, str]] = []
    position = 0
    trim = False
    for match in _ACTION.finditer(template):
        text = template[position : match.start()]
        text = text.lstrip() if trim else text
        pieces.append(("text", text.rstrip() if match[1] else text))
        pieces.append(("action", match[2]))
        trim = bool(match[3])
        position = match.end()
    tail = template[position:]
    pieces.append(("text", tail.lstrip() if trim else tail))
    if "{{" in tail:
        raise UsageError(f"template parsing error: unclosed action in {template!r}")
    nodes, rest, _ = _nodes(pieces, 0, inside=False)
    if rest < len(pieces):
        raise UsageError("template parsing error: unexpected {{end}}")
    return nodes


def _nodes(
    pieces: Sequence[tuple[str, str]], index: int, *, inside: bool
) -> tuple[tuple[_Node, ...], int, str]:
    out: list[_Node] = []
    while index < len(pieces):
        kind, text = pieces[index]
        index += 1
        word = text.split(maxsplit=1)[0] if kind == "action" and text else ""
        if kind == "text":
            out.append(_Node(kind="text", text=text))
        elif word in {"end", "else"}:
            if not inside:
                raise UsageError(f"template parsing error: unexpected {{{{{word}}}}}")
            return tuple(out), index, word
        elif word in {"range", "if", "with"}:
            body, index, stop = _nodes(pieces, index, inside=True)
            otherwise: tuple[_Node, ...] = ()
            if stop == "else":
                otherwise, index, stop = _nodes(pieces, index, inside=True)
            out.append(_Node(kind=word, text=text[len(word) :], body=body, otherwise=otherwise))
        elif not text.startswith("/*"):
            _words(text)
            out.append(_Node(kind="value", text=text))
    if inside:
        raise UsageError("template parsing error: unexpected EOF: {{end}} is missing")
    return tuple(out), index, ""


def _render(nodes: Sequence[_Node], value: Any) -> str:
    out: list[str] = []
    for node in nodes:
        if node.kind == "text":
            out.append(node.text)
            continue
        found = _evaluate(_words(node.text), value)
        if node.kind == "value":
            out.append(go_text(found))
        elif not found:
            out.append(_render(node.otherwise, value))
        elif node.kind == "range":
            items = list(found.values()) if isinstance(found, Mapping) else list(found)
            out += [_render(node.body, item) for item in items]
        else:
            out.append(_render(node.body, found if node.kind == "with" else value))
    return "".join(out)


def _words(text: str) -> list[str]:
    words = _WORD.findall(text)
    if not words:
        raise UsageError("template parsing error: missing value for command")
    return words


def _evaluate(words: list[str], value: Any) -> Any:
    """A pipeline: each command's result is the last argument of the next one."""
    result: Any = None
    first = True
    for command in _split(words):
        arguments = _arguments(command, value)
        if not first:
            arguments.append(result)
        result = _call(arguments)
        first = False
    return result


def _split(words: list[str]) -> list[list[str]]:
    out: list[list[str]] = [[]]
    depth = 0
    for word in words:
        depth += (word == "(") - (word == ")")
        if word == "|" and depth == 0:
            out.append([])
        else:
            out[-1].append(word)
    return out


def _arguments(words: list[str], value: Any) -> list[Any]:
    out: list[Any] = []
    index = 0
    while index < len(words):
        word = words[index]
        index += 1
        if word == "(":
            depth, start = 1, index
            while depth and index < len(words):
                depth += (words[index] == "(") - (words[index] == ")")
                index += 1
            if depth:
                raise UsageError("template parsing error: unclosed left paren")
            out.append(_evaluate(words[start : index - 1], value))
        else:
            out.append(_operand(word, value))
    return out


def _operand(word: str, value: Any) -> Any:
    if word == "." or word.startswith((".", "$.")):
        return _path(word.removeprefix("$"), value)
    if word.startswith('"'):
        return json.loads(word)
    if word.startswith("`"):
        return word.strip("`")
    if re.fullmatch(r"-?\d+", word):
        return int(word)
    if word in {"true", "false"}:
        return word == "true"
    if word in _FUNCTIONS:
        return _FUNCTIONS[word]
    raise UsageError(f'template parsing error: function "{word}" not defined')


def _path(path: str, value: Any) -> Any:
    for name in path.split("."):
        if not name:
            continue
        if value is None:
            return None
        if not isinstance(value, Mapping):
            raise UsageError(f"template error: can't evaluate field {name} in {go_text(value)!r}")
        if name not in value:
            close = next((key for key in value if key.lower() == name.lower()), None)
            raise UsageError(
                f'template error: there is no field "{name}"',
                hint=f"did you mean .{close}?"
                if close
                else f"there are: {', '.join(sorted(map(str, value)))}",
            )
        value = value[name]
    return value


def _call(arguments: list[Any]) -> Any:
    head = arguments[0]
    if not callable(head):
        if len(arguments) > 1:
            raise UsageError("template error: can't give argument to non-function")
        return head
    try:
        return head(*arguments[1:])
    except (TypeError, ValueError, IndexError, KeyError, AttributeError) as error:
        raise UsageError(f"template error: {error}") from error


def _index(value: Any, *keys: Any) -> Any:
    for key in keys:
        value = value.get(key, "") if isinstance(value, Mapping) else value[key]
    return value


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "json": _json,
    "index": _index,
    "len": len,
    "join": lambda items, separator: separator.join(map(go_text, items)),
    "split": lambda text, separator: text.split(separator),
    "lower": lambda text: str(text).lower(),
    "upper": lambda text: str(text).upper(),
    "title": lambda text: str(text).title(),
    "println": lambda *items: " ".join(map(go_text, items)) + "\n",
    "print": lambda *items: "".join(map(go_text, items)),
    "truncate": lambda text, count: str(text)[:count],
    "eq": lambda left, *right: any(left == item for item in right),
    "ne": lambda left, right: left != right,
    "not": lambda item: not item,
    "and": lambda *items: next((item for item in items if not item), items[-1]),
    "or": lambda *items: next((item for item in items if item), items[-1]),
}


def go_text(value: Any) -> str:
    """A value as Go's `%v` prints it."""
    if value is None:
        return "<no value>"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return "map[" + " ".join(f"{k}:{go_text(value[k])}" for k in sorted(value)) + "]"
    if isinstance(value, (list, tuple)):
        return "[" + " ".join(map(go_text, value)) + "]"
    return str(value)


def print_rows(
    form: str, columns: Mapping[str, str], rows: Sequence[Mapping[str, Any]], default: str
) -> None:
    """Print rows by `--format`: `json`, a template, or `table TEMPLATE` with a header line.

    `columns` gives the heading of each field; `default` is the template of the plain table.
    """
    from buildkit_py.cli.render import print_table

    if form == "json":
        for row in rows:
            print(_json({key: go_text(item) for key, item in row.items()}))
        return
    if form in {"", "table"}:
        form = f"table {default}"
    if not form.startswith("table"):
        nodes = parse_template(form)
        for row in rows:
            print(_render(nodes, row))
        return
    nodes = parse_template(form.removeprefix("table").lstrip())
    lines = [_render(nodes, row).split("\t") for row in [columns, *rows]]
    width = max(len(line) for line in lines)
    padded = [line + [""] * (width - len(line)) for line in lines]
    print_table(padded[0], padded[1:])
