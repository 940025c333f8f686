r"""`--format`: Go's text/template, with docker's functions, on plain JSON values.

    {{.Config.Env}}  {{json .Config}}  {{index .RepoTags 0}}  {{len .RootFS.Layers}}
    {{range $key, $value := .Config.Labels}}{{printf "%s=%s\n" $key $value}}{{end}}

Values print as Go prints them: lists `[a b]`, maps `map[k:v]`. The language is in
`template_syntax.py`, its functions are in `template_functions.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, assert_never

from buildkit_py.cli.template_functions import FUNCTIONS, Record, field_of, go_text, to_json
from buildkit_py.cli.template_syntax import (
    Block,
    Chain,
    Function,
    Include,
    Jump,
    Literal,
    Node,
    Operand,
    Pipe,
    Template,
    Text,
    Value,
    parse_template,
)
from buildkit_py.errors import UsageError

_DEEPEST = 100  # of templates that include themselves


def render_template(template: str | Template, value: Any) -> str:
    """Evaluate a template on a JSON value. Raises UsageError."""
    parsed = parse_template(template) if isinstance(template, str) else template
    out: list[str] = []
    try:
        _Run(parsed.defined, out).nodes(parsed.nodes, _Scope(dot=value, variables={"$": value}))
    except _Broken as jump:
        word = "continue" if jump.again else "break"
        raise UsageError(f"template parsing error: {{{{{word}}}}} outside {{{{range}}}}") from jump
    return "".join(out)


class _Broken(Exception):
    """`break`, or with `again` `continue`, on its way to the loop."""

    def __init__(self, *, again: bool) -> None:
        super().__init__()
        self.again = again


@dataclass(frozen=True, slots=True)
class _Scope:
    """The current value, and the variables that can be seen."""

    dot: Any
    variables: dict[str, Any] = field(default_factory=dict)
    above: _Scope | None = None
    depth: int = 0

    def inner(self, dot: Any) -> _Scope:
        return _Scope(dot=dot, above=self, depth=self.depth)

    def holder(self, name: str) -> dict[str, Any] | None:
        scope: _Scope | None = self
        while scope is not None:
            if name in scope.variables:
                return scope.variables
            scope = scope.above
        return None


@dataclass(frozen=True, slots=True)
class _Run:
    defined: dict[str, tuple[Node, ...]]
    out: list[str]

    def nodes(self, nodes: Sequence[Node], scope: _Scope) -> None:
        for node in nodes:
            if isinstance(node, Text):
                self.out.append(node.text)
            elif isinstance(node, Value):
                found = evaluate(node.pipe, scope)
                for name in node.pipe.names:
                    (scope.holder(name) or scope.variables)[name] = found
                if not node.pipe.names:
                    self.out.append(go_text(found))
            elif isinstance(node, Block):
                self._block(node, scope)
            elif isinstance(node, Include):
                self._include(node, scope)
            elif isinstance(node, Jump):
                raise _Broken(again=node.kind == "continue")
            else:
                assert_never(node)

    def _include(self, node: Include, scope: _Scope) -> None:
        if node.name not in self.defined:
            raise UsageError(f'template error: template "{node.name}" not defined')
        if scope.depth >= _DEEPEST:
            raise UsageError("template error: exceeded maximum template depth")
        dot = None if node.pipe is None else evaluate(node.pipe, scope)
        inner = _Scope(dot=dot, variables={"$": dot}, depth=scope.depth + 1)
        self.nodes(self.defined[node.name], inner)

    def _block(self, node: Block, scope: _Scope) -> None:
        found = evaluate(node.pipe, scope)
        names = node.pipe.names
        if not found:
            self.nodes(node.otherwise, scope.inner(scope.dot))
        elif node.kind == "range":
            self._range(node, found, scope)
        else:
            inner = scope.inner(found if node.kind == "with" else scope.dot)
            inner.variables.update(dict.fromkeys(names, found))
            self.nodes(node.body, inner)

    def _range(self, node: Block, found: Any, scope: _Scope) -> None:
        names = node.pipe.names
        for key, item in _items(found):
            inner = scope.inner(item)
            values = (key, item) if len(names) > 1 else (item,)
            inner.variables.update(zip(names, values, strict=False))
            try:
                self.nodes(node.body, inner)
            except _Broken as jump:
                if not jump.again:
                    break


def _items(found: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(found, Mapping):
        yield from ((key, found[key]) for key in sorted(found))
    elif isinstance(found, int):
        yield from ((number, number) for number in range(found))
    elif isinstance(found, (list, tuple)):
        yield from enumerate(found)
    else:
        raise UsageError(f"template error: range can't iterate over {go_text(found)}")


def evaluate(pipe: Pipe, scope: _Scope) -> Any:
    """A pipeline: each command's result is the last argument of the next one."""
    result: Any = None
    for number, command in enumerate(pipe.commands):
        arguments = [_operand(item, scope) for item in command]
        if number:
            arguments.append(result)
        result = _call(arguments)
    return result


def _operand(item: Operand, scope: _Scope) -> Any:
    if isinstance(item, Literal):
        return item.value
    if isinstance(item, Function):
        return FUNCTIONS[item.name]
    assert isinstance(item, Chain)
    if isinstance(item.base, Pipe):
        value = evaluate(item.base, scope)
    elif item.base == ".":
        value = scope.dot
    else:
        holder = scope.holder(item.base)
        if holder is None:
            raise UsageError(f'template parsing error: undefined variable "{item.base}"')
        value = holder[item.base]
    for name in item.fields:
        value = field_of(value, name)
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


def print_rows(
    form: str, columns: Mapping[str, str], rows: Sequence[Mapping[str, Any]], default: str
) -> None:
    """Print rows by `--format`: `json`, a template, or `table TEMPLATE` with a header line.

    `columns` gives the heading of each field; `default` is the template of the plain table.
    """
    from buildkit_py.cli.render import print_table

    if form == "json":
        for row in rows:
            print(to_json({key: go_text(item) for key, item in row.items()}))
        return
    if form in {"", "table"}:
        form = f"table {default}"
    template = parse_template(form.removeprefix("table").lstrip())
    if not form.startswith("table"):
        for row in rows:
            print(render_template(template, Record(row)))
        return
    lines = [render_template(template, Record(row)).split("\t") for row in [columns, *rows]]
    width = max(len(line) for line in lines)
    padded = [line + [""] * (width - len(line)) for line in lines]
    print_table(padded[0], padded[1:])
