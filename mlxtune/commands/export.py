"""`mlxtune export`: a run in the forms that other tools read."""

from __future__ import annotations

from pathlib import Path

import click

from mlxtune.commands.options import compute_options, force_option, json_option, print_json, say
from mlxtune.export.options import COMPUTED, FORMATS, GGUF_TYPES, ExportOptions, check_options


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--to", type=click.Choice(tuple(FORMATS)), required=True, help="Format to write; the list stands below.")
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
@compute_options
@force_option
@json_option
def export(
    run: Path,
    to: str,
    out: Path | None,
    weight_type: str | None,
    base: bool,
    quantize: str | None,
    group_size: str | None,
    dtype: str | None,
    adapter_only: str | None,
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
