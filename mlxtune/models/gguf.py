"""A .gguf file as a Hugging Face model folder: config, float weights, tokenizer. NumPy only; no backend.

    to_folder(Path("qwen2.5-0.5b-q4_k_m.gguf"), Path("qwen2.5-0.5b"))

GGUF is llama.cpp's format: one file with the metadata, the tokenizer and the weights, mostly quantized in blocks.
Read here are the architectures of `gguf_tensors.FAMILIES`, and tokenizers of byte-level and of SentencePiece BPE. What a
GGUF does not say is not guessed: an unknown architecture, tokenizer or pre-tokenizer is refused by name.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlxtune.errors import ModelError
from mlxtune.files import write_json, write_safetensors
from mlxtune.models.gguf_config import read_config, read_family
from mlxtune.models.gguf_file import open_gguf, read_tensor
from mlxtune.models.gguf_tensors import FAMILIES, ROPE_DIVISORS
from mlxtune.models.gguf_tokenizer_files import write_tokenizer
from mlxtune.models.gguf_weights import as_hugging_face

SHARD_BYTES = 2 << 30


def to_folder(path: Path, folder: Path, dtype: str = "float16") -> None:
    """Write config, tokenizer and weights of a GGUF into a folder, in Hugging Face's layout.

    Args:
        path: The .gguf file.
        folder: Where; made if need be. Not atomic: write into a temporary folder and rename it.
        dtype: "float16" or "float32" (NumPy has no bfloat16). Weights are dequantized in float32.

    Raises:
        ModelError: Not a GGUF, corrupt, or of a kind not supported.
    """
    write_config_and_tokenizer(path, folder, dtype)
    _write_weights(((name, weight.astype(dtype)) for name, weight in tensors(path)), folder)


def write_config_and_tokenizer(path: Path, folder: Path, dtype: str = "float16") -> None:
    """Write everything of `to_folder` but the weights."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {**read_config(path), "torch_dtype": dtype}
    write_json(folder / "config.json", config)
    write_json(folder / "generation_config.json", {key: config[key] for key in config if key.endswith("_token_id")})
    write_tokenizer(path, folder)


def own_dtype(path: Path) -> str:
    """The type that suits the weights of a GGUF: what most are stored as, or of quantized ones what their family is run in.

    Raises:
        ModelError: Not a GGUF, corrupt, or of a kind not supported.
    """
    sizes: dict[str, int] = {}
    for tensor in open_gguf(path).tensors:
        sizes[tensor.tensor_type.name] = sizes.get(tensor.tensor_type.name, 0) + int(tensor.n_elements)
    most = max(sizes, key=lambda name: sizes[name])
    return {"F32": "float32", "BF16": "bfloat16"}.get(most) or read_family(path).dtype


def tensors(path: Path) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Name (Hugging Face's) and value of each weight, one at a time, dequantized.

    Raises:
        ModelError: A tensor of unknown name, or in a quantization that the gguf package cannot read.
    """
    family, config = read_family(path), read_config(path)
    for tensor in open_gguf(path).tensors:
        if tensor.name == ROPE_DIVISORS or _predicts_further(tensor.name, config["num_hidden_layers"]):
            continue  # the first is read by read_config
        name = family.hugging_face_name(tensor.name)
        if name is None:
            raise ModelError(
                f"{path}: the tensor {tensor.name} belongs to no {family.architecture} model that is known here; "
                f"known architectures: {', '.join(FAMILIES)}"
            )
        yield from as_hugging_face(name, read_tensor(path, tensor), family, config)


def _predicts_further(name: str, n_blocks: int) -> bool:
    """Whether a tensor lies in a block behind the model's own, which guesses the token after the next (nextn_predict_layers)."""
    parts = name.split(".")
    return parts[0] == "blk" and len(parts) > 1 and parts[1].isdecimal() and int(parts[1]) >= n_blocks


# Writing the folder ----------------------------------------------------------------------------------------------


def _write_weights(weights: Iterator[tuple[str, NDArray[Any]]], folder: Path) -> None:
    """model.safetensors, or shards with an index where one file would pass SHARD_BYTES; holds one shard in memory."""
    shards: list[dict[str, str]] = []
    held: dict[str, NDArray[Any]] = {}

    def flush() -> None:
        part = folder / f"part-{len(shards)}"
        write_safetensors(part, held, {"format": "pt"})
        shards.append(dict.fromkeys(held, part.name))
        held.clear()

    n_bytes = total_bytes = 0
    for name, weight in weights:
        if held and n_bytes + weight.nbytes > SHARD_BYTES:
            flush()
            n_bytes = 0
        held[name] = weight
        n_bytes += weight.nbytes
        total_bytes += weight.nbytes
    flush()
    if len(shards) == 1:
        (folder / "part-0").rename(folder / "model.safetensors")
        return
    index: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        final = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        (folder / f"part-{number - 1}").rename(folder / final)
        index |= dict.fromkeys(shard, final)
    write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": total_bytes}, "weight_map": index})
