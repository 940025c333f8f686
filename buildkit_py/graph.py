"""The narrow waist: operations as data, vertices with digests, and the graph that they form.

The compiler makes these values and the solver and workers consume them; neither side imports the
other. A vertex digest identifies a definition within one build (op plus input digests); what
identifies a *result* across builds is the cache key, which `cache/keys.py` derives.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, is_dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from buildkit_py.digest import Digest, digest_of
from buildkit_py.platforms import Platform

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from buildkit_py.source import Span


# ------------------------------------------------------------------ sources
@dataclass(frozen=True, slots=True, kw_only=True)
class ImageOp:
    """A base image, pinned: `digest` is that of its config, the image ID.

    `layout` names an OCI layout directory (`oci-layout://`) instead of store and registry. `named`
    is the digest that the name leads to, for display: of its index, else of its manifest.
    """

    reference: str
    digest: Digest
    platform: Platform
    layout: str | None = None
    named: Digest | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextOp:
    """The files of a build context. `name` is `context` or that of a named context."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpOp:
    """One downloaded file, as a tree that holds only it, at `/filename`.

    `filename` is the last element of the URL's path, or `__unnamed__`.
    """

    url: str
    filename: str
    checksum: str | None = None
    mode: int = 0o600
    uid: int = 0
    gid: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class GitOp:
    """A checkout. `ref` is what was asked for; sources resolve it to a commit."""

    remote: str
    ref: str = ""
    subdir: str = ""
    keep_git_dir: bool = False
    submodules: bool = True
    checksum: str | None = None
    commit_mtime: bool = False
    fetch_by_commit: bool = False


SourceOp: TypeAlias = ImageOp | ContextOp | HttpOp | GitOp


# ------------------------------------------------------------------ exec
@dataclass(frozen=True, slots=True, kw_only=True)
class BindMount:
    """A tree of another input (or of the step's own context), read-only unless `writable`.

    Writes to a writable bind are discarded after the step.
    """

    target: str
    input: int
    source: str = "/"
    writable: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheMount:
    """A directory that persists between builds and is part of no layer."""

    target: str
    id: str
    sharing: str = "shared"  # shared, private, locked
    input: int | None = None
    source: str = "/"
    readonly: bool = False
    mode: int = 0o755
    uid: int = 0
    gid: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TmpfsMount:
    """Memory; `size` in bytes, 0 for the kernel's default."""

    target: str
    size: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretMount:
    """A secret as a file (`target`), an environment variable (`env`), or both."""

    id: str
    target: str | None
    env: str | None = None
    required: bool = False
    mode: int = 0o400
    uid: int = 0
    gid: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SshMount:
    """A forwarded SSH agent socket; SSH_AUTH_SOCK points at it."""

    id: str
    target: str
    required: bool = False
    mode: int = 0o600
    uid: int = 0
    gid: int = 0


ExecMount: TypeAlias = BindMount | CacheMount | TmpfsMount | SecretMount | SshMount


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A CDI device request."""

    name: str
    required: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecOp:
    """Run a process on input 0 (None as first input of the vertex: an empty root).

    `env` is the whole environment in order, `NAME=value`. `proxy_env` is set too but belongs to
    no cache key. Inputs after the first are named by index from the mounts.
    """

    arguments: tuple[str, ...]
    env: tuple[str, ...]
    cwd: str = "/"
    user: str = ""
    mounts: tuple[ExecMount, ...] = ()
    network: str = "default"  # default, none, host
    security: str = "sandbox"  # sandbox, insecure
    devices: tuple[Device, ...] = ()
    proxy_env: tuple[str, ...] = ()
    extra_hosts: tuple[tuple[str, str], ...] = ()  # (name, ip)
    hostname: str = "buildkitsandbox"
    ulimits: tuple[str, ...] = ()  # name=soft[:hard]
    shm_size: int = 0  # bytes, 0 for 64 MiB
    cgroup_parent: str = ""
    heredocs: tuple[tuple[str, str], ...] = ()  # (name, body): executable files in /dev/pipes
    platform: Platform = field(default_factory=Platform)
    resources: tuple[str, ...] = ()  # memory=…, cpu-quota=… ; not in keys
    timeout: float = 0.0  # seconds; not in keys
    settle: int | None = None  # later times in the layer become this (seconds)


# ------------------------------------------------------------------ files
@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """`--chown` as written: names or numbers, each perhaps empty."""

    user: str
    group: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class MakeDirectory:
    """`mkdir -p`; `owner` applies to every directory that is created. An existing one stays."""

    path: str
    mode: int = 0o755
    owner: Owner | None = None
    parents: bool = True
    mtime: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MakeFile:
    """A file with given content (a heredoc of COPY or ADD).

    It lands in `destination` as `name` where that is a directory or ends in `/`, else as
    `destination` itself.
    """

    destination: str
    name: str
    content: str
    mode: str | None = None  # --chmod: octal or symbolic
    owner: Owner | None = None
    mtime: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyFiles:
    """One source (path or pattern) of a COPY or ADD, copied from input `input` to `destination`.

    `source` is absolute and clean; `wildcard` says that it holds pattern characters. With
    `unpack`, a source file that is an archive by its content is unpacked into `destination`.
    """

    input: int
    source: str
    destination: str
    wildcard: bool = False
    directory_destination: bool = False  # written with a trailing slash (or `.`)
    owner: Owner | None = None
    mode: str | None = None  # octal or symbolic
    keep_owner: bool = False  # from a stage or an image: uid and gid stay
    unpack: bool = False  # unpack archives found by content
    parents: bool = False
    parents_pivot: str = ""  # what stands before `/./`
    exclude: tuple[str, ...] = ()
    follow_destination_links: bool = True  # False for --link
    rename: str | None = None  # name to give a single file (URL sources)
    mtime: int | None = None
    earliest: int | None = None  # older times become this: those of a checkout say nothing


FileAction: TypeAlias = MakeDirectory | MakeFile | CopyFiles


@dataclass(frozen=True, slots=True, kw_only=True)
class FileOp:
    """File actions in order, on input 0 (None there: an empty root), making one layer."""

    actions: tuple[FileAction, ...]
    settle: int | None = None  # later times in the layer become this (seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeOp:
    """Input 1's topmost layer put on input 0 unchanged (`COPY --link`)."""


Op: TypeAlias = ImageOp | ContextOp | HttpOp | GitOp | ExecOp | FileOp | MergeOp


# ------------------------------------------------------------------ vertices
@dataclass(frozen=True, slots=True, kw_only=True)
class VertexOptions:
    """What must not change a vertex's identity."""

    name: str = ""  # `[stage 2/5] RUN make`
    span: Span | None = None
    no_cache: bool = False
    stage: str = ""
    instruction: str = ""  # the instruction's text, on one line, with its values
    written: str = ""  # the same as it stands in the Dockerfile
    platform: Platform | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Vertex:
    """An op, its inputs (None stands for an empty root), and the digest of both."""

    op: Op
    inputs: tuple[Vertex | None, ...] = ()
    options: VertexOptions = field(default_factory=VertexOptions)
    digest: Digest = field(init=False)

    def __post_init__(self) -> None:
        inputs = [None if vertex is None else vertex.digest for vertex in self.inputs]
        object.__setattr__(
            self, "digest", digest_of({"op": op_to_json(self.op), "inputs": inputs})
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vertex) and other.digest == self.digest

    def __hash__(self) -> int:
        return hash(self.digest)


def op_to_json(op: Any) -> Any:
    """The canonical JSON form of an op: its class name and all fields that count, recursively."""
    if isinstance(op, (str, int, float)) or op is None:
        return op  # nearly all values are plain; asking for dataclasses first is what costs
    if isinstance(op, (tuple, list)):
        return [item if type(item) is str else op_to_json(item) for item in op]
    if is_dataclass(op) and not isinstance(op, type):
        out: dict[str, Any] = {"kind": type(op).__name__}
        for item in fields(op):
            if item.compare:
                out[item.name] = op_to_json(getattr(op, item.name))
        return out
    return op


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildGraph:
    """All vertices below the roots, equal ones once, inputs before users."""

    roots: tuple[Vertex, ...]
    vertices: Mapping[Digest, Vertex] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "vertices", {v.digest: v for v in _in_order(self.roots)})


def _in_order(roots: tuple[Vertex, ...]) -> Iterator[Vertex]:
    seen: set[Digest] = set()
    stack: list[tuple[Vertex, bool]] = [(root, False) for root in reversed(roots)]
    while stack:
        vertex, expanded = stack.pop()
        if expanded:
            yield vertex
        elif vertex.digest not in seen:
            seen.add(vertex.digest)
            stack.append((vertex, True))
            stack.extend((v, False) for v in reversed(vertex.inputs) if v is not None)
