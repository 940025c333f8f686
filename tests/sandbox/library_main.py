"""Builds through the library from an ordinary user's process that has threads. Prints JSON."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
import threading
from pathlib import Path

import buildkit_py
from buildkit_py.progress.events import Event, VertexLog, VertexStarted

_GOOD = """\
FROM scratch
COPY busybox /bin/
RUN ["/bin/busybox", "sh", "-c", "/bin/busybox id -u; echo made >/made"]
"""
_BAD = _GOOD + 'RUN ["/bin/busybox", "sh", "-c", "echo last words; exit 3"]\n'
_LONG = _GOOD + 'RUN ["/bin/busybox", "sleep", "600"]\n'


def main() -> None:
    base = Path(sys.argv[1])
    context = base / "context"
    context.mkdir()
    shutil.copy(sys.argv[2], context / "busybox")
    stop = threading.Event()
    threading.Thread(target=stop.wait, daemon=True).start()
    events: list[Event] = []
    note = events.append
    out: dict[str, object] = {"uid": os.geteuid()}
    with buildkit_py.Engine(base / "state") as engine:
        result = engine.build(context, dockerfile_text=_GOOD, tags=["made"], on_event=note)
        out["image"] = result.image_id
        out["listed"] = [image.id for image in engine.images()]
        out["log"] = b"".join(x.data for x in events if isinstance(x, VertexLog)).decode()
        try:
            engine.build(context, dockerfile_text=_BAD)
        except buildkit_py.BuildError as error:
            out["error"] = type(error).__name__
            out["code"] = getattr(error, "exit_code", None)
            out["tail"] = getattr(error, "log_tail", None)
            out["line"] = [span.start.line for span in error.spans]
        try:
            engine.build(context, dockerfile_text="FROM scratch\nCOPPY a b\n")
        except buildkit_py.BuildError as error:
            out["parse"] = f"{type(error).__name__}: {error.spans[0].start.line}"
        archive = io.BytesIO()
        engine.build(context, dockerfile_text=_GOOD, outputs=["type=tar,dest=-"], stdout=archive)
        out["tar"] = b"made\n" in archive.getvalue()
        cancelled = threading.Event()

        def cancel(event: Event) -> None:
            if isinstance(event, VertexStarted) and "sleep" in event.name:
                cancelled.set()

        try:
            engine.build(context, dockerfile_text=_LONG, on_event=cancel, cancelled=cancelled)
        except buildkit_py.BuildError as error:
            out["cancelled"] = type(error).__name__
    stop.set()
    print(json.dumps(out))


if __name__ == "__main__":
    main()
