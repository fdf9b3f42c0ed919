"""Stopping at a good place: what arrives is kept, a second Ctrl-C is not."""

import signal
import threading

import pytest

from maskgen.runtime.stop_signals import stop_signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_kept_and_the_handlers_come_back(number):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    said: list[str] = []
    with stop_signals(lambda: said.append("stopping")) as arrived:
        assert not arrived
        signal.raise_signal(number)
        assert arrived == [number] and said == ["stopping"]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_after_a_signal_stops_at_once(first):
    with stop_signals() as arrived:
        signal.raise_signal(first)
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert arrived == [first, signal.SIGTERM]


def test_in_another_thread_no_handler_is_set():
    before, found = signal.getsignal(signal.SIGTERM), []

    def work() -> None:
        with stop_signals() as arrived:
            found.append((signal.getsignal(signal.SIGTERM) == before, arrived))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [(True, [])]
