"""What a training config of mlx-lm says, key by key, and notes on what a recipe does not carry over. Writes no recipe."""

from __future__ import annotations

from typing import Any

from mlxtune.errors import RecipeError
from mlxtune.export.import_source import DEFAULTS, RecipeSource

# Keys that have no counterpart, and what to do instead.
WITHOUT_COUNTERPART = {
    "steps_per_report": "progress is shown by itself",
    "val_batches": "the whole validation set is used each time",
    "adapter_path": "`mlxtune lora RECIPE --out RUN` says where the run goes",
    "resume_adapter_file": "`mlxtune import ADAPTERS --recipe RECIPE` makes a run of it, from which `mlxtune lora --from RUN` begins",
    "test": "`mlxtune evaluate RUN` measures on the test rows",
    "test_batches": "`mlxtune evaluate RUN` uses all test rows",
    "project_name": "trackers name the project mlxtune",
    "clear_cache_threshold": "memory is managed by itself",
    "trust_remote_code": "code from the Hub is never run; model types that need it are not supported",
}


class MlxLmSettings:
    """What a config says; each key that is asked for counts as carried over, the others are noted in the end."""

    def __init__(self, source: RecipeSource) -> None:
        self.source, self.said = source, dict(source.config)
        self.notes: list[tuple[str, str]] = []
        self._asked = {"train", "config"}

    @property
    def is_config(self) -> bool:
        """Whether there is a config, so that mlx-lm's defaults count for what it does not say."""
        return self.source.format == "config"

    def get(self, key: str) -> Any:
        """What it says, or mlx-lm's default."""
        self._asked.add(key)
        return self.said.get(key, DEFAULTS[key])

    def number(self, key: str, kind: type[int] | type[float], at_least: float) -> Any:
        """A number; RecipeError where it is none, or less than `at_least`."""
        return self.checked(key, self.get(key), kind, at_least)

    def checked(self, key: str, value: Any, kind: type[int] | type[float], at_least: float) -> Any:
        """As `number`, of a value that was read."""
        is_number = isinstance(value, (int, float) if kind is float else int) and not isinstance(value, bool)
        if not is_number or value < at_least:
            word = "number" if kind is float else "whole number"
            raise RecipeError(f"{self.source.path}: {key}: expected a {word} of {at_least} or more, got {value!r}")
        return kind(value)

    def note(self, key: str, text: str) -> None:
        """What a key means here."""
        self.notes.append((key, text))

    def note_the_rest(self) -> None:
        """Name the keys that nothing asked for."""
        for key, value in self.said.items():
            if key in self._asked or key not in DEFAULTS:
                continue
            if value != DEFAULTS[key] or key in ("test", "resume_adapter_file"):
                self.note(key, f"not carried over: {WITHOUT_COUNTERPART[key]}")
        for key in self.said:
            if key not in DEFAULTS:
                self.note(key, "not carried over: no key of mlx-lm's that is known here")
