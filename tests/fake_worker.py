"""A worker whose trees are dictionaries, on a real store: what the solver's tests drive.

`RUN` (ExecOp) adds a file named by its last argument, whose text is what `effects` says, or a
digest of argument and everything below it. `COPY` (FileOp) copies by prefix.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from buildkit_py.cache.keys import CacheMap, Selection
from buildkit_py.digest import Digest, canonical_json, digest_of, sha256
from buildkit_py.errors import CopyError
from buildkit_py.graph import (
    BindMount,
    ContextOp,
    CopyFiles,
    ExecOp,
    FileOp,
    ImageOp,
    MergeOp,
    Op,
    Vertex,
    VertexOptions,
)
from buildkit_py.platforms import Platform
from buildkit_py.solver.ports import Result, RunContext
from buildkit_py.store import Store
from buildkit_py.worker.keys import cache_map

Files = dict[str, str]


@dataclass(slots=True)
class FakeWorker:
    store: Store
    contexts: dict[str, Files] = field(default_factory=dict)
    images: dict[str, Files] = field(default_factory=dict)
    effects: dict[str, Callable[[Files], str]] = field(default_factory=dict)
    trees: dict[int, Files] = field(default_factory=dict)
    runs: Counter[str] = field(default_factory=Counter)
    order: list[Digest] = field(default_factory=list)
    digested: Counter[str] = field(default_factory=Counter)
    guard: threading.Lock = field(default_factory=threading.Lock)
    last_context: RunContext | None = None

    def cache_map(self, vertex: Vertex) -> CacheMap:
        return cache_map(vertex)

    def tree(self, result: Result | None) -> Files:
        if result is None:
            return {}
        if result.context is not None:
            return self.contexts[result.context]
        return {} if result.snapshot is None else self.trees[result.snapshot]

    def content_files(self, result: Result, selection: Selection) -> Mapping[str, str]:
        found: Files = {}
        for path in selection.paths:
            below = path.rstrip("/") + "/"
            files = self.tree(result).items()
            some = {name: text for name, text in files if ("/" + name + "/").startswith(below)}
            if not some and path != "/":
                raise CopyError(f'failed to compute cache key: "{path}": not found')
            found |= {name: sha256(text.encode())[7:23] for name, text in some.items()}
        return found

    def content_digest(self, result: Result, selection: Selection) -> str:
        self.digested[str(result.context or result.snapshot)] += 1
        return digest_of(dict(self.content_files(result, selection)))

    def unchanged(
        self, result: Result, selection: Selection, digest: str, *, mounted: bool
    ) -> bool:
        del mounted
        return digest_of(dict(self.content_files(result, selection))) == digest

    def run(self, vertex: Vertex, inputs: Sequence[Result | None], context: RunContext) -> Result:
        with self.guard:
            self.runs[vertex.options.name] += 1
            self.order.append(vertex.digest)
            self.last_context = context
        files = dict(self.tree(inputs[0])) if inputs else {}
        op = vertex.op
        if isinstance(op, ImageOp):
            files = dict(self.images[op.reference])
        elif isinstance(op, ExecOp):
            name = op.arguments[-1]
            everything = canonical_json(files)
            effect = self.effects.get(name, lambda _: sha256(name.encode() + everything))
            files[name] = effect(files)
        elif isinstance(op, FileOp):
            for action in op.actions:
                assert isinstance(action, CopyFiles)
                source = self.tree(inputs[action.input])
                prefix = action.source.strip("/")
                for path, text in source.items():
                    if path == prefix or path.startswith(prefix + "/") or not prefix:
                        files[action.destination.strip("/") + "/" + path] = text
        elif isinstance(op, MergeOp):
            files |= self.tree(inputs[1])
        return self.commit(files)

    def commit(self, files: Files) -> Result:
        with self.store.snapshots.prepare(None) as active:
            snapshot = self.store.snapshots.commit(active).id
        self.trees[snapshot] = files
        return Result(snapshot=snapshot)


# ------------------------------------------------------------------ vertices
def vertex(
    op: Op, *inputs: Vertex | None, text: str = "", stage: str = "", no_cache: bool = False
) -> Vertex:
    name = text or type(op).__name__
    options = VertexOptions(name=name, instruction=text, stage=stage, no_cache=no_cache)
    return Vertex(op=op, inputs=inputs, options=options)


def image(name: str = "debian", content: str = "1") -> Vertex:
    op = ImageOp(reference=name, digest=sha256(content.encode()), platform=Platform())
    return vertex(op, text=f"FROM {name}")


def context(name: str = "context") -> Vertex:
    return vertex(ContextOp(name=name), text="[internal] load build context")


def run(base: Vertex | None, command: str, *, no_cache: bool = False, **fields: object) -> Vertex:
    op = ExecOp(arguments=("/bin/sh", "-c", command), env=("PATH=/bin",))
    for name, value in fields.items():
        object.__setattr__(op, name, value)
    return vertex(op, base, text=f"RUN {command}", no_cache=no_cache)


def run_with(base: Vertex, command: str, source: Vertex, path: str = "/") -> Vertex:
    mount = BindMount(target="/mnt", input=1, source=path)
    op = ExecOp(arguments=("/bin/sh", "-c", command), env=(), mounts=(mount,))
    return vertex(op, base, source, text=f"RUN --mount {command}")


def copy(
    base: Vertex | None, source: Vertex, path: str = "/", destination: str = "/app"
) -> Vertex:
    action = CopyFiles(input=1, source=path, destination=destination)
    op = FileOp(actions=(action,))
    return vertex(op, base, source, text=f"COPY {path.lstrip('/') or '.'} {destination}")


def link(base: Vertex | None, top: Vertex) -> Vertex:
    return vertex(MergeOp(), base, top, text="merge")
