"""The PyTorch backend against PEFT and transformers themselves, and what only it does: packed rows, quantized weights, GPUs."""

from __future__ import annotations

import functools
import json
import math
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from mlxtune.backends.base import Batch, LoraSpec, OptimizerSpec, in_order
from mlxtune.data.batches import build_batches, shared_prefix
from mlxtune.data.examples import Example
from mlxtune.errors import BackendError, ModelError, OutOfMemory
from tests.adapted import N_SEGMENTS, Values, adapted, adapter_of, assert_close, examples_of, gradient_of, loaded
from tests.architectures import linear_layers
from tests.tiny import tiny_config, tiny_model

torch = pytest.importorskip("torch")

from mlxtune.backends.torch import head as head_module  # noqa: E402 - after the check that torch is there
from mlxtune.backends.torch import quantized_linear as quantized_module  # noqa: E402
from mlxtune.backends.torch.affine import Packed, quantize  # noqa: E402
from mlxtune.backends.torch.backend import TorchBackend  # noqa: E402
from mlxtune.backends.torch.head import Float32Head, nats_and_argmax, nats_and_gradient  # noqa: E402
from mlxtune.backends.torch.packing import pack  # noqa: E402
from mlxtune.backends.torch.quantized_linear import QuantizedEmbedding, QuantizedLinear, QuantizedWeight  # noqa: E402
from mlxtune.backends.torch.runtime import memory_for, pick_device  # noqa: E402

CLASS_WEIGHTS: dict[str, Any] = {
    "template": "{intents}",
    "fields": {
        "intents": {"kind": "labels", "labels": ["user_auth", "order_management", "payment", "none"],
                    "exclusive": "none", "class_weights": {"payment": 3.0}}
    },
}  # fmt: skip


# PEFT and transformers as the oracle


def peft_model(folder: Path, spec: LoraSpec, weights: Values) -> Any:
    """The model as a user of PEFT would write it down."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32)
    targets = sorted({layer.rpartition(".")[2] for layer in spec.layers})
    config = LoraConfig(r=spec.rank, lora_alpha=spec.scale * spec.rank, target_modules=targets, task_type="CAUSAL_LM")
    model = get_peft_model(base, config)
    values = dict(model.named_parameters())
    for name, value in weights.items():
        layer, _, part = name.rpartition(".")
        values[f"base_model.model.{layer}.{part}.default.weight"].data = torch.tensor(value)
    return model


def collated(examples: Sequence[Example]) -> tuple[Any, Any, Any, Any]:
    """Whole rows padded on the right as TRL and transformers' collators do: ids, mask, labels (-100: none), weights."""
    width = max(example.n_tokens for example in examples)
    ids = torch.zeros(len(examples), width, dtype=torch.long)
    mask, labels, weights = torch.zeros_like(ids), torch.full_like(ids, -100), torch.zeros(len(examples), width)
    for row, example in enumerate(examples):
        tokens, n_prompt = [*example.prompt.tolist(), *example.reply.tolist()], len(example.prompt)
        ids[row, : len(tokens)], mask[row, : len(tokens)] = torch.tensor(tokens), 1
        labels[row, n_prompt : len(tokens)] = torch.tensor(tokens[n_prompt:])
        weights[row, n_prompt : len(tokens)] = torch.tensor(np.asarray(example.weights))
    return ids, mask, labels, weights


def test_loss_and_gradient_equal_a_step_written_with_peft(any_base: Path, tmp_path: Path) -> None:
    examples, _ = examples_of(any_base, tmp_path, output=CLASS_WEIGHTS)
    ours, spec = loaded(TorchBackend(), any_base)
    weights = ours.adapter_weights()
    theirs = peft_model(any_base, spec, weights).train()
    ids, mask, labels, loss_weights = collated(examples)
    logits = theirs(input_ids=ids, attention_mask=mask).logits[:, :-1]
    nats = torch.nn.functional.cross_entropy(logits.transpose(1, 2), labels[:, 1:], reduction="none", ignore_index=-100)
    loss = (nats * loss_weights[:, 1:]).sum() / loss_weights.sum()
    loss.backward()
    gradient = {
        name.removeprefix("base_model.model.").removesuffix(".default.weight"): parameter.grad.numpy()
        for name, parameter in theirs.named_parameters()
        if parameter.grad is not None
    }
    assert 3.0 in loss_weights
    order = build_batches(examples, [[0, 1, 2], [3, 4, 5, 6]], shared_prefix(examples))
    assert_close(gradient_of(ours, order), gradient, 1e-5)
    ours.prepare_training(OptimizerSpec(0.0, None, 0))
    assert ours.train_step(order, 0.0, 1, N_SEGMENTS).loss == pytest.approx(loss.item(), abs=1e-5)


def test_the_first_batchs_loss_is_that_of_labels_of_minus_100(any_base: Path, tmp_path: Path) -> None:
    examples, recipe = examples_of(any_base, tmp_path)
    ours, spec = loaded(TorchBackend(), any_base)
    theirs = peft_model(any_base, spec, ours.adapter_weights())
    first = examples[: recipe.train.batch_size]
    ids, mask, labels, _ = collated(first)
    with torch.no_grad():
        wanted = float(theirs(input_ids=ids, attention_mask=mask, labels=labels).loss)
    ours.prepare_training(OptimizerSpec(0.0, None, 0))
    (batch,) = build_batches(examples, [list(range(len(first)))], shared_prefix(examples))
    assert ours.train_step([batch], 0.0, 1, N_SEGMENTS).loss == pytest.approx(wanted, abs=1e-5)


def test_steps_equal_those_of_pefts_model_under_torchs_own_adamw_and_clipping(base: Path, tmp_path: Path) -> None:
    examples, _ = examples_of(base, tmp_path)
    ours, spec = loaded(TorchBackend(), base)
    before = ours.adapter_weights()
    theirs = peft_model(base, spec, before).train()
    ids, mask, labels, _ = collated(examples)
    parameters = [parameter for parameter in theirs.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-2, weight_decay=0.1, foreach=False)
    ours.prepare_training(OptimizerSpec(0.1, 0.5, 0))
    (batch,) = build_batches(examples, [list(range(len(examples)))], shared_prefix(examples))
    for step in range(1, 6):
        optimizer.zero_grad()
        loss = theirs(input_ids=ids, attention_mask=mask, labels=labels).loss
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, 0.5)
        optimizer.step()
        result = ours.train_step([batch], 1e-2, step, N_SEGMENTS)
        assert result.loss == pytest.approx(loss.item(), abs=1e-4)
        assert result.grad_norm == pytest.approx(float(norm), rel=1e-3) and float(norm) > 0.5


# Packed rows


def batch_of(lengths: Sequence[int], prefix: int = 3) -> Batch:
    """Rows of random tokens, the last two of each supervised."""
    random = np.random.default_rng(0)
    width = max(lengths)
    tokens = np.zeros((len(lengths), width), np.int32)
    segments = np.full(tokens.shape, -1, np.int16)
    for row, length in enumerate(lengths):
        tokens[row, :length] = random.integers(1, 440, length)
        segments[row, length - 2 : length] = 0
    weights = (segments == 0).astype(np.float32)
    rows = tuple(range(len(lengths)))
    return Batch(np.arange(1, prefix + 1, dtype=np.int32), tokens, np.array(lengths, np.int32), weights, segments, rows)


@pytest.mark.parametrize(
    ("lengths", "length", "shape"),
    [
        ([5, 9, 4, 3], 100, (1, 17)),  # all fit one line
        ([5, 9, 4, 3], 9, (2, 9)),
        ([7, 7, 7, 7, 4, 4], 24, (2, 15)),  # not 24 and 6
        ([5, 9, 4, 3], 1, (3, 8)),  # as long as the longest row
        ([7], 100, (1, 6)),
        ([4, 4, 4], 1, (3, 3)),  # each row alone
    ],
)
def test_lines_hold_each_token_once_beside_its_own_row_only(
    lengths: list[int], length: int, shape: tuple[int, int]
) -> None:
    batch = batch_of(lengths)
    packed = pack(batch, length)
    assert packed.tokens.shape == shape
    seen = (
        np.broadcast_to(np.tri(shape[1], dtype=np.bool_), (*shape, shape[1]))
        if packed.visible is None
        else packed.visible
    )
    flat = packed.tokens.reshape(-1)
    for position, target, (row, column) in zip(
        packed.supervised.positions, packed.supervised.targets, np.argwhere(batch.supervised), strict=True
    ):
        line, place = divmod(int(position), shape[1])
        assert target == batch.tokens[row, column]
        assert packed.offsets[line, place] == column - 1
        attended = packed.tokens[line][seen[line, place]]
        np.testing.assert_array_equal(attended, batch.tokens[row, :column])
        assert flat[position] == batch.tokens[row, column - 1]


@pytest.mark.parametrize(("lengths", "inside"), [([5, 9, 4, 3], 3), ([7], 3), ([30, 600], 0)])
def test_a_prefix_is_in_the_line_where_one_is_enough(lengths: list[int], inside: int) -> None:
    batch = batch_of(lengths)
    apart, packed = pack(batch), pack(batch, with_prefix=True)
    assert len(packed.prefix) == 3 - inside and len(apart.prefix) == 3
    np.testing.assert_array_equal(packed.tokens[0, :inside], batch.prefix[:inside])
    np.testing.assert_array_equal(packed.tokens[:, inside:], apart.tokens)
    np.testing.assert_array_equal(packed.offsets[:, inside:], apart.offsets + inside)
    if inside and packed.visible is not None:
        assert packed.visible[0, inside:, :inside].all() and not np.triu(packed.visible[0], 1).any()


@pytest.mark.parametrize("prefix", [0, 3])
def test_how_rows_are_laid_changes_no_gradient(base: Path, monkeypatch: pytest.MonkeyPatch, prefix: int) -> None:
    from mlxtune.backends.torch import model as module

    model, _ = loaded(TorchBackend(), base)
    batch = batch_of([5, 30, 4, 3, 17, 8], prefix)
    gradients = []
    for length, inside in ((512, True), (512, False), (30, True), (1, False)):
        monkeypatch.setattr(module, "pack", functools.partial(_pack, length=length, inside=inside))
        gradients.append(gradient_of(model, [batch]))
    for other in gradients[1:]:
        assert_close(other, gradients[0], 1e-5)


def _pack(batch: Batch, with_prefix: bool, apart: bool, length: int, inside: bool) -> Any:
    return pack(batch, length, with_prefix and inside, apart)


def test_logits_of_many_positions_are_computed_in_parts_with_the_same_gradient_and_scores(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = loaded(TorchBackend(), base)
    batch = batch_of([5, 9, 4, 3])
    at_once, scores = gradient_of(model, [batch]), model.score(batch)
    monkeypatch.setattr(head_module, "POSITIONS_AT_ONCE", 3)
    assert_close(gradient_of(model, [batch]), at_once, 1e-6)
    np.testing.assert_allclose(model.score(batch).nats, scores.nats, atol=1e-5)
    assert np.array_equal(model.score(batch).correct, scores.correct)


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "quantized"])
def test_the_heads_gradient_equals_that_of_cross_entropy(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    linear = torch.nn.Linear(32, 50, bias=False).requires_grad_(False)
    packed = QuantizedLinear(QuantizedWeight(quantize(linear.weight, 32, 8)))
    own: Any = packed if kind == "quantized" else linear.to(getattr(torch, kind))
    weight = packed.packed.rows(0, 50, torch.float32) if kind == "quantized" else linear.weight.float()
    hidden, targets, weights = torch.randn(7, 32, requires_grad=True), torch.randint(50, (7,)), torch.rand(7)
    wanted = torch.nn.functional.cross_entropy(5 * hidden @ weight.T, targets, reduction="none")
    (wanted_gradient,) = torch.autograd.grad((wanted * weights).sum(), hidden)
    monkeypatch.setattr(head_module, "POSITIONS_AT_ONCE", 3)
    nats, gradient = nats_and_gradient(Float32Head(own), 5 * hidden, targets, weights)
    torch.testing.assert_close(nats, wanted, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(5 * gradient, wanted_gradient, rtol=1e-5, atol=1e-6)


# Packed weights


@pytest.fixture
def packed_weight() -> tuple[QuantizedWeight, Any]:
    """A packed weight (96, 64), and its values."""
    weight = torch.randn(96, 64, generator=torch.Generator().manual_seed(0))
    found: Packed = quantize(weight, 32, 4)
    holder = QuantizedWeight(found)
    return holder, holder.rows(0, 96, torch.float32)


@pytest.mark.parametrize("block_elements", [1 << 22, 64 * 7, 1])
def test_a_packed_layer_computes_and_differentiates_as_a_plain_one(
    packed_weight: tuple[QuantizedWeight, Any], block_elements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantized_module, "BLOCK_ELEMENTS", block_elements)
    holder, weight = packed_weight
    bias = torch.randn(96)
    inputs = torch.randn(2, 5, 64, requires_grad=True)
    wanted = torch.nn.functional.linear(inputs, weight, bias)
    (wanted_gradient,) = torch.autograd.grad(wanted.square().sum(), inputs)
    got = QuantizedLinear(holder, bias)(inputs)
    (gradient,) = torch.autograd.grad(got.square().sum(), inputs)
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(gradient, wanted_gradient, rtol=1e-3, atol=1e-3)
    tokens = torch.tensor([[3, 95], [0, 3]])
    torch.testing.assert_close(QuantizedEmbedding(holder)(tokens), weight[tokens], rtol=0, atol=0)


def test_a_packed_layer_keeps_nothing_unpacked_for_the_backward_pass(
    packed_weight: tuple[QuantizedWeight, Any],
) -> None:
    holder, _ = packed_weight
    kept: list[Any] = []
    inputs = torch.randn(5, 64, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        QuantizedLinear(holder)(inputs)
    assert kept == []


def test_a_quantized_model_stays_pack(tmp_path: Path) -> None:
    """Bytes of all tensors of the loaded network are about those of its files."""
    folder = tiny_model(tmp_path / "base", "qwen2", hidden=256, quantization={"bits": 4, "group_size": 64})
    network = TorchBackend().load(folder)._network  # type: ignore[attr-defined]
    tensors = {tensor.data_ptr(): tensor.nbytes for tensor in [*network.parameters(), *network.buffers()]}
    on_disk = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    # Scales and offsets are 32 bits on a CPU; a plain float32 model would be more than five times as large.
    assert sum(tensors.values()) < 1.3 * on_disk


def test_both_backends_unpack_the_same_base_weights(tmp_path: Path) -> None:
    from mlxtune.backends.mlx.loading import load_network
    from mlxtune.backends.mlx.runtime import import_mlx

    mx = import_mlx()
    folder = tiny_model(tmp_path / "base", "qwen3", quantization={"bits": 4, "group_size": 32})
    theirs, _ = load_network(folder)
    theirs.set_dtype(mx.float32)
    ours = TorchBackend().load(folder)._network  # type: ignore[attr-defined]
    modules = dict(theirs.named_modules())
    for layer, shape in linear_layers(ours.config.to_dict()).items():
        module = modules[layer]
        wanted = mx.dequantize(module.weight, module.scales, module.biases, module.group_size, module.bits)
        got = ours.get_submodule(layer).packed.rows(0, shape[1], torch.float32)
        assert np.array_equal(got.numpy(), np.array(wanted)), layer


# Loading, devices and memory


def test_a_model_type_that_transformers_lacks_is_named(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "base")
    (folder / "config.json").write_text(json.dumps({**tiny_config(), "model_type": "qwen99"}))
    with pytest.raises(ModelError, match="does not know model_type 'qwen99'; update transformers"):
        TorchBackend().load(folder)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_16_bit_model_scores_with_a_float32_head(base: Path, tmp_path: Path, dtype: str) -> None:
    examples, _ = examples_of(base, tmp_path)
    (batch,) = build_batches(examples, [list(range(7))], shared_prefix(examples))
    model = TorchBackend().load(base, dtype=dtype)
    exact = TorchBackend().load(base).score(batch).nats[batch.supervised]
    scores = model.score(batch).nats[batch.supervised]
    assert scores.dtype == np.float32 and 0 < np.abs(scores - exact).max() < 0.5
    assert len(np.unique(scores)) > 0.8 * len(scores)  # 16-bit logits would round many of them together


@pytest.mark.parametrize("wanted", ["cuda", "gpu", "cuda:3"])
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_said_with_the_reason(wanted: str) -> None:
    with pytest.raises(BackendError, match=rf"--device {wanted}: torch .*; use --device cpu"):
        pick_device(wanted)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total of 4 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: ..."),
        MemoryError(),
    ],
)
def test_too_little_memory_says_what_to_lower(error: Exception) -> None:
    advice = r"step 3.*train\.tokens_per_pass.*max_tokens.*gradient_checkpointing.*quantize"
    with pytest.raises(OutOfMemory, match=advice), memory_for("step 3", torch.device("cpu")):
        raise error
    with pytest.raises(RuntimeError, match="something else"), memory_for("step 3", torch.device("cpu")):
        raise RuntimeError("something else")


@pytest.mark.skipif(sys.platform != "linux", reason="the limit on memory is Linux's")
def test_a_training_that_needs_more_memory_than_there_is_ends_with_one_message(tmp_path: Path, base: Path) -> None:
    """A real shortage: the process may map 300 MB more than it has when training begins."""
    code = """
import resource, sys
from pathlib import Path
import numpy as np
from mlxtune.backends.torch.backend import TorchBackend
from tests.adapted import loaded
from tests.backends.test_torch import batch_of
from mlxtune.backends.base import OptimizerSpec
from mlxtune.errors import OutOfMemory
model, _ = loaded(TorchBackend(), Path(sys.argv[1]))
model.prepare_training(OptimizerSpec(0.0, None, 0))
model.train_step([batch_of([20, 30])], 0.0, 1, 2)
before = model.adapter_weights()
mapped = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (mapped + 300_000_000,) * 2)
try:
    model.train_step([batch_of([2000] * 16)], 0.1, 2, 2)
except OutOfMemory as error:
    after = model.adapter_weights()
    assert all(np.array_equal(after[name], before[name]) for name in before)
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code, str(base)], capture_output=True, text=True, check=False)
    assert "step 2 (a batch of 16 rows of up to 2003 tokens)" in done.stdout, done.stderr


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_a_gpu_trains_and_generates_as_the_cpu(any_base: Path, tmp_path: Path) -> None:
    examples, _ = examples_of(any_base, tmp_path)
    order = build_batches(examples, [[0, 1, 2], [3, 4, 5, 6]], shared_prefix(examples))
    prompts = [example.prompt.tolist() for example in examples]
    found: list[tuple[Any, NDArray[np.float32], Any]] = []
    for device in ("cpu", "cuda"):
        backend = TorchBackend(device)
        spec, weights = adapter_of(backend.load(any_base).config)
        model = adapted(backend, any_base, spec, weights)
        assert_close(gradient_of(model, order), gradient_of(model, order), 1e-6)
        model.prepare_training(OptimizerSpec(0.01, 1.0, 0))
        losses = [model.train_step(order, 1e-2, step, N_SEGMENTS).loss for step in range(1, 6)]
        found.append((losses, model.score(order[0]).nats, in_order(model.generate(prompts, 4, [447]))))
    assert found[0][0] == pytest.approx(found[1][0], abs=1e-2)
    np.testing.assert_allclose(found[0][1], found[1][1], atol=5e-2)
    assert len(found[1][2]) == len(prompts)


def test_scoring_has_few_logits_of_a_large_vocabulary_at_a_time() -> None:
    class Head:
        vocabulary = 1 << 17

        def __init__(self) -> None:
            self.positions: list[int] = []

        def __call__(self, hidden: Any) -> Any:
            self.positions.append(len(hidden))
            return torch.zeros(len(hidden), self.vocabulary)

    head = Head()
    nats, argmax = nats_and_argmax(cast(Float32Head, head), torch.zeros(600, 8), torch.zeros(600, dtype=torch.long))
    assert head.positions == [256, 256, 88]
    assert len(nats) == len(argmax) == 600 and torch.allclose(nats, torch.tensor(17 * math.log(2)))
