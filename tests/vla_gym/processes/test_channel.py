"""Messages between the asking side and a worker that may stop in the middle of one."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection

import pytest

from vla_gym.processes.channel import Channel

LARGE = b"x" * (1 << 22)


@pytest.fixture
def ends() -> Iterator[tuple[Channel, Connection]]:
    near, far = socket.socketpair()
    channel, connection = Channel(near), Connection(far.detach())
    yield channel, connection
    channel.close()
    connection.close()


def soon() -> float:
    return time.monotonic() + 20.0


def test_messages_arrive_whole_and_in_order(ends: tuple[Channel, Connection]) -> None:
    channel, connection = ends
    messages = [None, {"a": [1]}, LARGE, "end"]
    echo = threading.Thread(target=lambda: [connection.send(connection.recv()) for _ in messages], daemon=True)
    echo.start()
    for message in messages:
        channel.send(message, soon())
        assert channel.receive(soon()) == message
    echo.join(20)


def test_what_does_not_fit_in_time_is_sent_later(ends: tuple[Channel, Connection]) -> None:
    channel, connection = ends
    with pytest.raises(TimeoutError):
        channel.send(LARGE, time.monotonic())
    received: list[object] = []
    reader = threading.Thread(target=lambda: received.extend(connection.recv() for _ in range(2)), daemon=True)
    reader.start()
    channel.send("end", soon())
    reader.join(20)
    assert received == [LARGE, "end"]


def test_half_a_message_is_kept_until_the_rest_has_come(ends: tuple[Channel, Connection]) -> None:
    channel, connection = ends
    sender = threading.Thread(target=connection.send, args=(LARGE,), daemon=True)
    with pytest.raises(TimeoutError):
        channel.receive(0.0)
    sender.start()
    assert channel.receive(soon()) == LARGE
    sender.join(20)


def test_the_other_sides_end_is_noticed(ends: tuple[Channel, Connection]) -> None:
    channel, connection = ends
    connection.close()
    with pytest.raises(EOFError):
        channel.receive(soon())
    with pytest.raises(OSError):
        channel.send(LARGE, soon())
