"""What a model folder has beside its weights: the files that are copied with a model, and what its config says of a type."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from mlxtune.models.tokenizer import PROCESSOR_TEMPLATE, TEMPLATE, has_own_template, load_tokenizer

# What a model folder has beside config and weights. Copied, not saved anew: transformers rewrites what it saves.
COMPANIONS = (
    "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt", "chat_template*",
    "generation_config.json", "LICENSE*", "NOTICE*",
)  # fmt: skip


def copy_companions(source: Path, folder: Path) -> None:
    """Copy what lies beside a model's weights: tokenizer, chat template, generation settings, licence.

    A multimodal model's settings for images stay behind. Its chat template may be in the file of its processor alone, which no
    tokenizer reads, and a base model's folder may have none: the one that prompts are written with goes into the file that tokenizers read.
    """
    for pattern in COMPANIONS:
        for file in source.glob(pattern):
            if file.is_file() and file.name != PROCESSOR_TEMPLATE:
                shutil.copyfile(file, folder / file.name)
    if not has_own_template(source) and (template := load_tokenizer(source).hf.chat_template):
        (folder / TEMPLATE).write_text(template, encoding="utf-8")


def state_dtype(config: dict[str, Any], dtype: str) -> None:
    """Say in a config that its floating-point weights are of a type."""
    config.pop("dtype", None)  # transformers 5 writes this name
    config["torch_dtype"] = dtype
