"""The text part of multimodal models on both backends: transformers' own multimodal class computes the same of text alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlxtune.backends.adapter import Adapter, write_adapter
from mlxtune.backends.base import Backend, ConvertSpec
from mlxtune.data.batches import build_batches, shared_prefix
from mlxtune.models.base_model import fingerprint
from mlxtune.models.source import read_config
from mlxtune.models.tokenizer import load_tokenizer
from tests.adapted import BACKENDS, adapter_on, assert_equal, backend_named, examples_of, gradient_of
from tests.multimodal import CASES, PLAIN, tiny_multimodal, vision_weights
from tests.tiny import stored_tensors, tiny_model

pytest.importorskip("torch")
IDS = list(range(3, 33))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    root = tmp_path_factory.mktemp("multimodal")
    return {
        (family, layout): tiny_multimodal(root / f"{family}-{layout}", family, layout, tied=family != "qwen2_5_vl")
        for family, layout in CASES
    }


def layouts_of(family: str) -> list[str]:
    return [layout for one, layout in CASES if one == family]


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Backend:
    return backend_named(request.param)


def whole_model(folder: Path) -> Any:
    """transformers' multimodal network; weights of the vision part that the folder lacks are random."""
    import torch
    from transformers import AutoModelForImageTextToText

    return AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()


def text_model(folder: Path) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def their_logits(network: Any) -> np.ndarray:
    import torch

    with torch.no_grad():
        return network(input_ids=torch.tensor([IDS])).logits[0].numpy()


@pytest.mark.parametrize("family", PLAIN)
def test_logits_of_text_are_those_of_transformers_multimodal_class_in_every_layout(
    folders: dict[tuple[str, str], Path], family: str, backend: Backend
) -> None:
    expected = their_logits(whole_model(folders[family, "transformers"]))
    assert np.ptp(expected) > 1
    if family != "qwen3_vl":
        np.testing.assert_allclose(their_logits(whole_model(folders[family, "older"])), expected, atol=1e-5)
    for layout in layouts_of(family):
        np.testing.assert_allclose(backend.load(folders[family, layout]).logits(IDS), expected, atol=1e-4)


@pytest.mark.parametrize("family", PLAIN)
def test_what_transformers_itself_writes_is_read(
    folders: dict[tuple[str, str], Path], tmp_path: Path, family: str, backend: Backend
) -> None:
    network = whole_model(folders[family, "transformers"])
    network.save_pretrained(tmp_path)
    for file in folders[family, "transformers"].glob("tokenizer*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    np.testing.assert_allclose(backend.load(tmp_path).logits(IDS), their_logits(network), atol=1e-4)


@pytest.mark.parametrize("family", PLAIN)
def test_what_mlx_lm_itself_writes_in_4_bits_is_read(
    folders: dict[tuple[str, str], Path], tmp_path: Path, family: str
) -> None:
    mlx, torch = map(backend_named, BACKENDS)
    import mlx.core as mx
    from mlx_lm.utils import load_model, quantize_model, save_config, save_model

    source, out = folders[family, "mlx-lm"], tmp_path / "packed"
    network, config = load_model(source)
    network, config = quantize_model(network, config, 32, 4)
    expected = np.array(network(mx.array([IDS]))[0])
    save_model(out, network)
    save_config(config, out / "config.json")
    for file in source.glob("tokenizer*"):
        (out / file.name).write_bytes(file.read_bytes())
    assert any(name.startswith("language_model.model.") for name in stored_tensors(out))
    for backend in (mlx, torch):
        np.testing.assert_allclose(backend.load(out).logits(IDS), expected, atol=1e-4)


def test_all_layouts_are_one_base_to_an_adapter(folders: dict[tuple[str, str], Path], tmp_path: Path) -> None:
    for family in ("qwen2_vl", "qwen3_vl", "gemma3"):
        plain = tiny_model(tmp_path / family, PLAIN[family])
        assert {fingerprint(folders[family, layout]) for layout in layouts_of(family)} == {fingerprint(plain)}


@pytest.mark.parametrize(("family", "layout"), CASES)
def test_a_step_is_that_of_the_plain_family(
    folders: dict[tuple[str, str], Path], tmp_path: Path, family: str, layout: str, backend: Backend
) -> None:
    plain = tiny_model(tmp_path / "plain", PLAIN[family], tied=family != "qwen2_5_vl")
    examples, _ = examples_of(plain, tmp_path)
    gradients = []
    for folder in (plain, folders[family, layout]):
        model = backend.load(folder)
        model.attach_lora(*adapter_on(model.architecture, rank=2))
        gradients.append(gradient_of(model, build_batches(examples, [[0, 1, 2, 3]], shared_prefix(examples))))
    assert_equal(*gradients)


@pytest.mark.parametrize("family", PLAIN)
def test_converting_writes_a_plain_text_model_and_says_what_it_leaves_out(
    folders: dict[tuple[str, str], Path], tmp_path: Path, family: str, backend: Backend
) -> None:
    for layout in layouts_of(family):
        source = folders[family, layout]
        written = backend.convert(source, tmp_path / layout, ConvertSpec())
        n_bytes = sum(value.nbytes for value in vision_weights(family, layout).values())
        (note,) = written.notes
        assert note.startswith(f"2 weights ({n_bytes / 1e6:.3g} MB) that are not of the text part are left out: ")
        assert note.endswith("; what is written is the text part of a multimodal model alone, which reads no images")
        files = {file.name for file in written.folder.iterdir()}
        assert "preprocessor_config.json" not in files and "tokenizer.json" in files
        assert read_config(written.folder)["model_type"] == read_config(source)["model_type"]
    expected = their_logits(whole_model(folders[family, "transformers"]))
    for layout in layouts_of(family):
        network = text_model(tmp_path / layout)
        assert type(network).__name__ in read_config(tmp_path / layout)["architectures"]
        np.testing.assert_allclose(their_logits(network), expected, atol=1e-4)


@pytest.mark.parametrize("family", ["qwen3_vl", "gemma3"])
def test_both_backends_write_the_same_in_4_bits(
    folders: dict[tuple[str, str], Path], tmp_path: Path, family: str
) -> None:
    written = [
        backend_named(name).convert(folders[family, "mlx-lm"], tmp_path / name, ConvertSpec(4, 32)) for name in BACKENDS
    ]
    assert stored_tensors(written[0].folder) == stored_tensors(written[1].folder)
    assert read_config(written[0].folder) == read_config(written[1].folder)


def test_mlx_lm_loads_what_is_converted(folders: dict[tuple[str, str], Path], tmp_path: Path, backend: Backend) -> None:
    backend_named("mlx")
    import mlx.core as mx
    from mlx_lm.utils import load_model

    for family in PLAIN:
        out = backend.convert(folders[family, "transformers"], tmp_path / family, ConvertSpec()).folder
        network, _ = load_model(out)
        expected = backend.load(folders[family, "transformers"]).logits(IDS)
        np.testing.assert_allclose(np.array(network(mx.array([IDS]))[0]), expected, atol=1e-4)


@pytest.mark.parametrize("family", PLAIN)
def test_a_fused_model_is_a_text_model_of_base_and_adapter(
    folders: dict[tuple[str, str], Path], tmp_path: Path, family: str, backend: Backend
) -> None:
    base = folders[family, "transformers"]
    model = backend.load(base)
    spec, weights = adapter_on(model.architecture, rank=2)
    model.attach_lora(spec, weights)
    expected = model.logits(IDS)
    adapter = Adapter(spec, weights, str(base), is_nested=True)
    write_adapter(tmp_path / "adapter", adapter, model.architecture.n_blocks)
    written = backend.fuse(base, tmp_path / "adapter", tmp_path / "fused", False)
    assert "reads no images" in written.notes[0]
    assert np.abs(expected - their_logits(whole_model(base))).max() > 1e-2
    np.testing.assert_allclose(their_logits(text_model(written.folder)), expected, atol=1e-4)


def test_a_chat_template_in_the_processors_file_is_read_and_handed_on(tmp_path: Path, backend: Backend) -> None:
    from transformers import AutoTokenizer

    folder = tiny_multimodal(tmp_path / "base", "qwen2_5_vl")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    template = settings.pop("chat_template")
    expected = load_tokenizer(folder).prompt([{"role": "user", "content": "pay"}])
    settings |= {"processor_class": "Gemma3Processor", "extra_special_tokens": {"image_token": "<|im_start|>"}}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    out = backend.convert(folder, tmp_path / "out", ConvertSpec()).folder
    for place in (folder, out):
        assert load_tokenizer(place).prompt([{"role": "user", "content": "pay"}]) == expected
    theirs = AutoTokenizer.from_pretrained(out)
    assert (
        theirs.apply_chat_template([{"role": "user", "content": "pay"}], add_generation_prompt=True, return_dict=False)
        == expected
    )
    assert (out / "chat_template.jinja").read_text() == template and not (out / "chat_template.json").exists()
