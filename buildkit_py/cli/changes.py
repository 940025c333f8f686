"""`--change`: Dockerfile instructions applied to an image's config, as docker allows them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from buildkit_py.errors import UsageError
from buildkit_py.oci.config import DEFAULT_PATH, ContainerConfig, ImageConfig

ALLOWED = frozenset(
    "CMD ENTRYPOINT ENV EXPOSE HEALTHCHECK LABEL ONBUILD STOPSIGNAL USER VOLUME WORKDIR".split()
)


def apply_changes(image: ImageConfig, changes: Sequence[str]) -> ContainerConfig:
    """The container config after the instructions. Raises UsageError, DockerfileError."""
    if not changes:
        return image.config
    from buildkit_py.digest import sha256
    from buildkit_py.dockerfile import parse
    from buildkit_py.graph import ImageOp
    from buildkit_py.instructions.env import Env
    from buildkit_py.lower import ResolvedBase, lower
    from buildkit_py.source import SourceFile
    from buildkit_py.stages import BuildOptions, plan

    for change in changes:
        _check_keyword(change.split(maxsplit=1)[0].upper() if change.strip() else "")
    text = "FROM changed\n" + "".join(f"{change.strip()}\n" for change in changes)
    dockerfile = parse(SourceFile(name="--change", text=text))
    instructions = dockerfile.instructions
    for instruction in instructions[1:]:  # a change may hold several lines
        _check_keyword(instruction.line.keyword.upper())
    planned = plan(dockerfile, BuildOptions(), image.platform)
    # triggers of the image itself are not run, and its history is of no interest here
    base = replace(image, config=replace(image.config, on_build=()), history=())
    op = ImageOp(reference="changed", digest=sha256(b""), platform=image.platform)
    bases = {wanted.key: ResolvedBase(op=op, config=base) for wanted in planned.bases}
    changed = lower(planned, bases).config.config
    set_here = {pair.key for one in instructions if isinstance(one, Env) for pair in one.pairs}
    if "PATH" in image.config.env_map() or "PATH" in set_here:
        return changed
    return _without_default_path(changed)


def _check_keyword(keyword: str) -> None:
    if keyword not in ALLOWED:
        raise UsageError(
            f"{keyword or 'an empty text'} is not a valid change command",
            hint=f"one of {', '.join(sorted(ALLOWED))}",
        )


def _without_default_path(config: ContainerConfig) -> ContainerConfig:
    """Drop the PATH that a build adds to an image without one."""
    default = f"PATH={DEFAULT_PATH}"
    return replace(config, env=tuple(entry for entry in config.env if entry != default))
