"""RUN: runs a command in the stage."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

from buildkit_py.errors import InvalidArgument, InvalidFlag, PlanError
from buildkit_py.expansion import ExpansionError
from buildkit_py.graph import (
    BindMount,
    CacheMount,
    Device,
    ExecMount,
    ExecOp,
    TmpfsMount,
    Vertex,
)
from buildkit_py.heredocs import BLANKS, parse_marker
from buildkit_py.instructions.base import Instruction, command_line, display_text, instruction
from buildkit_py.instructions.files import document_name
from buildkit_py.instructions.flags import FlagSet
from buildkit_py.instructions.gotext import quoted
from buildkit_py.instructions.mounts import (
    MountPlace,
    MountProblem,
    MountSpec,
    lower_mount,
    read_mount,
)
from buildkit_py.suggest import with_suggestion
from buildkit_py.syntax import Arguments, Command, ExecForm, Shape, ShellForm

if TYPE_CHECKING:
    from buildkit_py.expansion import Expander
    from buildkit_py.stage_builder import StageBuilder

NETWORKS = ("default", "none", "host")
SECURITY = ("sandbox", "insecure")


@instruction("RUN", Shape.COMMAND)
@dataclass(frozen=True, slots=True, kw_only=True)
class Run(Instruction):
    """`RUN [flags] command`; network and security are empty where no flag is given."""

    command: Command
    mounts: tuple[MountSpec, ...] = ()
    network: str = ""
    security: str = ""
    devices: tuple[Device, ...] = ()

    @classmethod
    def parse(cls, arguments: Arguments) -> Self:
        """Read flags and command."""
        flags = FlagSet(arguments, strings=("network", "security"), lists=("mount", "device"))
        mounts = []
        for flag in flags.flags("mount"):
            try:
                mounts.append(read_mount(flag.value or ""))
            except MountProblem as problem:
                raise InvalidFlag(str(problem), span=arguments.span(flag)) from None
        return cls(
            line=arguments.line,
            heredocs=arguments.heredocs,
            command=arguments.command,
            mounts=tuple(mounts),
            network=_choice(flags, "network", NETWORKS, "invalid network mode {}"),
            security=_choice(flags, "security", SECURITY, "security {} is not valid"),
            devices=tuple(_device(text) for text in flags.texts("device")),
        )

    def expand(self, expander: Expander) -> Self:
        """The values of mounts; the command is the shell's business."""
        mounts = []
        for mount in self.mounts:
            try:
                mounts.append(mount.expand(expander))
            except MountProblem as problem:
                raise self._refused(mount, problem) from None
        return replace(self, mounts=tuple(mounts))

    def lower(self, builder: StageBuilder) -> None:
        """One layer."""
        inputs = builder.inputs
        self._check_entitlements(builder)
        arguments, documents, summary = self._arguments(builder.shell)
        mounts, vertices = self._mounts(builder)
        op = ExecOp(
            arguments=arguments,
            env=builder.run_env(),
            cwd=builder.directory,
            user=builder.fields.user,
            mounts=mounts,
            network=self.network or inputs.network,
            security=self.security or "sandbox",
            devices=self.devices,
            proxy_env=tuple(f"{name}={value}" for name, value in inputs.proxy_env.items()),
            extra_hosts=inputs.extra_hosts,
            hostname=inputs.hostname,
            ulimits=inputs.ulimits,
            shm_size=inputs.shm_size,
            cgroup_parent=inputs.cgroup_parent,
            heredocs=documents,
            platform=inputs.platform,
            resources=inputs.resources,
            timeout=inputs.timeout,
        )
        secrets = {mount.env: "****" for mount in self.mounts if mount.env}
        text = display_text(
            self.text, {**builder.env, **secrets}, escape=inputs.escape, keep_quotes=True
        )
        vertex = builder.add(op, (builder.root, *vertices), text=text + summary, span=self.span)
        builder.commit_layer(vertex, f"RUN {_history(builder, arguments)} # buildkit")

    # ---------------------------------------------------------- command
    def _arguments(
        self, shell: tuple[str, ...]
    ) -> tuple[tuple[str, ...], tuple[tuple[str, str], ...], str]:
        """Argument list, executable here-documents, and what displays add."""
        if not self.heredocs or isinstance(self.command, ExecForm):
            return command_line(self.command, shell), (), ""
        if not self._is_bare_heredoc(self.command):
            bodies = "".join(f"\n{item.body}{item.name}" for item in self.heredocs)
            return (*shell, self.command.text + bodies), (), ""
        document = self.heredocs[0]
        content = document.content
        summary = f" ({_summary(content)})"
        if content.startswith("#!"):
            name = document_name(document, self.line)
            return (*shell, f"/dev/pipes/{name}"), ((name, content),), summary
        return (*shell, content), (), summary

    @staticmethod
    def _is_bare_heredoc(command: ShellForm) -> bool:
        try:
            return parse_marker(command.text.strip(BLANKS)) is not None
        except ExpansionError:
            return False

    # ---------------------------------------------------------- mounts
    def _mounts(self, builder: StageBuilder) -> tuple[tuple[ExecMount, ...], list[Vertex | None]]:
        """The mounts and what they read, in an order of their own."""
        vertices: list[Vertex | None] = []
        lowered = []
        ssh_number = 0
        for mount in self.mounts:
            place = MountPlace(
                workdir=builder.workdir,
                namespace=builder.inputs.cache_namespace,
                input=self._mount_input(mount, builder, vertices),
                ssh_number=ssh_number,
            )
            ssh_number += mount.type == "ssh"
            try:
                lowered.append(lower_mount(mount, place))
            except MountProblem as problem:
                raise self._refused(mount, problem) from None
        return _by_target(lowered, vertices)

    def _mount_input(
        self, mount: MountSpec, builder: StageBuilder, vertices: list[Vertex | None]
    ) -> int | None:
        """The index of the vertex input that a mount reads; None where it reads none."""
        if mount.type == "bind" and not mount.from_:
            vertex: Vertex | None = builder.inputs.context
        elif mount.type in {"bind", "cache"} and mount.from_:
            vertex = builder.inputs.resolve_from(mount.from_, self.line.find(mount.from_))
        else:
            return None
        if vertex is None and mount.type == "cache":
            return None
        vertices.append(vertex)
        return len(vertices)

    def _refused(self, mount: MountSpec, problem: MountProblem) -> InvalidFlag:
        return InvalidFlag(str(problem), span=self.line.find(f"--mount={mount.raw}"))

    def _check_entitlements(self, builder: StageBuilder) -> None:
        wanted = []
        if self.network == "host":
            wanted.append("network.host")
        if self.security == "insecure":
            wanted.append("security.insecure")
        for name in wanted:
            if name not in builder.inputs.entitlements:
                raise PlanError(
                    f"{name} is not allowed", span=self.span, hint=f"allow it by --allow {name}"
                )


def _by_target(
    mounts: list[ExecMount], vertices: list[Vertex | None]
) -> tuple[tuple[ExecMount, ...], list[Vertex | None]]:
    """Mounts of trees by their targets, then secrets and agents; inputs are numbered again.

    Whatever is mounted, parents come before what lies in them, so the written order is no matter.
    """
    trees: list[BindMount | CacheMount | TmpfsMount] = []
    ordered: list[ExecMount] = []
    others: list[ExecMount] = []
    inputs: list[Vertex | None] = []
    for item in mounts:
        if isinstance(item, BindMount | CacheMount | TmpfsMount):
            trees.append(item)
        else:
            others.append(item)
    for mount in sorted(trees, key=lambda item: item.target):
        if isinstance(mount, TmpfsMount) or mount.input is None:
            ordered.append(mount)
        else:
            inputs.append(vertices[mount.input - 1])
            ordered.append(replace(mount, input=len(inputs)))
    return (*ordered, *others), inputs


def _summary(body: str) -> str:
    lines = body.strip().replace("\r\n", "\n").split("\n")
    return lines[0] + ("..." if len(lines) > 1 else "")


def _history(builder: StageBuilder, arguments: tuple[str, ...]) -> str:
    """`|2 A=1 B=2 /bin/sh -c make`: declared ARGs in order, with what RUN sees of them."""
    declared = [
        f"{name}={builder.env.get(name, value or '')}" for name, value in builder.args.items()
    ]
    prefix = [f"|{len(declared)}", *declared] if declared else []
    return " ".join([*prefix, *arguments])


def _choice(flags: FlagSet, name: str, options: tuple[str, ...], problem: str) -> str:
    value = flags.text(name)
    if value and value not in options:
        message = with_suggestion(problem.format(quoted(value)), value, options)
        raise InvalidArgument(message, span=flags.span(name))
    return value


def _device(text: str) -> Device:
    name, _, rest = text.partition(",")
    return Device(name=name.removeprefix("name="), required="required" in rest.split(","))
