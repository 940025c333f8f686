"""From Dockerfile text to one lowered image per platform; base images are pinned on the way.

`plan` is pure and says which images it needs. They are pinned side by side (a manifest and a
config each, no layer), their ONBUILD triggers are added to the plan, and that repeats until no
new image appears.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from buildkit_py.errors import PybuildError, SourceError
from buildkit_py.instructions.arg import Arg
from buildkit_py.lower import LoweredImage, ResolvedBase, lower
from buildkit_py.stages import BaseKey, BaseWanted, BuildOptions, StagePlan, plan, triggers_of

if TYPE_CHECKING:
    from buildkit_py.dockerfile import Dockerfile
    from buildkit_py.platforms import Platform
    from buildkit_py.sources.image import ImageSource

Pin = Callable[[BaseWanted], ResolvedBase]

_MOST_ROUNDS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiled:
    """The plans and lowered images of all platforms, in the order asked for."""

    plans: tuple[StagePlan, ...]
    images: tuple[LoweredImage, ...]
    bases: Mapping[BaseKey, ResolvedBase]

    @property
    def argument_names(self) -> frozenset[str]:
        """Everything that an ARG declares, so that a change of its value is explained as such."""
        found = {item.name for arg in self.plans[0].dockerfile.global_args for item in arg.items}
        for stage in self.plans[0].stages:
            for instruction in stage.instructions:
                if isinstance(instruction, Arg):
                    found.update(item.name for item in instruction.items)
        return frozenset(found)


def base_pinner(images: ImageSource, options: BuildOptions, *, pull: bool) -> Pin:
    """Finds bases among local images and registries; of any platform where none was asked for."""

    def pin(base: BaseWanted) -> ResolvedBase:
        if base.layout is not None:
            pinned = images.pin_layout(base.layout, base.reference, base.platform)
        else:
            any_platform = not (base.explicit or options.platforms)
            pinned = images.pin(
                base.reference, base.platform, pull=pull, any_platform=any_platform
            )
        return ResolvedBase(op=pinned.op, config=pinned.config)

    return pin


def compile_build(dockerfile: Dockerfile, options: BuildOptions, pin: Pin) -> Compiled:
    """Plan, pin and lower every platform. Raises PlanError, DockerfileError, SourceError."""
    pinned: dict[BaseKey, ResolvedBase] = {}
    platforms: tuple[Platform | None, ...] = options.platforms or (None,)
    plans: list[StagePlan] = []
    images: list[LoweredImage] = []
    for platform in platforms:
        found = _plan_with_bases(dockerfile, options, platform, pin, pinned)
        plans.append(found)
        images.append(lower(found, pinned))
    return Compiled(plans=tuple(plans), images=tuple(images), bases=pinned)


def _plan_with_bases(
    dockerfile: Dockerfile,
    options: BuildOptions,
    platform: Platform | None,
    pin: Pin,
    pinned: dict[BaseKey, ResolvedBase],
) -> StagePlan:
    triggers: dict[int, tuple[str, ...]] = {}
    for _ in range(_MOST_ROUNDS):
        found = plan(dockerfile, options, platform, triggers=triggers)
        wanted = {base.key: base for base in found.bases if base.key not in pinned}
        _pin_all(wanted, pin, pinned)
        added = triggers_of(found, {key: base.config for key, base in pinned.items()})
        if not wanted and added == triggers:
            return found
        triggers = dict(added)
    raise SourceError("the ONBUILD triggers of the base images never end")


def _pin_all(
    wanted: Mapping[BaseKey, BaseWanted], pin: Pin, pinned: dict[BaseKey, ResolvedBase]
) -> None:
    if len(wanted) <= 1:
        for key, base in wanted.items():
            pinned[key] = _pin_one(base, pin)
        return
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 - not for a single base

    with ThreadPoolExecutor(max_workers=min(8, len(wanted))) as pool:
        found = pool.map(lambda base: _pin_one(base, pin), wanted.values())
        pinned.update(zip(wanted, found, strict=True))


def _pin_one(base: BaseWanted, pin: Pin) -> ResolvedBase:
    try:
        return pin(base)
    except SourceError as error:
        if error.span is None:
            error.span = base.span
        raise
    except PybuildError as error:
        raise SourceError(error.message, span=base.span, hint=error.hint) from error
