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

from mlxtune.backends.base import Batch, Constraint, Generation, LoraSpec, Matcher, OptimizerSpec, StepResult
from mlxtune.backends.mlx.option_tree import OptionTree, TreeCache, option_trees
from mlxtune.backends.mlx.prefix_cache import PrefixCache
from mlxtune.errors import AdapterError

ADAPTER_FILE = "adapter.safetensors"
OPTIMIZER_FILE = "optimizer.safetensors"
# Supervised positions are padded to a multiple of this, so that a compiled step meets few shapes.
POSITION_MULTIPLE = 32


class MlxModel:
    """A causal language model of mlx-lm behind the seam of `backends/base.py`.

    Args:
        network: mlx-lm's model: `network.model` gives hidden states, its head gives logits.
        config: The model folder's config.json.
        compiled: Compile the training step. Pays on a GPU; on a CPU it calls a C++ compiler for every shape.
    """

    def __init__(self, network: nn.Module, config: Mapping[str, Any], compiled: bool = False) -> None:
        network.freeze()
        network.eval()
        self.config = config
        self.n_parameters = _count_parameters(network)
        self._network = network
        self._compiled = compiled
        self._layers: tuple[str, ...] = ()
        self._optimizer: optim.AdamW | None = None
        self._spec: OptimizerSpec | None = None
        self._micro_step: Callable[..., Any] | None = None

    # The adapter

    def attach_lora(self, spec: LoraSpec, weights: Mapping[str, NDArray[np.float32]]) -> None:
        """Adapt the layers of `spec`, starting from `weights`: LAYER.lora_A (r, in) and LAYER.lora_B (out, r)."""
        modules = dict(self._network.named_modules())
        adapted = []
        for layer in spec.layers:
            lora = LoRALinear.from_base(modules[layer], r=spec.rank, dropout=spec.dropout, scale=spec.scale)
            # (r, in) and (out, r) at the seam, as PEFT; mlx-lm multiplies x @ a @ b, so (in, r) and (r, out).
            lora.lora_a = mx.array(np.ascontiguousarray(weights[f"{layer}.lora_A"].T))
            lora.lora_b = mx.array(np.ascontiguousarray(weights[f"{layer}.lora_B"].T))
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
            weights[f"{layer}.lora_A"] = np.array(modules[layer].lora_a.T, np.float32)
            weights[f"{layer}.lora_B"] = np.array(modules[layer].lora_b.T, np.float32)
        return weights

    # Training

    def prepare_training(self, spec: OptimizerSpec) -> None:
        """Freeze all but the adapter and make an optimizer."""
        self._spec = spec
        self._optimizer = optim.AdamW(
            learning_rate=0.0,
            betas=list(spec.betas),
            eps=spec.eps,
            weight_decay=spec.weight_decay,
            bias_correction=True,
        )
        self._optimizer.init(self._network.trainable_parameters())
        value_and_grad = nn.value_and_grad(self._network, self._weighted_nats)
        # Dropout draws from MLX's global state, which a compiled function must be told of.
        state = [self._network.state, mx.random.state]
        self._micro_step = mx.compile(value_and_grad, inputs=state, outputs=state) if self._compiled else value_and_grad

    def train_step(self, batches: Sequence[Batch], learning_rate: float, step: int, n_segments: int) -> StepResult:
        """One optimizer step over all rows of all micro-batches; dropout is a function of (seed, step).

        The loss is sum(weight x nats) / sum(weight) over all of them: each micro-batch is divided by the whole step's
        weight before its gradient is added. A step whose gradient is not finite changes nothing and says so in its result.
        """
        if self._micro_step is None or self._optimizer is None or self._spec is None:
            raise RuntimeError("prepare_training comes before train_step")
        mx.random.seed(_dropout_seed(self._spec.seed, step))
        self._network.train()
        total_weight = math.fsum(float(batch.weights.sum(dtype=np.float64)) for batch in batches)
        total_nats = 0.0
        segment_nats = np.zeros(n_segments)
        segment_tokens = np.zeros(n_segments, np.int64)
        gradients: Any = None
        for batch in batches:
            inputs = _supervised_inputs(batch)
            (_, nats), gradient = self._micro_step(*inputs.arrays, mx.array(total_weight, mx.float32))
            gradients = gradient if gradients is None else tree_map(mx.add, gradients, gradient)
            mx.eval(nats, gradients)  # here, so that no micro-batch's activations outlive it
            own = np.array(nats, np.float64)[: inputs.n_supervised]
            total_nats += float(own @ batch.weights[batch.supervised].astype(np.float64))
            segments = batch.segments[batch.supervised]
            segment_nats += np.bincount(segments, own, n_segments)
            segment_tokens += np.bincount(segments, minlength=n_segments)
        self._network.eval()
        norm = mx.sqrt(sum(mx.sum(mx.square(value)) for _, value in tree_flatten(gradients)))
        grad_norm = float(norm.item())
        if math.isfinite(grad_norm) and math.isfinite(total_nats):
            limit = self._spec.max_grad_norm
            if limit is not None and grad_norm > limit:
                gradients = tree_map(lambda value: value * (limit / grad_norm), gradients)
            self._optimizer.learning_rate = learning_rate
            self._optimizer.update(self._network, gradients)
            mx.eval(self._network.trainable_parameters(), self._optimizer.state)
        return StepResult(total_nats, total_weight, segment_nats, segment_tokens, grad_norm)

    def _weighted_nats(
        self,
        prefix: mx.array,
        tokens: mx.array,
        positions: mx.array,
        targets: mx.array,
        weights: mx.array,
        total: mx.array,
    ) -> tuple[mx.array, mx.array]:
        """Loss of one micro-batch and the nats of its supervised tokens, (N,)."""
        nats = self._nats(prefix, tokens, positions, targets)
        return mx.sum(nats * weights) / total, nats

    def _nats(self, prefix: mx.array, tokens: mx.array, positions: mx.array, targets: mx.array) -> mx.array:
        """-log p of each target, (N,), float32. The head runs on the positions that predict a target only."""
        hidden = self._hidden(prefix, tokens)
        predicting = hidden.reshape(-1, hidden.shape[-1])[positions]  # (N, hidden)
        logits = self._head(predicting.astype(mx.float32))  # (N, vocabulary), float32 whatever the weights are
        return mx.logsumexp(logits, axis=-1) - mx.take_along_axis(logits, targets[:, None], axis=-1)[:, 0]

    def _hidden(self, prefix: mx.array, tokens: mx.array) -> mx.array:
        """Last hidden states of the rows' own tokens, (B, T, hidden); the prefix, (P,), runs once for all rows."""
        if prefix.size == 0:
            return self._network.model(tokens)
        cache = [PrefixCache() for _ in self._network.layers]
        self._network.model(prefix[None], cache)
        return self._network.model(tokens, cache)

    def _head(self, hidden: mx.array) -> mx.array:
        if "lm_head" in self._network:
            return self._network.lm_head(hidden)
        return self._network.model.embed_tokens.as_linear(hidden)

    # Scoring and generation

    def score(self, batch: Batch) -> NDArray[np.float32]:
        """-log p of each token in nats, (B, T), dropout off; 0 where unsupervised."""
        inputs = _supervised_inputs(batch)
        prefix, tokens, positions, targets, _ = inputs.arrays
        nats = np.array(self._nats(prefix, tokens, positions, targets), np.float32)[: inputs.n_supervised]
        scores = np.zeros(batch.tokens.shape, np.float32)
        scores[batch.supervised] = nats
        return scores

    def logits(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Logits after each token of one sequence, (T, vocabulary), dropout off."""
        return np.array(self._network(mx.array(tokens)[None])[0].astype(mx.float32))

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

        Greedy at temperature 0, else sampled: the same replies for the same prompts in the same order and seed.
        """
        if not prompts or min(map(len, prompts)) == 0:
            raise ValueError("generate needs prompts of at least one token each")
        shared = _common_length(prompts)
        caches = self._prefix_caches(prompts[0][:shared], len(prompts)) if shared else None
        generator = BatchGenerator(
            self._network,
            stop_tokens=[[token] for token in stop_tokens],
            sampler=_Sampler(temperature, seed) if temperature > 0 else None,
            completion_batch_size=len(prompts),
            prefill_batch_size=len(prompts),
        )
        processors = [[_Constrained(constraint.start())] for _ in prompts] if constraint else None
        try:
            ids = generator.insert(
                [list(prompt[shared:]) for prompt in prompts],
                [max_new_tokens] * len(prompts),
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

    def _prefix_caches(self, prefix: Sequence[int], rows: int) -> list[list[Any]]:
        """One cache a row and layer, all holding the prefix's keys and values; the generator copies before it writes."""
        cache = make_prompt_cache(self._network)
        self._network.model(mx.array(prefix)[None], cache)
        mx.eval([layer.state for layer in cache])
        return [cache] * rows

    def choose(self, prompts: Sequence[Sequence[int]], options: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """Log-probability of each option's tokens after each prompt, (B, n_options), nats, dropout off.

        What all prompts open with is computed once, the rest of each prompt once, and what options share once.
        """
        if not prompts or not options or min(map(len, [*prompts, *options])) == 0:
            raise ValueError("choose needs prompts and options of at least one token each")
        n_shared = _common_length(prompts)
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
            raise RuntimeError("prepare_training comes before save_state")
        mx.save_safetensors(str(folder / ADAPTER_FILE), dict(tree_flatten(self._network.trainable_parameters())))
        mx.save_safetensors(str(folder / OPTIMIZER_FILE), dict(tree_flatten(self._optimizer.state)))

    def load_state(self, folder: Path) -> None:
        """Read what `save_state` wrote."""
        if self._optimizer is None:
            raise RuntimeError("prepare_training comes before load_state")
        weights = mx.load(str(folder / ADAPTER_FILE))
        expected = dict(tree_flatten(self._network.trainable_parameters()))
        if weights.keys() != expected.keys():
            raise AdapterError(f"{folder}: its adapter is not of the layers that this one adapts")
        self._network.load_weights(list(weights.items()), strict=False)  # the frozen base stays as it is
        self._optimizer.state = tree_unflatten(list(mx.load(str(folder / OPTIMIZER_FILE)).items()))
        mx.eval(self._network.trainable_parameters(), self._optimizer.state)


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


class _SupervisedInputs:
    """A batch as MLX arrays: all tokens, and for each supervised one where it is predicted, its id and its weight."""

    def __init__(self, arrays: tuple[mx.array, ...], n_supervised: int) -> None:
        self.arrays = arrays
        self.n_supervised = n_supervised


def _supervised_inputs(batch: Batch) -> _SupervisedInputs:
    """Indices are computed here, on the host: a compiled step has no shape that depends on data."""
    rows, columns = np.nonzero(batch.supervised)
    if len(columns) and columns.min() == 0:
        raise ValueError("a supervised token stands first in its row, where nothing predicts it")
    width = batch.tokens.shape[1] - 1  # the last token predicts nothing
    n_supervised = len(rows)
    n_padded = -(-n_supervised // POSITION_MULTIPLE) * POSITION_MULTIPLE
    positions = np.zeros(n_padded, np.int32)
    targets = np.zeros(n_padded, np.int32)
    weights = np.zeros(n_padded, np.float32)  # padding repeats position 0 with no weight
    positions[:n_supervised] = rows * width + columns - 1
    targets[:n_supervised] = batch.tokens[rows, columns]
    weights[:n_supervised] = batch.weights[rows, columns]
    arrays = (batch.prefix, batch.tokens[:, :-1], positions, targets, weights)
    return _SupervisedInputs(tuple(mx.array(array) for array in arrays), n_supervised)


def _dropout_seed(seed: int, step: int) -> int:
    return int(np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0])


def _common_length(prompts: Sequence[Sequence[int]]) -> int:
    """Tokens that open all prompts, leaving each at least one of its own."""
    limit = min(map(len, prompts)) - 1
    first = prompts[0]
    return next((at for at in range(limit) if any(prompt[at] != first[at] for prompt in prompts)), limit)


def _count_parameters(network: nn.Module) -> int:
    from mlx_lm.utils import get_total_parameters

    return int(get_total_parameters(network))
