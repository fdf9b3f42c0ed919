"""The cross-attention layer: queries of the text, keys and values of the image (Section 3.2.1, Eq. 2).

Shapes: B rows, T text tokens, N image tokens, C LLaMA's width, H query heads, K key-value heads, D a head's
width, G guided rows, Q query tokens.
"""

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import LlamaConfig
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm

from maskgen.age_vlm.configuration import AgeVlmConfig


class QuerySelection:
    """The text tokens whose attention maps are wanted: those of the query t_q, in the rows that have a mask.

    `rows`: int64 (G,), places in the batch. `positions`: int64 (G, Q), the query tokens' places in the text,
    filled up to the longest query; `valid`: bool (G, Q), which of them are query tokens.
    """

    def __init__(self, query_mask: torch.Tensor, guided: torch.Tensor):
        """`query_mask`: bool (B, T). `guided`: bool (B,)."""
        self.rows = guided.nonzero()[:, 0]
        mask = query_mask[self.rows]  # (G, T)
        longest = int(mask.sum(dim=1).max()) if len(mask) else 0
        order = mask.to(torch.uint8).argsort(dim=1, descending=True, stable=True)
        self.positions = order[:, :longest]
        self.valid = mask.gather(1, self.positions)

    def map(self, move: Callable[[torch.Tensor], torch.Tensor]) -> "QuerySelection":
        """The same with every tensor moved."""
        other = copy.copy(self)
        other.rows, other.positions, other.valid = map(move, (self.rows, self.positions, self.valid))
        return other

    @classmethod
    def per_token(cls, query_mask: torch.Tensor) -> "QuerySelection":
        """Every token of `query_mask`, bool (B, T), by itself: one map a token, row after row."""
        selection = cls(query_mask[:0], query_mask.new_zeros(0, dtype=torch.bool))
        selection.rows, positions = query_mask.nonzero(as_tuple=True)
        selection.positions = positions[:, None]
        selection.valid = torch.ones_like(selection.positions, dtype=torch.bool)
        return selection


def mean_attention(
    query: torch.Tensor, key: torch.Tensor, valid: torch.Tensor, key_mask: torch.Tensor | None
) -> torch.Tensor:
    """A_l^q of Section 3.2.2: softmax(q k^T / sqrt(d)), averaged over heads and the query's tokens.

    `query`: (G, H, Q, D); `key`: (G, K, N, D), heads sharing keys as in LLaMA; `valid`: bool (G, Q);
    `key_mask`: bool (G, N), keys that may be attended to, or None for all. Returns float32 (G, N); a row
    without a query token is zero. Computed in float32 whatever the inputs' type.
    """
    groups = query.shape[1] // key.shape[1]
    with torch.autocast(query.device.type, enabled=False):
        grouped = query.float().unflatten(1, (key.shape[1], groups))  # (G, K, H / K, Q, D)
        scores = grouped @ key.float().unsqueeze(2).transpose(-1, -2) * query.shape[-1] ** -0.5
        if key_mask is not None:
            scores = scores.masked_fill(~key_mask[:, None, None, None], float("-inf"))
        weights = scores.softmax(dim=-1).mean(dim=(1, 2))  # (G, Q, N)
        return mean_over_queries(weights, valid)


def mean_over_queries(weights: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """The mean of `weights`, (G, Q, N), over each row's `valid` tokens: (G, N), zero for a row with none."""
    share = valid.float() / valid.sum(dim=1, keepdim=True).clamp(min=1)
    return (weights * share[..., None]).sum(dim=1)


def split_heads(states: torch.Tensor, head_dim: int) -> torch.Tensor:
    """(B, L, heads * D) to (B, heads, L, D)."""
    return states.unflatten(-1, (-1, head_dim)).transpose(1, 2)


class ZeroInitLinear(nn.Linear):
    """A linear layer whose weights start at zero: the LLaMA around it starts out exactly as it was."""


class CrossAttention(nn.Module):
    """Multi-head attention from text states to image features, with LLaMA's heads and no positions."""

    def __init__(self, config: LlamaConfig):
        super().__init__()
        width, heads = config.hidden_size, config.num_attention_heads
        self.head_dim = config.head_dim
        self.groups = heads // config.num_key_value_heads
        self.q_proj = nn.Linear(width, heads * self.head_dim, bias=False)
        self.k_proj = nn.Linear(width, config.num_key_value_heads * self.head_dim, bias=False)
        self.v_proj = nn.Linear(width, config.num_key_value_heads * self.head_dim, bias=False)
        self.o_proj = ZeroInitLinear(heads * self.head_dim, width, bias=False)

    def keys_and_values(self, image_features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values, (B, K, N, D) each, of image features (B, N, C)."""
        key, value = self.k_proj(image_features), self.v_proj(image_features)
        return split_heads(key, self.head_dim), split_heads(value, self.head_dim)

    def weights(
        self, hidden_states: torch.Tensor, key: torch.Tensor, image_mask: torch.Tensor | None
    ) -> torch.Tensor:
        """Float32 (B, H, T, N): what `forward` attends by, which it never holds itself."""
        query = split_heads(self.q_proj(hidden_states), self.head_dim)  # (B, H, T, D)
        keys = key.repeat_interleave(self.groups, dim=1)  # (B, H, N, D)
        scores = query.float() @ keys.float().transpose(-1, -2) * self.head_dim**-0.5
        if image_mask is not None:
            scores = scores.masked_fill(~image_mask[:, None, None], float("-inf"))
        return scores.softmax(dim=-1)

    def forward(
        self,
        hidden_states: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        image_mask: torch.Tensor | None,
        query_selection: QuerySelection | None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """`hidden_states` (B, T, C), `image_mask` bool (B, N) or None, to (B, T, C) and the selected queries'
        attention maps (G, N), None without `query_selection`.
        """
        query = split_heads(self.q_proj(hidden_states), self.head_dim)  # (B, H, T, D)
        mask = None if image_mask is None else image_mask[:, None, None]  # (B, 1, 1, N)
        keys, values = (part.repeat_interleave(self.groups, dim=1) for part in (key, value))  # (B, H, N, D)
        attended = F.scaled_dot_product_attention(query, keys, values, attn_mask=mask)
        output = self.o_proj(attended.transpose(1, 2).flatten(2))  # (B, T, C)
        if query_selection is None:
            return output, None
        # Recomputed for the masked rows' query tokens alone: the forward never holds all T x N weights.
        positions = query_selection.positions[:, None, :, None].expand(-1, query.shape[1], -1, self.head_dim)
        selected_query = query[query_selection.rows].gather(2, positions)  # (G, H, Q, D)
        selected_key = key[query_selection.rows]
        selected_mask = None if image_mask is None else image_mask[query_selection.rows]
        inputs = selected_query, selected_key, query_selection.valid, selected_mask
        if torch.is_grad_enabled():
            return output, checkpoint(mean_attention, *inputs, use_reentrant=False)
        return output, mean_attention(*inputs)


class CrossAttentionLayer(GradientCheckpointingLayer):
    """H + CA(norm(H), I'), then + MLP(norm(.)) (Eq. 2); with the last projections at zero, the identity.

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
            self.mlp.down_proj = ZeroInitLinear(text.intermediate_size, text.hidden_size, bias=text.mlp_bias)
            if self.gated:
                self.mlp_gate = nn.Parameter(torch.zeros(1))

    def attention_weights(
        self,
        hidden_states: torch.Tensor,
        key: torch.Tensor,
        has_image: torch.Tensor | None,
        image_mask: torch.Tensor | None,
    ) -> torch.Tensor:
        """Float32 (B, H, T, N) of the same arguments as `forward`'s; zero in rows without an image."""
        weights = self.cross_attn.weights(self.input_layernorm(hidden_states), key, image_mask)
        return weights if has_image is None else weights * has_image[:, None, None, None]

    def forward(
        self,
        hidden_states: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        has_image: torch.Tensor | None,
        image_mask: torch.Tensor | None,
        query_selection: QuerySelection | None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """As `CrossAttention.forward`; `has_image`: bool (B,), None if all rows have one."""
        residual = hidden_states
        attended, attention_map = self.cross_attn(
            self.input_layernorm(hidden_states), key, value, image_mask, query_selection
        )
        hidden_states = hidden_states + (self.attn_gate.tanh() * attended if self.gated else attended)
        if self.mlp is not None:
            output = self.mlp(self.post_attention_layernorm(hidden_states))
            hidden_states = hidden_states + (self.mlp_gate.tanh() * output if self.gated else output)
        if has_image is not None:
            hidden_states = torch.where(has_image[:, None, None], hidden_states, residual)
        return hidden_states, attention_map
