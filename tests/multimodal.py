"""Tiny multimodal checkpoints in the layouts that programs write: a text model of `tests/tiny.py` and a few weights of a vision part.

No network and no torch.

    folder = tiny_multimodal(tmp_path / "base", "qwen3_vl")                  # as transformers 5 names things
    folder = tiny_multimodal(tmp_path / "base", "qwen2_vl", "older")         # as the first files on the Hub
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.tiny import tiny_config, tiny_model

# Family -> the family of `tests/tiny.py` that its text part is.
PLAIN = {"qwen2_vl": "qwen2", "qwen2_5_vl": "qwen2.5", "qwen3_vl": "qwen3", "gemma3": "gemma3_text"}
LAYOUTS = ("transformers", "mlx-lm", "older")
CASES = [(family, layout) for family in PLAIN for layout in LAYOUTS if (family, layout) != ("qwen3_vl", "older")]
FLAT = ("qwen2_vl", "qwen2_5_vl")  # whose first config.json nested the vision part alone
VISION: dict[str, dict[str, Any]] = {
    "qwen2_vl": {"depth": 1, "embed_dim": 32, "hidden_size": 64, "num_heads": 2, "mlp_ratio": 2, "patch_size": 4},
    "qwen2_5_vl": {"depth": 1, "hidden_size": 32, "out_hidden_size": 64, "num_heads": 2, "intermediate_size": 32,
                   "patch_size": 4, "fullatt_block_indexes": [0]},
    "qwen3_vl": {"depth": 1, "hidden_size": 32, "out_hidden_size": 64, "num_heads": 2, "intermediate_size": 32,
                 "patch_size": 4, "num_position_embeddings": 16, "deepstack_visual_indexes": [0]},
    "gemma3": {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
               "image_size": 16, "patch_size": 4},
}  # fmt: skip
VISION_WEIGHTS: dict[str, dict[str, tuple[int, ...]]] = {
    "qwen2_vl": {"visual.merger.ln_q.weight": (32,), "visual.patch_embed.proj.weight": (32, 3, 2, 4, 4)},
    "qwen2_5_vl": {"visual.merger.ln_q.weight": (32,), "visual.patch_embed.proj.weight": (32, 3, 2, 4, 4)},
    "qwen3_vl": {"visual.patch_embed.proj.bias": (32,), "visual.patch_embed.proj.weight": (32, 3, 2, 4, 4)},
    "gemma3": {"vision_tower.vision_model.post_layernorm.weight": (32,), "multi_modal_projector.mm_soft_emb_norm.weight": (32,)},
}  # fmt: skip


def multimodal_config(
    family: str, layout: str = "transformers", *, tied: bool = True, vocab: int = 448
) -> dict[str, Any]:
    """config.json of a tiny multimodal model, with its text part's config as a layout has it."""
    text = {**tiny_config(PLAIN[family], tied=tied, vocab=vocab), "model_type": f"{family}_text"}
    del text["architectures"]
    if family != "gemma3":
        half = text.get("head_dim", text["hidden_size"] // text["num_attention_heads"]) // 2
        sections: dict[str, Any] = {"mrope_section": [half // 2, half // 4, half // 4]}
        if family == "qwen3_vl":
            sections["mrope_interleaved"] = True
        if (
            layout != "transformers"
        ):  # transformers 5 has one key for all of it, which mlx-lm's Qwen2 and Qwen3 do not read
            kind = {"rope_type": "default"} if family == "qwen3_vl" else {"type": "mrope"}
            text["rope_scaling"] = {**kind, **sections}
        else:
            text["rope_parameters"] = {"rope_type": "default", "rope_theta": text.pop("rope_theta"), **sections}
    if layout == "transformers":
        del text["tie_word_embeddings"]
    own = {
        "model_type": family,
        "tie_word_embeddings": tied,
        "vision_config": VISION[family],
        "image_token_id": vocab - 1,
    }
    if layout == "mlx-lm":
        del own["vision_config"]
    if layout == "older" and family in FLAT:
        return {**text, **own}
    return {
        **own,
        "text_config": text,
        **({"mm_tokens_per_image": 4, "vocab_size": vocab} if family == "gemma3" else {}),
    }


def nested_weight(name: str, family: str, layout: str) -> str:
    """What a layout calls a weight of the text part."""
    if layout == "transformers":
        return name.replace("model.", "model.language_model.", 1) if name.startswith("model.") else name
    if layout == "older" and family != "gemma3":
        return name
    return f"language_model.{name}"


def vision_weights(family: str, layout: str) -> dict[str, NDArray[np.float32]]:
    """Some weights of the vision part, under the names of a layout."""
    random = np.random.default_rng(3)
    weights = {}
    for name, shape in VISION_WEIGHTS[family].items():
        if layout == "transformers":
            name = f"model.{name.replace('vision_model.', '')}"
        if layout == "mlx-lm":
            name = name.replace("visual.", "vision_tower.")
        weights[name] = (0.1 * random.standard_normal(shape)).astype(np.float32)
    return weights


def tiny_multimodal(folder: Path, family: str, layout: str = "transformers", *, tied: bool = True) -> Path:
    """Write a tiny multimodal model, float32, with its tokenizer and the settings of an image processor.

    Its text part has the weights of `tiny_model(folder, PLAIN[family])`.
    """
    from safetensors.numpy import load_file, save_file

    tiny_model(folder, PLAIN[family], tied=tied)
    plain = json.loads((folder / "config.json").read_text())
    config = multimodal_config(family, layout, tied=tied, vocab=plain["vocab_size"])
    inner = config.get("text_config", config)
    inner |= {key: plain[key] for key in ("eos_token_id", "bos_token_id")}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_processor_type": "any"}))
    text = load_file(folder / "model.safetensors")
    weights = {nested_weight(name, family, layout): value for name, value in text.items()}
    save_file({**weights, **vision_weights(family, layout)}, folder / "model.safetensors", metadata={"format": "pt"})
    return folder
