"""The report of a build, looked at in a real browser."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Pybuild

Context = Callable[..., Path]
pytestmark = [pytest.mark.sandbox, pytest.mark.root]

DOCKERFILE = """\
FROM busybox AS base
RUN echo "fetching packages" && sleep 0.5 && head -c 3000000 /dev/urandom > /lib.bin
FROM base AS api
WORKDIR /src
COPY api ./
RUN sleep 0.9 && cat *.txt > /api.bin && echo compiled
FROM base AS frontend
COPY web /web
RUN sleep 0.6 && head -c 900000 /dev/urandom > /bundle.js
FROM api AS test
RUN echo "12 passed" && sleep 0.4 && touch /passed
FROM busybox AS app
ARG VERSION=1.0
RUN echo $VERSION > /version
COPY --from=api /api.bin /bin/
COPY --from=frontend /bundle.js /static/
COPY --from=test /passed /
ENV PORT=8080
CMD ["/bin/api.bin"]
"""
FILES = {"api/main.txt": "main", "api/util.txt": "util", "web/index.html": "<p>"}


def opened(page: Path, *options: str) -> tuple[str, str]:
    """The page's elements after it was loaded, and what the browser said about it."""
    done = subprocess.run(
        [
            "chromium",
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-background-networking",
            "--no-first-run",
            "--enable-logging=stderr",
            f"--user-data-dir={page.parent}/profile",
            *options,
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return done.stdout, done.stderr


@pytest.mark.requires("chromium")
def test_the_page_has_a_bar_for_each_step_and_no_error(
    busybox: Pybuild, context: Context, tmp_path: Path
) -> None:
    app = context(DOCKERFILE, FILES)
    busybox("build", "-t", "shop/app:1.0", app)
    (app / "web" / "index.html").write_text("<p>changed")
    page = tmp_path / "report.html"
    arguments = ["-t", "shop/app:1.1", "--build-arg=VERSION=1.1", "--report", page]
    busybox("build", *arguments, app)
    elements, said = opened(page, "--dump-dom")
    assert "CONSOLE" not in said, said
    steps = re.findall(r'class="bar ([\w -]+)" data-step="(\d+)"', elements)
    assert len(steps) == len({number for _, number in steps}) == 13
    assert "1 file changed (web/index.html)" in elements
    assert "follows COPY web /web" in elements
    assert "ARG VERSION 1.0 → 1.1" in elements
    assert elements.count('class="stage ') == 5
    assert elements.count('class="edge"') == 6
    picture = tmp_path / "report.png"
    opened(page, f"--screenshot={picture}", "--window-size=1240,1500", "--hide-scrollbars")
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.requires("chromium")
def test_nothing_in_a_build_can_run_in_the_page(
    busybox: Pybuild, context: Context, tmp_path: Path
) -> None:
    evil = "<script>console.error(1)</script><img src=x onerror=console.error(2)>"
    app = context(f"FROM busybox AS x\nLABEL a=\"{evil}\"\nRUN echo '{evil}'; echo '{evil}' >&2\n")
    page = tmp_path / "report.html"
    busybox("build", "-t", "app", f"--label=b={evil}", "--report", page, app)
    elements, said = opened(page, "--dump-dom")
    assert "CONSOLE" not in said, said
    assert "<script" not in elements
    assert "<img" not in elements
    assert "&lt;script&gt;" in elements


def test_a_failed_build_has_a_report_too(
    busybox: Pybuild, context: Context, tmp_path: Path
) -> None:
    app = context("FROM busybox\nRUN echo some output; exit 3\nRUN echo never\n")
    page = tmp_path / "report.html"
    busybox("build", "--report", page, app, status=1)
    text = page.read_text()
    assert 'class="bar failed" data-step="2"' in text
    assert 'class="bar not-reached" data-step="3"' in text
    assert "some output" in text
    assert "exit code: 3" in text


def test_a_recorded_build_can_be_reported_later(
    busybox: Pybuild, context: Context, tmp_path: Path
) -> None:
    busybox("build", "-t", "app:later", context("FROM busybox\nRUN echo hello > /hello\n"))
    shown = busybox("builds", "report").stdout
    assert "app:later" in shown
    assert "https://" not in shown
    busybox("builds", "report", "^0", "-o", tmp_path / "later.html")
    assert (tmp_path / "later.html").read_text() == shown
    inspected = busybox("builds", "inspect").stdout
    assert re.search(r"^\d+\.\ds +done +\d+B +\[2/2\] RUN echo hello", inspected, re.MULTILINE)
