"""Rare classes: balancing against counts by NumPy, class weights against scikit-learn, both through recipe, report and run."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from sklearn.utils.class_weight import compute_class_weight

from mlxtune.data.balance import Balanced, balance, balance_labels
from mlxtune.data.class_weights import ClassWeights, class_weights
from mlxtune.data.prepare import RecipeRows, Split, training_split, validation_split
from mlxtune.data.report import DataReport, read_splits, report_data
from mlxtune.errors import RecipeError
from mlxtune.models.tokenizer import Tokenizer, load_tokenizer
from mlxtune.recipe.load import load_recipe
from mlxtune.recipe.sections import OutputSection
from mlxtune.report.terminal.data_tables import data_tables
from mlxtune.report.terminal.tables import WIDTH, to_text
from mlxtune.training.tune import describe_data, tune
from tests.conftest import LABELS, chosen, write_recipe, write_rows
from tests.data.test_splitting import APART
from tests.tiny import tiny_tokenizer

SEEDS = range(25)
RATIOS = (1.0, 0.5, 0.07)
Method = Literal["oversample", "undersample"]


def random_classes(seed: int) -> list[str]:
    """From 2 to 7 classes, the rarest far rarer than the commonest."""
    random = np.random.default_rng(seed)
    shares = random.dirichlet(np.full(random.integers(2, 8), 0.4))
    return [f"class {place}" for place in random.choice(len(shares), random.integers(20, 400), p=shares)]


def random_sets(seed: int) -> list[tuple[str, ...]]:
    """Sets of up to four of nine labels, some far rarer than others."""
    random = np.random.default_rng(seed)
    shares = random.dirichlet(np.full(9, 0.6)) + 1e-3
    sizes = random.integers(1, 5, random.integers(20, 300))
    chosen = [random.choice(9, size, replace=False, p=shares / shares.sum()) for size in sizes]
    return [tuple(f"label {place}" for place in places) for places in chosen]


def counts_of(positions: Sequence[int], sets: Sequence[Sequence[str]]) -> Counter[str]:
    return Counter(label for position in positions for label in sets[position])


# Balancing whole sets


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("seed", SEEDS)
def test_oversampling_brings_each_class_to_its_share_of_the_commonest_or_to_its_cap(seed: int, ratio: float) -> None:
    classes = random_classes(seed)
    names, before = np.unique(classes, return_counts=True)
    balanced = balance(classes, "oversample", seed, ratio, max_repeats=5)
    wanted = np.maximum(before, np.minimum(np.ceil(np.round(before.max() * ratio, 6)), before * 5)).astype(int)
    assert Counter(classes[row] for row in balanced.positions) == dict(zip(names, wanted.tolist(), strict=True))
    copies = np.bincount(balanced.positions, minlength=len(classes))
    assert copies.min() >= 1 and copies.max() <= 5 and copies.max() == balanced.most_repeats
    for name in names:
        of_class = copies[np.array(classes) == name]
        assert of_class.max() - of_class.min() <= 1
    assert balanced.after == dict(zip(names, wanted.tolist(), strict=True)) and balanced.n_left_out == 0
    assert balanced.ratio_reached == wanted.min() / wanted.max()
    assert set(balanced.uneven) == set(names[wanted < before.max() * ratio - 1e-9])


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("seed", SEEDS)
def test_undersampling_brings_each_class_down_to_its_multiple_of_the_rarest(seed: int, ratio: float) -> None:
    classes = random_classes(seed)
    names, before = np.unique(classes, return_counts=True)
    balanced = balance(classes, "undersample", seed, ratio)
    wanted = np.minimum(before, np.floor(np.round(before.min() / ratio, 6))).astype(int)
    assert Counter(classes[row] for row in balanced.positions) == dict(zip(names, wanted.tolist(), strict=True))
    assert len(set(balanced.positions)) == len(balanced.positions) == len(classes) - balanced.n_left_out
    assert balanced.uneven == {} and balanced.n_before == len(classes)


@pytest.mark.parametrize("method", ["oversample", "undersample"])
@pytest.mark.parametrize("hundredths", range(1, 101))
def test_a_ratio_is_exactly_what_was_written(method: Method, hundredths: int) -> None:
    """In binary 100 x 0.07 is more than 7, and 7 / 0.07 less than 100."""
    classes = ["a"] * 100 + ["b"]
    ratio, exact = hundredths / 100, Fraction(hundredths, 100)
    after = balance(classes * hundredths, method, 0, ratio, max_repeats=1000).after
    if method == "oversample":
        assert after["b"] == max(hundredths, math.ceil(100 * hundredths * exact))
    else:
        assert after["a"] == min(100 * hundredths, math.floor(hundredths / exact)) == 100


# Balancing single labels


def best_step(
    balanced: Balanced, sets: Sequence[Sequence[str]], method: Method, ratio: float, max_repeats: int
) -> float:
    """What any single further step is worth at most, less its cost, from all rows' counts; 0 where no step is allowed."""
    names = sorted(balanced.before)
    holds = np.array([[name in labels for name in names] for labels in sets], np.int64)
    copies = np.bincount(balanced.positions, minlength=len(sets))
    counts = copies @ holds
    worths = [0.0]
    for row, of_row in zip(holds.astype(bool), copies, strict=True):
        if method == "oversample" and of_row < max_repeats:
            short = counts < counts.max() * ratio - 1e-9
            worth = (row & short) @ (1 / (counts + 1))
            cost = (short.sum() + 1) / (counts.max() + 1) if (counts[row] == counts.max()).any() else 0
            worths.append(worth - cost - (0 if worth else 1))
        elif method == "undersample" and of_row and counts[row].min() > counts.min():
            worths.append(float(np.maximum(0, counts - np.floor(round(counts.min() / ratio, 6)))[row].sum()))
    return max(worths)


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("seed", SEEDS)
def test_oversampling_labels_loses_no_row_keeps_the_cap_and_stops_where_no_repeat_is_worth_its_cost(
    seed: int, ratio: float
) -> None:
    sets = random_sets(seed)
    balanced = balance_labels(sets, "oversample", seed, ratio, max_repeats=4)
    copies = np.bincount(balanced.positions, minlength=len(sets))
    assert copies.min() >= 1 and copies.max() <= 4 and copies.max() == balanced.most_repeats
    after = counts_of(balanced.positions, sets)
    assert balanced.before == counts_of(range(len(sets)), sets) and balanced.after == after
    assert balanced.ratio_reached >= balanced.ratio_before
    assert best_step(balanced, sets, "oversample", ratio, 4) <= 1e-9
    assert balanced.uneven == {n: c for n, c in after.items() if c < max(after.values()) * ratio - 1e-9}
    assert (balanced.ratio_reached >= ratio) == (not balanced.uneven)


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("seed", SEEDS)
def test_undersampling_labels_keeps_the_rarest_and_stops_where_leaving_none_out_would_help(
    seed: int, ratio: float
) -> None:
    sets = random_sets(seed)
    balanced = balance_labels(sets, "undersample", seed, ratio)
    assert len(set(balanced.positions)) == len(balanced.positions) == len(sets) - balanced.n_left_out
    after = counts_of(balanced.positions, sets)
    assert balanced.after == after and min(after.values()) == min(balanced.before.values())
    assert best_step(balanced, sets, "undersample", ratio, 1) <= 1e-9
    assert balanced.uneven == {n: c for n, c in after.items() if c > min(after.values()) / ratio + 1e-9}
    assert (balanced.ratio_reached >= ratio) == (not balanced.uneven)


@pytest.mark.parametrize("method", ["oversample", "undersample"])
def test_labels_of_random_sets_become_more_even(method: Method) -> None:
    """By their spread over their mean, in every one of them; else the tests above would pass for nothing."""
    for seed in SEEDS:
        balanced = balance_labels(random_sets(seed), method, seed)
        before, after = (np.array(list(counts.values())) for counts in (balanced.before, balanced.after))
        assert after.std() / after.mean() < 0.95 * before.std() / before.mean()


@pytest.mark.parametrize("method", ["oversample", "undersample"])
@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("seed", range(8))
def test_labels_that_stand_alone_are_balanced_as_sets_are(seed: int, ratio: float, method: Method) -> None:
    classes = random_classes(seed)
    alone = balance_labels([(name,) for name in classes], method, seed, ratio, 5)
    whole = balance(classes, method, seed, ratio, 5)
    assert (alone.after, alone.most_repeats, alone.uneven) == (whole.after, whole.most_repeats, whole.uneven)


def test_a_rare_label_is_repeated_by_rows_that_raise_no_common_one() -> None:
    sets = [("rare", "common")] * 3 + [("rare",)] * 3 + [("common",)] * 7
    balanced = balance_labels(sets, "oversample", seed=0)
    copies = Counter(balanced.positions)
    assert balanced.after == {"common": 10, "rare": 10}
    assert all(copies[row] == 1 for row in (0, 1, 2, *range(6, 13))) and sum(copies[row] for row in (3, 4, 5)) == 7


def test_a_label_that_only_ever_accompanies_the_commonest_is_repeated_to_half_of_it_and_named() -> None:
    sets = [("rare", "common")] * 10 + [("common",)] * 90
    repeated = balance_labels(sets, "oversample", seed=0)
    assert repeated.after == {"common": 180, "rare": 90} and repeated.uneven == {"rare": 90}
    half = balance_labels(sets, "oversample", seed=0, ratio=0.5)
    assert half.after == repeated.after and half.uneven == {} and half.ratio_reached == 0.5
    left_out = balance_labels(sets, "undersample", seed=0)
    assert left_out.after == {"common": 10, "rare": 10} and left_out.positions == tuple(range(10))


def test_labels_nearly_as_common_are_not_chased_with_ever_more_rows() -> None:
    sets = [("a", "b")] * 100 + [("b",)]
    assert balance_labels(sets, "oversample", seed=0).positions == tuple(range(101))


@pytest.mark.parametrize("method", ["oversample", "undersample"])
@pytest.mark.parametrize("seed", range(6))
def test_the_draw_is_a_function_of_rows_settings_and_seed(seed: int, method: Method) -> None:
    classes, sets = [f"{name}" for name in "a" * 60 + "b" * 25], [("a",)] * 60 + [("b", "c")] * 25
    assert balance(classes, method, seed, 0.9).positions == balance(list(classes), method, seed, 0.9).positions
    labels = balance_labels(sets, method, seed, 0.9)
    assert labels.positions == balance_labels([names[::-1] * 2 for names in sets], method, seed, 0.9).positions
    assert labels.positions != balance_labels(sets, method, seed + 1, 0.9).positions
    assert balance(classes, method, seed, 0.9).positions != balance(classes, method, seed + 1, 0.9).positions


def test_sets_of_an_open_field_are_balanced_in_seconds() -> None:
    random = np.random.default_rng(0)
    shares = 1 / np.arange(1, 301) ** 1.1
    sets = [[f"{n}" for n in random.choice(300, 3, p=shares / shares.sum())] for _ in range(3000)]
    balanced = balance_labels(sets, "oversample", 0)
    assert balanced.most_repeats == 10 and set(balanced.positions) == set(range(3000))


# Class weights


def output_of(**field: Any) -> OutputSection:
    return OutputSection.model_validate({"template": "{f}", "fields": {"f": {"class_weights": "balanced", **field}}})


@pytest.mark.parametrize("seed", SEEDS)
def test_balanced_weights_of_one_label_a_row_are_scikit_learns(seed: int) -> None:
    classes = random_classes(seed)
    names = sorted(set(classes))
    found = class_weights(output_of(kind="label", labels=[*names, "never"]), [{"f": name} for name in classes])["f"]
    wanted = compute_class_weight("balanced", classes=np.array(names), y=np.array(classes))
    assert [found.weights[name] for name in names] == pytest.approx(wanted.tolist(), rel=1e-12)
    assert found.weights["never"] == 1 and found.without_rows == ["never"]
    assert found.counts == {**Counter(classes), "never": 0}


@pytest.mark.parametrize("labels", [None, [f"label {place}" for place in range(9)]])
@pytest.mark.parametrize("seed", SEEDS)
def test_balanced_weights_of_sets_are_scikit_learns_over_the_labels_occurrences(
    seed: int, labels: list[str] | None
) -> None:
    sets = random_sets(seed)
    occurrences = [label for one in sets for label in one]
    names = sorted(set(occurrences))
    found = class_weights(output_of(kind="labels", labels=labels), [{"f": one} for one in sets])["f"]
    wanted = compute_class_weight("balanced", classes=np.array(names), y=np.array(occurrences))
    assert [found.weights[name] for name in names] == pytest.approx(wanted.tolist(), rel=1e-12)
    assert set(found.weights) == set(labels or names)
    assert sum(found.weights[label] for label in occurrences) == pytest.approx(len(occurrences))


def test_given_weights_are_reported_as_given_and_the_others_as_one() -> None:
    found = class_weights(output_of(kind="labels", class_weights={"b": 3.0, "z": 2.0}), [{"f": ("a", "b")}])["f"]
    assert found.weights == {"a": 1.0, "b": 3.0, "z": 2.0} and found.counts == {"a": 1, "b": 1, "z": 0}
    assert not found.balanced and class_weights(output_of(kind="labels", class_weights={}), []) == {}


# Through the recipe


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return load_tokenizer(tiny_tokenizer(tmp_path_factory.mktemp("tokenizer")))


def recipe_file(folder: Path, field: dict[str, Any] | None = None, base: Path = Path("/nowhere"), **data: Any) -> Path:
    """Forty rows: 28 payment, 8 user_auth and payment, 4 order_management; no row of none."""
    intents = {"kind": "labels", "labels": LABELS, "exclusive": "none", **(field or {})}
    file = write_recipe(
        folder, base, data={"valid": None, **data}, output={"template": "{intents}", "fields": {"intents": intents}}
    )
    sets = [["payment"]] * 28 + [["payment", "user_auth"]] * 8 + [["order_management"]] * 4
    write_rows(
        folder / "train.jsonl", [{"text": text, "intents": labels} for text, labels in zip(APART, sets, strict=False)]
    )
    write_rows(folder / "test.jsonl", [{"text": text, "intents": ["none"]} for text in APART[60:70]])
    return file


def report_of(file: Path, tokenizer: Tokenizer) -> DataReport:
    recipe = load_recipe(file)
    return report_data(recipe, read_splits(recipe), tokenizer)


def weighted_split(folder: Path, tokenizer: Tokenizer, weights: Any) -> Split:
    """The training split of the forty rows, balanced by labels, a quarter held out, with these class weights."""
    balancing = {"field": "intents", "method": "oversample", "ratio": 0.5, "by": "labels"}
    settings: dict[str, Any] = {"clean": {"dedupe": "near"}, "valid_fraction": 0.25, "balance": balancing}
    file = recipe_file(folder, {"class_weights": weights, "loss_weight": 0.5}, **settings)
    return training_split(RecipeRows(load_recipe(file)), tokenizer)


@pytest.fixture(scope="module")
def weighted(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Split:
    return weighted_split(tmp_path_factory.mktemp("balanced"), tokenizer, "balanced")


@pytest.fixture(scope="module")
def weights_found(weighted: Split) -> ClassWeights:
    assert weighted.class_weights is not None
    return weighted.class_weights["intents"]


def labels_trained_on(split: Split) -> list[Any]:
    """The labels of each example, in the order of training."""
    return [split.rows[example.row].fields["intents"] for example in split.examples]


def test_balanced_weights_count_the_rows_that_are_trained_on(weighted: Split, weights_found: ClassWeights) -> None:
    trained = labels_trained_on(weighted)
    assert weighted.balanced is not None and weighted.balanced.most_repeats > 1  # repeated rows count as often
    assert weighted.n_validation == 10  # and held-out ones not at all
    assert weights_found.counts == {label: sum(label in labels for labels in trained) for label in LABELS}


def test_balanced_weights_are_those_of_scikit_learn(weighted: Split, weights_found: ClassWeights) -> None:
    occurrences = [label for labels in labels_trained_on(weighted) for label in labels]
    names = sorted(set(occurrences))
    wanted = compute_class_weight("balanced", classes=np.array(names), y=np.array(occurrences))
    assert [weights_found.weights[name] for name in names] == pytest.approx(wanted.tolist())


def test_balanced_weights_train_as_the_same_weights_given_in_the_recipe(
    tmp_path: Path, tokenizer: Tokenizer, weighted: Split, weights_found: ClassWeights
) -> None:
    def content(split: Split) -> list[tuple[Any, ...]]:
        return [
            (one.row, *(part.tolist() for part in (one.prompt, one.reply, one.weights, one.segments)))
            for one in split.examples
        ]

    given = content(weighted_split(tmp_path, tokenizer, dict(weights_found.weights)))
    assert given == content(weighted) != []


def test_a_class_weight_lies_on_its_label_times_the_loss_weight(weighted: Split, weights_found: ClassWeights) -> None:
    trained = labels_trained_on(weighted)
    rare = next(example for example, labels in zip(weighted.examples, trained, strict=True) if "payment" not in labels)
    on_label = weights_found.weights["order_management"] * 0.5
    assert rare.weights.tolist() == pytest.approx([on_label] * (len(rare.reply) - 1) + [1])  # 1: the end of turn


@pytest.mark.parametrize("by", ["sets", "labels"])
@pytest.mark.parametrize("method", ["oversample", "undersample"])
def test_only_training_rows_are_balanced(tmp_path: Path, tokenizer: Tokenizer, method: str, by: str) -> None:
    balancing = {"field": "intents", "method": method, "by": by}
    plain = report_of(recipe_file(tmp_path / "plain", valid_fraction=0.25), tokenizer)
    balanced = report_of(recipe_file(tmp_path / "balanced", valid_fraction=0.25, balance=balancing), tokenizer)
    for split in ("valid", "test"):
        assert [row.line for row in plain.splits[split].rows] == [row.line for row in balanced.splits[split].rows]
    plain_rows, rows = ({row.line for row in report.splits["train"].rows} for report in (plain, balanced))
    assert len(balanced.splits["train"].rows) != 30 and (
        rows == plain_rows if method == "oversample" else rows < plain_rows
    )
    assert rows.isdisjoint(row.line for row in balanced.splits["valid"].rows)
    held_out = validation_split(RecipeRows(load_recipe(tmp_path / "balanced" / "recipe.yaml")), tokenizer)
    assert held_out is not None and [row.line for row in held_out.rows] == [
        row.line for row in balanced.splits["valid"].rows
    ]


def balance_reported(folder: Path, tokenizer: Tokenizer, **settings: Any) -> dict[str, Any]:
    """What the data report's JSON says of balancing the forty rows."""
    balancing = {"field": "intents", "method": "oversample", **settings}
    report = report_of(recipe_file(folder, balance=balancing), tokenizer)
    return dict(report.as_json()["splits"]["train"]["balance"])


@pytest.mark.parametrize(
    ("settings", "after"),
    [
        ({}, {"payment": 28, "user_auth, payment": 28, "order_management": 28}),
        ({"ratio": 0.5}, {"payment": 28, "user_auth, payment": 14, "order_management": 14}),
        ({"max_repeats": 2}, {"payment": 28, "user_auth, payment": 16, "order_management": 8}),
        # Six of the rows that payment shares, until a third of its rows have the other label; four rows ten times.
        ({"by": "labels"}, {"payment": 42, "user_auth": 14, "order_management": 40}),
    ],
)
def test_by_ratio_and_max_repeats_decide_what_is_counted_and_how_far(
    tmp_path: Path, tokenizer: Tokenizer, settings: dict[str, Any], after: dict[str, int]
) -> None:
    assert balance_reported(tmp_path, tokenizer, **settings)["after"] == after


def test_what_max_repeats_left_uneven_is_reported(tmp_path: Path, tokenizer: Tokenizer) -> None:
    capped = balance_reported(tmp_path, tokenizer, max_repeats=2)
    assert capped["uneven"] == {"user_auth, payment": 16, "order_management": 8} and capped["most_repeats"] == 2


def test_balancing_by_labels_reports_counts_of_labels(tmp_path: Path, tokenizer: Tokenizer) -> None:
    labels = balance_reported(tmp_path, tokenizer, by="labels")
    assert labels["before"] == {"payment": 36, "user_auth": 8, "order_management": 4}
    assert labels["uneven"] == {"user_auth": 14, "order_management": 40} and labels["most_repeats"] == 10
    assert (labels["ratio_before"], labels["ratio_reached"]) == (0.1111, 0.3333)
    assert (labels["rows_before"], labels["rows_after"], labels["left_out"]) == (40, 82, 0)


def test_undersampling_reports_the_rows_it_left_out(tmp_path: Path, tokenizer: Tokenizer) -> None:
    left_out = balance_reported(tmp_path, tokenizer, method="undersample")
    assert (left_out["rows_after"], left_out["left_out"], left_out["ratio_reached"]) == (12, 28, 1.0)


@pytest.fixture(scope="module")
def weighted_recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The forty rows, each repeated at most once more, with balanced class weights and a loss weight of 2."""
    balancing = {"field": "intents", "method": "oversample", "max_repeats": 2}
    field = {"class_weights": "balanced", "loss_weight": 2.0}
    return recipe_file(tmp_path_factory.mktemp("weighted"), field, balance=balancing)


@pytest.fixture(scope="module")
def weighted_report(weighted_recipe: Path, tokenizer: Tokenizer) -> DataReport:
    return report_of(weighted_recipe, tokenizer)


def test_the_data_report_gives_class_weights_with_their_counts(weighted_report: DataReport) -> None:
    shown = weighted_report.as_json()["splits"]["train"]["class_weights"]["intents"]
    counts = {"user_auth": 16, "order_management": 8, "payment": 44, "none": 0}
    assert {label: one["count"] for label, one in shown["labels"].items()} == counts
    weights = {name: pytest.approx(68 / (3 * count)) if count else 1 for name, count in counts.items()}
    assert {label: one["weight"] for label, one in shown["labels"].items()} == weights
    assert shown["balanced"] is True


def test_the_data_report_gives_loss_weights_and_weighs_no_test_row(weighted_report: DataReport) -> None:
    content = weighted_report.as_json()
    assert (content["loss_weights"], content["splits"]["test"]["class_weights"]) == ({"intents": 2.0}, {})


def test_the_data_tables_show_each_class_weight_with_its_count(weighted_report: DataReport) -> None:
    text = to_text(data_tables(weighted_report))
    assert max(map(len, text.splitlines())) <= WIDTH
    assert "intents: class weights, balanced; loss weight 2" in text
    line = next(line for line in text.splitlines() if "order_management" in line and "2.833" in line)
    assert line.split()[-3:] == ["8", "2.833", "5.667"]
    assert "no row to count, so they weigh 1: none" in text


def test_the_data_tables_show_what_balancing_left_uneven(weighted_report: DataReport) -> None:
    text = to_text(data_tables(weighted_report))
    assert "rarest set / most frequent set: 0.143 -> 0.286; data.balance.ratio is 1" in text
    assert "2 sets short of that; data.balance.max_repeats is 2" in text
    assert "user_auth, payment 8 -> 16; order_management 4 -> 8" in " ".join(text.split())


def test_the_data_report_weighs_examples_as_training_does(
    weighted_report: DataReport, weighted_recipe: Path, tokenizer: Tokenizer
) -> None:
    training = training_split(RecipeRows(load_recipe(weighted_recipe)), tokenizer)
    assert [example.weights.tolist() for example in weighted_report.train_examples] == [
        example.weights.tolist() for example in training.examples
    ]
    assert (
        describe_data(training, None, load_recipe(weighted_recipe))
        == "52 rows to train; balanced from 40, none to validate"
    )


def test_loss_weights_without_class_weights_are_shown_where_one_is_not_1(tmp_path: Path, tokenizer: Tokenizer) -> None:
    assert "loss weights: intents 0.5" in to_text(
        data_tables(report_of(recipe_file(tmp_path, {"loss_weight": 0.5}), tokenizer))
    )
    assert "loss weight" not in to_text(data_tables(report_of(recipe_file(tmp_path), tokenizer)))


def test_a_run_says_what_its_labels_weighed_and_how_it_was_balanced(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    balancing = {"field": "intents", "method": "undersample", "ratio": 0.5}
    file = recipe_file(tmp_path, {"class_weights": "balanced", "loss_weight": 2.0}, base, balance=balancing)
    monkeypatch.chdir(tmp_path)
    tuned = tune(load_recipe(file, ["train.max_steps=1"]), chosen(), tmp_path / "run")
    train = json.loads((tuned.run.path / "run.json").read_text())["data"]["train"]
    assert train["class_weights"]["intents"] == pytest.approx(
        {"user_auth": 28 / (3 * 8), "order_management": 28 / (3 * 4), "payment": 28 / (3 * 16), "none": 1}
    )
    assert train["labels_without_rows"] == {"intents": ["none"]} and train["loss_weights"] == {"intents": 2.0}
    assert train["balance"]["after"] == {"payment": 8, "user_auth, payment": 8, "order_management": 4}
    assert train["balance"]["ratio_reached"] == 0.5 and train["balance"]["left_out"] == 20


@pytest.mark.parametrize(
    ("field", "said"),
    [
        ({"class_weights": "balnced"}, "intents.class_weights: expected 'balanced', or labels with their weights"),
        ({"class_weights": 2.0}, "intents.class_weights: expected 'balanced', or labels with their weights"),
        ({"class_weights": ["payment"]}, "intents.class_weights: expected 'balanced', or labels with their weights"),
        ({"class_weights": {"payment": "x"}}, "intents.class_weights.payment: expected a number, got 'x'"),
        ({"class_weights": {"payment": -1}}, "intents.class_weights.payment: expected at least 0.0, got -1"),
        ({"class_weights": {"paymnt": 2.0}}, "intents.class_weights.paymnt: not one of the labels; did you mean"),
    ],
)
def test_weights_that_are_none_are_refused_once_with_their_line(
    tmp_path: Path, field: dict[str, Any], said: str
) -> None:
    file = recipe_file(tmp_path, field)
    with pytest.raises(RecipeError) as caught:
        load_recipe(file)
    (number,) = [n for n, line in enumerate(file.read_text().splitlines(), 1) if "class_weights:" in line]
    inner = number + isinstance(field["class_weights"], dict)
    assert f"  line {inner}: output.fields.{said}" in str(caught.value) and "1 problem" in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"ratio": 0}, "data.balance.ratio: expected more than 0.0, got 0"),
        ({"ratio": 2}, "data.balance.ratio: expected at most 1.0, got 2"),
        ({"ratio": "even"}, "data.balance.ratio: expected a number, got 'even'"),
        ({"by": "label"}, "data.balance.by: expected 'sets' or 'labels', got 'label'; did you mean 'labels'?"),
        ({"max_repeats": 1}, "data.balance.max_repeats: expected at least 2, got 1"),
        ({"max_repeats": 3, "method": "undersample"}, "data.balance.max_repeats: 'undersample' repeats no row"),
        ({"ratoi": 0.5}, "data.balance.ratoi: unknown key; did you mean 'ratio'?"),
    ],
)
def test_impossible_balancing_is_refused_with_its_line(tmp_path: Path, settings: dict[str, Any], said: str) -> None:
    file = recipe_file(tmp_path, balance={"field": "intents", "method": "oversample", **settings})
    with pytest.raises(RecipeError) as caught:
        load_recipe(file)
    key = next(iter(settings))
    (number,) = [n for n, line in enumerate(file.read_text().splitlines(), 1) if f"{key}:" in line]
    assert f"  line {number}: {said}" in str(caught.value)


def test_a_resolved_recipe_with_both_loads_as_itself(tmp_path: Path) -> None:
    balancing = {"field": "intents", "method": "undersample", "ratio": 0.5, "by": "labels"}
    recipe = load_recipe(recipe_file(tmp_path, {"class_weights": "balanced"}, balance=balancing))
    (tmp_path / "again.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
    assert load_recipe(tmp_path / "again.yaml") == recipe
