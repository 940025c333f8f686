"""What an instruction may change while a stage is lowered: root, config, environment, history.

`lower.py` makes one for each stage; each instruction's `lower(builder)` calls the methods here.
The builder is mutable and owned by that one loop.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from buildkit_py.digest import digest_of
from buildkit_py.graph import ContextOp, CopyFiles, ExecOp, FileOp, Op, Vertex, VertexOptions
from buildkit_py.oci.config import DEFAULT_PATH, ContainerConfig, History, rfc3339
from buildkit_py.oci.growing import GrowingConfig, Moment
from buildkit_py.platforms import Platform

if TYPE_CHECKING:
    from buildkit_py.source import Span

HISTORY_COMMENT = "buildkit.dockerfile.v0"
BUILDER_ARGS = frozenset({"BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE"})
"""ARGs that steer the builder and never reach the environment of a RUN."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoweredStep:
    """One instruction as lowered: what displays and step records need.

    `trail` stands for the history up to here and `moment` for the config, so that a step holds no
    copy of them; `entry` is the last of the history.
    """

    text: str
    span: Span | None
    vertex: Vertex | None  # None for metadata
    root: Vertex | None  # the stage's file system after the step
    moment: Moment
    trail: str
    entry: History | None
    stage: str
    triggers: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class StageInputs:
    """What a stage is lowered with; the same for all its instructions.

    `resolve_from` turns the name of COPY --from or a mount's `from` (a stage, a number, a named
    context or an image) into a vertex; None is an empty root. `context` is the main build context.
    `keep_owner` of a name says whether uid and gid of its files stay (stages, images). `settled`
    is what later times become in the stage's layers, `settled_alone` in those that stand on
    nothing (None: times stay).
    """

    name: str
    index: int
    platform: Platform
    build_platform: Platform
    context: Vertex
    resolve_from: Callable[[str, Span], Vertex | None]
    from_keeps_owner: Callable[[str], bool]
    build_args: Mapping[str, str]
    global_args: Mapping[str, str | None]
    escape: str = "\\"
    proxy_env: Mapping[str, str] = field(default_factory=dict)
    no_cache: bool = False
    epoch: int | None = None
    settled: int | None = None
    settled_alone: int | None = None
    cache_namespace: str = ""
    hostname: str = "buildkitsandbox"
    network: str = "default"
    extra_hosts: tuple[tuple[str, str], ...] = ()
    ulimits: tuple[str, ...] = ()
    shm_size: int = 0
    cgroup_parent: str = ""
    resources: tuple[str, ...] = ()
    timeout: float = 0.0
    entitlements: frozenset[str] = frozenset()
    multi_platform: bool = False


@dataclass(slots=True, kw_only=True)
class StageBuilder:
    """The state of one stage while its instructions are lowered.

    `args` holds declared ARGs in order of first declaration (None: no value); `env` is what
    expansion and RUN see (config ENV and ARG values, later ones winning by position).
    """

    inputs: StageInputs
    root: Vertex | None
    growing: GrowingConfig
    author: str = ""
    history: list[History] = field(default_factory=list)
    trail: str = ""  # a digest of `history`
    steps: list[LoweredStep] = field(default_factory=list)
    env: dict[str, str] = field(default_factory=dict)
    args: dict[str, str | None] = field(default_factory=dict)
    cmd_set: bool = False
    vertex_number: int = 0  # counts steps that have a vertex, for `[stage 2/5]`
    vertex_total: int = 0
    warnings: list[tuple[str, Span | None]] = field(default_factory=list)
    written: str = ""  # the text of the instruction that is being lowered
    on_build: bool = False  # a trigger of the base image is being lowered
    _last: Vertex | None = None

    # -------------------------------------------------------------- reading
    @property
    def config(self) -> ContainerConfig:
        """The container config; see `fields` for what is cheaper to have."""
        return self.growing.whole

    @property
    def fields(self) -> ContainerConfig:
        """The config without what ENV, LABEL, EXPOSE, VOLUME and ONBUILD have added."""
        return self.growing.fields

    @property
    def workdir(self) -> str:
        """The absolute working directory, as the config has it (`/app/`)."""
        return self.fields.working_dir or "/"

    @property
    def directory(self) -> str:
        """The working directory as a clean path (`/app`)."""
        return "/" + posixpath.normpath(self.workdir).lstrip("/")

    @property
    def shell(self) -> tuple[str, ...]:
        """The shell of shell forms."""
        return self.fields.shell or ("/bin/sh", "-c")

    def run_env(self) -> tuple[str, ...]:
        """The environment of a RUN: stage environment and ARG values, with a PATH."""
        env = dict(self.env)
        env.setdefault("PATH", DEFAULT_PATH)
        return tuple(f"{name}={value}" for name, value in env.items())

    # -------------------------------------------------------------- changing
    def update(self, **changes: Any) -> None:
        """Replace fields of the container config that are no collections."""
        self.growing.set_fields(**changes)

    def set_env(self, name: str, value: str) -> None:
        """Set a variable: in the config in place if it is there, in the environment as last."""
        self.growing.set_env(name, value)
        self.env.pop(name, None)
        self.env[name] = value

    def declare_arg(self, name: str, value: str | None) -> None:
        """Declare an ARG; a value becomes visible to expansion and RUN."""
        self.args[name] = value
        if value is not None and name not in BUILDER_ARGS:
            self.env.pop(name, None)
            self.env[name] = value

    def add(self, op: Op, inputs: tuple[Vertex | None, ...], *, text: str, span: Span) -> Vertex:
        """Make a vertex of this stage, named for display; `text` is `RUN make`."""
        self.vertex_number += 1
        keyword, blank, rest = text.partition(" ")
        name = f"{self._prefix()} {keyword.upper()}{blank}{rest}".lstrip()
        return self.add_internal(op, inputs, name=name, text=text, span=span)

    def add_internal(
        self, op: Op, inputs: tuple[Vertex | None, ...], *, name: str, text: str, span: Span
    ) -> Vertex:
        """Make a vertex that is no step of its own (a download, the layer of a --link)."""
        return Vertex(
            op=self._settled(op, inputs),
            inputs=inputs,
            options=VertexOptions(
                name=readable(name),
                span=span,
                no_cache=self.inputs.no_cache,
                stage=self.inputs.name,
                instruction=readable(text),
                written=readable(self.written),
                platform=self.inputs.platform,
            ),
        )

    def _settled(self, op: Op, inputs: tuple[Vertex | None, ...]) -> Op:
        """The op with the time that its layer is settled to."""
        alone = not inputs or inputs[0] is None
        settle = self.inputs.settled_alone if alone else self.inputs.settled
        if settle is None or not isinstance(op, ExecOp | FileOp):
            return op
        if isinstance(op, ExecOp):
            return replace(op, settle=settle)
        actions = tuple(
            replace(item, earliest=settle)
            if isinstance(item, CopyFiles) and _is_context(inputs[item.input])
            else item
            for item in op.actions
        )
        return FileOp(actions=actions, settle=settle)

    def commit_layer(self, vertex: Vertex, created_by: str) -> None:
        """Make `vertex` the stage's root; it adds one layer and one history entry."""
        self.root = vertex
        self._last = vertex
        self._remember(created_by, empty=False)

    def commit_metadata(self, created_by: str) -> None:
        """Add a history entry that has no layer."""
        self._remember(created_by, empty=True)

    def _remember(self, created_by: str, *, empty: bool) -> None:
        epoch = self.inputs.epoch if self.inputs.settled is None else self.inputs.settled
        entry = History(
            created=None if epoch is None else rfc3339(epoch),
            created_by=created_by,
            comment=HISTORY_COMMENT,
            empty_layer=empty,
        )
        self.take_history((entry,))

    def take_history(self, entries: Iterable[History]) -> None:
        """Append entries, of the base or of an instruction."""
        for entry in entries:
            self.history.append(entry)
            self.trail = digest_of([self.trail, entry.created_by, entry.empty_layer])

    def end_step(
        self, text: str, span: Span | None, *, triggers: int = 0, vertex: Vertex | None = None
    ) -> None:
        """Record the step of an instruction that has just been lowered.

        A FROM names its own `vertex`, the triggers that belong to its step having others.
        """
        moment = self.growing.moment(since=self.steps[-1].moment.end if self.steps else -1)
        self.steps.append(
            LoweredStep(
                text=readable(text),
                span=span,
                vertex=vertex or (None if triggers else self._last),
                root=self.root,
                moment=moment,
                trail=self.trail,
                entry=self.history[-1] if self.history else None,
                stage=self.inputs.name,
                triggers=triggers,
            )
        )
        self._last = None

    def warn(self, message: str, span: Span | None) -> None:
        """Say something after the build."""
        self.warnings.append((message, span))

    def _prefix(self) -> str:
        name = self.inputs.name
        total = self.vertex_total
        if not total:
            return "ONBUILD" if self.on_build else ""
        count = f"{self.vertex_number:{len(str(total))}d}/{total}"
        platform = f"{self.inputs.platform}{self._cross()} " if self.inputs.multi_platform else ""
        marker = " ONBUILD" if self.on_build else ""
        return f"[{platform}{name + ' ' if name else ''}{count}]{marker}"

    def _cross(self) -> str:
        # a cross-compiling stage runs on one platform for another: linux/amd64->arm64
        own = self.inputs.platform
        target = self.env.get("TARGETPLATFORM", "")
        if not target:
            os = self.env.get("TARGETOS") or own.os
            architecture = self.env.get("TARGETARCH") or own.architecture
            variant = self.env.get("TARGETVARIANT", "")
            target = "/".join(part for part in (os, architecture, variant) if part)
        target_os, _, rest = target.partition("/")
        if target_os != own.os:
            return f"->{target}"
        return f"->{rest}" if rest.partition("/")[0] != own.architecture else ""


def _is_context(vertex: Vertex | None) -> bool:
    return vertex is not None and isinstance(vertex.op, ContextOp)


def as_root(vertex: Vertex | None, settle: int | None) -> Vertex | None:
    """A directory of the user's that is built upon has to become a tree of the store first."""
    if vertex is None or not _is_context(vertex):
        return vertex
    whole = CopyFiles(
        input=1, source="/", destination="/", directory_destination=True, earliest=settle
    )
    op = FileOp(actions=(whole,), settle=settle)
    return Vertex(op=op, inputs=(None, vertex), options=vertex.options)


def readable(text: str) -> str:
    """A text for displays and records; bytes of a Dockerfile that are no UTF-8 become marks."""
    if text.isascii():
        return text
    return re.sub("[\ud800-\udfff]", "\ufffd", text)
