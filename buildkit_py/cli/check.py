"""check, outline and targets: what a Dockerfile says about itself, as text or JSON."""

from __future__ import annotations

import json
import os
from argparse import Namespace
from typing import TYPE_CHECKING, Any

from buildkit_py.cli import reports
from buildkit_py.errors import PybuildError, UsageError

if TYPE_CHECKING:
    from buildkit_py.cli.dockerfiles import LocalInput
    from buildkit_py.cli.options import CommandParser
    from buildkit_py.dockerfile import Dockerfile
    from buildkit_py.lint import Finding
    from buildkit_py.oci.config import ImageConfig
    from buildkit_py.stages import BaseKey, BuildOptions, StagePlan


def _configure(parser: CommandParser) -> None:
    parser.add_argument("context", nargs="?", default=".", metavar="PATH")
    parser.add_argument("-f", "--file", metavar="file", help="Name of the Dockerfile")
    parser.add_argument("--format", default="text", metavar="text|json", help="Form of the result")
    parser.add_argument("--target", metavar="stage", help="Look at this stage and what it needs")
    parser.add_argument(
        "--build-arg", action="append", default=[], metavar="k=v", help="Set a build argument"
    )
    parser.add_argument(
        "--build-context", action="append", default=[], metavar="n=v", help="Add a named context"
    )
    parser.add_argument(
        "--platform", action="append", default=[], metavar="os/arch", help="Set the platform"
    )


def configure_check(parser: CommandParser) -> None:
    """Declare the options of `check`."""
    _configure(parser)
    parser.flag("--extended", help="Add rules on pinning, package managers and structure")


def configure_outline(parser: CommandParser) -> None:
    """Declare the options of `outline`."""
    _configure(parser)


def configure_targets(parser: CommandParser) -> None:
    """Declare the options of `targets`."""
    _configure(parser)


def run_check(args: Namespace) -> int:
    """Lint; the status is 1 when there is anything to say."""
    return _check(args, json_form=_is_json(args.format), extended=args.extended)


def run_outline(args: Namespace) -> int:
    """Say what the target takes."""
    return _outline(args, json_form=_is_json(args.format))


def run_targets(args: Namespace) -> int:
    """List the stages."""
    return _targets(args, json_form=_is_json(args.format))


def run_call(args: Namespace) -> int:
    """Do what `build --check` or `build --call=NAME[,format=json]` asks for."""
    name, _, rest = (args.call or "check").partition(",")
    if args.check is not None:
        if args.call not in {None, "build", "check"}:
            raise UsageError("conflicting options: --check and --call")
        name = "check"
    form = "text"
    for part in filter(None, rest.split(",")):
        key, _, value = part.partition("=")
        if key not in {"format", "ignorestatus"}:
            raise UsageError(f'invalid option "{part}" for --call')
        form = value if key == "format" else form
    json_form = _is_json(form)
    if name in {"check", "lint"}:
        return _check(args, json_form=json_form, extended=args.check == "extended")
    if name == "outline":
        return _outline(args, json_form=json_form)
    if name == "targets":
        return _targets(args, json_form=json_form)
    if name == "subrequests.describe":
        return _describe(json_form=json_form)
    raise UsageError(
        f'unknown --call method "{name}"', hint="choose build, check, outline or targets"
    )


def _is_json(form: str) -> bool:
    if form not in {"text", "json"}:
        raise UsageError(f'unknown format "{form}"', hint="choose text or json")
    return form == "json"


# ------------------------------------------------------------------ input
def _read(args: Namespace) -> LocalInput:
    from buildkit_py.cli.dockerfiles import read_input

    return read_input(args.context or ".", args.file)


def build_options(args: Namespace, *, all_stages: bool = False) -> BuildOptions:
    """The compiler's options from those of the command line. Raises UsageError."""
    from buildkit_py.platforms import host_platform, parse_platform
    from buildkit_py.stages import BuildOptions

    host = host_platform(os.uname().machine)
    names = [name for text in args.platform for name in text.split(",") if name]
    return BuildOptions(
        build_args=dict(_optional_pair(text) for text in args.build_arg),
        target=args.target,
        platforms=tuple(parse_platform(name, host) for name in names),
        build_platform=host,
        build_contexts=dict(_pair(text) for text in args.build_context),
        environment=os.environ,
        entitlements=frozenset({"network.host", "security.insecure", "device"}),
        all_stages=all_stages and not args.target,
    )


def _optional_pair(text: str) -> tuple[str, str | None]:
    name, separator, value = text.partition("=")
    return name, value if separator else None


def _pair(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator or not name:
        raise UsageError(f'invalid value "{text}": expected NAME=VALUE')
    return name, value


# ------------------------------------------------------------------ check
def _check(args: Namespace, *, json_form: bool, extended: bool) -> int:
    given = _read(args)
    findings: tuple[Finding, ...] = ()
    error: PybuildError | None = None
    try:
        findings, error = _lint(given, args, extended=extended)
    except PybuildError as problem:
        error = problem
    if json_form:
        _print_json(reports.check_to_json(findings, given.source, error))
    else:
        print(reports.check_to_text(findings, error), end="")
    return 1 if findings or error else 0


def _lint(
    given: LocalInput, args: Namespace, *, extended: bool
) -> tuple[tuple[Finding, ...], PybuildError | None]:
    from dataclasses import replace

    from buildkit_py.dockerfile import parse_leniently
    from buildkit_py.errors import DockerfileErrors
    from buildkit_py.lint import check_options, lint
    from buildkit_py.stages import plan

    dockerfile, problems = parse_leniently(given.source)
    options = build_options(args, all_stages=True)
    check = replace(check_options(dockerfile, options), extended=extended)
    stage_plan: StagePlan | None = None
    error: PybuildError | None = None
    try:
        if problems:
            raise DockerfileErrors(problems)
        stage_plan = plan(dockerfile, options)
    except PybuildError as problem:
        error = problem
    bases = _known_bases(args.root, stage_plan) if stage_plan else {}
    findings = lint(
        dockerfile,
        plan=stage_plan,
        options=options,
        bases=bases,
        ignore=given.ignore,
        check=check,
    )
    return findings, _problem_of_steps(stage_plan, bases) if stage_plan else error


def _problem_of_steps(
    stage_plan: StagePlan, bases: dict[BaseKey, ImageConfig]
) -> PybuildError | None:
    """What a build would refuse after planning, as far as it can be told without the bases."""
    from buildkit_py.errors import UnsetVariable
    from buildkit_py.lower import ResolvedBase, lower
    from buildkit_py.oci.config import ImageConfig

    unknown = ImageConfig()
    resolved = {
        base.key: ResolvedBase(op=None, config=bases.get(base.key, unknown))
        for base in stage_plan.bases
    }
    try:
        lower(stage_plan, resolved)
    except UnsetVariable as problem:  # an unknown base may set it
        return problem if len(bases) == len(resolved) else None
    except PybuildError as problem:
        return problem
    return None


def _known_bases(root: str | None, stage_plan: StagePlan) -> dict[BaseKey, ImageConfig]:
    """The configs of the bases that the local store has; a check fetches nothing."""
    from buildkit_py.engine import Engine
    from buildkit_py.store.paths import default_root

    path = root or default_root(os.geteuid(), os.environ)
    wanted = [base for base in stage_plan.bases if base.layout is None]
    out: dict[BaseKey, ImageConfig] = {}
    if not wanted or not os.path.exists(os.path.join(path, "state.db")):
        return out
    try:
        with Engine(path) as engine:
            for base in wanted:
                found = engine.store.images.find(base.reference, base.platform)
                if found is not None:
                    out[base.key] = found.config
    except (PybuildError, OSError):
        return {}  # a store that cannot be read is no reason to say nothing of the file
    return out


# ------------------------------------------------------------------ outline, targets
def _outline(args: Namespace, *, json_form: bool) -> int:
    from buildkit_py.dockerfile import parse
    from buildkit_py.outline import outline
    from buildkit_py.stages import plan

    given = _read(args)
    found = outline(plan(parse(given.source), build_options(args)))
    if json_form:
        _print_json(reports.outline_to_json(found, given.source))
    else:
        print(reports.outline_to_text(found), end="")
    return 0


def _targets(args: Namespace, *, json_form: bool) -> int:
    from buildkit_py.dockerfile import parse
    from buildkit_py.outline import list_targets

    given = _read(args)
    dockerfile: Dockerfile = parse(given.source)
    found = list_targets(dockerfile)
    if json_form:
        _print_json(reports.targets_to_json(found, given.source))
    else:
        print(reports.targets_to_text(found), end="")
    return 0


def _describe(*, json_form: bool) -> int:
    requests = [
        ("frontend.lint", "Lint a Dockerfile"),
        ("frontend.outline", "List all parameters current build target supports"),
        ("frontend.targets", "List all targets current build supports"),
        ("frontend.subrequests.describe", "List available subrequest types"),
    ]
    if json_form:
        _print_json(
            [
                {"name": name, "version": "1.0.0", "type": "rpc", "description": text}
                for name, text in requests
            ]
        )
    else:
        rows = [(name.removeprefix("frontend."), "1.0.0", text) for name, text in requests]
        print(reports.columns([("NAME", "VERSION", "DESCRIPTION"), *rows]), end="")
    return 0


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False))
