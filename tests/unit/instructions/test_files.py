from __future__ import annotations

from typing import Any

import pytest

from buildkit_py.errors import DockerfileErrors, InvalidArgument
from buildkit_py.graph import (
    CopyFiles,
    FileAction,
    FileOp,
    GitOp,
    HttpOp,
    MakeFile,
    MergeOp,
    Owner,
)
from tests.stage import CONTEXT, OTHER, file_op, history, instructions, lowered

SHA = "sha256:" + "0" * 64


def action(text: str, **inputs: Any) -> FileAction:
    (found,) = file_op(lowered(text, **inputs)).actions
    return found


def copied(text: str, **inputs: Any) -> CopyFiles:
    found = action(text, **inputs)
    assert isinstance(found, CopyFiles)
    return found


# ------------------------------------------------------------------ destinations
@pytest.mark.parametrize(
    ("written", "destination", "directory"),
    [
        ("/d", "/d", False),
        ("/d/", "/d", True),
        ("/d/.", "/d", True),
        ("d", "/w/d", False),
        (".", "/w", True),
        ("./", "/w", True),
        ("$none", "/w", True),
        ("/", "/", True),
        ("../../../x", "/x", False),
        ("/a/../b//c", "/b/c", False),
    ],
)
def test_a_destination_is_below_the_workdir(
    written: str, destination: str, directory: bool
) -> None:
    found = copied(f"WORKDIR /w\nCOPY f {written}")
    assert (found.destination, found.directory_destination) == (destination, directory)


# ------------------------------------------------------------------ sources
@pytest.mark.parametrize(
    ("written", "source", "wildcard"),
    [
        ("f", "/f", False),
        ("/f", "/f", False),
        ("../f", "/f", False),
        ("a/../../f", "/f", False),
        ("d/", "/d", False),
        (".", "/", False),
        ("*.txt", "/*.txt", True),
        ("a?", "/a?", True),
        ("arr[[]0].txt", "/arr[[]0].txt", True),
    ],
)
def test_a_source_cannot_leave_the_context(written: str, source: str, wildcard: bool) -> None:
    found = copied(f"COPY {written} /d")
    assert (found.source, found.wildcard) == (source, wildcard)


def test_the_context_is_the_default_source() -> None:
    stage = lowered("COPY a b /d/")
    assert stage.root is not None
    assert stage.root.inputs[1:] == (CONTEXT,)
    assert [item.input for item in file_op(stage).actions if isinstance(item, CopyFiles)] == [1, 1]


@pytest.mark.parametrize(("name", "keeps"), [("other", True), ("folder", False)])
def test_copy_from_takes_a_stage_and_keeps_its_owners(name: str, keeps: bool) -> None:
    stage = lowered(f"COPY --from={name} /a /b")
    assert stage.root is not None
    assert stage.root.inputs[1] is OTHER
    assert copied(f"COPY --from={name} /a /b").keep_owner is keeps


def test_copy_from_an_argument() -> None:
    stage = lowered("ARG S=other\nCOPY --from=$S a b")
    assert stage.root is not None
    assert stage.root.inputs[1] is OTHER


def test_operands_expand_and_history_shows_them_so() -> None:
    stage = lowered("ENV f=one d=/two\nCOPY --chown=$none --chmod=6${none}44 $f ${d}/")
    assert history(stage)[-1] == "COPY --chmod=644 one /two/ # buildkit"


def test_the_json_form_takes_blanks() -> None:
    found = copied('COPY ["a b", "/c d"]')
    assert (found.source, found.destination) == ("/a b", "/c d")


# ------------------------------------------------------------------ flags
@pytest.mark.parametrize(
    ("flag", "owner"),
    [
        ("55", Owner(user="55")),
        ("u:g", Owner(user="u", group="g")),
        (":g", Owner(user="", group="g")),
        ("1:2", Owner(user="1", group="2")),
        ("u:", Owner(user="u", group="0")),  # as BuildKit reads it
    ],
)
def test_chown_names_user_and_group(flag: str, owner: Owner) -> None:
    assert copied(f"COPY --chown={flag} a /b").owner == owner


@pytest.mark.parametrize("mode", ["0", "644", "04755", "7777", "u=rwX,go=rX", "+x", "a-w,u+s"])
def test_chmod_is_octal_or_symbolic(mode: str) -> None:
    assert copied(f"COPY --chmod={mode} a /b").mode == mode


@pytest.mark.parametrize("mode", ["64a", "10000", "999", "u~x", "x"])
def test_another_chmod_is_refused(mode: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        lowered(f"COPY --chmod={mode} a /b")
    assert caught.value.message == (
        f"invalid chmod parameter: '{mode}'. it should be octal string and between 0 and 07777"
    )


def test_link_makes_a_layer_of_its_own_and_merges_it() -> None:
    base = lowered("")
    stage = lowered("COPY --link a /b")
    assert stage.root is not None
    assert stage.root.op == MergeOp()
    root, layer = stage.root.inputs
    assert root == base.root
    assert layer is not None
    assert isinstance(layer.op, FileOp)
    assert layer.inputs[0] is None
    assert isinstance(layer.op.actions[0], CopyFiles)
    assert not layer.op.actions[0].follow_destination_links
    assert stage.vertex_number == 1


def test_link_on_an_empty_base_needs_no_merge() -> None:
    assert isinstance(file_op(lowered("COPY --link a /b", root=None)), FileOp)


def test_link_is_ignored_with_chmod() -> None:
    stage = lowered("COPY --link --chmod=600 a /b")
    assert copied("COPY --link --chmod=600 a /b").follow_destination_links
    assert stage.root is not None
    assert stage.root.inputs[0] is not None


@pytest.mark.parametrize(
    ("source", "path", "pivot"),
    [("a/b/c", "/a/b/c", ""), ("a/./b/c", "/a/b/c", "/a"), ("./x/**/y", "/x/**/y", "")],
)
def test_parents_keeps_the_path_from_the_pivot_on(source: str, path: str, pivot: str) -> None:
    found = copied(f"COPY --parents {source} /d/")
    assert (found.parents, found.source, found.parents_pivot) == (True, path, pivot)
    assert history(lowered("COPY --parents a /d/")) == ["COPY --parents a /d/ # buildkit"]


def test_exclude_may_be_repeated_and_is_not_expanded() -> None:
    assert copied("COPY --exclude=*.md --exclude=$x a /b").exclude == ("*.md", "$x")


@pytest.mark.parametrize(
    "flag", ["--parents", "--from=x", "--checksum=x", "--keep-git-dir", "--unpack=true"]
)
def test_each_flag_belongs_to_its_instruction(flag: str) -> None:
    keyword = "ADD" if flag in {"--parents", "--from=x"} else "COPY"
    with pytest.raises(DockerfileErrors, match="unknown flag"):
        instructions(f"{keyword} {flag} a b")


# ------------------------------------------------------------------ counts
@pytest.mark.parametrize("text", ["COPY", "COPY a", 'COPY ["a"]'])
def test_a_destination_is_needed(text: str) -> None:
    with pytest.raises(DockerfileErrors) as caught:
        instructions(text)
    assert caught.value.message == (
        "COPY requires at least two arguments, but only one was provided."
        " Destination could not be determined"
    )


def test_several_sources_without_a_slash_build_with_a_warning() -> None:
    stage = lowered("COPY a b /d")
    assert [text for text, _ in stage.warnings] == [
        'COPY has several sources, so its destination "/d" should end with a slash'
    ]
    assert lowered("COPY a b /d/").warnings == []
    assert lowered("WORKDIR /d/e\nCOPY a b /d").warnings == []


# ------------------------------------------------------------------ here-documents
def test_a_here_document_becomes_a_file() -> None:
    found = action("ENV n=me\nCOPY --chmod=600 --chown=1 <<-F /d/\n\thi $n\nF")
    assert found == MakeFile(
        destination="/d/", name="F", content="hi me\n", mode="600", owner=Owner(user="1")
    )


def test_a_quoted_here_document_is_not_expanded() -> None:
    found = action("ENV n=me\nCOPY <<'F' /d\n$n \\$n\nF")
    assert found == MakeFile(destination="/d", name="F", content="$n \\$n\n")


def test_files_come_before_here_documents() -> None:
    stage = lowered("COPY <<A b <<C /d/\nx\nA\ny\nC")
    names = [
        item.name if isinstance(item, MakeFile) else item.source
        for item in file_op(stage).actions
        if isinstance(item, (MakeFile, CopyFiles))
    ]
    assert names == ["/b", "A", "C"]
    assert history(stage) == ["COPY b <<A <<C /d/ # buildkit"]


@pytest.mark.parametrize("name", ["a/b", "../x", "..", "/"])
def test_a_here_document_cannot_name_a_path(name: str) -> None:
    with pytest.raises(InvalidArgument, match="cannot name the file of a heredoc"):
        lowered(f"COPY <<{name} /d/\nx\n{name}")
    with pytest.raises(InvalidArgument, match="cannot name the file of a heredoc"):
        lowered(f"RUN <<{name}\n#!/bin/sh\n{name}")


def test_a_leading_slash_of_a_here_document_is_dropped() -> None:
    assert action("COPY <</f /d/\nx\n/f") == MakeFile(destination="/d/", name="f", content="x\n")


def test_a_here_document_is_no_destination() -> None:
    with pytest.raises(DockerfileErrors, match="COPY cannot accept a heredoc as a destination"):
        instructions("COPY a <<EOF\nEOF")


# ------------------------------------------------------------------ ADD
def test_add_unpacks_local_archives_unless_told_not_to() -> None:
    assert copied("ADD a.tar /b").unpack
    assert not copied("ADD --unpack=false a.tar /b").unpack
    assert not copied("COPY a.tar /b").unpack


@pytest.mark.parametrize(
    ("url", "filename"),
    [
        ("https://host/dir/file.txt?x=1", "file.txt"),
        ("http://host", "__unnamed__"),
        ("https://host/", "__unnamed__"),
        ("https://host/a/", "a"),
        ("https://host/a%20b.txt", "a b.txt"),
        ("https://host/a%2Fb", "b"),
    ],
)
def test_add_downloads_under_the_last_part_of_the_path(url: str, filename: str) -> None:
    stage = lowered(f"ADD {url} /d/")
    assert stage.root is not None
    source = stage.root.inputs[1]
    assert source is not None
    assert source.op == HttpOp(url=url, filename=filename)
    found = copied(f"ADD {url} /d/")
    assert (found.source, found.unpack) == (f"/{filename}", False)
    assert copied(f"ADD --unpack {url} /d/").unpack


def test_add_clones_a_repository() -> None:
    stage = lowered("ADD --keep-git-dir https://host/x.git#v1:sub /d")
    assert stage.root is not None
    source = stage.root.inputs[1]
    assert source is not None
    assert isinstance(source.op, GitOp)
    assert (source.op.remote, source.op.ref, source.op.subdir, source.op.keep_git_dir) == (
        "https://host/x.git",
        "v1",
        "sub",
        True,
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ADD --checksum=x a b /d/", "checksum can't be specified for multiple sources"),
        ("ADD --checksum=x a /d/", "checksum requires HTTP(S) or Git sources"),
        ("ADD --checksum=x https://h/f /d/", "invalid checksum digest format: x"),
        (
            "COPY --link --chown=app a /d/",
            '--link cannot look up "app" of --chown: its layer stands on no base',
        ),
        (
            "COPY --link --chown=1:app a /d/",
            '--link cannot look up "app" of --chown: its layer stands on no base',
        ),
        ("ADD http:///f /d/", "invalid URL 'http:///f'"),
        ("ADD http://h/%00 /d/", "invalid URL 'http://h/%00'"),
        ("COPY https://h/f /d/", "source can't be a URL for COPY"),
        ("COPY git@h:x /d/", "source can't be a git ref for COPY"),
        ("ADD https://h/x.git?zz=1 /d/", 'unexpected query "zz"'),
        ("ADD https://h/x.git?tag=a&branch=b /d/", "branch conflicts with tag"),
        ("ADD https://h/x.git?ref=a#b /d/", 'ref conflicts: "b" vs "a"'),
    ],
)
def test_each_wrong_source_has_its_text(text: str, message: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        lowered(text)
    assert caught.value.message == message


def test_a_checksum_goes_with_the_download() -> None:
    stage = lowered(f"ARG S={SHA}\nADD --checksum=$S https://h/f /d/")
    assert stage.root is not None
    source = stage.root.inputs[1]
    assert source is not None
    assert source.op == HttpOp(url="https://h/f", filename="f", checksum=SHA)


def test_github_without_a_scheme_is_a_path_in_add() -> None:
    assert copied("ADD github.com/x/y /d").source == "/github.com/x/y"


def test_a_misspelt_flag_suggests_the_one_of_the_same_letters() -> None:
    with pytest.raises(DockerfileErrors) as caught:
        instructions("COPY --chwon=1 a b")
    assert caught.value.message == "unknown flag: --chwon (did you mean chown?)"
