"""Spans: the innermost counts, each thread has its own, and nothing is left of them while nobody listens."""

import threading
import time
from contextlib import nullcontext, suppress

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers.fake_cuda import FakeCuda, install
from maskgen.runtime import spans
from maskgen.runtime.spans import Recorder, span, trace


@pytest.fixture
def clock(monkeypatch):
    """A clock that each call of it moves on by nothing, and `clock(n)` by n seconds."""

    class Clock:
        now = 0.0

        def __call__(self, seconds=0.0):
            self.now += seconds
            return self.now

    made = Clock()
    monkeypatch.setattr(time, "perf_counter", made)
    monkeypatch.setattr(time, "process_time", lambda: 2 * made.now)
    return made


@pytest.fixture
def card(monkeypatch) -> FakeCuda:
    return install(monkeypatch)


def test_the_innermost_span_counts(clock):
    clock(1)
    with Recorder() as recorder:
        clock(2)
        with span("outer"):
            clock(3)
            with span("inner"):
                clock(5)
            clock(7)
            with span("outer"):
                clock(11)
        clock(13)
    assert recorder.seconds == {"outer": 21, "inner": 5}
    assert recorder.processor == {"outer": 42, "inner": 10}
    assert recorder.calls == {"outer": 2, "inner": 1}


trees: st.SearchStrategy = st.recursive(
    st.tuples(st.sampled_from("abc"), st.integers(0, 5), st.just([])),
    lambda inner: st.tuples(st.sampled_from("abc"), st.integers(0, 5), st.lists(inner, max_size=3)),
    max_leaves=8,
)


@given(tree=trees, fails=st.booleans())
def test_all_time_is_somebodys(tree, fails):
    now, own = 0, dict.fromkeys("abc", 0)

    def walk(tree):
        nonlocal now
        name, seconds, inner = tree
        with span(name):
            for each in inner:
                walk(each)
            now += seconds
            own[name] += seconds
            if fails and seconds == 5:
                raise ValueError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "perf_counter", lambda: now)
        with Recorder() as recorder, suppress(ValueError):
            walk(tree)
    assert {name: recorder.seconds.get(name, 0) for name in "abc"} == own


def test_nobody_listens():
    assert span("a") is span("b") and isinstance(span("a"), nullcontext)
    with Recorder() as recorder:
        pass
    with span("a"):
        pass
    assert not recorder.seconds and not recorder.calls


def test_who_listens_only_for_a_while(clock):
    early = span("early")
    with early, Recorder() as recorder:
        clock(1)
        late = span("late")
        late.__enter__()
        clock(2)
    clock(4)
    late.__exit__(None, None, None)
    assert recorder.seconds == {"late": 6} and recorder.calls == {"late": 1}
    assert spans.active is None


def test_one_at_a_time():
    with Recorder(), pytest.raises(RuntimeError, match="another recorder"), Recorder():
        pass
    with pytest.raises(ValueError), Recorder():
        raise ValueError
    with Recorder():
        pass


def test_each_thread_has_its_own_spans():
    inside, over = threading.Barrier(2), threading.Barrier(2)

    def other():
        with span("other"):
            inside.wait(5)
            over.wait(5)

    with Recorder() as recorder:
        thread = threading.Thread(target=other)
        thread.start()
        with span("mine"):
            inside.wait(5)
            with span("nested"):
                time.sleep(0.01)
            over.wait(5)
        thread.join(5)
    assert recorder.calls == {"other": 1, "mine": 1, "nested": 1}
    assert recorder.seconds["other"] > recorder.seconds["nested"] >= 0.01, "it is inside none of the others"


def test_a_traced_module_is_a_span_also_where_it_fails(clock):
    class Layer(torch.nn.Module):
        def forward(self, values):
            clock(3)
            if values.numel() == 0:
                raise ValueError("empty")
            return values

    layer = Layer()
    trace(layer, "layer")
    layer(torch.ones(1))
    with Recorder() as recorder, span("outer"):
        layer(torch.ones(1))
        with pytest.raises(ValueError, match="empty"):
            layer(torch.ones(0))
        clock(1)
    assert recorder.seconds == {"layer": 6, "outer": 1} and recorder.calls["layer"] == 2


def test_on_a_gpu_its_own_time_counts(card, clock):
    with Recorder("cuda") as recorder:
        with span("outer"):
            card.spend(1)
            with span("inner"):
                clock(100)
                card.spend(2)
            with span("host", host=True):
                clock(10)
                card.spend(4)
                with span("host too", host=True):
                    clock(1)
            card.spend(8)
        with span("host", host=True):
            clock(20)
        card.spend(16)
    assert recorder.seconds == {"outer": 9, "inner": 2, "host": 30, "host too": 1}


def test_nothing_is_recorded_inside_a_capture(card):
    """The fake's events raise there; and nothing runs, so nothing is counted."""
    graph = torch.cuda.CUDAGraph()
    with Recorder("cuda") as recorder, span("decode"):
        card.spend(1)
        with torch.cuda.graph(graph), span("search"):
            torch.zeros(1)
        card.replay_seconds = 4
        graph.replay()
        graph.replay()
    assert recorder.seconds == {"decode": 9} and recorder.calls == {"decode": 1}


def test_a_long_recording_keeps_few_events(card):
    with Recorder("cuda") as recorder:
        for _ in range(5000):
            with span("step"):
                card.spend(0.5)
        assert len(recorder.pending) <= 1024
    assert recorder.seconds["step"] == pytest.approx(2500)
    assert not recorder.pending
