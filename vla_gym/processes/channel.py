"""Messages to and from a worker process, with deadlines for sending and receiving."""

from __future__ import annotations

import pickle
import select
import socket
import struct
import time
from multiprocessing.reduction import ForkingPickler
from typing import Any

_CHUNK = 1 << 20
_LARGEST_SHORT = 0x7FFFFFFF


class Channel:
    """
    Exchange messages with a process that may stop in the middle of one.

    The other end is a ``multiprocessing.connection.Connection``; the framing is the same: length as a signed 32-bit
    integer, or -1 and an unsigned 64-bit one. A call that is interrupted or times out loses nothing: the rest of a
    message is sent before the next one, and bytes that have arrived are kept.

    :param end: one end of a pair of connected stream sockets
    """

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._socket = end
        self._outgoing = bytearray()
        self._incoming = bytearray()

    def fileno(self) -> int:
        """Return the file descriptor, which is readable when there is something to receive."""
        return self._socket.fileno()

    def send(self, message: Any, deadline: float) -> None:
        """
        Send an object.

        :param message: what can be pickled
        :param deadline: as ``time.monotonic`` counts (s)
        :raises TimeoutError: if the other side did not take all of it in time
        :raises OSError: if the other side is gone
        """
        body = ForkingPickler.dumps(message)
        size = len(body)
        self._outgoing += struct.pack("!i", size) if size <= _LARGEST_SHORT else struct.pack("!iQ", -1, size)
        self._outgoing += body
        while self._outgoing:
            try:
                sent = self._socket.send(memoryview(self._outgoing)[:_CHUNK])
                del self._outgoing[:sent]
            except BlockingIOError:
                self._wait(select.POLLOUT, deadline)

    def receive(self, deadline: float) -> Any:
        """
        Receive an object; one that has arrived is returned even after the deadline.

        :param deadline: as ``time.monotonic`` counts (s)
        :return: the object
        :raises TimeoutError: if none was complete in time
        :raises EOFError: if the other side is gone
        :raises OSError: if the connection is broken
        """
        while (message := self._next_message()) is None:
            try:
                data = self._socket.recv(_CHUNK)
            except BlockingIOError:
                self._wait(select.POLLIN, deadline)
                continue
            if not data:
                raise EOFError
            self._incoming += data
        return pickle.loads(message)

    def close(self) -> None:
        """Close this end."""
        self._socket.close()

    def _next_message(self) -> bytes | None:
        start, size = 4, -1
        if len(self._incoming) >= start:
            (size,) = struct.unpack_from("!i", self._incoming)
        if size == -1:
            start = 12
            if len(self._incoming) < start:
                return None
            (size,) = struct.unpack_from("!Q", self._incoming, 4)
        if len(self._incoming) < start + size:
            return None
        message = bytes(memoryview(self._incoming)[start : start + size])
        del self._incoming[: start + size]
        return message

    def _wait(self, event: int, deadline: float) -> None:
        seconds = deadline - time.monotonic()
        if seconds <= 0.0:
            raise TimeoutError
        poll = select.poll()
        poll.register(self._socket, event)
        poll.poll(1000.0 * min(seconds, 3600.0))
