"""Which kernels a piece of work runs, and for how long."""

from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from card.record import Record

ROWS = 14
_ATTENTION = "aten::_scaled_dot_product_"


def profiled(name: str, work: Callable[[], object], device: torch.device, record: Record) -> None:
    """A table of the longest kernels (on a CPU: operations) of one call, and of the attention that each shape
    got."""
    on_card = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_card else [])]
    work()
    with profile(activities=activities, record_shapes=True) as found:
        work()
        if on_card:
            torch.cuda.synchronize(device)
    attribute = "self_device_time_total" if on_card else "self_cpu_time_total"
    events = sorted(found.key_averages(), key=lambda event: -getattr(event, attribute))
    events = [event for event in events if not on_card or event.device_type.name == "CUDA"]
    whole = sum(getattr(event, attribute) for event in events)
    record.figure(f"{name}: time in kernels", whole / 1e3, "ms", f"{sum(e.count for e in events):,} launches")
    rows = [
        f"{getattr(event, attribute) / 1e3:9.3f} ms {getattr(event, attribute) / max(whole, 1e-9):6.1%} "
        f"{event.count:6d} x {event.key[:100]}"
        for event in events[:ROWS]
    ]
    record.table(f"{name}: the longest kernels", rows)
    record.table(f"{name}: attention by shape", _attention(found))


def _attention(found: Any) -> list[str]:
    """Backend and shapes of queries, keys and values of each scaled_dot_product_attention."""
    rows = []
    for event in found.key_averages(group_by_input_shape=True):
        if event.key.startswith(_ATTENTION) and "backward" not in event.key:
            shapes = ", ".join(str(list(shape)) for shape in event.input_shapes[:3])
            rows.append(f"{event.count:6d} x {event.key.removeprefix(_ATTENTION):<28} {shapes}")
    return rows or ["none"]
