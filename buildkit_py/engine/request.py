"""What a build is asked for, and what it gives: the values of the public API."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypedDict

from buildkit_py.worker.secrets import Secret, SshAgent

if TYPE_CHECKING:
    from buildkit_py.digest import Digest
    from buildkit_py.exporters.values import Output
    from buildkit_py.progress.events import BuildWarning


__all__ = ["BuildOptions", "BuildRequest", "BuildResult", "Secret", "SshAgent", "StepResult"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildRequest:
    """One build. Names and values are those of `docker build`'s options.

    `context` is a directory, `-` (standard input), an http(s) URL or a git URL; `dockerfile` a
    path, `-` or a URL. Sizes are bytes, times seconds. A build argument of value None is taken
    from the environment. `outputs` are texts as `--output` has them, or values (OciOutput, …),
    which become such texts.
    """

    context: str = "."
    dockerfile: str | None = None
    dockerfile_text: str | None = None
    tags: tuple[str, ...] = ()
    build_args: Mapping[str, str | None] = field(default_factory=dict)
    target: str | None = None
    platforms: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: tuple[str, ...] = ()
    secrets: tuple[Secret, ...] = ()
    ssh: tuple[SshAgent, ...] = ()
    build_contexts: Mapping[str, str] = field(default_factory=dict)
    add_hosts: tuple[str, ...] = ()
    network: str = "default"
    shm_size: int = 0
    ulimits: tuple[str, ...] = ()
    resources: tuple[str, ...] = ()
    cgroup_parent: str = ""
    allow: tuple[str, ...] = ()
    no_cache: bool = False
    no_cache_filter: tuple[str, ...] = ()
    pull: bool = False
    cache_from: tuple[str, ...] = ()
    cache_to: tuple[str, ...] = ()
    cache_ttl: float = 0.0
    outputs: tuple[str | Output, ...] = ()
    push: bool = False
    load: bool = False
    iidfile: str | None = None
    metadata_file: str | None = None
    provenance: str | None = None
    sbom: str | None = None
    attest: tuple[str, ...] = ()
    squash: str | None = None
    on_failure: str | None = None
    explain: bool = False
    dry_run: bool = False
    jobs: int = 0
    timeout: float = 0.0
    step_timeout: float = 0.0
    normalize_modes: bool | None = None  # None: as `pybuild.toml` says
    verify_reproducible: bool = False
    timestamps: str = "settle"
    scan_secrets: bool = True
    insecure_registries: tuple[str, ...] = ()
    report: str | None = None
    check: str | None = None
    ignorefile: str | None = None

    def __post_init__(self) -> None:
        """Paths and outputs become texts, so that a request can be keyed, sent and recorded."""
        texts = tuple(str(item) for item in self.outputs)
        object.__setattr__(self, "outputs", texts)
        for name in ("dockerfile", "iidfile", "metadata_file", "report", "ignorefile"):
            value = getattr(self, name)
            if isinstance(value, os.PathLike):
                object.__setattr__(self, name, os.fspath(value))

    @property
    def output_texts(self) -> tuple[str, ...]:
        """The outputs, each as a value of `--output`."""
        return tuple(str(item) for item in self.outputs)


_Path = str | os.PathLike[str]
_Texts = str | Iterable[str]


class BuildOptions(TypedDict, total=False):
    """The keyword arguments of `build`: the fields of BuildRequest, as callers may give them."""

    dockerfile: _Path | None
    dockerfile_text: str | None
    tags: _Texts
    build_args: Mapping[str, str | None]
    target: str | None
    platforms: _Texts
    labels: Mapping[str, str]
    annotations: _Texts
    secrets: Iterable[Secret]
    ssh: Iterable[SshAgent]
    build_contexts: Mapping[str, str]
    add_hosts: _Texts
    network: str
    shm_size: int
    ulimits: _Texts
    resources: _Texts
    cgroup_parent: str
    allow: _Texts
    no_cache: bool
    no_cache_filter: _Texts
    pull: bool
    cache_from: _Texts
    cache_to: _Texts
    cache_ttl: float
    outputs: str | Output | Iterable[_Path | Output]
    push: bool
    load: bool
    iidfile: _Path | None
    metadata_file: _Path | None
    provenance: str | None
    sbom: str | None
    attest: _Texts
    squash: str | None
    on_failure: str | None
    explain: bool
    dry_run: bool
    jobs: int
    timeout: float
    step_timeout: float
    normalize_modes: bool | None
    verify_reproducible: bool
    timestamps: str
    scan_secrets: bool
    insecure_registries: _Texts
    report: _Path | None
    check: str | None
    ignorefile: _Path | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """One instruction of the build: its text, its id, and what it cost.

    One that is only `metadata` (ENV, CMD, …) is no step of its own to a progress display.
    """

    text: str
    id: str
    cached: bool
    stage: str = ""
    seconds: float = 0.0
    size: int = 0
    reason: str = ""
    span_line: int = 0
    metadata: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildResult:
    """What a build gave.

    `image_id` is the digest of the image's config, `digest` that of the manifest (or index)
    written by the first output that wrote one.
    """

    ref: str
    image_id: Digest | None
    digest: Digest | None
    names: tuple[str, ...] = ()
    steps: tuple[StepResult, ...] = ()
    warnings: tuple[BuildWarning, ...] = ()
    seconds: float = 0.0
    metadata: Mapping[str, object] = field(default_factory=dict)
