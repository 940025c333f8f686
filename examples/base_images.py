"""Make the base images of the examples from Debian packages, where no registry can be reached.

    python examples/base_images.py [--pybuild PROGRAM] [--root DIR] busybox debian golang

`busybox` is Debian's static busybox with a link for each of its programs; `debian:bookworm` comes
from mmdebstrap; `golang` is built on it from `examples/Dockerfiles/golang`. An image that the
store has already is left alone. Needs the packages busybox-static, or mmdebstrap (as root).
"""

from __future__ import annotations

import argparse
import io
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parent / "Dockerfiles"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
EPOCH = 1704067200  # 2024-01-01: the same bytes on every machine
SUITE = "bookworm"

_PASSWD = """\
root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/bin/false
www-data:x:33:33:www-data:/var/www:/bin/false
nobody:x:65534:65534:nobody:/home:/bin/false
"""
_GROUP = """\
root:x:0:
daemon:x:1:
www-data:x:33:
users:x:100:
nogroup:x:65534:
"""


class Store:
    """The image store that the command line works on."""

    def __init__(self, pybuild: str, root: str | None) -> None:
        self._program = [*pybuild.split()]
        self._options = ["--root", root] if root else []

    def command(self, *words: str) -> list[str]:
        """The words of a pybuild command line on this store."""
        return [*self._program, words[0], *self._options, *words[1:]]

    def has(self, name: str) -> bool:
        """Whether an image of that name is there."""
        found = subprocess.run(
            self.command("images", "-q", name), capture_output=True, text=True, check=False
        )
        return found.returncode == 0 and bool(found.stdout.strip())


def busybox_tar(busybox: str | None = None) -> bytes:
    """A root filesystem of a static busybox and a few files that programs expect."""
    program = busybox or shutil.which("busybox")
    if program is None:
        raise SystemExit("error: no busybox; install the package busybox-static")
    listed = subprocess.run([program, "--list"], capture_output=True, text=True, check=True)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, mode in _directories():
            _add(tar, name, kind=tarfile.DIRTYPE, mode=mode)
        _add(tar, "bin/busybox", data=Path(program).read_bytes(), mode=0o755)
        for applet in sorted(set(listed.stdout.split()) - {"busybox"}):
            _add(tar, f"bin/{applet}", kind=tarfile.SYMTYPE, target="busybox", mode=0o777)
        _add(tar, "usr/bin/env", kind=tarfile.SYMTYPE, target="../../bin/env", mode=0o777)
        _add(tar, "etc/passwd", data=_PASSWD.encode())
        _add(tar, "etc/group", data=_GROUP.encode())
        _add(tar, "etc/shadow", data=b"root:*:::::::\n", mode=0o640)
    return out.getvalue()


def _directories() -> Iterable[tuple[str, int]]:
    names = "bin dev etc home proc sbin sys usr usr/bin usr/sbin var var/www"
    yield from ((name, 0o755) for name in names.split())
    yield from (("root", 0o700), ("tmp", 0o1777))


def _add(
    tar: tarfile.TarFile,
    name: str,
    *,
    data: bytes = b"",
    kind: bytes = tarfile.REGTYPE,
    target: str = "",
    mode: int = 0o644,
) -> None:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname, entry.mode = kind, target, mode
    entry.mtime, entry.size = EPOCH, len(data)
    tar.addfile(entry, io.BytesIO(data))


def make_busybox(store: Store) -> None:
    """Import `busybox:latest`."""
    _import(store, "busybox:latest", 'CMD ["sh"]', busybox_tar())


def _import(store: Store, name: str, change: str, tar: bytes) -> None:
    words = ("import", "-c", f"ENV PATH={PATH}", "-c", change, "-", name)
    subprocess.run(store.command(*words), input=tar, stdout=subprocess.DEVNULL, check=True)


def make_debian(store: Store) -> None:
    """Import `debian:bookworm`, made by mmdebstrap from the sources that this machine uses."""
    options = ["--quiet", "--variant=apt", *_apt_options(), *_EXCLUDES]
    bootstrap = subprocess.Popen(
        ["mmdebstrap", *options, SUITE, "-", *_apt_sources()], stdout=subprocess.PIPE
    )
    words = ("import", "-c", f"ENV PATH={PATH}", "-c", 'CMD ["bash"]', "-", f"debian:{SUITE}")
    imported = subprocess.run(
        store.command(*words), stdin=bootstrap.stdout, stdout=subprocess.DEVNULL, check=False
    )
    assert bootstrap.stdout is not None
    bootstrap.stdout.close()
    if bootstrap.wait() != 0 or imported.returncode != 0:
        raise SystemExit("error: could not make debian:bookworm")


_EXCLUDES = (
    "--dpkgopt=path-exclude=/usr/share/man/*",
    "--dpkgopt=path-exclude=/usr/share/locale/*",
    "--dpkgopt=path-exclude=/usr/share/doc/*",
    "--dpkgopt=path-include=/usr/share/doc/*/copyright",
    '--customize-hook=rm -rf "$1"/var/lib/apt/lists/* "$1"/etc/resolv.conf "$1"/etc/hostname',
)


def _apt_options() -> list[str]:
    """The machine's proxy and clock settings; apt inside the image will have them too."""
    names = [
        "Acquire::http::Proxy",
        "Acquire::https::Proxy",
        "Acquire::Check-Valid-Until",
        "Acquire::Check-Date",
    ]
    dump = subprocess.run(
        ["apt-config", "dump", "--no-empty", "--format", '%f "%v"%n', *names],
        capture_output=True,
        text=True,
        check=False,
    )
    return [f"--aptopt={line}" for line in dump.stdout.splitlines() if line.strip()]


def _apt_sources() -> list[str]:
    """The machine's own source list if it is of the same suite; else mmdebstrap's default."""
    for path in (Path("/etc/apt/sources.list.d/debian.sources"), Path("/etc/apt/sources.list")):
        if path.is_file() and SUITE in path.read_text(encoding="utf-8"):
            return [str(path)]
    return []


def make_golang(store: Store) -> None:
    """Build `golang:latest` on `debian:bookworm`."""
    make(store, "debian")
    subprocess.run(store.command("build", "-t", "golang", str(EXAMPLES / "golang")), check=True)


IMAGES: dict[str, tuple[str, Callable[[Store], None]]] = {
    "busybox": ("busybox:latest", make_busybox),
    "debian": (f"debian:{SUITE}", make_debian),
    "golang": ("golang:latest", make_golang),
}


def make(store: Store, name: str) -> None:
    """Make one image unless the store has it."""
    reference, function = IMAGES[name]
    if not store.has(reference):
        print(f"Making {reference} from Debian packages", file=sys.stderr)
        function(store)


def main() -> None:
    """Make the images named on the command line."""
    parser = argparse.ArgumentParser(description="Make the base images of the examples.")
    parser.add_argument("--pybuild", default="pybuild", help="the program, with its first words")
    parser.add_argument("--root", help="state directory")
    parser.add_argument("names", nargs="+", choices=sorted(IMAGES), metavar="NAME")
    args = parser.parse_args()
    store = Store(args.pybuild, args.root)
    for name in args.names:
        make(store, name)


if __name__ == "__main__":
    main()
