"""The opt-in rules: each speaks of one file and is silent about another."""

from __future__ import annotations

import pytest

from buildkit_py.dockerfile import parse
from buildkit_py.lint import lint
from buildkit_py.lint.rule import RULES, CheckOptions
from buildkit_py.lint.shell_text import split_commands

S = "FROM scratch\n"
CASES = [
    ("DL3006", "FROM debian\n", "FROM debian:12 AS a\nFROM a\nFROM scratch\n"),
    ("DL3007", "FROM debian:latest\n", "FROM debian:12\n"),
    ("DL3008", S + "RUN apt-get install -y curl\n", S + "RUN apt-get install -y curl=1.2\n"),
    ("DL3013", S + "RUN pip install flask\n", S + "RUN pip install flask==1 -r x.txt .\n"),
    ("DL3016", S + "RUN npm install express\n", S + "RUN npm install @a/b@1 && npm install\n"),
    ("DL3018", S + "RUN apk add curl\n", S + "RUN apk add curl=1 -t deps\n"),
    ("DL3028", S + "RUN gem install bundler\n", S + "RUN gem install bundler:1.1\n"),
    ("DL3033", S + "RUN yum install -y httpd\n", S + "RUN yum install -y httpd-2.4.6\n"),
    ("DL3037", S + "RUN zypper install -y httpd\n", S + "RUN zypper in -y httpd=2.4\n"),
    ("DL3041", S + "RUN dnf install -y httpd\n", S + "RUN dnf install -y httpd-2.4.6\n"),
    (
        "DL3062",
        S + "RUN go install example.com/a/b@latest\n",
        S + "RUN go install example.com/a@v1 && go install ./cmd\n",
    ),
    (
        "DL3009",
        S + "RUN apt-get update\n",
        S + "RUN apt-get update && rm -rf /var/lib/apt/lists/*\n",
    ),
    ("DL3014", S + "RUN apt-get install a\n", S + "RUN apt-get -y install a\n"),
    (
        "DL3015",
        S + "RUN apt-get install -y a\n",
        S + "RUN apt-get install -y --no-install-recommends a\n",
    ),
    ("DL3019", S + "RUN apk add a\n", S + "RUN apk add --no-cache a\n"),
    ("DL3027", S + "RUN apt install a\n", S + "RUN apt-get install a\n"),
    ("DL3030", S + "RUN yum install a\n", S + "RUN yum install -y a\n"),
    ("DL3032", S + "RUN yum install -y a\n", S + "RUN yum install -y a && yum clean all\n"),
    ("DL3034", S + "RUN zypper install a\n", S + "RUN zypper install -n a\n"),
    ("DL3036", S + "RUN zypper install a\n", S + "RUN zypper install a && zypper clean\n"),
    ("DL3038", S + "RUN dnf install a\n", S + "RUN dnf -y install a\n"),
    ("DL3040", S + "RUN dnf install -y a\n", S + "RUN dnf install -y a && dnf clean all\n"),
    (
        "DL3042",
        S + "RUN pip3 install a\n",
        S + "ENV PIP_NO_CACHE_DIR=1\nRUN pip3 install a\n",
    ),
    ("DL3046", S + "RUN useradd -u 123456 x\n", S + "RUN useradd -l -u 123456 x\n"),
    ("DL3047", S + "RUN wget http://x\n", S + "RUN wget -q http://x\n"),
    (
        "DL3060",
        S + "RUN yarn install\n",
        S + "RUN yarn install && yarn cache clean\n",
    ),
    ("DL4001", S + "RUN wget x\nRUN curl y\n", S + "RUN curl x\nRUN curl y\n"),
    ("DL3000", S + "WORKDIR a\n", S + "WORKDIR /a\n"),
    ("DL3001", S + "RUN ssh host\n", S + "RUN echo ssh host\n"),
    ("DL3002", S + "USER root\n", S + "USER root\nUSER app\n"),
    ("DL3003", S + "RUN cd /x && make\n", S + "RUN make -C /x\n"),
    ("DL3004", S + "RUN sudo ls\n", S + "RUN echo sudo\n"),
    (
        "DL3010",
        S + "COPY x.tar.gz /\nRUN tar xf /x.tar.gz\n",
        S + "COPY x.tar.gz /\nRUN echo\n",
    ),
    ("DL3011", S + "EXPOSE 80000\n", S + "EXPOSE 8000\n"),
    (
        "DL3012",
        S + "HEALTHCHECK NONE\nHEALTHCHECK NONE\n",
        S + "HEALTHCHECK NONE\n",
    ),
    ("DL3020", S + "ADD file /\n", S + "ADD a.tar.gz https://x/y /\n"),
    ("DL3021", S + "COPY a b /c\n", S + "COPY a b /c/\n"),
    ("DL3022", S + "COPY --from=tools a /\n", S + "COPY --from=tools:1 a /\n"),
    ("DL3023", "FROM scratch AS a\nCOPY --from=a x /\n", "FROM scratch AS a\nCOPY x /\n"),
    ("DL3024", "FROM a AS x\nFROM b AS x\n", "FROM a AS x\nFROM b AS y\n"),
    ("DL3044", S + "ENV A=1 B=$A\n", S + "ENV A=1\nENV B=$A A=$A:2\n"),
    ("DL3045", S + "COPY a b\n", S + "WORKDIR /x\nCOPY a b\n"),
    ("DL3059", S + "RUN a\nRUN b\n", S + "RUN a\nCOPY b c\nRUN d\n"),
    ("DL3066", S + "USER app\n", S + "USER 1000\n"),
    (
        "DL3067",
        "FROM x AS a\nFROM scratch\nCOPY --from=a / /\n",
        "FROM x AS a\nFROM scratch\nCOPY --from=a /usr /usr\n",
    ),
    ("DL4005", S + "RUN ln -sf /bin/bash /bin/sh\n", S + "RUN ln -s a b\n"),
    ("DL4006", S + "RUN a | b\n", S + "RUN set -o pipefail && a | b\n"),
]


def codes(text: str) -> set[str]:
    return {item.rule for item in lint(parse(text), check=CheckOptions(extended=True))}


@pytest.mark.parametrize(("code", "bad", "good"), CASES, ids=[case[0] for case in CASES])
def test_rule_tells_bad_from_good(code: str, bad: str, good: str) -> None:
    assert code in codes(bad)
    assert code not in codes(good)


def test_every_extended_rule_is_tested() -> None:
    codes(S)
    assert {rule.name for rule in RULES.values() if rule.extended} == {c[0] for c in CASES}


def test_extended_rules_are_silent_unless_asked() -> None:
    assert lint(parse("FROM debian:latest\nRUN sudo x\n")) == ()


def test_a_hadolint_comment_silences_a_rule() -> None:
    text = "# hadolint ignore=DL3006\nFROM debian\n"
    assert "DL3006" not in codes(text)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("a && b || c; d | e & f", ["a", "b", "c", "d", "e", "f"]),
        ("A=1 B='x y' make -j", ["make"]),
        ("if test -f x; then rm x; fi", ["test", "rm"]),
        ("(cd /x && tar xf y)", ["cd", "tar"]),
        ("echo 'a; b && c' \"d | e\"", ["echo"]),
        ("echo $(date; id) # comment; rm", ["echo"]),
        ("/usr/bin/make\nls", ["make", "ls"]),
        ("echo 'open", ["echo"]),
        ("", []),
    ],
)
def test_shell_text_is_split_into_commands(text: str, names: list[str]) -> None:
    assert [command.name for command in split_commands(text)] == names
