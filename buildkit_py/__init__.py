"""Build container images from Dockerfiles, without a daemon.

The names below are imported on first use (PEP 562), so that `import buildkit_py` costs nothing.
"""

from __future__ import annotations

from buildkit_py.version import __version__

TYPE_CHECKING = False  # as typing has it, without the import

if TYPE_CHECKING:
    from buildkit_py.dockerfile import Dockerfile, parse
    from buildkit_py.engine import (
        BuildRequest,
        BuildResult,
        Engine,
        Secret,
        SshAgent,
        StepResult,
    )
    from buildkit_py.engine.library import build
    from buildkit_py.errors import BuildError, PybuildError
    from buildkit_py.exporters.values import (
        CacheOnlyOutput,
        DockerOutput,
        ImageOutput,
        LocalOutput,
        OciOutput,
        RegistryOutput,
        TarOutput,
    )
    from buildkit_py.lint import lint

_LAZY = {
    "Dockerfile": "dockerfile",
    "parse": "dockerfile",
    "BuildRequest": "engine",
    "BuildResult": "engine",
    "Engine": "engine",
    "Secret": "engine",
    "SshAgent": "engine",
    "StepResult": "engine",
    "CacheOnlyOutput": "exporters.values",
    "DockerOutput": "exporters.values",
    "ImageOutput": "exporters.values",
    "LocalOutput": "exporters.values",
    "OciOutput": "exporters.values",
    "RegistryOutput": "exporters.values",
    "TarOutput": "exporters.values",
    "build": "engine.library",
    "BuildError": "errors",
    "PybuildError": "errors",
    "lint": "lint",
}

__all__ = [
    "BuildError",
    "BuildRequest",
    "BuildResult",
    "CacheOnlyOutput",
    "DockerOutput",
    "Dockerfile",
    "Engine",
    "ImageOutput",
    "LocalOutput",
    "OciOutput",
    "PybuildError",
    "RegistryOutput",
    "Secret",
    "SshAgent",
    "StepResult",
    "TarOutput",
    "__version__",
    "build",
    "lint",
    "parse",
]


def __getattr__(name: str) -> object:
    module = _LAZY.get(name)
    if module is None:
        raise AttributeError(f"module 'buildkit_py' has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415  (kept off the start-up path)

    found: object = getattr(import_module(f"buildkit_py.{module}"), name)
    return found
