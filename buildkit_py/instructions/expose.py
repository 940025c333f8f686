"""EXPOSE: documents ports."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

from buildkit_py.errors import InvalidArgument
from buildkit_py.instructions.base import Instruction, at_least_one, instruction
from buildkit_py.instructions.flags import FlagSet
from buildkit_py.instructions.gotext import plain_list, quoted
from buildkit_py.syntax import Arguments, Shape

if TYPE_CHECKING:
    from buildkit_py.expansion import Expander
    from buildkit_py.stage_builder import StageBuilder

_PORT = re.compile(r"[0-9]{1,18}\Z")
_PROTOCOLS = frozenset({"tcp", "udp", "sctp"})


@instruction("EXPOSE", Shape.WORDS)
@dataclass(frozen=True, slots=True, kw_only=True)
class Expose(Instruction):
    """`EXPOSE port[-port][/protocol] …`; the words are kept sorted."""

    ports: tuple[str, ...]

    @classmethod
    def parse(cls, arguments: Arguments) -> Self:
        """Read the words."""
        ports = tuple(sorted(at_least_one(arguments)))
        FlagSet(arguments)
        return cls(line=arguments.line, ports=ports)

    def expand(self, expander: Expander) -> Self:
        """Each word, which may become several."""
        return replace(
            self, ports=tuple(word for port in self.ports for word in expander.words(port))
        )

    def lower(self, builder: StageBuilder) -> None:
        """Merge into `ExposedPorts`."""
        found: list[str] = []
        for port in self.ports:
            try:
                found += exposed_ports(port)
            except ValueError as error:
                raise InvalidArgument(str(error), span=self.line.find(port)) from None
        builder.growing.add_ports(found)
        builder.commit_metadata(f"EXPOSE {plain_list(found)}")


def split_port(word: str) -> tuple[str, str, str]:
    """Address, host port and container port of `[[ip:]host:]container`."""
    parts = word.split(":")
    if len(parts) < 3:
        return "", parts[0] if len(parts) == 2 else "", parts[-1]
    return ":".join(parts[:-2]), parts[-2], parts[-1]


def exposed_ports(word: str) -> list[str]:
    """The `port/protocol` keys of one word. Raises ValueError."""
    address, host, container = split_port(word)
    container, _, protocol = container.partition("/")
    if not container:
        raise ValueError(f"invalid port: {quoted(word)}: no port specified")
    if protocol and protocol.lower() not in _PROTOCOLS:
        raise ValueError(f"invalid port: {quoted(word)}: invalid proto: {protocol}")
    protocol = protocol.lower() or "tcp"
    if address:
        _check_address(address)
    try:
        first, last = _port_range(container)
    except ValueError:
        raise ValueError(f"invalid containerPort: {container}") from None
    if host:
        try:
            host_first, host_last = _port_range(host)
        except ValueError:
            raise ValueError(f"invalid hostPort: {host}") from None
        if last - first != host_last - host_first and last != first:
            raise ValueError(
                f"invalid ranges specified for container and host Ports: {container} and {host}"
            )
    return [f"{port}/{protocol}" for port in range(first, last + 1)]


def _check_address(address: str) -> None:
    bare = address[1:-1] if address.startswith("[") and address.endswith("]") else address
    try:
        ipaddress.ip_address(bare)
    except ValueError:
        raise ValueError(f"invalid IP address: {bare}") from None


def _port_range(text: str) -> tuple[int, int]:
    first, dash, last = text.partition("-")
    ends = (first, last if dash else first)
    if not all(_PORT.match(end) and int(end) <= 65535 for end in ends):
        raise ValueError(text)
    if int(ends[1]) < int(ends[0]):
        raise ValueError(text)
    return int(ends[0]), int(ends[1])
