"""Many prompts, few slots, on each backend: the replies of each alone, and memory that does not grow with the rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlxtune.backends.base import Backend, Constraint, Generation, Model, in_order
from tests.adapted import BACKENDS, backend_named, loaded
from tests.tiny import tiny_model

VOCABULARY = 448  # of the tiny Qwen3
OPENING = [3, 4, 5, 6, 7]
LIMIT = 12


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Backend:
    return backend_named(request.param)


def prompts_of(n: int, longest: int = 40) -> list[list[int]]:
    """Prompts of all lengths, with one opening."""
    random = np.random.default_rng(0)
    return [[*OPENING, *random.integers(10, 300, random.integers(1, longest)).tolist()] for _ in range(n)]


def greedily(model: Model, prompt: Sequence[int], stops: Sequence[int]) -> Generation:
    """The reply to a prompt by whole logits, token by token."""
    tokens: list[int] = []
    while len(tokens) < LIMIT:
        token = int(model.logits([*prompt, *tokens])[-1].argmax())
        if token in stops:
            return Generation(tuple(tokens), "stop")
        tokens.append(token)
    return Generation(tuple(tokens), "length")


def stops_for(model: Model, prompts: Sequence[Sequence[int]]) -> list[int]:
    """Tokens at which some of the greedy replies end early, and some do not."""
    free = [greedily(model, prompt, []).tokens for prompt in prompts[:4]]
    return [tokens[at] for tokens, at in zip(free, (2, 4, 6, 9), strict=True)]


def test_each_reply_is_the_greedy_one_whoever_else_is_written(backend: Backend, any_base: Path) -> None:
    model, _ = loaded(backend, any_base)
    prompts = prompts_of(8)
    stops = stops_for(model, prompts)
    wanted = [greedily(model, prompt, stops) for prompt in prompts]

    assert LIMIT in {len(reply.tokens) for reply in wanted} and len({len(reply.tokens) for reply in wanted}) > 3
    for slots in (1, 3, 50):
        assert in_order(model.generate(prompts, LIMIT, stops, slots=slots)) == wanted


def test_long_prompts_join_in_parts(backend: Backend, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = loaded(backend, base)
    prompts = prompts_of(9)
    whole = in_order(model.generate(prompts, LIMIT, [447]))
    monkeypatch.setattr(f"mlxtune.backends.{backend.name}.session.TOKENS_AT_ONCE", 7)
    monkeypatch.setattr(f"mlxtune.backends.{backend.name}.session.GROWTH", 1)
    assert in_order(model.generate(prompts, LIMIT, [447], slots=2)) == whole


class Words:
    """A constraint under which words of several tokens are spelled out, forced, in any order until 14 ends the reply."""

    def start(self) -> WordsMatcher:
        return WordsMatcher()


class WordsMatcher:
    def __init__(self) -> None:
        self._next: list[int] = []
        self._done = False

    def mask(self) -> Any:
        allowed = np.zeros(VOCABULARY, np.bool_)
        allowed[10:15] = True
        return allowed

    def advance(self, token: int) -> None:
        self._next = {11: [21, 22, 23, 24, 25, 26, 27, 28], 12: [30]}.get(token, [])
        self._done = token == 14

    def forced(self) -> list[int]:
        return self._next

    def is_done(self) -> bool:
        return self._done


def alone(model: Model, prompts: Sequence[Sequence[int]], constraint: Constraint) -> list[Generation]:
    return [reply for prompt in prompts for _, reply in model.generate([prompt], LIMIT, [447], constraint)]


@pytest.fixture(scope="module", params=[None, {"bits": 4, "group_size": 32}], ids=["float32", "quantized"])
def constrained_base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("base") / "base", "qwen3", quantization=request.param)


def test_replies_under_a_constraint_are_those_of_each_alone(backend: Backend, constrained_base: Path) -> None:
    model, _ = loaded(backend, constrained_base)
    prompts = prompts_of(8)

    replies = in_order(model.generate(prompts, LIMIT, [447], Words(), slots=3))

    assert replies == alone(model, prompts, Words())
    assert any(21 in reply.tokens for reply in replies) and len({len(reply.tokens) for reply in replies}) > 1


def test_the_head_of_some_tokens_and_passes_of_a_row_a_token_change_no_reply(
    backend: Backend, constrained_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = loaded(backend, constrained_base)
    prompts = prompts_of(8)
    drawn: dict[str, Any] = {"temperature": 1.5, "seed": 3, "slots": 3}
    rows: list[int] = []
    go_apart = f"mlxtune.backends.{backend.name}.session.go_apart"

    def always(counts: Any) -> bool:
        rows.append(int(counts.sum() - len(counts)))
        return True

    monkeypatch.setattr(go_apart, always)
    apart = in_order(model.generate(prompts, LIMIT, [447], Words(), **drawn))
    monkeypatch.setattr(go_apart, lambda counts: False)
    padded = in_order(model.generate(prompts, LIMIT, [447], Words(), **drawn))
    monkeypatch.setattr("mlxtune.backends.replies.FEW", 0.0)
    by_all_logits = in_order(model.generate(prompts, LIMIT, [447], Words(), **drawn))

    assert max(rows) > 0  # forced tokens did go apart
    assert apart == padded == by_all_logits


def test_a_sample_is_the_same_however_many_are_written_at_a_time(backend: Backend, base: Path) -> None:
    model, _ = loaded(backend, base)
    prompts = [[*OPENING, 9, token % 3] for token in range(12)]

    every = in_order(model.generate(prompts, 6, [447], temperature=1.5, seed=1))

    for slots in (1, 5):
        assert in_order(model.generate(prompts, 6, [447], temperature=1.5, seed=1, slots=slots)) == every
    assert len({reply.tokens for reply in every}) > 3


def test_a_stream_that_is_left_in_the_middle_leaves_the_model_as_it_was(backend: Backend, base: Path) -> None:
    model, _ = loaded(backend, base)
    prompts = prompts_of(9)
    whole = in_order(model.generate(prompts, 8, [447], slots=3))

    begun = model.generate(prompts, 8, [447], slots=3)
    number, reply = next(begun)
    begun.close()  # type: ignore[attr-defined]

    assert reply == whole[number]
    assert in_order(model.generate(prompts, 8, [447], slots=3)) == whole


def test_slots_that_memory_has_no_room_for_change_no_reply(
    backend: Backend, base: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "mlxtune")
    model, _ = loaded(backend, base)
    prompts = prompts_of(6)
    roomy = in_order(model.generate(prompts, 8, [447], slots=4))
    assert "at a time" not in caplog.text
    monkeypatch.setattr(f"mlxtune.backends.{backend.name}.model.free_memory_bytes", lambda *device: 0)

    assert in_order(model.generate(prompts, 8, [447], slots=4)) == roomy
    assert "writing 1 replies at a time, not 4" in caplog.text


def test_memory_does_not_grow_with_the_rows_and_is_given_back(base: Path) -> None:
    """MLX counts what its arrays take, and so can be asked on a CPU, too."""
    import mlx.core as mx

    backend = backend_named("mlx")
    model, _ = loaded(backend, base)
    prompts = sorted(prompts_of(200), key=len, reverse=True)
    stops = list(range(0, 300, 8))
    peaks, held = [], []
    for n in (8, 8, 200):  # the first warms up
        backend.peak_memory_bytes(reset=True)
        lengths = [len(one.tokens) for _, one in model.generate(prompts[:n], 16, stops, slots=8)]
        peaks.append(backend.peak_memory_bytes())
        held.append(mx.get_active_memory())
        assert len(lengths) == n
    assert len(set(lengths)) > 3
    assert peaks[2] <= 1.05 * peaks[1]
    assert held[2] == held[0]
