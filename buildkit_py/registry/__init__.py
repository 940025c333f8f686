"""Registries: the distribution protocol, its authentication, and transfers of images.

`open_client(environment)` is the usual way in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from buildkit_py.registry.client import RegistryClient


def open_client(
    environment: Mapping[str, str], *, insecure: Iterable[str] = (), parallel: int = 0
) -> RegistryClient:
    """A client with the configuration, credentials and proxies of `environment`.

    `insecure` are hosts that may answer by HTTP or with an unknown certificate.
    """
    from dataclasses import replace  # noqa: PLC0415  (a build without network loads none of these)

    from buildkit_py.registry.auth import Authenticator  # noqa: PLC0415
    from buildkit_py.registry.client import RegistryClient  # noqa: PLC0415
    from buildkit_py.registry.config import read_config  # noqa: PLC0415
    from buildkit_py.registry.credentials import CredentialStore  # noqa: PLC0415
    from buildkit_py.registry.transport import Transport  # noqa: PLC0415

    config = read_config(environment).with_insecure(insecure)
    if parallel > 0:
        config = replace(config, parallel=parallel)
    transport = Transport(config, environment=environment)
    return RegistryClient(transport, Authenticator(transport, CredentialStore(environment)))
