"""Floating-point operations, counted on meta tensors: nothing is computed and no weight takes memory."""

from collections.abc import Callable

from torch.utils.flop_counter import FlopCounterMode


def counted(work: Callable[[], object]) -> float:
    """FLOPs (2 for a multiply-add) of the matrix products, convolutions and attentions in `work`."""
    with FlopCounterMode(display=False) as counter:
        work()
    return float(counter.get_total_flops())
