"""What the losses of a training say: does it over-fit, under-fit, diverge, and what to try next. Pure arithmetic.

    print(diagnose(points, recipe).as_text())

Training and validation loss must be the same measure: mean -log p of the supervised tokens, unweighted, dropout off.
The loss that training itself reports is not (dropout on, weighted, over other rows each step), so the training loss of
a point is that of `fixed_sample` of the training rows, scored as validation rows are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mlxtune.recipe.sections import Recipe
from mlxtune.recipe.yaml_text import flow_text

HEALTHY = "healthy"
OVER_FITTING = "over-fitting"
UNDER_FITTING = "under-fitting"
DIVERGING = "diverging"
TOO_FEW = "too few validations to tell"

# Validation loss / training loss. A model that only learned what both sets share stays near 1; at 1.5 rows that it has
# not seen are half as hard again as those that it has; at 2 most of what it still learns is those rows themselves.
OVER_FITTING_BEGINS = 1.5
OVER_FITS = 2.0
# A rise of the validation loss below this is noise: it moves by a few percent from one validation to the next.
RISE = 0.05
# Validations after the best one, so that a single bad one is not taken for a turn.
RISING_VALIDATIONS = 2
# Differences below this change no answer: they make the right token 2% less probable.
NATS_THAT_MATTER = 0.02
# On the same rows without dropout the training loss falls. One that ends a quarter above its lowest, and by enough to
# make the right token 10% less probable, is no longer going down.
DIVERGING_RATIO = 1.25
DIVERGING_NATS = 0.1
# Share of either loss that the last quarter of the steps must still have taken off. The learning rates of that quarter
# are a sixteenth of their sum over a linear schedule and a fortieth over a cosine: who still gains that much there has
# far to go.
STILL_FALLING = 0.05
LAST_QUARTER = 0.25
# Two points make a difference, three the least trend.
MIN_POINTS = 3

# What is suggested.
PATIENCE = 3  # validations without improvement; fewer stop at a bad one
VALIDATIONS_WANTED = 8  # enough to see a turn and where it was
MAX_DROPOUT = 0.3  # beyond, training slows more than it generalises
DROPOUT_MORE = ((3.0, 0.05), (4.0, 0.1), (math.inf, 0.15))  # valid/train up to -> this much more
MAX_LEARNING_RATE = 1e-3  # above, LoRA often diverges
MAX_RANK = 256


@dataclass(frozen=True)
class Point:
    """The losses after a step: of the fixed sample of training rows and of the validation rows, nats a token."""

    step: int
    epoch: float
    train_loss: float
    valid_loss: float

    @property
    def ratio(self) -> float:
        """Validation loss / training loss; infinite where the training loss is 0."""
        return self.valid_loss / self.train_loss if self.train_loss > 0 else math.inf

    @property
    def gap_matters(self) -> bool:
        """Whether validation is worse by more than any answer would show."""
        return self.valid_loss - self.train_loss > NATS_THAT_MATTER


@dataclass(frozen=True)
class Diagnosis:
    """What a training's losses say.

    Attributes:
        verdict: HEALTHY, OVER_FITTING, UNDER_FITTING, DIVERGING or TOO_FEW.
        evidence: The numbers behind it, one sentence without its full stop.
        suggestions: Key of the recipe -> value to try next, all of them different from what is set.
    """

    verdict: str
    evidence: str
    suggestions: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """As run.json holds it."""
        return {"verdict": self.verdict, "evidence": self.evidence, "suggestions": self.suggestions}

    def as_text(self) -> str:
        """One line, values as the recipe's YAML has them."""
        tried = ", ".join(f"{key} {flow_text(value)}" for key, value in self.suggestions.items())
        return f"{self.verdict}: {self.evidence}" + (f"; try {tried}" if tried else "")


def fixed_sample(n_examples: int, seed: int, size: int = 64) -> list[int]:
    """Indices of the training examples that are scored beside the validation rows, in ascending order.

    A pure function of its arguments that touches no other randomness; all examples where there are no more than `size`.
    """
    random = np.random.default_rng([seed, size, 1])  # three numbers: no epoch's order is drawn from the same ones
    return sorted(random.permutation(n_examples)[:size].tolist())


def diagnose(points: Sequence[Point], recipe: Recipe) -> Diagnosis:
    """Judge a training by its losses, the worst first: diverging, over-fitting, under-fitting.

    Args:
        points: In the order of their steps.
        recipe: What was trained; suggestions start from its values.
    """
    if not points:
        return Diagnosis(TOO_FEW, "there was no validation")
    last = points[-1]
    if not (math.isfinite(last.train_loss) and math.isfinite(last.valid_loss)):
        return _diagnosis(DIVERGING, f"the loss at step {last.step} is not finite", _for_diverging(recipe), recipe)
    lowest = min(points, key=lambda point: point.train_loss)
    best = min(points, key=lambda point: point.valid_loss)
    turned = _turned(points, best)
    if _rose(lowest.train_loss, last.train_loss, DIVERGING_NATS, DIVERGING_RATIO - 1) or (
        turned and _rose(best.train_loss, last.train_loss)  # what was learned is lost, not kept for the wrong rows
    ):
        was = f"training loss was {lowest.train_loss:.3g} at step {lowest.step}"
        evidence = f"{was} and is {last.train_loss:.3g} at step {last.step}"
        return _diagnosis(DIVERGING, evidence, _for_diverging(recipe), recipe)

    ratio = last.ratio if last.gap_matters else 0.0
    if turned or ratio > OVER_FITS or (ratio > OVER_FITTING_BEGINS and len(points) >= MIN_POINTS):
        strongly = turned or ratio > OVER_FITS
        evidence = "; ".join([_ratio_evidence(points), *_best_evidence(points, best)])
        suggestions = _for_over_fitting(points, best, recipe, strongly)
        return _diagnosis(OVER_FITTING, evidence, suggestions, recipe)
    if len(points) < MIN_POINTS:
        counted = "one validation" if len(points) == 1 else f"{len(points)} validations"
        return _diagnosis(TOO_FEW, f"{counted}; {_ratio_evidence(points)}", _more_validations(points), recipe)
    falls = [_fall([point.step for point in points], losses) for losses in _losses(points)]
    if all(share > STILL_FALLING and nats > NATS_THAT_MATTER for share, nats in falls):
        (train_share, _), (valid_share, _) = falls
        evidence = f"over the last quarter training loss fell {train_share:.0%} and validation loss {valid_share:.0%}"
        evidence = f"{evidence}; {_ratio_evidence(points)}"
        return _diagnosis(UNDER_FITTING, evidence, _for_under_fitting(last, recipe), recipe)
    return Diagnosis(HEALTHY, "; ".join([_ratio_evidence(points), *_best_evidence(points, best)]))


# Evidence


def _losses(points: Sequence[Point]) -> tuple[list[float], list[float]]:
    return [point.train_loss for point in points], [point.valid_loss for point in points]


def _turned(points: Sequence[Point], best: Point) -> bool:
    """Whether the validation loss has been above its best for several validations, at the end by enough to matter."""
    above = [point for point in points if point.step > best.step and point.valid_loss > best.valid_loss]
    return len(above) >= RISING_VALIDATIONS and _rose(best.valid_loss, points[-1].valid_loss)


def _rose(before: float, after: float, nats: float = NATS_THAT_MATTER, share: float = RISE) -> bool:
    """Whether a loss went up by more than so much, and by more than such a share of what it was."""
    return after - before > max(nats, share * before)


def _fall(steps: Sequence[int], losses: Sequence[float]) -> tuple[float, float]:
    """How far a loss fell over the last quarter of the steps: as a share of what it was then, and in nats."""
    then = float(np.interp(steps[-1] * (1 - LAST_QUARTER), steps, losses))
    return ((then - losses[-1]) / then if then > 0 else 0.0), then - losses[-1]


def _ratio_evidence(points: Sequence[Point]) -> str:
    """The ratio at the end, and where the first epoch ended or, without that, at the first validation."""
    last = points[-1]
    if last.ratio > OVER_FITTING_BEGINS and not last.gap_matters:
        losses = f"training loss {last.train_loss:.3g} and validation loss {last.valid_loss:.3g}"
        return f"{losses} at step {last.step} differ too little to matter"
    early = next((point for point in points if point.epoch >= 1), points[0])
    if early is last:
        early = points[0]
    sentence = f"valid/train {_times(last.ratio)} at step {last.step}"
    if early is last:
        return sentence
    where = f"epoch {early.epoch:g}" if early.epoch >= 1 else f"step {early.step}"
    return f"{sentence} ({_times(early.ratio)} at {where})"


def _best_evidence(points: Sequence[Point], best: Point) -> list[str]:
    """Where the validation loss was best, and how far it has risen since; nothing to say of one point."""
    last = points[-1]
    if len(points) == 1:
        return []
    if best is last:
        return [f"validation loss is at its best, {best.valid_loss:.3g}"]
    rise = (last.valid_loss - best.valid_loss) / best.valid_loss if best.valid_loss > 0 else math.inf
    since = "has stayed level since" if rise < 0.005 else f"has risen {_percent(rise)} since"
    return [f"validation loss was best at step {best.step} and {since}"]


def _times(ratio: float) -> str:
    return f"{ratio:.1f}" if ratio < 100 else "over 100"


def _percent(share: float) -> str:
    return f"{share:.0%}" if share < 10 else "more than tenfold"


# Suggestions


def _diagnosis(verdict: str, evidence: str, suggestions: dict[str, Any], recipe: Recipe) -> Diagnosis:
    """Without suggestions of what is set already, or of what the recipe's training does not have."""
    changed = {}
    for key, value in suggestions.items():
        name, own = key.split(".")
        section = getattr(recipe, name)
        means_something = not (name == "lora" and recipe.lora.is_full)
        if means_something and section.model_dump()[own] != value:
            changed[key] = value
    return Diagnosis(verdict, evidence, changed)


def _for_over_fitting(points: Sequence[Point], best: Point, recipe: Recipe, strongly: bool) -> dict[str, Any]:
    """While validation still gains, more dropout; else also smaller steps, a smaller adapter and an earlier end."""
    last, lora, train = points[-1], recipe.lora, recipe.train
    more = next(more for limit, more in DROPOUT_MORE if last.ratio <= limit)
    suggestions: dict[str, Any] = {}
    if strongly:
        suggestions["train.learning_rate"] = _rounded(train.learning_rate / 2)
    if lora.dropout < MAX_DROPOUT:
        suggestions["lora.dropout"] = _rounded(min(lora.dropout + more, MAX_DROPOUT))
    if strongly:
        suggestions["train.epochs"] = max(1, math.ceil(best.epoch))
    if train.early_stopping is None:
        suggestions["train.early_stopping"] = {"patience": PATIENCE}
        if len(points) <= PATIENCE + 1:  # with so few it would never stop
            suggestions |= _more_validations(points)
    suggestions["train.load_best"] = True
    if strongly and lora.rank > 1:
        suggestions |= _rank(lora.rank // 2, recipe)
    return suggestions


def _for_under_fitting(last: Point, recipe: Recipe) -> dict[str, Any]:
    lora, train = recipe.lora, recipe.train
    suggestions: dict[str, Any] = {}
    if train.max_steps is not None and last.epoch < train.epochs:
        suggestions["train.max_steps"] = None  # it ended a training that had epochs to go
    else:
        suggestions["train.epochs"] = math.ceil(1.5 * train.epochs)
    if train.learning_rate < MAX_LEARNING_RATE:
        suggestions["train.learning_rate"] = _rounded(min(2 * train.learning_rate, MAX_LEARNING_RATE))
    if lora.rank < MAX_RANK:
        suggestions |= _rank(min(2 * lora.rank, MAX_RANK), recipe)
    return suggestions


def _for_diverging(recipe: Recipe) -> dict[str, Any]:
    suggestions: dict[str, Any] = {"train.learning_rate": _rounded(recipe.train.learning_rate / 4)}
    if recipe.train.warmup_ratio < 0.05:
        suggestions["train.warmup_ratio"] = 0.05
    if recipe.train.max_grad_norm is None:
        suggestions["train.max_grad_norm"] = 1.0
    if recipe.model.dtype == "float16":
        suggestions["model.dtype"] = "float32"
    return suggestions | {"train.load_best": True}


def _more_validations(points: Sequence[Point]) -> dict[str, Any]:
    wanted = max(1, points[-1].step // VALIDATIONS_WANTED)
    return {"train.evaluate_every": wanted} if wanted < points[-1].step / len(points) else {}


def _rank(rank: int, recipe: Recipe) -> dict[str, Any]:
    """Another rank, and the alpha that leaves the update's scale as it is: half the rank alone would double it."""
    share = rank / recipe.lora.rank
    alpha = recipe.lora.alpha * (share**0.5 if recipe.lora.rslora else share)
    return {"lora.rank": rank, "lora.alpha": _rounded(alpha)}


def _rounded(value: float) -> float:
    """To three significant digits."""
    return float(f"{value:.3g}")
