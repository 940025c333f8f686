"""run: a program from an image, in the foreground."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from buildkit_py.cli.options import byte_count, seconds
from buildkit_py.errors import PybuildError

if TYPE_CHECKING:
    import argparse

    from buildkit_py.cli.options import CommandParser
    from buildkit_py.containers.options import RunOptions
    from buildkit_py.platforms import Platform
    from buildkit_py.store import Store
    from buildkit_py.store.images import StoredImage

_CANNOT_RUN = 125


def configure_run(parser: CommandParser) -> None:
    """Options of `docker run` that make sense for one program in the foreground."""
    parser.options_first = True
    parser.usage = "pybuild run [OPTIONS] IMAGE [COMMAND] [ARG...]"
    add = parser.add_argument
    parser.flag("-i", "--interactive", help="Keep the program's standard input open")
    parser.flag("-t", "--tty", help="Give the program a terminal")
    parser.flag("--rm", help="Keep nothing of the container at its end")
    parser.flag("--init", help="Run a small init that reaps processes as PID 1")
    parser.flag("--privileged", help="All capabilities, no seccomp filter, nothing masked")
    parser.flag("--read-only", help="Mount the root read-only")
    repeated = {
        "-e --env": "Set a variable: NAME=value, or NAME for the value here",
        "--env-file": "Read variables from a file",
        "-v --volume": "Bind a path of the host: source:target[:ro]",
        "--mount": "Mount: type=bind|tmpfs|image,source=…,target=…[,readonly|overlay]",
        "--tmpfs": "Mount memory: target[:size=64m,exec]",
        "--device": "Add a device of the host: source[:target]",
        "--add-host": "Add a line to /etc/hosts: name:address",
        "--dns": "Use this name server",
        "--ulimit": "Set a resource limit: name=soft[:hard]",
        "--cap-add": "Add a capability",
        "--cap-drop": "Drop a capability",
        "--group-add": "Add a supplementary group",
        "--security-opt": "seccomp=unconfined, no-new-privileges",
    }
    for names, text in repeated.items():
        add(*names.split(), action="append", default=[], help=text)
    add("-w", "--workdir", metavar="dir", help="Start in this directory")
    add("-u", "--user", metavar="user[:group]", help="Run as this user")
    add("--entrypoint", metavar="program", help="Replace the image's ENTRYPOINT")
    add("--hostname", metavar="name", help="Name of the container's host")
    add(
        "--network", "--net", default="host", metavar="mode", help="host (default), none or bridge"
    )
    add("--shm-size", type=byte_count, default=0, metavar="bytes", help="Size of /dev/shm")
    add("-m", "--memory", type=byte_count, metavar="bytes", help="Memory limit")
    add("--cpus", type=float, metavar="number", help="How many processors' time it may use")
    add("--pids-limit", type=int, metavar="number", help="How many processes it may have")
    add("--cgroup-parent", default="", metavar="path", help="Cgroup that holds the container's")
    add("--timeout", type=seconds, default=0.0, metavar="time", help="Kill it after this time")
    add("--platform", metavar="os/arch", help="Take the image of this platform")
    add("--pull", default="missing", metavar="policy", help="missing (default), always or never")
    add("--name", metavar="name", help="Name the container")
    add("--cidfile", metavar="file", help="Write the container's id to a file")
    add("--executor", default="auto", metavar="name", help="auto, namespaces or chroot")
    add("image", metavar="IMAGE")
    add("words", nargs="*", metavar="COMMAND")


def run_run(args: argparse.Namespace) -> int:
    """Run it; the status is the program's, or docker's 125, 126 and 127."""
    from buildkit_py.cli.render import render_error

    try:
        return _run(args)
    except (PybuildError, OSError) as error:
        sys.stderr.write(render_error(error))
        return _CANNOT_RUN


def _run(args: argparse.Namespace) -> int:
    from buildkit_py.containers.config import find_root
    from buildkit_py.containers.foreground import Surroundings, run_foreground
    from buildkit_py.runtime import open_executor
    from buildkit_py.store import open_store
    from buildkit_py.store.paths import default_root

    options = _options(args)
    place = Path(args.root) if args.root else default_root(os.getuid(), os.environ)
    with ExitStack() as stack:
        store = stack.enter_context(open_store(place))
        root = find_root(store, options, _host(), _puller(store))
        _warn_of_platform(root.platform, options.platform)
        around = Surroundings(environ=os.environ, cwd=os.fspath(Path.cwd()))
        if options.network == "bridge":
            from buildkit_py.runtime.connect import open_network

            network = open_network()
            stack.callback(network.close)
            around = replace(around, connect=network.hooks, dns=network.servers)
        executor = stack.enter_context(open_executor(args.executor, scratch=store.paths.tmp))
        status = run_foreground(store, executor, options, root, around)
    if status.failure:
        sys.stderr.write(f"ERROR: {status.failure}\n")
    if status.timed_out:
        sys.stderr.write(f"ERROR: timed out after {options.timeout:g} s\n")
    return status.code


def _host() -> Platform:
    from buildkit_py.platforms import host_platform

    return host_platform(os.uname().machine)


def _puller(store: Store) -> Callable[[str, Platform], StoredImage]:
    """Pulls a missing image, as `docker run` does, with its words on stderr."""

    def pull(name: str, platform: Platform) -> StoredImage:
        from buildkit_py.cli.transfers import LayerLines
        from buildkit_py.oci.reference import parse_reference
        from buildkit_py.registry import open_client
        from buildkit_py.sources.image import ImageSource

        reference = parse_reference(name)
        sys.stderr.write(f"Unable to find image '{reference.familiar}' locally\n")
        lines = LayerLines(sys.stderr, terminal=sys.stderr.isatty())
        source = ImageSource(store, lambda: open_client(os.environ), progress=lines)
        return source.pull(str(reference), platform).image

    return pull


def _warn_of_platform(found: Platform, asked: Platform | None) -> None:
    host = _host()
    if asked is None and (found.os, found.architecture) != (host.os, host.architecture):
        sys.stderr.write(
            f"WARNING: The requested image's platform ({found}) does not match the detected host"
            f" platform ({host}) and no specific platform was requested\n"
        )


def _options(args: argparse.Namespace) -> RunOptions:
    from buildkit_py.containers.config import PULL_POLICIES
    from buildkit_py.containers.options import RunOptions, capability_set
    from buildkit_py.errors import UsageError
    from buildkit_py.platforms import parse_platform
    from buildkit_py.runtime.limits import ResourceLimits

    if args.network not in {"host", "none", "bridge"}:
        hint = "known: host, none and bridge"
        raise UsageError(f'unknown network mode: "{args.network}"', hint=hint)
    if args.pull not in PULL_POLICIES:
        hint = f"known: {', '.join(PULL_POLICIES)}"
        raise UsageError(f'unknown pull policy: "{args.pull}"', hint=hint)
    if args.tty and not os.isatty(0):
        raise UsageError("the input device is not a TTY")
    security = set(args.security_opt)
    unknown = security - {"seccomp=unconfined", "no-new-privileges", "no-new-privileges=true"}
    if unknown:
        raise UsageError(f'unknown security option: "{min(unknown)}"')
    return RunOptions(
        image=args.image,
        command=tuple(args.words),
        entrypoint=args.entrypoint,
        env=(*_env_files(args.env_file), *args.env),
        workdir=args.workdir,
        user=args.user,
        groups=tuple(args.group_add),
        interactive=args.interactive,
        tty=args.tty,
        init=args.init,
        volumes=tuple(args.volume),
        mounts=tuple(args.mount),
        tmpfs=tuple(args.tmpfs),
        devices=tuple(args.device),
        network=args.network,
        hostname=args.hostname,
        add_hosts=tuple(args.add_host),
        dns=tuple(args.dns),
        ulimits=tuple(args.ulimit),
        shm_size=args.shm_size,
        limits=ResourceLimits(
            memory=args.memory,
            cpu_quota=None if args.cpus is None else int(args.cpus * 100_000),
            pids=args.pids_limit,
        ),
        cgroup_parent=args.cgroup_parent,
        capabilities=capability_set(tuple(args.cap_add), tuple(args.cap_drop)),
        seccomp="seccomp=unconfined" not in security,
        no_new_privileges=bool(security - {"seccomp=unconfined"}),
        privileged=args.privileged,
        read_only=args.read_only,
        timeout=args.timeout,
        platform=parse_platform(args.platform, _host()) if args.platform else None,
        pull=args.pull,
        keep=not args.rm,
        name=args.name,
        cidfile=args.cidfile,
    )


def _env_files(paths: list[str]) -> list[str]:
    lines: list[str] = []
    for path in paths:
        text = Path(path).read_text(encoding="utf-8")
        lines += [x for x in text.splitlines() if x.strip() and not x.lstrip().startswith("#")]
    return lines
