"""How registries are reached: mirrors, insecure hosts, certificates (`pybuild.toml`).

```toml
[registry."docker.io"]
mirrors = ["mirror.example:5000", "cache.example/docker-hub"]

[registry."registry.example:5000"]
http = true                     # plain HTTP only
insecure = true                 # HTTP when HTTPS does not answer; certificates are not checked
ca = ["/etc/ssl/example.pem"]
keypair = [{ cert = "/etc/ssl/client.cert", key = "/etc/ssl/client.key" }]

[transfer]
parallel = 4                    # blobs at a time
retries = 5
chunk-size = 0                  # bytes of one upload request, 0: the whole blob
```
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from buildkit_py.errors import UsageError
from buildkit_py.registry.places import config_files

_TRANSFER = frozenset(("parallel", "retries", "chunk-size"))


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyPair:
    """A client certificate and its key, as files."""

    cert: str
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HostConfig:
    """What is special about one registry host."""

    mirrors: tuple[str, ...] = ()
    http: bool = False
    insecure: bool = False
    ca: tuple[str, ...] = ()
    keypairs: tuple[KeyPair, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryConfig:
    """All hosts that something is said of, and the limits of transfers."""

    hosts: Mapping[str, HostConfig] = field(default_factory=dict)
    certificate_directories: tuple[str, ...] = ()  # HOST/{*.crt,*.cert,*.key} below each
    parallel: int = 4
    retries: int = 5
    chunk_size: int = 0
    connect_timeout: float = 30.0
    read_timeout: float = 60.0

    def host(self, name: str) -> HostConfig:
        """The settings of `name` (`host[:port]`), with its certificate directory read."""
        found = self.hosts.get(name) or self.hosts.get(_bare(name)) or HostConfig()
        if is_loopback(name):
            found = replace(found, insecure=True)
        return _with_certificates(found, name, self.certificate_directories)

    def with_insecure(self, names: Iterable[str]) -> RegistryConfig:
        """The same, with `names` marked insecure (`--insecure`)."""
        hosts = dict(self.hosts)
        for name in names:
            hosts[name] = replace(hosts.get(name, HostConfig()), insecure=True)
        return replace(self, hosts=hosts)


def _bare(name: str) -> str:
    return name if name.endswith("]") else name.rpartition(":")[0] or name


def is_loopback(name: str) -> bool:
    """Whether `host[:port]` is this machine; such registries may speak plain HTTP."""
    host = _bare(name).strip("[]") if name.count(":") == 1 or "]" in name else name
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _with_certificates(host: HostConfig, name: str, directories: tuple[str, ...]) -> HostConfig:
    """Docker's `certs.d`: `*.crt` are authorities, `X.cert` and `X.key` a client's pair."""
    authorities, pairs = list(host.ca), list(host.keypairs)
    for directory in directories:
        folder = os.path.join(directory, name)
        try:
            entries = sorted(os.listdir(folder))
        except OSError:
            continue
        present = set(entries)
        for entry in entries:
            path = os.path.join(folder, entry)
            if entry.endswith(".crt"):
                authorities.append(path)
            elif entry.endswith(".cert") and entry[:-5] + ".key" in present:
                pairs.append(KeyPair(cert=path, key=path[:-5] + ".key"))
    return replace(host, ca=tuple(authorities), keypairs=tuple(pairs))


# ------------------------------------------------------------------ reading
def read_config(environment: Mapping[str, str]) -> RegistryConfig:
    """Read every configuration file there is. Raises UsageError for a malformed one."""
    config = RegistryConfig(certificate_directories=_certificate_directories(environment))
    for path, text in config_files(environment):
        config = parse_config(text, path, config)
    return config


def _certificate_directories(environment: Mapping[str, str]) -> tuple[str, ...]:
    home = environment.get("HOME")
    own = (os.path.join(home, ".config", "containers", "certs.d"),) if home else ()
    return ("/etc/docker/certs.d", "/etc/containers/certs.d", *own)


def parse_config(text: str, name: str, base: RegistryConfig | None = None) -> RegistryConfig:
    """Decode one file on top of `base`. Raises UsageError that names the key."""
    import tomllib  # noqa: PLC0415  (kept off the start-up path)

    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{name}: {error}") from error
    config = base or RegistryConfig()
    hosts = dict(config.hosts)
    for domain, table in _table(raw, "registry", name).items():
        if not isinstance(table, dict):
            raise UsageError(f'{name}: registry."{domain}" is not a table')
        hosts[domain] = _host(table, f'{name}: registry."{domain}"')
    transfer = _table(raw, "transfer", name)
    for key in transfer.keys() - _TRANSFER:
        raise UsageError(
            f"{name}: unknown key transfer.{key}", hint="known: " + " ".join(sorted(_TRANSFER))
        )
    return replace(
        config,
        hosts=hosts,
        parallel=_number(transfer, "parallel", config.parallel, name, least=1),
        retries=_number(transfer, "retries", config.retries, name),
        chunk_size=_number(transfer, "chunk-size", config.chunk_size, name),
    )


def _table(raw: Mapping[str, Any], key: str, name: str) -> Mapping[str, Any]:
    value = raw.get(key, {})
    if not isinstance(value, dict):
        raise UsageError(f"{name}: {key} is not a table")
    return value


def _number(raw: Mapping[str, Any], key: str, default: int, name: str, least: int = 0) -> int:
    value = raw.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise UsageError(f"{name}: transfer.{key} is not a number of at least {least}")
    return value


def _host(table: Mapping[str, Any], where: str) -> HostConfig:
    known = {"mirrors", "http", "insecure", "ca", "keypair"}
    unknown = sorted(set(table) - known)
    if unknown:
        raise UsageError(
            f"{where}: unknown key {unknown[0]!r}", hint="known: " + " ".join(sorted(known))
        )
    pairs = table.get("keypair", [])
    if not isinstance(pairs, list) or not all(
        isinstance(pair, dict) and set(pair) == {"cert", "key"} for pair in pairs
    ):
        raise UsageError(f"{where}: keypair is not a list of tables with cert and key")
    return HostConfig(
        mirrors=_strings(table, "mirrors", where),
        http=_flag(table, "http", where),
        insecure=_flag(table, "insecure", where),
        ca=_strings(table, "ca", where),
        keypairs=tuple(KeyPair(cert=str(pair["cert"]), key=str(pair["key"])) for pair in pairs),
    )


def _strings(table: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
    value = table.get(key, [])
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise UsageError(f"{where}: {key} is not a list of strings")
    return tuple(value)


def _flag(table: Mapping[str, Any], key: str, where: str) -> bool:
    value = table.get(key, False)
    if not isinstance(value, bool):
        raise UsageError(f"{where}: {key} is neither true nor false")
    return value
