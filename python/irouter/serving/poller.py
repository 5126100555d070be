"""Reads the metrics of engines, where that is allowed, and reports them to a router."""

from __future__ import annotations

import concurrent.futures
import logging
import math
import threading
import time
import urllib.request
from typing import TYPE_CHECKING, Any, Final, Self

from irouter._core import IrouterError
from irouter.serving.engine_metrics import EngineFigures, read_engine_metrics

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping
    from types import TracebackType

    from irouter.serving.base_router import BaseRouter

_LOGGER: Final = logging.getLogger("irouter.serve")
_LARGEST_PAGE_BYTES: Final = 8 << 20
_AT_A_TIME: Final = 8
# After so many failures in a row the last report of an engine is forgotten.
_FAILURES: Final = 3


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """An engine has no business sending this process elsewhere."""


class MetricsPoller:
    """Asks every instance of a router for `/metrics`, from threads of its own, until it is closed.

    vLLM and SGLang are understood, under old names and new. A report is as old as its answer took: one that took
    longer than `timeout_s` is none. After three that failed in a row the router is told that the engine does
    not report any more, which also stands in the log.

    >>> import irouter
    >>> router = irouter.Router(["http://a:8000"], profile="llama-3.1-8b@h100")
    >>> with MetricsPoller(router, interval_s=2.0):
    ...     pass
    """

    def __init__(
        self,
        router: BaseRouter,
        *,
        interval_s: float = 1.0,
        timeout_s: float = 1.0,
        headers: Mapping[str, str] | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """Starts to poll.

        Args:
            router: Whose instances are asked, and who is told.
            interval_s: Seconds from one round to the next.
            timeout_s: The longest that an engine may take.
            headers: Sent to every engine, such as the key that it asks for.
            tls: How engines with https are known; by the certificates of the system without it.

        Raises:
            IrouterError: For seconds that are not positive.
        """
        for name, value in (("interval_s", interval_s), ("timeout_s", timeout_s)):
            if not (value > 0 and math.isfinite(value)):
                raise IrouterError(f"{name} is {value}, expected a positive number of seconds")
        self._router = router
        self._interval_s, self._timeout_s = interval_s, timeout_s
        self._headers = dict(headers or {})
        self._opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=tls), _NoRedirect
        )
        self._failures: dict[str, int] = {}
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="irouter-poller", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends the polling."""
        self._closing.set()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self) -> None:
        with concurrent.futures.ThreadPoolExecutor(_AT_A_TIME, "irouter-poll") as pool:
            while not self._closing.is_set():
                started_s = time.monotonic()
                try:
                    urls = [entry.url for entry in self._router.instances if entry.status != "gone"]
                    self._failures = {url: self._failures.get(url, 0) for url in urls}
                    list(pool.map(self._poll, urls))
                except IrouterError as error:
                    _LOGGER.warning("not_polled", extra={"fields": {"reason": str(error)}})
                self._closing.wait(max(0.0, started_s + self._interval_s - time.monotonic()))

    def _poll(self, url: str) -> None:
        try:
            self._router.report(url, **self._read(url))
        except (OSError, ValueError, IrouterError) as error:
            self._failures[url] += 1
            if self._failures[url] == _FAILURES:
                fields = {"instance": url, "reason": str(error)}
                _LOGGER.warning("no_engine_metrics", extra={"fields": fields})
                self._router.report_lost(url)
        else:
            self._failures[url] = 0

    def _read(self, url: str) -> EngineFigures:
        started_s = time.monotonic()
        request = urllib.request.Request(url + "/metrics", headers=self._headers)  # noqa: S310 - checked when it joined
        with self._opener.open(request, timeout=self._timeout_s) as answer:
            page = answer.read(_LARGEST_PAGE_BYTES).decode("utf-8", "replace")
        if time.monotonic() - started_s > self._timeout_s:
            raise TimeoutError(f"the page took longer than {self._timeout_s:g} s")
        return read_engine_metrics(page)
