"""The first section: what was trained on what, whether it is better than before, and than each baseline."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from mlxtune.evaluation.documents import DocumentScores
from mlxtune.evaluation.results import EvaluationResult
from mlxtune.evaluation.stored import common_decoding
from mlxtune.report.blocks import Block, Code, Facts, Folded, Paragraph, Section, Tile, Tiles
from mlxtune.report.contents.run import EvaluationContents, RunContents
from mlxtune.report.sections.conditions import conditions_sentence
from mlxtune.report.sections.metric_lines import MetricLine, leading_lines
from mlxtune.report.sections.pieces import together, tone_of
from mlxtune.report.sections.results import comparison_sentences, line_title, results_table
from mlxtune.report.sections.times import duration
from mlxtune.report.sections.training import training_warning
from mlxtune.report.values import difference_text, estimate_text, size_text
from mlxtune.report.words import Words
from mlxtune.runs.layout import BASE, FINISHED, TUNED

N_TILES = 3


def headline_section(contents: RunContents, say: Words) -> Section:
    """What was trained, on what, and how well it does."""
    blocks: list[Block] = [*_unfinished(contents, say)]
    if contents.documents is not None:
        blocks += _documents(contents, contents.documents, say)
    elif contents.tuned is None:
        command = shlex.join(["mlxtune", "evaluate", str(contents.run)])
        blocks += [Paragraph(say("headline.not_evaluated"), "warning"), Code(command, "sh")]
    else:
        if contents.outdated:
            command = shlex.join(["mlxtune", "evaluate", str(contents.run), "--force"])
            blocks += [Paragraph(say("headline.outdated"), "warning"), Code(command, "sh")]
        blocks += _results(contents, contents.tuned, say)
    blocks += training_warning(contents, say)
    blocks.append(Facts(_facts(contents, say)))
    if contents.tuned is not None and (notes := contents.tuned.result.top.notes):
        blocks.append(Folded(say("headline.notes"), [Paragraph(note) for note in notes]))
    return Section("headline", say("headline.title"), blocks)


def _unfinished(contents: RunContents, say: Words) -> Iterator[Block]:
    facts = contents.facts
    if facts.status is not None and facts.status != FINISHED:
        because = "" if facts.error is None else say("headline.because", error=facts.error)
        yield Paragraph(together([say("headline.unfinished", status=facts.status), because], say), "warning")


# Results -----------------------------------------------------------------------------------------------------------


def _results(contents: RunContents, tuned: EvaluationContents, say: Words) -> Iterator[Block]:
    """The metrics that matter, a sentence for the model before tuning and for each baseline, and all of them side by side."""
    result, base = tuned.result, None if contents.base is None else contents.base.result
    yield Tiles([_tile(line, result, base, say) for line in leading_lines(result, N_TILES)])
    if result.expectations:
        met = all(one.met for one in result.expectations)
        yield Paragraph(conditions_sentence(result.expectations, say), "good" if met else "bad")
    yield from comparison_sentences(result, say)
    if base is None and contents.name != BASE:
        command = shlex.join(["mlxtune", "evaluate", str(contents.run), "--base"])
        yield Paragraph(say("headline.no_base", command=command))
    if len(result.top.fields) > 1:  # of one field, its own section has the table
        yield results_table(result, base, say)


def _documents(contents: RunContents, found: DocumentScores, say: Words) -> Iterator[Block]:
    """Perplexity and loss on the test documents, after and before tuning."""
    before = contents.documents_before
    yield Tiles(
        [
            Tile(
                say(f"headline.{name}"),
                estimate_text(getattr(found, name)),
                None if before is None else estimate_text(getattr(before, name)),
            )
            for name in ("perplexity", "loss")
        ]
    )
    yield Paragraph(say("headline.documents", documents=found.documents, tokens=found.tokens, longest=found.max_tokens))
    if before is None and contents.name != BASE:
        command = shlex.join(["mlxtune", "evaluate", str(contents.run), "--base"])
        yield Paragraph(say("headline.no_base", command=command))


def _tile(line: MetricLine, result: EvaluationResult, base: EvaluationResult | None, say: Words) -> Tile:
    compared = None if result.before is None else line.against(result.before)
    note = "" if compared is None else say(f"headline.change.{compared.verdict}", change=difference_text(compared))
    before = None if base is None else estimate_text(line.of(common_decoding(result, base)[1]))
    return Tile(line_title(line, say), estimate_text(line.of(result.top)), before or None, note, tone_of(compared))


# What was trained --------------------------------------------------------------------------------------------------


def _facts(contents: RunContents, say: Words) -> dict[str, str]:
    recipe, facts = contents.recipe, contents.facts
    found = {"recipe": recipe.name, "run": str(contents.run)}
    if contents.name != TUNED:
        found["evaluation"] = contents.name
    found["base"] = _base(contents, say)
    if facts.trainable_parameters is not None:
        found["parameters"] = _parameters(contents, say)
    if contents.adapter_bytes is not None:
        found["model" if contents.recipe.lora.is_full else "adapter"] = size_text(contents.adapter_bytes)
    if rows := _rows(contents, say):
        found["rows"] = rows
    if facts.step is not None or contents.steps:
        found["steps"] = _steps(contents, say)
    if facts.seconds is not None:
        found["time"] = duration(facts.seconds, say)
    if facts.device.description is not None:
        computed = facts.device.description
        found["device"] = (
            computed if facts.backend is None else say("headline.with", device=computed, backend=facts.backend)
        )
    if facts.peak_memory_gb is not None:
        found["memory"] = f"{facts.peak_memory_gb:.2f} GB"
    return {say(f"headline.{name}"): value for name, value in found.items()}


def _base(contents: RunContents, say: Words) -> str:
    model, method = contents.recipe.model, contents.recipe.lora.method
    if model.quantize is None:
        return model.path
    return say("headline.quantized", base=model.path, bits=model.quantize.bits, method=method)


def _parameters(contents: RunContents, say: Words) -> str:
    trained, whole, lora = contents.facts.trainable_parameters or 0, contents.facts.parameters, contents.recipe.lora
    share = "" if not whole else say("headline.share", share=trained / whole, whole=whole)
    if lora.is_full:
        return say("headline.trained_whole", n=trained)
    return together(
        [say("headline.trained", n=trained, method=lora.method, rank=lora.rank, alpha=lora.alpha), share], say
    )


def _rows(contents: RunContents, say: Words) -> str:
    rows = {split: one.rows for split, one in contents.facts.data.items()}
    if contents.tuned is not None:
        rows["test"] = contents.tuned.result.top.rows
    counts = [say(f"headline.rows.{split}", n=rows[split]) for split in ("train", "valid", "test") if rows.get(split)]
    return say("list.separator").join(counts)


def _steps(contents: RunContents, say: Words) -> str:
    facts, last = contents.facts, contents.steps[-1] if contents.steps else None
    taken = facts.step if facts.step is not None else 0 if last is None else last.step
    planned = facts.steps.total
    text = f"{taken:,}" if planned is None else say("headline.of", taken=taken, planned=planned)
    epochs = "" if last is None or last.epoch is None else say("headline.epochs", epochs=last.epoch)
    return together([text, epochs], say)
