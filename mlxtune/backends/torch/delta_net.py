"""Gated delta nets (Qwen3.5's `linear_attn`) whose states are passed in and handed out. Takes the place of transformers' layers.

transformers' own layer is not called: it fits its library's caches only, which lose the gradient of a state and count padding, and its
arguments change with releases. What is relied on of transformers is small:
- the layer's submodules, named as in the files (`in_proj_qkv`, `in_proj_z`, `in_proj_b`, `in_proj_a`, `conv1d`, `norm(values, gate)`,
  `out_proj`), its parameters `A_log` and `dt_bias`, its `activation`, `layer_idx`, and the widths that `DeltaNet.of` reads;
- that a block calls `linear_attn(hidden_states=..., cache=...)`, before 5.24 `cache_params=...`, and that some of these releases ask
  a cache whether it `has_previous_state`, as a property or a method, only to choose a mask;
- `torch_chunk_gated_delta_rule` and `torch_recurrent_gated_delta_rule` beside the layer's class, which use kernels where
  these are installed.

A state is a pair: what the convolution sees of the last tokens, (B, channels, kernel - 1), and the memory, (B, heads, key_dim,
value_dim), float32. Of no token at all it is zero.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.activations import ACT2FN

from mlxtune.backends import architecture
from mlxtune.backends.architecture import DELTA_NET

State = tuple[Tensor, Tensor]


class States(Protocol):
    """What a cache has for delta nets beside what it has for attention.

    Attributes:
        counted: Which tokens of the pass count, (B, W), those that do first in each row; None is all. The others change no state.
        visible: The tokens that each follows, itself among them, (B, W, W), of a pass whose rows branch; None where each follows
            the one before it. A state may only be asked for after a pass that does not branch.
    """

    counted: Tensor | None
    visible: Tensor | None

    def has_previous_state(self, *args: Any, **kwargs: Any) -> bool:
        """Yes, so that transformers makes no mask."""
        ...

    def state(self, layer: int) -> State | None:
        """State before the pass, of each row or of all of them, (1, ...); None is none yet."""
        ...

    def set_state(self, layer: int, state: State) -> None:
        """State after it, of each row; a layer may say it twice, as gradient checkpointing makes it."""
        ...


def pass_states(network: PreTrainedModel) -> None:
    """Put a `DeltaNet` in the place of each of transformers' own, which keep their weights and names."""
    for block in network.model.layers:
        if hasattr(block, DELTA_NET):
            setattr(block, DELTA_NET, DeltaNet(getattr(block, DELTA_NET)))


class DeltaNet(nn.Module):
    """A gated delta net.

    Source:
        Yang et al. 2024, "Gated Delta Networks"; the forward method of transformers' Qwen3_5GatedDeltaNet.

    Args:
        own: transformers' layer.
    """

    in_proj_qkv: Any
    in_proj_z: Any
    in_proj_b: Any
    in_proj_a: Any
    conv1d: Any
    norm: Any
    out_proj: Any

    def __init__(self, own: Any) -> None:
        super().__init__()
        for name, module in own.named_children():
            self.add_module(name, module)
        self.A_log, self.dt_bias = own.A_log, own.dt_bias
        self._shape = architecture.DeltaNet.of(own)
        self._layer = int(own.layer_idx)
        self._activation = ACT2FN[own.activation]
        functions = vars(sys.modules[type(own).__module__])
        self._of_many: Callable[..., Any] = functions["torch_chunk_gated_delta_rule"]
        self._of_one: Callable[..., Any] = functions["torch_recurrent_gated_delta_rule"]

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """(B, W, hidden) -> (B, W, hidden), each token after those that it follows, as the cache says; masks are of no use here."""
        cache: States | None = args[0] if args else kwargs.get("cache", kwargs.get("cache_params"))
        visible = None if cache is None else cache.visible
        state = self._state(hidden_states, cache)
        inputs = self.in_proj_qkv(hidden_states).transpose(1, 2)  # (B, channels, W)
        inputs = torch.cat([state[0].to(inputs.dtype).expand(len(inputs), -1, -1), inputs], dim=2)
        beta = self.in_proj_b(hidden_states).sigmoid()  # (B, W, heads)
        steps = nn.functional.softplus(self.in_proj_a(hidden_states).float() + self.dt_bias)
        decay = -self.A_log.float().exp() * steps
        if cache is not None and cache.counted is not None:  # padding writes nothing and lets nothing fade
            beta, decay = (value * cache.counted[:, :, None] for value in (beta, decay))
        heads = self._heads(self._activation(self._convolved(inputs, visible)))
        with torch.autocast(hidden_states.device.type, enabled=False):  # in float32, as transformers without it
            if visible is not None:
                values = delta_rule_of_branches(*heads, decay, beta, visible, state[1])
            else:
                rule = self._of_one if hidden_states.shape[1] == 1 else self._of_many
                values, memory = rule(
                    *heads, g=decay, beta=beta, initial_state=state[1].expand(len(inputs), -1, -1, -1),
                    output_final_state=cache is not None, use_qk_l2norm_in_kernel=True,
                )  # fmt: skip
                if cache is not None:
                    cache.set_state(self._layer, (self._last(inputs, cache.counted), memory))
        gate = self.in_proj_z(hidden_states).reshape(-1, self._shape.value_dim)
        normed = self.norm(values.reshape(-1, self._shape.value_dim), gate)
        found: Tensor = self.out_proj(normed.reshape(*hidden_states.shape[:2], -1))
        return found

    def _state(self, like: Tensor, cache: States | None) -> State:
        """State before the pass, of each row or of all."""
        found = None if cache is None else cache.state(self._layer)
        if found is not None:
            return found
        shape = self._shape
        inputs = like.new_zeros(1, shape.channels, shape.kernel - 1)
        return inputs, like.new_zeros(1, shape.n_value_heads, shape.key_dim, shape.value_dim, dtype=torch.float32)

    def _convolved(self, inputs: Tensor, visible: Tensor | None) -> Tensor:
        """(B, channels, kernel - 1 + W) -> (B, channels, W); each token of those that it follows last."""
        weight = self.conv1d.weight.to(inputs.dtype)  # (channels, 1, kernel)
        if visible is None:
            return nn.functional.conv1d(inputs, weight, groups=len(weight))
        taps = last_followed(visible, self._shape.kernel)  # (B, W, kernel)
        gathered = inputs[
            torch.arange(len(inputs), device=taps.device)[:, None, None], :, taps
        ]  # (B, W, kernel, channels)
        return torch.einsum("bwkc,ck->bcw", gathered, weight[:, 0])

    def _heads(self, mixed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, channels, W) -> queries, keys and values, (B, W, value heads, width) each."""
        shape = self._shape
        of_keys = shape.n_key_heads * shape.key_dim
        query, key, value = mixed.transpose(1, 2).split(
            [of_keys, of_keys, shape.n_value_heads * shape.value_dim], dim=-1
        )
        query, key = (
            one.unflatten(-1, (shape.n_key_heads, shape.key_dim)).repeat_interleave(
                shape.n_value_heads // shape.n_key_heads, dim=2
            )
            for one in (query, key)
        )
        return query, key, value.unflatten(-1, (shape.n_value_heads, shape.value_dim))

    def _last(self, inputs: Tensor, counted: Tensor | None) -> Tensor:
        """What the convolution sees of the last tokens that count, (B, channels, kernel - 1)."""
        n_held = self._shape.kernel - 1
        if counted is None:
            return inputs[:, :, inputs.shape[2] - n_held :]
        places = counted.sum(-1)[:, None] + torch.arange(n_held, device=inputs.device)
        return inputs.gather(2, places[:, None].expand(-1, inputs.shape[1], -1))


def last_followed(visible: Tensor, kernel: int) -> Tensor:
    """For each token the last `kernel` that it follows, itself last, counted from the first of those before the pass, (B, W, kernel).

    Args:
        visible: The tokens of the pass that each follows, itself among them, (B, W, W); these have lower numbers.
        kernel: How many; kernel - 1 tokens stand before the pass, numbered 0 to kernel - 2.
    """
    n_rows, width, _ = visible.shape
    numbers = torch.arange(width, device=visible.device)
    before = torch.where(visible.tril(-1), numbers, -1).amax(-1)  # (B, W); -1 is the last one before the pass
    held = torch.arange(-1, kernel - 2, device=visible.device).clamp(min=0).expand(n_rows, -1)
    previous = torch.cat([held, before + kernel - 1], dim=1)  # (B, kernel - 1 + W)
    taps = [(numbers + kernel - 1).expand(n_rows, -1)]
    for _ in range(kernel - 1):
        taps.append(previous.gather(1, taps[-1]))
    return torch.stack(taps[::-1], dim=-1)


def delta_rule_of_branches(
    query: Tensor, key: Tensor, value: Tensor, decay: Tensor, beta: Tensor, visible: Tensor, memory: Tensor
) -> Tensor:
    """The gated delta rule where a token does not follow the one before it but those that it may see: outputs, (B, W, heads, value_dim).

    The memory is S_i = exp(g_i) S_p + k_i u_i' after token i, where p is the token before it on its branch and u_i = beta_i (v_i -
    exp(g_i) S_p' k_i) is what it writes. With G_i, the sum of g along the branch, what all tokens write is one triangular system,
    u_i + sum_j beta_i exp(G_i - G_j) (k_i . k_j) u_j = beta_i (v_i - exp(G_i) S_0' k_i) over the tokens j that i follows: no memory of a
    token is ever made. It takes W x W numbers a head, so it is for short passes.

    Source:
        The chunked form in Yang et al. 2024, "Gated Delta Networks", equation 9 and after, with the branches in place of the causal mask.

    Args:
        query: (B, W, heads, key_dim).
        key: (B, W, heads, key_dim).
        value: (B, W, heads, value_dim).
        decay: g, log of how much memory stays, (B, W, heads).
        beta: How much of the difference is written, (B, W, heads).
        visible: The tokens that each follows, itself among them, (B, W, W); these stand before it.
        memory: S_0, before the pass, (B or 1, heads, key_dim, value_dim).
    """
    kind, width = query.dtype, visible.shape[1]
    query, key, value, decay, beta = (one.transpose(1, 2).float() for one in (query, key, value, decay, beta))
    query, key = (
        one * (one.square().sum(-1, keepdim=True) + 1e-6).rsqrt() for one in (query, key)
    )  # (B, heads, W, key_dim)
    seen = visible[:, None]  # (B, 1, W, W)
    total = (seen.float() @ decay[..., None])[..., 0]  # G, (B, heads, W)
    fade = (total[..., None] - total[..., None, :]).masked_fill(~seen, -torch.inf).exp()  # (B, heads, W, W)
    written_over = beta[..., None] * fade * (key @ key.mT)
    own = torch.eye(width, dtype=torch.bool, device=visible.device)
    kept = total.exp()[..., None]  # of the memory before the pass
    right = beta[..., None] * (value - kept * (key @ memory))
    written = torch.linalg.solve_triangular(written_over.masked_fill(own, 1.0), right, upper=False, unitriangular=True)
    query = query * key.shape[-1] ** -0.5
    found: Tensor = kept * (query @ memory) + (fade * (query @ key.mT)) @ written
    return found.transpose(1, 2).to(kind)
