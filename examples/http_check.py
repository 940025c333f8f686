"""Small HTTP errands of the demonstration, on the standard library alone.

reachable URL   exit status 0 if a server answers there within five seconds, whatever it says
fetch URL       wait up to thirty seconds for a page, then show its text
port            print a free TCP port of the loopback interface
"""

from __future__ import annotations

import re
import socket
import sys
import time
import urllib.error
import urllib.request


def reachable(url: str) -> bool:
    """Whether a server answers at all (401 is an answer)."""
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except urllib.error.HTTPError as error:
        return error.code == 401
    except OSError:
        return False


def fetch(url: str) -> str:
    """The body at `url`, as soon as its server listens."""
    deadline = time.monotonic() + 30
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                body: str = answer.read().decode()
                print(f"GET {url} -> {answer.status} {answer.headers['Content-Type']}")
                return body
        except urllib.error.HTTPError:
            raise
        except OSError as error:
            if time.monotonic() > deadline:
                raise SystemExit(f"error: no answer from {url}: {error}") from error
            time.sleep(0.1)


def text_of(body: str) -> str:
    """A page's visible lines."""
    lines = (re.sub(r"<[^>]*>", " ", line).strip() for line in body.splitlines())
    return "\n".join(f"    {line}" for line in lines if line)


def free_port() -> int:
    """A port that nobody listens on just now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def main(words: list[str]) -> int:
    """Run one errand; returns the exit status."""
    match words:
        case ["reachable", url]:
            return 0 if reachable(url) else 1
        case ["fetch", url]:
            print(text_of(fetch(url)))
        case ["port"]:
            print(free_port())
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
