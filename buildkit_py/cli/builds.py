"""`pybuild builds`: what past builds did, how long each step took, and their whole output."""

from __future__ import annotations

import json
import os
import sys
import time
from argparse import SUPPRESS, Namespace
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from buildkit_py.cli.buildrows import (
    COLUMNS,
    build_filter,
    build_row,
    duration_of,
    name_of,
    stamp,
)
from buildkit_py.cli.options import state_root
from buildkit_py.cli.render import human_age, human_size, print_table, table, warning_line
from buildkit_py.errors import UsageError
from buildkit_py.progress import KINDS, open_display
from buildkit_py.progress.events import (
    BuildCompleted,
    BuildStarted,
    BuildWarning,
    Event,
    VertexCached,
    VertexCompleted,
    VertexStarted,
)

if TYPE_CHECKING:
    from buildkit_py.cli.options import CommandParser
    from buildkit_py.cli.template_syntax import Template
    from buildkit_py.store import Store
    from buildkit_py.store.builds import BuildRecord, BuildRecords

_VERBS = ("ls", "inspect", "logs", "report", "rm")
_SHORT = 12


def configure(parser: CommandParser) -> None:
    """Declare the options."""
    parser.usage = "pybuild builds [ls | inspect | logs | report | rm] [OPTIONS] [BUILD...]"
    parser.epilog = (
        "BUILD is an id, the beginning of one, or ^N: the Nth build before the last (^0).\n"
        "inspect, logs and report show the last build when none is named."
    )
    parser.add_argument("words", nargs="*", metavar="BUILD", help=SUPPRESS)
    parser.add_argument(
        "--format", metavar="string", help="ls, inspect: 'json', a table, a template"
    )
    parser.add_argument(
        "--filter",
        action="append",
        default=[],
        metavar="filter",
        help="ls: ref=, repository=, status=, startedAt>, duration>, …",
    )
    parser.add_argument(
        "--progress", metavar="string", default="plain", help="logs: display (plain, rawjson, …)"
    )
    parser.add_argument(
        "-o", "--output", metavar="file", help="report: the HTML file (else standard output)"
    )
    parser.flag("-a", "--all", help="rm: remove every record")
    parser.flag("--no-trunc", help="ls: whole ids")
    parser.flag("-q", "--quiet", help="ls: ids only")


def run(args: Namespace) -> int:
    """Do what the first word says; `ls` without one."""
    verb, names = (args.words[0], args.words[1:]) if args.words else ("ls", [])
    if verb not in _VERBS:
        raise UsageError(f'unknown command: "builds {verb}"', hint=f"choose {', '.join(_VERBS)}")
    if args.filter and verb != "ls":
        raise UsageError(f"--filter is for ls, not for {verb}")
    if args.format is not None and verb not in {"ls", "inspect"}:
        raise UsageError(f"--format is for ls and inspect, not for {verb}")
    if names and verb == "ls":
        hint = "to choose builds: --filter ref=…; to look at one: pybuild builds inspect"
        raise UsageError(f'"builds ls" does not take the argument "{names[0]}"', hint=hint)
    template = _template(args.format)
    with _store(args) as store:
        from buildkit_py.store.builds import BuildRecords

        records = BuildRecords(store.paths, store.db)
        match verb:
            case "ls":
                _list(args, records, template)
            case "inspect":
                _inspect(args, records, names or ["^0"], template)
            case "logs":
                _logs(args, records, names or ["^0"])
            case "report":
                _report(args, store, records, names or ["^0"])
            case _:
                _remove(args, records, names)
    return 0


def _store(args: Namespace) -> AbstractContextManager[Store]:
    from buildkit_py.store import open_store

    return open_store(state_root(args))


def _template(form: str | None) -> Template | None:
    """The template of `--format`, None for the words it knows. Raises UsageError."""
    if form in {None, "json", "table"}:
        return None
    form = form.removeprefix("table ")
    if "{{" not in form:
        raise UsageError(f'unsupported format "{form}"', hint="json, table or a template")
    from buildkit_py.cli.template_syntax import parse_template

    return parse_template(form)


def _print_template(template: Template, record: BuildRecord) -> None:
    from buildkit_py.cli.template_functions import Record
    from buildkit_py.cli.templates import render_template

    print(render_template(template, Record(build_row(record))))


def _list(args: Namespace, records: BuildRecords, template: Template | None) -> None:
    chosen = build_filter(args.filter, time.time())
    known = [record for record in records.list() if chosen(record)]
    if args.quiet:
        for record in known:
            print(record.ref)
        return
    if args.format == "json":
        for record in known:
            print(json.dumps(_summary(record)))
        return
    if template is not None:
        from buildkit_py.cli.templates import print_rows

        print_rows(args.format, COLUMNS, [build_row(record) for record in known], "")
        return
    now = time.time()
    print_table(
        ("BUILD ID", "NAME", "STATUS", "CREATED AT", "DURATION"),
        [
            (
                record.ref if args.no_trunc else record.ref[:_SHORT],
                name_of(record),
                record.status.capitalize(),
                human_age(record.started, now),
                duration_of(record),
            )
            for record in known
        ],
    )


def _summary(record: BuildRecord) -> dict[str, object]:
    return {
        "ref": record.ref,
        "name": name_of(record),
        "status": record.status,
        "created_at": stamp(record.started),
        "completed_at": None if record.completed is None else stamp(record.completed),
        "image": record.image,
        **{key: record.data[key] for key in ("request", "summary") if key in record.data},
    }


@dataclass(slots=True, kw_only=True)
class _Step:
    """A vertex of a past build."""

    name: str
    started: float
    seconds: float = 0.0
    status: str = "running"
    size: int | None = None
    reason: str = ""


@dataclass(slots=True, kw_only=True)
class _Seen:
    """What the events of a build tell: its vertices, how many are steps, and its warnings."""

    steps: list[_Step]
    total: int = 0
    cached: int = 0
    ended: int = 0
    warnings: tuple[BuildWarning, ...] = ()


def _seen(record: BuildRecord, events: Iterable[Event]) -> _Seen:
    """Vertices in the order in which they were looked at; what the record knows is by number."""
    known = record.data.get("summary", {}).get("steps", ())
    steps: dict[str, _Step] = {}
    numbers: dict[str, int] = {}
    instructions: list[str] = []
    warnings: list[BuildWarning] = []
    last = record.started
    for event in events:
        last = max(last, getattr(event, "time", last))
        match event:
            case BuildStarted(steps=infos):
                numbers = {info.vertex: at for at, info in enumerate(infos) if info.vertex}
                instructions = [info.vertex for info in infos if info.vertex]
            case BuildWarning():
                warnings.append(event)
            case BuildCompleted(warnings=every):
                warnings = list(every)
            case VertexStarted(vertex=vertex, name=name, time=began):
                steps.setdefault(vertex, _Step(name=name, started=began))
            case VertexCached(vertex=vertex, name=name, time=now):
                steps.setdefault(vertex, _Step(name=name, started=now)).status = "cached"
            case VertexCompleted(vertex=vertex, name=name, time=now, error=error):
                step = steps.setdefault(vertex, _Step(name=name, started=now))
                step.seconds = now - step.started
                step.status = "done" if error is None else "error"
                step.status = "canceled" if error == "canceled" else step.status
            case _:
                pass
    now = time.time() if record.status == "running" else last
    for digest, step in steps.items():
        number = numbers.get(digest, len(known))
        if number < len(known):
            step.size, step.reason = known[number].get("size"), known[number].get("reason", "")
        if step.status == "running":
            step.seconds = max(0.0, now - step.started)
            step.status = record.status if record.status == "running" else "interrupted"
    own = [steps[vertex].status if vertex in steps else "" for vertex in instructions]
    return _Seen(
        steps=list(steps.values()),
        total=len(own),
        cached=own.count("cached"),
        ended=own.count("cached") + own.count("done"),
        warnings=tuple(warnings),
    )


def _inspect(
    args: Namespace, records: BuildRecords, names: list[str], template: Template | None
) -> None:
    for name in names:
        record = records.get(name)
        if template is not None:
            _print_template(template, record)
            continue
        seen = _seen(record, records.events(record.ref))
        if args.format == "json":
            rows = [
                {
                    "name": step.name,
                    "status": step.status,
                    "seconds": round(step.seconds, 6),
                    "size": step.size,
                    "reason": step.reason,
                }
                for step in seen.steps
            ]
            print(json.dumps(_summary(record) | {"vertices": rows}, indent=2))
        else:
            _print_record(record, seen)


def _print_record(record: BuildRecord, seen: _Seen) -> None:
    request = record.data.get("request", {})
    done = f"{seen.ended} of " if seen.ended < seen.total else ""
    facts = [
        ("Build", record.ref),
        ("Name", name_of(record)),
        *((key.replace("_", " ").capitalize(), _text(request[key])) for key in sorted(request)),
        ("Status", record.status),
        ("Started", stamp(record.started)),
        ("Duration", duration_of(record)),
        ("Steps", f"{done}{seen.total} ({seen.cached} cached)"),
        ("Image", record.image or ""),
    ]
    for label, value in facts:
        if value:
            print(f"{label + ':':<16}{value}")
    summary = record.data.get("summary", {})
    for name in ("error", "replay"):
        if summary.get(name):
            print(f"{name.capitalize() + ':':<16}{summary[name]}")
    rows = [
        (
            f"{step.seconds:.1f}s",
            step.status,
            human_size(step.size) if step.size else "",
            step.name,
        )
        for step in seen.steps
    ]
    print("\n" + table(("TIME", "STATUS", "SIZE", "STEP"), rows), end="")
    if seen.warnings:
        print("\nWarnings:")
    for warning in seen.warnings:
        print(f" - {warning_line(warning)}")


def _text(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(
            key if item is None else f"{key}={item}" for key, item in sorted(value.items())
        )
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "" if value in {None, False} else str(value)


def _logs(args: Namespace, records: BuildRecords, names: list[str]) -> None:
    if args.progress not in KINDS:
        raise UsageError(
            f'invalid progress display "{args.progress}"', hint=f"choose one of {', '.join(KINDS)}"
        )
    # What the screen clipped while the build ran is shown here.
    unlimited = {"BUILDKIT_STEP_LOG_MAX_SIZE": "-1", "BUILDKIT_STEP_LOG_MAX_SPEED": "-1"}
    for name in names:
        record = records.get(name)
        display = open_display(args.progress, sys.stdout, environment=os.environ | unlimited)
        try:
            for event in records.events(record.ref):
                display(event)
        finally:
            display.close()


def _report(args: Namespace, store: Store, records: BuildRecords, names: list[str]) -> None:
    if len(names) > 1:
        raise UsageError("a report is about one build")
    record = records.get(names[0])
    if args.output not in {None, "-"}:
        from pathlib import Path

        from buildkit_py.engine.reporting import write_report

        write_report(store, record.ref, Path(args.output))
        return
    from buildkit_py.report import render_report

    sys.stdout.write(render_report(record, records.events(record.ref)))


def _remove(args: Namespace, records: BuildRecords, names: list[str]) -> None:
    if not names and not args.all:
        raise UsageError("name the builds to remove, or say --all")
    found = records.list() if args.all else [records.get(name) for name in names]
    running = [record for record in found if record.status == "running"]
    if running and not args.all:
        raise UsageError(f"build {running[0].ref[:_SHORT]} is running")
    for record in found:
        if record in running:
            sys.stderr.write(f"build {record.ref[:_SHORT]} is running: its record stays\n")
            continue
        records.remove(record.ref)
        print(record.ref)
