"""The options of `pybuild build`: those of `docker build`, with its spelling and values."""

from __future__ import annotations

import argparse
from typing import NamedTuple

from buildkit_py.cli.options import CommandParser, byte_count, seconds


class _Option(NamedTuple):
    names: str
    metavar: str
    help: str


_LISTS = (
    _Option("--add-host", "list", "Add a custom host-to-IP mapping (host:ip)"),
    _Option("--allow", "list", "Allow an entitlement (network.host, security.insecure, device)"),
    _Option("--annotation", "list", "Add an annotation to the image"),
    _Option("--attest", "list", "Attestation parameters (type=sbom,generator=image)"),
    _Option("--build-arg", "list", "Set a build-time variable"),
    _Option("--build-context", "list", "Additional build context (name=path)"),
    _Option("--cache-from", "list", "External cache source (user/app:cache, type=local,src=dir)"),
    _Option("--cache-to", "list", "Cache export destination (type=local,dest=dir)"),
    _Option("--insecure-registry", "list", "Talk to this registry without TLS checks"),
    _Option("--label", "list", "Set metadata for the image"),
    _Option("--no-cache-filter", "list", "Do not use the cache for these stages"),
    _Option("-o --output", "list", "Output destination (type=local,dest=path)"),
    _Option("--platform", "list", "Set target platforms for the build"),
    _Option("--resource", "list", "Limit RUN (memory=512m, disk=2g, pids=100)"),
    _Option("--secret", "list", "Secret to expose to the build (id=mysecret,src=/path)"),
    _Option("--ssh", "list", "SSH agent socket or keys to expose (default|id[=socket|key[,key]])"),
    _Option("-t --tag", "list", "Image name and optionally a tag (name:tag)"),
    _Option("--ulimit", "list", "Ulimit options"),
)
_STRINGS = (
    _Option("--call", "string", "Evaluation method: build, check, outline, targets"),
    _Option("--cgroup-parent", "string", "Parent cgroup of RUN's processes"),
    _Option(
        "--executor", "string", "How RUN runs: auto, or one that 'pybuild system doctor' lists"
    ),
    _Option("-f --file", "string", "Name of the Dockerfile (default: PATH/Dockerfile)"),
    _Option("--ignorefile", "string", "Ignore file to use in place of .dockerignore"),
    _Option("--iidfile", "string", "Write the image ID to a file"),
    _Option("--metadata-file", "string", "Write build result metadata to a file"),
    _Option("--network", "string", "Network of RUN: default, none, host, bridge"),
    _Option("--progress", "string", "Display: auto, tty, plain, classic, quiet, rawjson, none"),
    _Option("--provenance", "string", "Shorthand for --attest=type=provenance"),
    _Option("--ref-file", "string", "Write the build's reference to a file"),
    _Option("--report", "file", "Write one HTML page about the build"),
    _Option("--sbom", "string", "Shorthand for --attest=type=sbom"),
    _Option("--target", "string", "Set the target build stage to build"),
    _Option(
        "--timestamps", "string", "Times in layers: settle (the same every time; default) or keep"
    ),
)
_FLAGS = (
    _Option("--dry-run", "", "Say what would run and what would be cached; run nothing"),
    _Option("--explain", "", "Say for each step that was not cached why"),
    _Option("--load", "", "Shorthand for --output=type=docker"),
    _Option("--no-cache", "", "Do not use the cache"),
    _Option("--pull", "", "Always look for a newer version of the base images"),
    _Option("--push", "", "Shorthand for --output=type=registry"),
    _Option("-q --quiet", "", "Print nothing but the image ID"),
    _Option("--verify-reproducible", "", "Build twice from nothing and name what differs"),
)
# Options of the classic builder: what limits RUN becomes a --resource, the rest means nothing.
_LIMITS = (
    "-m --memory",
    "--memory-swap",
    "-c --cpu-shares",
    "--cpu-period",
    "--cpu-quota",
    "--cpuset-cpus",
    "--cpuset-mems",
)
_WITHOUT_EFFECT = ("--rm", "--force-rm", "--compress", "--disable-content-trust")


def configure(parser: CommandParser) -> None:
    """Add every option of `build`."""
    parser.usage = "pybuild build [OPTIONS] PATH | URL | -"
    for option in _LISTS:
        parser.add_argument(
            *option.names.split(),
            action="append",
            default=[],
            metavar=option.metavar,
            help=option.help,
        )
    for option in _STRINGS:
        parser.add_argument(*option.names.split(), metavar=option.metavar, help=option.help)
    for option in _FLAGS:
        parser.flag(*option.names.split(), help=option.help)
    for names in _LIMITS:
        parser.add_argument(*names.split(), help=argparse.SUPPRESS)
    for names in _WITHOUT_EFFECT:
        parser.flag(names, help=argparse.SUPPRESS)
    parser.flag(
        "--scan-secrets", default=True, help="Refuse images that hold a value of a --secret"
    )
    parser.add_argument("--builder", help=argparse.SUPPRESS)
    _configure_values(parser)
    parser.add_argument(
        "context",
        nargs="?",
        metavar="PATH | URL | -",
        help="Directory, URL, git repository or tar",
    )


def _configure_values(parser: CommandParser) -> None:
    """The options whose values are checked or optional."""
    parser.add_argument(
        "--cache-ttl",
        type=seconds,
        metavar="duration",
        help="Oldest usable cache (0: none, as --no-cache)",
    )
    parser.flag(
        "--normalize-modes",
        default=None,
        help="Key and copy files as git sees them (0644/0755); default: as pybuild.toml says",
    )
    parser.add_argument(
        "--check",
        nargs="?",
        const="true",
        metavar="extended",
        help="Lint the Dockerfile and build nothing",
    )
    parser.add_argument(
        "-j", "--jobs", type=int, default=0, metavar="int", help="Steps that run at once"
    )
    parser.add_argument(
        "--on-failure",
        metavar="shell",
        choices=("shell",),
        help="Open a shell in the root of the step that failed",
    )
    parser.add_argument(
        "--shm-size", type=byte_count, default=0, metavar="bytes", help="Size of /dev/shm"
    )
    parser.add_argument(
        "--squash",
        nargs="?",
        const="stage",
        metavar="stage|all",
        help="Join the layers of the built stage, or of the whole image",
    )
    parser.add_argument(
        "--step-timeout", type=seconds, default=0.0, metavar="duration", help="Longest RUN"
    )
    parser.add_argument(
        "--timeout", type=seconds, default=0.0, metavar="duration", help="Longest build"
    )
