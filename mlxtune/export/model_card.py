"""README.md of a run's repository on the Hub: what the model is, how well it does, on what it was trained, how to ask it.

    card = model_card(card_facts(open_run(path), source, HubArtifact("peft"), "owner/intent"))

Everything in it is known from the run. No row of the data is in it, and no path of the machine: files are named without
their folders. Labels, prompts and names may be anybody's text; none of it can end a table, a block or the front matter.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from mlxtune.evaluation.metrics.registry import title
from mlxtune.evaluation.predict.predictions import FREE
from mlxtune.evaluation.results import EvaluatedModel
from mlxtune.export.card_facts import CardFacts
from mlxtune.export.card_results import result_lines, verification_lines
from mlxtune.export.card_usage import HubArtifact, base_reference, is_hub_model, usage_lines
from mlxtune.export.options import GGUF_TYPE
from mlxtune.markdown import markdown_block, markdown_code, markdown_row, markdown_text
from mlxtune.models.license import License
from mlxtune.recipe.sections import HUB_ROWS, LabelField, LabelsField, LoraSection, Recipe, is_on_hub
from mlxtune.report.sections.metric_lines import metric_lines
from mlxtune.runs.layout import FINISHED

FEW_ROWS = 200  # below, a share of the test rows has an interval that is wider than 0.05 on each side
# Metric -> what the Hub calls it, where that is another name.
HUB_METRICS = {"rougeL": "rouge", "all_fields_correct": "exact_match"}
LIBRARIES = {"peft": "peft", "hf": "transformers", "mlx": "mlx", "gguf": "gguf", "gguf-lora": "gguf"}


def model_card(facts: CardFacts) -> str:
    """The card: YAML front matter, and Markdown."""
    parts = [
        [f"# {markdown_text(facts.repository.partition('/')[2])}"],
        _what(facts),
        ["## Results", "", *result_lines(facts.result, facts.before, facts.recipe, _cleaned_counts(facts.info))],
        *([["## Exports compared", "", *verification_lines(facts.verification)]] if facts.verification else []),
        ["## Prompt", "", *_prompt(facts.recipe)],
        ["## Use", "", *usage_lines(facts.artifact, facts.recipe, facts.repository, facts.modelfile)],
        ["## Data", "", *_data(facts)],
        ["## Training", "", *_training(facts)],
        ["## Limits", "", *_limits(facts)],
        ["## Reproduce", "", *_reproduce(facts)],
    ]
    body = "\n\n".join("\n".join(lines) for lines in parts)
    return f"---\n{front_matter_of(facts)}\n---\n\n{body}\n"


# Front matter ------------------------------------------------------------------------------------------------------


def front_matter_of(facts: CardFacts) -> str:
    """The YAML by which the Hub lists the model."""
    from huggingface_hub import ModelCardData

    model, artifact = facts.recipe.model, facts.artifact
    tags = ["mlxtune", facts.recipe.lora.type, *([artifact.format] if artifact.format in ("mlx", "gguf") else [])]
    tags += [f"{artifact.options.quantize}-bit"] if artifact.options.quantize else []
    license_found = facts.license or License("")
    results = _eval_results(facts)
    data = ModelCardData(
        base_model=model.path if is_hub_model(model.path) else None,
        library_name=LIBRARIES[artifact.format],
        license=license_found.id or None,
        license_name=license_found.name,
        license_link=license_found.link,
        model_name=facts.repository.partition("/")[2] if results else None,
        eval_results=results or None,
        pipeline_tag="text-generation",
        tags=tags,
        # A quantized fine-tune is no quantization of the base model: listed as one, it would be taken for it.
        base_model_relation=_relation(artifact) if is_hub_model(model.path) else None,
    )
    return str(data.to_yaml())


def _relation(artifact: HubArtifact) -> str:
    return "adapter" if artifact.is_adapter else "finetune"


def _eval_results(facts: CardFacts) -> list[Any]:
    """The headline metrics, as the Hub's model-index has them."""
    from huggingface_hub import EvalResult

    if facts.result is None:
        return []
    name = facts.recipe.data.test or ""
    on_hub = HUB_ROWS.fullmatch(name)
    top = facts.result.top
    return [
        EvalResult(
            task_type="text-generation",
            dataset_type=on_hub["repository"] if on_hub else facts.recipe.name,
            dataset_name=f"test rows of {facts.recipe.name}",
            dataset_split="test",
            metric_type=HUB_METRICS.get(line.metric, line.metric),
            metric_name=f"{line.field}: {title(line.metric)}",
            metric_value=round(estimate.value, 4),
        )
        for line in metric_lines(facts.result)
        if line.is_headline and (estimate := line.of(top)) is not None
    ]


# What it is --------------------------------------------------------------------------------------------------------


def _what(facts: CardFacts) -> list[str]:
    recipe, artifact = facts.recipe, facts.artifact
    base = base_reference(recipe)
    quantized, method = artifact.options.quantize, recipe.lora.method
    made = "fine-tuned whole" if recipe.lora.is_full else f"fine-tuned with {method} and fused"
    kind = {
        "peft": f"A {method} adapter for {base}: for PEFT, and under `mlx/` for mlx-lm.",
        "hf": f"{base}, {made}, for transformers.",
        "mlx": f"{base}, {made}, for mlx-lm" + (f"; quantized to {quantized} bits after that." if quantized else "."),
        "gguf": f"{base}, {made}, as a GGUF for llama.cpp; weights as {(artifact.options.type or GGUF_TYPE).upper()}.",
        "gguf-lora": f"A LoRA adapter for {base}, as a GGUF for llama.cpp.",
    }[artifact.format]
    lines = [kind, "", "It was trained to reply to a message in this form, and in nothing else:", ""]
    lines += [markdown_block(recipe.output.template, "text"), "", "| field | value |", "|---|---|"]
    for name, one in recipe.output.fields.items():
        labels = ", ".join(map(markdown_text, one.closed_labels or []))
        if isinstance(one, LabelField):
            value = f"one of: {labels}"
        elif isinstance(one, LabelsField):
            value = f"one or more of: {labels}" if labels else "one or more labels; there is no fixed list"
            value += f"; {markdown_text(one.exclusive)} stands alone" if one.exclusive else ""
        else:
            value = "free text"
        lines.append(markdown_row([markdown_text(name), value]))
    return lines


# Prompt, data, training --------------------------------------------------------------------------------------------


def _prompt(recipe: Recipe) -> list[str]:
    """What the model must be asked, since it was trained on nothing else."""
    prompt = recipe.prompt
    lines = ["Ask exactly as it was trained; with another prompt the results above do not hold.", ""]
    if prompt.system is None:
        lines += ["No system message.", ""]
    else:
        lines += ["System message:", "", markdown_block(prompt.system, "text"), ""]
    lines += ["User message:", "", markdown_block(prompt.user, "text"), ""]
    thinking = "on" if prompt.thinking else "off (`enable_thinking=False` where the chat template knows it)"
    return [*lines, f"Thinking: {thinking}. Longest reply: {recipe.evaluate.max_new_tokens} tokens, greedy decoding."]


def _data(facts: CardFacts) -> list[str]:
    data = facts.info.get("data") or {}
    train = data.get("train") or {}
    rows = {"training": train, "validation": data.get("valid")}
    if facts.result is not None and isinstance(facts.result.evaluated, EvaluatedModel):
        rows["test"] = facts.result.evaluated.data.to_json()
    lines = ["| rows | number | file | SHA-256 |", "|---|---:|---|---|"]
    for name, one in rows.items():
        if one:
            files = ", ".join(map(_shown_file, [one["file"], *one.get("more", ())])) if "file" in one else ""
            file = "held out of the training rows" if "held_out_of" in one else markdown_text(files)
            digest = markdown_code(one["sha256"]) if one.get("sha256") else ""
            lines.append(markdown_row([name, f"{one['rows']:,}" if "rows" in one else "", file, digest]))
    told = []
    if cleaning := train.get("cleaning"):
        told.append(
            f"Of {cleaning['read']:,} training rows read, cleaning removed {cleaning['duplicates']:,} duplicates, "
            f"{cleaning['near_duplicates']:,} near-duplicates and {cleaning['low_quality']:,} rows of low quality; "
            f"{len(cleaning['conflicts']):,} rows have the text of another and other labels."
        )
    if augment := train.get("augment"):
        told.append(
            f"{augment['made']:,} rows of {markdown_text(augment['field'])} = {markdown_text(augment['value'])} were "
            f"rewritten from others by the model {markdown_text(augment['model'])}."
        )
    if balance := train.get("balance"):
        told.append(f"Balancing made {balance['rows_after']:,} rows of {balance['rows_before']:,}.")
    return [*lines, *(["", " ".join(told)] if told else []), "", "The rows themselves are not in this repository."]


def _what_is_trained(lora: LoraSection) -> str:
    if lora.is_full:
        return "all weights, in float32"
    targets = f"{lora.targets} linear layers" if isinstance(lora.targets, str) else ", ".join(lora.targets)
    blocks = "all blocks" if lora.layers == "all" else f"the last {lora.layers} blocks"
    stabilised = ", rank-stabilised" if lora.rslora else ""
    settings = f"rank {lora.rank}, alpha {lora.alpha:g}{stabilised}, dropout {lora.dropout:g}"
    return f"{settings}, {markdown_text(targets)} of {blocks}"


def _training(facts: CardFacts) -> list[str]:
    recipe, info = facts.recipe, facts.info
    lora, train, model = recipe.lora, recipe.train, recipe.model
    parameters = f", {info['trainable_parameters']:,} parameters" if info.get("trainable_parameters") else ""
    stop = "" if train.max_steps is None else f", at most {train.max_steps:,} steps"
    quantized = (
        "" if model.quantize is None else f", quantized to {model.quantize.bits} bits for training (Q{lora.method})"
    )
    clipped = "" if train.max_grad_norm is None else f", gradient norm clipped to {train.max_grad_norm:g}"
    settings = {
        "base model": f"{base_reference(recipe)}{quantized}",
        lora.method: f"{_what_is_trained(lora)}{parameters}",
        "length": f"{train.epochs} epoch{'s' if train.epochs > 1 else ''}{stop}, {train.rows_per_step} rows a step, rows of up to "
        f"{train.max_tokens:,} tokens",
        "AdamW": f"learning rate {train.learning_rate:g}, {train.schedule} schedule, warm-up {train.warmup_ratio:g}, weight "
        f"decay {train.weight_decay:g}{clipped}",
        "seed": str(train.seed),
    }
    lines = ["| setting | value |", "|---|---|", *(markdown_row([name, value]) for name, value in settings.items())]
    return [*lines, "", *_outcome(info)]


def _outcome(info: Mapping[str, Any]) -> list[str]:
    """How training went."""
    lines = []
    if info.get("status") != FINISHED:
        lines += [f"**Training did not finish** (status: {markdown_text(str(info.get('status')))}).", ""]
    if info.get("step") is not None:
        total = (info.get("steps") or {}).get("total")
        told = [f"{info['step']:,} of {total:,} steps" if total else f"{info['step']:,} steps"]
        if info.get("stopped"):
            told.append(f"stopped early ({markdown_text(str(info['stopped']))})")
        if info.get("adapter_step") is not None:
            told.append(f"the adapter is that of step {info['adapter_step']:,}")
        told += [
            f"{name} loss {info[key]:.3f}"
            for key, name in (("train_loss", "training"), ("valid_loss", "validation"))
            if isinstance(info.get(key), (int, float))
        ]
        best = info.get("best")
        if best:
            told.append(f"best {markdown_text(str(best['metric']))} {best['value']:.3f} at step {best['step']:,}")
        lines.append(f"{'; '.join(told)} (losses in nats a token).")
    diagnosis = info.get("diagnosis")
    if diagnosis:
        lines.append(
            f"What the losses say: {markdown_text(diagnosis['verdict'])}: {markdown_text(diagnosis['evidence'])}."
        )
    else:
        lines.append("Whether it over-fitted is not known: there was no validation.")
    device = (info.get("device") or {}).get("description")
    if device and info.get("seconds"):
        memory = f", {info['peak_memory_gb']:.2f} GB of memory at most" if info.get("peak_memory_gb") else ""
        lines.append(f"{info['seconds']:,.0f} s on {markdown_text(device)}{memory}.")
    return lines


# Limits, and how it was made ---------------------------------------------------------------------------------------


def _limits(facts: CardFacts) -> list[str]:
    result, told = facts.result, []
    told.append("Nothing but the task above was tested: no other task, no other kind of text, no safety, no bias.")
    if result is None:
        told.append("It was not evaluated at all.")
    else:
        n_rows = result.top.rows
        if n_rows < FEW_ROWS:
            told.append(f"{n_rows:,} test rows are few: look at the intervals, not at the numbers before them.")
        told.append("The test rows are like the training rows as far as their author made them so; yours may differ.")
        if FREE not in result.by_decoding:
            told.append(
                f"The results are of {result.top.decoding} decoding. The programs under Use decode freely, and may write replies that are "
                "not of the form above: check for them."
            )
        if facts.before is None:
            told.append("The base model was not evaluated on the same rows, so what training gained is not known.")
        if facts.artifact.format != "peft" and not _was_verified(facts):
            whole = facts.recipe.lora.is_full
            evaluated = "the model in float32, as it was trained" if whole else "base model plus adapter"
            told.append(f"The results are of {evaluated}; what is in this repository was not evaluated itself.")
    if facts.artifact.is_nested and facts.artifact.format != "peft":
        told.append("It is the text part of the base model: it reads no images.")
    if facts.recipe.model.quantize is not None and facts.artifact.is_adapter:
        told.append("The adapter was trained on the quantized base model; on the plain one it was not evaluated.")
    elif facts.recipe.model.path.endswith(".gguf") and facts.artifact.is_adapter:
        told.append(
            "The adapter was trained on the weights of that GGUF; on those that it was made of it was not evaluated."
        )
    if facts.license is None:
        told.append("The base model's license is not known from its files; it binds this model, too.")
    return [f"- {one}" for one in told]


def _was_verified(facts: CardFacts) -> bool:
    """Whether `mlxtune verify` asked what is in the repository, under the name that it has there."""
    artifact, options = facts.artifact, facts.artifact.options
    kind = options.type or GGUF_TYPE
    names = {
        "mlx": ["fused" if options.quantize is None else f"q{options.quantize}"],
        "gguf": [f"gguf-{kind}", *(["gguf"] if kind == GGUF_TYPE else [])],
    }.get(artifact.format, [artifact.format])
    return facts.verification is not None and any(one.name in names for one in facts.verification.artifacts)


def _reproduce(facts: CardFacts) -> list[str]:
    info = facts.info
    named = {"mlxtune": info.get("mlxtune"), **(info.get("versions") or {}), "Python": info.get("python")}
    versions = ", ".join(f"{name} {one}" for name, one in named.items() if one)
    return [
        f"Made with {markdown_text(versions)}. With the rows (their hashes are above) and this recipe as `recipe.yaml`:",
        "",
        markdown_block(
            f"mlxtune lora recipe.yaml --out run --backend {info.get('backend', 'auto')}\nmlxtune evaluate run",
            "sh",
        ),
        "",
        "<details><summary>recipe.yaml</summary>",
        "",
        markdown_block(_recipe_yaml(facts.recipe), "yaml"),
        "",
        "</details>",
    ]


def _recipe_yaml(recipe: Recipe) -> str:
    """What the recipe says beyond the defaults, without the folders and addresses of whoever ran it."""
    content = recipe.model_dump(mode="json", exclude_defaults=True)
    if not is_hub_model(recipe.model.path):
        content["model"]["path"] = Path(recipe.model.path).name if ":" not in recipe.model.path else recipe.model.path
    for name in ("train", "valid", "test"):
        if content["data"].get(name):
            content["data"][name] = _shown_file(content["data"][name])
    if "augment" in content["data"]:
        content["data"]["augment"]["endpoint"] = "http://HOST/v1"
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=110).rstrip("\n")


def _shown_file(file: str) -> str:
    """A file's name without its folders; rows on the Hub as they are."""
    return file if is_on_hub(file) else Path(file).name


def _cleaned_counts(info: Mapping[str, Any]) -> Mapping[str, Mapping[str, int]]:
    """Field -> label -> rows that cleaning left, those held out among them; empty where they were not counted."""
    counts = ((info.get("data") or {}).get("train") or {}).get("cleaning", {}).get("labels")
    return counts or {}
