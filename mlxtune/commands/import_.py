"""`mlxtune import`: an adapter of another tool becomes a run, mlx-lm's config or data a recipe."""

from __future__ import annotations

from pathlib import Path

import click

from mlxtune.commands.options import compute_options, force_option, json_option, print_json, say, set_option


@click.command("import")
@click.argument("source", type=click.Path(path_type=Path))
@click.option(
    "--recipe",
    type=click.Path(path_type=Path),
    metavar="RECIPE|RUN",
    help="For an adapter: the recipe that names its base model, prompt, output and rows.",
)
@set_option
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Run folder or recipe to write. Default: runs/<recipe>/<UTC time>, or <name of SOURCE>.yaml.",
)
@compute_options
@force_option
@json_option
def import_(
    source: Path,
    recipe: Path | None,
    overrides: tuple[str, ...],
    out: Path | None,
    backend: str,
    device: str,
    force: bool,
    as_json: bool,
) -> None:
    """Turn an adapter into a run, or mlx-lm's training config or data into a recipe.

    SOURCE is told by what it holds: an adapter folder of mlx-lm or PEFT, a LoRA in a .gguf file, mlx-lm's config (.yaml), or a
    folder with train.jsonl. A run made of an adapter evaluates, compares, fuses, exports and verifies without training; its lora
    section is the adapter's.

    Example: mlxtune import adapters --recipe recipes/demo-intent.yaml --out runs/demo-intent/theirs
    """
    from mlxtune.export.import_source import AdapterSource, find_source

    found = find_source(source)
    if isinstance(found, AdapterSource):
        if recipe is None:
            raise click.UsageError(
                f"{source} is an adapter ({found.format}): say with --recipe RECIPE which base model, prompt, output and rows "
                "it is for; `mlxtune import` makes one of mlx-lm's config"
            )
        from mlxtune.backends import choose
        from mlxtune.export.import_adapter import import_adapter
        from mlxtune.recipe.load import load_recipe
        from mlxtune.runs.folder import named_run

        run = named_run(recipe)
        loaded = load_recipe(run.recipe_file if run else recipe, overrides)
        made = import_adapter(found, loaded, choose(backend, device).backend, out, force=force)
        if as_json:
            print_json(made.to_json())
            return
        for note in made.notes:
            say(note)
        lora = made.recipe.lora
        click.echo(
            f"{found.format} adapter: {made.n_parameters:,} parameters, rank {lora.rank}, alpha {lora.alpha:g}, scale {lora.scale:g}\n"
            f"run: {made.run}\n"
            f"next: mlxtune evaluate {made.run}"
        )
        return

    from mlxtune.export.import_recipe import import_recipe

    if recipe is not None or overrides:
        option = "--recipe" if recipe is not None else "--set"
        raise click.UsageError(f"{option} goes with an adapter; {source} becomes a recipe, which you can edit")
    written = import_recipe(found, out, force=force)
    if as_json:
        print_json(written.to_json())
        return
    for line in written.note_lines:
        say(line)
    click.echo(f"recipe: {written.recipe}")
    click.echo(f"next: mlxtune data {written.recipe}")
