"""How a GGUF describes a tokenizer: types of tokens, and how byte-level BPE splits text first. No file is read here."""

from __future__ import annotations

# Types of tokens, of tokenizer.ggml.token_type.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)

GPT2_SPLIT = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
DIGIT_SPLIT = r"\p{N}"
_QWEN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN35 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|"
    r"\s+(?!\S)|\s+"
)
_LLAMA3 = _QWEN.replace(r"\p{N}|", r"\p{N}{1,3}|", 1)
_DEFAULT = (r"[\p{P}\$\+<=>\^~\|]+", GPT2_SPLIT, r"\p{N}+", r"[0-9][0-9][0-9]")

# How text is split before BPE, by tokenizer.ggml.pre. The patterns are those that llama.cpp applies for that name;
# the Qwen one is also, character by character, that of Qwen's own tokenizer.json.
SPLITS: dict[str, tuple[str, ...]] = {
    "gpt-2": (GPT2_SPLIT,),
    "default": _DEFAULT,
    "smollm": (DIGIT_SPLIT, GPT2_SPLIT),
    "qwen2": (_QWEN,),
    "qwen35": (_QWEN35,),
    "deepseek-r1-qwen": (_QWEN,),
    "llama-bpe": (_LLAMA3,),
    "llama3": (_LLAMA3,),
}
# Qwen composes Unicode first; llama.cpp does not, its own tokenizer does.
COMPOSING_SPLITS = ("qwen2", "qwen35", "deepseek-r1-qwen")
LLAMA3_SPLITS = ("llama-bpe", "llama3")  # llama.cpp takes a piece that is a token whole, without merging
