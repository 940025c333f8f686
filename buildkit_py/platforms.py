"""OS, architecture and variant in normal form (the rules of containerd's platforms package)."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from buildkit_py.errors import UsageError

_ARCH_ALIASES = {
    "x86_64": ("amd64", ""),
    "x86-64": ("amd64", ""),
    "i386": ("386", ""),
    "i486": ("386", ""),
    "i586": ("386", ""),
    "i686": ("386", ""),
    "aarch64": ("arm64", ""),
    "armhf": ("arm", "v7"),
    "armel": ("arm", "v6"),
    "armv7l": ("arm", "v7"),
    "armv6l": ("arm", "v6"),
}
_OS_ALIASES = {"macos": "darwin"}
_KNOWN_OS = frozenset(
    "aix android darwin dragonfly freebsd illumos ios js linux netbsd openbsd plan9 solaris wasip1"
    " windows zos".split()
)
_KNOWN_ARCH = frozenset(
    "386 amd64 amd64p32 arm armbe arm64 arm64be loong64 mips mipsle mips64 mips64le ppc ppc64"
    " ppc64le riscv riscv64 s390 s390x sparc sparc64 wasm".split()
)
_WORD = re.compile(r"[A-Za-z0-9_.-]+\Z")
_OS_PART = re.compile(r"([A-Za-z0-9_-]+)(?:\(([A-Za-z0-9_.-]*)\))?\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Platform:
    """A normalised platform; `str()` gives `os/arch[/variant]`."""

    os: str = "linux"
    architecture: str = "amd64"
    variant: str = ""
    os_version: str = ""
    os_features: tuple[str, ...] = field(default=(), compare=False)  # said, never asked for

    def __str__(self) -> str:
        parts = [self.os, self.architecture]
        if self.variant:
            parts.append(self.variant)
        return "/".join(parts)

    @property
    def identifier(self) -> str:
        """A file-name form: `linux_arm64_v8`."""
        return str(self).replace("/", "_")


def normalize(os: str, architecture: str, variant: str = "", os_version: str = "") -> Platform:
    """The canonical platform for spellings such as `x86_64` or `arm64/v8`."""
    os = _OS_ALIASES.get(os.lower(), os.lower())
    architecture = architecture.lower()
    variant = variant.lower()
    if architecture in _ARCH_ALIASES:
        architecture, implied = _ARCH_ALIASES[architecture]
        variant = variant or implied
    if architecture == "arm64" and variant in {"8", "v8"}:
        variant = ""
    elif architecture == "arm":
        variant = {"": "v7", "5": "v5", "6": "v6", "7": "v7", "8": "v8"}.get(variant, variant)
    elif (architecture == "amd64" and variant == "v1") or architecture == "386":
        variant = ""
    return Platform(os=os, architecture=architecture, variant=variant, os_version=os_version)


def parse_platform(text: str, host: Platform) -> Platform:
    """Parse `os`, `arch`, `os/arch` or `os/arch/variant`; `local` is `host`. Raises UsageError."""
    if text == "local":
        return host
    parts = text.split("/")
    head = _OS_PART.match(parts[0])
    if not head or len(parts) > 3 or not all(_WORD.match(part) for part in parts[1:]):
        raise UsageError(
            f'"{text}": invalid platform', hint="expected os/arch[/variant], such as linux/arm64"
        )
    os, os_version = head.group(1).lower(), head.group(2) or ""
    if len(parts) > 1:
        return normalize(os, parts[1], parts[2] if len(parts) == 3 else "", os_version)
    if _OS_ALIASES.get(os, os) in _KNOWN_OS:
        return normalize(os, host.architecture, host.variant, os_version)
    if os in _ARCH_ALIASES or os in _KNOWN_ARCH:
        return normalize(host.os, os)
    raise UsageError(f'"{text}": unknown operating system or architecture: invalid argument')


def host_platform(machine: str) -> Platform:
    """The platform for a kernel's machine name (`os.uname().machine`)."""
    return normalize("linux", machine)


def satisfies(wanted: Platform, offered: Platform) -> bool:
    """Whether an image of platform `offered` serves `wanted` (lower ARM variants do)."""
    if (wanted.os, wanted.architecture) != (offered.os, offered.architecture):
        return False
    if wanted.architecture == "arm" and wanted.variant[:1] == offered.variant[:1] == "v":
        return offered.variant <= wanted.variant
    return wanted.variant == offered.variant or not offered.variant
