"""What a build is asked for, and what it gives: the values of the public API."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from buildkit_py.worker.secrets import Secret, SshAgent

if TYPE_CHECKING:
    from buildkit_py.digest import Digest
    from buildkit_py.progress.events import BuildWarning


__all__ = ["BuildRequest", "BuildResult", "Secret", "SshAgent", "StepResult"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildRequest:
    """One build. Names and values are those of `docker build`'s options.

    `context` is a directory, `-` (standard input), an http(s) URL or a git URL; `dockerfile` a
    path, `-` or a URL. Sizes are bytes, times seconds. A build argument of value None is taken
    from the environment.
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
    outputs: tuple[str, ...] = ()
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
    normalize_modes: bool = False
    verify_reproducible: bool = False
    timestamps: str = "settle"
    scan_secrets: bool = True
    insecure_registries: tuple[str, ...] = ()
    report: str | None = None
    check: str | None = None
    ignorefile: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """One instruction of the build: its text, its id, and what it cost."""

    text: str
    id: str
    cached: bool
    stage: str = ""
    seconds: float = 0.0
    size: int = 0
    reason: str = ""
    span_line: int = 0


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
