"""A front for a predictor, so that predicting never blocks routing."""

from __future__ import annotations

import asyncio
import collections
import concurrent.futures
import contextlib
import hashlib
import threading
import time
from typing import TYPE_CHECKING, Final, Protocol

from irouter._core import IrouterError
from irouter.prediction.answers import Answer, Counts, ServiceOptions, Source
from irouter.prediction.distribution import LengthDistribution
from irouter.prediction.history import HistoryPredictor
from irouter.prediction.monitor import Monitor, Quality
from irouter.prediction.requests import Requests

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from types import TracebackType
    from typing import Self

    import numpy as np
    from numpy.typing import NDArray

    _Quantiles = NDArray[np.float64]

_DIGEST_BYTES: Final = 16


class RequestsPredictor(Protocol):
    """What is behind the front: a predictor of checked requests."""

    def predict_requests(self, requests: Requests) -> LengthDistribution:
        """What is known of the output length of each request."""


class PredictorService:
    """Answers every call within a budget: from the cache, from the model in batches, or from a fallback.

    An `encoder` computes without the interpreter's lock. Calls of a model in Python, such as `tfidf`, take turns with
    other threads.

    One thread of its own runs the model on what waits, the newest first: under overload those are answered that still
    can be in time. Predictions that come late fill the cache. How requests turn out, by :meth:`observe`, teaches the
    fallback, and corrects the model's quantiles when they drift. To be called from threads
    (:meth:`answer`, :meth:`predict`) and from asyncio (:meth:`answer_async`), also at once.

    Args:
        predictor: The model, such as :func:`irouter.prediction.load` returns.
        fallback: Answers when the model does not; learns from what is observed.
        options: Limits.

    Example:
        >>> with PredictorService(HistoryPredictor()) as service:
        ...     answer = service.answer("Translate this.", app="translator")
        ...     service.observe(answer, output_tokens=12)
        >>> answer.lengths.median.shape
        (1,)
    """

    def __init__(
        self,
        predictor: RequestsPredictor,
        *,
        fallback: HistoryPredictor | None = None,
        options: ServiceOptions | None = None,
    ) -> None:
        self.options = options or ServiceOptions()
        self.fallback = fallback or HistoryPredictor()
        self._predictor = predictor
        self._monitors = {"model": Monitor(corrects=True), "fallback": Monitor(corrects=False)}
        self._counted: collections.Counter[str] = collections.Counter()
        self._last_error: Exception | None = None
        self._cache: collections.OrderedDict[bytes, _Quantiles] = collections.OrderedDict()
        self._waiting: collections.OrderedDict[bytes, _Job] = collections.OrderedDict()
        self._running: dict[bytes, _Job] = {}
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="irouter-predictor", daemon=True)
        self._thread.start()

    def answer(self, prompt: str, *, task: str | None = None, app: str | None = None) -> Answer:
        """What is known of a request's output length, within the budget.

        Raises:
            IrouterError: For a prompt that cannot be read, or a service that is closed.
        """
        return self._gather(Requests.check([prompt], [task], [app]))[0]

    async def answer_async(self, prompt: str, *, task: str | None = None, app: str | None = None) -> Answer:
        """As :meth:`answer`, without blocking the event loop."""
        request = Requests.check([prompt], [task], [app])
        found = self._submit(request)
        if isinstance(found, _Job):
            with contextlib.suppress(TimeoutError):
                # What ends is this caller's waiting alone: a job cannot be cancelled.
                await asyncio.wait_for(asyncio.wrap_future(found.future), self.options.budget_ms / 1000)
        return self._finish(request, found)

    def predict(
        self,
        prompts: Sequence[str],
        tasks: Sequence[str | None] | None = None,
        apps: Sequence[str | None] | None = None,
    ) -> LengthDistribution:
        """As :meth:`irouter.prediction.LengthPredictor.predict`, within one budget for all."""
        answers = self._gather(Requests.check(prompts, tasks, apps))
        return LengthDistribution.concatenate([answer.lengths for answer in answers])

    def observe(self, answer: Answer, output_tokens: int, *, cut: bool = False) -> None:
        """Takes in how a request turned out.

        Args:
            answer: What was answered for it.
            output_tokens: Tokens that it produced, at least 1.
            cut: Whether a limit ended it, so that its length is at least this.

        Raises:
            IrouterError: For an output of 0 tokens.
        """
        (prompt,), (task,), (app,) = answer.request.prompts, answer.request.tasks, answer.request.apps
        self.fallback.observe(prompt, output_tokens, task=task, app=app, cut=cut)
        source = "fallback" if answer.source == "fallback" else "model"
        self._monitors[source].observe(answer.raw, answer.lengths, output_tokens, cut=cut)

    @property
    def counts(self) -> Counts:
        """What the service has done so far."""
        with self._changed:
            return Counts(**self._counted)

    @property
    def quality(self) -> dict[str, Quality]:
        """How the newest answers turned out, those of `model` (cached ones among them) and of `fallback`."""
        return {name: monitor.quality for name, monitor in self._monitors.items()}

    @property
    def last_error(self) -> Exception | None:
        """The last error of the model."""
        return self._last_error

    def close(self) -> None:
        """Ends the thread; whoever waits is answered by the fallback."""
        with self._changed:
            self._closed = True
            left = [*self._waiting.values()]
            self._waiting.clear()
            self._changed.notify_all()
        for job in left:
            job.end("shed")
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _gather(self, requests: Requests) -> list[Answer]:
        ends = time.monotonic() + self.options.budget_ms / 1000
        rows = [requests[row : row + 1] for row in range(len(requests))]
        found = [self._submit(row) for row in rows]
        jobs = {job.future for job in found if isinstance(job, _Job)}
        if jobs:
            concurrent.futures.wait(jobs, timeout=max(0.0, ends - time.monotonic()))
        return [self._finish(row, job) for row, job in zip(rows, found, strict=True)]

    def _submit(self, request: Requests) -> _Job | _Quantiles:
        """What the cache has, or the job that will tell."""
        key = _key(request)
        shed: _Job | None = None
        with self._changed:
            if self._closed:
                raise IrouterError("the service is closed, expected an open one")
            self._counted["calls"] += 1
            cached = self._cache.get(key)
            if cached is not None:
                self._cache.move_to_end(key)
                return cached
            job = self._waiting.get(key) or self._running.get(key)
            if job is None:
                job = self._waiting[key] = _Job(request)
                if len(self._waiting) > self.options.most_waiting:
                    _, shed = self._waiting.popitem(last=False)
                self._changed.notify()
        if shed is not None:
            shed.end("shed")
        return job

    def _finish(self, request: Requests, found: _Job | _Quantiles) -> Answer:
        """The answer, from what there is now."""
        source: Source = "cache"
        quantiles: _Quantiles | None = None
        reason = "late"
        if not isinstance(found, _Job):
            quantiles = found
        elif found.future.done():
            source = "model"
            result = found.future.result()
            if isinstance(result, str):
                reason = result
            else:
                quantiles = result
        if quantiles is None:
            source, raw = "fallback", self.fallback.predict_requests(request)
        else:
            raw = LengthDistribution(quantiles)
        with self._changed:
            self._counted[source] += 1
            if source == "fallback":
                self._counted[reason] += 1
        told = raw if source == "fallback" else self._monitors["model"].corrected(raw)
        return Answer(told, source, request, raw)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if self._closed:
                    return
                rows = min(len(self._waiting), self.options.most_rows)
                batch = dict(self._waiting.popitem() for _ in range(rows))
                self._running = batch
            results: list[_Quantiles | str]
            try:
                lengths = self._predictor.predict_requests(_joined(batch.values()))
                results = [lengths.quantiles[row : row + 1].copy() for row in range(rows)]
            except Exception as error:  # noqa: BLE001 - whatever a model does, routing goes on
                self._last_error = error
                results = ["errors"] * rows
            with self._changed:
                self._running = {}
                self._counted["batches"] += 1
                self._counted["rows"] += rows
                for key, result in zip(batch, results, strict=True):
                    if not isinstance(result, str) and self.options.cache_entries:
                        self._cache[key] = result
                        if len(self._cache) > self.options.cache_entries:
                            self._cache.popitem(last=False)
            for job, result in zip(batch.values(), results, strict=True):
                job.end(result)


class _Job:
    """A request that waits for the model; all who ask the same wait for it together."""

    __slots__ = ("future", "request")

    def __init__(self, request: Requests) -> None:
        self.request = request
        self.future: concurrent.futures.Future[_Quantiles | str] = concurrent.futures.Future()
        # From here on nobody can cancel it: it belongs to all who wait for the same prompt.
        self.future.set_running_or_notify_cancel()

    def end(self, result: _Quantiles | str) -> None:
        """Tells quantiles, or why there are none."""
        self.future.set_result(result)


def _joined(jobs: Iterable[_Job]) -> Requests:
    parts = [job.request for job in jobs]
    return Requests(
        tuple(part.prompts[0] for part in parts),
        tuple(part.tasks[0] for part in parts),
        tuple(part.apps[0] for part in parts),
    )


def _key(request: Requests) -> bytes:
    digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    for text in (request.prompts[0], request.tasks[0], request.apps[0]):
        encoded = b"" if text is None else text.encode()
        digest.update(f"{-1 if text is None else len(encoded)}:".encode() + encoded)
    return digest.digest()
