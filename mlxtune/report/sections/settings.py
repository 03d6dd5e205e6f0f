"""How a run was made: its settings, the environment, hashes of what went in; and the commands that make it again."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from mlxtune.evaluation.results import EvaluatedModel
from mlxtune.recipe.yaml_text import flow_text
from mlxtune.report.blocks import Block, Code, Facts, Folded, Paragraph, Section
from mlxtune.report.contents.run import RunContents
from mlxtune.report.sections.times import moment
from mlxtune.report.words import Words
from mlxtune.runs.layout import BASE, TUNED

# Of the recipe, those that a reader looks for first; the whole recipe stands below.
SHOWN = (
    "model.path", "model.quantize", "model.dtype", "lora.type", "lora.rank", "lora.alpha", "lora.dropout", "lora.targets", "lora.layers",
    "train.epochs", "train.max_steps", "train.batch_size", "train.gradient_accumulation", "train.learning_rate",
    "train.schedule", "train.warmup_ratio", "train.weight_decay", "train.max_grad_norm", "train.max_tokens",
    "train.early_stopping", "train.load_best", "train.seed", "evaluate.decoding", "evaluate.max_new_tokens",
)  # fmt: skip


def settings_section(contents: RunContents, say: Words) -> Section:
    """Settings, environment and hashes."""
    recipe = contents.recipe
    dumped = recipe.model_dump(mode="json")
    chosen = {key: _setting(dumped, key) for key in SHOWN if _is_said(dumped, key)}
    blocks: list[Block] = [
        Facts(chosen),
        Folded(say("settings.recipe"), [Code(recipe.to_yaml().rstrip("\n"), "yaml")]),
        Folded(say("settings.environment"), [Facts(_environment(contents, say))]),
        Folded(say("settings.hashes"), [Facts(_hashes(contents, say))]),
    ]
    return Section("settings", say("settings.title"), blocks)


def reproduce_section(contents: RunContents, say: Words) -> Section:
    """The commands that were given, and those that show the run again."""
    facts, run = contents.facts, str(contents.run)
    commands = [list(facts.command)] if facts.command else [["mlxtune", "lora", f"{run}/recipe.yaml"]]
    commands += [list(one.command) for one in facts.resumed if one.command]
    if contents.tuned is not None and isinstance(contents.tuned.result.evaluated, EvaluatedModel):
        overrides = [word for one in contents.tuned.result.evaluated.overrides for word in ("--set", one)]
        commands.append(["mlxtune", "evaluate", run, *(["--base"] if contents.name == BASE else []), *overrides])
    if contents.base is not None:
        commands.append(["mlxtune", "evaluate", run, "--base"])
    commands.append(["mlxtune", "report", run, *([] if contents.name == TUNED else ["--name", contents.name])])
    text = "\n".join(map(shlex.join, commands))
    return Section("reproduce", say("reproduce.title"), [Paragraph(say("reproduce.text")), Code(text, "sh")])


def _is_said(content: Mapping[str, Any], key: str) -> bool:
    """Whether a recipe has a key; `lora` has others than the type for adapters alone."""
    section, _, name = key.partition(".")
    return name in content[section]


def _setting(content: Mapping[str, Any], key: str) -> str:
    """A value of the recipe on one line; text without quotation marks."""
    section, _, name = key.partition(".")
    value = content[section][name]
    return value if isinstance(value, str) else flow_text(value)


def _environment(contents: RunContents, say: Words) -> dict[str, str]:
    facts = contents.facts
    named = {
        "created": facts.created and moment(facts.created),
        "finished": facts.finished and moment(facts.finished),
        "status": facts.status,
        "backend": facts.backend,
        "reason": facts.reason,
        "device": facts.device.description,
        "platform": facts.platform,
        "begun_from": facts.begun_from,
        "tokens_per_pass": None if facts.tokens_per_pass is None else f"{facts.tokens_per_pass:,}",
    }
    versions = {"mlxtune": facts.mlxtune, "Python": facts.python, **facts.versions}
    found = {say(f"settings.{name}"): value for name, value in named.items() if value}
    return found | {name: version for name, version in versions.items() if version}


def _hashes(contents: RunContents, say: Words) -> dict[str, str]:
    """Of the base model's weights, and of the rows by file."""
    facts = contents.facts
    found = {} if facts.base.fingerprint is None else {say("settings.base"): facts.base.fingerprint}
    files = {one.file: one.sha256 for one in facts.data.values()}
    if contents.tuned is not None and contents.tuned.result.evaluated is not None:
        data = contents.tuned.result.evaluated.data
        files[data.file] = data.sha256
    return found | {file: digest for file, digest in files.items() if file is not None and digest is not None}
