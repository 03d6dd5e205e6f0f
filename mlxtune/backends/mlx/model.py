"""A model loaded by MLX: LoRA layers, the training step, scoring and generation."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
from mlx.utils import tree_flatten, tree_map, tree_unflatten
from mlx_lm.tuner.lora import LoRASwitchLinear
from numpy.typing import NDArray

from mlxtune.backends.adapter import ON_DISK
from mlxtune.backends.base import (
    EXCHANGE,
    GRADIENTS,
    MAGNITUDE,
    NO_ADAPTER,
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
from mlxtune.backends.mlx.architecture import architecture
from mlxtune.backends.mlx.delta_net import chunk_delta_nets
from mlxtune.backends.mlx.dora import DoraLinear
from mlxtune.backends.mlx.dropout import DropoutKeys, KeyedDropout
from mlxtune.backends.mlx.folding import float32_embeddings, fold
from mlxtune.backends.mlx.full import MatrixDecay, loss_through_head, unfreeze_all
from mlxtune.backends.mlx.head import Head
from mlxtune.backends.mlx.lora import LoraLinear
from mlxtune.backends.mlx.memory import NO_LIMITS, MemoryLimits, give_back
from mlxtune.backends.mlx.prefix_cache import PrefixCache
from mlxtune.backends.mlx.recompute import checkpoint_blocks, keep_activations
from mlxtune.backends.mlx.runtime import free_memory_bytes, memory_for
from mlxtune.backends.mlx.session import MlxSession
from mlxtune.backends.mlx.sharding import WHOLE, Parts, Whole
from mlxtune.backends.mlx.state_cache import PrefixStateCache
from mlxtune.backends.mlx.step_gradient import Pass, PrefixStates, StepGradient
from mlxtune.backends.mlx.swiglu import use_faster_swiglu
from mlxtune.backends.mlx.token_rope import rotate_by_token
from mlxtune.backends.mlx.tree_cache import tree_caches
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
from mlxtune.backends.shapes import BUCKETED, EXACT, PassPadding
from mlxtune.backends.slots import slots_within
from mlxtune.backends.state import LazyArrays, TrainingState, read_state, require_shapes, write_state
from mlxtune.backends.supervision import (
    StepSums,
    common_length,
    described,
    described_replies,
    dropout_seed,
    padded_batch,
    reply_limits,
    require_prompts,
    require_room,
    supervised,
    token_scores,
    total_weight,
)

if TYPE_CHECKING:  # one process needs none of it
    from mlxtune.backends.mlx.group import MlxProcesses

Caches = list[PrefixCache | PrefixStateCache]  # one a layer
# Nodes of option trees whose logits exist at a time.
NODES_OF_LOGITS = 512


class MlxModel:
    """A causal language model of mlx-lm behind the seam of `backends/base.py`.

    Args:
        network: mlx-lm's model: `network.model` gives hidden states, its head gives logits.
        config: The model folder's config.json.
        compiled: Compile the training step. Pays on a GPU; on a CPU it calls a C++ compiler for every shape.
        limits: What MLX may keep between steps.
        group: The processes that train it together.
        parts: The part of the network that this process has, where they share it and not the rows.
    """

    def __init__(
        self,
        network: nn.Module,
        config: Mapping[str, Any],
        compiled: bool = False,
        limits: MemoryLimits = NO_LIMITS,
        group: Alone | MlxProcesses = ALONE,
        parts: Whole | Parts = WHOLE,
    ) -> None:
        network.freeze()
        network.eval()
        rotate_by_token(network.layers)
        chunk_delta_nets(network.layers)
        use_faster_swiglu(network.layers)
        self.config = config
        self.architecture = architecture(config)
        self._network = network
        sizes = set(self.architecture.windows)
        self._window = sizes.pop() if len(sizes) == 1 else None  # of all layers, whether mlx-lm's class knows it or not
        self._head = Head(network)
        self._compiled = compiled
        self._padding = BUCKETED if compiled else EXACT
        self._limits = limits
        self._group, self._parts = group, parts
        self.rows_group: Alone | MlxProcesses = group if parts.is_whole else ALONE
        self._adapter = NO_ADAPTER  # its layers of experts are stacks
        self._trains_all = False
        self._dropout_keys = DropoutKeys()
        self._optimizer: optim.AdamW | None = None
        self._spec: OptimizerSpec | None = None
        self._step_gradient: StepGradient | None = None
        self._timed = False

    def side_by_side(self) -> AbstractContextManager[None]:
        """Nothing: each process computes with weights of its own, or all the same rows."""
        return nullcontext()

    # The adapter

    def attach_lora(self, spec: LoraSpec, weights: Mapping[str, NDArray[np.float32]]) -> None:
        """Adapt the layers of `spec`, starting from `weights`, as `backends/base.py` says."""
        spec = replace(spec, layers=tuple(stacks(spec.layers)))
        modules = dict(self._network.named_modules())
        values = {name: self._to_device(value) for name, value in stacked(weights).items()}
        adapted = []
        for place, layer in enumerate(spec.layers):
            dropout = KeyedDropout(spec.dropout, self._dropout_keys, place)
            factors = values[f"{layer}.lora_A"], values[f"{layer}.lora_B"]
            if spec.has_magnitudes:
                magnitudes = values.get(f"{layer}.{MAGNITUDE}")
                adapted.append((layer, DoraLinear(modules[layer], factors, magnitudes, spec.scale, dropout)))
                continue
            kind = LoRASwitchLinear if is_stack(layer) else LoraLinear
            lora = kind.from_base(modules[layer], r=spec.rank, scale=spec.scale)
            lora.dropout = dropout
            lora.lora_a, lora.lora_b = factors
            adapted.append((layer, self._parts.adapted(lora, layer)))
        self._network.update_modules(tree_unflatten(adapted))
        self._network.freeze()
        self._network.unfreeze(keys=list(ON_DISK.values()))  # mlx-lm's attributes are named as its files
        self._network.eval()
        mx.eval(self._network.trainable_parameters())
        self._adapter = spec

    def adapter_weights(self) -> dict[str, NDArray[np.float32]]:
        """The adapter's present values, named and shaped as `attach_lora` takes them."""
        return dict(self.trained_weights())

    def train_all(self) -> None:
        """Let training change all of the network's own weights, in float32; as `backends/base.py` says."""
        unfreeze_all(self._network, self.architecture)
        self._head = Head(self._network)
        self._trains_all = True

    def trained_weights(self) -> LazyArrays:
        """Present values of what is trained, each copied when it is asked for."""
        return self._lazily(self._network.trainable_parameters(), "")

    def _lazily(self, tree: Any, suffix: str) -> LazyArrays:
        """What a tree like the network holds of each trained value, under the seam's names and in its shapes."""
        values = dict(tree_flatten(tree))
        found: dict[str, mx.array] = {}
        for name, own in self._parameter_names():
            value = values[f"{own}{suffix}"]
            if is_stack(name):
                found |= zip(parts_of(name, len(value)), value, strict=True)
            else:
                found[name] = self._turned(value)
        return LazyArrays(
            {name: tuple(value.shape) for name, value in found.items()}, lambda name: np.array(found[name], np.float32)
        )

    def _to_device(self, value: NDArray[np.float32]) -> mx.array:
        """A trained value as it lies in the network, given that at the seam."""
        return mx.array(np.ascontiguousarray(self._turned(value)))

    def _turned(self, value: Any) -> Any:
        """A trained value of the network as it is at the seam, or the other way round.

        A factor is (r, in) or (out, r) at the seam, as in PEFT, and transposed in the network, as mlx-lm multiplies x @ a @ b; those of
        experts, stacked, are the same in both. So are a network's own weights, but for convolutions, the only ones of three dimensions.
        """
        if self._trains_all:
            return value.swapaxes(1, 2) if value.ndim == 3 else value
        return value.T if value.ndim == 2 else value

    # Training

    def prepare_training(self, spec: OptimizerSpec, gradient_checkpointing: bool = False, timed: bool = False) -> None:
        """Freeze all but what is trained and make an optimizer; with checkpointing, keep no activations inside blocks.

        Timed steps have two phases: forward, head and backward are one lazy (or compiled) computation.
        """
        self._spec, self._timed = spec, timed
        if gradient_checkpointing:
            checkpoint_blocks(self._network.layers, self._dropout_keys)
        else:
            keep_activations(self._network.layers)
        self._optimizer = MatrixDecay(
            learning_rate=0.0,
            betas=list(spec.betas),
            eps=spec.eps,
            weight_decay=spec.weight_decay,
            bias_correction=True,
        )
        self._optimizer.init(self._network.trainable_parameters())
        self._head.widen()
        self._step_gradient = StepGradient(
            self._network, self._weighted_nats, self._prefix_states, compiled=self._compiled
        )

    def train_step(
        self,
        batches: Sequence[Batch],
        learning_rate: float,
        step: int,
        n_segments: int,
        share: StepShare | None = None,
    ) -> StepResult:
        """One optimizer step over all rows of all passes; dropout is a function of (seed, step, rank) and of the passes.

        The loss is sum(weight x nats) / sum(weight) over all of them, those of the other processes included: each pass is divided
        by the whole step's weight before its gradient is added. What opens every row is computed once a step. A step whose gradient is not finite changes nothing and says so in its result.
        """
        if self._step_gradient is None or self._optimizer is None or self._spec is None:
            raise RuntimeError("call prepare_training before train_step")
        begun = time.perf_counter()
        share = share or StepShare(total_weight(batches))
        with together(self._group) as report, self._passes(f"step {step} ({described(batches)})"):
            self._network.train()
            try:
                key = mx.random.key(dropout_seed(self._spec.seed, step, self.rows_group.rank))
                passes = [_pass_of(batch, self._padding) for batch in batches]
                nats, gradients = self._step_gradient(passes, share.total_weight, key)
                mx.eval(gradients)
            finally:
                self._network.eval()
            sums = StepSums.of(batches, nats, n_segments, share.stop)
            report.value = sums.to_json()
            computed = time.perf_counter()
        if not isinstance(self._group, Alone):
            sums = (StepSums.of_all if self._parts.is_whole else StepSums.of_same)(report.values)
            gradients = self._group.sum_gradients(gradients)
        exchanged = time.perf_counter()
        norm = mx.sqrt(sum(mx.sum(mx.square(value)) for _, value in tree_flatten(gradients)))
        result = sums.result(share.total_weight, float(norm.item()))
        if math.isfinite(result.grad_norm) and math.isfinite(result.total_nats):
            limit = self._spec.max_grad_norm
            if limit is not None and result.grad_norm > limit:
                gradients = tree_map(lambda value: value * (limit / result.grad_norm), gradients)
            self._optimizer.learning_rate = learning_rate
            self._optimizer.update(self._network, gradients)
            self._refresh_lengths()
            mx.eval(self._network.parameters(), self._optimizer.state)
        give_back(self._limits)
        if not self._timed:
            return result
        seconds = {GRADIENTS: computed - begun, OPTIMIZER: time.perf_counter() - exchanged}
        if not isinstance(self._group, Alone):
            seconds[EXCHANGE] = exchanged - computed
        return replace(result, phase_seconds=seconds)

    def _weighted_nats(
        self,
        prefix: mx.array | PrefixStates,
        tokens: mx.array,
        positions: mx.array,
        targets: mx.array,
        weights: mx.array,
        total: mx.array,
        key: mx.array,
    ) -> tuple[mx.array, list[mx.array]]:
        """Loss of one pass and the nats of its supervised tokens, in chunks; dropout is a function of `key`."""
        hidden = self._predicting(prefix, tokens, positions, key)
        if self._trains_all:
            return loss_through_head(self._head, hidden, targets, weights / total)
        nats = self._head.nats(hidden, targets)
        return mx.sum(mx.concatenate(nats) * weights) / total, nats

    def _predicting(
        self, prefix: mx.array | PrefixStates, tokens: mx.array, positions: mx.array, key: mx.array | None = None
    ) -> mx.array:
        """Hidden states at the positions that predict a target, (N, hidden): the head runs on no others."""
        hidden = self._hidden(prefix, tokens, key)
        return hidden.reshape(-1, hidden.shape[-1])[positions]

    def _hidden(self, prefix: mx.array | PrefixStates, tokens: mx.array, key: mx.array | None = None) -> mx.array:
        """Last hidden states of the rows' own tokens, (B, T, hidden).

        Args:
            prefix: Tokens that open every row, (P,), which run once for all of them; or their keys and values.
            tokens: The rows' own, (B, T).
            key: Of the dropout; None is without.
        """
        if isinstance(prefix, list):
            cache = self._empty_caches()
            for layer, *held in zip(cache, prefix[::2], prefix[1::2], strict=True):
                layer.hold(*held)
            return self._run(tokens, cache, key)
        of_prefix, of_rows = (None, None) if key is None else mx.random.split(key)
        return self._run(tokens, self._prefix(prefix, of_prefix) if prefix.size else self._no_prefix(), of_rows)

    def _empty_caches(self) -> Caches:
        """A cache a layer that holds nothing yet."""
        nets = self.architecture.delta_nets
        return [PrefixCache(window=self._window) if net is None else PrefixStateCache() for net in nets]

    def _no_prefix(self) -> Caches | None:
        """What rows without a prefix run with: nothing, unless a window is ours to see to."""
        return self._empty_caches() if self._window else None

    def _prefix(self, tokens: mx.array, key: mx.array | None = None) -> Caches:
        """Caches that hold some tokens, (P,)."""
        cache = self._empty_caches()
        self._run(tokens[None], cache, key)
        return cache

    def _prefix_states(self, tokens: mx.array, key: mx.array) -> PrefixStates:
        """Keys and values of some tokens, (P,), of each layer in turn."""
        return [state for layer in self._prefix(tokens, key) for state in layer.held() or ()]

    def _run(self, tokens: mx.array, cache: Caches | None, key: mx.array | None) -> mx.array:
        with self._dropout_keys.used(None if key is None else mx.random.split(key, len(self._adapter.layers))):
            return self._network.model(tokens, cache)

    @contextmanager
    def _passes(self, what: str) -> Iterator[None]:
        """Around passes; where memory does not suffice for them, the message says what they were."""
        with self._parts.exchanging(), memory_for(what):
            yield

    # Scoring and generation

    def score(self, batch: Batch) -> TokenScores:
        """-log p of each supervised token, and whether none is likelier; dropout off, one forward pass for both."""
        inputs = _Inputs(batch, self._padding)
        self._parts.require_same((batch.prefix.tolist(), batch.tokens.tolist()))
        with self._passes(f"scoring {described([batch])}"):
            prefix, tokens, positions, targets, _ = inputs.arrays
            found = self._head.scores(self._predicting(prefix, tokens, positions), targets)
        nats, argmax = (self._parts.of_first(part[: inputs.n_supervised]) for part in found)  # without the padding
        return token_scores(batch, nats, argmax)

    def logits(self, tokens: Sequence[int], positions: Sequence[int] | None = None) -> NDArray[np.float32]:
        """Logits after some tokens of one sequence, (N, vocabulary), dropout off; None is after each.

        Computed in float32 whatever type the weights have: from float32 inputs on, MLX widens each as it multiplies.
        """
        self._parts.require_same((list(tokens), positions and list(positions)))
        inputs = mx.array(tokens)[None]
        with self._passes("computing logits"):
            with float32_embeddings(self._network.model):
                hidden = self._network.model(inputs, self._no_prefix())[0]
            return np.array(self._head(hidden if positions is None else hidden[mx.array(positions)]))

    def fold(self, types: Mapping[str, str]) -> None:
        """Fold the adapter into the weights, in place and layer by layer, each rounded once to the type it has in `types`."""
        fold(self._network, types)
        self._head = Head(self._network)
        self._adapter = NO_ADAPTER

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
        self._parts.require_same(([list(prompt) for prompt in prompts], max_new_tokens, temperature, seed, slots))
        limits = reply_limits(prompts, max_new_tokens, self.config)
        with memory_for(f"generating {described_replies(prompts, max_new_tokens)}"):
            head = self._head.widen()
            n_shared = common_length(prompts)
            n_slots = slots_within(
                slots,
                prompts,
                limits,
                self._parts.architecture_of(self.architecture),
                free_memory_bytes(),
                self._network.model.norm.weight.dtype.size,
            )
            n_slots = self._parts.fewest(n_slots)
            shared = self._prefix(mx.array(prompts[0][:n_shared])) if n_shared else self._empty_caches()
            session = MlxSession(self._network, head, shared, n_slots, self.architecture.windows, self._parts)
            own = [prompt[n_shared:] for prompt in prompts]
            yield from write_replies(session, own, limits, n_slots, stop_tokens, constraint, temperature, seed, numbers)

    def _float32_head(self) -> Callable[[mx.array], mx.array]:
        """The head for many calls: a 16-bit weight is widened once, and not for every token that is generated."""
        return self._head.widen()

    def choose(self, prompts: Sequence[Sequence[int]], options: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """Log-probability of each option's tokens after each prompt, (B, n_options), nats, dropout off.

        What all prompts open with is computed once, the rest of each prompt once, and what options share once. As many rows
        as fit run at a time, in one pass where the options are one tree.
        """
        require_prompts(prompts, options)
        require_room(prompts, options, self.config)
        self._parts.require_same([[list(one) for one in each] for each in (prompts, options)])
        with self._passes("choosing among options"):
            own = self._chosen(prompts, options)
        found: NDArray[np.float32] = self._parts.of_first(own)
        return found

    def _chosen(self, prompts: Sequence[Sequence[int]], options: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """What `choose` returns, of prompts and options that it can do with."""
        n_shared = common_length(prompts)
        shared = self._empty_caches()
        if n_shared:
            self._network.model(mx.array(prompts[0][:n_shared])[None], shared)
        head = self._float32_head()
        trees = list(option_trees(options))
        found = np.zeros((len(prompts), len(options)))
        for rows in row_groups(prompts, n_shared, max(len(tree.tokens) for tree in trees)):
            passes = [option_pass([prompts[row] for row in rows], n_shared, tree) for tree in trees]
            before = shared
            if (
                len(trees) > 1 or self.architecture.is_recurrent
            ):  # a state goes on from a prompt's last token, not from padding
                before = self._holding(passes[0].rest_of_prompts, passes[0].counted.sum(axis=1), shared)
                passes = [one.after_prompts() for one in passes]
            for tree, one in zip(trees, passes, strict=True):
                found[np.ix_(rows, tree.options)] = self._option_log_probabilities(tree, one, before, head)
        return found.astype(np.float32)

    def _holding(self, tokens: NDArray[np.int32], counts: NDArray[np.int64], before: Caches) -> Caches:
        """Caches that hold several rows' tokens, (R, W), the first `counts` of each, after what `before` holds, which stays as it is."""
        if not tokens.shape[1]:
            return before
        own = mx.array(counts)
        cache = [layer.growing(own) if isinstance(layer, PrefixStateCache) else layer.growing() for layer in before]
        self._network.model(mx.array(tokens), cache)
        return cache

    def _option_log_probabilities(
        self, tree: OptionTree, one: OptionPass, before: Caches, head: Callable[[mx.array], mx.array]
    ) -> NDArray[np.float64]:
        """Log-probability of each option of a tree at each row of a pass, (R, n)."""
        hidden = self._network.model(mx.array(one.tokens), tree_caches(before, one))
        nodes = hidden[:, -one.n_nodes :].reshape(-1, hidden.shape[-1])  # (R x N, hidden)
        found = np.zeros((len(one.tokens), len(tree.targets)))
        for part in node_targets(tree, len(one.tokens), NODES_OF_LOGITS):
            logits = head(nodes[part.nodes].astype(mx.float32))  # (n, vocabulary)
            predicting, targets = mx.array(part.predicting), mx.array(part.targets)
            log_p = logits[predicting, targets] - mx.logsumexp(logits, axis=-1)[predicting]
            found.reshape(-1)[part.places] = np.array(log_p)  # here, so that no part's logits outlive it
        return option_totals(tree, found)

    # State

    def save_state(self, folder: Path) -> None:
        """Write the values of what is trained and the optimizer's state into an existing folder."""
        if self._optimizer is None:
            raise RuntimeError("call prepare_training before save_state")
        moments = self._optimizer.state
        first, second = (self._lazily(moments, suffix) for suffix in (".m", ".v"))
        saved = TrainingState(self.trained_weights(), first, second, int(moments["step"]))
        write_state(folder, saved, is_adapter=not self._trains_all)

    def load_state(self, folder: Path) -> None:
        """Read what `save_state` wrote."""
        if self._optimizer is None:
            raise RuntimeError("call prepare_training before load_state")
        present, names = self.trained_weights(), dict(self._parameter_names())
        state = read_state(folder, tuple(present))
        require_shapes(folder, state, present.shapes)
        weights, moments = [], [("step", mx.array(state.steps, mx.uint64)), ("learning_rate", mx.array(0.0))]
        for name, parts in stacks(present).items():
            weights.append((names[name], self._to_device(joined(state.weights, parts))))
            moments.append((f"{names[name]}.m", self._to_device(joined(state.first_moments, parts))))
            moments.append((f"{names[name]}.v", self._to_device(joined(state.second_moments, parts))))
        self._network.load_weights(weights, strict=False)  # the frozen base stays as it is
        self._optimizer.state = tree_unflatten(moments)
        self._refresh_lengths()
        mx.eval(self._network.parameters(), self._optimizer.state)

    def _parameter_names(self) -> list[tuple[str, str]]:
        """Name at the seam, of experts that of their stack, and name in the network of each value that is trained."""
        if self._trains_all:
            return [(name, name) for name in self.architecture.weights]
        spec = self._adapter
        return [(f"{layer}.{part}", f"{layer}.{ON_DISK[part]}") for layer in spec.layers for part in spec.parts]

    def _refresh_lengths(self) -> None:
        """What DoRA's layers know of A and B, after these changed."""
        for module in self._network.modules():
            if isinstance(module, DoraLinear):
                module.refresh()


def _pass_of(batch: Batch, padding: PassPadding) -> Pass:
    inputs = _Inputs(batch, padding)
    prefix, *rows = inputs.arrays
    return Pass(prefix, tuple(rows), inputs.n_supervised)


class _Inputs:
    """A batch as MLX arrays: prefix, tokens, and for each supervised one where it is predicted, its id and its weight."""

    def __init__(self, batch: Batch, padding: PassPadding = EXACT) -> None:
        batch = padded_batch(batch, padding)
        found = supervised(batch)
        self.n_supervised = len(found)
        padded = found.padded(padding.positions(len(found)))
        arrays = (batch.prefix, batch.tokens[:, :-1], padded.positions, padded.targets, padded.weights)
        self.arrays = tuple(map(mx.array, arrays))
