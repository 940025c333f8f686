"""Opt-in rules: what is fetched should have a version."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from buildkit_py.errors import UsageError
from buildkit_py.instructions.from_ import From
from buildkit_py.lint.rule import Problem, Subject, extended
from buildkit_py.lint.shell_text import ShellCommand, runs
from buildkit_py.oci.reference import Reference, parse_reference

_LOCAL = re.compile(
    r"[./~]|\$|.*\.(?:whl|tar\.gz|tgz|zip|deb|apk|rpm|gem)\Z|git\+|https?://|file:"
)
_PIP_VALUES = frozenset(
    "-r --requirement -c --constraint -i --index-url --extra-index-url -t --target --prefix"
    " --root -e --editable --trusted-host --find-links -f --no-binary --only-binary".split()
)


@extended("DL3006", "Always tag the version of an image explicitly")
def untagged_image(subject: Subject) -> Iterator[Problem]:
    """FROM without tag or digest."""
    for reference, at in _images(subject):
        if reference.tag is None and reference.digest is None:
            yield Problem(message="Always tag the version of an image explicitly", at=at)


@extended("DL3007", "Using latest is prone to errors if the image will ever update")
def latest_image(subject: Subject) -> Iterator[Problem]:
    """FROM with the tag latest."""
    for reference, at in _images(subject):
        if reference.tag == "latest" and reference.digest is None:
            yield Problem(
                message="Using latest is prone to errors if the image will ever update. Pin the"
                " version explicitly to a release tag",
                at=at,
            )


def _images(subject: Subject) -> Iterator[tuple[Reference, From]]:
    names: set[str] = set()
    for stage in subject.dockerfile.stages:
        image = stage.from_.image
        if image != "scratch" and image.lower() not in names and "$" not in image:
            try:
                yield parse_reference(image, default_tag=None), stage.from_
            except UsageError:
                continue
        names.add(stage.name or "")


def _unpinned(
    name: str,
    subcommands: tuple[str, ...],
    is_pinned: Callable[[str], bool],
    values: frozenset[str] = frozenset(),
) -> Callable[[ShellCommand], bool]:
    """A test for installing commands of which some package has no version."""

    def test(command: ShellCommand) -> bool:
        if not re.fullmatch(name, command.name) or not command.operands:
            return False
        if command.operands[0] not in subcommands:
            return False
        packages = _packages(command, values)
        return any(not is_pinned(package) for package in packages if not _LOCAL.match(package))

    return test


def _packages(command: ShellCommand, values: frozenset[str]) -> list[str]:
    packages: list[str] = []
    skip = False
    for word in command.words:
        if skip:
            skip = False
        elif word in values:
            skip = True
        elif not word.startswith("-") and not word.startswith((">", "<", "2>")):
            packages.append(word)
    return packages[1:]  # the first is the subcommand


def _told(
    subject: Subject, test: Callable[[ShellCommand], bool], message: str
) -> Iterator[Problem]:
    for text in runs(subject):
        if any(test(command) for command in text.commands):
            yield Problem(message=message, at=text.at)


@extended("DL3008", "Pin versions in apt get install")
def apt_versions(subject: Subject) -> Iterator[Problem]:
    """`apt-get install package`."""
    test = _unpinned(
        "apt-get|apt",
        ("install",),
        lambda package: "=" in package or "/" in package,
        frozenset({"-t", "--target-release", "-o", "-c"}),
    )
    yield from _told(
        subject,
        test,
        "Pin versions in apt get install. Instead of `apt-get install <package>` use `apt-get"
        " install <package>=<version>`",
    )


@extended("DL3013", "Pin versions in pip")
def pip_versions(subject: Subject) -> Iterator[Problem]:
    """`pip install package`."""

    def is_pinned(package: str) -> bool:
        return re.search(r"[=<>~@]", package) is not None

    test = _unpinned(r"pip[0-9.]*", ("install",), is_pinned, _PIP_VALUES)
    yield from _told(
        subject,
        lambda command: test(command) and not command.has_flag("--requirement", "--constraint"),
        "Pin versions in pip. Instead of `pip install <package>` use `pip install"
        " <package>==<version>` or `pip install --requirement <requirements file>`",
    )


@extended("DL3016", "Pin versions in npm")
def npm_versions(subject: Subject) -> Iterator[Problem]:
    """`npm install package`."""
    test = _unpinned("npm", ("install", "i", "add"), lambda package: "@" in package[1:])
    yield from _told(
        subject,
        test,
        "Pin versions in npm. Instead of `npm install <package>` use `npm install"
        " <package>@<version>`",
    )


@extended("DL3018", "Pin versions in apk add")
def apk_versions(subject: Subject) -> Iterator[Problem]:
    """`apk add package`."""
    values = frozenset({"-t", "--virtual", "-X", "--repository"})

    def is_pinned(package: str) -> bool:
        return re.search(r"[=<>~]", package) is not None

    yield from _told(
        subject,
        _unpinned("apk", ("add",), is_pinned, values),
        "Pin versions in apk add. Instead of `apk add <package>` use"
        " `apk add <package>=<version>`",
    )


@extended("DL3028", "Pin versions in gem install")
def gem_versions(subject: Subject) -> Iterator[Problem]:
    """`gem install package`."""
    test = _unpinned("gem", ("install", "i"), lambda package: ":" in package)
    yield from _told(
        subject,
        lambda command: test(command) and not command.has_flag("--version", "-v"),
        "Pin versions in gem install. Instead of `gem install <gem>` use `gem install"
        " <gem>:<version>`",
    )


def _rpm_like(program: str) -> Callable[[ShellCommand], bool]:
    has_version = re.compile(r".+-[0-9~:][^-]*(?:-[^-]+)?\Z|.*[=<>]")
    return _unpinned(
        program, ("install", "in"), lambda package: has_version.match(package) is not None
    )


@extended("DL3033", "Specify version with `yum install -y <package>-<version>`")
def yum_versions(subject: Subject) -> Iterator[Problem]:
    """`yum install package`."""
    message = "Specify version with `yum install -y <package>-<version>`"
    yield from _told(subject, _rpm_like("yum"), message)


@extended("DL3037", "Specify version with `zypper install -y <package>[=]<version>`")
def zypper_versions(subject: Subject) -> Iterator[Problem]:
    """`zypper install package`."""
    message = "Specify version with `zypper install -y <package>[=]<version>`"
    yield from _told(subject, _rpm_like("zypper"), message)


@extended("DL3041", "Specify version with `dnf install -y <package>-<version>`")
def dnf_versions(subject: Subject) -> Iterator[Problem]:
    """`dnf install package`."""
    message = "Specify version with `dnf install -y <package>-<version>`"
    yield from _told(subject, _rpm_like("(?:micro)?dnf"), message)


@extended("DL3062", "Pin versions in go install")
def go_versions(subject: Subject) -> Iterator[Problem]:
    """`go install package`, or one of its latest version."""

    def is_pinned(package: str) -> bool:
        version = package.partition("@")[2]
        return version not in {"", "latest"} or "." not in package.partition("/")[0]

    test = _unpinned("go", ("install", "get", "run"), is_pinned)
    message = (
        "Pin versions in go install. Instead of `go install <package>` use `go install"
        " <package>@<version>`"
    )
    yield from _told(subject, test, message)
