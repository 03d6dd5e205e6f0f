"""The families of models that can be written as a GGUF, the model or its adapter; others are refused by name."""

from __future__ import annotations

from mlxtune.errors import ExportError
from mlxtune.models.gguf_tensors import FAMILIES, Family, family_of

WRITABLE = ("llama", "qwen2", "qwen3", "gemma3")


def family_to_write(model_type: object, what: str, remedy: str) -> Family:
    """The family of a model type.

    Args:
        model_type: Of config.json.
        what: Is to be written, for the message: "a model".
        remedy: Of the message: another way.

    Raises:
        ExportError: No GGUF of it can be written.
    """
    family = family_of(model_type)
    if family is None or family.architecture not in WRITABLE:
        known = ", ".join(FAMILIES[name].model_type for name in WRITABLE)
        raise ExportError(f"{what} of type {model_type!r} cannot be written as a GGUF; it can be for {known}. {remedy}")
    return family
