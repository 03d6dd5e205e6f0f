"""A model loaded by MLX: LoRA layers, the training step, scoring and generation."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
from mlx.utils import tree_flatten, tree_map, tree_unflatten
from mlx_lm.generate import BatchGenerator
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.tuner.lora import LoRALinear
from numpy.typing import NDArray

from mlxtune.backends.base import (
    Batch,
    Constraint,
    Generation,
    LoraSpec,
    Matcher,
    OptimizerSpec,
    StepResult,
    TokenScores,
)
from mlxtune.backends.mlx.compiled import CompiledByShape
from mlxtune.backends.mlx.dropout import DropoutKeys, KeyedDropout
from mlxtune.backends.mlx.folding import embedded, fold
from mlxtune.backends.mlx.head import Head, to_numpy
from mlxtune.backends.mlx.memory import NO_LIMITS, MemoryLimits, give_back
from mlxtune.backends.mlx.prefix_cache import PrefixCache
from mlxtune.backends.mlx.recompute import checkpoint_blocks, keep_activations
from mlxtune.backends.mlx.runtime import memory_for
from mlxtune.backends.mlx.tree_cache import TreeCache
from mlxtune.backends.option_tree import OptionTree, option_trees
from mlxtune.backends.shapes import BUCKETED, EXACT, PassPadding
from mlxtune.backends.state import TrainingState, read_state, require_shapes, write_state
from mlxtune.backends.supervision import (
    common_length,
    described,
    dropout_seed,
    padded_batch,
    reply_limits,
    require_prompts,
    step_result,
    supervised,
    token_scores,
    total_weight,
)


class MlxModel:
    """A causal language model of mlx-lm behind the seam of `backends/base.py`.

    Args:
        network: mlx-lm's model: `network.model` gives hidden states, its head gives logits.
        config: The model folder's config.json.
        compiled: Compile the training step. Pays on a GPU; on a CPU it calls a C++ compiler for every shape.
        limits: What MLX may keep between steps.
    """

    def __init__(
        self, network: nn.Module, config: Mapping[str, Any], compiled: bool = False, limits: MemoryLimits = NO_LIMITS
    ) -> None:
        network.freeze()
        network.eval()
        self.config = config
        self.n_parameters = _count_parameters(network)
        self._network = network
        self._head = Head(network)
        self._compiled = compiled
        self._padding = BUCKETED if compiled else EXACT
        self._limits = limits
        self._layers: tuple[str, ...] = ()
        self._dropout_keys = DropoutKeys()
        self._optimizer: optim.AdamW | None = None
        self._spec: OptimizerSpec | None = None
        self._micro_step: Callable[..., Any] | None = None

    # The adapter

    def attach_lora(self, spec: LoraSpec, weights: Mapping[str, NDArray[np.float32]]) -> None:
        """Adapt the layers of `spec`, starting from `weights`: LAYER.lora_A (r, in) and LAYER.lora_B (out, r)."""
        modules = dict(self._network.named_modules())
        adapted = []
        for place, layer in enumerate(spec.layers):
            lora = LoRALinear.from_base(modules[layer], r=spec.rank, scale=spec.scale)
            lora.dropout = KeyedDropout(spec.dropout, self._dropout_keys, place)
            lora.lora_a = _to_device(weights[f"{layer}.lora_A"])
            lora.lora_b = _to_device(weights[f"{layer}.lora_B"])
            adapted.append((layer, lora))
        self._network.update_modules(tree_unflatten(adapted))
        self._network.freeze()
        self._network.unfreeze(keys=["lora_a", "lora_b"])
        self._network.eval()
        mx.eval(self._network.trainable_parameters())
        self._layers = spec.layers

    def adapter_weights(self) -> dict[str, NDArray[np.float32]]:
        """The adapter's present values, named and shaped as `attach_lora` takes them."""
        modules = dict(self._network.named_modules())
        weights: dict[str, NDArray[np.float32]] = {}
        for layer in self._layers:
            weights[f"{layer}.lora_A"] = _to_numpy(modules[layer].lora_a)
            weights[f"{layer}.lora_B"] = _to_numpy(modules[layer].lora_b)
        return weights

    # Training

    def prepare_training(self, spec: OptimizerSpec, gradient_checkpointing: bool = False) -> None:
        """Freeze all but the adapter and make an optimizer; with checkpointing, keep no activations inside blocks."""
        self._spec = spec
        if gradient_checkpointing:
            checkpoint_blocks(self._network.layers, self._dropout_keys)
        else:
            keep_activations(self._network.layers)
        self._optimizer = optim.AdamW(
            learning_rate=0.0,
            betas=list(spec.betas),
            eps=spec.eps,
            weight_decay=spec.weight_decay,
            bias_correction=True,
        )
        self._optimizer.init(self._network.trainable_parameters())
        self._head.widen()
        value_and_grad = nn.value_and_grad(self._network, self._weighted_nats)
        state = [self._network.state]
        self._micro_step = CompiledByShape(value_and_grad, state, state) if self._compiled else value_and_grad

    def train_step(self, batches: Sequence[Batch], learning_rate: float, step: int, n_segments: int) -> StepResult:
        """One optimizer step over all rows of all micro-batches; dropout is a function of (seed, step).

        The loss is sum(weight x nats) / sum(weight) over all of them: each micro-batch is divided by the whole step's
        weight before its gradient is added. A step whose gradient is not finite changes nothing and says so in its result.
        """
        if self._micro_step is None or self._optimizer is None or self._spec is None:
            raise RuntimeError("call prepare_training before train_step")
        self._network.train()
        try:
            with memory_for(f"step {step} ({described(batches)})"):
                nats, gradients = self._gradients(batches, dropout_seed(self._spec.seed, step))
                norm = mx.sqrt(sum(mx.sum(mx.square(value)) for _, value in tree_flatten(gradients)))
                result = step_result(batches, nats, n_segments, float(norm.item()))
        finally:
            self._network.eval()
        if math.isfinite(result.grad_norm) and math.isfinite(result.total_nats):
            limit = self._spec.max_grad_norm
            if limit is not None and result.grad_norm > limit:
                gradients = tree_map(lambda value: value * (limit / result.grad_norm), gradients)
            self._optimizer.learning_rate = learning_rate
            self._optimizer.update(self._network, gradients)
            mx.eval(self._network.trainable_parameters(), self._optimizer.state)
        give_back(self._limits)
        return result

    def _gradients(self, batches: Sequence[Batch], seed: int) -> tuple[list[NDArray[np.float32]], Any]:
        """The nats of each micro-batch's supervised tokens, (N,), and the gradient of the step's loss."""
        assert self._micro_step is not None
        following = mx.random.key(seed)
        total = mx.array(total_weight(batches), mx.float32)
        gradients: Any = None
        nats: list[NDArray[np.float32]] = []
        for batch in batches:
            inputs = _Inputs(batch, self._padding)
            following, key = mx.random.split(following)
            (_, found), gradient = self._micro_step(*inputs.arrays, total, key)
            gradients = gradient if gradients is None else tree_map(mx.add, gradients, gradient)
            nats.append(to_numpy(found)[: inputs.n_supervised])
            mx.eval(gradients)  # here, so that no micro-batch's activations outlive it
        return nats, gradients

    def _weighted_nats(
        self,
        prefix: mx.array,
        tokens: mx.array,
        positions: mx.array,
        targets: mx.array,
        weights: mx.array,
        total: mx.array,
        key: mx.array,
    ) -> tuple[mx.array, list[mx.array]]:
        """Loss of one micro-batch and the nats of its supervised tokens, in chunks; dropout is a function of `key`."""
        nats = self._head.nats(self._predicting(prefix, tokens, positions, key), targets)
        return mx.sum(mx.concatenate(nats) * weights) / total, nats

    def _predicting(
        self, prefix: mx.array, tokens: mx.array, positions: mx.array, key: mx.array | None = None
    ) -> mx.array:
        """Hidden states at the positions that predict a target, (N, hidden): the head runs on no others."""
        hidden = self._hidden(prefix, tokens, key)
        return hidden.reshape(-1, hidden.shape[-1])[positions]

    def _hidden(self, prefix: mx.array, tokens: mx.array, key: mx.array | None = None) -> mx.array:
        """Last hidden states of the rows' own tokens, (B, T, hidden); the prefix, (P,), runs once for all rows."""
        of_prefix, of_rows = (None, None) if key is None else mx.random.split(key)
        cache = None
        if prefix.size:
            cache = [PrefixCache() for _ in self._network.layers]
            self._run(prefix[None], cache, of_prefix)
        return self._run(tokens, cache, of_rows)

    def _run(self, tokens: mx.array, cache: list[PrefixCache] | None, key: mx.array | None) -> mx.array:
        with self._dropout_keys.used(None if key is None else mx.random.split(key, len(self._layers))):
            return self._network.model(tokens, cache)

    # Scoring and generation

    def score(self, batch: Batch) -> TokenScores:
        """-log p of each supervised token, and whether none is likelier; dropout off, one forward pass for both."""
        inputs = _Inputs(batch, self._padding)
        with memory_for(f"scoring {described([batch])}"):
            prefix, tokens, positions, targets, _ = inputs.arrays
            nats, argmax = self._head.scores(self._predicting(prefix, tokens, positions), targets)
            own = slice(inputs.n_supervised)  # without the padding
            return token_scores(batch, nats[own], argmax[own])

    @memory_for("computing logits")
    def logits(self, tokens: Sequence[int], positions: Sequence[int] | None = None) -> NDArray[np.float32]:
        """Logits after some tokens of one sequence, (N, vocabulary), dropout off; None is after each.

        Computed in float32 whatever type the weights have: from float32 inputs on, MLX widens each as it multiplies.
        """
        inputs = mx.array(tokens)[None]
        hidden = self._network.model(inputs, None, embedded(self._network.model.embed_tokens, inputs))[0]
        return np.array(self._head(hidden if positions is None else hidden[mx.array(positions)]))

    def fold(self, types: Mapping[str, str]) -> None:
        """Fold the adapter into the weights, in place and layer by layer, each rounded once to the type it has in `types`."""
        fold(self._network, types)
        self._head = Head(self._network)
        self._layers = ()

    @memory_for("generating a batch of replies")
    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        stop_tokens: Sequence[int],
        constraint: Constraint | None = None,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> list[Generation]:
        """Replies to all prompts, as one batch; what all prompts open with is computed once.

        Greedy at temperature 0, else sampled: the same replies for the same prompts in the same order and seed. Tokens are
        taken by the float32 logits that `score` and `choose` use.
        """
        require_prompts(prompts)
        limits = reply_limits(prompts, max_new_tokens, self.config)
        shared = common_length(prompts)
        caches = self._prefix_caches(prompts[0][:shared], len(prompts)) if shared else None
        generator = BatchGenerator(
            _LastLogits(self._network, self._float32_head()),
            stop_tokens=[[token] for token in stop_tokens],
            sampler=_Sampler(temperature, seed) if temperature > 0 else None,
            completion_batch_size=len(prompts),
            prefill_batch_size=len(prompts),
        )
        processors = [[_Constrained(constraint.start())] for _ in prompts] if constraint else None
        try:
            ids = generator.insert(
                [list(prompt[shared:]) for prompt in prompts],
                limits,
                caches=caches,
                logits_processors=processors,
            )
            tokens: dict[int, list[int]] = {number: [] for number in ids}
            reasons = dict.fromkeys(ids, "length")
            while responses := generator.next_generated():
                for response in responses:
                    if response.finish_reason == "stop":
                        reasons[response.uid] = "stop"
                    else:
                        tokens[response.uid].append(int(response.token))
        finally:
            generator.close()
        return [Generation(tuple(tokens[number]), reasons[number]) for number in ids]

    def _float32_head(self) -> Callable[[mx.array], mx.array]:
        """The head for many calls: a 16-bit weight is widened once, and not for every token that is generated."""
        return self._head.widen()

    def _prefix_caches(self, prefix: Sequence[int], rows: int) -> list[list[Any]]:
        """One cache a row and layer, all holding the prefix's keys and values; the generator copies before it writes."""
        cache = make_prompt_cache(self._network)
        self._network.model(mx.array(prefix)[None], cache)
        mx.eval([layer.state for layer in cache])
        return [cache] * rows

    @memory_for("choosing among options")
    def choose(self, prompts: Sequence[Sequence[int]], options: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """Log-probability of each option's tokens after each prompt, (B, n_options), nats, dropout off.

        What all prompts open with is computed once, the rest of each prompt once, and what options share once.
        """
        require_prompts(prompts, options)
        n_shared = common_length(prompts)
        shared = [PrefixCache() for _ in self._network.layers]
        if n_shared:
            self._network.model(mx.array(prompts[0][:n_shared])[None], shared)
        trees = list(option_trees(options))
        found = np.zeros((len(prompts), len(options)))
        for row, prompt in enumerate(prompts):
            cache = shared
            if len(prompt) - 1 > n_shared:
                cache = [layer.growing() for layer in shared]
                self._network.model(mx.array(prompt[n_shared:-1])[None], cache)
            for tree in trees:
                found[row, tree.options] = self._option_log_probabilities(prompt[-1], tree, cache)
        return found.astype(np.float32)

    def _option_log_probabilities(self, last: int, tree: OptionTree, cache: list[PrefixCache]) -> NDArray[np.float64]:
        """Log-probability of each option of a tree after the prompt that `cache` holds all but the last token of."""
        tokens = tree.tokens.copy()
        tokens[0] = last
        hidden = self._network.model(mx.array(tokens)[:, None], [TreeCache(layer, tree) for layer in cache])
        logits = self._head(hidden[:, 0].astype(mx.float32))  # (nodes, vocabulary), float32 whatever the weights are
        log_normal = mx.logsumexp(logits, axis=-1)
        predicting, targets = mx.array(tree.predicting), mx.array(tree.targets)
        nats = log_normal[predicting] - logits[predicting, targets]
        totals = np.zeros(len(tree.options))
        np.subtract.at(totals, tree.owners, np.array(nats, np.float64))
        return totals

    # State

    def save_state(self, folder: Path) -> None:
        """Write adapter values and optimizer state into an existing folder."""
        if self._optimizer is None:
            raise RuntimeError("call prepare_training before save_state")
        moments = dict(tree_flatten(self._optimizer.state))
        write_state(
            folder,
            TrainingState(
                self.adapter_weights(),
                {name: _to_numpy(moments[f"{own}.m"]) for name, own in self._parameter_names()},
                {name: _to_numpy(moments[f"{own}.v"]) for name, own in self._parameter_names()},
                int(moments["step"]),
            ),
        )

    def load_state(self, folder: Path) -> None:
        """Read what `save_state` wrote."""
        if self._optimizer is None:
            raise RuntimeError("call prepare_training before load_state")
        state = read_state(folder, self._layers)
        require_shapes(folder, state, self.adapter_weights())
        weights, moments = [], [("step", mx.array(state.steps, mx.uint64)), ("learning_rate", mx.array(0.0))]
        for name, own in self._parameter_names():
            weights.append((own, _to_device(state.weights[name])))
            moments.append((f"{own}.m", _to_device(state.first_moments[name])))
            moments.append((f"{own}.v", _to_device(state.second_moments[name])))
        self._network.load_weights(weights, strict=False)  # the frozen base stays as it is
        self._optimizer.state = tree_unflatten(moments)
        mx.eval(self._network.trainable_parameters(), self._optimizer.state)

    def _parameter_names(self) -> list[tuple[str, str]]:
        """Name at the seam and name in the network of each of the adapter's parameters."""
        parts = (("lora_A", "lora_a"), ("lora_B", "lora_b"))
        return [(f"{layer}.{seam}", f"{layer}.{own}") for layer in self._layers for seam, own in parts]


def _to_device(value: NDArray[np.float32]) -> mx.array:
    """A factor as mlx-lm multiplies it, x @ a @ b, so (in, r) or (r, out); at the seam (r, in) or (out, r), as in PEFT."""
    return mx.array(np.ascontiguousarray(value.T))


def _to_numpy(value: mx.array) -> NDArray[np.float32]:
    return np.array(value.T, np.float32)


class _LastLogits:
    """A network as mlx-lm's generator calls it: logits of the last position alone, in float32.

    Args:
        network: mlx-lm's model; what it has beside its call, its layers and caches, is found here too.
        head: Float32 hidden states -> logits.
    """

    def __init__(self, network: nn.Module, head: Callable[[mx.array], mx.array]) -> None:
        self._network = network
        self._head = head

    def __call__(self, inputs: mx.array, cache: Any = None, input_embeddings: mx.array | None = None) -> mx.array:
        hidden = self._network.model(inputs, cache, input_embeddings)
        return self._head(hidden[:, -1:].astype(mx.float32))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._network, name)


class _Sampler:
    """Draws the next token of each reply from a key of its own, so that no other draw in the process changes it."""

    def __init__(self, temperature: float, seed: int) -> None:
        self._temperature = temperature
        self._key = mx.random.key(seed)

    def __call__(self, log_probabilities: mx.array) -> mx.array:
        keys = mx.random.split(self._key)
        self._key = keys[0]
        return mx.random.categorical(log_probabilities / self._temperature, key=keys[1])


class _Constrained:
    """A logits processor of mlx-lm that lets one reply take only the tokens its matcher allows."""

    def __init__(self, matcher: Matcher) -> None:
        self._matcher = matcher
        self._started = False

    def __call__(self, tokens: mx.array, logits: mx.array) -> mx.array:
        if self._started:
            self._matcher.advance(int(tokens[-1].item()))
        self._started = True
        return mx.where(mx.array(self._matcher.mask()), logits, -mx.inf)


class _Inputs:
    """A batch as MLX arrays: prefix, tokens, and for each supervised one where it is predicted, its id and its weight."""

    def __init__(self, batch: Batch, padding: PassPadding = EXACT) -> None:
        batch = padded_batch(batch, padding)
        found = supervised(batch)
        self.n_supervised = len(found)
        padded = found.padded(padding.positions(len(found)))
        arrays = (batch.prefix, batch.tokens[:, :-1], padded.positions, padded.targets, padded.weights)
        self.arrays = tuple(map(mx.array, arrays))


def _count_parameters(network: nn.Module) -> int:
    from mlx_lm.utils import get_total_parameters

    return int(get_total_parameters(network))
