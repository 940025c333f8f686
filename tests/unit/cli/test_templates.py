"""`--format`: what Go's text/template prints for the same template and value."""

from __future__ import annotations

from typing import Any

import pytest

from buildkit_py.cli.template_functions import NilList, NilMap, Record
from buildkit_py.cli.templates import print_rows, render_template
from buildkit_py.errors import UsageError

CONFIG = {"Env": ["A=1", "B=2"], "Labels": {"b": "2", "a": "1"}, "OnBuild": None}
ZERO = {"OnBuild": NilList(), "Volumes": NilMap(), "StopSignal": ""}
IMAGE: dict[str, Any] = {
    "Id": "sha256:0123456789abcdef",
    "Os": "linux",
    "Size": 1234,
    "Tags": ["one:1", "two:2"],
    "Config": Record(CONFIG, ZERO),
}


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{.Os}}", "linux"),
        ("{{ .Config.Env }}", "[A=1 B=2]"),
        ("{{.Config.Labels}}", "map[a:1 b:2]"),
        ("{{json .Config.Labels}}", '{"b":"2","a":"1"}'),
        ("{{.Config.Labels.absent}}|{{.Config.StopSignal}}|{{.Config.OnBuild}}", "||[]"),
        (
            "{{json .Config.OnBuild}} {{json .Config.Volumes}} {{.Config.Volumes}}",
            "null null map[]",
        ),
        ("{{range .Tags}}<{{.}}>{{end}}", "<one:1><two:2>"),
        ("{{range $i, $e := .Tags}}{{if $i}},{{end}}{{$e}}{{end}}", "one:1,two:2"),
        ("{{range $k, $v := .Config.Labels}}{{$k}}={{$v}};{{end}}", "a=1;b=2;"),
        ("{{range $e := .Tags}}{{$e}} {{$.Os}} {{end}}", "one:1 linux two:2 linux "),
        ("{{range .Config.OnBuild}}x{{else}}none{{end}}", "none"),
        ("{{range .Tags}}{{if eq . `one:1`}}{{continue}}{{end}}{{.}}{{end}}", "two:2"),
        ("{{range .Tags}}{{.}}{{break}}{{end}}", "one:1"),
        ("{{if false}}a{{else if eq .Os `linux`}}b{{else}}c{{end}}", "b"),
        ("{{with .Config.Labels}}{{.a}}{{else}}none{{end}}", "1"),
        ("{{$x := .Os}}{{if true}}{{$x = `y`}}{{end}}{{$x}}", "y"),
        ("{{index .Tags 1}} {{index .Config.Labels `a`}} {{len .Tags}}", "two:2 1 2"),
        ("{{slice .Id 7 19}}", "0123456789ab"),
        ("{{(index .Tags 0) | upper | printf `%s!`}}", "ONE:1!"),
        (
            '{{printf "%s-%d %q %5s|%-5s|%t %v %%" .Os .Size .Os "a" "b" true .Tags}}',
            'linux-1234 "linux"     a|b    |true [one:1 two:2] %',
        ),
        ("{{join .Config.Env `,`}} {{split .Os `n`}}", "A=1,B=2 [li ux]"),
        ("{{title .Os}} {{lower `ABC`}} {{truncate .Os 3}}{{pad `x` 1 2}}|", "Linux abc lin x  |"),
        (
            "{{lt 1 2}} {{ge 1 2}} {{ne 1 2}} {{and 1 0}} {{or `` `x`}} {{not true}}",
            "true false true 0 x false",
        ),
        ("{{html `<a>`}} {{urlquery `a b`}} {{print 1 2 `x`}}", "&lt;a&gt; a+b 1 2x"),
        ("a {{- .Os -}} b", "alinuxb"),
        ("{{/* nothing */}}{{`}}`}}{{1.5}}{{true}}", "}}1.5true"),
        ("{{define `t`}}<{{.}}>{{end}}{{template `t` .Os}}", "<linux>"),
        (r"{{.Os}}\t{{.Size}}\n", "linux\t1234\n"),
    ],
)
def test_templates_print_what_go_prints(template: str, text: str) -> None:
    assert render_template(template, IMAGE) == text


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{.Os", "unclosed action"),
        ("{{if .Os}}x", "{{end}} of if is missing"),
        ("{{end}}", "unexpected {{end}}"),
        ("{{nope .Os}}", 'function "nope" not defined'),
        ("{{if false}}{{nope}}{{end}}", 'function "nope" not defined'),
        ("{{}}", "missing value"),
        ("{{(.Os}}", "unclosed left paren"),
        ("{{.Os)}}", "unexpected right paren"),
        ("{{$y}}", "undefined variable"),
        ("{{.Config.Nope}}", 'there is no field "Nope"'),
        ("{{.Os.Nope}}", "can't evaluate field Nope"),
        ("{{index .Tags 7}}", "out of range"),
        ("{{slice .Os 2 99}}", "out of range"),
        ("{{lt 1 `a`}}", "incompatible types"),
        ("{{break}}", "outside {{range}}"),
        ("{{range .Size | print}}{{end}}", "can't iterate"),
        ("{{template `absent`}}", "not defined"),
        ("{{define `r`}}{{template `r` .}}{{end}}{{template `r` .}}", "maximum template depth"),
        ("{{.Os .Size}}", "non-function"),
    ],
)
def test_wrong_templates_are_one_clear_error(template: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        render_template(template, IMAGE)
    assert message in str(caught.value)


def test_tables_have_headings_and_an_unknown_column_names_the_known(
    capsys: pytest.CaptureFixture[str],
) -> None:
    columns = {"ID": "IMAGE ID", "Tag": "TAG"}
    rows = [{"ID": "abc", "Tag": "1"}]
    print_rows(r"table {{.Tag}}\t{{upper .ID}}", columns, rows, "")
    assert capsys.readouterr().out.splitlines() == ["TAG   IMAGE ID", "1     ABC"]
    with pytest.raises(UsageError) as caught:
        print_rows("{{.id}}", columns, rows, "")
    assert caught.value.hint == "did you mean .ID?"
