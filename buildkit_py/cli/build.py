"""`pybuild build`: options to a BuildRequest, events to a display, a result to the user."""

from __future__ import annotations

import json
import os
import re
import sys
from argparse import Namespace
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from buildkit_py.cli import build_options
from buildkit_py.errors import ExecError, PybuildError, UsageError

if TYPE_CHECKING:
    from typing import TextIO

    from buildkit_py.cli.options import CommandParser
    from buildkit_py.engine.request import BuildRequest, BuildResult, Secret, SshAgent, StepResult
    from buildkit_py.recall.record import RecallKey

_SILENT = frozenset(("quiet", "rawjson", "none"))
_WORK = frozenset(("RUN", "COPY", "ADD", "WORKDIR"))
_RESOURCES = (
    "memory",
    "memory_swap",
    "cpu_shares",
    "cpu_period",
    "cpu_quota",
    "cpuset_cpus",
    "cpuset_mems",
)


def configure(parser: CommandParser) -> None:
    """Declare the options."""
    build_options.configure(parser)


def run(args: Namespace) -> int:
    """Build, or do what `--check` and `--call` ask for in its place."""
    if args.context is None:
        raise UsageError(
            '"pybuild build" requires exactly 1 argument: PATH, URL or -',
            hint="the directory here is '.'; see 'pybuild build --help'",
        )
    if args.check is not None or args.call not in {None, "build"}:
        return _call(args)
    kind = display_kind(args)
    request = make_request(args)
    result = _build(args, request, kind)
    _report(args, request, result, kind)
    return 0


def _call(args: Namespace) -> int:
    from buildkit_py.cli import check

    return check.run_call(args)


def display_kind(args: Namespace) -> str:
    """The display asked for by option or environment. Raises UsageError."""
    from buildkit_py.progress import KINDS

    if args.quiet:
        if args.progress not in {None, "auto", "quiet"}:
            raise UsageError("conflicting options: --quiet and --progress")
        return "quiet"
    environment = os.environ.get("PYBUILD_PROGRESS") or os.environ.get("BUILDKIT_PROGRESS")
    kind = str(args.progress or environment or "auto")
    if kind not in KINDS:
        raise UsageError(
            f'invalid progress display "{kind}"', hint=f"choose one of {', '.join(KINDS)}"
        )
    return kind


def make_request(args: Namespace) -> BuildRequest:
    """The value of the public API that these options mean. Raises UsageError."""
    from buildkit_py.engine.request import BuildRequest

    _check_outputs(args.output)
    resources = [
        f"{name.replace('_', '-')}={value}"
        for name in _RESOURCES
        if (value := getattr(args, name)) is not None
    ]
    return BuildRequest(
        context=args.context,
        dockerfile=args.file,
        tags=tuple(args.tag),
        build_args=dict(_build_arg(text) for text in args.build_arg),
        target=args.target,
        platforms=split_commas(args.platform),
        labels=dict(_pair("--label", text, empty=True) for text in args.label),
        annotations=tuple(args.annotation),
        secrets=tuple(map(parse_secret, args.secret)),
        ssh=tuple(map(parse_ssh, args.ssh)),
        build_contexts=dict(_pair("--build-context", text) for text in args.build_context),
        add_hosts=tuple(args.add_host),
        network=args.network or "default",
        shm_size=args.shm_size,
        ulimits=tuple(args.ulimit),
        resources=tuple(resources + args.resource),
        cgroup_parent=args.cgroup_parent or "",
        allow=split_commas(args.allow),
        no_cache=args.no_cache or args.cache_ttl == 0,
        no_cache_filter=split_commas(args.no_cache_filter),
        pull=args.pull,
        cache_from=tuple(args.cache_from),
        cache_to=tuple(args.cache_to),
        cache_ttl=args.cache_ttl or 0.0,
        outputs=tuple(args.output),
        push=args.push,
        load=args.load,
        iidfile=args.iidfile,
        metadata_file=args.metadata_file,
        provenance=args.provenance,
        sbom=args.sbom,
        attest=tuple(args.attest),
        squash=_squash(args.squash),
        on_failure=args.on_failure,
        explain=args.explain,
        dry_run=args.dry_run,
        jobs=args.jobs,
        timeout=args.timeout,
        step_timeout=args.step_timeout,
        normalize_modes=args.normalize_modes,
        verify_reproducible=args.verify_reproducible,
        timestamps=args.timestamps or "settle",
        scan_secrets=args.scan_secrets,
        insecure_registries=split_commas(args.insecure_registry),
        report=args.report,
        ignorefile=args.ignorefile,
    )


def split_commas(values: Iterable[str]) -> tuple[str, ...]:
    """`a,b` and `c` are three values."""
    return tuple(part.strip() for value in values for part in value.split(",") if part.strip())


def _pair(option: str, text: str, *, empty: bool = False) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not (equals or empty):
        raise UsageError(f'invalid value "{text}" for {option}: expected NAME=VALUE')
    return name, value


def _build_arg(text: str) -> tuple[str, str | None]:
    """`X=1`, or `X` for the value of the environment's X (which the engine looks up)."""
    name, equals, value = text.partition("=")
    if not name:
        raise UsageError(f'invalid value "{text}" for --build-arg: expected NAME=VALUE')
    return name, value if equals else None


def _squash(text: str | None) -> str | None:
    known = {"true": "stage", "stage": "stage", "all": "all", "false": None, None: None}
    if text not in known:
        raise UsageError(f'invalid value "{text}" for --squash: expected stage or all')
    return known[text]


def _fields(option: str, text: str) -> dict[str, str]:
    """One CSV record of `key=value` fields."""
    import csv

    try:
        record = next(csv.reader([text], strict=True))
    except (csv.Error, StopIteration) as error:
        raise UsageError(f"invalid value {text!r} for {option}") from error
    fields: dict[str, str] = {}
    for part in record:
        name, equals, value = part.partition("=")
        if not equals:
            raise UsageError(f"invalid field '{part}' for {option}: must be a key=value pair")
        fields[name.strip().lower()] = value
    return fields


def parse_secret(text: str) -> Secret:
    """`id=…[,src|source=FILE|env=VAR][,type=file|env]`. Raises UsageError."""
    from buildkit_py.engine.request import Secret

    fields = _fields("--secret", text)
    unknown = set(fields) - {"id", "src", "source", "env", "type"}
    if unknown:
        raise UsageError(f"unexpected key '{unknown.pop()}' in '{text}' for --secret")
    source = fields.get("source", fields.get("src"))
    variable = fields.get("env")
    kind = fields.get("type", "")
    if kind not in {"", "file", "env"}:
        raise UsageError(f'unsupported secret type "{kind}"', hint="choose file or env")
    identity = fields.get("id") or (os.path.basename(source) if source else variable)
    if not identity:
        raise UsageError(f"invalid secret '{text}': an id is needed")
    if kind == "env" and variable is None:
        variable, source = source or identity, None
    elif not kind and source is None and variable is None:
        # Without a word on where it is: the variable of that name, else the file of that name.
        variable = identity if identity in os.environ else None
    if variable is not None and source is None:
        return Secret(id=identity, env=variable)
    return Secret(id=identity, path=source or identity)


def parse_ssh(text: str) -> SshAgent:
    """`default`, `id`, `id=socket` or `id=key,key`."""
    from buildkit_py.engine.request import SshAgent

    identity, _, paths = text.partition("=")
    return SshAgent(
        id=identity or "default", paths=tuple(part for part in paths.split(",") if part)
    )


def _check_outputs(outputs: list[str]) -> None:
    to_stdout = [text for text in outputs if _to_stdout(text)]
    if len(to_stdout) > 1:
        raise UsageError("only one output can go to standard output")
    if to_stdout and sys.stdout.isatty():
        raise UsageError(
            "the output is an archive and standard output is a terminal",
            hint="redirect it, or name a file with dest=",
        )


def _to_stdout(output: str) -> bool:
    if output == "-":
        return True
    fields = dict(part.partition("=")[::2] for part in output.split(","))
    dest = fields.get("dest")
    return dest == "-" or (dest is None and fields.get("type") in {"tar", "oci"})


def _build(args: Namespace, request: BuildRequest, kind: str) -> BuildResult:
    from buildkit_py.engine import Engine
    from buildkit_py.progress import open_display

    # The classic builder wrote to standard output, and scripts read it there.
    archive = any(map(_to_stdout, request.output_texts))
    stream: TextIO = sys.stdout if kind == "classic" and not archive else sys.stderr
    display = open_display(kind, stream, environment=os.environ)
    try:
        with Engine(root=args.root, executor=args.executor, in_process=True) as engine:
            return engine.build(request, on_event=display, recall=_recall_key(args, kind))
    except PybuildError as error:
        display.close()
        if kind not in _SILENT and error.warnings:
            from buildkit_py.cli.render import render_warnings
            from buildkit_py.progress.events import BuildWarning

            said = [item for item in error.warnings if isinstance(item, BuildWarning)]
            sys.stderr.write(render_warnings(said, debug=args.debug))
        if kind == "classic" and isinstance(error, ExecError):
            command = re.search(r'process "(.*)" did not complete', error.message, re.DOTALL)
            text = json.loads(f'"{command[1]}"') if command else error.vertex
            sys.stderr.write(f"The command '{text}' returned a non-zero code: {error.exit_code}\n")
        raise
    finally:
        display.close()


def _recall_key(args: Namespace, kind: str) -> RecallKey | None:
    """What to find this build by when the same command comes again; None if it prints more."""
    if args.debug or args.ref_file or kind == "rawjson":
        return None
    from buildkit_py.cli.render import render_warnings
    from buildkit_py.recall.keys import command_key, root_of
    from buildkit_py.recall.record import RecallKey

    root = root_of(args.argv, os.environ)
    key = command_key(args.argv, root, os.environ)
    return RecallKey(
        key=key,
        display=kind,
        render=lambda warnings: "" if kind in _SILENT else render_warnings(warnings),
    )


def _report(args: Namespace, request: BuildRequest, result: BuildResult, kind: str) -> None:
    if args.ref_file:
        try:
            Path(args.ref_file).write_text(result.ref, encoding="utf-8")
        except OSError as error:
            raise PybuildError(f"cannot write {args.ref_file}: {error.strerror}") from error
    if request.dry_run or request.explain:
        _print_reasons(result, dry_run=request.dry_run)
    if kind not in _SILENT:
        from buildkit_py.cli.render import render_warnings

        sys.stderr.write(render_warnings(result.warnings, debug=args.debug))
    archive = any(map(_to_stdout, request.output_texts))
    if kind == "quiet" and result.image_id and not archive:
        print(result.image_id)


def is_work(step: StepResult) -> bool:
    """Whether a step is worth a line: it does something, or is a base image that moved."""
    keyword = step.text.partition(" ")[0].upper()
    return keyword in _WORK or (keyword == "FROM" and bool(step.reason))


def _print_reasons(result: BuildResult, *, dry_run: bool) -> None:
    """A line for each step that is not cached; of a dry run, for each that may run.

    Metadata has no result of its own, and a base image none that is worked for.
    """
    verb = "would run" if dry_run else "ran"
    for step in filter(is_work, result.steps):
        if step.cached:
            if dry_run:
                sys.stderr.write(f"cached: {step.text}\n")
            continue
        if step.reason or dry_run:
            sys.stderr.write(
                f"{verb}: {step.text}" + (f": {step.reason}" * bool(step.reason)) + "\n"
            )
