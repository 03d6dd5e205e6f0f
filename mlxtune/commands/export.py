"""`mlxtune export`: a run in the forms that other tools read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mlxtune.commands.options import compute_options, force_option, json_option, print_json, say
from mlxtune.errors import Misuse
from mlxtune.export.options import (
    COMPUTED,
    FORMATS,
    GGUF_TYPES,
    HUB,
    UPLOADS,
    ExportOptions,
    UploadOptions,
    check_options,
    check_upload,
)

if TYPE_CHECKING:
    from mlxtune.backends.base import ChosenBackend
    from mlxtune.export.hub import Uploaded
    from mlxtune.runs.folder import RunFolder


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("repository", metavar="[OWNER/NAME]", required=False)
@click.option("--to", type=click.Choice((*FORMATS, HUB)), required=True, help="Format to write, from the list above.")
@click.option("--out", type=click.Path(path_type=Path), help="File or folder to write. Default: in RUN/exports.")
@click.option(
    "--type", "weight_type", type=click.Choice(GGUF_TYPES), help="gguf, ollama: type of the weights. Default: f16."
)
@click.option("--base", is_flag=True, help="gguf: write the base model, without the adapter.")
@click.option("--quantize", type=click.Choice(["4", "8"]), help="mlx: bits of the weights. Default: 16-bit weights.")
@click.option(
    "--group-size", type=click.Choice(["32", "64", "128"]), help="mlx: weights that share a scale. Default: 64."
)
@click.option("--dtype", type=click.Choice(["float32", "bfloat16", "float16"]), help="hf, mlx: type of the weights.")
@click.option("--adapter-only", metavar="FROM", help="ollama: write the adapter alone, for a model that Ollama has.")
@click.option(
    "--upload", type=click.Choice(UPLOADS), help="hub: format to upload; its options go with it. Default: peft."
)
@click.option("--public", is_flag=True, help="hub: let everybody read a new repository. Default: private.")
@click.option("--dry-run", is_flag=True, help="hub: show the files and the model card, and upload nothing.")
@compute_options
@force_option
@json_option
def export(
    run: Path,
    repository: str | None,
    to: str,
    out: Path | None,
    weight_type: str | None,
    base: bool,
    quantize: str | None,
    group_size: str | None,
    dtype: str | None,
    adapter_only: str | None,
    upload: str | None,
    public: bool,
    dry_run: bool,
    backend: str,
    device: str,
    force: bool,
    as_json: bool,
) -> None:
    """Write RUN in a format that other tools read.

    \b
    peft       adapter folder for PEFT and transformers
    hf         fused model folder for transformers
    mlx        fused model folder for mlx-lm and LM Studio
    gguf       fused model file for llama.cpp
    gguf-lora  adapter file for llama.cpp
    ollama     folder with a GGUF and a Modelfile
    hub        repository OWNER/NAME on the Hugging Face Hub, with a model card

    Example: mlxtune export runs/demo-intent/demo --to gguf --type q8_0
    """
    from mlxtune.backends import choose
    from mlxtune.export.formats import default_out, export_run
    from mlxtune.runs.folder import open_run

    options = ExportOptions(
        type=weight_type,
        quantize=int(quantize) if quantize else None,
        group_size=int(group_size) if group_size else None,
        dtype=dtype,
        base=base,
        adapter_only=adapter_only,
    )
    if to == HUB:
        _check_hub(repository, out)
        options_of_upload = UploadOptions(upload or UPLOADS[0], options, public, force)
        _to_hub(open_run(run), str(repository), options_of_upload, choose(backend, device), dry_run, as_json)
        return
    _refuse_hub_only(to, repository, {"--upload": upload, "--public": public, "--dry-run": dry_run})
    check_options(to, options)
    opened = open_run(run)
    choice = choose(backend, device)
    if to in COMPUTED:
        say(f"backend: {choice.reason}")
    exported = export_run(opened, to, out or default_out(opened, to, options), choice.backend, options, force=force)
    if as_json:
        print_json({"run": str(opened), **exported.to_json()})
        return
    for note in exported.notes:
        say(note)
    click.echo(f"{exported.path}: {exported.n_bytes / 1e6:,.1f} MB\n{exported.load}")


def _check_hub(repository: str | None, out: Path | None) -> None:
    """Raise Misuse where the Hub is meant and no repository is named, or a folder here."""
    if repository is None:
        raise Misuse("--to hub needs a repository: mlxtune export RUN OWNER/NAME --to hub")
    if out is not None:
        raise Misuse("--out cannot be used with --to hub, which writes no files here")


def _refuse_hub_only(to: str, repository: str | None, given: Mapping[str, object]) -> None:
    """Raise Misuse where something is said that only the Hub takes."""
    if repository is not None:
        raise Misuse(f"{repository!r}: only --to hub takes a repository; did you mean --out {repository}?")
    for option, value in given.items():
        if value:
            raise Misuse(f"{option} is an option of {HUB}, not of {to}; leave it out")


def _to_hub(
    run: RunFolder, repository: str, upload: UploadOptions, choice: ChosenBackend, dry_run: bool, as_json: bool
) -> None:
    """Upload a run, or show what would be uploaded."""
    from mlxtune.export.hub_folder import preview_upload, upload_run

    check_upload(upload)
    if upload.artifact in COMPUTED:
        say(f"backend: {choice.reason}")
    if dry_run:
        content = preview_upload(run, repository, choice.backend, upload)
        result = {**content.to_json(), "card": content.card}
    else:
        done = upload_run(run, repository, choice.backend, upload)
        content, result = done.content, done.to_json()
    if as_json:
        print_json({"run": str(run), **result})
        return
    for note in content.notes:
        say(note)
    width = max(len(one.path) for one in content.files)
    files = [f"{one.path:{width}}  {one.n_bytes / 1e6:10,.3f} MB" for one in content.files]
    if dry_run:
        click.echo("\n".join([*files, "", content.card.rstrip("\n")]))
        say(f"nothing was uploaded; leave out --dry-run to upload it to {repository}")
        return
    for note in _what_became(done.uploaded):
        say(note)
    click.echo("\n".join([done.uploaded.url, *files, content.load]))


def _what_became(done: Uploaded) -> list[str]:
    """Sentences on the repository."""
    notes = ["the repository held all of this already; there is no new commit"] if done.unchanged else []
    notes += [f"replaced: {', '.join(done.replaced)}"] if done.replaced else []
    notes += [f"already there and kept: {', '.join(done.kept)}"] if done.kept else []
    return [*notes, "the repository is public" if done.is_public else "the repository is private"]
