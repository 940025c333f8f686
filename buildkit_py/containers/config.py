"""From an image's name and options to what a container starts on, and with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from buildkit_py.containers.options import RunOptions, expand_env
from buildkit_py.errors import NoSuchImage, UsageError
from buildkit_py.oci.config import ContainerConfig
from buildkit_py.store.containers import NewContainer
from buildkit_py.store.steps import find_step

if TYPE_CHECKING:
    from buildkit_py.digest import Digest
    from buildkit_py.platforms import Platform
    from buildkit_py.store import Store
    from buildkit_py.store.images import StoredImage

PULL_POLICIES = ("missing", "always", "never")


@dataclass(frozen=True, slots=True, kw_only=True)
class Root:
    """A snapshot and the config that belongs to it; `image_id` where it is an image's."""

    snapshot: int | None
    platform: Platform
    config: ContainerConfig = field(default_factory=ContainerConfig)
    image_id: Digest | None = None


def find_root(
    store: Store, options: RunOptions, host: Platform, pull: Callable[[str, Platform], StoredImage]
) -> Root:
    """What is asked for: an image, pulled if it is missing, a step, `snapshot:N`, `scratch`.

    Raises NoSuchImage, RegistryError.
    """
    name = options.image
    platform = options.platform or host
    if name == "scratch":
        return Root(snapshot=None, platform=platform)
    if name.startswith("snapshot:"):
        number = name.partition(":")[2]
        if not number.isdigit() or not store.snapshots.use(int(number)):
            raise NoSuchImage(f"no such snapshot: {number}")
        return Root(snapshot=int(number), platform=platform)
    image = None
    if options.pull != "always":
        image = store.images.find(name, options.platform)
        if image is None and options.platform is None:
            found = _step_root(store, name, platform)
            if found is not None:
                return found
        if image is None and options.pull == "never":
            raise NoSuchImage(f"no such image: {name}", hint="it is not pulled: --pull=never")
    image = image or pull(name, platform)
    if image.snapshot is not None:
        store.snapshots.use(image.snapshot)
    return Root(
        snapshot=image.snapshot,
        platform=image.platform,
        config=image.config.config,
        image_id=image.id,
    )


def _step_root(store: Store, name: str, platform: Platform) -> Root | None:
    """The id of a build's step, as the classic builder's intermediate images had."""
    try:
        step = find_step(store.db, name)
    except NoSuchImage:
        return None
    if step.snapshot is not None and not store.snapshots.use(step.snapshot):
        raise NoSuchImage(f"the files of step {name} are no longer in the store")
    return Root(snapshot=step.snapshot, platform=platform, config=step.config)


def container_config(
    root: Root, options: RunOptions, *, environ: Mapping[str, str]
) -> ContainerConfig:
    """The image's config with the options' changes, as docker records it. Raises UsageError."""
    config = root.config
    if options.entrypoint is not None:
        entrypoint = (options.entrypoint,) if options.entrypoint else None
        config = replace(config, entrypoint=entrypoint, cmd=None)
    if options.command:
        config = replace(config, cmd=options.command)
    values = config.env_map()
    for entry in expand_env(options.env, environ):
        variable, _, value = entry.partition("=")
        values[variable] = value
    return replace(
        config,
        env=tuple(f"{variable}={value}" for variable, value in values.items()),
        user=config.user if options.user is None else options.user,
        working_dir=options.workdir or config.working_dir,
    )


def arguments_of(config: ContainerConfig) -> tuple[str, ...]:
    """The program and its words. Raises UsageError."""
    arguments = (*(config.entrypoint or ()), *(config.cmd or ()))
    if not arguments:
        raise UsageError("no command specified", hint="the image has none, so give one")
    return arguments


def new_container(root: Root, options: RunOptions, *, environ: Mapping[str, str]) -> NewContainer:
    """What is noted of a container before it starts. Raises UsageError."""
    config = container_config(root, options, environ=environ)
    return NewContainer(
        image=options.image,
        image_id=root.image_id,
        command=arguments_of(config),
        config=config,
        platform=root.platform,
        base=root.snapshot,
        name=options.name,
    )
