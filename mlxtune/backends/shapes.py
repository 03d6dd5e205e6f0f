"""Up to what sizes a backend pads forward passes, so that a compiled step meets few shapes. Plain numbers only.

MLX keeps what it compiled for every shape. Sizes grow by a constant factor from one bucket to the next, so that a few dozen shapes
hold any data, and padding is a bounded share of every pass, short or long.
"""

from __future__ import annotations

from dataclasses import dataclass

# Of the float32 logits that MLX's head has at a time; with what becomes of them, up to three times as much. A GPU needs more
# of them to be busy while it reads the head's weight, which is read once for each chunk.
LOGITS_BYTES = {"cpu": 16 << 20, "gpu": 128 << 20}
# Torch's head: positions whose logits exist at a time.
POSITIONS_AT_ONCE = 512
# Of the float32 logits that it has at a time where it scores; their exponentials take as much again.
SCORED_LOGITS_BYTES = 128 << 20
# Elements of a weight that torch dequantizes, or widens, at once: 16 MB in float32, a small layer whole.
BLOCK_ELEMENTS = 1 << 22
# Tokens of a sequence that torch packs several rows into. Attention within it costs its square, whoever attends to whom; up to
# here that is small beside the linear layers. A longer row has a sequence of its own.
SEQUENCE_TOKENS = 512
MIN_POSITIONS = 64  # of a chunk, so that a matrix product has work to do
SMALLEST_WIDTH = 16
SMALLEST_POSITIONS = 32
# Sizes from a power of two to the next. Every position costs a pass through the network, which a shape too many costs only once;
# the head's positions cost less, and both multiply.
WIDTHS_PER_OCTAVE = 4
POSITIONS_PER_OCTAVE = 1


def positions_at_once(vocabulary: int, logits_bytes: int) -> int:
    """Positions whose logits take so many bytes, but no fewer than MIN_POSITIONS."""
    return max(MIN_POSITIONS, logits_bytes // (4 * vocabulary))


def bucket(size: int, per_octave: int, smallest: int = 1) -> int:
    """The least size, of `per_octave` evenly spaced ones between two powers of two, that holds `size`.

    >>> [bucket(size, 4, smallest=16) for size in (3, 17, 33, 97, 1000, 1025)]
    [16, 20, 40, 112, 1024, 1280]
    >>> [bucket(rows, 4) for rows in (1, 3, 7, 8, 9, 13)]
    [1, 3, 7, 8, 10, 14]
    """
    size = max(size, smallest)
    step = max(1, (1 << ((size - 1).bit_length() - 1)) // per_octave) if size > 1 else 1
    return -(-size // step) * step


def sequence_tokens(backend: str, is_recurrent: bool) -> int:
    """Tokens of a sequence that a backend lays several rows of a pass into; 0 where each row has one of its own.

    The state of a recurrent layer goes from each token to the next, so that its rows cannot share a sequence.
    """
    return SEQUENCE_TOKENS if backend == "torch" and not is_recurrent else 0


@dataclass(frozen=True)
class PassPadding:
    """How a backend pads forward passes.

    Attributes:
        is_bucketed: To buckets; otherwise rows are as wide as the longest, and nothing else is padded.
    """

    is_bucketed: bool

    def rows(self, n_rows: int) -> int:
        """Rows of a pass of so many."""
        return bucket(n_rows, WIDTHS_PER_OCTAVE) if self.is_bucketed else n_rows

    def width(self, n_tokens: int) -> int:
        """Tokens of each row where the longest has so many; all but the last, which predicts nothing, are computed."""
        return bucket(n_tokens - 1, WIDTHS_PER_OCTAVE, SMALLEST_WIDTH) + 1 if self.is_bucketed else n_tokens

    def positions(self, n_positions: int) -> int:
        """Positions that the head runs on where so many are supervised."""
        return bucket(n_positions, POSITIONS_PER_OCTAVE, SMALLEST_POSITIONS) if self.is_bucketed else n_positions


EXACT = PassPadding(False)
BUCKETED = PassPadding(True)
