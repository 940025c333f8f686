"""Everything that one build works with, opened on use: sources, worker, solver, executor."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from buildkit_py.cache.local import LocalCache
from buildkit_py.errors import BuildCancelled, UsageError
from buildkit_py.graph import ImageOp
from buildkit_py.progress.events import VertexStatus
from buildkit_py.solver.ports import Result
from buildkit_py.solver.solver import Solver, solver_settings
from buildkit_py.sources.image import ImageSource
from buildkit_py.sources.local import ContextSource
from buildkit_py.store.lost import LostLayers
from buildkit_py.worker import LocalWorker
from buildkit_py.worker.contents import ContentDigests
from buildkit_py.worker.secrets import BuildSecrets, Secret
from buildkit_py.worker.source import SourceRunner, Sources

if TYPE_CHECKING:
    from buildkit_py.cache.base import CacheBackend
    from buildkit_py.digest import Digest
    from buildkit_py.dockerignore import IgnoreMatcher
    from buildkit_py.engine.build import BuildEnvironment
    from buildkit_py.engine.inputs import InputSources
    from buildkit_py.engine.request import BuildRequest
    from buildkit_py.graph import BuildGraph
    from buildkit_py.layers.tree import Tree
    from buildkit_py.progress.events import BuildWarning, EventSink
    from buildkit_py.registry.client import RegistryClient
    from buildkit_py.registry.transfer import TransferStatus
    from buildkit_py.runtime.connect import Network
    from buildkit_py.runtime.executor import Executor
    from buildkit_py.solver.session import Observe
    from buildkit_py.sources.context import ContextFetcher
    from buildkit_py.sources.git import GitSource
    from buildkit_py.sources.http import HttpSource
    from buildkit_py.worker.exec import ExecRunner
    from buildkit_py.worker.failed import FailedStep


@dataclass
class Workshop:
    """The parts of one build. `epoch` (seconds) and names are set once the plan is known."""

    request: BuildRequest
    env: BuildEnvironment
    emit: EventSink
    cancelled: threading.Event
    stack: ExitStack
    contexts: dict[str, ContextSource] = field(default_factory=dict)
    imports: tuple[CacheBackend, ...] = ()
    warnings: list[BuildWarning] = field(default_factory=list)
    graph: BuildGraph | None = None
    epoch: int | None = None
    argument_names: frozenset[str] = frozenset()

    # -------------------------------------------------------------- sources
    @cached_property
    def client(self) -> RegistryClient:
        """The registry client, made when a registry is first needed."""
        from buildkit_py.registry import open_client  # noqa: PLC0415

        client = open_client(self.env.environment, insecure=self.request.insecure_registries)
        self.stack.callback(client.transport.close)
        return client

    @cached_property
    def images(self) -> ImageSource:
        """Base images."""
        return ImageSource(self.env.store, lambda: self.client, progress=self._transferred)

    def _transferred(self, status: TransferStatus) -> None:
        """Show a layer that is fetched below the image that it belongs to. Raises BuildCancelled.

        Images are done when their names are resolved; layers come when a step wants their files.
        """
        if self.cancelled.is_set():
            raise BuildCancelled("canceled")
        vertex = self._layer_vertices.get(status.id)
        if vertex is not None and status.action == "downloading":
            self.emit(
                VertexStatus(
                    vertex=vertex,
                    id=status.id,
                    action=status.action,
                    current=status.current,
                    total=status.total,
                    time=self.env.clock(),
                    done=status.done,
                )
            )

    @cached_property
    def _layer_vertices(self) -> dict[str, Digest]:
        """The image vertex of each layer's blob."""
        found: dict[str, Digest] = {}
        store = self.env.store
        for vertex in self.graph.vertices.values() if self.graph else ():
            if isinstance(vertex.op, ImageOp):
                image = store.images.find(vertex.op.digest)
                for item in store.snapshots.chain(image.snapshot) if image else ():
                    if item.blob is not None:
                        found.setdefault(item.blob.digest, vertex.digest)
        return found

    @cached_property
    def http(self) -> HttpSource:
        """Downloads."""
        from buildkit_py.sources.http import HttpSource  # noqa: PLC0415

        store = self.env.store
        return HttpSource(lambda: self.client.transport, store.content, store.db)

    @cached_property
    def git(self) -> GitSource:
        """Checkouts."""
        from buildkit_py.sources.git import GitSource  # noqa: PLC0415

        agent = next((item for item in self.request.ssh if item.id == "default"), None)
        socket = self.env.environment.get("SSH_AUTH_SOCK") if agent else None
        return GitSource(
            self.env.store.db,
            self.env.environment,
            ssh_socket=socket,
            allow_local=self.env.environment.get("PYBUILD_GIT_ALLOW_LOCAL") == "1",
            cancelled=self.cancelled,
        )

    def input_sources(self) -> InputSources:
        """What brings remote contexts."""
        from buildkit_py.engine.inputs import InputSources  # noqa: PLC0415

        return InputSources(
            fetcher=self._context_fetcher,
            scratch=self.env.store.db.scratch,
            stdin=self.env.stdin,
        )

    def _context_fetcher(self) -> ContextFetcher:
        from buildkit_py.sources.context import ContextFetcher  # noqa: PLC0415

        keep = self.request.build_args.get("BUILDKIT_CONTEXT_KEEP_GIT_DIR")
        return ContextFetcher(
            http=lambda: self.http,
            git=lambda: self.git,
            secrets=self.secrets.value,
            keep_git_dir=keep in {"1", "true", "True", "TRUE", "t", "T"},
        )

    @cached_property
    def secrets(self) -> BuildSecrets:
        """Secrets and agents of the request."""
        return build_secrets(self.request, self.env)

    def add_context(
        self,
        name: str,
        directory: Path,
        matcher: IgnoreMatcher | None,
        *,
        keeps_owners: bool = False,
    ) -> None:
        """Open a build context under the name that ops call it by."""
        if name not in self.contexts:
            self.contexts[name] = ContextSource(
                directory,
                matcher,
                cache=self.env.store.paths.root / "contexts",
                normalize_modes=bool(self.request.normalize_modes),
                keeps_owners=keeps_owners,
            )

    def _context_tree(self, name: str) -> Tree:
        return self.contexts[name].tree

    def tree_of(self, result: Result | None) -> Tree | None:
        """The files of a result."""
        if result is None:
            return None
        if result.context is not None:
            return self._context_tree(result.context)
        return self.snapshot_tree(result.snapshot)

    def snapshot_tree(self, snapshot: int | None) -> Tree:
        """The files of a snapshot, fetched and unpacked now."""
        from buildkit_py.layers.tree import MergedTree  # noqa: PLC0415

        return MergedTree(self.env.store.snapshots.directories(snapshot))

    # -------------------------------------------------------------- solving
    @cached_property
    def cache(self) -> LocalCache:
        """The state root's records."""
        return LocalCache(self.env.store.db, ttl=self.request.cache_ttl)

    @cached_property
    def worker(self) -> LocalWorker:
        """What runs vertices."""
        store = self.env.store
        sources = Sources(
            images=self.images,
            contexts=self.contexts,
            http=lambda: self.http,
            git=lambda: self.git,
            secrets=self.secrets.value,
        )
        return LocalWorker(
            snapshots=store.snapshots,
            sources=SourceRunner(sources=sources, snapshots=store.snapshots, clock=self.env.clock),
            contents=ContentDigests(self.contexts, self.cache, self.snapshot_tree),
            exec_runner=lambda: self.exec_runner,
            tree_of=self.tree_of,
            made_at=self._made_at,
            warn=self.warn,
        )

    def warn(self, message: str) -> None:
        """Say something once in this build: now, and among its warnings at the end."""
        from buildkit_py.progress.events import BuildWarning  # noqa: PLC0415

        warning = BuildWarning(message=message)
        if warning not in self.warnings:
            self.warnings.append(warning)
            self.emit(warning)

    def _made_at(self) -> int:
        return int(self.env.clock()) if self.epoch is None else self.epoch

    def solver(self, observe: Observe | None, emit: EventSink | None = None) -> Solver:
        """A solver over this worker and cache."""
        scope = os.path.abspath(self.request.context) + "\0" + (self.request.dockerfile or "")
        return Solver(
            self.worker,
            self.cache,
            emit or self.emit,
            imports=self.imports,
            settings=solver_settings(
                jobs=self.request.jobs,
                locks=self.env.store.paths.locks,
                scope=scope,
                argument_names=self.argument_names,
                no_cache_option="--no-cache" if self.request.no_cache else "--no-cache-filter",
                clock=self.env.clock,
                observe=observe,
            ),
        )

    def save(self) -> None:
        """Write what only speeds up the next build."""
        for context in self.contexts.values():
            context.save()
        self.cache.flush()

    # -------------------------------------------------------------- running
    _executor: Executor | None = None
    _executor_guard: threading.Lock = field(default_factory=threading.Lock)

    def executor(self) -> Executor:
        """The executor; its fork server starts now and ends with the build."""
        with self._executor_guard:
            if self._executor is None:
                from buildkit_py.runtime import open_executor  # noqa: PLC0415

                scratch = self.env.store.db.scratch("x")
                scratch.mkdir(mode=0o711)
                self._executor = open_executor(self.env.executor, scratch=scratch)
                self.stack.callback(self._executor.close)
            return self._executor

    def _network(self) -> Network:
        """A network of this build's own, for `--network=bridge`."""
        from buildkit_py.runtime.connect import open_network  # noqa: PLC0415

        network = open_network()
        self.stack.callback(network.close)
        return network

    @cached_property
    def exec_runner(self) -> ExecRunner:
        """What runs RUN."""
        from buildkit_py.layers.attributes import ONE_ID  # noqa: PLC0415
        from buildkit_py.runtime.namespaces import has_one_id  # noqa: PLC0415
        from buildkit_py.worker.cachemounts import CacheMounts  # noqa: PLC0415
        from buildkit_py.worker.exec import ExecRunner, ExecSettings  # noqa: PLC0415
        from buildkit_py.worker.mounts import MountSources  # noqa: PLC0415

        store = self.env.store
        one_id = has_one_id()
        if one_id:
            self.warn(ONE_ID)
        bridge = self._network() if self.request.network == "bridge" else None
        settings = ExecSettings(
            network="bridge" if bridge else "host",
            connect=bridge.hooks if bridge else None,
            dns=bridge.servers if bridge else (),
            entitlements=frozenset(self.request.allow),
            timeout=self.request.step_timeout,
            one_id=one_id,
            clock=self.env.clock,
            host=self.env.host,
            on_failure=self._failure_hook(),
        )
        return ExecRunner(
            sources=MountSources(
                snapshots=store.snapshots,
                db=store.db,
                caches=CacheMounts(
                    paths=store.paths, db=store.db, imported=self._imported_mounts()
                ),
                contexts=self._context_tree,
                secrets=self.secrets,
            ),
            executor=self.executor,
            settings=settings,
        )

    def _imported_mounts(self) -> Callable[[str], Path | None] | None:
        if not self.imports:
            return None
        from buildkit_py.engine.remote_cache import imported_mounts  # noqa: PLC0415

        return imported_mounts(self)

    def _failure_hook(self) -> Callable[[FailedStep], None] | None:
        if self.request.on_failure is None:
            return None
        if self.request.on_failure != "shell":
            raise UsageError(
                f'unknown action "{self.request.on_failure}" for --on-failure', hint="use shell"
            )
        from buildkit_py.worker.debugshell import open_shell  # noqa: PLC0415

        return open_shell


def build_secrets(request: BuildRequest, env: BuildEnvironment) -> BuildSecrets:
    """The request's secrets by id. Raises UsageError for one given twice or not there."""
    found: dict[str, Secret] = {}
    for secret in request.secrets:
        if secret.id in found:
            raise UsageError(f'secret "{secret.id}" is given twice')
        if secret.value is None and secret.env is None:
            path = env.directory / (secret.path or secret.id)
            if not path.is_file():
                raise UsageError(
                    f'secret "{secret.id}": {path} does not exist',
                    hint="--secret id=NAME,src=FILE or --secret id=NAME,env=VARIABLE",
                )
        found[secret.id] = secret
    agents = {agent.id: agent for agent in request.ssh}
    return BuildSecrets(secrets=found, agents=agents, environ=env.environment)


@contextmanager
def open_workshop(
    request: BuildRequest, env: BuildEnvironment, emit: EventSink, cancelled: threading.Event
) -> Iterator[Workshop]:
    """The workshop of one build; what it opened is closed at the end."""
    with ExitStack() as stack:
        shop = Workshop(request, env, emit, cancelled, stack)
        env.store.snapshots.layers.fetch = shop.images.fetch
        env.store.snapshots.layers.warn = shop.warn
        env.store.snapshots.layers.lost = LostLayers()
        if request.cache_from:
            from buildkit_py.engine.remote_cache import open_imports  # noqa: PLC0415

            shop.imports = open_imports(shop)
        if request.cache_to:
            from buildkit_py.engine.remote_cache import look_ahead  # noqa: PLC0415

            look_ahead(shop)
        yield shop
