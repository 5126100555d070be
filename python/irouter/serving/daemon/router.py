"""The router of a process that shares one with others."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from irouter.serving.base_router import BaseRouter
from irouter.serving.daemon.client import RemoteMachine
from irouter.serving.slow_start import Ramp

if TYPE_CHECKING:
    from irouter.serving.face import MachineFace
    from irouter.serving.foresight import Predictor, PredictorFront


class DaemonRouter(BaseRouter):
    """A router whose queue and state are those of `irouter daemon`, with the calls of `irouter.Router`.

    `drain_instance` holds until every client that called it has taken the instance back or is gone. What is said of
    instances while the daemon is away is told to it when it is back.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        predictor: Predictor | PredictorFront | None = None,
        fallback: BaseRouter | None = None,
        timeout_s: float = 1.0,
    ) -> None:
        """Connects to a daemon.

        Args:
            path: Its socket.
            predictor: As for `irouter.Router`; it is asked in this process.
            fallback: A router of this process that takes requests while the daemon is away, those that wait then
                too; without it they get a `DisconnectedError`. It is closed with this one.
            timeout_s: The longest that a call which returns something waits for the daemon; `acquire` waits as long
                as the policy holds.

        Raises:
            DisconnectedError: When there is no daemon.
        """
        super().__init__(predictor, None)
        self._fallback = fallback
        self._remote = RemoteMachine(Path(path), timeout_s=timeout_s)

    @property
    def _machine(self) -> MachineFace:
        if self._fallback is None or self.connected:
            return self._remote
        return self._fallback._machine

    @property
    def connected(self) -> bool:
        """Whether the daemon is there, as far as is known."""
        return self._remote.connected

    def drain_instance(self, url: str) -> None:
        """An instance takes no more requests, and finishes those it has.

        Raises:
            IrouterError: When it is not there.
        """
        self._remote.drain(url)
        if self._fallback is not None:
            self._fallback.drain_instance(url)

    def resume_instance(self, url: str) -> None:
        """An instance takes requests again, as far as this client is concerned.

        Raises:
            IrouterError: When this client has not called `drain_instance`.
        """
        self._remote.resume(url)
        if self._fallback is not None:
            self._fallback.resume_instance(url)

    def take_back_instance(
        self, url: str, *, slow_start_s: float = 0.0, slow_start_share: float = 0.25
    ) -> None:
        """The same; it starts anew, slowly where that is asked for, unless requests are on it or others hold it back.

        Raises:
            IrouterError: When this client has not called `drain_instance`, or for a bad time or share.
        """
        self._remote.take_back(url, Ramp(slow_start_s, slow_start_share))
        if self._fallback is not None:
            self._fallback.take_back_instance(
                url, slow_start_s=slow_start_s, slow_start_share=slow_start_share
            )

    def close(self) -> None:
        """Refuses all that waits and all that comes; the daemon fails the leases that live."""
        self._remote.close()
        if self._fallback is not None:
            self._fallback.close()


def connect(
    path: str | Path,
    *,
    predictor: Predictor | PredictorFront | None = None,
    fallback: BaseRouter | None = None,
    timeout_s: float = 1.0,
) -> DaemonRouter:
    """The router behind the socket of `irouter daemon`; arguments and errors are those of `DaemonRouter`.

    >>> import irouter, tempfile
    >>> irouter.connect(tempfile.gettempdir() + "/no-daemon.sock")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    irouter.serving.errors.DisconnectedError: no daemon at ...
    """
    return DaemonRouter(path, predictor=predictor, fallback=fallback, timeout_s=timeout_s)
