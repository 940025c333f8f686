"""One build: inputs, plan, solve, outputs. Each step hands its value to the next."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from buildkit_py.engine.aftermath import keep_steps, step_sizes, write_result_files
from buildkit_py.engine.attestations import Attestor, scanned_roots
from buildkit_py.engine.compile import Compiled, base_pinner, compile_build
from buildkit_py.engine.deadline import deadline
from buildkit_py.engine.forwarding import Forwarder, open_forwarder
from buildkit_py.engine.inputs import BuildInputs, directory_matcher, open_inputs
from buildkit_py.engine.lost import carry_out
from buildkit_py.engine.options import build_options
from buildkit_py.engine.outputs import Outputs, check_outputs, export_all
from buildkit_py.engine.record import Recording, failure_of, summary_of
from buildkit_py.engine.request import BuildRequest, BuildResult
from buildkit_py.engine.steps import (
    StepTracker,
    VertexOutcome,
    parents_in,
    step_infos,
    step_results,
)
from buildkit_py.engine.warnings import add_warnings, early_warnings, warnings_metadata
from buildkit_py.engine.workshop import Workshop, open_workshop
from buildkit_py.errors import BuildCancelled, DockerfileErrors, PybuildError, UsageError
from buildkit_py.graph import BuildGraph, Vertex
from buildkit_py.progress.events import (
    BuildCompleted,
    BuildStarted,
    BuildWarning,
    Event,
    EventSink,
)
from buildkit_py.solver.solution import Origin, Outcome, Solution

if TYPE_CHECKING:
    from buildkit_py.dockerfile import Dockerfile
    from buildkit_py.platforms import Platform
    from buildkit_py.recall.record import RecallKey
    from buildkit_py.solver.ports import Result
    from buildkit_py.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildEnvironment:
    """What a build takes from its engine: the store, and what is read once from the process."""

    store: Store
    environment: Mapping[str, str]
    clock: Callable[[], float]
    host: Platform
    executor: str = "auto"
    stdin: BinaryIO | None = None
    stdout: BinaryIO | None = None
    directory: Path = field(default_factory=Path.cwd)
    recall: RecallKey | None = None  # to find this build by again


def run_build(
    request: BuildRequest,
    surroundings: BuildEnvironment,
    *,
    sink: EventSink | None = None,
    cancelled: threading.Event | None = None,
) -> BuildResult:
    """Carry out a build. Raises PybuildError, KeyboardInterrupt."""
    cancelled = cancelled or threading.Event()
    if not request.verify_reproducible:
        return _Build(request, surroundings, sink, cancelled).run()
    from buildkit_py.engine.verify import twice  # noqa: PLC0415

    quiet, request = twice(request)
    surroundings = replace(surroundings, recall=None)
    first = _Build(quiet, surroundings, sink, cancelled)
    first.run()
    return _Build(request, surroundings, sink, cancelled, compare_with=first.tops).run()


class _Build:
    """The state of one build, owned by the thread that runs it."""

    def __init__(
        self,
        request: BuildRequest,
        surroundings: BuildEnvironment,
        sink: EventSink | None,
        cancelled: threading.Event,
        compare_with: tuple[int | None, ...] | None = None,
    ) -> None:
        self.request = request
        self.tops: tuple[int | None, ...] = ()
        self._compare_with = compare_with
        self._inputs: BuildInputs | None = None
        self.env = surroundings
        self.store = surroundings.store
        self.clock = surroundings.clock
        self.cancelled = cancelled
        self.ref = uuid.uuid4().hex[:25]
        self.started = self.clock()
        self._sink = sink
        self._recording: Recording | None = None
        self._emitting = threading.Lock()
        self._warnings: list[BuildWarning] = []
        self._planned: tuple[BuildWarning, ...] = ()
        self._cancelled_by_timeout = False
        self._tracked: StepTracker | None = None
        self._exports: list[Event] = []

    # -------------------------------------------------------------- events
    def emit(self, event: Event) -> None:
        """Hand an event on, one at a time."""
        with self._emitting:
            if self._recording is not None:
                self._recording(event)
            if self._sink is not None:
                self._sink(event)

    def _export(self, event: Event) -> None:
        self._exports.append(event)
        self.emit(event)

    # -------------------------------------------------------------- the path
    def run(self) -> BuildResult:
        with ExitStack() as stack:
            stack.enter_context(deadline(self.request.timeout, self._expire))
            if self.request.report:
                from buildkit_py.engine.reporting import reported  # noqa: PLC0415

                stack.enter_context(reported(self.env, self.ref, self.request.report))
            self._recording = stack.enter_context(
                Recording(self.store, self.ref, self.request, self.started)
            )
            try:
                result = self._run(stack)
            except BaseException as error:
                self._failed(error)
                raise
            self._recording.finish("completed", self.clock(), result.image_id, summary_of(result))
            return result

    def _expire(self) -> None:
        self._cancelled_by_timeout = True
        self.cancelled.set()

    def _failed(self, error: BaseException) -> None:
        stopped = isinstance(error, BuildCancelled | KeyboardInterrupt)
        message = "canceled" if stopped else str(error)
        warnings = tuple(self._warnings)
        self.emit(
            BuildCompleted(time=self.clock(), error=message, cancelled=stopped, warnings=warnings)
        )
        if isinstance(error, PybuildError):
            error.warnings = warnings
        if self._recording is not None:
            status = "canceled" if stopped else "error"
            measure = bool(self.request.report)
            told = (message, self._tracked, warnings)
            summary = failure_of(self.store, error, *told, measure=measure)
            self._recording.finish(status, self.clock(), None, summary)

    def _run(self, stack: ExitStack) -> BuildResult:
        outputs = Outputs.of(self.request)  # wrong options end the build before it begins
        shop = stack.enter_context(
            open_workshop(self.request, self.env, self.emit, self.cancelled)
        )
        inputs = stack.enter_context(open_inputs(self.request, shop.input_sources()))
        self._inputs = inputs
        dockerfile, compiled = self._compiled(shop, inputs)
        add_warnings(self._warnings, dockerfile, compiled, inputs)
        self._planned = tuple(self._warnings)
        for warning in self._planned:
            self.emit(warning)
        self._open_contexts(compiled, inputs, shop)
        tracker = self._tracked = self._tracker(compiled)
        check_outputs(outputs, self.request, compiled, self.env)
        graph = BuildGraph(roots=self._roots(compiled))
        shop.graph = graph
        self.emit(
            BuildStarted(
                ref=self.ref,
                steps=step_infos(tracker.steps),
                total=len(graph.vertices),
                time=self.clock(),
            )
        )
        if self.request.dry_run:
            from buildkit_py.engine.dryrun import foresee  # noqa: PLC0415

            return foresee(self.ref, graph, tracker, shop, self._warnings, self.started)
        result = carry_out(
            lambda: self._solve_and_finish(outputs, compiled, tracker, shop),
            shop,
            restart=tracker.restart,
        )
        if self.env.recall is not None:
            self._remember(self.env.recall, inputs, compiled, graph, shop, result)
        return result

    def _solve_and_finish(
        self, outputs: Outputs, compiled: Compiled, tracker: StepTracker, shop: Workshop
    ) -> BuildResult:
        assert shop.graph is not None
        self._exports.clear()
        with open_forwarder(outputs, self.request, compiled, self.env) as forwarder:
            solution = self._solve(shop.graph, tracker, shop, forwarder)
        self.tops = tuple(
            None if image.root is None else solution[image.root.digest].snapshot
            for image in compiled.images
        )
        if self.request.secrets and self.request.scan_secrets:
            from buildkit_py.engine.leaks import refuse_leaks  # noqa: PLC0415

            refuse_leaks(self.store, shop.secrets, compiled, tracker.outcomes_of_steps())
        if self._compare_with is not None:
            from buildkit_py.engine.verify import compare  # noqa: PLC0415

            compare(self.store, self._compare_with, self.tops)
        return self._finish(outputs, compiled, solution, tracker, shop)

    # -------------------------------------------------------------- compiler
    def _compiled(self, shop: Workshop, inputs: BuildInputs) -> tuple[Dockerfile, Compiled]:
        from buildkit_py.dockerfile import parse_leniently  # noqa: PLC0415  (lark comes late)

        dockerfile, problems = parse_leniently(inputs.dockerfile)
        try:
            if problems:
                raise DockerfileErrors(problems)
            return dockerfile, self._compile(dockerfile, shop, inputs)
        except PybuildError:
            options = build_options(self.request, self.env.environment, self.env.host)
            self._warnings += early_warnings(dockerfile, options, inputs)
            raise

    def _compile(self, dockerfile: Dockerfile, shop: Workshop, inputs: BuildInputs) -> Compiled:
        options = build_options(self.request, self.env.environment, self.env.host)
        pin = base_pinner(shop.images, options, pull=self.request.pull)
        compiled = compile_build(dockerfile, options, pin)
        if compiled.plans[0].epoch_source is None:
            return compiled
        from buildkit_py.engine.epochs import settled_options  # noqa: PLC0415

        options = settled_options(options, compiled.plans[0], inputs, shop)
        return compile_build(dockerfile, options, pin)

    def _open_contexts(self, compiled: Compiled, inputs: BuildInputs, shop: Workshop) -> None:
        shop.argument_names = compiled.argument_names
        named = compiled.plans[0].contexts
        names = set().union(*(image.contexts for image in compiled.images))
        for name in names:
            if name == "context":
                shop.add_context(name, inputs.directory, inputs.matcher, keeps_owners=inputs.owned)
                for text in inputs.lacks:
                    shop.warn(text)
                continue
            directory = Path(named[name].value)
            if not directory.is_dir():
                raise UsageError(
                    f"the named context {name} is no directory: {directory}",
                    hint="--build-context NAME=directory, docker-image://…, or a URL",
                )
            shop.add_context(name, directory, directory_matcher(directory))
        epochs = {image.epoch for image in compiled.images} - {None}
        if epochs:
            shop.epoch = next(iter(epochs))

    def _roots(self, compiled: Compiled) -> tuple[Vertex, ...]:
        roots = [image.root for image in compiled.images]
        roots += scanned_roots(self.request, compiled.images)
        return tuple(dict.fromkeys(root for root in roots if root is not None))

    # -------------------------------------------------------------- solver
    def _tracker(self, compiled: Compiled) -> StepTracker:
        steps = [step for image in compiled.images for step in image.steps]
        return StepTracker(
            steps=steps,
            emit=self.emit,
            clock=self.clock,
            parent_of=parents_in(self.store.snapshots),
        )

    def _solve(
        self, graph: BuildGraph, tracker: StepTracker, shop: Workshop, forwarder: Forwarder
    ) -> Solution:
        def observe(vertex: Vertex, result: Result, outcome: Outcome) -> None:
            now = self.clock()
            tracker.vertex_done(
                vertex,
                VertexOutcome(
                    snapshot=result.snapshot,
                    cached=outcome.origin is not Origin.RUN,
                    started=now - outcome.seconds,
                    completed=now,
                    reason=outcome.reason,
                ),
            )
            forwarder.made(vertex, result.snapshot)

        solver = shop.solver(observe)
        try:
            return solver.solve(graph, cancelled=self.cancelled)
        except BuildCancelled as error:
            if self._cancelled_by_timeout:
                message = f"the build timed out after {self.request.timeout:g} s"
                raise PybuildError(message, hint="raise --timeout") from error
            raise

    # -------------------------------------------------------------- results
    def _finish(
        self,
        outputs: Outputs,
        compiled: Compiled,
        solution: Solution,
        tracker: StepTracker,
        shop: Workshop,
    ) -> BuildResult:
        assert self._inputs is not None
        attestor = Attestor(
            inputs=self._inputs,
            shop=shop,
            solution=solution,
            lowered=compiled.images,
            ref=self.ref,
            started=self.started,
        )
        exported = export_all(
            outputs, self.request, compiled, solution, self.env, self._export, attestor.attested
        )
        if self.request.cache_to:
            from buildkit_py.engine.remote_cache import export_caches  # noqa: PLC0415

            export_caches(shop, compiled, solution)
        self._warnings += [BuildWarning(message=text) for text in exported.warnings]
        tracker.finish(exported.image_id)
        self._warnings += shop.warnings
        shop.save()
        sizes = step_sizes(self.store, tracker.finished, measure=bool(self.request.report))
        environment = self.env.environment
        warnings = warnings_metadata(self._warnings, self._inputs.dockerfile, environment)
        result = BuildResult(
            ref=self.ref,
            image_id=exported.image_id,
            digest=exported.digest,
            names=exported.names,
            steps=step_results(tracker.finished, dict(solution.reasons), sizes),
            warnings=tuple(self._warnings),
            seconds=self.clock() - self.started,
            metadata={**exported.metadata, **attestor.metadata(), **warnings},
        )
        write_result_files(self.request, self.env.directory, result)
        keep_steps(self.store.db, tracker.finished, self.clock())
        self.emit(
            BuildCompleted(
                time=self.clock(),
                image_id=result.image_id or "",
                names=result.names,
                warnings=result.warnings,
            )
        )
        return result

    def _remember(
        self,
        key: RecallKey,
        inputs: BuildInputs,
        compiled: Compiled,
        graph: BuildGraph,
        shop: Workshop,
        result: BuildResult,
    ) -> None:
        from buildkit_py.engine.recollection import Finished, remember  # noqa: PLC0415

        build = Finished(
            request=self.request,
            inputs=inputs,
            compiled=compiled,
            graph=graph,
            shop=shop,
            result=result,
            warnings=self._planned,
            said=self._exports,
        )
        remember(build, key)
