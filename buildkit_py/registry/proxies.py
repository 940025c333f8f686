"""The proxy of a URL, by the usual environment variables."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from urllib.parse import urlsplit

from buildkit_py.registry.config import is_loopback


def proxy_for(url: str, environment: Mapping[str, str]) -> str | None:
    """The proxy's URL, or None for a direct connection.

    `HTTP(S)_PROXY` and `ALL_PROXY` in either case; `NO_PROXY` lists hosts, `.domains`, addresses
    and networks, or `*`. This machine is never reached through a proxy.
    """
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    proxy = _variable(environment, f"{parts.scheme}_proxy") or _variable(environment, "all_proxy")
    if not proxy or is_loopback(host) or _excluded(host, port, _variable(environment, "no_proxy")):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def _variable(environment: Mapping[str, str], name: str) -> str:
    return environment.get(name) or environment.get(name.upper()) or ""


def _excluded(host: str, port: int, patterns: str) -> bool:
    return any(_matches(host, port, entry.strip().lower()) for entry in patterns.split(","))


def _matches(host: str, port: int, entry: str) -> bool:
    if not entry:
        return False
    if entry == "*":
        return True
    name, colon, wanted = entry.rpartition(":")
    if colon and wanted.isdigit() and not name.count(":"):
        if int(wanted) != port:
            return False
        entry = name
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(entry, strict=False)
    except ValueError:
        pass
    domain = entry.lstrip("*").lstrip(".")
    return host == domain or host.endswith("." + domain)
