"""The CUDA GPUs that torch sees, or why it sees none, for `mlxtune doctor`. No computing."""

from __future__ import annotations

import warnings

import torch

from mlxtune.backends.base import Gpu, Gpus

BFLOAT16_SINCE = 8  # compute capability (Ampere); torch emulates it below


def find_gpus() -> Gpus:
    """Every GPU that torch can compute on; no memory is taken on it."""
    version = f"torch {torch.__version__}"
    if torch.version.cuda is None and torch.version.hip is None:
        return Gpus((), f"{version} is built without CUDA")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what it warns of, it raises too
            torch.cuda.init()
            found = tuple(_gpu(index) for index in range(torch.cuda.device_count()))
    except (RuntimeError, AssertionError) as error:  # no driver, too old a driver, no device
        return Gpus((), f"{version}: {(str(error).strip() or type(error).__name__).splitlines()[0]}")
    return Gpus(found) if found else Gpus((), f"{version} sees no CUDA device")


def _gpu(index: int) -> Gpu:
    facts = torch.cuda.get_device_properties(index)
    return Gpu(facts.name, facts.total_memory, torch.version.hip is not None or facts.major >= BFLOAT16_SINCE)
