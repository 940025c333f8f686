"""Docker Hub's search, which is no part of the distribution API."""

from __future__ import annotations

import json
from dataclasses import dataclass
from urllib.parse import urlencode

from buildkit_py.errors import RegistryError
from buildkit_py.registry.transport import Request, Transport

_URL = "https://index.docker.io/v1/search"
_LIMIT = 4 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class HubEntry:
    """One repository that was found."""

    name: str
    description: str
    stars: int
    official: bool


def search_hub(transport: Transport, term: str, limit: int, url: str = _URL) -> list[HubEntry]:
    """Repositories of Docker Hub that match. Raises RegistryError."""
    query = urlencode({"q": term, "n": max(1, min(limit, 100))})
    with transport.request(Request(method="GET", url=f"{url}?{query}")) as response:
        if response.status != 200:
            raise RegistryError(
                f"Docker Hub answers {response.status} to a search", status=response.status
            )
        data = response.read(_LIMIT)
    try:
        results = json.loads(data)["results"]
        return [_entry(item) for item in results[:limit] if isinstance(item, dict)]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise RegistryError("Docker Hub's answer to a search is malformed") from error


def _entry(item: dict[str, object]) -> HubEntry:
    stars = item.get("star_count")
    return HubEntry(
        name=_clean(item.get("name")),
        description=_clean(item.get("description")),
        stars=stars if isinstance(stars, int) else 0,
        official=bool(item.get("is_official")),
    )


def _clean(value: object) -> str:
    return "".join(c for c in str(value or "") if c.isprintable())
