"""Perplexity on test documents: what there is to measure of a model that was trained on text without replies. Asks for no reply.

found = measure_documents(subject, rows, backend, out)
found.perplexity        # Estimate(value=14.2, low=12.9, high=15.8)
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlxtune.backends.base import Backend
from mlxtune.backends.shared_model import own_model, share_batches
from mlxtune.data.batches import build_batches, shared_prefix
from mlxtune.data.examples import build_examples, within_positions
from mlxtune.data.passes import plan_passes
from mlxtune.data.rows import Row
from mlxtune.errors import RunError
from mlxtune.evaluation.metrics.estimates import Draws, Estimate, Floats, estimates
from mlxtune.evaluation.subject import Subject, load_subject, read_test_rows
from mlxtune.files import write_json
from mlxtune.json_values import mapping, read_dataclass
from mlxtune.progress import SILENT, Progress
from mlxtune.recipe.sections import AUTO
from mlxtune.runs.folder import locked
from mlxtune.runs.layout import PERPLEXITY_FILE

POSITIONS = 2048  # of a forward pass, where no training has found out what memory allows


@dataclass(frozen=True)
class DocumentScores:
    """What a model makes of documents.

    Attributes:
        documents: How many.
        tokens: Supervised tokens, their ends of text included.
        max_tokens: Longest piece that a document is scored in: a token sees those before it in its piece.
        loss: Mean -log p of a token, nats, with its interval over documents.
        perplexity: exp(loss), likewise.
        folder: Where they are written.
    """

    documents: int
    tokens: int
    max_tokens: int
    loss: Estimate
    perplexity: Estimate
    folder: Path

    def to_json(self) -> dict[str, Any]:
        """As perplexity.json has it."""
        return {**asdict(self), "loss": self.loss.to_json(), "perplexity": self.perplexity.to_json(),
                "folder": str(self.folder)}  # fmt: skip

    @classmethod
    def from_json(cls, content: Any) -> DocumentScores:
        """What `to_json` says; raises JsonError as every `from_json` does."""
        return read_dataclass(cls, {**mapping(content), "folder": Path(content["folder"])})

    @property
    def sentence(self) -> str:
        """The scores in a line."""
        one = self.perplexity
        interval = "" if one.low is None or one.high is None else f" ({one.low:.4g} to {one.high:.4g})"
        return (
            f"perplexity {one.value:.4g}{interval}, loss {self.loss.value:.4g} nats a token: {self.documents:,} documents, "
            f"{self.tokens:,} tokens, in pieces of up to {self.max_tokens:,}"
        )


def read_scores(folder: Path) -> DocumentScores | None:
    """What `measure_documents` wrote into a folder; None where it wrote nothing.

    Raises:
        RunError: The file is corrupt.
    """
    file = folder / PERPLEXITY_FILE
    try:
        return DocumentScores.from_json(json.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise RunError(f"{file}: cannot be read: {error}; measure again with mlxtune evaluate --force") from error


def read_documents(subject: Subject, limit: int | None = None) -> list[Row] | None:
    """The test rows, if they are documents; None where they ask for replies.

    Raises:
        RecipeError: The recipe names none.
        DataError: They cannot be read.
    """
    rows = read_test_rows(subject.recipe)[:limit]
    return rows if any(row.is_document for row in rows) else None


def measure_documents(
    subject: Subject, rows: Sequence[Row], backend: Backend, out: Path, force: bool = False, progress: Progress = SILENT
) -> DocumentScores:
    """Score documents and write perplexity.json.

    Args:
        subject: Its model is scored, and its recipe says how long pieces are.
        rows: The documents.
        backend: Computes.
        out: Folder to write.
        force: Replace what lies there.
        progress: Told how many pieces are scored.

    Raises:
        RunError: The folder holds scores already.
        DataError: A document is empty, or holds a control token.
    """
    file = out / PERPLEXITY_FILE
    if file.exists() and not force:
        raise RunError(f"{file}: exists already; replace it with --force, or choose another folder with --out")
    model, tokenizer = load_subject(subject, backend)
    recipe = within_positions(subject.recipe, model.config)
    examples = build_examples(rows, recipe, tokenizer)
    prefix = shared_prefix(examples)
    size = POSITIONS if recipe.train.tokens_per_pass == AUTO else recipe.train.tokens_per_pass
    nats, tokens = np.zeros(len(rows)), np.zeros(len(rows))
    batches = build_batches(examples, plan_passes([one.n_tokens for one in examples], size), prefix)
    own = own_model(model)
    progress.begin("scoring", len(examples))
    for number, found in share_batches(
        model,
        [[batch.prefix.tolist(), *batch.tokens.tolist()] for batch in batches],
        lambda number: own.score(batches[number]).nats.sum(1, dtype=np.float64).tolist(),
    ):
        batch = batches[number]
        np.add.at(nats, list(batch.rows), found)
        np.add.at(tokens, list(batch.rows), batch.supervised.sum(1))
        progress.advance(len(batch.rows))
    scored = estimates(_Documents(nats, tokens), recipe.train.seed, unbounded=("loss", "perplexity"))
    scores = DocumentScores(
        len(rows), int(tokens.sum()), recipe.train.max_tokens, scored["loss"], scored["perplexity"], out
    )
    out.mkdir(parents=True, exist_ok=True)
    with locked(out):
        write_json(file, scores.to_json())
    return scores


@dataclass(frozen=True)
class _Documents:
    """Documents by their -log p in all, (N,), and their tokens, (N,); a `MetricTable`."""

    nats: NDArray[np.float64]
    tokens: NDArray[np.float64]

    @property
    def rows(self) -> Mapping[str, NDArray[np.floating]]:
        """None is a mean over documents: long ones count for more."""
        return {}

    @property
    def n_rows(self) -> int:
        """How many there are."""
        return len(self.nats)

    def of(self, draws: Draws) -> dict[str, Floats]:
        """Loss and perplexity of each draw."""
        loss = (draws @ self.nats) / (draws @ self.tokens)
        return {"loss": loss, "perplexity": np.exp(loss)}
