"""A stage plan and its resolved bases to one graph and one image config.

Each reachable stage is lowered once, in file order, by a StageBuilder: FROM gives its start, then
each instruction (ONBUILD triggers first) is expanded in the environment as it was before it, and
adds its vertices, config changes and history.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from buildkit_py.errors import PlanError
from buildkit_py.expansion import Expander
from buildkit_py.graph import BuildGraph, ContextOp, ImageOp, Vertex, VertexOptions
from buildkit_py.instructions.base import Instruction, expanded
from buildkit_py.oci.config import DEFAULT_PATH, ContainerConfig, ImageConfig, seconds_of
from buildkit_py.oci.growing import GrowingConfig
from buildkit_py.platforms import Platform
from buildkit_py.scopes import proxy_environment
from buildkit_py.stage_builder import LoweredStep, StageBuilder, StageInputs, as_root
from buildkit_py.stage_plan import (
    BaseKey,
    FromContext,
    FromImage,
    FromScratch,
    FromStage,
    Origin,
    PlannedStage,
    StagePlan,
)

if TYPE_CHECKING:
    from buildkit_py.source import Span

MAIN_CONTEXT = "context"
EARLIEST = 315_532_800  # 1980, as zip files cannot hold less: for layers that stand on no image
_KNOWN_IMAGE_FIELDS = ("os.features",)


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedBase:
    """What a BaseWanted was resolved to. Without `op` the image has no files."""

    op: ImageOp | None
    config: ImageConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class LoweredImage:
    """One platform's image as a graph and a config without diff ids.

    The first `base_history` entries of the config's history are the base image's. `contexts` are
    the names of the contexts that the graph reads. `steps` has every instruction of the reachable
    stages in file order, each FROM too; ONBUILD triggers belong to the step of their FROM.
    `scanned` holds the roots of stages that an SBOM was asked for.
    """

    root: Vertex | None
    config: ImageConfig
    steps: tuple[LoweredStep, ...]
    graph: BuildGraph
    platform: Platform
    base_history: int = 0
    contexts: frozenset[str] = frozenset()
    warnings: tuple[tuple[str, Span | None], ...] = ()
    epoch: int | None = None
    settled: int | None = None
    scanned: Mapping[str, Vertex] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class _Built:
    """A stage that has been lowered."""

    builder: StageBuilder
    image: ImageConfig  # of the base, without history and container config
    base_history: int
    settled: int | None = None


def lower(plan: StagePlan, bases: Mapping[BaseKey, ResolvedBase]) -> LoweredImage:
    """Lower all reachable stages of a plan. Raises PlanError or DockerfileError."""
    return _Lowering(plan, bases).run()


class _Lowering:
    def __init__(self, plan: StagePlan, bases: Mapping[BaseKey, ResolvedBase]) -> None:
        self.plan = plan
        self.bases = bases
        self.built: dict[int, _Built] = {}
        self.steps: list[LoweredStep] = []
        self.context = Vertex(
            op=ContextOp(name=MAIN_CONTEXT),
            options=VertexOptions(name="[internal] load build context"),
        )
        self.multi_platform = plan.options.multi_platform or len(plan.options.platforms) > 1
        self.proxies = proxy_environment(plan.build_args)

    def run(self) -> LoweredImage:
        for stage in self.plan.reachable:
            self._lower_stage(stage)
        built = self.built[self.plan.target]
        config = self._final_config(built)
        root = as_root(built.builder.root, self._settled(None))
        graph = BuildGraph(roots=() if root is None else (root,))
        warnings = [w for b in self.built.values() for w in b.builder.warnings]
        scanned = self._scanned()
        read = (*graph.vertices.values(), *scanned.values())
        return LoweredImage(
            root=root,
            config=config,
            steps=tuple(self.steps),
            graph=graph,
            platform=config.platform,
            base_history=built.base_history,
            contexts=frozenset(
                vertex.op.name for vertex in read if isinstance(vertex.op, ContextOp)
            ),
            warnings=(*self.plan.warnings, *warnings),
            epoch=self.plan.epoch,
            settled=built.settled,
            scanned=scanned,
        )

    # ---------------------------------------------------------- stages
    def _lower_stage(self, stage: PlannedStage) -> None:
        built = self._start(stage)
        self.built[stage.index] = built
        builder = built.builder
        from_ = stage.stage.from_
        start = self._from_vertex(stage, builder)
        if not isinstance(stage.origin, FromStage):
            builder.root = start
        builder.on_build = True
        for trigger in stage.instructions[: stage.trigger_count]:
            self._apply(trigger, builder)
        builder.on_build = False
        builder.end_step(from_.text, from_.span, triggers=stage.trigger_count, vertex=start)
        for instruction in stage.instructions[stage.trigger_count :]:
            self._apply(instruction, builder)
            builder.end_step(instruction.text, instruction.span)
        self.steps.extend(builder.steps)

    def _apply(self, instruction: Instruction, builder: StageBuilder) -> None:
        expander = Expander(builder.env, escape=self.plan.escape)
        builder.written = instruction.text
        expanded(instruction, expander).lower(builder)

    def _start(self, stage: PlannedStage) -> _Built:
        match stage.origin:
            case FromStage(index=index):
                return self._start_from_stage(stage, self.built[index])
            case FromImage(wanted=wanted):
                return self._start_from_image(stage, self.bases[wanted.key].config)
            case FromContext() if stage.replaced:
                config = ContainerConfig()
            case _:
                path = () if stage.platform.os == "windows" else (f"PATH={DEFAULT_PATH}",)
                config = ContainerConfig(env=path, working_dir="/")
        image = ImageConfig(platform=stage.platform)
        settled = self._settled(None)
        builder = self._builder(stage, config, stage.platform, settled=settled)
        return _Built(builder=builder, image=image, base_history=0, settled=settled)

    def _start_from_image(self, stage: PlannedStage, image: ImageConfig) -> _Built:
        platform = self._image_platform(stage, image)
        settled = self._settled(image)
        config = _inherited(image.config, platform)
        builder = self._builder(stage, config, platform, settled=settled)
        builder.author = image.author
        builder.take_history(image.history)
        return _Built(
            builder=builder, image=image, base_history=len(image.history), settled=settled
        )

    def _start_from_stage(self, stage: PlannedStage, base: _Built) -> _Built:
        before = base.builder
        builder = self._builder(
            stage,
            replace(before.config, on_build=()),
            before.inputs.platform,
            env=before.env,
            settled=base.settled,
        )
        builder.args = dict(before.args)
        builder.author = before.author
        builder.history, builder.trail = list(before.history), before.trail
        builder.root = as_root(before.root, self._settled(None))
        return _Built(
            builder=builder,
            image=base.image,
            base_history=base.base_history,
            settled=base.settled,
        )

    def _settled(self, base: ImageConfig | None) -> int | None:
        """What later times become in layers on a base image (None: on nothing)."""
        if not self.plan.options.settle:
            return None
        if self.plan.epoch is not None:
            return self.plan.epoch
        texts = [] if base is None else [base.created, *(item.created for item in base.history)]
        return max([EARLIEST, *(int(seconds_of(text) or 0) for text in texts)])

    def _builder(
        self,
        stage: PlannedStage,
        config: ContainerConfig,
        platform: Platform,
        *,
        env: Mapping[str, str] | None = None,
        settled: int | None = None,
    ) -> StageBuilder:
        visible = dict(env or {})
        for name, value in config.env_map().items():
            visible.pop(name, None)
            visible[name] = value
        return StageBuilder(
            inputs=self._inputs(stage, platform, settled),
            root=None,
            growing=GrowingConfig(config),
            env=visible,
            vertex_total=stage.step_total,
        )

    def _inputs(self, stage: PlannedStage, platform: Platform, settled: int | None) -> StageInputs:
        options, build_args = self.plan.options, self.plan.build_args
        return StageInputs(
            name=stage.name,
            index=stage.index,
            platform=platform,
            build_platform=options.build_platform,
            context=self.context,
            resolve_from=self._resolve_from,
            from_keeps_owner=self._keeps_owner,
            build_args=build_args,
            global_args=self.plan.scope.values,
            escape=self.plan.escape,
            proxy_env=self.proxies,
            no_cache=stage.no_cache,
            epoch=self.plan.epoch,
            settled=settled,
            settled_alone=self._settled(None),
            cache_namespace=build_args.get("BUILDKIT_CACHE_MOUNT_NS", ""),
            hostname=build_args.get("BUILDKIT_SANDBOX_HOSTNAME") or "buildkitsandbox",
            network=options.network,
            extra_hosts=options.extra_hosts,
            ulimits=options.ulimits,
            shm_size=options.shm_size,
            cgroup_parent=options.cgroup_parent,
            resources=options.resources,
            timeout=options.timeout,
            entitlements=options.entitlements,
            multi_platform=self.multi_platform,
        )

    def _image_platform(self, stage: PlannedStage, image: ImageConfig) -> Platform:
        # nobody asked for a platform: a base of another one that this host can run decides
        if stage.explicit_platform or self.plan.options.platforms:
            return stage.platform
        own, asked = image.platform, stage.platform
        if (own.os, own.architecture) == (asked.os, asked.architecture):
            return asked
        for platform in self.plan.options.supported_platforms:
            if (platform.os, platform.architecture) == (own.os, own.architecture):
                return platform
        return asked

    # ---------------------------------------------------------- vertices
    def _from_vertex(self, stage: PlannedStage, builder: StageBuilder) -> Vertex | None:
        origin = stage.origin
        if isinstance(origin, (FromScratch, FromStage)):
            return None
        span, text = stage.stage.from_.span, stage.stage.from_.text
        if isinstance(origin, FromContext):
            vertex = self._context_vertex(origin, span)
            return vertex if stage.replaced else as_root(vertex, self._settled(None))
        base = self.bases[origin.wanted.key]
        if base.op is None or _is_empty(base.config):
            builder.vertex_number += 1
            return None
        if origin.wanted.context is not None:
            builder.vertex_number += not stage.replaced
            name = f"[context {origin.wanted.context}] {_shown(base.op)}"
            return builder.add_internal(base.op, (), name=name, text=text, span=span)
        return builder.add(base.op, (), text=f"FROM {_shown(base.op)}", span=span)

    def _context_vertex(self, origin: FromContext, span: Span) -> Vertex:
        context = origin.context
        op = context.op()
        what = "load from client" if isinstance(op, ContextOp) else context.value
        return Vertex(
            op=op, options=VertexOptions(name=f"[context {context.name}] {what}", span=span)
        )

    def _resolve_from(self, name: str, span: Span) -> Vertex | None:
        origin = self._source(name, span)
        match origin:
            case FromScratch():
                return None
            case FromStage(index=index):
                return self.built[index].builder.root
            case FromContext():
                return self._context_vertex(origin, span)
            case FromImage(wanted=wanted):
                base = self.bases[wanted.key]
                if base.op is None or _is_empty(base.config):
                    return None
                shown = _shown(base.op)
                named = wanted.context is not None
                prefix = f"[context {wanted.context}] " if named else "FROM "
                return Vertex(
                    op=base.op,
                    options=VertexOptions(
                        name=prefix + shown, span=span, platform=wanted.platform
                    ),
                )

    def _source(self, name: str, span: Span) -> Origin:
        origin = self.plan.sources.get(name.lower())
        if origin is None:
            raise PlanError(f'stage or image "{name}" is not part of the plan', span=span)
        return origin

    def _keeps_owner(self, name: str) -> bool:
        return not isinstance(self.plan.sources.get(name.lower()), FromContext)

    # ---------------------------------------------------------- result
    def _final_config(self, built: _Built) -> ImageConfig:
        builder = built.builder
        config = builder.config
        if self.plan.options.labels:
            config = replace(config, labels={**config.labels, **self.plan.options.labels})
        extra = {k: v for k, v in built.image.extra.items() if k in _KNOWN_IMAGE_FIELDS}
        return ImageConfig(
            platform=self._final_platform(built.image.platform),
            author=builder.author,
            config=config,
            history=tuple(builder.history),
            extra=extra,
        )

    def _final_platform(self, own: Platform) -> Platform:
        if not self.plan.options.platforms:
            return own
        wanted = self.plan.platform
        same = (own.os, own.architecture) == (wanted.os, wanted.architecture)
        return Platform(
            os=wanted.os,
            architecture=wanted.architecture,
            variant=wanted.variant if wanted.variant or not same else own.variant,
            os_version=wanted.os_version if wanted.os_version or not same else own.os_version,
        )

    def _scanned(self) -> dict[str, Vertex]:
        out: dict[str, Vertex] = {}
        for index, built in self.built.items():
            root, stage = built.builder.root, self.plan.stages[index]
            target = index == self.plan.target
            asked = self._asks(built, stage.name, "BUILDKIT_SBOM_SCAN_STAGE")
            if asked and not target and root is not None:
                out[stage.name] = root
            if (asked or target) and self._asks(built, stage.name, "BUILDKIT_SBOM_SCAN_CONTEXT"):
                out[MAIN_CONTEXT] = self.context
        return out

    def _asks(self, built: _Built, name: str, key: str) -> bool:
        value = built.builder.args.get(key, self.plan.scope.values.get(key)) or ""
        return value in {"1", "t", "T", "TRUE", "true", "True"} or (
            name != "" and name in value.split(",")
        )


def _inherited(config: ContainerConfig, platform: Platform) -> ContainerConfig:
    # fields that no Dockerfile knows (docker's Hostname, Image, ...) end with the base image, and
    # its triggers have become instructions
    env = config.env
    if platform.os != "windows" and "PATH" not in config.env_map():
        env = (*env, f"PATH={DEFAULT_PATH}")
    workdir = config.working_dir
    if workdir and not workdir.startswith("/") and platform.os != "windows":
        workdir = posixpath.normpath(f"/{workdir}")
    return replace(config, env=env, working_dir=workdir, on_build=(), extra={})


def _is_empty(config: ImageConfig) -> bool:
    return not config.diff_ids and all(entry.empty_layer for entry in config.history)


def _shown(op: ImageOp) -> str:
    name = op.reference if op.layout is None else f"oci-layout://{op.layout}"
    return name if op.named is None or "@" in name else f"{name}@{op.named}"
