"""Which foreign programs this machine runs: the emulators registered with binfmt_misc.

The kernel keeps one file for each handler: whether it is enabled, its flags, and the first bytes
of the programs that it takes. Those bytes are an ELF header, which names the architecture; names
of handlers are anybody's choice and say nothing. A handler without the flag F is looked up inside
the root of the program, where a build has no emulator, so it does not count.
"""

from __future__ import annotations

from pathlib import Path

from buildkit_py.platforms import Platform

BINFMT = Path("/proc/sys/fs/binfmt_misc")

_ELF = b"\x7fELF"
_LITTLE = 1
_ALWAYS = {"amd64": ("386",)}  # what a kernel runs besides its own, without any emulator
_MACHINES = {  # (bits / 32, byte order, e_machine)
    (1, 1, 3): ("386", ""),
    (2, 1, 62): ("amd64", ""),
    (1, 1, 40): ("arm", "v7"),
    (2, 1, 183): ("arm64", ""),
    (2, 1, 243): ("riscv64", ""),
    (2, 1, 258): ("loong64", ""),
    (2, 1, 21): ("ppc64le", ""),
    (2, 2, 21): ("ppc64", ""),
    (2, 2, 22): ("s390x", ""),
    (2, 1, 8): ("mips64le", ""),
    (2, 2, 8): ("mips64", ""),
    (1, 1, 8): ("mipsle", ""),
    (1, 2, 8): ("mips", ""),
}


def supported_platforms(host: Platform, handlers: Path = BINFMT) -> tuple[Platform, ...]:
    """The host's platform, then those that it runs besides, by itself or by an emulator."""
    own = [Platform(os=host.os, architecture=name) for name in _ALWAYS.get(host.architecture, ())]
    return tuple(dict.fromkeys((host, *own, *_emulated(host, handlers))))


def runs(platform: Platform, host: Platform, handlers: Path = BINFMT) -> bool:
    """Whether programs of a platform run here."""
    return any(
        (item.os, item.architecture) == (platform.os, platform.architecture)
        for item in supported_platforms(host, handlers)
    )


def remedy(platform: Platform, host: Platform) -> str:
    """What to do about programs that do not run here."""
    return (
        f"{platform} programs need an emulator on this {host} machine: install qemu-user-static"
        " and binfmt-support (Debian's names), or let the stage run here and compile for"
        " $TARGETPLATFORM: FROM --platform=$BUILDPLATFORM"
    )


def _emulated(host: Platform, handlers: Path) -> list[Platform]:
    try:
        if (handlers / "status").read_text().strip() != "enabled":
            return []
        files = sorted(handlers.iterdir())
    except OSError:  # not mounted
        return []
    found = []
    for file in files:
        if file.name in {"register", "status"}:
            continue
        try:
            machine = _machine(file.read_text())
        except (OSError, ValueError):
            continue
        if machine is not None:
            found.append(Platform(os=host.os, architecture=machine[0], variant=machine[1]))
    return found


def _machine(text: str) -> tuple[str, str] | None:
    """The architecture that a handler takes. Raises ValueError."""
    lines = text.splitlines()
    facts = {key.rstrip(":"): value for key, _, value in (line.partition(" ") for line in lines)}
    magic = bytes.fromhex(facts.get("magic", ""))
    usable = lines[:1] == ["enabled"] and "F" in facts.get("flags", "")
    if not usable or facts.get("offset", "0") != "0" or len(magic) < 20:
        return None
    if not magic.startswith(_ELF):
        return None
    number = int.from_bytes(magic[18:20], "little" if magic[5] == _LITTLE else "big")
    return _MACHINES.get((magic[4], magic[5], number))
