"""Models with experts, beyond what every family is held to: layouts of files and adapters, routing, targets, resuming, refusals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mlxtune.backends.adapter import Adapter, check_fits, read_adapter, write_adapter
from mlxtune.backends.base import Backend, ConvertSpec, OptimizerSpec
from mlxtune.backends.experts import EXPERTS, is_expert, stack_of, stacked, unstacked
from mlxtune.data.batches import build_batches, shared_prefix
from mlxtune.errors import AdapterError, BackendError, ModelError
from tests.adapted import (
    BACKENDS,
    N_SEGMENTS,
    adapter_on,
    assert_close,
    assert_equal,
    backend_named,
    examples_of,
    gradient_of,
    moved,
)
from tests.tiny import N_EXPERTS, stored_tensors, tiny_config, tiny_model, tiny_tokenizer

pytest.importorskip("torch")
IDS = list(range(3, 33))
FAMILY = "qwen3_moe-mixed"  # its first block is dense


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Backend:
    return backend_named(request.param)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("base") / "base", FAMILY)


# Layouts


def test_a_folder_quantized_by_mlx_lm_with_its_packed_routers_is_read(
    backend: Backend, base: Path, tmp_path: Path
) -> None:
    mx, load_model = _mlx_lm()
    from mlx_lm.utils import quantize_model, save_config, save_model

    network, config = load_model(base)
    network, config = quantize_model(network, config, 32, 4)
    assert config["quantization"]["model.layers.1.mlp.gate"] == {"group_size": 64, "bits": 8}
    expected = np.array(network(mx.array([IDS]))[0])
    _copied(base, tmp_path / "theirs")
    save_model(tmp_path / "theirs", network)
    save_config(config, tmp_path / "theirs" / "config.json")
    np.testing.assert_allclose(backend.load(tmp_path / "theirs").logits(IDS), expected, atol=1e-4)


def test_a_plain_folder_with_mlx_lms_stacks_is_read_and_written_as_hugging_faces(
    backend: Backend, base: Path, tmp_path: Path
) -> None:
    _copied(base, tmp_path / "stacked")
    (tmp_path / "stacked" / "config.json").write_text((base / "config.json").read_text())
    weights = load_file(base / "model.safetensors")
    own = {name: value for name, value in weights.items() if not is_expert(name)}
    for name in weights.keys() - own.keys():
        own.setdefault(stack_of(name), np.zeros((N_EXPERTS, *weights[name].shape), np.float32))
        own[stack_of(name)][int(name.split(".")[5])] = weights[name]
    save_file(own, tmp_path / "stacked" / "model.safetensors", metadata={"format": "mlx"})
    np.testing.assert_array_equal(backend.load(tmp_path / "stacked").logits(IDS), backend.load(base).logits(IDS))
    written = backend.convert(tmp_path / "stacked", tmp_path / "out", ConvertSpec()).folder
    assert stored_tensors(written) == stored_tensors(base)


@pytest.mark.parametrize("is_turned", [False, True])
@pytest.mark.parametrize("square", ["gate_up_proj", "down_proj"])
def test_a_folder_with_transformers_fused_tensors_is_read(
    backend: Backend, tmp_path: Path, square: str, is_turned: bool
) -> None:
    inner = {"gate_up_proj": 32, "down_proj": 64}[
        square
    ]  # of a hidden size of 64: the other tensor says how it is turned
    base = tiny_model(tmp_path / "base", "qwen3_moe", moe_intermediate_size=inner)
    _copied(base, tmp_path / "fused")
    (tmp_path / "fused" / "config.json").write_text((base / "config.json").read_text())
    weights = load_file(base / "model.safetensors")
    own = {name: value for name, value in weights.items() if not is_expert(name)}
    for block in range(2):
        at = f"model.layers.{block}.mlp.experts"
        gate, up, down = (
            np.stack([weights[f"{at}.{number}.{part}_proj.weight"] for number in range(N_EXPERTS)])
            for part in ("gate", "up", "down")
        )
        for name, value in {"gate_up_proj": np.concatenate([gate, up], axis=1), "down_proj": down}.items():
            own[f"{at}.{name}"] = np.ascontiguousarray(value.swapaxes(1, 2) if is_turned else value)
    save_file(own, tmp_path / "fused" / "model.safetensors", metadata={"format": "pt"})
    np.testing.assert_array_equal(backend.load(tmp_path / "fused").logits(IDS), backend.load(base).logits(IDS))


def test_the_text_part_of_qwen3_vl_moe_is_read_as_transformers_writes_it(backend: Backend, tmp_path: Path) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    tiny_tokenizer(tmp_path)
    text = {key: value for key, value in tiny_config("qwen3_moe", tied=False).items() if key != "architectures"}
    vision = {"depth": 1, "hidden_size": 32, "num_heads": 2, "intermediate_size": 32, "out_hidden_size": 64, "deepstack_visual_indexes": [0]}  # fmt: skip
    config = AutoConfig.for_model(
        "qwen3_vl_moe",
        text_config={**text, "model_type": "qwen3_vl_moe_text", "rope_scaling": {"rope_type": "default", "mrope_section": [6, 5, 5]}},
        vision_config=vision,
        tie_word_embeddings=False,
    )  # fmt: skip
    torch.manual_seed(0)
    network = AutoModelForImageTextToText.from_config(config).eval()
    with torch.no_grad():
        for value in network.model.language_model.parameters():
            value.add_(0.2 * torch.randn_like(value))
        expected = network(input_ids=torch.tensor([IDS])).logits[0].numpy()
    network.save_pretrained(tmp_path)
    assert np.ptp(expected) > 1
    np.testing.assert_allclose(backend.load(tmp_path).logits(IDS), expected, atol=2e-4)


@pytest.mark.parametrize("bits", [None, 4])
def test_both_backends_write_the_same_folder(base: Path, tmp_path: Path, bits: int | None) -> None:
    spec = ConvertSpec(bits, 32, "float16")
    one, other = (stored_tensors(backend_named(name).convert(base, tmp_path / name, spec).folder) for name in BACKENDS)
    assert one.keys() == other.keys()
    assert [name for name in one if one[name] != other[name]] == []
    assert ("model.layers.1.mlp.switch_mlp.up_proj.scales" in one) == (bits is not None)
    assert one["model.layers.1.mlp.gate.weight"][0] == "F16"  # routers stay as they are


def test_a_config_as_transformers_5_writes_it_is_read(backend: Backend) -> None:
    config = tiny_config(FAMILY)
    newer = {"num_local_experts" if key == "num_experts" else key: value for key, value in config.items()}
    assert "num_experts" not in newer
    assert backend.architecture(newer) == backend.architecture(config)


def test_an_adapter_of_experts_is_mlx_lms(base: Path, tmp_path: Path) -> None:
    mx, load_model = _mlx_lm()
    from mlx_lm.tuner.utils import load_adapters

    model = backend_named("torch").load(base)
    spec, weights = adapter_on(model.architecture)
    write_adapter(tmp_path, Adapter(spec, weights), model.architecture.n_blocks)
    model.attach_lora(spec, weights)
    network = load_adapters(load_model(base)[0], str(tmp_path))
    np.testing.assert_allclose(np.array(network(mx.array([IDS]))[0]), model.logits(IDS), atol=1e-4)
    read = read_adapter(tmp_path)
    assert_equal(read.weights, weights)
    assert set(read.spec.layers) == set(spec.layers)


def test_stacked_factors_come_apart_again() -> None:
    weights = {f"model.layers.0.mlp.experts.{n}.up_proj.lora_A": np.full((2, 3), n, np.float32) for n in range(3)}
    weights["model.layers.0.mlp.up_proj.lora_A"] = np.ones((2, 3), np.float32)
    both = stacked(weights)
    assert {name: value.shape for name, value in both.items()} == {
        "model.layers.0.mlp.switch_mlp.up_proj.lora_A": (3, 2, 3),
        "model.layers.0.mlp.up_proj.lora_A": (2, 3),
    }
    assert_equal(unstacked(both), weights)


def test_an_adapter_of_some_experts_of_a_block_is_refused(base: Path) -> None:
    architecture = backend_named("torch").load(base).architecture
    spec, weights = adapter_on(architecture)
    fewer = tuple(layer for layer in spec.layers if f".{EXPERTS}.2.up_proj" not in layer)
    with pytest.raises(AdapterError, match=r"it adapts 5 of 6 experts of model\.layers\.1\.mlp\.switch_mlp\.up_proj"):
        check_fits(Adapter(replace(spec, layers=fewer), weights), architecture.linear_layers, "ours", "the base")


# Targets


@pytest.mark.parametrize(
    ("targets", "of_dense", "of_sparse"),
    [
        ("all", 7, 4 + 3 * N_EXPERTS),
        ("attention", 4, 4),
        ("mlp", 3, 3 * N_EXPERTS),
        ("experts", 0, 3 * N_EXPERTS),
        (["attention", "experts"], 4, 4 + 3 * N_EXPERTS),
        (["q_proj", "down_proj"], 2, 1 + N_EXPERTS),
    ],
)
def test_words_of_targets(backend: Backend, targets: str | list[str], of_dense: int, of_sparse: int) -> None:
    layers = backend.architecture(tiny_config(FAMILY)).lora_layers(targets)
    assert [sum(f"layers.{block}." in layer for layer in layers) for block in (0, 1)] == [of_dense, of_sparse]


def test_routers_are_no_targets(backend: Backend) -> None:
    architecture = backend.architecture(tiny_config("qwen2_moe", tied=False))
    assert {name.rpartition(".")[2] for name in architecture.routers} == {"gate", "shared_expert_gate"}
    assert not architecture.routers & set(architecture.linear_layers)
    with pytest.raises(ModelError, match="no layer named 'gate'; it has q_proj"):
        architecture.lora_layers(["gate"])


def test_experts_of_a_model_that_has_none_are_refused(backend: Backend) -> None:
    with pytest.raises(ModelError, match="the model has no layers of 'experts'"):
        backend.architecture(tiny_config("qwen3")).lora_layers("experts")


def test_the_last_blocks_may_lack_what_is_asked_for(backend: Backend) -> None:
    config = {**tiny_config(FAMILY), "mlp_only_layers": [1]}
    with pytest.raises(ModelError, match="the last 1 blocks have no layer of experts"):
        backend.architecture(config).lora_layers("experts", 1)


# Training


def test_an_expert_learns_from_the_tokens_that_are_routed_to_it_alone(
    backend: Backend, base: Path, tmp_path: Path
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    example = examples_of(base, tmp_path)[0][0]
    ids = [*example.prompt[-1:].tolist(), *example.reply[:1].tolist()]  # one position predicts
    one = replace(
        example,
        prompt=example.prompt[-1:],
        reply=example.reply[:1],
        weights=example.weights[:1],
        segments=example.segments[:1],
    )
    network = AutoModelForCausalLM.from_pretrained(str(base), dtype=torch.float32)
    with torch.no_grad():
        routed = network(torch.tensor([ids[:1]]), output_router_logits=True).router_logits[-1][0].topk(2).indices
    model = backend.load(base)
    spec, weights = adapter_on(model.architecture)
    model.attach_lora(replace(spec, layers=model.architecture.lora_layers("experts")), _of(weights, EXPERTS))
    gradient = gradient_of(model, build_batches([one], [[0]], np.zeros(0, np.int32)))
    learning = {int(name.split(".")[5]) for name, value in gradient.items() if value.any()}
    assert learning == set(routed.tolist()) and len(gradient) == 2 * 3 * N_EXPERTS


def test_training_resumes_to_the_last_bit_with_experts_and_dropout(
    backend: Backend, base: Path, tmp_path: Path
) -> None:
    examples, _ = examples_of(base, tmp_path)
    batches = build_batches(examples, [[0, 1, 2], [3, 4, 5, 6]], shared_prefix(examples))

    def trained(first: int, last: int, state: Path | None) -> dict[str, np.ndarray]:
        model = backend.load(base)
        model.attach_lora(*adapter_on(model.architecture, dropout=0.2))
        model.prepare_training(OptimizerSpec(0.01, 1.0, 0), gradient_checkpointing=True)
        if state:
            model.load_state(state)
        for step in range(first, last + 1):
            model.train_step(batches, 1e-2, step, N_SEGMENTS)
        if not state:
            (tmp_path / f"{last}").mkdir()
            model.save_state(tmp_path / f"{last}")
        return model.adapter_weights()

    whole = trained(1, 3, None)
    trained(1, 2, None)
    assert_equal(trained(3, 3, tmp_path / "2"), whole)


def test_both_backends_train_the_same_experts(base: Path, tmp_path: Path) -> None:
    examples, _ = examples_of(base, tmp_path)
    batches = build_batches(examples, [[0, 1, 2], [3, 4, 5, 6]], shared_prefix(examples))
    found = []
    for name in BACKENDS:
        model = backend_named(name).load(base)
        spec, weights = adapter_on(model.architecture)
        model.attach_lora(spec, weights)
        model.prepare_training(OptimizerSpec(0.0, None, 0))
        for step in (1, 2):
            model.train_step(batches, 1e-3, step, N_SEGMENTS)
        found.append(moved(_of(model.adapter_weights(), EXPERTS), _of(weights, EXPERTS)))
    assert_close(found[0], found[1], 1e-2)


@pytest.mark.parametrize("requantize", [False, True])
def test_a_quantized_base_with_experts_fuses(backend: Backend, base: Path, tmp_path: Path, requantize: bool) -> None:
    packed = backend.convert(base, tmp_path / "packed", ConvertSpec(8, 32)).folder
    model = backend.load(packed)
    spec, weights = adapter_on(model.architecture)
    write_adapter(tmp_path / "adapter", Adapter(spec, weights), model.architecture.n_blocks)
    fused = backend.fuse(
        packed, tmp_path / "adapter", tmp_path / "fused", requantize, None if requantize else "float32"
    )
    model.attach_lora(spec, weights)
    expected, plain = model.logits(IDS), backend.load(packed).logits(IDS)
    assert np.abs(plain - expected).max() > 1
    difference = np.abs(backend.load(fused.folder).logits(IDS) - expected)
    # Rounded weights may send a token near the middle to another expert, so that no bound holds for the largest.
    assert difference.mean() < (0.1 if requantize else 1e-4)
    types = {name: kind for name, (kind, _, _) in stored_tensors(fused.folder).items()}
    assert ("U32" in types.values()) == requantize
    model.fold(types)  # by other code, to the same bits
    np.testing.assert_allclose(model.logits(IDS), backend.load(fused.folder).logits(IDS), atol=1e-4)


# Refusals of MLX


def test_mlx_refuses_experts_in_16_bits_on_a_cpu_by_name(base: Path) -> None:
    with pytest.raises(BackendError, match="MLX computes experts on a CPU in float32 only, got bfloat16"):
        backend_named("mlx").load(base, dtype="bfloat16")
    assert np.isfinite(backend_named("torch").load(base, dtype="bfloat16").logits(IDS)).all()


def test_mlx_refuses_a_scaling_of_rope_that_its_class_ignores() -> None:
    config = {**tiny_config(FAMILY), "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}}  # fmt: skip
    assert backend_named("torch").architecture(config).n_blocks == 2
    with pytest.raises(ModelError, match="RoPE scaling of kind yarn: mlx-lm does not compute it"):
        backend_named("mlx").architecture(config)


def test_a_family_with_other_experts_is_refused_by_name(backend: Backend) -> None:
    config = {
        **tiny_config("llama"), "model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None,
    }  # fmt: skip
    with pytest.raises(ModelError, match="'mixtral' is not supported"):
        backend.architecture(config)
    config = {
        **tiny_config("qwen3_5_text"), "model_type": "qwen3_5_moe_text", "num_experts": 4, "num_experts_per_tok": 2,
        "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32,
    }  # fmt: skip
    with pytest.raises(ModelError, match=r"'qwen3_5_moe_text' is not supported: .* experts .*in another way"):
        backend.architecture(config)


def _mlx_lm() -> tuple:
    from mlxtune.backends.mlx.runtime import import_mlx

    mx = import_mlx()
    from mlx_lm.utils import load_model

    return mx, load_model


def _copied(source: Path, folder: Path) -> None:
    """The tokenizer of a model folder."""
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((source / name).read_bytes())


def _of(weights: dict[str, np.ndarray], part: str) -> dict[str, np.ndarray]:
    return {name: value for name, value in weights.items() if f".{part}." in name}
