"""The cross-attention layer: text asks, the image answers (Section 3.2.1, Eq. 2)."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import LlamaConfig
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm

from maskgen.age_vlm.configuration import AgeVlmConfig


class Asking:
    """Which tokens' attention is wanted: those of the query t_q, of the rows that have a mask.

    `rows`: int64 (G,), their place in the batch. `tokens`: int64 (G, Q), the query tokens' places, filled up;
    `there`: bool (G, Q), which of them are meant.
    """

    def __init__(self, query_mask: torch.Tensor, guided: torch.Tensor):
        """`query_mask`: bool (B, T). `guided`: bool (B,)."""
        self.rows = guided.nonzero()[:, 0]
        mask = query_mask[self.rows]
        longest = int(mask.sum(dim=1).max()) if len(mask) else 0
        order = mask.to(torch.uint8).argsort(dim=1, descending=True, stable=True)
        self.tokens = order[:, :longest]
        self.there = mask.gather(1, self.tokens)

    @classmethod
    def each(cls, query_mask: torch.Tensor) -> "Asking":
        """Every token of `query_mask`, bool (B, T), for itself: a map a token, row after row."""
        asking = cls(query_mask[:0], query_mask.new_zeros(0, dtype=torch.bool))
        asking.rows, tokens = query_mask.nonzero(as_tuple=True)
        asking.tokens = tokens[:, None]
        asking.there = torch.ones_like(asking.tokens, dtype=torch.bool)
        return asking


def mean_attention(
    query: torch.Tensor, key: torch.Tensor, there: torch.Tensor, allowed: torch.Tensor | None
) -> torch.Tensor:
    """A_l^q of Section 3.2.2: softmax(q k^T / sqrt(d)), averaged over heads and the query's tokens.

    `query`: (G, heads, Q, d); `key`: (G, key heads, N, d), heads sharing keys as in LLaMA; `there`: bool (G,
    Q); `allowed`: bool (G, N), keys that may be attended to, or None for all. Returns float32 (G, N); a row
    without a query token is zero. Computed in float32 whatever the inputs' type.
    """
    groups = query.shape[1] // key.shape[1]
    with torch.autocast(query.device.type, enabled=False):
        grouped = query.float().unflatten(1, (key.shape[1], groups))
        scores = grouped @ key.float().unsqueeze(2).transpose(-1, -2) * query.shape[-1] ** -0.5
        if allowed is not None:
            scores = scores.masked_fill(~allowed[:, None, None, None], float("-inf"))
        weights = scores.softmax(dim=-1).mean(dim=(1, 2))
        share = there.float() / there.sum(dim=1, keepdim=True).clamp(min=1)
        return (weights * share[..., None]).sum(dim=1)


class Closed(nn.Linear):
    """A last projection that starts at zero: the wrapped LLaMA starts out exactly as it was."""


class CrossAttention(nn.Module):
    """Multi-head attention from text states to image states, with LLaMA's heads and no positions."""

    def __init__(self, config: LlamaConfig):
        super().__init__()
        width, heads = config.hidden_size, config.num_attention_heads
        self.head_dim = getattr(config, "head_dim", None) or width // heads
        self.groups = heads // config.num_key_value_heads
        self.q_proj = nn.Linear(width, heads * self.head_dim, bias=False)
        self.k_proj = nn.Linear(width, config.num_key_value_heads * self.head_dim, bias=False)
        self.v_proj = nn.Linear(width, config.num_key_value_heads * self.head_dim, bias=False)
        self.o_proj = Closed(heads * self.head_dim, width, bias=False)

    def seen(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values, (B, key heads, N, d) each, of image states (B, N, width)."""
        return self._heads(self.k_proj(image)), self._heads(self.v_proj(image))

    def forward(
        self,
        hidden: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        allowed: torch.Tensor | None,
        asking: Asking | None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """`hidden` (B, T, width), `allowed` bool (B, N) or None, to (B, T, width) and, if asked, (G, N)."""
        query = self._heads(self.q_proj(hidden))
        mask = None if allowed is None else allowed[:, None, None]
        all_keys, all_values = (part.repeat_interleave(self.groups, dim=1) for part in (key, value))
        attended = F.scaled_dot_product_attention(query, all_keys, all_values, attn_mask=mask)
        out = self.o_proj(attended.transpose(1, 2).flatten(2))
        if asking is None:
            return out, None
        # Recomputed for the masked rows' query tokens alone: the forward never holds all T x N weights.
        chosen = asking.tokens[:, None, :, None].expand(-1, query.shape[1], -1, self.head_dim)
        some = query[asking.rows].gather(2, chosen)
        keys = key[asking.rows]
        keep = None if allowed is None else allowed[asking.rows]
        if torch.is_grad_enabled():
            return out, checkpoint(mean_attention, some, keys, asking.there, keep, use_reentrant=False)
        return out, mean_attention(some, keys, asking.there, keep)

    def _heads(self, states: torch.Tensor) -> torch.Tensor:
        return states.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)


class CrossAttentionLayer(GradientCheckpointingLayer):
    """H + CA(norm(H), I'), then + MLP(norm(.)) (Eq. 2); with the projections at zero it changes nothing.

    Rows without an image pass unchanged, to the bit.
    """

    def __init__(self, config: AgeVlmConfig):
        super().__init__()
        text = config.text_config
        self.input_layernorm = LlamaRMSNorm(text.hidden_size, eps=text.rms_norm_eps)
        self.cross_attn = CrossAttention(text)
        self.gated = config.gate == "tanh"
        if self.gated:
            self.attn_gate = nn.Parameter(torch.zeros(1))
        self.mlp: LlamaMLP | None = None
        if config.cross_mlp == "own":
            self.post_attention_layernorm = LlamaRMSNorm(text.hidden_size, eps=text.rms_norm_eps)
            self.mlp = LlamaMLP(text)
            self.mlp.down_proj = Closed(text.intermediate_size, text.hidden_size, bias=text.mlp_bias)
            if self.gated:
                self.mlp_gate = nn.Parameter(torch.zeros(1))

    def forward(
        self,
        hidden: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        has_image: torch.Tensor | None,
        allowed: torch.Tensor | None,
        asking: Asking | None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """As `CrossAttention.forward`; `has_image`: bool (B,), None if all rows have one."""
        attended, guidance = self.cross_attn(self.input_layernorm(hidden), key, value, allowed, asking)
        after = hidden + (self.attn_gate.tanh() * attended if self.gated else attended)
        if self.mlp is not None:
            thought = self.mlp(self.post_attention_layernorm(after))
            after = after + (self.mlp_gate.tanh() * thought if self.gated else thought)
        if has_image is not None:
            after = torch.where(has_image[:, None, None], after, hidden)
        return after, guidance
