"""TLS settings of a registry host, and what its errors mean."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from buildkit_py.errors import RegistryError

if TYPE_CHECKING:
    import ssl

    from buildkit_py.registry.config import HostConfig


def tls_context(settings: HostConfig) -> ssl.SSLContext:
    """What connections to a host are opened with. Raises RegistryError for unusable files."""
    import ssl  # noqa: PLC0415  (kept off the start-up path)

    if settings.insecure:  # reading the host's authorities would be for nothing
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    else:
        context = ssl.create_default_context()
    for path in settings.ca:
        with _explained(path):
            context.load_verify_locations(cafile=path)
    for pair in settings.keypairs:
        with _explained(f"{pair.cert} with {pair.key}"):
            context.load_cert_chain(pair.cert, pair.key)
    return context


@contextmanager
def _explained(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:  # ssl's own errors are such
        reason = (error.strerror or str(error)).lower()
        raise RegistryError(f"cannot use certificate {what}: {reason}") from error


def explain_tls(host: str, reason: str) -> tuple[str, str | None]:
    """OpenSSL's words for a failure without its codes, and what may be done."""
    text = reason.partition("] ")[2].rpartition(" (")[0] or reason
    settings = f'[registry."{host}"] in pybuild.toml'
    if "CERTIFICATE_VERIFY_FAILED" in reason:
        return text, f"name its authority as `ca` of {settings}, or allow any by --insecure"
    if "alert bad certificate" in reason or "certificate required" in reason:
        return text, f"it wants a client's certificate: `keypair` of {settings}"
    return text, None
