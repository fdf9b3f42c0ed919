"""Ctrl-C and SIGTERM as a request to stop at the next good place."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import current_thread, main_thread
from types import FrameType
from typing import Any


@contextmanager
def stop_signals(on_signal: Callable[[], None] | None = None) -> Iterator[list[int]]:
    """The list of the SIGINTs and SIGTERMs that have arrived, which the work looks at when it can stop.

    `on_signal` is called at each. A second Ctrl-C raises KeyboardInterrupt at once. Outside the main thread,
    where Python sets no handlers, the list stays empty: whoever started the thread stops it.
    """
    arrived: list[int] = []

    def handle(number: int, _: FrameType | None) -> None:
        if arrived and number == signal.SIGINT:
            raise KeyboardInterrupt
        arrived.append(number)
        if on_signal:
            on_signal()

    before: dict[int, Any] = {}
    if current_thread() is main_thread():
        before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield arrived
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
