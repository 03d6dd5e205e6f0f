"""`mlxtune fuse`: fold a run's adapter into its base model."""

from __future__ import annotations

from pathlib import Path

import click

from mlxtune.commands.options import compute_options, force_option, json_option, print_json, say


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="Model folder to write. Default: RUN/fused.")
@click.option("--requantize", is_flag=True, help="Quantize the result as the base is. Default: 16-bit weights.")
@click.option("--dtype", type=click.Choice(["float32", "bfloat16", "float16"]), help="Type of the fused weights.")
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0),
    default=0.1,
    show_default=True,
    help="Largest logit difference to accept, as a share of the adapter's own effect.",
)
@compute_options
@force_option
@json_option
def fuse(
    run: Path,
    out: Path | None,
    requantize: bool,
    dtype: str | None,
    tolerance: float,
    backend: str,
    device: str,
    force: bool,
    as_json: bool,
) -> None:
    """Fold RUN's adapter into its base model: one folder that needs no adapter.

    Example: mlxtune fuse runs/demo-intent/demo --out models/demo-fused
    """
    from mlxtune.backends import choose
    from mlxtune.export.fuse import fuse_run
    from mlxtune.runs.folder import open_run

    opened = open_run(run)
    choice = choose(backend, device)
    say(f"backend: {choice.reason}")
    target = out or opened.fused
    fused = fuse_run(
        opened, choice.backend, target, requantize=requantize, dtype=dtype, tolerance=tolerance, force=force
    )
    if as_json:
        print_json(
            {
                "run": str(opened),
                "fused": str(fused.written.folder),
                "bytes": fused.written.n_bytes,
                "parameters": fused.written.n_parameters,
                "bits_per_weight": fused.written.bits_per_weight,
                "largest_logit_difference": fused.proof.difference,
                "adapter_effect": fused.proof.effect,
                "rounding_difference": fused.proof.rounding,
                "unexplained_difference": fused.proof.unexplained,
                "rounded_to": fused.proof.rounded_to,
                "prompts": fused.proof.prompts,
                "positions": fused.proof.positions,
                "notes": list(fused.written.notes),
            }
        )
        return
    for note in fused.written.notes:
        say(note)
    click.echo(
        f"{fused.written.folder}: {fused.written.n_bytes / 1e9:.2f} GB, {fused.written.bits_per_weight:.2f} bits a weight\n"
        f"{fused.proof.as_text()}"
    )
