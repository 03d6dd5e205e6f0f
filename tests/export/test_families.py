"""Runs on families that need no code of ours: fused, exported to PEFT, and refused where a format lacks them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mlxtune.errors import ExportError, ModelError
from mlxtune.export.fuse import fuse_run
from mlxtune.export.gguf_adapter import export_gguf_lora
from mlxtune.export.gguf_model import export_gguf
from mlxtune.export.import_adapter import lora_section
from mlxtune.export.peft_adapter import export_peft, read_peft
from mlxtune.models.gguf import read_config
from tests.adapted import backend_named
from tests.adapter_runs import IDS, adapter_run, hugging_face_model, our_logits, torch_logits
from tests.conftest import chosen
from tests.export.exporting import source_of
from tests.tiny import EXPERT_FAMILIES, MORE_FAMILIES, TORCH_ALONE, tiny_gguf, tiny_model

FAMILIES = [family for family in (*MORE_FAMILIES, *EXPERT_FAMILIES) if family not in TORCH_ALONE]

FUSED = [
    *((family, "mlx") for family in FAMILIES),
    *((family, "torch") for family in ("gemma3_text", "phi3-window", "qwen3_5_text", *EXPERT_FAMILIES)),
]


@pytest.mark.parametrize(("family", "name"), FUSED)
@pytest.mark.parametrize("bits", [None, 4])
def test_fusing_is_proved_by_logits(tmp_path: Path, family: str, name: str, bits: int | None) -> None:
    backend = backend_named(name)
    quantization = {"bits": bits, "group_size": 32} if bits else None
    run = adapter_run(tmp_path, tiny_model(tmp_path / "base", family, quantization=quantization))
    fused = fuse_run(run, backend, tmp_path / "fused", dtype="float32")
    assert "the logits of the fused model and of base + adapter differ by at most" in fused.proof.as_text()
    expected = our_logits(backend, tmp_path / "base", run.adapter)
    np.testing.assert_allclose(torch_logits(hugging_face_model(tmp_path / "fused")), expected, atol=2e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_peft_computes_the_same_from_what_was_exported_and_it_comes_back(tmp_path: Path, family: str) -> None:
    pytest.importorskip("peft")
    from peft import PeftModel

    source = source_of(tmp_path, tiny_model(tmp_path / "base", family))
    folder = export_peft(source, tmp_path / "peft").path
    theirs = torch_logits(PeftModel.from_pretrained(hugging_face_model(tmp_path / "base"), str(folder)).eval())
    np.testing.assert_allclose(our_logits(chosen().backend, source.base, source.run.adapter), theirs, atol=1e-4)
    assert len(theirs) == len(IDS)
    read = read_peft(folder).adapter
    section, notes = lora_section(read, source.architecture, source.recipe.lora)
    assert set(read.spec.layers) == set(source.architecture.lora_layers())
    assert (section.targets, section.layers, notes) == ("all", "all", [])


@pytest.mark.parametrize("family", ["mistral", "phi3", "smollm3", "olmo2", "gemma3_text", "qwen3_moe", "olmoe"])
def test_a_gguf_of_other_families_is_refused_by_name_with_another_way(tmp_path: Path, family: str) -> None:
    source = source_of(tmp_path, tiny_model(tmp_path / "base", family))
    with pytest.raises(ExportError, match=f"'{family}' cannot be written as a GGUF.*convert_hf_to_gguf.py"):
        export_gguf(source, tmp_path / "out.gguf")
    with pytest.raises(ExportError, match=f"'{family}' cannot be written as a GGUF.*convert_lora_to_gguf.py"):
        export_gguf_lora(source, tmp_path / "lora.gguf")
    file = tiny_gguf(
        tmp_path / "in.gguf", tiny_model(tmp_path / "llama", "llama"), metadata={"general.architecture": family}
    )
    with pytest.raises(ModelError, match=f"architecture '{family}' is not supported; .*give the Hugging Face folder"):
        read_config(file)
