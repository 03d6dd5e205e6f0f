"""A folder of rows as mlx-lm reads them: prompt and completion, chats, or texts; a recipe reads each as it is.

mlx-lm tells the form by the first row: `prompt` with `completion`, else `messages`, else `text`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mlxtune.data.reading import read_recipe_rows
from mlxtune.data.rows import Row, read_rows
from mlxtune.errors import DataError
from mlxtune.export.import_source import SPLITS
from mlxtune.recipe.sections import DOCUMENTS, FREE_FIELD, DataSection, ModelSection, Recipe


@dataclass(frozen=True)
class MlxLmRows:
    """Rows of mlx-lm.

    Attributes:
        folder: Where they lie.
        format: What a recipe calls them.
        splits: Those that there are, train among them, and the number of rows of each.
        columns: Our name -> the files' name, where they differ.
        longest_reply: Bytes in UTF-8; 0 of documents.
        n_trimmed: Completions that begin or end with white space, which a reply here does not.
    """

    folder: Path
    format: str
    splits: Mapping[str, int]
    columns: Mapping[str, str]
    longest_reply: int
    n_trimmed: int

    @property
    def is_documents(self) -> bool:
        """Whether they are texts without a reply."""
        return self.format == DOCUMENTS


def read_mlx_lm_rows(folder: Path, features: Mapping[str, str]) -> MlxLmRows:
    """Read train.jsonl, valid.jsonl and test.jsonl, as far as they are there.

    Args:
        folder: Where they lie.
        features: Names of columns: prompt_feature, completion_feature, chat_feature and text_feature of a config.

    Raises:
        DataError: train.jsonl is missing, a file cannot be read, or rows are not of the form of the first.
    """
    files = {split: folder / f"{split}.jsonl" for split in SPLITS if (folder / f"{split}.jsonl").is_file()}
    if "train" not in files:
        raise DataError(f"{folder}: has no train.jsonl, which a recipe needs; found {', '.join(files) or 'no rows'}")
    first = read_rows(files["train"])[0]
    format, columns = _form(first, features)
    section = {"train": str(files["train"]), "format": format, "columns": columns}
    recipe = Recipe(name="rows", model=ModelSection(path="any"), data=DataSection.model_validate(section))
    rows = {split: read_recipe_rows(file, recipe) for split, file in files.items()}
    completion = columns.get("completion", "completion")
    written = [str(row.fields.get(completion, "")) for file in files.values() for row in read_rows(file)]
    return MlxLmRows(
        folder,
        format,
        {split: len(some) for split, some in rows.items()},
        columns,
        max(len(str(row.fields.get(FREE_FIELD, "")).encode()) for some in rows.values() for row in some),
        sum(text != text.strip() for text in written) if format == "completions" else 0,
    )


def _form(first: Row, features: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    """The format of rows, by the first of them, and the columns that have other names in them."""
    prompt, completion, chat, text = (features[f"{name}_feature"] for name in ("prompt", "completion", "chat", "text"))
    forms = {
        "completions": {"prompt": prompt, "completion": completion},
        "messages": {"messages": chat},
        DOCUMENTS: {"text": text},
    }
    for format, names in forms.items():
        if all(theirs in first.fields for theirs in names.values()):
            return format, {ours: theirs for ours, theirs in names.items() if ours != theirs}
    raise DataError(
        f"{Path(first.file).name}:{first.line}: expected {prompt!r} with {completion!r}, {chat!r} or {text!r}, "
        f"got {', '.join(map(repr, first.fields))}"
    )
