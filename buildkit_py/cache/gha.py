"""`type=gha`: a cache in GitHub Actions' cache service, in the places where BuildKit puts its own.

A blob is the entry `buildkit-blob-1-<digest>`. The config is `index-<scope>-1-<branch>#<N>`, of
which the highest number counts, since entries cannot be replaced. The token says which branches'
entries may be read, and to which one this workflow writes; it is never stored.
"""

from __future__ import annotations

import json
import time
from base64 import urlsafe_b64decode
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from buildkit_py.cache.actions import ActionsCache, AlreadyThere
from buildkit_py.cache.config import CONFIG_LIMIT, decode, encode, merge
from buildkit_py.cache.imports import LoadedCache
from buildkit_py.digest import Digest, hex_of, sha256
from buildkit_py.errors import BlobNotFound, ContentError, RegistryError, UsageError

if TYPE_CHECKING:
    from buildkit_py.cache.exports import CacheExport
    from buildkit_py.cache.options import CacheOption
    from buildkit_py.oci.descriptor import Descriptor
    from buildkit_py.registry.transport import Transport
    from buildkit_py.store.content import ContentStore
    from buildkit_py.store.snapshots import SnapshotStore

SCHEME = "gha:"
_BLOB = "buildkit-blob-1-"
_AT_A_TIME = 4
_TEN_MINUTES = 600.0
_WRITE = 2
_RESULTS_HOST = "results-receiver.actions.githubusercontent.com"
_PUBLIC_API = "https://api.github.com"

# Tokens given as options, for layers that are fetched later in this process.
_GIVEN: dict[str, str] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowCache:
    """The service as one workflow may use it: caches it reads, nearest first, and its own."""

    service: ActionsCache
    scope: str
    readable: tuple[str, ...]
    writable: str
    listing: Callable[[str], frozenset[str]] | None = None

    def index(self, branch: str) -> str:
        """The name of a branch's config."""
        return f"index-{self.scope}-1-{hex_of(sha256(branch.encode()))[:8]}"

    @property
    def origin(self) -> str:
        """The text by which layers remember the place."""
        return _origin(self.service.url, self.service.version)


def _origin(url: str, version: int) -> str:
    place = {"url": url, "version": version}
    return SCHEME + json.dumps(place, sort_keys=True, separators=(",", ":"))


def open_cache(
    option: CacheOption, transport: Transport, environment: Mapping[str, str]
) -> WorkflowCache:
    """The cache of an option and the workflow's variables. Raises UsageError."""
    url, version = _place(option, environment)
    token = option.text("token") or environment.get("ACTIONS_RUNTIME_TOKEN", "")
    if not token:
        raise UsageError(
            "a cache of type=gha needs token=",
            hint="inside of a workflow it is ACTIONS_RUNTIME_TOKEN, which an action must pass on",
        )
    readable, writable = _branches(token, time.time())
    service = ActionsCache(
        url=url,
        version=version,
        token=token,
        transport=transport,
        deadline=time.monotonic() + option.seconds("timeout", _TEN_MINUTES),
    )
    if option.text("token"):
        _GIVEN[_origin(url, version)] = token
    repository, credential = option.text("repository"), option.text("ghtoken")
    listing = None
    if repository and credential:
        api = environment.get("GITHUB_API_URL") or _PUBLIC_API
        listing = partial(service.keys, api, repository, credential)
    return WorkflowCache(
        service=service,
        scope=option.text("scope") or "buildkit",
        readable=readable,
        writable=writable,
        listing=listing,
    )


def _place(option: CacheOption, environment: Mapping[str, str]) -> tuple[str, int]:
    """The address of the service, and which protocol it speaks."""
    old = option.text("url") or environment.get("ACTIONS_CACHE_URL", "")
    new = option.text("url_v2")
    if not new and not option.text("url"):
        new = environment.get("ACTIONS_RESULTS_URL", "")
    asked = option.text("version")
    if asked != "1" and new:
        return _checked(new), 2
    if not old:
        raise UsageError(
            "a cache of type=gha needs url_v2= or url=",
            hint="inside of a workflow they are ACTIONS_RESULTS_URL and ACTIONS_CACHE_URL",
        )
    return _checked(old), 2 if asked == "2" or _RESULTS_HOST in old else 1


def _checked(url: str) -> str:
    if not url.startswith(("http://", "https://")):
        raise UsageError(f"invalid address {url!r} of a cache: expected http:// or https://")
    return url


def _branches(token: str, now: float) -> tuple[tuple[str, ...], str]:
    """What a token lets read, and write. One that is no JWT is the server's own affair."""
    parts = token.split(".")
    if len(parts) != 3:
        return ("",), ""
    try:
        claims = json.loads(urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
        scopes = [
            (str(item["Scope"]), int(item["Permission"])) for item in json.loads(claims["ac"])
        ]
        expires = float(claims.get("exp", now + 1))
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(
            "the token of a cache of type=gha does not say what it gives access to",
            hint="it is ACTIONS_RUNTIME_TOKEN that is wanted, not GITHUB_TOKEN",
        ) from error
    if expires < now:
        raise UsageError("the token of a cache of type=gha has expired")
    writable = [name for name, permission in scopes if permission & _WRITE]
    return tuple(name for name, _ in scopes), writable[-1] if writable else ""


# ------------------------------------------------------------------ export
def push_cache(cache: WorkflowCache, export: CacheExport, snapshots: SnapshotStore) -> Digest:
    """Write a cache: blobs first, then the config. Raises RegistryError."""
    content, service = snapshots.content, cache.service
    known = cache.listing(_BLOB) if cache.listing is not None else None

    def send(descriptor: Descriptor, make: Callable[[], None]) -> None:
        key = _BLOB + descriptor.digest
        if key in known if known is not None else service.load(key) is not None:
            return
        make()
        with suppress(AlreadyThere):  # another job sends it just now
            service.save(key, partial(content.open, descriptor.digest), descriptor.size)

    with ThreadPoolExecutor(max_workers=_AT_A_TIME) as pool:
        layers = {blob.descriptor.digest: (snap, blob) for snap, blob in export.layers}
        sent = [
            pool.submit(send, blob.descriptor, partial(snapshots.ensure_blob, snapshot, blob))
            for snapshot, blob in layers.values()
        ]
        sent += [
            pool.submit(send, item.blob, partial(export.ready, item))
            for item in export.config.mounts
        ]
        for future in sent:
            future.result()
    config = encode(export.config)
    service.save_next(cache.index(cache.writable), config)
    return sha256(config)


# ------------------------------------------------------------------ import
def pull_cache(cache: WorkflowCache) -> LoadedCache:
    """Read the caches of all branches that are there. Raises ContentError, RegistryError."""
    configs = []
    for branch in cache.readable:
        entry = cache.service.load(cache.index(branch) + "#")
        if entry is not None:
            with cache.service.open(entry) as response:
                configs.append(decode(response.read(CONFIG_LIMIT)))
    if not configs:
        raise BlobNotFound(f"the cache service has nothing of scope {cache.scope}")
    return LoadedCache(config=merge(configs), origin=cache.origin)


def fetch_blob(
    origin: str,
    descriptor: Descriptor,
    content: ContentStore,
    transport: Transport,
    environment: Mapping[str, str],
) -> None:
    """Bring a layer into the content store, verified. Raises ContentError, RegistryError."""
    try:
        place = json.loads(origin.removeprefix(SCHEME))
        url, version = str(place["url"]), int(place["version"])
    except (ValueError, TypeError, KeyError) as error:
        raise ContentError(f"damaged origin of layer {descriptor.digest}") from error
    token = _GIVEN.get(origin) or environment.get("ACTIONS_RUNTIME_TOKEN", "")
    if not token:
        raise RegistryError(
            f"no token to fetch layer {descriptor.digest} from GitHub's cache service",
            hint="set ACTIONS_RUNTIME_TOKEN",
        )
    service = ActionsCache(
        url=url,
        version=version,
        token=token,
        transport=transport,
        deadline=time.monotonic() + _TEN_MINUTES,
    )
    entry = service.load(_BLOB + descriptor.digest)
    if entry is None:
        raise BlobNotFound(f"the cache service has no layer {descriptor.digest}")
    with service.open(entry) as response:
        content.put_stream(response.stream(), descriptor, sync=True)
