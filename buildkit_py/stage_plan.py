"""The stage plan as data: what was asked for, where each stage starts, what must be resolved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from buildkit_py.instructions.add import Add
from buildkit_py.instructions.copy import Copy
from buildkit_py.instructions.run import Run
from buildkit_py.instructions.workdir import Workdir
from buildkit_py.platforms import Platform

if TYPE_CHECKING:
    from buildkit_py.contexts import NamedContext
    from buildkit_py.dockerfile import Dockerfile, Stage
    from buildkit_py.instructions.base import Instruction
    from buildkit_py.oci.config import ImageConfig
    from buildkit_py.scopes import GlobalScope
    from buildkit_py.source import Span

SCRATCH = "scratch"


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildOptions:
    """What the user asked for, as far as the compiler is concerned.

    `platforms` is empty when none was asked for: then a base image may decide. `environment` is
    the caller's, for build arguments without a value. `epoch` is a settled SOURCE_DATE_EPOCH.
    `multi_platform` says that the result is an index, though perhaps of one platform.
    `settle` makes times in layers depend on nothing but the inputs. `all_stages` plans stages that
    the target does not need, too (for checks).
    """

    build_args: Mapping[str, str | None] = field(default_factory=dict)
    target: str | None = None
    platforms: tuple[Platform, ...] = ()
    build_platform: Platform = field(default_factory=Platform)
    supported_platforms: tuple[Platform, ...] = ()
    multi_platform: bool = False
    build_contexts: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    no_cache: bool = False
    no_cache_filter: tuple[str, ...] = ()
    network: str = "default"
    extra_hosts: tuple[tuple[str, str], ...] = ()
    ulimits: tuple[str, ...] = ()
    shm_size: int = 0
    cgroup_parent: str = ""
    resources: tuple[str, ...] = ()
    timeout: float = 0.0
    entitlements: frozenset[str] = frozenset()
    epoch: int | None = None
    settle: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)
    all_stages: bool = False

    def skips_cache(self, name: str | None, index: int) -> bool:
        """Whether a stage is built without looking for cached steps."""
        names = {name or f"stage-{index}", str(index)}
        return self.no_cache or any(item.lower() in names for item in self.no_cache_filter)


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseKey:
    """What identifies an image to be resolved."""

    reference: str
    platform: Platform
    layout: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseWanted:
    """An image that a stage or a `from` needs: to be resolved to a digest and a config.

    `reference` is normalised. With `layout`, the image is in that OCI layout directory and
    `reference` is `:tag`, `@digest`, or empty. `written` is the name as the user wrote it; `stage`
    the index of the stage based on it, None for a COPY --from or a mount. `explicit`: the FROM
    names its platform.
    """

    reference: str
    platform: Platform
    span: Span
    written: str = ""
    stage: int | None = None
    layout: str | None = None
    context: str | None = None
    explicit: bool = False

    @property
    def key(self) -> BaseKey:
        """The key under which `lower` looks for the resolved base."""
        return BaseKey(reference=self.reference, platform=self.platform, layout=self.layout)


@dataclass(frozen=True, slots=True, kw_only=True)
class FromScratch:
    """An empty root."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FromStage:
    """An earlier stage."""

    index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FromImage:
    """An image."""

    wanted: BaseWanted


@dataclass(frozen=True, slots=True, kw_only=True)
class FromContext:
    """A named context that is a directory, a repository or a file."""

    context: NamedContext


Origin: TypeAlias = FromScratch | FromStage | FromImage | FromContext


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedStage:
    """A stage whose FROM is evaluated.

    `instructions` begins with `trigger_count` ONBUILD triggers of the base; names in `--from` and
    `from=` hold no variables any more. `replaced` says that a named context stands for the stage.
    """

    index: int
    stage: Stage
    name: str  # for display: `build`, `stage-1`, empty for the only one
    origin: Origin
    platform: Platform
    explicit_platform: bool
    instructions: tuple[Instruction, ...]
    trigger_count: int = 0
    dependencies: tuple[int, ...] = ()
    reachable: bool = False
    replaced: bool = False
    no_cache: bool = False
    base_name: str = ""

    @property
    def step_total(self) -> int:
        """How many numbered steps it has: FROM of an image, ADD, COPY, RUN, WORKDIR, triggers."""
        own = self.instructions[self.trigger_count :]
        steps = sum(isinstance(item, (Add, Copy, Run, Workdir)) for item in own)
        has_base = isinstance(self.origin, (FromImage, FromContext)) and not self.replaced
        return self.trigger_count + steps + has_base


@dataclass(frozen=True, slots=True, kw_only=True)
class StagePlan:
    """All stages in file order, those that the target needs marked reachable.

    `sources` holds what each `--from` and `from=` name (lower case) stands for. `epoch_source`
    names what SOURCE_DATE_EPOCH is to be taken from when it is no number: `context`, a named
    context, or a stage; the engine settles it and plans again with `BuildOptions.epoch`.
    """

    dockerfile: Dockerfile
    options: BuildOptions
    platform: Platform
    stages: tuple[PlannedStage, ...]
    target: int
    bases: tuple[BaseWanted, ...]
    sources: Mapping[str, Origin]
    scope: GlobalScope
    build_args: Mapping[str, str]
    contexts: Mapping[str, NamedContext]
    epoch: int | None = None
    epoch_source: str | None = None
    warnings: tuple[tuple[str, Span | None], ...] = ()

    @property
    def escape(self) -> str:
        """The escape character of the file."""
        return self.dockerfile.directives.escape

    @property
    def reachable(self) -> tuple[PlannedStage, ...]:
        """The stages to build, in file order."""
        return tuple(stage for stage in self.stages if stage.reachable)

    @property
    def stage_names(self) -> tuple[str, ...]:
        """Names of all stages that have one."""
        return tuple(s.stage.name for s in self.stages if s.stage.name)


def triggers_of(
    stage_plan: StagePlan, configs: Mapping[BaseKey, ImageConfig]
) -> dict[int, tuple[str, ...]]:
    """The ONBUILD triggers that the reachable stages get from the bases resolved so far."""
    out: dict[int, tuple[str, ...]] = {}
    for stage in stage_plan.reachable:
        if isinstance(stage.origin, FromImage) and not stage.replaced:
            config = configs.get(stage.origin.wanted.key)
            if config is not None and config.config.on_build:
                out[stage.index] = config.config.on_build
    return out
