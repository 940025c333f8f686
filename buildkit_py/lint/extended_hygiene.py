"""Opt-in rules: package managers used so that layers stay small and builds do not wait."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from buildkit_py.lint.rule import Problem, Subject, extended
from buildkit_py.lint.shell_text import RunText, ShellCommand, runs

_APT = ("apt-get", "apt")
_YES = ("-y", "--yes", "--assume-yes")
_INSTALLS = ("install", "groupinstall", "localinstall", "reinstall")


def _each(subject: Subject, test: Callable[[RunText], bool], message: str) -> Iterator[Problem]:
    for text in runs(subject):
        if test(text):
            yield Problem(message=message, at=text.at)


def _any(text: RunText, test: Callable[[ShellCommand], bool]) -> bool:
    return any(test(command) for command in text.commands)


def _caches(text: RunText, *paths: str) -> bool:
    """Whether the directory is a cache or tmpfs mount, so that it enters no layer."""
    return any(
        mount.type in {"cache", "tmpfs"}
        and any(path.startswith(mount.target.rstrip("/")) for path in paths)
        for mount in text.run.mounts
        if mount.target
    )


def _removes(text: RunText, prefix: str) -> bool:
    return _any(
        text,
        lambda c: c.name == "rm" and any(word.startswith(prefix) for word in c.operands),
    )


@extended("DL3009", "Delete the apt-get lists after installing something", severity="info")
def apt_lists(subject: Subject) -> Iterator[Problem]:
    """`apt-get update` whose lists stay in the layer."""

    def stays(text: RunText) -> bool:
        updates = _any(text, lambda c: c.name in _APT and "update" in c.operands)
        return (
            updates
            and not _removes(text, "/var/lib/apt")
            and not _caches(text, "/var/lib/apt", "/var/lib/apt/lists")
        )

    message = "Delete the apt lists (/var/lib/apt/lists) after installing something"
    yield from _each(subject, stays, message)


@extended("DL3014", "Use the `-y` switch to avoid manual input")
def apt_yes(subject: Subject) -> Iterator[Problem]:
    """`apt-get install` that asks."""

    def asks(command: ShellCommand) -> bool:
        quiet = command.words.count("-q") > 1 or "-qq" in command.words
        return (
            command.name == "apt-get"
            and "install" in command.operands
            and not command.has_flag(*_YES)
            and not quiet
        )

    message = "Use the `-y` switch to avoid manual input `apt-get -y install <package>`"
    yield from _each(subject, lambda text: _any(text, asks), message)


@extended("DL3015", "Avoid additional packages by --no-install-recommends", severity="info")
def apt_recommends(subject: Subject) -> Iterator[Problem]:
    """`apt-get install` with recommended packages."""

    def test(command: ShellCommand) -> bool:
        return (
            command.name == "apt-get"
            and "install" in command.operands
            and not command.has_flag("--no-install-recommends")
            and not any("Install-Recommends=" in word for word in command.words)
        )

    message = "Avoid additional packages by specifying `--no-install-recommends`"
    yield from _each(subject, lambda text: _any(text, test), message)


@extended("DL3019", "Use the --no-cache switch of apk", severity="info")
def apk_cache(subject: Subject) -> Iterator[Problem]:
    """`apk add` that leaves its index."""

    def test(text: RunText) -> bool:
        return (
            _any(text, lambda c: c.is_("apk", "add") and not c.has_flag("--no-cache"))
            and not _caches(text, "/var/cache/apk")
            and not _removes(text, "/var/cache/apk")
        )

    message = (
        "Use the `--no-cache` switch to avoid the need to use `--update` and remove"
        " `/var/cache/apk/*` when done installing packages"
    )
    yield from _each(subject, test, message)


@extended("DL3027", "Do not use apt as it is meant to be an end-user tool")
def apt_itself(subject: Subject) -> Iterator[Problem]:
    """`apt` in place of `apt-get`."""
    message = (
        "Do not use apt as it is meant to be an end-user tool, use apt-get or apt-cache instead"
    )
    yield from _each(subject, lambda text: _any(text, lambda c: c.name == "apt"), message)


def _unasked(program: str, *flags: str) -> Callable[[RunText], bool]:
    def asks(command: ShellCommand) -> bool:
        return (
            re.fullmatch(program, command.name) is not None
            and any(word in (*_INSTALLS, "in") for word in command.operands)
            and not command.has_flag(*flags)
        )

    return lambda text: _any(text, asks)


@extended("DL3030", "Use the `-y` switch to avoid manual input `yum install -y <package>`")
def yum_yes(subject: Subject) -> Iterator[Problem]:
    """`yum install` that asks."""
    message = "Use the `-y` switch to avoid manual input `yum install -y <package>`"
    yield from _each(subject, _unasked("yum", "-y", "--assumeyes"), message)


@extended("DL3034", "Non-interactive switch missing from `zypper` command: `zypper install -y`")
def zypper_yes(subject: Subject) -> Iterator[Problem]:
    """`zypper install` that asks."""
    message = "Non-interactive switch missing from `zypper` command: `zypper install -y`"
    flags = ("-y", "-n", "--no-confirm", "--non-interactive")
    yield from _each(subject, _unasked("zypper", *flags), message)


@extended("DL3038", "Use the `-y` switch to avoid manual input `dnf install -y <package>`")
def dnf_yes(subject: Subject) -> Iterator[Problem]:
    """`dnf install` that asks."""
    message = "Use the `-y` switch to avoid manual input `dnf install -y <package>`"
    yield from _each(subject, _unasked("(?:micro)?dnf", "-y", "--assumeyes"), message)


def _uncleaned(program: str, cache: str) -> Callable[[RunText], bool]:
    def test(text: RunText) -> bool:
        installs = _any(
            text,
            lambda c: (
                re.fullmatch(program, c.name) is not None
                and any(word in (*_INSTALLS, "in") for word in c.operands)
            ),
        )
        cleans = _any(
            text,
            lambda c: (
                re.fullmatch(program, c.name) is not None
                and any(word in {"clean", "cc"} for word in c.operands)
            ),
        )
        return installs and not cleans and not _removes(text, cache) and not _caches(text, cache)

    return test


@extended("DL3032", "`yum clean all` missing after yum command")
def yum_clean(subject: Subject) -> Iterator[Problem]:
    """Yum's cache stays in the layer."""
    message = "`yum clean all` missing after yum command"
    yield from _each(subject, _uncleaned("yum", "/var/cache/yum"), message)


@extended("DL3036", "`zypper clean` missing after zypper use")
def zypper_clean(subject: Subject) -> Iterator[Problem]:
    """Zypper's cache stays in the layer."""
    message = "`zypper clean` missing after zypper use"
    yield from _each(subject, _uncleaned("zypper", "/var/cache/zypp"), message)


@extended("DL3040", "`dnf clean all` missing after dnf command")
def dnf_clean(subject: Subject) -> Iterator[Problem]:
    """Dnf's cache stays in the layer."""
    message = "`dnf clean all` missing after dnf command"
    yield from _each(subject, _uncleaned("(?:micro)?dnf", "/var/cache/dnf"), message)


@extended("DL3042", "Avoid use of cache directory with pip")
def pip_cache(subject: Subject) -> Iterator[Problem]:
    """`pip install` that keeps its downloads."""
    settled = {
        text.stage
        for text in runs(subject)
        if _any(text, lambda c: c.is_("pip", "config") and "no-cache-dir" in " ".join(c.words))
    }
    for stage in subject.stages:
        for item in stage.instructions:
            if "PIP_NO_CACHE_DIR" in item.text:
                settled.add(stage.index)

    def test(text: RunText) -> bool:
        return (
            text.stage not in settled
            and not _caches(text, "/root/.cache", "/root/.cache/pip")
            and not any("pip" in mount.target for mount in text.run.mounts)
            and _any(
                text,
                lambda c: (
                    re.fullmatch(r"pip[0-9.]*", c.name) is not None
                    and "install" in c.operands[:1]
                    and not c.has_flag("--no-cache-dir")
                ),
            )
        )

    message = "Avoid use of cache directory with pip. Use `pip install --no-cache-dir <package>`"
    yield from _each(subject, test, message)


@extended("DL3046", "useradd without flag -l and high UID will result in excessively large image")
def high_uid(subject: Subject) -> Iterator[Problem]:
    """`useradd -u 123456` makes a sparse log file that layers do not store as sparse."""

    def test(command: ShellCommand) -> bool:
        text = " ".join(command.words)
        found = re.search(r"(?:--uid|-[a-zA-Z]*u)[ =]?(\d+)", text)
        return (
            command.name == "useradd"
            and found is not None
            and len(found.group(1)) > 5
            and not command.has_flag("-l", "--no-log-init")
        )

    message = "`useradd` without flag `-l` and high UID will result in excessively large Image"
    yield from _each(subject, lambda text: _any(text, test), message)


@extended("DL3047", "wget without --progress bloats build logs", severity="info")
def wget_progress(subject: Subject) -> Iterator[Problem]:
    """`wget` that draws its progress into the log."""
    quiet = ("-q", "--quiet", "-nv", "--no-verbose", "--progress", "-o", "--output-file")

    def test(command: ShellCommand) -> bool:
        return command.name == "wget" and not command.has_flag(*quiet, "-a", "--append-output")

    message = "Avoid use of wget without progress bar. Use `wget --progress=dot:giga <url>`"
    yield from _each(subject, lambda text: _any(text, test), message)


@extended("DL3060", "`yarn cache clean` missing after `yarn install` was run", severity="info")
def yarn_cache(subject: Subject) -> Iterator[Problem]:
    """Yarn's cache stays in the layer."""

    def test(text: RunText) -> bool:
        installs = _any(text, lambda c: c.name == "yarn" and c.operands[:1] == ("install",))
        cleans = _any(text, lambda c: c.name == "yarn" and c.operands[:2] == ("cache", "clean"))
        cached = any("yarn" in mount.target for mount in text.run.mounts)
        return installs and not cleans and not cached

    message = "`yarn cache clean` missing after `yarn install` was run"
    yield from _each(subject, test, message)


@extended("DL4001", "Either use wget or curl but not both")
def wget_and_curl(subject: Subject) -> Iterator[Problem]:
    """Two programs for one job in a stage, told at the second."""
    seen: dict[int, set[str]] = {}
    for text in runs(subject):
        here = {command.name for command in text.commands} & {"wget", "curl"}
        known = seen.setdefault(text.stage, set())
        if len(known | here) == 2 and here and known != {"wget", "curl"}:
            yield Problem(message="Either use wget or curl but not both", at=text.at)
        known |= here
