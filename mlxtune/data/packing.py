"""Which documents' pieces are joined into one row of an optimizer step. Lengths only; in a forward pass no token sees another document."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence

from mlxtune.data.examples import Example


def step_rows(examples: Sequence[Example], pack_to: int | None) -> list[list[int]]:
    """The rows that steps are formed of, each as places of its examples.

    Args:
        examples: Of a training.
        pack_to: Most tokens of a row of joined documents; None joins none. Other examples are rows of their own.
    """
    is_joined = [pack_to is not None and example.is_document for example in examples]
    alone = [[place] for place, joined in enumerate(is_joined) if not joined]
    pieces = [place for place, joined in enumerate(is_joined) if joined]
    packs = packed([examples[place].n_tokens for place in pieces], pack_to or 0)
    return [*alone, *([pieces[at] for at in pack] for pack in packs)]


def packed(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Pieces in packs of at most `size` tokens: the longest first, each where the least room is left (best fit).

    Args:
        lengths: Tokens of each piece, none longer than `size`.
        size: Of a pack.

    Returns:
        Places of the pieces of each pack; each stands in exactly one.

    >>> packed([6, 2, 5, 3, 1], 8)
    [[0, 1], [2, 3], [4]]
    """
    packs: list[list[int]] = []
    open_packs: list[tuple[int, int]] = []  # room left, and which pack, in order
    for place in sorted(range(len(lengths)), key=lambda place: -lengths[place]):
        found = bisect_left(open_packs, (lengths[place], -1))
        if found == len(open_packs):
            room, pack = size, len(packs)
            packs.append([])
        else:
            room, pack = open_packs.pop(found)
        packs[pack].append(place)
        insort(open_packs, (room - lengths[place], pack))
    return packs
