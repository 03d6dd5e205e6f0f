"""The sections of a recipe: their keys, defaults and checks. No file is read here.

A recipe says everything a command needs. It is checked whole before anything is loaded: every unknown key, wrong
type and impossible value is reported at once, with file, line and a suggestion. An unknown key is refused, never ignored.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    SerializerFunctionWrapHandler,
    Tag,
    ValidationError,
    model_serializer,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from mlxtune.errors import did_you_mean
from mlxtune.evaluation.metrics.metric import OF_LABELS
from mlxtune.recipe.conditions import FORMS, LABEL_BASELINES, condition_problems

VALID_LOSS = "valid.loss"
AUTO: Literal["auto"] = "auto"  # what a key has that mlxtune is to choose
PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
# Rows on the Hugging Face Hub. What stands after the last colon is a split there, or a file's path.
HUB_ROWS = re.compile(
    r"hub:(?P<repository>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:/(?P<config>[\w.-]+))?(?:@(?P<revision>[^:\s]+))?"
    r"(?::(?P<split>[^:]+))?"
)
HUB_SPLITS = {"train": "train", "valid": "validation", "test": "test"}  # what a name without a split means
# The mapping whose keys are dotted themselves: evaluate.expect: {intents.exact_match: ">= 0.8"}.
EXPECT = "evaluate.expect"
# Alone among the values, these are files: relative ones are taken from the recipe's folder.
DATA_FILES = ("train", "valid", "test")
MORE_ROWS = "more"  # of data: a list of them
ROWS = "rows"
DOCUMENTS = "text"
# Format -> the columns that it reads, under the names that data.columns gives them; of `rows` the recipe names them.
FORMAT_COLUMNS: dict[str, tuple[str, ...]] = {
    "messages": ("messages", "conversations", "tools", "system"),
    "completions": ("prompt", "completion", "tools", "system"),
    "alpaca": ("instruction", "input", "output", "system", "history"),
    "sharegpt": ("conversations", "tools", "system"),
    DOCUMENTS: ("text",),
}
Format = Literal["auto", "rows", "messages", "completions", "alpaca", "sharegpt", "text"]
METHODS = {"lora": "LoRA", "dora": "DoRA", "full": "full fine-tuning"}  # names of lora.type
FREE_FIELD = "answer"  # of a recipe without `output`


class Section(BaseModel):
    """Base of every part of a recipe: typed strictly, closed to unknown keys, immutable."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


def _wrong(key: str, message: str) -> PydanticCustomError:
    """A problem of one key of a section, found while looking at several (the key becomes part of its place)."""
    return PydanticCustomError("mlxtune", "{message}", {"message": message, "key": key})


def _all_wrong(problems: Iterable[tuple[str, str]]) -> ValidationError:
    """Several problems at once: keys and messages as `_wrong` has them."""
    return ValidationError.from_exception_data(
        "recipe", [InitErrorDetails(type=_wrong(*problem), loc=(), input=None) for problem in problems]
    )


class Quantize(Section):
    """Group-wise affine quantization of the base model: training on it is QLoRA."""

    bits: Literal[4, 8] = 4
    """Bits a weight."""
    group_size: Literal[32, 64, 128] = 64
    """Weights that share one scale and one offset; must divide the width of every layer."""


class ModelSection(Section):
    """The base model."""

    path: str = Field(min_length=1)
    """Hub id, folder, .gguf file, or package:NAME/FILE.gguf for weights inside an installed Python package."""
    revision: str | None = None
    """Branch, tag or commit of a Hub id; null is its default branch."""
    quantize: Quantize | None = None
    """Quantize the base before training (QLoRA); null keeps it as it is."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """Type to compute in; null is float32 on a CPU and the model's own type on a GPU."""
    shard: bool = False
    """Each process under a launcher holds a part of the base model's weights, for bases larger than one device; one process holds all."""


class Clean(Section):
    """What to remove from the training rows."""

    dedupe: Literal["none", "exact", "near"] = "none"
    """Keep the first of rows with the same text ('exact') or nearly the same text ('near') and the same labels."""
    min_chars: int = Field(0, ge=0)
    """Drop rows whose text is shorter, in characters."""
    drop_garbled: bool = False
    """Drop rows whose text is not language: mojibake, keyboard mash, symbols only."""


class Balance(Section):
    """How to even out the training rows."""

    field: str = Field(min_length=1)
    """Output field whose labels, or whose sets of labels, shall have equally many rows."""
    method: Literal["oversample", "undersample"]
    """Repeat rows up to the most frequent label's count, or leave rows out down to the rarest's."""
    ratio: float = Field(1.0, gt=0, le=1)
    """How even: repeat rows until the rarest label has this share of the most frequent one's count, or leave rows out until
    the most frequent has at most 1 / ratio times the rarest's."""
    by: Literal["sets", "labels"] = "sets"
    """What is counted of a field of label sets: whole sets, or single labels, as near as rows with several labels allow."""
    max_repeats: int = Field(10, ge=2)
    """Copies of one row at most when rows are repeated, so that the few rows of a rare label are not learned by heart."""

    @model_validator(mode="after")
    def _check(self) -> Balance:
        if self.method == "undersample" and self.max_repeats != type(self).model_fields["max_repeats"].default:
            raise _wrong("max_repeats", "'undersample' repeats no row; remove it, or set method: oversample")
        return self


class Augment(Section):
    """Further training rows of a rare class, rewritten by a model from the rows that there are."""

    field: str = Field(min_length=1)
    """Output field with labels."""
    value: str = Field(min_length=1)
    """The label whose rows are rewritten. Their input text alone is; labels and reply stay."""
    factor: float = Field(2.0, gt=1, le=20)
    """How many times its rows the label shall have, the rewritten ones included."""
    endpoint: str = Field(min_length=1)
    """An OpenAI-compatible chat server, such as http://127.0.0.1:8080/v1. Its key comes from MLXTUNE_API_KEY."""
    model: str = Field(min_length=1)
    """Name of the model there."""
    temperature: float = Field(0.9, ge=0, le=2)
    """Of its sampling."""
    tries: int = Field(3, ge=1, le=20)
    """Times that the server is asked for one row at most, where its answers are refused."""

    @model_validator(mode="after")
    def _check(self) -> Augment:
        if "@" in self.endpoint or "?" in self.endpoint:
            raise _wrong(
                "endpoint", "it must not contain a password or key, because runs store it; set MLXTUNE_API_KEY instead"
            )
        if not re.fullmatch(r"https?://[^\s/]+(/\S*)?", self.endpoint):
            raise _wrong("endpoint", f"expected http://HOST:PORT/v1 or https://..., got {self.endpoint!r}")
        return self


class DataSection(Section):
    """The labelled rows: files, relative to the recipe, or rows on the Hugging Face Hub as
    hub:OWNER/NAME[/CONFIG][@REVISION][:SPLIT]. SPLIT is a split there or a file's path in the repository; without it, train,
    validation or test, after the key."""

    train: str = Field(min_length=1)
    """Training rows, .jsonl, .json, .csv or .parquet; or hub:OWNER/NAME."""
    more: list[Annotated[str, Field(min_length=1)]] = Field(default_factory=list)
    """Further training rows: files of the same format, read after `train`."""
    valid: str | None = None
    """Validation rows."""
    valid_fraction: float | None = Field(None, gt=0, lt=1)
    """Instead of `valid`: take this share of the training rows to validate with, label sets in proportion, near-duplicates together."""
    test: str | None = None
    """Test rows, read by `evaluate`, and by `augment` to keep what it makes away from them."""
    format: Format = "auto"
    """What a record is. rows: columns that `prompt.user` and `output` name; messages: a conversation, {role, content} each;
    completions: `prompt` and `completion`, text or messages; alpaca: `instruction`, `input`, `output`; sharegpt: a conversation,
    {from, value} each; text: a document, trained on whole. auto looks at each file's first record."""
    text: str = "text"
    """Column that holds the input text, by which rows are cleaned and shown."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Our name -> your column's name, where they differ: {text: body}."""
    clean: Clean = Clean()
    """Cleaning of the training rows; validation and test rows are never touched."""
    balance: Balance | None = None
    """Balancing of the training rows, once they are cleaned and split; null leaves them as they are."""
    augment: Augment | None = None
    """Rewritten rows of a rare class, added before balancing; null adds none."""

    @model_validator(mode="after")
    def _check(self) -> DataSection:
        for name, file in self._named:
            if is_on_hub(file) and not HUB_ROWS.fullmatch(file):
                raise _wrong(name, f"expected hub:OWNER/NAME[/CONFIG][@REVISION][:SPLIT], got {file!r}")
        if self.valid is not None and self.valid_fraction is not None:
            raise _wrong("valid_fraction", "data.valid names validation rows already; keep one of the two")
        if twice := next((file for file in self.more if self.training_files.count(file) > 1), None):
            raise _wrong("more", f"{twice} is named twice among the training rows; name it once")
        return self

    @property
    def training_files(self) -> list[str]:
        """`train`, and then `more`."""
        return [self.train, *self.more]

    @property
    def files(self) -> list[str]:
        """All that the recipe reads rows from."""
        return [file for _, file in self._named]

    @property
    def _named(self) -> list[tuple[str, str]]:
        """Key and file."""
        files = [(name, getattr(self, name)) for name in DATA_FILES]
        return [(name, file) for name, file in files if file is not None] + [(MORE_ROWS, file) for file in self.more]


class PromptSection(Section):
    """What the model is asked."""

    system: str | None = None
    """System message; null sends none. A conversation that has its own keeps that."""
    user: str = Field("{text}", min_length=1)
    """User message; {column} is replaced by that column of the row. Conversations bring their own."""
    thinking: bool = False
    """Let a Qwen3-style model think before it replies; off, the prompt closes the thinking block itself. In every decoding
    the reply may then begin with one block <think>...</think>, which is left out before the reply is read; one that does
    not end makes the reply invalid. Rows have no thinking to train: they train the reply alone, right after the
    assistant's header, so tuning teaches the model to answer without thinking. In conversations, the thinking of the last turn
    is trained. With it there are no probabilities."""


class _OutputField(Section):
    """What every output field has."""

    has_labels: ClassVar[bool] = False
    loss_weight: float = Field(1.0, ge=0)
    """Weight of this field's tokens in the loss; the template's own tokens weigh 1."""

    @property
    def closed_labels(self) -> list[str] | None:
        """The allowed labels; None of an open list, or where there are no labels."""
        return None

    @property
    def label_separator(self) -> str | None:
        """What stands between the labels of a set; None where there is one label, or none."""
        return None


def _weights_kind(value: object) -> str | None:
    return "weights" if isinstance(value, dict) else "word" if value == "balanced" else None


# Told apart before they are checked, so that a wrong weight is a problem of its label and not of the word.
ClassWeights = Annotated[
    Annotated[dict[str, Annotated[float, Field(ge=0)]], Tag("weights")] | Annotated[Literal["balanced"], Tag("word")],
    Discriminator(
        _weights_kind,
        custom_error_type="mlxtune_expected",
        custom_error_message="expected {expected}",
        custom_error_context={"expected": "'balanced', or labels with their weights as in {refund: 2.0}"},
    ),
]


class _Labelled(_OutputField):
    """What fields with a list of labels have."""

    has_labels: ClassVar[bool] = True
    class_weights: ClassWeights = Field(default_factory=dict)
    """Label -> factor on the loss of that label's own tokens; or balanced: rarer labels weigh more, in inverse
    proportion to their count in the rows that are trained on."""

    def _check_labels(self, labels: Sequence[str]) -> None:
        for position, label in enumerate(labels):
            if not label.strip() or label != label.strip() or "\n" in label:
                raise _wrong(f"labels.{position}", f"a label is one line without outer spaces, got {label!r}")
            alike = [other for other in labels[:position] if other.casefold() == label.casefold()]
            if alike:
                same = "is listed twice" if alike[0] == label else f"differs from {alike[0]!r} by case only"
                raise _wrong(f"labels.{position}", f"{label!r} {same}; replies are read without regard to case")
        for label in self.class_weights if isinstance(self.class_weights, dict) else ():
            if labels and label not in labels:
                raise _wrong(f"class_weights.{label}", "not one of the labels" + did_you_mean(label, labels))


class LabelField(_Labelled):
    """Exactly one of a list of labels."""

    kind: Literal["label"]
    labels: list[str] = Field(min_length=2)
    """The allowed labels."""

    @property
    def closed_labels(self) -> list[str] | None:
        """The allowed labels."""
        return self.labels

    @model_validator(mode="after")
    def _check(self) -> LabelField:
        self._check_labels(self.labels)
        return self


class LabelsField(_Labelled):
    """A set of labels: read in any order, written in the list's order."""

    kind: Literal["labels"]
    labels: list[str] | None = Field(None, min_length=2)
    """The allowed labels in canonical order; null is an open set, kept in the row's own order."""
    separator: str = Field(", ", min_length=1)
    """What stands between two labels."""
    exclusive: str | None = None
    """A label that only ever stands alone, such as 'none'."""

    @property
    def closed_labels(self) -> list[str] | None:
        """The allowed labels; None of an open list."""
        return self.labels

    @property
    def label_separator(self) -> str | None:
        """What stands between two labels."""
        return self.separator

    @model_validator(mode="after")
    def _check(self) -> LabelsField:
        self._check_labels(self.labels or [])
        if "\n" in self.separator or not self.separator.strip():
            raise _wrong("separator", f"expected a visible character on one line, got {self.separator!r}")
        for position, label in enumerate(self.labels or []):
            if self.separator.strip() in label:
                raise _wrong(f"labels.{position}", f"{label!r} contains the separator {self.separator!r}")
        if self.exclusive is not None and self.exclusive not in (self.labels or []):
            raise _wrong("exclusive", f"{self.exclusive!r} is not one of the labels")
        return self


class TextField(_OutputField):
    """Free text."""

    kind: Literal["text"]


OutputField = Annotated[LabelField | LabelsField | TextField, Field(discriminator="kind")]


KINDS: dict[str, type[_OutputField]] = {"label": LabelField, "labels": LabelsField, "text": TextField}


class OutputSection(Section):
    """What the model answers. The template formats, masks, weighs, constrains and parses the reply."""

    template: str = Field(min_length=1)
    """The reply, with {field} where a field's value goes."""
    fields: dict[str, OutputField] = Field(min_length=1)
    """Field name -> its kind."""

    @model_validator(mode="after")
    def _check(self) -> OutputSection:
        names = PLACEHOLDER.findall(self.template)
        for name in names:
            if name not in self.fields:
                raise _wrong("template", f"{{{name}}} is not one of the fields" + did_you_mean(name, self.fields))
            if names.count(name) > 1:
                raise _wrong("template", f"{{{name}}} stands in it twice")
        for name in self.fields:
            if name not in names:
                raise _wrong(f"fields.{name}", f"the template has no {{{name}}}, so the model would never write it")
        pieces = PLACEHOLDER.split(self.template)
        for before, literal in zip(names, pieces[2:-1:2], strict=False):
            if not literal:
                raise _wrong("template", f"something must stand between {{{before}}} and the field after it")
        return self

    @property
    def text_fields(self) -> list[str]:
        """The fields that are written text."""
        return [name for name, field in self.fields.items() if not field.has_labels]

    @property
    def label_fields(self) -> list[str]:
        """The fields with labels, one or a set."""
        return [name for name, field in self.fields.items() if field.has_labels]


def free_reply() -> OutputSection:
    """What a recipe without `output` has: the whole reply is one text."""
    return OutputSection(template=f"{{{FREE_FIELD}}}", fields={FREE_FIELD: TextField(kind="text")})


class LoraSection(Section):
    """The adapter."""

    type: Literal["lora", "dora", "full"] = "lora"
    """lora: a low-rank update of each adapted weight; dora: as well a trained length of each of its rows (Liu et al., 2024); full: no
    adapter, all weights of the model are trained, in float32, for small models; the other keys of this section then mean nothing
    and are refused."""
    rank: int = Field(8, ge=1)
    """Rank r of the update B A."""
    alpha: float = Field(16.0, gt=0)
    """Scale of the update: alpha / rank, or alpha / sqrt(rank) with rslora."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Share of each adapted layer's inputs zeroed for the update while training."""
    targets: Literal["all", "attention", "mlp", "experts"] | list[str] = "all"
    """Linear layers to adapt: all, attention (those of self_attn: q, k, v, o; those of gated delta nets, too), mlp (gate, up, down; those of
    experts, too), experts (of these alone), or a list of such words and names. Routers are never adapted."""
    layers: Literal["all"] | Annotated[int, Field(ge=1)] = "all"
    """Transformer blocks to adapt: all, or that many from the end."""
    rslora: bool = False
    """Rank-stabilised scale, alpha / sqrt(rank) (Kalajdzievski, 2023)."""

    @model_validator(mode="after")
    def _check_full(self) -> LoraSection:
        if self.type == "full" and (set_beside := self.model_fields_set - {"type"}):
            raise _all_wrong(
                (key, "it means nothing where lora.type is full, which has no adapter; remove it")
                for key in sorted(set_beside)
            )
        return self

    @model_serializer(mode="wrap")
    def _without_adapter(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Of `full`, the type alone: a recipe that says more is refused."""
        content: dict[str, Any] = handler(self)
        return {"type": self.type} if self.type == "full" else content

    @property
    def is_full(self) -> bool:
        """Whether all weights are trained, without an adapter."""
        return self.type == "full"

    @property
    def method(self) -> str:
        """What people call the type."""
        return METHODS[self.type]

    @property
    def scale(self) -> float:
        """Factor on the update B A."""
        return float(self.alpha / (self.rank**0.5 if self.rslora else self.rank))


class EarlyStopping(Section):
    """When to stop before the last epoch."""

    metric: str | None = None
    """What must go on improving; null is train.best_metric."""
    patience: int = Field(3, ge=1)
    """Validations in a row without improvement after which training stops."""
    min_delta: float = Field(0.0, ge=0)
    """Least change that counts as an improvement."""


class TrainSection(Section):
    """Training."""

    epochs: int = Field(1, ge=1)
    """Times every row is seen."""
    max_steps: int | None = Field(None, ge=1)
    """Stop after this many optimizer steps, for trials; null trains all epochs."""
    batch_size: int = Field(4, ge=1)
    """Rows of a batch. With gradient_accumulation it says how many rows form an optimizer step, not what memory is needed."""
    gradient_accumulation: int = Field(4, ge=1)
    """Batches an optimizer step, which is of batch_size x gradient_accumulation rows, over all processes where there are several."""
    tokens_per_pass: Literal["auto"] | Annotated[int, Field(ge=1)] = AUTO
    """Most positions of a forward pass, padding included, the prefix that all rows share not counted; a longer row is a pass
    of its own. The rows of a step are computed in few passes of that size, with the same loss and gradient. auto is what the
    device's memory allows; the run keeps the number, so that it resumes with the same passes."""
    gradient_checkpointing: bool = False
    """Recompute each block's activations in the backward pass instead of keeping them: less memory, about a third more
    time, the same numbers."""
    fit: Literal["auto", "refuse", "ignore"] = "auto"
    """What to do where the estimated peak is more than the device's memory. auto: turn gradient_checkpointing on if that is enough, say so
    and keep it in the run's recipe, else refuse before weights are loaded; refuse: refuse at once; ignore: train all the same."""
    learning_rate: float = Field(2e-4, gt=0)
    """Peak learning rate."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """How the learning rate goes from its peak to zero, or stays."""
    warmup_ratio: float = Field(0.0, ge=0, lt=1)
    """Share of the steps over which the learning rate rises from zero."""
    weight_decay: float = Field(0.0, ge=0)
    """Decoupled weight decay of AdamW, of matrices alone: norms, biases and DoRA's magnitudes have none."""
    max_grad_norm: float | None = Field(1.0, gt=0)
    """Clip the gradient's global L2 norm to this; null does not clip."""
    max_tokens: int = Field(2048, ge=8)
    """Longest row in tokens, prompt and reply."""
    over_long: Literal["refuse", "drop"] = "refuse"
    """What to do with longer rows: refuse to train, naming them, or drop them, naming them. Documents are split instead."""
    pack_documents: bool = True
    """Join short documents into rows of up to max_tokens, so that a step is of about as many tokens whatever their length. No token sees
    another document. Only documents (data.format: text) are joined."""
    supervise: Literal["last", "all"] = "last"
    """Which turns of a conversation are trained: the assistant's last, or every one of the assistant's."""
    evaluate_every: int | None = Field(None, ge=1)
    """Optimizer steps between validations; null validates at the end of each epoch."""
    save_every: int | None = Field(None, ge=1)
    """Optimizer steps between checkpoints; null saves at each validation. One that is the best so far is always saved."""
    best_metric: str = VALID_LOSS
    """What tells which checkpoint is best: valid.loss, FIELD.METRIC as intents.exact_match or priority.macro_f1, or
    FIELD.recall.LABEL (precision, f1). All but the loss come from replies that the model writes to validation rows."""
    metric_rows: int = Field(64, ge=1)
    """Validation rows that it writes replies to, a fixed sample; all of them if there are no more."""
    early_stopping: EarlyStopping | None = None
    """Stop when a metric no longer improves; null trains to the end."""
    load_best: bool = False
    """Make the best checkpoint the run's adapter or model; otherwise it is the last one."""
    seed: int = Field(0, ge=0, lt=2**32)
    """Seed of the adapter's initial values, the order of rows and the dropout."""

    @property
    def rows_per_step(self) -> int:
        """Rows an optimizer step."""
        return self.batch_size * self.gradient_accumulation

    @property
    def pack_to(self) -> int | None:
        """Most tokens of a row of joined documents; None where they are not joined."""
        return self.max_tokens if self.pack_documents else None


def _conditions(value: object) -> object:
    """Told here what is wrong, as one problem and not as one for each of the two forms."""
    texts = value if isinstance(value, list) else [value]
    if not texts or not all(isinstance(text, str) for text in texts):
        raise PydanticCustomError(
            "mlxtune_expected", "expected {expected}", {"expected": f"{FORMS}, or a list of such conditions"}
        )
    return value


class EvaluateSection(Section):
    """Evaluation."""

    decoding: Literal["constrained", "free", "both", "best"] = "constrained"
    """constrained: the model writes only replies that the template allows; free: anything; both: one after the other; best: the
    most probable allowed reply, found by scoring every value of each label field with a list."""
    max_new_tokens: int = Field(64, ge=1)
    """Longest reply in tokens, its thinking included (prompt.thinking: true needs some hundred more)."""
    batch_size: int = Field(16, ge=1)
    """Replies written at a time, at most: where one ends, a row that waits takes its place. Fewer where memory has no room for them."""
    baselines: list[Literal["majority", "keywords", "tfidf", "zero_shot", "few_shot"]] = Field(default_factory=list)
    """What the model is compared with: the most frequent answer of the training rows, keywords, TF-IDF with logistic
    regression on the training rows, and the model before tuning, asked as it is or shown rows with their answers."""
    keywords: dict[str, Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)]] = Field(
        default_factory=dict
    )
    """Label -> words; the baseline 'keywords' gives a text every label one of whose words occurs in it."""
    few_shot: int = Field(4, ge=1)
    """Training rows that the baseline 'few_shot' shows the model."""
    expect: dict[str, Annotated[str | list[str], BeforeValidator(_conditions)]] = Field(default_factory=dict)
    """Metric -> what it must reach, or `evaluate` exits with 1: '>= 0.8', '<= 0.05', 'interval >= 0.7' (all of the 95%
    interval), 'better than tfidf' (another of the baselines, or before: the model before tuning); or a list of these. Metrics
    are FIELD.METRIC, FIELD.recall.LABEL (precision, f1), reply.METRIC and speed.METRIC."""

    @model_validator(mode="after")
    def _check_baselines(self) -> EvaluateSection:
        for position, name in enumerate(self.baselines):
            if name in self.baselines[:position]:
                raise _wrong(f"baselines.{position}", f"{name!r} is listed twice")
            if name == "keywords" and not self.keywords:
                raise _wrong(f"baselines.{position}", "'keywords' needs words: evaluate.keywords: {label: [word, ...]}")
        return self

    @property
    def conditions(self) -> dict[str, list[str]]:
        """`expect` with a list for every metric."""
        return {name: [texts] if isinstance(texts, str) else texts for name, texts in self.expect.items()}


class Recipe(Section):
    """One recipe, checked."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the recipe; its runs lie in runs/NAME/."""
    model: ModelSection
    """The base model."""
    data: DataSection
    """The labelled rows."""
    prompt: PromptSection = PromptSection()
    """What the model is asked."""
    output: OutputSection = Field(default_factory=free_reply)
    """What the model answers; without it, free text, which evaluation calls `answer`."""
    lora: LoraSection = LoraSection()
    """The adapter."""
    train: TrainSection = TrainSection()
    """Training."""
    evaluate: EvaluateSection = EvaluateSection()
    """Evaluation."""
    track: list[Literal["tensorboard", "wandb", "swanlab", "mlflow"]] = Field(default_factory=list)
    """Trackers that training is shown in, besides metrics.jsonl; each needs its extra: pip install 'mlxtune[wandb]'."""

    @model_validator(mode="after")
    def _check(self) -> Recipe:
        for position, tracker in enumerate(self.track):
            if tracker in self.track[:position]:
                raise _wrong(f"track.{position}", f"{tracker!r} is listed twice")
        if self.data.format == ROWS and "output" not in self.model_fields_set:
            raise _wrong("output", "missing; rows have columns, and the recipe says what the reply is made of")
        if problems := self.format_problems(self.data.format):
            raise _all_wrong(problems)
        for name in PLACEHOLDER.findall(self.prompt.user):
            if name in self.output.fields:
                raise _wrong("prompt.user", f"{{{name}}} is an output field: the prompt would give the answer away")
        if not PLACEHOLDER.findall(self.prompt.user):
            raise _wrong("prompt.user", "it names no column, so every row would ask the same; write {text}")
        known = self._known_columns()
        for name in self.data.columns:
            if name not in known:
                raise _wrong(f"data.columns.{name}", "nothing uses this column" + did_you_mean(name, known))
        if self.lora.is_full and self.model.quantize is not None:
            raise _wrong(
                "model.quantize",
                "lora.type: full trains the weights, and quantized ones cannot be; remove one of the two",
            )
        if self.lora.is_full and self.model.shard:
            raise _wrong(
                "model.shard",
                "lora.type: full trains all weights, which each process holds whole; remove one of the two",
            )
        if self.lora.is_full and self.model.dtype not in (None, "float32"):
            raise _wrong(
                "model.dtype",
                f"lora.type: full computes in float32; remove it, or write float32 in place of {self.model.dtype}",
            )
        self._check_metrics()
        with_labels = [self.output.fields[name] for name in self.output.label_fields]
        for position, name in enumerate(self.evaluate.baselines):
            if not with_labels and name in LABEL_BASELINES:
                raise _wrong(f"evaluate.baselines.{position}", f"{name!r} needs an output field with labels")
        listed = [label for field in with_labels for label in field.closed_labels or []]
        for label in self.evaluate.keywords:
            if label not in listed and all(field.closed_labels for field in with_labels):
                raise _wrong(f"evaluate.keywords.{label}", "not one of the labels" + did_you_mean(label, listed))
        if (balance := self.data.balance) is not None:
            labelled = self.output.label_fields
            if balance.field not in labelled:
                hint = did_you_mean(balance.field, labelled) or f"; known: {', '.join(labelled) or 'none'}"
                raise _wrong("data.balance.field", f"{balance.field!r} is no output field with labels{hint}")
        self._check_augment()
        conditions = condition_problems(self.evaluate.conditions, self.output.fields, self.evaluate.baselines)
        if problems := [(f"{EXPECT}.{name}", problem) for name, problem in conditions]:
            raise _all_wrong(problems)
        return self

    def _known_columns(self) -> set[str]:
        """Our names for columns, in any format that the data may have."""
        read = {self.data.text, *PLACEHOLDER.findall(self.prompt.user), *self.output.fields}
        if self.data.format == AUTO:
            return read.union(*FORMAT_COLUMNS.values())
        return set(FORMAT_COLUMNS.get(self.data.format, read))

    def format_problems(self, found: str) -> list[tuple[str, str]]:
        """Keys that mean nothing for data of a format, and why; none for `auto`, before a file has been looked at."""
        if found == AUTO:
            return []
        if found != DOCUMENTS and not self.train.pack_documents:
            return [("train.pack_documents", "only documents (data.format: text) are joined; remove it")]
        if found == ROWS:
            alone = "rows have one reply each; remove it, or set data.format to a format of conversations"
            return [("train.supervise", alone)] if self.train.supervise == "all" else []
        has = "documents are trained on whole" if found == DOCUMENTS else f"{found} brings its own messages"
        wrong = {
            "prompt.user": self.prompt.user != type(self.prompt).model_fields["user"].default,
            "data.text": self.data.text != type(self.data).model_fields["text"].default,
            "data.augment": self.data.augment is not None,
        }
        if found == DOCUMENTS:
            wrong |= {
                "prompt.system": self.prompt.system is not None,
                "prompt.thinking": self.prompt.thinking,
                "output": self.output != free_reply(),
                "train.supervise": self.train.supervise == "all",
                "train.over_long": self.train.over_long == "drop",
                "train.best_metric": self.train.best_metric != VALID_LOSS,
                "evaluate.baselines": bool(self.evaluate.baselines),
                "evaluate.expect": bool(self.evaluate.expect),
            }
        return [
            (key, f"it means nothing where data.format is {found}: {has}; remove it")
            for key, one in wrong.items()
            if one
        ]

    def _check_augment(self) -> None:
        """What is rewritten is the rows of a label that the recipe lists, and the model reads the text that changes."""
        augment = self.data.augment
        if augment is None:
            return
        labelled = self.output.label_fields
        if augment.field not in labelled:
            hint = did_you_mean(augment.field, labelled) or f"; known: {', '.join(labelled) or 'none'}"
            raise _wrong("data.augment.field", f"{augment.field!r} is no output field with labels{hint}")
        labels = getattr(self.output.fields[augment.field], "labels", None)
        if labels and augment.value not in labels:
            hint = did_you_mean(augment.value, labels) or f"; known: {', '.join(labels)}"
            raise _wrong("data.augment.value", f"{augment.value!r} is no label of {augment.field}{hint}")
        if self.data.text not in PLACEHOLDER.findall(self.prompt.user):
            raise _wrong("data.augment", f"it rewrites {{{self.data.text}}}, which prompt.user does not show")

    def _check_metrics(self) -> None:
        """What selects a checkpoint is a metric of this recipe, named once, and there are rows to measure it on."""
        train, stopping = self.train, self.train.early_stopping
        key, name = "train.best_metric", train.best_metric
        if stopping is not None and stopping.metric is not None:
            if self.metric_name(name) not in (VALID_LOSS, self.metric_name(stopping.metric)):
                raise _wrong("train.early_stopping.metric", f"train.best_metric is {name!r}; keep one of the two")
            key, name = "train.early_stopping.metric", stopping.metric
        from mlxtune.evaluation.metrics.registry import selectable  # NumPy, which most commands that read a recipe need

        known = [f"{field}.{metric}" for field, one in self.output.fields.items() for metric in selectable(one.kind)]
        of_labels = set(self._label_metrics().values())
        if self.metric_name(name) not in (VALID_LOSS, *known, *of_labels):
            named = [VALID_LOSS, *known, *(["FIELD.recall.LABEL (precision, f1)"] if of_labels else [])]
            hint = did_you_mean(name, [VALID_LOSS, *known, *of_labels]) or f"; known: {', '.join(named)}"
            raise _wrong(key, f"{name!r} is no metric of this recipe{hint}")
        if self.data.valid is None and self.data.valid_fraction is None:
            asking = {"train.early_stopping": stopping, "train.load_best": train.load_best, key: name != VALID_LOSS}
            for asked in (one for one, wanted in asking.items() if wanted):
                raise _wrong(asked, f"{name} is measured on validation rows; add data.valid or data.valid_fraction")

    @property
    def selection_metric(self) -> str:
        """What tells which checkpoint is best, and when to stop."""
        stopping = self.train.early_stopping
        own = self.train.best_metric if stopping is None or stopping.metric is None else stopping.metric
        return self.metric_name(own)

    def metric_name(self, name: str) -> str:
        """A metric by the name that it has now: 0.1.0 wrote FIELD.LABEL.recall where it is FIELD.recall.LABEL."""
        names = self._label_metrics()
        return name if name in names.values() else names.get(name, name)

    def _label_metrics(self) -> dict[str, str]:
        """Older name -> name of the metrics of each label that a field lists."""
        return {
            f"{field}.{label}.{metric}": f"{field}.{metric}.{label}"
            for field, one in self.output.fields.items()
            for label in one.closed_labels or ()
            for metric in OF_LABELS
        }

    @property
    def prompt_columns(self) -> list[str]:
        """Columns that the user message and the cleaning read."""
        return list(dict.fromkeys([self.data.text, *PLACEHOLDER.findall(self.prompt.user)]))

    def with_tokens_per_pass(self, size: int) -> Recipe:
        """This recipe with `train.tokens_per_pass` stated."""
        return self.model_copy(update={"train": self.train.model_copy(update={"tokens_per_pass": size})})

    def with_gradient_checkpointing(self) -> Recipe:
        """This recipe with `train.gradient_checkpointing` on."""
        return self.model_copy(update={"train": self.train.model_copy(update={"gradient_checkpointing": True})})

    def to_yaml(self) -> str:
        """The recipe with every default spelled out, as a run folder keeps it."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=110)

    def flat(self) -> dict[str, Any]:
        """Dotted key -> value, as JSON has it, of everything that the recipe says; lists are values."""
        return _flat(self.model_dump(mode="json"))


def _flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def key_place(key: str) -> tuple[str, ...]:
    """The keys that a dotted one names, outermost first.

    >>> key_place("train.epochs"), key_place("evaluate.expect.intents.exact_match")
    (('train', 'epochs'), ('evaluate', 'expect', 'intents.exact_match'))
    """
    if key.startswith(f"{EXPECT}."):
        return (*EXPECT.split("."), key.removeprefix(f"{EXPECT}."))
    return tuple(key.split("."))


def is_on_hub(name: str) -> bool:
    """Whether `data.train`, `valid` or `test` is written as rows on the Hub rather than as a file."""
    return name.startswith("hub:")


def is_local_model(path: str) -> bool:
    """Whether `model.path` is written as a file or folder rather than as a Hub id or a package's file."""
    return not path.startswith("package:") and (path.startswith((".", "/", "~")) or path.endswith(".gguf"))
