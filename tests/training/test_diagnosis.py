"""What is made of a training's losses: verdicts on made-up histories, and suggestions that the recipe accepts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlxtune.data.batches import epoch_order
from mlxtune.recipe.load import load_recipe
from mlxtune.recipe.sections import Recipe
from mlxtune.training.diagnosis import (
    DIVERGING,
    HEALTHY,
    MAX_DROPOUT,
    MAX_LEARNING_RATE,
    MIN_POINTS,
    OVER_FITTING,
    TOO_FEW,
    UNDER_FITTING,
    Diagnosis,
    Point,
    diagnose,
    fixed_sample,
)
from mlxtune.training.loop import Steps
from tests.conftest import ROOT, write_recipe

# As tickets were first tuned: training loss 0.19 and validation loss 0.54 after 3 epochs, at any rank.
TICKETS: dict[str, Any] = {
    "lora": {"rank": 64, "alpha": 128, "dropout": 0.1},
    "train": {"epochs": 3, "learning_rate": 2e-4},
}
STEPS_PER_EPOCH = 400


def recipe_file(folder: Path, **sections: Any) -> Path:
    return write_recipe(folder, folder / "model", **{**TICKETS, **sections})


@pytest.fixture
def tickets(tmp_path: Path) -> Recipe:
    return load_recipe(recipe_file(tmp_path))


def history(losses: Sequence[tuple[float, float]], epochs: float = 3) -> list[Point]:
    """Points evenly over the epochs: (training loss, validation loss) each."""
    epochs_at = [epochs * (index + 1) / len(losses) for index in range(len(losses))]
    return [Point(round(at * STEPS_PER_EPOCH), round(at, 4), *pair) for at, pair in zip(epochs_at, losses, strict=True)]


HISTORIES: dict[str, tuple[str, list[tuple[float, float]]]] = {
    "both flatten together": (HEALTHY, [(0.9, 0.92), (0.5, 0.55), (0.45, 0.5), (0.44, 0.495)]),
    "one bad validation at the end": (HEALTHY, [(0.9, 0.92), (0.5, 0.55), (0.45, 0.5), (0.44, 0.53)]),
    "validation loss below training loss": (HEALTHY, [(0.9, 0.7), (0.5, 0.45), (0.5, 0.44)]),
    "a large ratio of losses near nothing": (HEALTHY, [(0.05, 0.06), (0.002, 0.012), (0.001, 0.011)]),
    "the tickets": (OVER_FITTING, [(0.61, 0.66), (0.37, 0.52), (0.19, 0.54)]),
    "the gap opens while validation still gains": (OVER_FITTING, [(0.9, 0.92), (0.5, 0.6), (0.33, 0.55)]),
    "validation turns while the ratio is small": (OVER_FITTING, [(0.9, 0.92), (0.6, 0.62), (0.55, 0.66), (0.52, 0.7)]),
    "training loss goes to zero": (OVER_FITTING, [(0.9, 0.92), (0.1, 0.6), (0.0, 0.6)]),
    "both still fall": (UNDER_FITTING, [(2.4, 2.5), (1.9, 2.0), (1.5, 1.6), (1.2, 1.3)]),
    "the training loss climbs": (DIVERGING, [(1.9, 2.0), (1.1, 1.2), (1.3, 1.4), (2.4, 2.5)]),
    "both climb a little": (DIVERGING, [(0.9, 0.92), (0.6, 0.62), (0.64, 0.68), (0.67, 0.72)]),
    "no longer a number": (DIVERGING, [(1.9, 2.0), (1.1, 1.2), (float("nan"), float("nan"))]),
    "two validations": (TOO_FEW, [(0.9, 0.92), (0.5, 0.55)]),
    "two validations and a gap": (TOO_FEW, [(0.9, 0.92), (0.3, 0.55)]),
    "two validations and a wide gap": (OVER_FITTING, [(0.9, 0.92), (0.2, 0.55)]),
    "none": (TOO_FEW, []),
}


@pytest.mark.parametrize("name", HISTORIES)
def test_each_history_has_its_verdict(name: str, tickets: Recipe) -> None:
    verdict, losses = HISTORIES[name]
    assert diagnose(history(losses), tickets).verdict == verdict


@pytest.mark.parametrize(
    ("losses", "wanted"),
    [
        ([(0.5, 0.5), (0.4, 0.5), (0.4, 0.58)], HEALTHY),  # one validation above the best
        ([(0.5, 0.5), (0.4, 0.58), (0.4, 0.58)], OVER_FITTING),  # two
        ([(0.5, 0.5), (0.4, 0.52), (0.4, 0.524)], HEALTHY),  # risen by less than 5%
        ([(0.5, 0.5), (0.4, 0.52), (0.4, 0.526)], OVER_FITTING),  # by more
        ([(0.4, 0.45), (0.3, 0.449), (0.3, 0.449)], HEALTHY),  # a ratio of less than 1.5
        ([(0.4, 0.452), (0.3, 0.451), (0.3, 0.451)], OVER_FITTING),  # of more
        ([(0.2, 0.2), (0.019, 0.038), (0.019, 0.038)], HEALTHY),  # of more, in losses that differ by less than 0.02
        ([(0.2, 0.2), (0.019, 0.04), (0.019, 0.04)], OVER_FITTING),  # by more
        ([(1.0, 1.0), (0.8, 0.8), (0.99, 0.83)], HEALTHY),  # training loss a quarter above its lowest, or less
        ([(1.0, 1.0), (0.8, 0.8), (1.01, 0.83)], DIVERGING),  # more
        ([(0.2, 0.2), (0.1, 0.14), (0.19, 0.15)], HEALTHY),  # nearly twice its lowest, but by less than 0.1
        ([(1.0, 1.0), (0.8, 0.8), (0.755, 0.755)], HEALTHY),  # fall by less than 5% over the last quarter, from 0.789
        ([(1.0, 1.0), (0.8, 0.8), (0.745, 0.745)], UNDER_FITTING),  # by more, from 0.786
        ([(1.0, 1.0), (0.8, 0.8), (0.745, 0.755)], HEALTHY),  # one of them by more
    ],
)
def test_the_thresholds_are_where_they_are_said_to_be(
    losses: list[tuple[float, float]], wanted: str, tickets: Recipe
) -> None:
    assert diagnose(history(losses), tickets).verdict == wanted


def test_the_tickets_are_told_what_their_own_report_concludes(tickets: Recipe) -> None:
    found = diagnose(history(HISTORIES["the tickets"][1]), tickets)
    assert found.evidence == (
        "valid/train 2.8 at step 1200 (1.1 at epoch 1); validation loss was best at step 800 and has risen 4% since"
    )
    assert found.suggestions == {
        "train.learning_rate": 1e-4,
        "lora.dropout": 0.15,
        "train.epochs": 2,
        "train.early_stopping": {"patience": 3},
        "train.evaluate_every": 150,
        "train.load_best": True,
        "lora.rank": 32,
        "lora.alpha": 64.0,
    }
    assert found.as_text() == (
        f"over-fitting: {found.evidence}; try train.learning_rate 1e-4, lora.dropout 0.15, train.epochs 2, "
        "train.early_stopping {patience: 3}, train.evaluate_every 150, train.load_best true, lora.rank 32, "
        "lora.alpha 64"
    )
    assert json.loads(json.dumps(found.as_json())) == {
        "verdict": "over-fitting",
        "evidence": found.evidence,
        "suggestions": found.suggestions,
    }


def test_a_wide_gap_is_told_from_one_validation_alone(tickets: Recipe) -> None:
    found = diagnose([Point(1200, 3.0, 0.19, 0.54)], tickets)
    assert (found.verdict, found.evidence) == (OVER_FITTING, "valid/train 2.8 at step 1200")
    assert found.suggestions["train.learning_rate"] == 1e-4 and "train.epochs" not in found.suggestions


def test_evidence_says_how_far_validation_rose_since_its_best(tickets: Recipe) -> None:
    points = history([(1.0, 1.1), (0.4, 0.5), (0.3, 0.52), (0.25, 0.53), (0.2, 0.56), (0.2, 0.57)])
    assert diagnose(points, tickets).evidence == (
        "valid/train 2.8 at step 1200 (1.2 at epoch 1); validation loss was best at step 400 and has risen 14% since"
    )


def test_while_validation_still_gains_only_regularisation_is_suggested(tickets: Recipe) -> None:
    found = diagnose(history(HISTORIES["the gap opens while validation still gains"][1]), tickets)
    assert "validation loss is at its best, 0.55" in found.evidence
    keys = {"lora.dropout", "train.early_stopping", "train.evaluate_every", "train.load_best"}
    assert set(found.suggestions) == keys


@pytest.mark.parametrize(("train_loss", "wanted"), [(0.2, 0.15), (0.15, 0.2), (0.1, 0.25), (0.0, 0.25)])
def test_the_wider_the_gap_the_more_dropout(train_loss: float, wanted: float, tickets: Recipe) -> None:
    found = diagnose(history([(0.9, 0.92), (0.4, 0.6), (train_loss, 0.58)]), tickets)
    assert found.suggestions["lora.dropout"] == wanted


def test_epochs_end_at_the_best_point_rounded_up(tickets: Recipe) -> None:
    points = history([(1.0, 1.1), (0.6, 0.7), (0.5, 0.55), (0.3, 0.6), (0.2, 0.7), (0.1, 0.8)])
    assert points[2].epoch == 1.5
    found = diagnose(points, tickets).suggestions
    assert found["train.epochs"] == 2
    assert (
        "train.early_stopping" in found and "train.evaluate_every" not in found
    )  # it can stop with so many validations


def test_values_beyond_what_is_suggested_are_not_brought_back_to_it(tmp_path: Path) -> None:
    train = {"learning_rate": 10 * MAX_LEARNING_RATE, "max_steps": 9999, "epochs": 3}
    recipe = load_recipe(recipe_file(tmp_path, lora={"rank": 512, "alpha": 1.0, "dropout": 0.5}, train=train))
    assert "lora.dropout" not in diagnose(history(HISTORIES["the tickets"][1]), recipe).suggestions
    assert diagnose(history(HISTORIES["both still fall"][1]), recipe).suggestions == {"train.epochs": 5}


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("name", ["the tickets", "both still fall"])
def test_another_rank_keeps_the_scale_of_the_update(name: str, rslora: bool, tmp_path: Path) -> None:
    file = recipe_file(tmp_path, lora={**TICKETS["lora"], "rslora": rslora})
    recipe = load_recipe(file)
    found = diagnose(history(HISTORIES[name][1]), recipe).suggestions
    assert found["lora.rank"] == (32 if name == "the tickets" else 128)
    other = load_recipe(file, [f"lora.{key}={found[f'lora.{key}']}" for key in ("rank", "alpha")])
    assert other.lora.scale == pytest.approx(recipe.lora.scale, rel=5e-3)


def test_who_still_gains_trains_longer_and_faster(tickets: Recipe) -> None:
    found = diagnose(history(HISTORIES["both still fall"][1]), tickets)
    assert found.evidence == (
        "over the last quarter training loss fell 20% and validation loss 19%; "
        "valid/train 1.1 at step 1200 (1.1 at epoch 1.5)"
    )
    wanted = {"train.epochs": 5, "train.learning_rate": 4e-4, "lora.rank": 128, "lora.alpha": 256.0}
    assert found.suggestions == wanted


def test_a_trial_that_max_steps_ended_is_to_go_on(tmp_path: Path) -> None:
    recipe = load_recipe(recipe_file(tmp_path, train={**TICKETS["train"], "max_steps": 600}))
    found = diagnose(history(HISTORIES["both still fall"][1], epochs=1.5), recipe)
    assert found.suggestions["train.max_steps"] is None and "train.epochs" not in found.suggestions
    assert "train.max_steps null" in found.as_text()


def test_the_demo_is_validated_often_enough_for_a_verdict() -> None:
    recipe = load_recipe(ROOT / "recipes" / "demo-intent.yaml")
    steps = Steps.of(len(Path(recipe.data.train).read_text(encoding="utf-8").splitlines()), recipe)
    every = recipe.train.evaluate_every or steps.per_epoch
    validated = [step for step in range(1, steps.total + 1) if step % every == 0 or step == steps.total]
    # The least: a validation costs 13 steps, of the 163 that there are.
    assert len(validated) == MIN_POINTS, validated


def test_too_few_validations_are_to_be_more(tickets: Recipe) -> None:
    found = diagnose(history([(0.9, 0.92), (0.5, 0.55)]), tickets)
    assert found.as_text() == (
        "too few validations to tell: 2 validations; valid/train 1.1 at step 1200 (1.0 at epoch 1.5); "
        "try train.evaluate_every 150"
    )
    assert diagnose([Point(1, 1.0, 0.9, 0.9), Point(2, 2.0, 0.5, 0.5)], tickets).suggestions == {}


def test_what_is_healthy_is_left_alone(tickets: Recipe) -> None:
    found = diagnose(history(HISTORIES["both flatten together"][1]), tickets)
    assert found.suggestions == {} and "; try" not in found.as_text()
    tiny = diagnose(history(HISTORIES["a large ratio of losses near nothing"][1]), tickets)
    assert tiny.evidence.startswith("training loss 0.001 and validation loss 0.011 at step 1200 differ too little")


@pytest.mark.parametrize("name", HISTORIES)
def test_every_suggestion_is_one_that_the_recipe_accepts_and_lacks(name: str, tmp_path: Path) -> None:
    recipes = [
        {},
        {
            "lora": {"rank": 1, "alpha": 2, "dropout": MAX_DROPOUT},
            "train": {"epochs": 1, "learning_rate": MAX_LEARNING_RATE, "evaluate_every": 150, "load_best": True,
                      "early_stopping": {"patience": 5}, "warmup_ratio": 0.05},
        },
        {"lora": {"rank": 256}, "train": {"learning_rate": 1.0, "max_grad_norm": None}, "model": {"dtype": "float16"}},
    ]  # fmt: skip
    for sections in recipes:
        file = recipe_file(tmp_path, **sections)
        recipe = load_recipe(file)
        found = diagnose(history(HISTORIES[name][1]), recipe)
        for key, value in found.suggestions.items():
            changed = load_recipe(file, [f"{key}={_yaml(found, key)}"])
            section, last = key.split(".")
            assert changed != recipe, f"{key} is {value} already"
            got = getattr(getattr(changed, section), last)
            assert value == got or value == {"patience": got.patience}


def _yaml(diagnosis: Diagnosis, key: str) -> str:
    """A value as the text names it."""
    text = diagnosis.as_text().partition("; try ")[2]
    return text.partition(f"{key} ")[2].split(", ")[0]


def test_the_sample_is_the_same_for_a_seed_and_of_no_row_twice() -> None:
    sample = fixed_sample(1000, seed=3)
    assert sample == fixed_sample(1000, seed=3) == sorted(set(sample))
    assert len(sample) == 64 and sample[0] >= 0 and sample[-1] < 1000
    assert sample != fixed_sample(1000, seed=4)
    assert fixed_sample(7, seed=3) == list(range(7))
    assert len(fixed_sample(1000, seed=3, size=5)) == 5


def test_the_sample_is_not_the_rows_that_an_epoch_begins_or_ends_with() -> None:
    sample = set(fixed_sample(1000, seed=0))
    for epoch in range(5):
        order = [row for step in epoch_order(1000, 16, 0, epoch) for row in step]
        for part in (order[:64], order[-64:]):
            assert len(sample & set(part)) < 16


def test_the_sample_is_spread_over_all_rows() -> None:
    counts = np.zeros(100)
    for seed in range(200):
        counts[fixed_sample(100, seed, size=25)] += 1
    assert counts.min() > 20 and counts.max() < 80
