"""`hub`: a run's artifact with a model card as a repository on the Hub, made in a temporary folder, looked at or uploaded.

preview = preview_upload(run, "owner/intent", backend, UploadOptions())
uploaded = upload_run(run, "owner/intent", backend, UploadOptions())
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlxtune.backends.adapter import CONFIG_FILE, WEIGHTS_FILE
from mlxtune.backends.base import Backend
from mlxtune.export.card_facts import card_facts
from mlxtune.export.card_usage import HubArtifact, is_hub_model, load_line
from mlxtune.export.exported import ExportNotWritten
from mlxtune.export.formats import export_run
from mlxtune.export.hub import Uploaded, check_repository_name, open_repository
from mlxtune.export.model_card import model_card
from mlxtune.export.options import GGUF_TYPE, UploadOptions, check_upload
from mlxtune.export.source import open_source
from mlxtune.files import temporary_folder, write_json
from mlxtune.recipe.sections import Recipe
from mlxtune.runs.folder import RunFolder

log = logging.getLogger(__name__)

README = "README.md"
MLX_FOLDER = "mlx"  # of mlx-lm's adapter: its adapter_config.json has the name of PEFT's


@dataclass(frozen=True)
class RepositoryFile:
    """A file of the repository, and its size."""

    path: str
    n_bytes: int


@dataclass(frozen=True)
class HubContent:
    """What a repository holds, or would hold.

    Attributes:
        repository: OWNER/NAME.
        files: By path.
        card: README.md.
        load: The line of code, or the command, that loads it.
        notes: Sentences that whoever uploads it should know.
    """

    repository: str
    files: tuple[RepositoryFile, ...]
    card: str
    load: str
    notes: tuple[str, ...]

    @property
    def n_bytes(self) -> int:
        """Of all files."""
        return sum(one.n_bytes for one in self.files)

    def to_json(self) -> dict[str, Any]:
        """What `export --json` prints of it."""
        return {
            "format": "hub",
            "repository": self.repository,
            "files": {one.path: one.n_bytes for one in self.files},
            "bytes": self.n_bytes,
            "load": self.load,
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class UploadedRun:
    """What was uploaded, and what came of it."""

    content: HubContent
    uploaded: Uploaded

    def to_json(self) -> dict[str, Any]:
        """What `export --json` prints."""
        done = self.uploaded
        return {
            **self.content.to_json(),
            "url": done.url,
            "commit": done.commit,
            "public": done.is_public,
            "replaced": list(done.replaced),
            "kept": list(done.kept),
            "unchanged": done.unchanged,
        }


def preview_upload(run: RunFolder, repository: str, backend: Backend, upload: UploadOptions) -> HubContent:
    """What `upload_run` would upload; it is made as there, and removed again. The Hub is not asked.

    Args:
        run: With an adapter.
        repository: OWNER/NAME.
        backend: Computes, and converts the base model where that is needed.
        upload: What would be uploaded.

    Raises:
        Misuse: The name is none, or an option is not of the artifact.
        RunError: The run has no adapter, or its evaluation cannot be read.
        ModelError, AdapterError, ExportError: What is wrong with base, adapter or disk.
    """
    check_repository_name(repository)
    check_upload(upload)
    with _made(run, repository, backend, upload, _card(run, repository, backend, upload)) as (_, content):
        return content


def upload_run(run: RunFolder, repository: str, backend: Backend, upload: UploadOptions) -> UploadedRun:
    """Upload a run in one commit; arguments and errors as for `preview_upload`, and those of the Hub.

    Raises:
        ExportError: The Hub refuses or cannot be reached; the message says what to do.
    """
    check_upload(upload)
    check_repository_name(repository)
    card = _card(run, repository, backend, upload)
    known = {README: card.text.encode()}
    there = open_repository(repository, public=upload.public, force=upload.force, known=known)
    with _made(run, repository, backend, upload, card) as (folder, content):
        log.info("uploading %d files, %.1f MB, to %s", len(content.files), content.n_bytes / 1e6, there.url)
        return UploadedRun(content, there.upload(folder))


@dataclass(frozen=True)
class _Card:
    """README.md, and what whoever uploads it should know."""

    text: str
    artifact: HubArtifact
    notes: tuple[str, ...]


def _card(run: RunFolder, repository: str, backend: Backend, upload: UploadOptions) -> _Card:
    source = open_source(run, backend)
    artifact = HubArtifact(upload.artifact, upload.options, _file_name(source.recipe, upload), source.is_nested)
    facts = card_facts(run, source, artifact, repository)
    return _Card(model_card(facts), artifact, facts.notes)


def _file_name(recipe: Recipe, upload: UploadOptions) -> str | None:
    """Name of the artifact's file; None where it is a folder."""
    kind = (upload.options.type or GGUF_TYPE).upper()
    return {"gguf": f"{recipe.name}-{kind}.gguf", "gguf-lora": f"{recipe.name}-lora.gguf"}.get(upload.artifact)


def _forget_place(folder: Path, recipe: Recipe) -> None:
    """Take the base model's place on this machine out of both adapters' configurations: it is nobody else's."""
    if is_hub_model(recipe.model.path):
        return
    for file, key in ((folder / CONFIG_FILE, "base_model_name_or_path"), (folder / MLX_FOLDER / CONFIG_FILE, "model")):
        write_json(file, {**json.loads(file.read_text(encoding="utf-8")), key: None})


@contextmanager
def _made(
    run: RunFolder, repository: str, backend: Backend, upload: UploadOptions, card: _Card
) -> Iterator[tuple[Path, HubContent]]:
    """The repository's folder, for as long as the block runs."""
    with temporary_folder(run.path, "hub") as temporary:
        folder = temporary / "repository"
        out = folder if card.artifact.file is None else folder / card.artifact.file
        try:
            exported = export_run(run, upload.artifact, out, backend, upload.options)
        except ExportNotWritten as error:  # its place is a temporary one, in the run
            raise ExportNotWritten(run.path, error.cause) from error.cause
        if upload.artifact == "peft":
            (folder / MLX_FOLDER).mkdir()
            for name in (CONFIG_FILE, WEIGHTS_FILE):
                shutil.copyfile(run.adapter / name, folder / MLX_FOLDER / name)
            _forget_place(folder, run.recipe())
        (folder / README).write_text(card.text, encoding="utf-8")
        files = tuple(
            RepositoryFile(path.relative_to(folder).as_posix(), path.stat().st_size)
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        )
        notes = [note for note in exported.notes if "base_model_name_or_path is a folder" not in note]
        load = load_line(card.artifact, run.recipe(), repository)
        yield folder, HubContent(repository, files, card.text, load, (*card.notes, *notes))
