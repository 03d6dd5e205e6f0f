"""Whether a .gguf file can hold what its header claims: every count and length against the bytes that are left.

Looked at before anything is read by those counts: 130 bytes that claim a vocabulary of 2^40 tokens would otherwise be
read for days. Takes a tenth of a second for 150,000 tokens and as many merges. What the values mean is not looked at.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import mmap
import struct
from math import prod
from pathlib import Path

VERSIONS = (2, 3)
MAX_ENTRIES = 10_000_000  # of all arrays together; the largest vocabularies have a million, with their merges
MAX_NAME_BYTES = 65_535  # of a key, by the format; a tensor's name has 64
MAX_DEPTH = 4  # of arrays in arrays
MAX_DIMENSIONS = 4

_STRING, _ARRAY = 8, 9
# Type of a value -> its bytes; of a string and an array the least that they take.
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, _STRING: 8, _ARRAY: 12, 10: 8, 11: 8, 12: 8}
_UINT32 = 4
_LEAST_FIELD, _LEAST_TENSOR = 8 + 4 + 1, 8 + 4 + 4 + 8  # bytes of a key with its value, of a tensor's description


class ImpossibleLayout(ValueError):
    """A header that its file cannot hold; says where and why."""


class UnknownVersion(ValueError):
    """A GGUF of a version that is not read."""


def check_layout(path: Path) -> None:
    """Raise unless header and weights of a GGUF lie within its file.

    Raises:
        ImpossibleLayout: They do not, or a type is unknown, or a name stands twice.
        UnknownVersion: Of another version than `VERSIONS`.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        _Header(content).check()


class _Header:
    """A walk through a header, which knows where it is."""

    def __init__(self, content: mmap.mmap) -> None:
        self._content = content
        self._position = 4  # behind the magic
        self._order = "<"
        self._n_entries = 0
        self._alignment = 32

    def check(self) -> None:
        """Walk through all of it."""
        version = self._number("I", "the version")
        if version & 0xFFFF == 0:  # written on a big-endian machine
            self._order = ">"
            version = int.from_bytes(version.to_bytes(4, "little"), "big")
        if version not in VERSIONS:
            raise UnknownVersion(f"version {version}, expected {' or '.join(map(str, VERSIONS))}")
        n_tensors, n_fields = self._number("Q", "the number of tensors"), self._number("Q", "the number of keys")
        self._need(n_fields, _LEAST_FIELD, "keys")
        names: set[bytes] = set()
        for position in range(n_fields):
            name = self._name(f"key {position + 1} of {n_fields}", names)
            self._field(name.decode("utf-8", "replace"))
        self._need(n_tensors, _LEAST_TENSOR, "tensors")
        names = set()
        ends = []
        for position in range(n_tensors):
            name = self._name(f"tensor {position + 1} of {n_tensors}", names)
            ends.append((self._tensor(name.decode("utf-8", "replace")), name))
        begin = -(-self._position // self._alignment) * self._alignment
        end, name = max(ends, default=(0, b""))
        if begin + end > len(self._content):
            shown = name.decode("utf-8", "replace")
            raise ImpossibleLayout(f"the weights of {shown} end at byte {begin + end:,} of {len(self._content):,}")

    def _field(self, name: str) -> None:
        """Walk over the value of a key."""
        kind = self._number("I", f"the type of {name}")
        begin = self._position
        self._values(kind, 1, name, 0)
        if name == "general.alignment":
            if kind == _UINT32:
                self._alignment = int(struct.unpack_from(f"{self._order}I", self._content, begin)[0])
            if kind != _UINT32 or self._alignment.bit_count() != 1:
                raise ImpossibleLayout(f"{name}: expected a power of two as a uint32")

    def _values(self, kind: int, count: int, where: str, depth: int) -> None:
        """Walk over values of one type."""
        if kind not in _SIZES:
            raise ImpossibleLayout(f"{where}: unknown type {kind}")
        self._need(count, _SIZES[kind], f"entries of {where}" if depth else where)
        self._n_entries += count if depth else 0
        if self._n_entries > MAX_ENTRIES:
            raise ImpossibleLayout(f"{where}: more than {MAX_ENTRIES:,} entries, which no vocabulary has")
        if kind == _STRING:
            self._strings(count, where)
        elif kind == _ARRAY:
            for _ in range(count):
                self._array(where, depth + 1)
        else:
            self._position += count * _SIZES[kind]

    def _array(self, where: str, depth: int) -> None:
        kind, count = self._number("I", f"the type in {where}"), self._number("Q", f"the number of entries of {where}")
        if depth > MAX_DEPTH:
            raise ImpossibleLayout(f"{where}: arrays more than {MAX_DEPTH} deep in one another")
        self._values(kind, count, where, depth)

    def _strings(self, count: int, where: str) -> None:
        content, position, n_bytes = self._content, self._position, len(self._content)
        length = struct.Struct(f"{self._order}Q").unpack_from
        for number in range(1, count + 1):
            if position + 8 > n_bytes:
                raise ImpossibleLayout(f"{where}: the file ends at string {number:,} of {count:,}")
            (size,) = length(content, position)
            position += 8 + size
            if position > n_bytes:
                left = n_bytes - position + size
                raise ImpossibleLayout(
                    f"{where}: a string of {size:,} bytes (of {count:,}, number {number:,}), {left:,} are left"
                )
        self._position = position

    def _tensor(self, name: str) -> int:
        """Walk over a tensor's description; where its weights end, in bytes behind the header."""
        from gguf.constants import GGML_QUANT_SIZES

        n_dimensions = self._number("I", f"the dimensions of {name}")
        if n_dimensions > MAX_DIMENSIONS:
            raise ImpossibleLayout(f"{name}: {n_dimensions:,} dimensions, at most {MAX_DIMENSIONS} are possible")
        shape = [self._number("Q", f"the shape of {name}") for _ in range(n_dimensions)]
        kind, offset = self._number("I", f"the type of {name}"), self._number("Q", f"the place of {name}")
        if kind not in GGML_QUANT_SIZES:
            raise ImpossibleLayout(f"{name}: unknown type of weights {kind}")
        block_weights, block_bytes = GGML_QUANT_SIZES[kind]
        if shape and shape[0] % block_weights:
            raise ImpossibleLayout(f"{name}: rows of {shape[0]:,} weights in blocks of {block_weights}")
        return offset + int(prod(shape) // block_weights * block_bytes)

    def _name(self, where: str, known: set[bytes]) -> bytes:
        """A name, of which each may stand once."""
        size = self._number("Q", where)
        if size > MAX_NAME_BYTES:
            raise ImpossibleLayout(f"{where}: a name of {size:,} bytes, at most {MAX_NAME_BYTES:,} are possible")
        self._need(size, 1, f"bytes of the name of {where}")
        name = self._content[self._position : self._position + size]
        if name in known:
            raise ImpossibleLayout(f"{where}: {name.decode('utf-8', 'replace')!r} stands twice")
        known.add(name)
        self._position += size
        return name

    def _number(self, code: str, what: str) -> int:
        """The unsigned number that comes next."""
        size = struct.calcsize(f"<{code}")
        self._need(1, size, what)
        (number,) = struct.unpack_from(f"{self._order}{code}", self._content, self._position)
        self._position += size
        return int(number)

    def _need(self, count: int, size: int, what: str) -> None:
        """Raise unless so many things of at least so many bytes fit into what is left."""
        left = len(self._content) - self._position
        if count * size > left:
            claimed = what if count == 1 else f"{count:,} {what}"
            raise ImpossibleLayout(f"{claimed}: at least {count * size:,} bytes, {left:,} are left")
