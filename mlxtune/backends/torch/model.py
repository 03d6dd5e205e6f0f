"""A model computed by torch: LoRA layers, the training step, scoring and generation."""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from mlxtune.backends.architecture import BLOCKS
from mlxtune.backends.base import (
    BACKWARD,
    EXCHANGE,
    FACTORS,
    FORWARD,
    HEAD,
    MAGNITUDE,
    OPTIMIZER,
    Batch,
    Constraint,
    Generation,
    LoraSpec,
    OptimizerSpec,
    StepResult,
    StepShare,
    TokenScores,
)
from mlxtune.backends.experts import is_stack, joined, parts_of, stacked, stacks
from mlxtune.backends.group import ALONE, Alone, together
from mlxtune.backends.option_tree import (
    OptionPass,
    OptionTree,
    node_targets,
    option_pass,
    option_totals,
    option_trees,
    row_groups,
)
from mlxtune.backends.replies import write_replies
from mlxtune.backends.slots import slots_within
from mlxtune.backends.state import LazyArrays, TrainingState, read_state, require_shapes, write_state
from mlxtune.backends.supervision import (
    StepSums,
    common_length,
    described,
    described_replies,
    dropout_seed,
    reply_limits,
    require_prompts,
    require_room,
    token_scores,
    total_weight,
)
from mlxtune.backends.torch.architecture import architecture
from mlxtune.backends.torch.dora import DoraLinear
from mlxtune.backends.torch.experts import ExpertStack, stack_under
from mlxtune.backends.torch.folding import Widened, embedded, fold
from mlxtune.backends.torch.full import all_weights
from mlxtune.backends.torch.head import Float32Head, nats_and_argmax, nats_and_gradient
from mlxtune.backends.torch.loading import network_dtype
from mlxtune.backends.torch.lora import ADAPTER, LoraLinear
from mlxtune.backends.torch.masks import Masks, as_argument, window_masks
from mlxtune.backends.torch.packing import PackedBatch, pack
from mlxtune.backends.torch.phases import PhaseClock
from mlxtune.backends.torch.prefix_cache import NOTHING, Leaves, Prefix, PrefixCache, cache_argument
from mlxtune.backends.torch.quantized_linear import QuantizedLinear
from mlxtune.backends.torch.runtime import autocast, free_memory_bytes, memory_for
from mlxtune.backends.torch.session import RowsCache, TorchSession
from mlxtune.backends.torch.sharding import Shards, WholeWeights

if TYPE_CHECKING:  # one process needs none of it
    from mlxtune.backends.torch.group import TorchProcesses

# Nodes of option trees whose logits exist at a time: so few that a CPU's allocator takes the same memory again.
NODES_OF_LOGITS = 128


class TorchModel:
    """A causal language model of transformers behind the seam of `backends/base.py`.

    Args:
        network: transformers' model, frozen: `network.model` gives hidden states, its head gives logits.
        config: The model folder's config.json.
        device: Where the network is.
        group: The processes that train it together.
        is_sharded: Each of them holds a part of the weights.
    """

    def __init__(
        self,
        network: PreTrainedModel,
        config: Mapping[str, Any],
        device: torch.device,
        group: Alone | TorchProcesses = ALONE,
        is_sharded: bool = False,
    ) -> None:
        self.config = config
        self.architecture = architecture(config)
        network.lm_head = Float32Head(network.lm_head)
        self._network = network
        self._device = device
        self._group = self.rows_group = group
        self._windows = self.architecture.windows
        self._dtype = network_dtype(network)
        self._cache_argument = cache_argument(network.model.forward)
        self._adapted: dict[str, LoraLinear | DoraLinear | ExpertStack] = {}
        self._weights: dict[str, Tensor] = {}  # all of the network's own, where these are trained
        self._optimizer: torch.optim.AdamW | None = None
        self._spec: OptimizerSpec | None = None
        self._timed = False
        self._held: WholeWeights = WholeWeights()
        if is_sharded:
            assert not isinstance(group, Alone)
            self._held = Shards(network, group, device, self._idle_pass)

    def side_by_side(self) -> AbstractContextManager[None]:
        """A section in which each process makes as many calls as it likes; as `backends/base.py` says."""
        return self._held.side_by_side()

    # The adapter

    def attach_lora(self, spec: LoraSpec, weights: Mapping[str, NDArray[np.float32]]) -> None:
        """Adapt the layers of `spec`, starting from `weights`, as `backends/base.py` says."""
        layers = tuple(stacks(spec.layers))
        values = {name: self._to_device(value) for name, value in stacked(weights).items()}
        if not spec.has_magnitudes:
            self._inject([layer for layer in layers if not is_stack(layer)], spec)
        adapt = self._with_magnitudes if spec.has_magnitudes else self._with_factors
        self._adapted = {layer: adapt(layer, spec, values) for layer in layers}
        self._network.eval()

    def _with_magnitudes(self, layer: str, spec: LoraSpec, values: Mapping[str, Tensor]) -> DoraLinear:
        """A layer with DoRA, in its place in the network."""
        place, _, own = layer.rpartition(".")
        parent = self._network.get_submodule(place)
        factors = values[f"{layer}.lora_A"], values[f"{layer}.lora_B"]
        magnitudes = values.get(f"{layer}.{MAGNITUDE}")
        module = DoraLinear(getattr(parent, own), factors, magnitudes, spec.scale, spec.dropout)
        setattr(parent, own, module)
        return module

    def _with_factors(self, layer: str, spec: LoraSpec, values: Mapping[str, Tensor]) -> LoraLinear | ExpertStack:
        """A layer with LoRA, which PEFT has put in its place, or a stack of experts'."""
        a, b = values[f"{layer}.lora_A"], values[f"{layer}.lora_B"]
        if is_stack(layer):
            stack = stack_under(self._network, layer)
            stack.adapt(a, b, spec.scale, spec.dropout)
            return stack
        module = self._network.get_submodule(layer)
        assert isinstance(module, LoraLinear)
        module.scaling[ADAPTER] = spec.scale
        module.lora_A[ADAPTER].weight, module.lora_B[ADAPTER].weight = nn.Parameter(a), nn.Parameter(b)
        return module

    def _inject(self, layers: Sequence[str], spec: LoraSpec) -> None:
        """Let PEFT put its layers in the place of some; their factors are still to be given.

        It is given the blocks, not the model: in one of a family with experts it would take a name such as gate_proj for all experts'.
        """
        if not layers:
            return
        names = [layer.removeprefix(f"{BLOCKS}.") for layer in layers]
        config = LoraConfig(r=spec.rank, lora_dropout=spec.dropout, target_modules=names, init_lora_weights=False)
        # PEFT's documented way, for all its underscore.
        config._register_custom_module({nn.Linear: LoraLinear, QuantizedLinear: LoraLinear})
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Unsupported layer type")  # of packed layers, which were just registered
            inject_adapter_in_model(config, self._network.model.layers, ADAPTER)

    def adapter_weights(self) -> dict[str, NDArray[np.float32]]:
        """The adapter's present values, named and shaped as `attach_lora` takes them."""
        return dict(self.trained_weights())

    def train_all(self) -> None:
        """Let training change all of the network's own weights, in float32; as `backends/base.py` says."""
        self._weights = all_weights(self._network, self.architecture)
        self._dtype = torch.float32

    def trained_weights(self) -> LazyArrays:
        """Present values of what is trained, each copied when it is asked for."""
        parameters = self._parameters()
        return _lazily(parameters, lambda name: parameters[name])

    def _parameters(self) -> dict[str, Tensor]:
        """What is trained, by the seam's names; of experts that of their stack."""
        if self._weights:
            return self._weights
        return {
            f"{layer}.{part}": value
            for layer, module in self._adapted.items()
            for part, value in _trained_parts(module)
        }

    def _refresh_lengths(self) -> None:
        """What DoRA's layers know of A and B, after these changed."""
        for module in self._adapted.values():
            if isinstance(module, DoraLinear):
                module.refresh()

    def _to_device(self, value: NDArray[np.float32]) -> Tensor:
        return torch.tensor(value, dtype=torch.float32, device=self._device)

    # Training

    def prepare_training(self, spec: OptimizerSpec, gradient_checkpointing: bool = False, timed: bool = False) -> None:
        """Freeze all but what is trained and make an optimizer; arguments as in `backends/base.py`."""
        self._spec, self._timed = spec, timed
        self._network.requires_grad_(False)
        parameters = [value.requires_grad_() for value in self._parameters().values()]
        vectors = [value for value in parameters if value.ndim < 2]
        groups: list[dict[str, Any]] = [
            {"params": [value for value in parameters if value.ndim >= 2]},
            *([{"params": vectors, "weight_decay": 0.0}] if vectors else []),
        ]
        self._optimizer = torch.optim.AdamW(
            groups, lr=0.0, betas=spec.betas, eps=spec.eps, weight_decay=spec.weight_decay, fused=True
        )
        for block in self._network.model.layers:
            vars(block).pop("forward", None)  # of an earlier preparation
            if gradient_checkpointing:
                block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False)

    def train_step(
        self,
        batches: Sequence[Batch],
        learning_rate: float,
        step: int,
        n_segments: int,
        share: StepShare | None = None,
    ) -> StepResult:
        """One optimizer step over all rows of all micro-batches; dropout is a function of (seed, step, rank).

        The loss is sum(weight x nats) / sum(weight) over all of them, those of the other processes included: each micro-batch is
        divided by the whole step's weight before its gradient is added. What opens every row is computed once a step: its gradient gathers over the
        micro-batches. A step whose gradient is not finite changes nothing and says so in its result.
        """
        if self._optimizer is None or self._spec is None:
            raise RuntimeError("call prepare_training before train_step")
        share = share or StepShare(total_weight(batches))
        torch.manual_seed(dropout_seed(self._spec.seed, step, self._group.rank))
        self._optimizer.zero_grad()
        clock = PhaseClock(self._device, self._timed)
        with (
            together(self._group) as report,
            self._held.step(batches) as passes,
            self._memory_for_step(step, batches),
        ):
            self._set_dropout(True)
            try:
                nats = self._gradients(passes, share.total_weight, clock)[: len(batches)]
            finally:
                self._set_dropout(False)
            clock.enter(OPTIMIZER)
            gradients = self._own_gradients()
            norm = torch.nn.utils.get_total_norm(gradients)
            # The one place where the host waits for the device.
            sums = StepSums.of(batches, [_to_numpy(found) for found in nats], n_segments, share.stop)
            report.value = sums.to_json()
            clock.enter(OPTIMIZER if isinstance(self._group, Alone) else EXCHANGE)
        with self._memory_for_step(step, batches):
            if not isinstance(self._group, Alone):
                sums = StepSums.of_all(report.values)
                self._group.sum_gradients(gradients)
                clock.enter(OPTIMIZER)
                norm = torch.nn.utils.get_total_norm(gradients)
            result = sums.result(share.total_weight, float(norm))
            if math.isfinite(result.grad_norm) and math.isfinite(result.total_nats):
                limit = self._spec.max_grad_norm
                if limit is not None and result.grad_norm > limit:
                    torch._foreach_mul_(gradients, limit / result.grad_norm)
                for group in self._optimizer.param_groups:
                    group["lr"] = learning_rate
                self._optimizer.step()
                self._refresh_lengths()
        return replace(result, phase_seconds=clock.seconds())

    def _memory_for_step(self, step: int, batches: Sequence[Batch]) -> AbstractContextManager[None]:
        return memory_for(f"step {step} ({described(batches)})", self._device)

    def _own_gradients(self) -> list[Tensor]:
        """Of each parameter that has one; of every one where other processes add theirs, who may have rows where this has none."""
        parameters = self._parameters().values()
        if not isinstance(self._group, Alone):
            for parameter in parameters:
                parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        return [parameter.grad for parameter in parameters if parameter.grad is not None]

    def _gradients(self, batches: Sequence[Batch], total: float, clock: PhaseClock) -> list[Tensor]:
        """Add each micro-batch's gradient to the parameters'; the nats of its supervised tokens, (N,), stay on the device."""
        alone = (
            len(batches) == 1 and not self._held.is_sharded
        )  # where processes hold parts, all or none compute the prefix before
        inputs = [self._inputs(batch, alone) for batch in batches]  # all on their way before the first is needed
        leaves: Leaves | None = None
        nats = []
        for index, (batch, present) in enumerate(zip(batches, inputs, strict=True)):
            if leaves is None or not np.array_equal(batch.prefix, batches[index - 1].prefix):
                if leaves is not None:
                    clock.enter(BACKWARD)
                    self._backward_through(leaves)
                clock.enter(FORWARD)
                leaves = self._leaves(present.prefix)
            clock.enter(FORWARD)
            hidden = self._predicting(present, leaves.prefix)
            clock.enter(HEAD)
            with self._held.head():
                found, gradient = nats_and_gradient(
                    self._network.lm_head, hidden, present.targets, present.weights / total
                )
            nats.append(found)
            clock.enter(BACKWARD)
            hidden.backward(gradient)
        if leaves is not None:
            self._backward_through(leaves)
        return nats

    def _leaves(self, tokens: Tensor) -> Leaves:
        """What opens every row, (P,), cut from its graph."""
        computed = self._prefix(tokens)
        self._held.before_backward(computed)
        return Leaves(computed)

    def _backward_through(self, leaves: Leaves) -> None:
        leaves.backward()
        self._held.after_backward()

    def _set_dropout(self, on: bool) -> None:
        for module in self._adapted.values():
            module.lora_dropout.train(on)

    def _inputs(self, batch: Batch, alone: bool) -> _Inputs:
        return _Inputs(pack(batch, with_prefix=alone, apart=self.architecture.is_recurrent), self._device)

    def _predicting(self, inputs: _Inputs, prefix: Prefix) -> Tensor:
        """Hidden states that predict a target, (N, hidden): the head runs on no others."""
        hidden = self._hidden(inputs.tokens, PrefixCache(prefix), inputs.offsets, inputs.visible)
        return hidden.reshape(-1, hidden.shape[-1])[inputs.positions]

    def _head(self, hidden: Tensor) -> Tensor:
        """Logits in float32, whatever the weights are: (..., hidden) -> (..., vocabulary)."""
        with self._held.head():
            return self._network.lm_head(hidden)  # type: ignore[no-any-return]

    def _hidden(
        self, tokens: Tensor, cache: PrefixCache, offsets: Tensor | None = None, visible: Tensor | None = None
    ) -> Tensor:
        """Last hidden states of tokens after what `cache` holds, (B, T, hidden).

        Args:
            tokens: (B, T).
            cache: What is before them, which all go on from.
            offsets: Position of each token after the cache's, (B, T); None is one after the other.
            visible: Which of the last K keys, the row's own tokens among them, each attends to, (B, T, K); it attends to
                all before these. None is those up to itself.
        """
        length, before = tokens.shape[1], cache.length
        offsets = torch.arange(length, device=self._device)[None] if offsets is None else offsets
        mask = None  # causal, by a kernel that needs none
        if before or visible is not None or any(size is not None and length > size for size in self._windows):
            if visible is None:
                visible = torch.ones(1, length, length, dtype=torch.bool, device=self._device).tril_()
            visible = nn.functional.pad(visible, (before + length - visible.shape[-1], 0), value=True)
            keys = torch.arange(before, device=self._device).expand(len(offsets), -1)
            masks = window_masks(visible, before + offsets, torch.cat([keys, before + offsets], dim=1), self._windows)
            mask = as_argument(masks)
        return self._pass(tokens, before + offsets, mask, cache)

    def _pass(self, tokens: Tensor, positions: Tensor, mask: Any, cache: PrefixCache | RowsCache) -> Tensor:
        """A pass through the network: last hidden states, (B, W, hidden), of tokens, (B, W), at positions, (B, W)."""
        with self._held.passing():
            return self._computed(tokens, positions, mask, cache)

    def _idle_pass(self) -> None:
        """A pass of one token, for nothing but the weights that it gathers."""
        token = torch.zeros(1, 1, dtype=torch.long, device=self._device)
        self._computed(token, token, None, PrefixCache())

    def _computed(self, tokens: Tensor, positions: Tensor, mask: Any, cache: PrefixCache | RowsCache) -> Tensor:
        """The same, whatever other processes do."""
        with autocast(self._device, self._dtype):
            return self._network.model(  # type: ignore[no-any-return]
                input_ids=tokens,
                attention_mask=mask,
                position_ids=positions,
                use_cache=False,
                **{self._cache_argument: cache},
            ).last_hidden_state

    def _prefix(self, tokens: Tensor) -> Prefix:
        """What layers keep of what opens every row, (P,)."""
        return self._after_tokens(tokens[None], NOTHING)

    def _after_tokens(self, tokens: Tensor, before: Prefix, counted: Tensor | None = None) -> Prefix:
        """What layers keep of rows' tokens, (R, W), and of those before; `counted` as `delta_net.States` has it."""
        if not tokens.shape[1]:
            return before
        cache = PrefixCache(before, counted)
        self._hidden(tokens, cache)
        return cache.computed(tokens.shape[1])

    # Scoring and generation

    @torch.inference_mode()
    def score(self, batch: Batch) -> TokenScores:
        """-log p of each supervised token, and whether none is likelier; dropout off, one forward pass for both."""
        with memory_for(f"scoring {described([batch])}", self._device):
            inputs = self._inputs(batch, alone=True)
            hidden = self._predicting(inputs, self._prefix(inputs.prefix))
            with self._held.head():
                nats, argmax = nats_and_argmax(self._network.lm_head, hidden, inputs.targets)
            return token_scores(batch, _to_numpy(nats), argmax.cpu().numpy())

    @torch.inference_mode()
    def logits(self, tokens: Sequence[int], positions: Sequence[int] | None = None) -> NDArray[np.float32]:
        """Logits after some tokens of one sequence, (N, vocabulary), dropout off; None is after each.

        Computed in float32 whatever type the weights have, each widened as it is used.
        """
        inputs = self._ids(tokens)[None]
        with memory_for(f"computing logits of {len(tokens)} tokens", self._device), Widened():
            with self._held.embedding():
                embeddings = embedded(self._network.model.embed_tokens, inputs)
            with self._held.passing():
                hidden = self._network.model(inputs_embeds=embeddings, use_cache=False).last_hidden_state[0]
            return _to_numpy(self._head(hidden if positions is None else hidden[self._ids(positions)]))

    def fold(self, types: Mapping[str, str]) -> None:
        """Fold the adapter into the weights, in place and layer by layer, each rounded once to the type it has in `types`."""
        fold(self._network, types, ADAPTER)
        self._adapted = {}

    @torch.inference_mode()
    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        stop_tokens: Sequence[int],
        constraint: Constraint | None = None,
        temperature: float = 0.0,
        seed: int = 0,
        slots: int | None = None,
        numbers: Sequence[int] | None = None,
    ) -> Iterator[tuple[int, Generation]]:
        """Replies to all prompts, each with its prompt's number, as they end; what all prompts open with is computed once.

        Tokens are taken by the float32 logits that `score` and `choose` use.
        """
        require_prompts(prompts)
        limits = reply_limits(prompts, max_new_tokens, self.config)
        with memory_for(f"generating {described_replies(prompts, max_new_tokens)}", self._device):
            n_shared = common_length(prompts)
            shared = self._prefix(self._ids(prompts[0][:n_shared]))
            n_slots = slots_within(
                slots, prompts, limits, self.architecture, free_memory_bytes(self._device), self._dtype.itemsize
            )
            session = TorchSession(self._after, self._head_of, shared, n_slots, self._device, self.architecture)
            own = [prompt[n_shared:] for prompt in prompts]
            yield from write_replies(session, own, limits, n_slots, stop_tokens, constraint, temperature, seed, numbers)

    def _head_of(self, hidden: Tensor, tokens: Tensor | None) -> Tensor:
        """Float32 logits of all tokens, or of some."""
        if tokens is None:
            return self._head(hidden)
        with self._held.head():
            return self._network.lm_head.logits_of(tokens, hidden)  # type: ignore[no-any-return]

    def _after(self, tokens: Tensor, positions: Tensor, masks: Masks, cache: RowsCache) -> Tensor:
        """Last hidden states of tokens, (B, W, hidden), as a `TorchSession` computes them."""
        return self._pass(tokens, positions, as_argument(masks), cache)

    @torch.inference_mode()
    def choose(self, prompts: Sequence[Sequence[int]], options: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """Log-probability of each option's tokens after each prompt, (B, n_options), nats, dropout off.

        What all prompts open with is computed once, the rest of each prompt once, and what options share once. As many rows
        as fit run at a time, in one pass where the options are one tree; a recurrent model takes its prompts before the tree, since
        what branches costs its delta nets the square of a pass.
        """
        require_prompts(prompts, options)
        require_room(prompts, options, self.config)
        n_shared = common_length(prompts)
        trees = list(option_trees(options))
        found = np.zeros((len(prompts), len(options)))
        with memory_for(f"choosing among {len(options)} options", self._device):
            shared = self._prefix(self._ids(prompts[0][:n_shared]))
            for rows in row_groups(prompts, n_shared, max(len(tree.tokens) for tree in trees)):
                passes = [option_pass([prompts[row] for row in rows], n_shared, tree) for tree in trees]
                before = shared
                if len(trees) > 1 or self.architecture.is_recurrent:
                    rest = passes[0]
                    before = self._after_tokens(self._ids(rest.rest_of_prompts), shared, self._bools(rest.counted))
                    passes = [one.after_prompts() for one in passes]
                for tree, one in zip(trees, passes, strict=True):
                    found[np.ix_(rows, tree.options)] = self._option_log_probabilities(tree, one, before)
        return found.astype(np.float32)

    def _option_log_probabilities(self, tree: OptionTree, one: OptionPass, before: Prefix) -> NDArray[np.float64]:
        """Log-probability of each option of a tree at each row of a pass, (R, n)."""
        visible = self._bools(one.visible)
        cache = PrefixCache(before, visible=visible[:, :, -one.tokens.shape[1] :])
        hidden = self._hidden(self._ids(one.tokens), cache, self._ids(one.offsets), visible)
        nodes = hidden[:, -one.n_nodes :].reshape(-1, hidden.shape[-1])  # (R x N, hidden)
        found = np.zeros((len(one.tokens), len(tree.targets)))
        for part in node_targets(tree, len(one.tokens), NODES_OF_LOGITS):
            logits = self._head(nodes[part.nodes])  # (n, vocabulary)
            predicting, targets = self._ids(part.predicting), self._ids(part.targets)
            of_targets, largest = logits[predicting, targets], logits.amax(-1)
            log_normal = logits.sub_(largest[:, None]).exp_().sum(-1).log_() + largest  # in place: logits are wide
            found.reshape(-1)[part.places] = _to_numpy(of_targets - log_normal[predicting])
        return option_totals(tree, found)

    def _ids(self, values: Any) -> Tensor:
        return torch.tensor(np.asarray(values, np.int64), device=self._device)

    def _bools(self, values: NDArray[np.bool_]) -> Tensor:
        return torch.tensor(values, device=self._device)

    # State

    def save_state(self, folder: Path) -> None:
        """Write the values of what is trained and the optimizer's state into an existing folder."""
        if self._optimizer is None:
            raise RuntimeError("call prepare_training before save_state")
        state, parameters = self._optimizer.state, self._parameters()

        def moment(key: str) -> LazyArrays:
            return _lazily(
                parameters,
                lambda name: (
                    state[parameters[name]][key] if parameters[name] in state else torch.zeros_like(parameters[name])
                ),
            )

        steps = max((int(one["step"]) for one in state.values()), default=0)
        saved = TrainingState(self.trained_weights(), moment("exp_avg"), moment("exp_avg_sq"), steps)
        write_state(folder, saved, is_adapter=not self._weights)

    def load_state(self, folder: Path) -> None:
        """Read what `save_state` wrote."""
        if self._optimizer is None:
            raise RuntimeError("call prepare_training before load_state")
        parameters, present = self._parameters(), self.trained_weights()
        found = read_state(folder, tuple(present))
        require_shapes(folder, found, present.shapes)
        for name, parts in stacks(present).items():
            parameter = parameters[name]
            with torch.no_grad():
                parameter.copy_(self._to_device(joined(found.weights, parts)))
            self._optimizer.state[parameter] = {
                "step": torch.tensor(float(found.steps), device=self._device),
                "exp_avg": self._to_device(joined(found.first_moments, parts)),
                "exp_avg_sq": self._to_device(joined(found.second_moments, parts)),
            }
        self._refresh_lengths()


class _Inputs:
    """A packed batch on the device: prefix, rows, and for each supervised token where it is predicted, its id and its weight."""

    def __init__(self, packed: PackedBatch, device: torch.device) -> None:
        self.prefix = _to_device(packed.prefix, device)
        self.tokens, self.offsets = _to_device(packed.tokens, device), _to_device(packed.offsets, device)
        self.visible = None if packed.visible is None else _to_device(packed.visible, device)
        self.positions = _to_device(packed.supervised.positions.astype(np.int64), device)
        self.targets = _to_device(packed.supervised.targets.astype(np.int64), device)
        self.weights = _to_device(packed.supervised.weights, device)


def _to_device(array: NDArray[Any], device: torch.device) -> Tensor:
    """An array on the device; a copy to a GPU goes on while the host does."""
    tensor = torch.tensor(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def _lazily(values: Mapping[str, Tensor], of: Callable[[str], Tensor]) -> LazyArrays:
    """An array for each of some values, of the same shape; where it is a stack of experts', one for each of them."""
    shapes: dict[str, tuple[int, ...]] = {}
    places: dict[str, tuple[str, Any]] = {}
    for name, value in values.items():
        for number, part in enumerate(parts_of(name, len(value))):
            is_whole = part == name
            shapes[part] = tuple(value.shape if is_whole else value.shape[1:])
            places[part] = name, ... if is_whole else number

    def make(part: str) -> NDArray[np.float32]:
        name, place = places[part]
        return _to_numpy(of(name)[place])

    return LazyArrays(shapes, make)


def _to_numpy(value: Tensor) -> NDArray[np.float32]:
    return np.array(value.detach().float().cpu(), np.float32)


def _trained_parts(module: LoraLinear | DoraLinear | ExpertStack) -> list[tuple[str, Tensor]]:
    """What is trained of an adapted layer, as it is named at the seam."""
    if isinstance(module, LoraLinear):
        return [(part, getattr(module, part)[ADAPTER].weight) for part in FACTORS]
    parts = (*FACTORS, MAGNITUDE) if isinstance(module, DoraLinear) else FACTORS
    return [(part, getattr(module, part)) for part in parts]
