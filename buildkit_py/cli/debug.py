"""debug: dumps of what one part of the compiler hands to the next, as JSON.

`lines` and `ast` need nothing but the file; `plan` names the base images that it wants; `graph`
resolves them (in the store, or at their registry) as a build does. `keys` shows what goes into
the cache key of each step, `explain` what a build would run and why, `sandbox` what a RUN sees.
"""

from __future__ import annotations

import json
from argparse import Namespace
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from buildkit_py.errors import UsageError
from buildkit_py.graph import ExecOp

if TYPE_CHECKING:
    from buildkit_py.cli.options import CommandParser
    from buildkit_py.dockerfile import Dockerfile
    from buildkit_py.engine.compile import Compiled
    from buildkit_py.lower import ResolvedBase
    from buildkit_py.source import SourceFile
    from buildkit_py.stages import BaseWanted

_DUMPS = ("lines", "ast", "plan", "graph", "keys", "explain", "sandbox")


def configure(parser: CommandParser) -> None:
    """Declare the options."""
    parser.add_argument("what", nargs="?", metavar="|".join(_DUMPS))
    parser.add_argument("context", nargs="?", default=".", metavar="PATH")
    parser.add_argument("-f", "--file", metavar="file", help="Name of the Dockerfile")
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
    parser.add_argument(
        "--format", choices=("text", "json"), default="text", help="How explain shows its steps"
    )


def run(args: Namespace) -> int:
    """Print one dump."""
    from buildkit_py.cli.dockerfiles import read_input

    if args.what not in _DUMPS:
        raise UsageError(
            f'unknown dump "{args.what}"' if args.what else "which dump?",
            hint=f"choose one of {', '.join(_DUMPS)}",
        )
    source = read_input(args.context, args.file).source
    dump = _dump(args, source)
    text = dump if isinstance(dump, str) else json.dumps(dump, indent=2, ensure_ascii=False)
    print(text)
    return 0


def _dump(args: Namespace, source: SourceFile) -> Any:
    from buildkit_py import dumps

    if args.what in {"keys", "explain"}:
        return _foreseen(args)
    if args.what == "lines":
        from buildkit_py.lines import split_lines

        return dumps.dump_lines(split_lines(source))
    from buildkit_py.cli.check import build_options
    from buildkit_py.dockerfile import parse

    dockerfile = parse(source)
    if args.what == "ast":
        return dumps.dump_ast(dockerfile)
    if args.what == "plan":
        from buildkit_py.stages import plan

        return dumps.dump_plan(plan(dockerfile, build_options(args)))
    from buildkit_py.dumps import dump_lowered

    images = _compiled(args, dockerfile).images
    if args.what == "graph":
        return [dump_lowered(image) for image in images]
    steps = {
        step.vertex.digest: (step.text, step.vertex.op)
        for image in images
        for step in image.steps
        if step.vertex is not None
    }
    return [_sandbox(text, op) for text, op in steps.values() if isinstance(op, ExecOp)]


def _foreseen(args: Namespace) -> list[dict[str, Any]] | str:
    """A dry run: its keys, or a line with the reason for each step that is not cached."""
    from buildkit_py.cli.check import build_options
    from buildkit_py.engine import BuildRequest, Engine
    from buildkit_py.engine.dryrun import KEYS

    options = build_options(args)
    request = BuildRequest(
        context=args.context,
        dockerfile=args.file,
        build_args=options.build_args,
        target=args.target,
        platforms=tuple(args.platform),
        build_contexts=options.build_contexts,
        dry_run=True,
        explain=True,
    )
    with Engine(args.root) as engine:
        result = engine.build(request)
    if args.what == "keys":
        keys = result.metadata[KEYS]
        assert isinstance(keys, list)
        return keys
    if args.format == "json":
        return [
            {
                "step": step.text,
                "stage": step.stage,
                "line": step.span_line,
                "cached": step.cached,
                "reason": step.reason,
            }
            for step in result.steps
        ]
    from buildkit_py.cache.explain import describe_miss
    from buildkit_py.cli.build import is_work

    missed = [step for step in result.steps if is_work(step) and not step.cached]
    lines = [describe_miss(step.text, step.reason) for step in missed]
    return "\n".join(lines or ["every step is cached"])


def _sandbox(text: str, op: ExecOp) -> dict[str, Any]:
    """What a RUN would see; its root, its files and its secrets are there only when it runs."""
    from buildkit_py.graph import op_to_json
    from buildkit_py.runtime.seccomp import default_filter
    from buildkit_py.runtime.spec import DirectoryTree, ProcessSpec, SandboxSpec, to_json

    insecure = op.security == "insecure"
    process = ProcessSpec(arguments=op.arguments, env=op.env, cwd=op.cwd or "/", user=op.user)
    spec = SandboxSpec(
        root=DirectoryTree(path="/"),
        process=replace(process, capabilities=(1 << 64) - 1) if insecure else process,
        hostname=op.hostname,
        network="host" if op.network == "default" else op.network,
        seccomp=b"" if insecure else default_filter(),
        privileged=insecure,
        shm_size=op.shm_size or 64 << 20,
    )
    shown = to_json(spec) | {"mounts": [op_to_json(mount) for mount in op.mounts]}
    shown["process"]["capabilities"] = f"{shown['process']['capabilities']:#x}"
    del shown["root"]
    return {"step": text, **shown}


def _compiled(args: Namespace, dockerfile: Dockerfile) -> Compiled:
    from buildkit_py.cli.check import build_options
    from buildkit_py.engine.compile import compile_build

    def pin(base: BaseWanted) -> ResolvedBase:
        return _pin(args, base)

    return compile_build(dockerfile, build_options(args), pin)


def _pin(args: Namespace, base: BaseWanted) -> ResolvedBase:
    import os
    import threading
    import time

    from buildkit_py.engine import Engine
    from buildkit_py.engine.build import BuildEnvironment
    from buildkit_py.engine.request import BuildRequest
    from buildkit_py.engine.workshop import open_workshop
    from buildkit_py.lower import ResolvedBase

    with Engine(args.root) as engine:
        surroundings = BuildEnvironment(
            store=engine.store,
            environment=os.environ,
            clock=time.time,
            host=engine.host,
            executor="auto",
        )
        with open_workshop(
            BuildRequest(), surroundings, lambda _: None, threading.Event()
        ) as shop:
            images = shop.images
            if base.layout is None:
                pinned = images.pin(base.reference, base.platform)
            else:
                pinned = images.pin_layout(base.layout, base.reference, base.platform)
    return ResolvedBase(op=pinned.op, config=pinned.config)
