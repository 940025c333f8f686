"""`type=s3`: a cache in a bucket, in the places where BuildKit puts its own.

Blobs lie at `<prefix><blobs_prefix><digest>`, the config of each name at
`<prefix><manifests_prefix><name>`. Layers remember where they are without any credentials; those
come from the options, or from the variables that AWS' own programs read.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit, urlunsplit

from buildkit_py.cache.config import CONFIG_LIMIT, decode, encode, merge
from buildkit_py.cache.imports import LoadedCache
from buildkit_py.cache.signing import EMPTY, Credentials, signed_headers
from buildkit_py.digest import Digest, hex_of, sha256
from buildkit_py.errors import BlobNotFound, ContentError, RegistryError, UsageError

if TYPE_CHECKING:
    from buildkit_py.cache.exports import CacheExport
    from buildkit_py.cache.options import CacheOption
    from buildkit_py.oci.descriptor import Descriptor
    from buildkit_py.registry.transport import Body, Response, Transport
    from buildkit_py.store.content import ContentStore
    from buildkit_py.store.snapshots import SnapshotStore

SCHEME = "s3:"
_LARGEST = 5 << 30  # of one PUT
_PIECE = 1 << 20
_ERROR_LIMIT = 1 << 16
_DAY = 86400.0

# Credentials given as options, for layers that are fetched later in this process.
_GIVEN: dict[str, Credentials] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a cache is: all of it that is no secret."""

    bucket: str
    region: str
    endpoint: str = ""
    path_style: bool = False
    prefix: str = ""
    blobs: str = "blobs/"
    manifests: str = "manifests/"
    names: tuple[str, ...] = ("buildkit",)

    @property
    def origin(self) -> str:
        """The text by which layers remember the place."""
        return SCHEME + json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))

    def url(self, key: str) -> str:
        """The address of an object."""
        base = urlsplit(self.endpoint or f"https://s3.{self.region}.amazonaws.com")
        path = base.path.rstrip("/") + "/" + quote(key, safe="/-_.~")
        host = base.netloc
        if self.path_style:
            path = base.path.rstrip("/") + f"/{self.bucket}/" + quote(key, safe="/-_.~")
        else:
            host = f"{self.bucket}.{host}"
        return urlunsplit((base.scheme, host, path, "", ""))


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """A bucket with the means to ask it."""

    place: Place
    transport: Transport
    credentials: Credentials | None = None
    retries: int | None = None
    clock: Callable[[], datetime] = field(default=lambda: datetime.now(UTC))

    def request(
        self,
        method: str,
        key: str,
        *,
        body: Body = None,
        payload: str = EMPTY,
        length: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        """One signed request. Raises RegistryError when the server cannot be reached."""
        from buildkit_py.registry.transport import Request  # noqa: PLC0415

        url = self.place.url(key)
        sent = dict(headers or {})
        if self.credentials is not None:
            sent = signed_headers(
                method,
                url,
                sent,
                payload=payload,
                credentials=self.credentials,
                region=self.place.region,
                now=self.clock(),
            )
        return self.transport.request(
            Request(
                method=method,
                url=url,
                headers=sent,
                body=body,
                length=length,
                retries=self.retries,
                follow=False,
            )
        )

    def read(self, key: str, limit: int) -> bytes:
        """A small object. Raises BlobNotFound, RegistryError."""
        with self.request("GET", key) as response:
            self.check(response, key)
            return response.read(limit)

    def check(self, response: Response, key: str) -> None:
        """Raise what an answer says went wrong."""
        if response.status < 300:
            return
        if response.status == 404:
            raise BlobNotFound(f"the bucket {self.place.bucket} has no {key}")
        said = response.read(_ERROR_LIMIT).decode("utf-8", "replace")
        code = said.partition("<Code>")[2].partition("</Code>")[0]
        why = f": {code}" if code.isalnum() else ""
        raise RegistryError(
            f"the bucket {self.place.bucket} answers {response.status}{why} for {key}",
            status=response.status,
        )

    def put(self, key: str, payload: str, body: Body, length: int) -> None:
        """Write an object; the server compares it with its digest."""
        if length > _LARGEST:
            raise ContentError(f"{key} has more than 5 GiB, the most of one upload to S3")
        with self.request(
            "PUT",
            key,
            body=body,
            payload=payload,
            length=length,
            headers={"Content-Type": "application/octet-stream"},
        ) as response:
            self.check(response, key)

    def keep(self, key: str, refresh: float) -> bool:
        """Whether an object is there; an old one is made young, for rules that expire objects."""
        with self.request("HEAD", key) as response:
            if response.status == 404:
                return False
            self.check(response, key)
            age = self._age(response.headers.get("last-modified", ""))
        if age > refresh:
            copy = {
                "x-amz-copy-source": f"/{self.place.bucket}/" + quote(key, safe="/-_.~"),
                "x-amz-metadata-directive": "REPLACE",
            }
            with self.request("PUT", key, headers=copy) as response:
                self.check(response, key)
        return True

    def _age(self, modified: str) -> float:
        try:
            return (self.clock() - parsedate_to_datetime(modified)).total_seconds()
        except (ValueError, TypeError):
            return 0.0


def open_bucket(
    option: CacheOption, transport: Transport, environment: Mapping[str, str]
) -> Bucket:
    """The bucket of an option. Raises UsageError."""
    bucket = option.text("bucket") or environment.get("AWS_BUCKET", "")
    region = option.text("region") or environment.get("AWS_REGION", "")
    for name, value in (("bucket", bucket), ("region", region)):
        if not value:
            raise UsageError(
                f"a cache of type=s3 needs {name}=", hint=f"or set AWS_{name.upper()}"
            )
    attempts = option.text("retry_max_attempts", "3")
    if not attempts.isdecimal():
        raise UsageError(f"invalid retry_max_attempts {attempts!r} of a cache")
    place = Place(
        bucket=bucket,
        region=region,
        endpoint=option.text("endpoint_url"),
        path_style=option.flag("use_path_style"),
        prefix=option.text("prefix"),
        blobs=option.text("blobs_prefix", "blobs/"),
        manifests=option.text("manifests_prefix", "manifests/"),
        names=tuple(filter(None, option.text("name", "buildkit").split(";"))),
    )
    credentials = _credentials(environment)
    if option.text("access_key_id"):
        credentials = Credentials(
            key=option.text("access_key_id"),
            secret=option.text("secret_access_key"),
            token=option.text("session_token"),
        )
        _GIVEN[place.origin] = credentials
    return Bucket(
        place=place,
        transport=transport,
        credentials=credentials,
        retries=max(0, int(attempts) - 1),
    )


def _credentials(environment: Mapping[str, str]) -> Credentials | None:
    key, secret = environment.get("AWS_ACCESS_KEY_ID"), environment.get("AWS_SECRET_ACCESS_KEY")
    if not key or not secret:
        return None
    return Credentials(key=key, secret=secret, token=environment.get("AWS_SESSION_TOKEN", ""))


# ------------------------------------------------------------------ export
def push_cache(
    bucket: Bucket,
    export: CacheExport,
    snapshots: SnapshotStore,
    *,
    parallel: int = 4,
    refresh: float = _DAY,
) -> Digest:
    """Write a cache: blobs first, then the config under each name. Raises RegistryError."""
    place = bucket.place
    content = snapshots.content

    def send(descriptor: Descriptor, make: Callable[[], None]) -> None:
        key = place.prefix + place.blobs + descriptor.digest
        if bucket.keep(key, refresh):
            return
        make()
        digits = hex_of(descriptor.digest)
        bucket.put(key, digits, lambda: _pieces(content, descriptor.digest), descriptor.size)

    with ThreadPoolExecutor(max_workers=max(1, parallel)) as pool:
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
    digest = sha256(config)
    for name in place.names:
        bucket.put(place.prefix + place.manifests + name, hex_of(digest), config, len(config))
    return digest


def _pieces(content: ContentStore, digest: Digest) -> Iterator[bytes]:
    with content.open(digest) as file:
        while data := file.read(_PIECE):
            yield data


# ------------------------------------------------------------------ import
def pull_cache(bucket: Bucket) -> LoadedCache:
    """Read the caches of all names that are there. Raises ContentError, RegistryError."""
    place = bucket.place
    configs = []
    missing: BlobNotFound | None = None
    for name in place.names:
        try:
            data = bucket.read(place.prefix + place.manifests + name, CONFIG_LIMIT)
            configs.append(decode(data))
        except BlobNotFound as error:
            missing = error
    if not configs and missing is not None:
        raise missing
    return LoadedCache(config=merge(configs), origin=place.origin)


def fetch_blob(
    origin: str,
    descriptor: Descriptor,
    content: ContentStore,
    transport: Transport,
    environment: Mapping[str, str],
) -> None:
    """Bring a layer into the content store, verified. Raises ContentError, RegistryError."""
    try:
        fields = json.loads(origin.removeprefix(SCHEME))
        place = Place(**{**fields, "names": tuple(fields["names"])})
    except (ValueError, TypeError, KeyError) as error:
        raise ContentError(f"damaged origin of layer {descriptor.digest}") from error
    credentials = _GIVEN.get(origin) or _credentials(environment)
    bucket = Bucket(place=place, transport=transport, credentials=credentials)
    key = place.prefix + place.blobs + descriptor.digest
    with bucket.request("GET", key) as response:
        bucket.check(response, key)
        content.put_stream(response.stream(), descriptor, sync=True)
