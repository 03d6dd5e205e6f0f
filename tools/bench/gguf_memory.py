"""How much memory and time writing a GGUF takes, for a random model of Qwen3-0.6B's width and as many layers as are asked for.

    python tools/bench/gguf_memory.py                                        # 54 layers: 2.0 GB in bfloat16
    python tools/bench/gguf_memory.py --layers 28 --tokenizer models/qwen3   # with the real vocabulary in the file

Each quantization is written by a process of its own, so that its peak memory is its own; beside it stand the memory that
the process has before it writes (imports, tokenizer) and the size of the largest tensor as it is stored.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]

QUANTIZATIONS = ("f32", "f16", "bf16", "q8_0", "q4_0")
MB = 1e6
PART = 1 << 24  # bytes written at a time
RANK = 8


def main() -> None:
    """Measure and print a table, or one process's figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=54, metavar="N")
    parser.add_argument("--tokenizer", type=Path, metavar="FOLDER", help="with tokenizer.json; a tiny one without it")
    parser.add_argument("--quantization", choices=QUANTIZATIONS, action="append", help="all without it")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    words = parser.parse_args()
    if words.one:
        print(json.dumps(exported(words.one, words.quantization[0])))
        return
    with tempfile.TemporaryDirectory() as folder:
        n_bytes = random_run(Path(folder), words.layers, words.tokenizer)
        print(f"{words.layers} layers, {n_bytes / 1e9:.2f} GB in bfloat16, an adapter of rank {RANK} on all of them\n")
        print("| quantization | file MB | s | peak MB | MB before | largest tensor MB |\n|---|---|---|---|---|---|")
        for quantization in words.quantization or QUANTIZATIONS:
            command = [sys.executable, __file__, "--one", folder, "--quantization", quantization]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            figures = json.loads(done.stdout)
            cells = (f"{figures[name]:,.0f}" for name in ("file", "seconds", "peak", "before", "largest"))
            print(f"| {quantization} | {' | '.join(cells)} |", flush=True)


def random_run(folder: Path, layers: int, tokenizer: Path | None) -> int:
    """A run on a random model, in a folder; bytes of the model's weights."""
    from mlxtune.backends.adapter import Adapter, write_adapter
    from mlxtune.backends.base import LoraSpec
    from mlxtune.backends.mlx.architecture import architecture
    from mlxtune.recipe.load import load_recipe
    from mlxtune.runs.folder import new_run
    from tests.conftest import write_recipe
    from tests.tiny import tiny_tokenizer

    base = tiny_tokenizer(folder / "base")
    for file in tokenizer.glob("tokenizer*.json") if tokenizer else ():
        shutil.copyfile(file, base / file.name)
    config = {
        "model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "hidden_size": 1024, "num_hidden_layers": layers,
        "intermediate_size": 3072, "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128,
        "vocab_size": 151_936, "max_position_embeddings": 40_960, "rms_norm_eps": 1e-6, "rope_theta": 1e6,
        "tie_word_embeddings": True, "hidden_act": "silu", "torch_dtype": "bfloat16",
    }  # fmt: skip
    (base / "config.json").write_text(json.dumps(config))
    n_bytes = write_random_bfloat16(base / "model.safetensors", dict(architecture(config).weights))

    run = new_run(load_recipe(write_recipe(folder / "recipe", base)), folder / "run", False)
    run.update_info(status="done")
    random = np.random.default_rng(0)
    shapes = architecture(config).linear_layers
    weights: dict[str, NDArray[np.float32]] = {}
    for layer, (n_in, n_out) in shapes.items():
        weights[f"{layer}.lora_A"] = (random.standard_normal((RANK, n_in)) / 32).astype(np.float32)
        weights[f"{layer}.lora_B"] = (random.standard_normal((n_out, RANK)) / 32).astype(np.float32)
    write_adapter(run.adapter, Adapter(LoraSpec(RANK, 2.0, 0.0, tuple(shapes)), weights), layers)
    return n_bytes


def write_random_bfloat16(file: Path, shapes: dict[str, tuple[int, ...]]) -> int:
    """A safetensors file of random weights, written part by part; bytes of them."""
    header: dict[str, Any] = {}
    end = 0
    for name, shape in shapes.items():
        begin, end = end, end + 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
    head = json.dumps(header).encode()
    with file.open("wb") as stream:
        stream.write(len(head).to_bytes(8, "little") + head)
        for part in random_parts(end):
            stream.write(part)
    return end


def random_parts(n_bytes: int) -> Iterator[bytes]:
    """bfloat16 values between 1/128 and 1/32 in size, of both signs."""
    random = np.random.default_rng(0)
    for start in range(0, n_bytes, PART):
        values = random.integers(0x3C00, 0x3D00, min(PART, n_bytes - start) // 2, np.uint16)
        yield (values | random.integers(0, 2, values.size, np.uint16) << 15).tobytes()


def exported(folder: Path, quantization: str) -> dict[str, float]:
    """What writing the run takes, in this process: megabytes and seconds."""
    from mlxtune.backends import choose
    from mlxtune.export.gguf_model import export_gguf
    from mlxtune.export.gguf_tokenizer import gguf_tokenizer
    from mlxtune.export.source import open_source
    from mlxtune.models.gguf_file import open_gguf
    from mlxtune.runs.folder import RunFolder

    source = open_source(RunFolder(folder / "run"), choose("mlx", "cpu").backend)  # which imports the least
    gguf_tokenizer(source.base, source.config)
    out = folder / f"{quantization}.gguf"
    before, start = peak_mb(), time.perf_counter()
    written = export_gguf(source, out, quantization)
    figures = {
        "file": written.n_bytes / MB,
        "seconds": time.perf_counter() - start,
        "peak": peak_mb(),
        "before": before,
    }
    figures["largest"] = max(int(tensor.n_bytes) for tensor in open_gguf(out).tensors) / MB
    out.unlink()
    return figures


def peak_mb() -> float:
    """The most memory that this process has had."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / MB


if __name__ == "__main__":
    main()
