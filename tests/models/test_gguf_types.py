"""Types of quantized weights, read as the format defines their blocks: every bit pattern, against a plain loop over them.

Source:
    The structs block_q2_K ... block_q8_0 and dequantize_row_* of ggml.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mlxtune.errors import ModelError
from mlxtune.models.gguf_file import open_gguf, read_tensor
from mlxtune.models.gguf_layout import check_layout

ROWS, BLOCKS = 3, 2  # of a matrix, and of each of its rows


def half(block: bytes, at: int) -> float:
    return float(np.frombuffer(block, "<f2", 1, at)[0])


def nibbles(content: bytes) -> list[int]:
    """The low halves of the bytes, then the high ones."""
    return [byte & 15 for byte in content] + [byte >> 4 for byte in content]


def q4_0(block: bytes) -> list[float]:
    return [half(block, 0) * (quant - 8) for quant in nibbles(block[2:])]


def q4_1(block: bytes) -> list[float]:
    return [half(block, 0) * quant + half(block, 2) for quant in nibbles(block[4:])]


def fifth_bits(content: bytes) -> list[int]:
    return [int.from_bytes(content, "little") >> bit & 1 for bit in range(32)]


def q5_0(block: bytes) -> list[float]:
    quants = zip(nibbles(block[6:]), fifth_bits(block[2:6]), strict=True)
    return [half(block, 0) * (low + 16 * high - 16) for low, high in quants]


def q5_1(block: bytes) -> list[float]:
    quants = zip(nibbles(block[8:]), fifth_bits(block[4:8]), strict=True)
    return [half(block, 0) * (low + 16 * high) + half(block, 2) for low, high in quants]


def q8_0(block: bytes) -> list[float]:
    return [half(block, 0) * int(quant) for quant in np.frombuffer(block, np.int8, 32, 2)]


def q2_k(block: bytes) -> list[float]:
    scales, quants, scale, least = block[:16], block[16:80], half(block, 80), half(block, 82)
    values = []
    for group in range(16):
        half_block, pair = divmod(group, 8)
        shift, first = 2 * (pair // 2), 32 * half_block + 16 * (pair % 2)
        for byte in quants[first : first + 16]:
            values.append(scale * (scales[group] & 15) * (byte >> shift & 3) - least * (scales[group] >> 4))
    return values


def q3_k(block: bytes) -> list[float]:
    high, quants, packed, scale = block[:32], block[32:96], block[96:108], half(block, 108)
    values = []
    for group in range(16):
        half_block, pair = divmod(group, 8)
        low = packed[group] & 15 if group < 8 else packed[group - 8] >> 4
        factor = (low | (packed[8 + group % 4] >> 2 * (group // 4) & 3) << 4) - 32
        for at in range(16):
            place = 16 * (pair % 2) + at
            quant = quants[32 * half_block + place] >> 2 * (pair // 2) & 3
            has_bit = high[place] >> (4 * half_block + pair // 2) & 1
            values.append(scale * factor * (quant - (0 if has_bit else 4)))
    return values


def scale_and_least(packed: bytes, group: int) -> tuple[int, int]:
    """Six bits each, of a group of 32 values of Q4_K and Q5_K."""
    if group < 4:
        return packed[group] & 63, packed[group + 4] & 63
    low, first, second = packed[group + 4], packed[group - 4], packed[group]
    return low & 15 | (first >> 6) << 4, low >> 4 | (second >> 6) << 4


def q4_k(block: bytes, high: bytes = bytes(32), quants: bytes | None = None) -> list[float]:
    quants = block[16:] if quants is None else quants
    values = []
    for group in range(8):
        scale, least = scale_and_least(block[4:16], group)
        for at in range(32):
            byte = quants[32 * (group // 2) + at]
            quant = (byte >> 4 if group % 2 else byte & 15) + 16 * (high[at] >> group & 1)
            values.append(half(block, 0) * scale * quant - half(block, 2) * least)
    return values


def q5_k(block: bytes) -> list[float]:
    return q4_k(block, block[16:48], block[48:])


def q6_k(block: bytes) -> list[float]:
    scales = np.frombuffer(block, np.int8, 16, 192)
    values = []
    for at in range(256):
        half_block, rest = divmod(at, 128)
        quarter, place = divmod(rest, 32)
        low = block[64 * half_block + 32 * (quarter % 2) + place] >> (4 if quarter > 1 else 0) & 15
        high = block[128 + 32 * half_block + place] >> 2 * quarter & 3
        values.append(half(block, 208) * int(scales[at // 16]) * ((low | high << 4) - 32))
    return values


# Type -> how a block is read, and where in it float16 numbers stand.
TYPES: dict[str, tuple[Callable[[bytes], list[float]], tuple[int, ...]]] = {
    "Q4_0": (q4_0, (0,)), "Q4_1": (q4_1, (0, 2)), "Q5_0": (q5_0, (0,)), "Q5_1": (q5_1, (0, 2)), "Q8_0": (q8_0, (0,)),
    "Q2_K": (q2_k, (80, 82)), "Q3_K": (q3_k, (108,)), "Q4_K": (q4_k, (0, 2)), "Q5_K": (q5_k, (0, 2)),
    "Q6_K": (q6_k, (208,)),
}  # fmt: skip


def blocks_of(kind: str) -> np.ndarray:
    """Random blocks, (rows, bytes of a row), whose float16 numbers are ordinary ones."""
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    random = np.random.default_rng(3)
    size = GGML_QUANT_SIZES[GGMLQuantizationType[kind]][1]
    blocks = random.integers(0, 256, (ROWS * BLOCKS, size), np.uint8)
    for at in TYPES[kind][1]:
        blocks[:, at : at + 2] = random.uniform(-2, 2, (len(blocks), 1)).astype("<f2").view(np.uint8)
    return blocks.reshape(ROWS, -1)


def written(path: Path, kind: str, content: np.ndarray) -> Path:
    from gguf import GGMLQuantizationType, GGUFWriter

    writer = GGUFWriter(path, "llama")
    writer.add_tensor("t", content, raw_dtype=GGMLQuantizationType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("kind", TYPES)
def test_blocks_are_read_as_the_format_defines_them(tmp_path: Path, kind: str) -> None:
    content = blocks_of(kind)
    file = written(tmp_path / "model.gguf", kind, content)
    check_layout(file)
    got = read_tensor(file, open_gguf(file).tensors[0])
    read = TYPES[kind][0]
    expected = [np.concatenate([read(bytes(block)) for block in np.split(row, BLOCKS)]) for row in content]
    np.testing.assert_allclose(got, np.stack(expected), rtol=1e-5, atol=1e-4)


def test_a_type_that_the_gguf_package_cannot_read_is_named(tmp_path: Path) -> None:
    file = written(tmp_path / "model.gguf", "Q8_K", np.zeros((1, 292), np.uint8))
    with pytest.raises(ModelError, match=r"model\.gguf: t is quantized as Q8_K, which .*; take .* Q4_K_M"):
        read_tensor(file, open_gguf(file).tensors[0])
