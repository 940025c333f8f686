"""COPY and ADD as they are carried out: sources, destinations, attributes, archives."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import socket
import stat
import tarfile
import threading
from pathlib import Path
from typing import Any

import pytest
import zstandard

from buildkit_py.dockerignore import IgnoreMatcher
from buildkit_py.errors import BuildCancelled, CopyError
from buildkit_py.graph import CopyFiles, FileOp, MakeDirectory, MakeFile, Owner
from buildkit_py.layers.context import ContextTree
from buildkit_py.layers.tree import MergedTree, Tree
from buildkit_py.worker.copy_tree import PreviousCopy
from buildkit_py.worker.file import FileResult, FileRun, run_file_op
from tests.trees import DEFAULT_TIME, Hard, Link, Special, With, contents, make_tree, read_stack

PASSWD = "root:x:0:0::/root:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\n"
GROUP = "root:x:0:\nstaff:x:50:app\n"


class Build:
    """A context, a base and an upper to run copies with."""

    def __init__(self, place: Path) -> None:
        self.context = place / "context"
        self.base = place / "base"
        self.upper = place / "upper"
        for folder in (self.context, self.base, self.upper):
            folder.mkdir()
        self.ignore: list[str] = []

    def run(self, *actions: Any, tree: Tree | None = None, made_at: int = 77) -> FileResult:
        rules = IgnoreMatcher(tuple(self.ignore)) if self.ignore else None
        source = tree or ContextTree(self.context, rules)
        run = FileRun(base=[self.base], inputs=[None, source], upper=self.upper, made_at=made_at)
        return run_file_op(FileOp(actions=actions), run)

    def copy(self, source: str, destination: str, **options: Any) -> FileResult:
        return self.run(copy(source, destination, **options))

    def files(self) -> dict[str, str]:
        return contents(self.base, self.upper)

    def stat(self, path: str) -> os.stat_result:
        node = MergedTree([self.base, self.upper]).lookup(path, follow=False)
        assert node is not None
        return node.status


def copy(source: str, destination: str, **options: Any) -> CopyFiles:
    options.setdefault("wildcard", any(c in source for c in "*?["))
    options.setdefault("directory_destination", destination.endswith("/"))
    return CopyFiles(input=1, source=source, destination=destination, **options)


@pytest.fixture
def build(tmp_path: Path) -> Build:
    return Build(tmp_path)


# ------------------------------------------------------------------ sources
def test_a_file_keeps_mode_and_time_and_belongs_to_root(build: Build) -> None:
    make_tree(build.context, {"run.sh": With("#!", mode=0o750, mtime=12345)})
    build.copy("/run.sh", "/bin/")
    found = build.stat("/bin/run.sh")
    assert stat.S_IMODE(found.st_mode) == 0o750
    assert (found.st_uid, found.st_gid) == (os.geteuid(), os.getegid())
    assert found.st_mtime == 12345


def test_a_directory_source_copies_its_contents(build: Build) -> None:
    make_tree(build.context, {"app/a": "1", "app/sub/b": "2", "other": "3"})
    build.copy("/app", "/srv")
    assert build.files() == {"/srv/a": "1", "/srv/sub/b": "2"}


def test_a_missing_literal_source_is_an_error_that_names_it(build: Build) -> None:
    with pytest.raises(CopyError, match=r'failed to compute cache key: .*"/nope": not found'):
        build.copy("/nope", "/")


def test_a_source_that_the_ignore_file_hides_says_so(build: Build) -> None:
    make_tree(build.context, {"secret": "x"})
    build.ignore = ["secret"]
    with pytest.raises(CopyError) as caught:
        build.copy("/secret", "/")
    assert "ignore" in (caught.value.hint or "")


def test_wildcards_match_as_go_does_and_take_directories_as_contents(build: Build) -> None:
    make_tree(
        build.context,
        {"a1.txt": "1", "a2.txt": "2", ".a3.txt": "3", "b.txt": "4", "dir/in.txt": "5"},
    )
    build.copy("/*.txt", "/out/")
    assert sorted(build.files()) == ["/out/.a3.txt", "/out/a1.txt", "/out/a2.txt", "/out/b.txt"]
    build.copy("/d*", "/dirs/")
    assert build.files()["/dirs/in.txt"] == "5"


@pytest.mark.parametrize(
    ("pattern", "hits"),
    [
        ("/a[[]0].txt", ["a[0].txt"]),
        ("/a?c", ["abc"]),
        ("/[a-b]x", ["ax", "bx"]),
        ("/[^a]x", ["bx"]),
        (r"/\*", ["*"]),
    ],
)
def test_pattern_characters(build: Build, pattern: str, hits: list[str]) -> None:
    names = ["a[0].txt", "abc", "ax", "bx", "*", "aabc"]
    make_tree(build.context, dict.fromkeys(names, "x"))
    build.copy(pattern, "/out/", wildcard=True)
    assert sorted(build.files()) == [f"/out/{name}" for name in hits]


def test_a_wildcard_without_a_match_copies_nothing_and_makes_nothing(build: Build) -> None:
    build.copy("/*.none", "/out/")
    assert read_stack(build.base, build.upper) == {}


@pytest.mark.parametrize("source", ["/none/*.txt", "/none/*/f", "/d/none/*"])
def test_a_wildcard_in_a_directory_that_is_not_there_is_an_error(
    build: Build, source: str
) -> None:
    make_tree(build.context, {"d/f": "1"})
    with pytest.raises(CopyError, match='none": not found'):
        build.copy(source, "/out/")
    build.copy("/*/none", "/out/")
    assert build.files() == {}


def test_a_symlink_named_as_source_is_followed(build: Build) -> None:
    make_tree(
        build.context, {"real": "data", "link": Link("real"), "dirlink": Link("d"), "d/f": "1"}
    )
    build.copy("/link", "/out/")
    build.copy("/dirlink", "/dir")
    assert build.files() == {"/out/link": "data", "/dir/f": "1"}


def test_symlinks_inside_a_copied_directory_stay_symlinks(build: Build) -> None:
    make_tree(build.context, {"d/f": "1", "d/l": Link("f"), "d/abs": Link("/etc/passwd")})
    build.copy("/d", "/d")
    assert build.files() == {"/d/f": "1", "/d/l": "-> f", "/d/abs": "-> /etc/passwd"}


def test_symlinks_of_a_source_do_not_lead_out_of_the_context(build: Build, tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("secret")
    make_tree(build.context, {"up": Link("../outside"), "abs": Link(str(tmp_path / "outside"))})
    for name in ("/up", "/abs"):
        with pytest.raises(CopyError, match="not found"):
            build.copy(name, "/x")


def test_a_link_that_climbs_stays_in_the_root(build: Build) -> None:
    make_tree(build.context, {"a/l": Link("../../../b"), "b": "inside"})
    build.copy("/a/l", "/x")
    assert build.files() == {"/x": "inside"}


def test_a_link_loop_is_an_error(build: Build) -> None:
    make_tree(build.context, {"a": Link("b"), "b": Link("a")})
    with pytest.raises(CopyError, match="too many symbolic links"):
        build.copy("/a", "/x")


def test_hard_links_in_one_tree_stay_hard_links(build: Build) -> None:
    make_tree(build.context, {"d/a": "same", "d/s/b": Hard("d/a")})
    build.copy("/d", "/d")
    assert build.stat("/d/a").st_ino == build.stat("/d/s/b").st_ino


def test_a_socket_of_the_context_becomes_an_empty_file(build: Build) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        folder = os.open(build.context, os.O_RDONLY)
        server.bind(f"/proc/self/fd/{folder}/sock")
        os.close(folder)
    build.copy("/", "/out")
    assert build.files() == {"/out/sock": ""}


def test_the_ignore_file_applies_and_keeps_parents_of_exceptions(build: Build) -> None:
    make_tree(build.context, {"v/data/one": "1", "v/data/two": "2", "keep": "k", "gone/x": "g"})
    build.ignore = ["v", "gone", "!v/data/one"]
    build.copy("/", "/out")
    assert build.files() == {"/out/keep": "k", "/out/v/data/one": "1"}


# ------------------------------------------------------------------ destinations
def test_a_file_to_a_new_name_makes_missing_parents(build: Build) -> None:
    make_tree(build.context, {"f": "1"})
    build.copy("/f", "/a/b/c")
    assert build.files() == {"/a/b/c": "1"}
    assert stat.S_IMODE(build.stat("/a/b").st_mode) == 0o755
    assert build.stat("/a/b").st_mtime == 77


def test_a_file_onto_a_directory_lands_inside(build: Build) -> None:
    make_tree(build.base, {"etc/": None})
    make_tree(build.context, {"f": "1"})
    build.copy("/f", "/etc")
    assert build.files() == {"/etc/f": "1"}


def test_a_directory_onto_a_file_is_refused(build: Build) -> None:
    make_tree(build.base, {"etc": "file"})
    make_tree(build.context, {"d/f": "1"})
    with pytest.raises(CopyError, match="cannot copy to non-directory"):
        build.copy("/d", "/etc")


def test_a_nested_file_onto_a_directory_is_refused(build: Build) -> None:
    make_tree(build.base, {"d/x/y": "1"})
    make_tree(build.context, {"d/x": "file"})
    with pytest.raises(CopyError, match="cannot replace to directory /d/x with file"):
        build.copy("/d", "/d")


def test_a_file_over_a_symlink_inside_the_destination_replaces_the_link(build: Build) -> None:
    make_tree(build.base, {"d/l": Link("/target"), "target": "old"})
    make_tree(build.context, {"l": "new"})
    build.copy("/l", "/d/")
    assert build.files() == {"/d/l": "new", "/target": "old"}


def test_symlinked_parents_of_the_destination_are_followed_inside_the_root(build: Build) -> None:
    make_tree(build.base, {"real/": None, "link": Link("/real"), "up": Link("../../../real")})
    make_tree(build.context, {"f": "1"})
    build.copy("/f", "/link/sub/")
    build.copy("/f", "/up/g")
    assert build.files() == {
        "/real/sub/f": "1",
        "/real/g": "1",
        "/link": "-> /real",
        "/up": "-> ../../../real",
    }


def test_a_destination_that_dangles_is_made_where_the_link_points(build: Build) -> None:
    make_tree(build.base, {"l": Link("/made/later")})
    make_tree(build.context, {"d/f": "1"})
    build.copy("/d", "/l/")
    assert build.files()["/made/later/f"] == "1"


def test_parents_of_the_destination_are_copied_up_with_their_attributes(build: Build) -> None:
    make_tree(build.base, {"opt/": With(None, mode=0o1777, mtime=55), "opt/old": "o"})
    make_tree(build.context, {"f": "1"})
    build.copy("/f", "/opt/")
    found = build.upper.joinpath("opt").stat()
    assert stat.S_IMODE(found.st_mode) == 0o1777
    assert found.st_mtime == 55
    assert not build.upper.joinpath("opt/old").exists()


def test_an_existing_nested_directory_gets_the_attributes_of_its_source(build: Build) -> None:
    make_tree(build.base, {"d/sub/": With(None, mode=0o700), "d/": With(None, mode=0o711)})
    make_tree(build.context, {"d/sub/": With(None, mode=0o775), "d/": With(None, mode=0o770)})
    build.copy("/d", "/d")
    assert stat.S_IMODE(build.stat("/d/sub").st_mode) == 0o775
    assert stat.S_IMODE(build.stat("/d").st_mode) == 0o711


def test_a_new_destination_is_not_made_like_its_source(build: Build) -> None:
    make_tree(build.context, {"d/": With(None, mode=0o700), "d/f": "1"})
    build.copy("/d", "/new")
    assert stat.S_IMODE(build.stat("/new").st_mode) == 0o755


def test_later_actions_see_and_replace_earlier_ones(build: Build) -> None:
    make_tree(build.context, {"a/f": "first", "b/f": "second"})
    build.run(copy("/a", "/out/"), copy("/b", "/out/"))
    assert build.files() == {"/out/f": "second"}


def test_url_sources_take_the_name_given(build: Build) -> None:
    make_tree(build.context, {"download": "1"})
    build.copy("/download", "/out/", rename="__unnamed__")
    assert build.files() == {"/out/__unnamed__": "1"}


# ------------------------------------------------------------------ chmod, chown
@pytest.mark.parametrize(
    ("mode", "file", "directory"),
    [("0640", 0o640, 0o640), ("u=rwX,go=rX", 0o644, 0o755), ("+x", 0o755, 0o755)],
)
def test_chmod_applies_to_files_and_directories(
    build: Build, mode: str, file: int, directory: int
) -> None:
    make_tree(build.context, {"d/sub/f": "1"})
    build.copy("/d", "/d", mode=mode)
    assert stat.S_IMODE(build.stat("/d/sub/f").st_mode) == file
    assert stat.S_IMODE(build.stat("/d/sub").st_mode) == directory


def test_octal_chmod_applies_to_parents_that_are_made(build: Build) -> None:
    make_tree(build.context, {"f": "1"})
    build.copy("/f", "/a/b/", mode="700")
    assert stat.S_IMODE(build.stat("/a/b").st_mode) == 0o700


def test_special_bits_survive(build: Build) -> None:
    make_tree(build.context, {"f": "1"})
    build.copy("/f", "/f", mode="4755")
    assert stat.S_IMODE(build.stat("/f").st_mode) == 0o4755


@pytest.mark.root
@pytest.mark.parametrize(
    ("owner", "ids"),
    [
        (Owner(user="55"), (55, 55)),
        (Owner(user="55", group="7"), (55, 7)),
        (Owner(user="app"), (1000, 1001)),
        (Owner(user="app", group="staff"), (1000, 50)),
        (Owner(user="", group="staff"), (0, 50)),
    ],
)
def test_chown_names_come_from_the_destination(
    build: Build, owner: Owner, ids: tuple[int, int]
) -> None:
    make_tree(build.base, {"etc/passwd": PASSWD, "etc/group": GROUP})
    make_tree(build.context, {"d/f": "1"})
    build.copy("/d", "/new/d", owner=owner)
    for path in ("/new", "/new/d", "/new/d/f"):
        found = build.stat(path)
        assert (found.st_uid, found.st_gid) == ids, path


@pytest.mark.parametrize(
    ("owner", "lack"),
    [
        (Owner(user="ghost"), 'no user "ghost" in /etc/passwd'),
        (Owner(user="7", group="ghosts"), 'no group "ghosts" in /etc/group'),
    ],
)
def test_an_unknown_name_in_chown_is_an_error(build: Build, owner: Owner, lack: str) -> None:
    make_tree(build.context, {"f": "1"})
    heredoc = MakeFile(destination="/g", name="g", content="2", owner=owner)
    for action in (copy("/f", "/f", owner=owner), heredoc):
        with pytest.raises(CopyError, match=lack) as error:
            build.run(action)
        assert "--chown=1000:1000" in (error.value.hint or "")


@pytest.mark.root
def test_an_unknown_user_makes_a_working_directory_of_root_with_one_warning(build: Build) -> None:
    ghost = Owner(user="ghost")
    done = build.run(MakeDirectory(path="/a", owner=ghost), MakeDirectory(path="/b", owner=ghost))
    assert len(done.warnings) == 1
    assert 'no user "ghost"' in done.warnings[0]
    assert (build.stat("/b").st_uid, build.stat("/b").st_gid) == (0, 0)


def entries(upper: Path) -> list[str]:
    return sorted(str(path.relative_to(upper)) for path in upper.rglob("*"))


def test_a_directory_that_is_there_makes_no_entry_in_the_layer(build: Build) -> None:
    make_tree(build.base, {"srv/app/": With(None, mode=0o700), "srv/app/f": "1"})
    build.run(MakeDirectory(path="/srv/app", owner=Owner(user="7")))
    build.copy("/nothing*", "/srv/app/")
    assert entries(build.upper) == []


@pytest.mark.root
@pytest.mark.parametrize(("owner", "gid"), [(None, 50), (Owner(user="7", group="8"), 8)])
def test_directories_made_in_a_set_group_id_directory_are_so_as_well(
    build: Build, owner: Owner | None, gid: int
) -> None:
    make_tree(build.base, {"shared/": With(None, mode=0o2775, owner=(0, 50))})
    make_tree(build.context, {"f": "1", "d/f": "2"})
    build.run(
        MakeDirectory(path="/shared/work/dir", owner=owner),
        copy("/f", "/shared/a/b/f", owner=owner),
        copy("/d", "/shared/c/d", owner=owner),
    )
    for path in ("work", "work/dir", "a", "a/b", "c", "c/d"):
        found = build.stat("/shared/" + path)
        assert (stat.S_IMODE(found.st_mode), found.st_gid) == (0o2755, gid), path
    assert build.stat("/shared/a/b/f").st_gid == (0 if owner is None else gid)


@pytest.mark.root
def test_the_last_header_of_a_hard_link_says_what_the_file_is_like(build: Build) -> None:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        first = tarfile.TarInfo("f")
        first.mode, first.uid, first.mtime, first.size = 0o4755, 5, 99, 1
        tar.addfile(first, io.BytesIO(b"x"))
        second = tarfile.TarInfo("g")
        second.type, second.linkname = tarfile.LNKTYPE, "f"
        second.mode, second.uid, second.gid, second.mtime = 0o640, 6, 7, 111
        tar.addfile(second)
    (build.context / "a.tar").write_bytes(data.getvalue())
    build.copy("/a.tar", "/out/", unpack=True)
    found = build.stat("/out/f")
    assert found.st_ino == build.stat("/out/g").st_ino
    assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (0o640, 6, 7)
    assert found.st_mtime == 111


def test_times_before_1970_in_an_archive_are_0(build: Build) -> None:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=tarfile.PAX_FORMAT) as tar:
        member = tarfile.TarInfo("f")
        member.mtime = -5
        tar.addfile(member)
    (build.context / "a.tar").write_bytes(data.getvalue())
    build.copy("/a.tar", "/out/", unpack=True)
    assert build.stat("/out/f").st_mtime == 0


def test_an_archive_may_end_before_the_padding_of_its_last_file(build: Build) -> None:
    data = archive({"f": "12345"})
    (build.context / "a.tar").write_bytes(data[: 512 + 5])
    build.copy("/a.tar", "/out/", unpack=True)
    assert build.files() == {"/out/f": "12345"}


@pytest.mark.root
def test_files_of_a_stage_keep_their_owner_and_new_directories_belong_to_root(
    build: Build, tmp_path: Path
) -> None:
    stage = make_tree(tmp_path / "stage", {"d/f": With("1", owner=(12, 34))})
    build.run(copy("/d", "/a/b", keep_owner=True), tree=MergedTree([stage]))
    assert (build.stat("/a/b/f").st_uid, build.stat("/a/b/f").st_gid) == (12, 34)
    assert build.stat("/a/b").st_uid == 0


@pytest.mark.root
def test_devices_fifos_and_xattrs_are_copied(build: Build, tmp_path: Path) -> None:
    stage = make_tree(
        tmp_path / "stage",
        {
            "d/null": Special(stat.S_IFCHR, os.makedev(1, 3)),
            "d/pipe": Special(stat.S_IFIFO),
            "d/socket": Special(stat.S_IFSOCK),
            "d/f": With("1", xattrs=(("user.note", b"hi"),)),
        },
    )
    build.run(copy("/d", "/d", keep_owner=True), tree=MergedTree([stage]))
    assert build.stat("/d/null").st_rdev == os.makedev(1, 3)
    assert stat.S_ISFIFO(build.stat("/d/pipe").st_mode)
    assert stat.S_ISSOCK(build.stat("/d/socket").st_mode)
    assert os.getxattr(build.upper / "d/f", "user.note") == b"hi"


@pytest.mark.root
def test_files_in_a_set_group_id_directory_do_not_take_its_group(build: Build) -> None:
    make_tree(build.base, {"d/": With(None, mode=0o2775, owner=(0, 50))})
    make_tree(build.context, {"f": "1", "s/g": "2"})
    build.run(copy("/f", "/d/"), copy("/s", "/d/s"))
    assert build.stat("/d/f").st_gid == 0
    assert build.stat("/d/s/g").st_gid == 0


# ------------------------------------------------------------------ --exclude, --parents
def test_exclude_is_relative_to_the_directory_copied(build: Build) -> None:
    make_tree(build.context, {"d/a.txt": "1", "d/b.md": "2", "d/s/c.txt": "3", "d/s/t/x": "4"})
    build.copy("/d", "/out", exclude=("*.txt", "s/t"))
    assert build.files() == {"/out/b.md": "2", "/out/s/c.txt": "3"}


def test_exclude_applies_to_wildcard_hits(build: Build) -> None:
    make_tree(build.context, {"home.txt": "1", "home.md": "2", "home.c": "3"})
    build.copy("/hom*", "/out/", exclude=("*.txt", "*.md"))
    assert build.files() == {"/out/home.c": "3"}


def test_exceptions_in_exclude_bring_files_back_with_their_parents(build: Build) -> None:
    make_tree(build.context, {"d/s/t/keep": "1", "d/s/t/drop": "2", "d/s/u": "3"})
    build.copy("/d", "/out", exclude=("s", "!s/t/keep"))
    assert build.files() == {"/out/s/t/keep": "1"}


def test_parents_keeps_the_path(build: Build) -> None:
    make_tree(build.context, {"x/": With(None, mode=0o750), "x/a.txt": "1", "y/a.txt": "2"})
    build.run(copy("/x/a.txt", "/out/", parents=True), copy("/y/a.txt", "/out/", parents=True))
    assert build.files() == {"/out/x/a.txt": "1", "/out/y/a.txt": "2"}
    assert stat.S_IMODE(build.stat("/out/x").st_mode) == 0o750


def test_parents_with_a_pivot_keeps_what_stands_behind_it(build: Build) -> None:
    make_tree(build.context, {"a/b/c/f": "1", "a/b/c/g/h": "2"})
    build.copy("/a/b/c", "/out/", parents=True, parents_pivot="/a")
    assert build.files() == {"/out/b/c/f": "1", "/out/b/c/g/h": "2"}


def test_parents_with_double_stars(build: Build) -> None:
    make_tree(build.context, {"a/x.go": "1", "a/b/y.go": "2", "a/b/z.c": "3", "w.go": "4"})
    build.copy("/**/*.go", "/out/", parents=True)
    assert build.files() == {"/out/a/x.go": "1", "/out/a/b/y.go": "2", "/out/w.go": "4"}


def test_parents_requires_a_literal_path_but_not_a_match(build: Build) -> None:
    make_tree(build.context, {"a/f": "1"})
    build.copy("/a/*.none", "/out/", parents=True)
    with pytest.raises(CopyError, match="not found"):
        build.copy("/a/none", "/out/", parents=True)


@pytest.mark.parametrize("source", ["/link/d/f", "/link/d", "/link/*/f", "/link/**", "/l*/d/f"])
def test_parents_goes_through_no_link(build: Build, source: str) -> None:
    make_tree(build.context, {"real/d/f": "1"})
    (build.context / "link").symlink_to("real")
    result = build.copy(source, "/out/", parents=True)
    assert build.files() == {}
    assert bool(result.warnings) is ("*" not in source)
    assert stat.S_ISDIR(build.stat("/out").st_mode)
    build.copy("/link/d/f", "/out/", parents=True, parents_pivot="/link")
    assert build.files() == {"/out/d/f": "1"}


def test_parents_makes_the_destination_without_a_match(build: Build) -> None:
    make_tree(build.context, {"a/f": "1"})
    build.copy("/a/*.none", "/out/", parents=True)
    assert build.stat("/out").st_mode == stat.S_IFDIR | 0o755


@pytest.mark.parametrize("source", ["/none/*.c", "/none/f", "/none/**/f"])
def test_parents_requires_a_literal_pivot(build: Build, source: str) -> None:
    make_tree(build.context, {"a/f": "1"})
    with pytest.raises(CopyError, match='"/none": not found'):
        build.copy(source, "/out/", parents=True, parents_pivot="/none")


def test_parents_below_a_pattern_of_pivots(build: Build) -> None:
    make_tree(build.context, {"a1/d/f": "1", "a2/d/g": "2", "a3": "3", "b/d/h": "4"})
    build.copy("/a*/d", "/out/", parents=True, parents_pivot="/a*")
    assert build.files() == {"/out/d/f": "1", "/out/d/g": "2", "/out/a3": "3"}


def test_parents_at_its_pivot_copies_the_contents(build: Build) -> None:
    make_tree(build.context, {"a/f": "1", "g": "2"})
    build.copy("/a", "/out/", parents=True, parents_pivot="/a")
    build.copy("/g", "/out/", parents=True, parents_pivot="/g")
    assert build.files() == {"/out/f": "1", "/out/g": "2"}


def test_parents_changes_the_mode_of_a_directory_once(build: Build) -> None:
    make_tree(build.context, {"a/": With(None, mode=0o750), "a/x.go": "1", "a/y.go": "2"})
    build.copy("/**/*.go", "/out/", parents=True, mode="u=rwx,go=")
    assert stat.S_IMODE(build.stat("/out/a").st_mode) == 0o700


def test_parents_makes_no_directory_that_is_excluded_with_all_below_it(build: Build) -> None:
    make_tree(build.context, {"a/b/f": "1", "a/keep": "2", "c/d/g": "3"})
    build.copy("/a", "/out/", parents=True, exclude=("a", "!a/none"))
    build.copy("/c/*", "/out/", parents=True, exclude=("c", "!**/none"))
    build.copy("/a", "/some/", parents=True, exclude=("a", "!a/keep"))
    assert build.files() == {"/some/a/keep": "2"}
    assert not (build.upper / "out/a").exists()
    assert not (build.upper / "out/c").exists()


# ------------------------------------------------------------------ MakeDirectory, MakeFile
def test_a_workdir_is_made_with_its_parents_and_an_existing_one_stays(build: Build) -> None:
    make_tree(build.base, {"srv/": With(None, mode=0o700)})
    build.run(MakeDirectory(path="/srv"), MakeDirectory(path="/a/b", mtime=5))
    assert stat.S_IMODE(build.stat("/srv").st_mode) == 0o700
    assert build.stat("/a/b").st_mtime == 5


def test_a_workdir_over_a_file_is_refused(build: Build) -> None:
    make_tree(build.base, {"srv": "file"})
    with pytest.raises(CopyError, match="mkdir /srv: not a directory"):
        build.run(MakeDirectory(path="/srv"))


@pytest.mark.parametrize(
    ("destination", "path"), [("/etc/", "/etc/conf"), ("/etc/x", "/etc/x"), ("/dir", "/dir/conf")]
)
def test_a_heredoc_lands_by_the_rules_for_destinations(
    build: Build, destination: str, path: str
) -> None:
    make_tree(build.base, {"dir/": None})
    build.run(MakeFile(destination=destination, name="conf", content="hello\n", mode="600"))
    assert build.files() == {path: "hello\n"}
    assert stat.S_IMODE(build.stat(path).st_mode) == 0o600


# ------------------------------------------------------------------ archives
def archive(members: dict[str, Any]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, value in members.items():
            info = tarfile.TarInfo(name.rstrip("/"))
            info.mtime = DEFAULT_TIME
            info.mode = 0o640
            data = b""
            if isinstance(value, Link):
                info.type, info.linkname = tarfile.SYMTYPE, value.target
            elif isinstance(value, Hard):
                info.type, info.linkname = tarfile.LNKTYPE, value.path
            elif name.endswith("/"):
                info.type, info.mode = tarfile.DIRTYPE, 0o750
            else:
                data = value.encode()
                info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


@pytest.mark.parametrize(
    "pack",
    [bytes, gzip.compress, bz2.compress, lzma.compress, zstandard.ZstdCompressor().compress],
    ids=["tar", "gzip", "bzip2", "xz", "zstd"],
)
def test_archives_are_recognised_by_content(build: Build, pack: Any) -> None:
    (build.context / "data.bin").write_bytes(pack(archive({"d/f": "1", "g": "2"})))
    build.copy("/data.bin", "/out", unpack=True)
    assert build.files() == {"/out/d/f": "1", "/out/g": "2"}


@pytest.mark.parametrize(
    "data",
    [b"", gzip.compress(b"no tar"), b"PK\x03\x04zip", gzip.compress(b""), bytes(1024)],
    ids=["empty", "gzip of no tar", "zip", "gzip of nothing", "empty tar"],
)
def test_what_is_no_archive_is_copied(build: Build, data: bytes) -> None:
    (build.context / "x.tar.gz").write_bytes(data)
    build.copy("/x.tar.gz", "/out/", unpack=True)
    assert (build.upper / "out/x.tar.gz").read_bytes() == data


def test_an_archive_goes_over_what_is_there(build: Build) -> None:
    make_tree(build.base, {"out/d/old": "o", "out/f": "o", "out/x/y": "o"})
    (build.context / "a.tar").write_bytes(archive({"d/": None, "d/new": "n", "f": "n", "x": "n"}))
    build.copy("/a.tar", "/out", unpack=True)
    assert build.files() == {"/out/d/old": "o", "/out/d/new": "n", "/out/f": "n", "/out/x": "n"}


def test_links_of_an_archive_resolve_inside_its_destination(build: Build) -> None:
    make_tree(build.base, {"real/": None, "out/lib/": None})
    members = {"l": Link("/real"), "l/f": "through", "h": "x", "h2": Hard("h"), "k": Hard("l/f")}
    members |= {"lib64": Link("/lib"), "lib64/new/g": "2", "no": Link("gone/../../x"), "no/y": "3"}
    (build.context / "a.tar").write_bytes(archive(members))
    build.copy("/a.tar", "/out", unpack=True)
    found = build.files()
    assert found["/out/real/f"] == found["/out/k"] == "through"
    assert found["/out/lib/new/g"] == "2"
    assert found["/out/x/y"] == "3"
    assert build.stat("/out/h").st_ino == build.stat("/out/h2").st_ino


def test_an_archive_cannot_climb_out_of_its_destination(build: Build, tmp_path: Path) -> None:
    members = {"../../escape": "1", "/abs": "2", "up": Link("../../../../.."), "up/w": "3"}
    (build.context / "a.tar").write_bytes(archive(members))
    before = sorted(tmp_path.iterdir())
    build.copy("/a.tar", "/out", unpack=True)
    assert sorted(tmp_path.iterdir()) == before
    assert build.files() == {
        "/out/escape": "1",
        "/out/abs": "2",
        "/out/up": "-> ../../../../..",
        "/out/w": "3",
    }


@pytest.mark.root
def test_chown_replaces_the_owners_of_an_archive_and_chmod_does_not_matter(build: Build) -> None:
    (build.context / "a.tar").write_bytes(archive({"f": "1"}))
    build.copy("/a.tar", "/out", unpack=True, owner=Owner(user="9", group="8"), mode="777")
    assert (build.stat("/out/f").st_uid, build.stat("/out/f").st_gid) == (9, 8)
    assert stat.S_IMODE(build.stat("/out/f").st_mode) == 0o640


def test_a_truncated_archive_is_an_error_that_names_it(build: Build) -> None:
    data = archive({"f": "x" * 5000})
    (build.context / "a.tar").write_bytes(data[:3000])
    with pytest.raises(CopyError, match=r"cannot unpack /a\.tar"):
        build.copy("/a.tar", "/out", unpack=True)


# ------------------------------------------------------------------ around a copy
def test_a_cancelled_build_stops_copying(build: Build) -> None:
    make_tree(build.context, {"d/f": "1"})
    cancelled = threading.Event()
    cancelled.set()
    run = FileRun(
        base=[build.base],
        inputs=[None, ContextTree(build.context)],
        upper=build.upper,
        cancelled=cancelled,
    )
    with pytest.raises(BuildCancelled):
        run_file_op(FileOp(actions=(copy("/d", "/d"),)), run)


def test_an_earlier_result_is_not_reached_through_its_links(build: Build, tmp_path: Path) -> None:
    outside = make_tree(tmp_path / "outside", {"f": "same"})
    make_tree(build.context, {"d/f": "same"})
    earlier = make_tree(tmp_path / "earlier", {"d": Link(str(outside))})
    previous = PreviousCopy(upper=earlier, unchanged=lambda *_: True)
    run = FileRun(
        base=[],
        inputs=[None, ContextTree(build.context)],
        upper=build.upper,
        previous=previous,
    )
    run_file_op(FileOp(actions=(copy("/", "/"),)), run)
    assert (outside / "f").stat().st_nlink == 1
    assert build.files() == {"/d/f": "same"}


def test_a_missing_input_is_an_empty_tree(build: Build) -> None:
    run = FileRun(base=[], inputs=[None, None], upper=build.upper)
    with pytest.raises(CopyError, match="not found"):
        run_file_op(FileOp(actions=(copy("/f", "/f"),)), run)


def test_deep_directories_are_no_problem(build: Build) -> None:
    deep = "/".join(["d"] * 700)
    make_tree(build.context, {f"{deep}/f": "1"})
    build.copy("/", "/out")
    assert list(build.files()) == [f"/out/{deep}/f"]


@pytest.mark.root
def test_directories_that_an_archive_implies_are_set_group_id_in_such_a_one(build: Build) -> None:
    make_tree(build.base, {"shared/": With(None, mode=0o2775, owner=(0, 50))})
    (build.context / "a.tar").write_bytes(archive({"new/deep/f": "1"}))
    build.copy("/a.tar", "/shared/", unpack=True)
    for path in ("/shared/new", "/shared/new/deep"):
        found = build.stat(path)
        assert (stat.S_IMODE(found.st_mode), found.st_gid) == (0o2755, 0), path
