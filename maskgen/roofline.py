"""A roofline of real code without a device: every operation costed by FLOPs, bytes and launches.

The code runs on tensors without values (`FakeTensorMode`). An operation takes as long as the slowest of
three: its products at the device's rate, its reads and writes at the memory's, its launches. They add up:
nothing overlaps. What is read from a cache costs like memory, so the figure is good to some 30 %; of use is
what a change does to it.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


@dataclass(frozen=True)
class Ceilings:
    """What a device reaches, by default an H100. FLOP/s of products in half precision and in float32 (without
    TF32); bytes a second; seconds between two kernels of a stream. `attention`: FLOP/s of a fused attention
    by its kernel; its backward reaches `attention_backward`.
    """

    half: float = 620e12
    single: float = 42e12
    bandwidth: float = 2.7e12
    launch: float = 2.2e-6
    cudnn: float = 400e12
    flash: float = 330e12
    efficient: float = 140e12
    attention_backward: float = 330e12

    def products(self, dtype: torch.dtype) -> float:
        """FLOP/s of matrix products in `dtype`."""
        return self.half if dtype in (torch.bfloat16, torch.float16) else self.single


@dataclass
class Cost:
    """What some operations cost: seconds, FLOPs (2 for a multiply-add), bytes read and written, launches."""

    seconds: float = 0.0
    flops: float = 0.0
    bytes: float = 0.0
    launches: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            self.seconds + other.seconds,
            self.flops + other.flops,
            self.bytes + other.bytes,
            self.launches + other.launches,
        )


def total(costs: Iterable[Cost]) -> Cost:
    """All of them together."""
    return sum(costs, Cost())


class Roofline:
    """Costs what runs inside, as a context manager.

    `parts`: by part, then by operation; what runs outside a `part` counts for "". Attention is costed by the
    kernel that PyTorch would choose on an H100, and runs as none of them.
    """

    def __init__(self, ceilings: Ceilings | None = None):
        self.ceilings = ceilings or Ceilings()
        self.parts: defaultdict[str, defaultdict[str, Cost]] = defaultdict(lambda: defaultdict(Cost))
        self._part = ""
        self._modes = ExitStack()
        self._paused = False

    def __enter__(self) -> "Roofline":
        self._modes.enter_context(_Operations(self))
        self._modes.enter_context(_Attentions(self))
        # The backward pass must see the modes, which belong to this thread.
        self._modes.enter_context(torch.autograd.set_multithreading_enabled(False))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._modes.close()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """What runs inside is this part's."""
        before, self._part = self._part, name
        try:
            yield
        finally:
            self._part = before

    def cost(self, part: str = "") -> Cost:
        """Of one part."""
        return total(self.parts[part].values())

    def largest(self, count: int, parts: Iterable[str] = ("",)) -> list[tuple[str, Cost]]:
        """The operations that take longest, in these parts together."""
        found: defaultdict[str, Cost] = defaultdict(Cost)
        for part in parts:
            for name, cost in self.parts[part].items():
                found[name] += cost
        return sorted(found.items(), key=lambda each: -each[1].seconds)[:count]

    def add(self, name: str, cost: Cost) -> None:
        """Count an operation for the present part."""
        if not self._paused:
            self.parts[self._part][name] += cost

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Nothing is counted inside."""
        before, self._paused = self._paused, True
        try:
            yield
        finally:
            self._paused = before


@contextmanager
def saved_for_backward(weights: Iterable[torch.Tensor]) -> Iterator[dict[int, int]]:
    """What autograd keeps of the forward pass inside, without `weights`: bytes by storage."""
    own = {weight.untyped_storage()._cdata for weight in weights}  # noqa: SLF001
    kept: dict[int, int] = {}
    alive = []  # or another storage would get its address

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:  # noqa: SLF001
            kept[storage._cdata] = storage.nbytes()  # noqa: SLF001
            alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield kept


def attention_kernel(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None
) -> str:
    """The kernel that PyTorch chooses for (..., L, d) queries, keys and values on an H100."""
    wide, deep = query.shape[-1], value.shape[-1]
    half = query.dtype in (torch.bfloat16, torch.float16)
    if half and max(wide, deep) <= 128 and wide % 8 == deep % 8 == 0 and key.shape[-2] > 1:
        return "cudnn"
    if half and mask is None and wide == deep <= 256:
        return "flash"
    aligned = 8 if half else 4
    return "efficient" if wide % aligned == deep % aligned == 0 else "math"


# Views and memory alone: nothing runs.
_FREE = frozenset(
    {
        *("empty", "empty_like", "empty_strided", "empty_permuted", "new_empty", "new_empty_strided"),
        *("detach", "alias", "_unsafe_view", "_reshape_alias", "lift_fresh", "split", "split_with_sizes"),
        *("unbind", "resize_", "set_", "is_same_size", "_local_scalar_dense"),
    }
)
_FILLS = frozenset(
    {
        *("zero_", "fill_", "zeros", "zeros_like", "ones", "ones_like", "full", "full_like", "arange"),
        *("new_zeros", "new_ones", "new_full", "eye", "scalar_tensor"),
    }
)
_PICKS = frozenset({"index_select", "gather", "index", "embedding"})
_PUTS = frozenset({"index_copy_", "index_fill_", "index_put_", "index_add_", "scatter_add_"})
_SEVERAL = {"topk": 3, "sort": 4, "argsort": 4, "nonzero": 3}  # launches of one call
# A depthwise convolution is bound by memory, and reads its window more than once.
_DEPTHWISE_READS = 2.0


class _Operations(TorchDispatchMode):
    """Every operation that launches something."""

    def __init__(self, roofline: Roofline):
        super().__init__()
        self._roofline = roofline

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        out = func(*args, **kwargs)
        name = str(func._overloadpacket).removeprefix("aten.")  # noqa: SLF001
        if not func.is_view and name not in _FREE and func.namespace == "aten":
            self._roofline.add(*self._cost(name, func._overloadpacket, args, kwargs, out))  # noqa: SLF001
        return out

    def _cost(
        self, name: str, packet: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any
    ) -> tuple[str, Cost]:
        ceilings, read, written = self._roofline.ceilings, [*_tensors((args, kwargs))], [*_tensors(out)]
        flops = 0.0
        if packet in flop_registry and name != "convolution_backward":
            flops = float(flop_registry[packet](*args, **kwargs, out_val=out))
        if name in _FILLS:
            moved = float(_bytes(written))
        elif name in _PICKS:
            moved = 2 * _bytes(written)
        elif name in _PUTS:
            moved = 2 * _bytes(read[1:])
        else:
            moved = _bytes(read) + _bytes(written)
        if name == "convolution_backward":
            flops = _convolution_backward(args)
        if name.startswith("convolution") and args[-1 if name == "convolution" else -2] > 1:
            name, flops, moved = f"depthwise {name}", 0.0, moved * _DEPTHWISE_READS
        kind = next((tensor.dtype for tensor in written if tensor.is_floating_point()), torch.float32)
        launches = _SEVERAL.get(name, max(1, len(written) // 8 if name.startswith("_foreach") else 1))
        seconds = max(flops / ceilings.products(kind), moved / ceilings.bandwidth, launches * ceilings.launch)
        return name, Cost(seconds, flops, moved, launches)


def _convolution_backward(args: tuple[Any, ...]) -> float:
    """Each gradient that is wanted costs what the forward did."""
    grad, weight, wanted = args[0], args[2], args[-1]
    return 2.0 * grad.numel() // grad.shape[1] * weight.numel() * (bool(wanted[0]) + bool(wanted[1]))


class _Attentions(TorchFunctionMode):
    """`scaled_dot_product_attention`, as a whole."""

    def __init__(self, roofline: Roofline):
        super().__init__()
        self._roofline = roofline

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is not F.scaled_dot_product_attention:
            return func(*args, **kwargs)
        return self._attention(*args, **kwargs)

    def _attention(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attn_mask: torch.Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        **_: Any,
    ) -> torch.Tensor:
        if torch.is_autocast_enabled(query.device.type):
            dtype = torch.get_autocast_dtype(query.device.type)
            query, key, value = (part.to(dtype) for part in (query, key, value))
        out: torch.Tensor = _CostedAttention.apply(self._roofline, query, key, value, attn_mask, is_causal)
        return out


class _CostedAttention(torch.autograd.Function):
    """Shapes and costs of an attention, no arithmetic."""

    @staticmethod
    def forward(
        ctx: Any,
        roofline: Roofline,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        causal: bool,
    ) -> torch.Tensor:
        with roofline.paused():
            out = query.new_empty(*query.shape[:2], query.shape[2], value.shape[-1])
            out = out.transpose(1, 2).contiguous().transpose(1, 2)  # heads inside, as the kernels write
        kernel = attention_kernel(query, key, value, mask)
        pairs = query.shape[0] * query.shape[1] * query.shape[2] * key.shape[2] * (0.5 if causal else 1.0)
        flops = 2.0 * pairs * (query.shape[-1] + value.shape[-1])
        moved: float = _bytes([query, key, value, out, *([] if mask is None else [mask])])
        ceilings = roofline.ceilings
        if kernel == "math":
            # In float32: scores written, read, normalised, read again; halves are widened before.
            widened = 0 if query.dtype == torch.float32 else 4 * _bytes([query, key, value, out])
            moved += 4 * 4 * pairs + widened
            cost = Cost(moved / ceilings.bandwidth + flops / ceilings.single, flops, moved, 10)
        else:
            rate = {"cudnn": ceilings.cudnn, "flash": ceilings.flash, "efficient": ceilings.efficient}[kernel]
            if query.dtype == torch.float32:
                rate = min(rate, ceilings.single)
            # Keys reach some two thirds of the memory's rate; a kernel has a beginning and an end.
            cost = Cost(max(moved / ceilings.bandwidth / 0.65, flops / rate, 6e-6), flops, moved, 1)
        roofline.add(f"attention, {kernel}", cost)
        ctx.save_for_backward(query, key, value, out)
        ctx.roofline, ctx.flops, ctx.moved = roofline, flops, moved
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        roofline, ceilings = ctx.roofline, ctx.roofline.ceilings
        query, key, value, _ = ctx.saved_tensors
        flops, moved = 2.5 * ctx.flops, 2.5 * ctx.moved  # five products for the forward's two
        seconds = max(moved / ceilings.bandwidth, flops / ceilings.attention_backward, 15e-6)
        roofline.add("attention, backward", Cost(seconds, flops, moved, 3))
        with roofline.paused():
            return (
                None,
                torch.empty_like(query),
                torch.empty_like(key),
                torch.empty_like(value),
                None,
                None,
            )


def _tensors(tree: Any) -> Iterator[torch.Tensor]:
    if isinstance(tree, torch.Tensor):
        yield tree
    elif isinstance(tree, (list, tuple)):
        for each in tree:
            yield from _tensors(each)
    elif isinstance(tree, dict):
        yield from _tensors(list(tree.values()))


def _bytes(tensors: Iterable[torch.Tensor]) -> int:
    """What lies in memory: an expanded axis once."""
    found = 0
    for tensor in tensors:
        count = 1
        for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
            count *= size if stride else 1
        found += count * tensor.element_size()
    return found
