"""The connection of a client to its daemon: one socket, and a thread that reads it and connects again."""

from __future__ import annotations

import contextlib
import logging
import queue
import random
import selectors
import socket
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any, Final

from irouter.serving.daemon.wire import MOST_UNREAD_BYTES, PROTOCOL, Lines, Message, WireError, encode
from irouter.serving.errors import DisconnectedError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

# An idle connection is asked for a sign of life this often; one that is silent for so long is lost.
_PING_S: Final = 1.0
_SILENCE_S: Final = 5.0
_FIRST_DELAY_S: Final = 0.02
_LONGEST_DELAY_S: Final = 2.0
_READ_BYTES: Final = 1 << 18


class Link:
    """Sends from any thread, and calls its owner from a thread of its own.

    The owner's lock guards what is sent and the moment of connecting anew, so that nothing comes between what
    the owner repeats then and what it sends next. The owner may be collected while the thread sleeps.
    """

    def __init__(
        self,
        path: Path,
        lock: threading.Lock,
        *,
        received: Callable[[Message], None],
        up: Callable[[Message], list[Message]],
        down: Callable[[str], None],
        left: Callable[..., None],
    ) -> None:
        """Makes a link that is not connected.

        Args:
            path: The daemon's socket.
            lock: The owner's lock.
            received: Called with each message.
            up: Called with the daemon's greeting and the lock held, whenever it is connected; returns what to send
                before all else.
            down: Called with a reason when the connection is lost.
            left: Called with what was left by `leave`.
        """
        self._path, self._lock = path, lock
        self._received, self._up = weakref.WeakMethod(received), weakref.WeakMethod(up)
        self._down, self._left = weakref.WeakMethod(down), weakref.WeakMethod(left)
        self._inbox: queue.SimpleQueue[tuple[Any, ...]] = queue.SimpleQueue()
        self._bell, self._hammer = socket.socketpair()
        for end in (self._bell, self._hammer):
            end.setblocking(False)  # noqa: FBT003 - of the standard library
        self._socket: socket.socket | None = None
        self._lines = Lines()
        self._early: list[Message] = []
        self._unsent = b""
        self._closing = threading.Event()

    def open(self, timeout_s: float) -> None:
        """Connects for the first time.

        Raises:
            DisconnectedError: When there is no daemon.
        """
        try:
            self._connect(timeout_s)
        except DisconnectedError:
            self.abandon()
            raise
        threading.Thread(target=self._run, name="irouter-daemon-link", daemon=True).start()

    @property
    def connected(self) -> bool:
        """Whether there is a daemon now, as far as is known."""
        return self._socket is not None

    def send(self, message: Message) -> bool:
        """Sends with the owner's lock held; says whether there was somebody to send to."""
        if self._socket is None:
            return False
        data = encode(message)
        if not self._unsent:
            try:
                data = data[self._socket.send(data, socket.MSG_DONTWAIT) :]
            except BlockingIOError:
                pass
            except OSError:
                return False  # the thread sees it too
        if data:
            self._unsent += data
            self._ring()
        return True

    def leave(self, *arguments: Any) -> None:
        """Leaves something for the thread to tell the owner; takes no lock, so that finalisers may call it."""
        self._inbox.put(arguments)
        self._ring()

    def close(self) -> None:
        """Ends the thread and the connection; takes no lock."""
        self._closing.set()
        self._ring()

    def abandon(self) -> None:
        """Closes what it has, where its thread does not run: before it was started, or in a process that was forked."""
        self._closing.set()
        for end in (self._socket, self._bell, self._hammer):
            if end is not None:
                end.close()
        self._socket = None

    def _ring(self) -> None:
        with contextlib.suppress(OSError):  # it rings already, or is closed
            self._hammer.send(b"!")

    def _connect(self, timeout_s: float) -> None:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(timeout_s)
        lines = Lines()
        try:
            connection.connect(str(self._path))
            greeting, *early = _greeting(connection, lines)
        except (OSError, WireError) as error:
            connection.close()
            reason = getattr(error, "strerror", None) or error
            raise DisconnectedError(f"no daemon at {self._path}: {reason}") from error
        connection.settimeout(0)
        up = self._up()
        with self._lock:
            self._unsent = b"".join(map(encode, up(greeting))) if up is not None else b""
            self._socket, self._lines, self._early = connection, lines, early
        self._ring()

    def _run(self) -> None:
        while not self._closing.is_set():
            reason = self._listen()
            with self._lock:
                if self._socket is not None:
                    self._socket.close()
                self._socket, self._unsent = None, b""
            down = self._down()
            if self._closing.is_set() or down is None:
                break
            _call(down, reason)
            # Neither the owner may live on in this frame while the thread sleeps.
            del down
            delay_s = _FIRST_DELAY_S
            while not self._closing.is_set() and self._socket is None:
                # Jitter, so that the clients of a daemon that died do not come back together.
                self._closing.wait(delay_s * random.uniform(0.5, 1.5))  # noqa: S311 - no secret
                delay_s = min(2 * delay_s, _LONGEST_DELAY_S)
                self._tell_left()
                try:
                    self._connect(_SILENCE_S)
                except DisconnectedError:
                    continue
        self._tell_left()
        self._bell.close()
        self._hammer.close()

    def _listen(self) -> str:
        """Reads until the connection is lost; why it is."""
        connection = self._socket
        if connection is None:
            return "it is not connected"
        heard_s = time.monotonic()
        try:
            self._hand_over(self._early)
            with selectors.DefaultSelector() as selector:
                selector.register(self._bell, selectors.EVENT_READ)
                selector.register(connection, selectors.EVENT_READ)
                while not self._closing.is_set():
                    wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._unsent else 0)
                    selector.modify(connection, wanted)
                    ready = {key.fileobj: mask for key, mask in selector.select(_PING_S)}
                    self._tell_left()
                    if self._bell in ready:
                        _silence(self._bell)
                    if ready.get(connection, 0) & selectors.EVENT_READ:
                        self._hand_over(self._lines.feed(_read(connection)))
                        heard_s = time.monotonic()
                    self._speak(connection, time.monotonic() - heard_s)
        except (OSError, WireError) as error:
            return str(error)
        return "the client was closed"

    def _speak(self, connection: socket.socket, silent_s: float) -> None:
        """Sends what waits, and asks for a sign of life."""
        if silent_s > _SILENCE_S:
            raise WireError(f"it was silent for {silent_s:.1f} s")
        with self._lock:
            if silent_s >= _PING_S:
                self.send(["ping"])
            if len(self._unsent) > MOST_UNREAD_BYTES:
                raise WireError(f"it does not read: {len(self._unsent)} bytes wait")
            if self._unsent:
                with contextlib.suppress(BlockingIOError):
                    self._unsent = self._unsent[connection.send(self._unsent) :]

    def _hand_over(self, messages: list[Message]) -> None:
        """Gives messages to the owner."""
        for message in messages:
            received = self._received()
            if received is None:
                raise WireError("nobody listens any more")
            _call(received, message)

    def _tell_left(self) -> None:
        while True:
            try:
                arguments = self._inbox.get_nowait()
            except queue.Empty:
                return
            left = self._left()
            if left is not None:
                _call(left, *arguments)


def _greeting(connection: socket.socket, lines: Lines) -> list[Message]:
    """The daemon's first messages."""
    messages: list[Message] = []
    while not messages:
        messages = lines.feed(_read(connection))
    if messages[0][:2] != ["hello", PROTOCOL]:
        raise WireError(f"it said {messages[0]!r:.60}, expected protocol {PROTOCOL}")
    return messages


def _read(connection: socket.socket) -> bytes:
    data = connection.recv(_READ_BYTES)
    if not data:
        raise WireError("it hung up")
    return data


def _silence(bell: socket.socket) -> None:
    with contextlib.suppress(BlockingIOError):
        while bell.recv(4096):
            pass


def _call(method: Callable[..., object], *arguments: object) -> None:
    """Calls a method of the owner: whatever it raises, the next message has to be read too."""
    try:
        method(*arguments)
    except Exception:
        logging.getLogger("irouter").exception("a message of the daemon failed")
