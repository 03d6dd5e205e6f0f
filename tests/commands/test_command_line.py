"""The command line as its users meet it: help, the whole job on a tiny model, and every mistake answered in one message."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from mlxtune.cli import COMMANDS
from tests.conftest import ROOT, ROWS, Run, snapshot, write_recipe, write_rows
from tests.tiny import tiny_model


@dataclass(frozen=True)
class Place:
    """A folder with a recipe, its data and base model, a finished run, and things that are none of these."""

    folder: Path
    base: Path
    recipe: Path
    run: Path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, base: Path) -> Place:
    folder = tmp_path_factory.mktemp("made")
    recipe = write_recipe(folder, base, train={"epochs": 30})
    run = folder / "run"
    done = subprocess.run(
        [sys.executable, "-m", "mlxtune", "lora", recipe, "--out", run], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return Place(folder, base, recipe, run)


@pytest.fixture
def place(made: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """A copy to break."""
    folder = tmp_path / "place"
    shutil.copytree(made.folder, folder)
    monkeypatch.chdir(tmp_path)
    return Place(folder, made.base, folder / "recipe.yaml", folder / "run")


# The whole job -----------------------------------------------------------------------------------------------------


@pytest.fixture(params=["mlx", "torch"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each command runs on either backend, on a run that MLX trained: a run folder belongs to no backend."""
    name = str(request.param)
    pytest.importorskip(name)
    monkeypatch.setenv("MLXTUNE_BACKEND", name)
    return name


def test_training_says_what_computes_how_far_it_is_and_what_is_next(backend: str, place: Place, mlxtune: Run) -> None:
    trained = mlxtune("lora", place.recipe, "--out", "new", "--set", "train.max_steps=2")
    assert trained.code == 0, trained.err
    assert f"backend: {backend} on" in trained.err and "step 1/2" in trained.err
    assert trained.out.endswith("run: new\nnext: mlxtune evaluate new\n")


def test_a_profile_is_a_table_after_the_training_and_part_of_the_last_object(
    backend: str, place: Place, mlxtune: Run
) -> None:
    trained = mlxtune("lora", place.recipe, "--out", "new", "--set", "train.max_steps=2", "--profile")
    assert trained.code == 0, trained.err
    table = trained.out.split("Where the time of 2 steps went\n")[1].split("run: new")[0]
    parts = ["data", "head", "backward", "optimizer", "validation", "saving", "other", "all"]
    assert all(part in table.split() for part in parts)
    again = mlxtune("lora", place.recipe, "--out", "other", "--set", "train.max_steps=1", "--profile", "--json")
    assert "optimizer" in json.loads(again.out.splitlines()[-1])["profile"]["seconds"]
    plain = mlxtune("lora", place.recipe, "--out", "third", "--set", "train.max_steps=1")
    assert plain.code == 0 and "Where the time" not in plain.out


def test_a_plan_has_no_profile(place: Place, mlxtune: Run) -> None:
    refused = mlxtune("lora", place.recipe, "--plan", "--profile")
    assert refused.code == 2 and "--profile measures a training" in refused.err


def test_the_base_model_is_evaluated_in_both_decodings(backend: str, place: Place, mlxtune: Run) -> None:
    base = mlxtune("evaluate", place.run, "--base", "--decoding", "both")
    assert base.code == 0 and f"backend: {backend} on" in base.err, base.err
    assert "exact match" in base.out


def test_an_evaluation_prints_and_keeps_what_a_run_has_learned(backend: str, place: Place, mlxtune: Run) -> None:
    tuned = mlxtune("evaluate", place.run, "--json")
    assert tuned.code == 0, tuned.err
    scores = json.loads(tuned.out)
    assert (scores["run"], scores["rows"]) == (str(place.run), len(ROWS))
    assert scores["fields"]["intents"]["exact_match"].keys() == {"value", "low", "high"}
    assert scores["fields"]["intents"]["exact_match"]["value"] > 0.8  # it trained on these very rows
    on_disk = json.loads((place.run / "evaluation" / "tuned" / "scores.json").read_text())
    assert on_disk["fields"] == scores["fields"]


def test_texts_of_the_command_line_are_answered_a_line_each(backend: str, place: Place, mlxtune: Run) -> None:
    asked = mlxtune("predict", place.run, "hi", "cancel the payment")
    assert asked.code == 0 and f"backend: {backend} on" in asked.err, asked.err
    assert len(asked.out.splitlines()) == 2 and "payment" in asked.out


def test_texts_of_a_pipe_are_answered_an_object_each(backend: str, place: Place, mlxtune: Run) -> None:
    piped = mlxtune("predict", place.run, "--json", stdin="hi\ncancel the payment\n")
    answers = [json.loads(line) for line in piped.out.splitlines()]
    assert [(answer["text"], answer["valid"]) for answer in answers] == [("hi", True), ("cancel the payment", True)]


def test_a_fused_model_scores_as_base_and_adapter_do(backend: str, place: Place, mlxtune: Run) -> None:
    fused = mlxtune("fuse", place.run, "--out", "fused", "--json")
    assert fused.code == 0 and f"backend: {backend} on" in fused.err, fused.err
    facts = json.loads(fused.out)
    assert facts["largest_logit_difference"] < 0.1 * facts["adapter_effect"]
    of_fused = ("evaluate", place.recipe, "--base", "--set", "model.path=./fused", "--out", "of-fused", "--json")
    scores = [json.loads(mlxtune(*command).out)["fields"] for command in (("evaluate", place.run, "--json"), of_fused)]
    assert scores[0]["intents"]["exact_match"] == scores[1]["intents"]["exact_match"]


def test_a_model_folder_is_converted(backend: str, place: Place, mlxtune: Run) -> None:
    converted = mlxtune("convert", place.base, "--out", "converted")
    assert converted.code == 0 and f"backend: {backend} on" in converted.err, converted.err
    assert Path("converted/model.safetensors").exists()


def test_an_evaluation_is_weighed_against_baselines_and_the_model_before_tuning(place: Place, mlxtune: Run) -> None:
    base = mlxtune("evaluate", place.run, "--base", "--set", "evaluate.baselines=[majority, zero_shot]")
    assert base.code == 0 and "zero_shot: no model was asked for it here" in base.out, base.err
    assert "rows are wrong" in base.out and "rows are wrong" not in mlxtune(
        "evaluate", place.run, "--base", "--errors", "0", "--force"
    ).out  # fmt: skip
    baselines = "evaluate.baselines=[majority, keywords, tfidf, zero_shot, few_shot]"
    words = "evaluate.keywords={payment: [pay], order_management: [order]}"
    tuned = mlxtune("evaluate", place.run, "--set", baselines, "--set", words)
    assert tuned.code == 0, tuned.err
    scores = json.loads((place.run / "evaluation" / "tuned" / "scores.json").read_text())
    assert set(scores["baselines"]) == {"majority", "keywords", "tfidf", "zero_shot", "few_shot"}
    assert set(scores["comparisons"]) == {*scores["baselines"], "before"}
    for name in scores["baselines"]:
        sentence = scores["comparisons"][name]["intents"]["exact_match"]["sentence"]
        assert name in sentence and sentence.split(":")[0] in " ".join(tuned.out.split())
    before = scores["comparisons"]["before"]["intents"]["exact_match"]
    assert f"{before['difference']:+.3f} [{before['low']:+.3f}, {before['high']:+.3f}]" in tuned.out
    folder = place.run / "evaluation"
    wanted = json.loads((folder / "base" / "scores.json").read_text())["fields"]
    assert scores["baselines"]["zero_shot"] == wanted  # the same model, asked the same
    predictions = folder / "tuned" / "predictions.jsonl"
    again = mlxtune(
        "evaluate", place.run, "--predictions", predictions, "--set", "evaluate.baselines=[majority]", "--json"
    )
    assert json.loads(again.out)["baselines"]["majority"] == scores["baselines"]["majority"]


def test_replies_to_other_rows_are_refused(place: Place, mlxtune: Run) -> None:
    replies = place.folder / "replies.jsonl"
    replies.write_text('{"row": 0, "input": "something else", "prediction": "none"}\n')
    result = mlxtune("evaluate", place.run, "--predictions", replies)
    assert result.code == 1 and "these are replies to other rows" in result.err and result.out == ""


def test_a_recipe_stands_for_its_newest_run(place: Place, mlxtune: Run) -> None:
    assert "no run of 'tiny' under runs/" in mlxtune("evaluate", place.recipe).err
    assert mlxtune("lora", place.recipe, "--set", "train.max_steps=1").code == 0
    done = mlxtune("evaluate", place.recipe, "--limit", "2")
    assert done.code == 0 and "runs/tiny/" in done.err + done.out


def test_json_of_lora_is_one_object_an_event(place: Place, mlxtune: Run) -> None:
    done = mlxtune("lora", place.recipe, "--out", "new", "--set", "train.max_steps=2", "--json")
    events = [json.loads(line) for line in done.out.splitlines()]
    assert [event["event"] for event in events][:2] == ["begin", "step"]
    assert events[-1]["run"] == "new" and events[-1]["status"] == "finished"


def test_a_plan_loads_no_weights(place: Place, mlxtune: Run, tmp_path: Path) -> None:
    folder = tmp_path / "config-only"
    folder.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(place.base / name, folder)
    if (place.base / "chat_template.jinja").exists():
        shutil.copy(place.base / "chat_template.jinja", folder)
    planned = mlxtune("lora", place.recipe, "--plan", "--json", "--set", f"model.path={folder}")
    assert planned.code == 0, planned.err
    facts = json.loads(planned.out)
    assert facts["rows"] == len(ROWS) and facts["fits"] is True
    assert "trainable of" in mlxtune("lora", place.recipe, "--plan", "--set", f"model.path={folder}").out


def test_the_plan_of_the_chinese_recipe_counts_the_reports_parameters(mlxtune: Run, tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "qwen", "qwen3")
    for file in folder.glob("*.safetensors"):
        file.unlink()
    config = json.loads((folder / "config.json").read_text())
    config.update(
        hidden_size=1024, num_hidden_layers=28, num_attention_heads=16, num_key_value_heads=8, head_dim=128,
        intermediate_size=3072, vocab_size=151936, tie_word_embeddings=True,
    )  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    recipe = ROOT / "recipes" / "qwen3-intent.yaml"
    planned = mlxtune(
        "lora", recipe, "--plan", "--json", "--set", f"model.path={folder}", "--set", "train.max_tokens=4096"
    )
    assert planned.code == 0, planned.err
    facts = json.loads(planned.out)
    assert facts["trainable_parameters"] == 2293760
    assert facts["total_parameters"] == 596049920
    assert facts["rows"] == 1300


# Help --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_one_sentence_and_an_example(command: str, mlxtune: Run) -> None:
    shown = mlxtune(command, "--help")
    assert shown.code == 0 and shown.err == ""
    example = re.search(r"Example: (mlxtune .*)", shown.out)
    assert example
    assert shlex.split(example.group(1))[1] == command


def test_help_lists_every_command(mlxtune: Run) -> None:
    shown = mlxtune("--help")
    assert all(f"  {command} " in shown.out for command in COMMANDS)


# Mistakes ----------------------------------------------------------------------------------------------------------

# Each: what the user does to the place, the command line, and what the message says. {p} is the place's folder.
Break = Callable[[Place], object]


def nothing(place: Place) -> None:
    """Leave the place as it is."""


def rows(*lines: str, name: str = "train.jsonl") -> Break:
    return lambda place: (place.folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")


def edit(old: str, new: str) -> Break:
    def change(place: Place) -> None:
        text = place.recipe.read_text(encoding="utf-8")
        assert old in text
        place.recipe.write_text(text.replace(old, new), encoding="utf-8")

    return change


def remove(name: str) -> Break:
    def delete(place: Place) -> None:
        path = place.folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return delete


def damage(name: str) -> Break:
    return lambda place: (place.folder / name).write_bytes(b"not what it was")


def config_of_an_unknown_model(place: Place) -> None:
    (place.folder / "odd").mkdir()
    for file in place.base.iterdir():
        shutil.copy(file, place.folder / "odd")
    config = json.loads((place.base / "config.json").read_text())
    (place.folder / "odd" / "config.json").write_text(json.dumps({**config, "model_type": "mamba"}))


def copied_base(damaged: str) -> Break:
    def change(place: Place) -> None:
        shutil.copytree(place.base, place.folder / "copy")
        (place.folder / "copy" / damaged).write_bytes(b"not what it was")

    return change


def other_weights(place: Place) -> None:
    """The run's recipe names a base whose weights have changed since."""
    tiny_model(place.folder / "copy", "qwen3", seed=7)
    recipe = place.run / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace(str(place.base), str(place.folder / "copy")))


def replies_by_id(place: Place) -> None:
    write_rows(place.folder / "replies.jsonl", [{"id": "T1", "prediction": "none"}])


def adapter_of_nan(place: Place) -> None:
    from safetensors.numpy import load_file, save_file

    file = place.run / "adapter" / "adapters.safetensors"
    weights = load_file(file)
    name = sorted(weights)[-1]
    save_file({**weights, name: weights[name] * float("nan")}, file)


def base_of_another_size(place: Place) -> None:
    tiny_model(place.folder / "wide", "qwen3", hidden=128)


MISTAKES: list[tuple[str, Break, str, int, str]] = [
    # recipes
    ("a missing recipe", nothing, "lora {p}/recipy.yaml", 1, "no such recipe; did you mean 'recipe.yaml'"),
    ("a folder for a recipe", nothing, "lora {p}", 1, "expected a recipe, a YAML file; this is a folder"),
    ("an unknown key", edit("rank:", "rnak:"), "lora {p}/recipe.yaml", 1, "lora.rnak: unknown key; did you mean 'rank'?"),
    ("a wrong type", edit("epochs: 30", "epochs: many"), "lora {p}/recipe.yaml", 1, "expected a whole number, got 'many'"),
    ("broken YAML", edit("model:", "model: ["), "lora {p}/recipe.yaml", 1, "not valid YAML"),
    ("an impossible value", nothing, "lora {p}/recipe.yaml --set lora.dropout=2", 1, "lora.dropout: expected less than 1"),
    ("a bad override", nothing, "lora {p}/recipe.yaml --set epochs", 1, "expected KEY=VALUE"),
    ("an unknown layer", nothing, "lora {p}/recipe.yaml --set lora.targets=[q_prj]", 1, "q_prj"),
    ("too many layers", nothing, "lora {p}/recipe.yaml --set lora.layers=99", 1, "99"),
    # data
    ("no data file", remove("train.jsonl"), "lora {p}/recipe.yaml", 1, "train.jsonl"),
    ("an empty data file", rows(""), "lora {p}/recipe.yaml", 1, "train.jsonl"),
    ("a line that is no JSON", rows('{"text": "a", "intents": ["none"]}', "{oops"), "lora {p}/recipe.yaml", 1, "train.jsonl:2"),
    ("a row that is a list", rows('["a"]'), "lora {p}/recipe.yaml", 1, "train.jsonl:1"),
    ("an unknown label", rows('{"text": "a", "intents": ["paymnt"]}'), "lora {p}/recipe.yaml", 1, "did you mean 'payment'?"),
    ("a missing column", rows('{"text": "a", "intents": ["none"]}', '{"body": "a", "intents": ["none"]}'), "lora {p}/recipe.yaml", 1, "no 'text'"),
    ("an exclusive label in company", rows('{"text": "a", "intents": ["none", "payment"]}'), "lora {p}/recipe.yaml", 1, "must stand alone"),
    ("rows over max_tokens", nothing, "lora {p}/recipe.yaml --set train.max_tokens=8", 1, "rows longer than train.max_tokens = 8"),
    ("data of an unknown kind", nothing, "lora {p}/recipe.yaml --set data.train={p}/recipe.yaml", 1, "recipe.yaml"),
    ("bytes that are no text", lambda place: (place.folder / "train.jsonl").write_bytes(b'{"text": "\xff"}'), "lora {p}/recipe.yaml", 1, "train.jsonl:1"),
    ("a text column that no row has", nothing, "lora {p}/recipe.yaml --set data.text=body", 1, "data.text names 'body'"),
    ("a text that ends the turn", rows('{"text": "a<|im_end|>", "intents": ["none"]}'), "lora {p}/recipe.yaml", 1, "reads as a control token"),
    ("a text that is null", rows('{"text": null, "intents": ["none"]}'), "lora {p}/recipe.yaml", 1, "is empty"),
    ("a text that is no text", rows('{"text": {"a": 1}, "intents": ["none"]}'), "lora {p}/recipe.yaml", 1, "expected text"),
    ("a label that cleaning would drop whole", edit("- payment", "- paymnt"), "lora {p}/recipe.yaml --set data.clean.dedupe=exact --set data.valid=null", 1, "no row has the label 'paymnt'"),
    ("a number that is none", nothing, "lora {p}/recipe.yaml --set train.learning_rate=.inf", 1, "expected a finite number"),
    ("a learning rate that breaks the model", nothing, "lora {p}/recipe.yaml --set train.learning_rate=1e30 --set train.max_steps=1 --out {p}/broken", 1, "not finite"),
    # models
    ("a mistyped model path", nothing, "lora {p}/recipe.yaml --set model.path=./bsae", 1, "bsae"),
    ("a model the Hub is needed for", nothing, "lora {p}/recipe.yaml --set model.path=Qwen/Qwen3-0.6B", 1, "Qwen/Qwen3-0.6B"),
    ("a folder that is no model", nothing, "convert {p} --out out", 1, "config.json"),
    ("a .gguf that is none", damage("x.gguf"), "convert {p}/x.gguf --out out", 1, "x.gguf"),
    ("a missing .gguf", nothing, "convert {p}/y.gguf --out out", 1, "y.gguf"),
    ("a package that is not installed", nothing, "lora {p}/recipe.yaml --set model.path=package:nosuchthing/x.gguf", 1, "nosuchthing"),
    ("a model of another architecture", config_of_an_unknown_model, "lora {p}/recipe.yaml --set model.path={p}/odd", 1, "mamba"),
    ("a group size that does not divide", nothing, "convert {b} --out out --quantize 4 --group-size 128", 1, "group"),
    ("an existing target", lambda place: shutil.copytree(place.base, place.folder / "out"), "convert {b} --out {p}/out", 1, "--force"),
    ("bits that do not exist", nothing, "convert {b} --out out --quantize 5", 2, "--quantize"),
    ("a tokenizer that is broken", copied_base("tokenizer.json"), "lora {p}/recipe.yaml --set model.path={p}/copy", 1, "its tokenizer cannot be read"),
    ("a config that is broken", copied_base("config.json"), "lora {p}/recipe.yaml --set model.path={p}/copy", 1, "config.json"),
    ("weights that are broken", copied_base("model.safetensors"), "lora {p}/recipe.yaml --set model.path={p}/copy", 1, "model.safetensors"),
    # runs
    ("no such run", nothing, "evaluate {p}/rnu", 1, "rnu"),
    ("a folder that is no run", nothing, "predict {p} hi", 1, "not a run folder"),
    ("a run without adapter", remove("run/adapter"), "predict {p}/run hi", 1, "adapter"),
    ("a damaged adapter", damage("run/adapter/adapters.safetensors"), "predict {p}/run hi", 1, "adapters.safetensors: damaged"),
    ("a damaged run", damage("run/recipe.yaml"), "fuse {p}/run --out {p}/fused", 1, "expected a recipe"),
    ("other weights under a run", other_weights, "evaluate {p}/run", 1, "was trained on other weights"),
    ("an adapter of another base", base_of_another_size, "evaluate {p}/run --set model.path={p}/wide", 1, "does not fit"),
    ("a run that lies there", nothing, "lora {p}/recipe.yaml --out {p}/run", 1, "holds a run already"),
    ("a folder of the user's own", nothing, "lora {p}/recipe.yaml --out {p} --force", 1, "is not a run of mlxtune"),
    ("a fuse over something", lambda place: shutil.copytree(place.base, place.folder / "fused"), "fuse {p}/run --out {p}/fused", 1, "--force"),
    ("a fuse that rounds the adapter", nothing, "fuse {p}/run --out {p}/fused --dtype bfloat16 --tolerance 0", 1, "not written: the logits of the fused model and of base + adapter differ"),
    ("a fuse of what is no number", adapter_of_nan, "fuse {p}/run --out {p}/fused", 1, "not written: the logits of the fused model and of base + adapter differ by up to nan"),
    ("no test data", edit("  test: test.jsonl\n", ""), "evaluate {p}/recipe.yaml --base", 1, "data.test"),
    ("a run that was not evaluated", nothing, "compare {p}/run", 1, "was not evaluated; run `mlxtune evaluate"),
    ("nothing to compare", nothing, "compare", 2, "nothing to compare; name runs"),
    ("a comparison of what is no run", nothing, "compare {p}", 1, "not a run folder"),
    ("a sweep of impossible values", nothing, "sweep {p}/recipe.yaml --vary lora.rank=4,0", 1, "--vary lora.rank=0: lora.rank: expected at least 1"),
    ("a sweep of one value", nothing, "sweep {p}/recipe.yaml --vary lora.rank=4", 2, "expected two values or more"),
    ("a sweep inside a run", nothing, "sweep {p}/recipe.yaml --vary lora.rank=4,8 --out {p}/run", 1, "is a run folder, not the folder of a sweep"),
    ("nothing to predict", nothing, "predict {p}/run", 2, "no text to predict"),
    ("a review of no such run", nothing, "review {p}/rnu", 1, "rnu: no such run folder"),
    ("a review of a run without replies", nothing, "review {p}/run", 1, "has no replies of the tuned model to rate"),
    ("a review of nothing", nothing, "review", 2, "which run's replies?"),
    ("a filled sheet whose key is elsewhere", rows("case_id", name="anna.csv"), "review --scores {p}/anna.csv", 1, "name the RUN, or that folder with --out"),
    # options
    ("a mistyped command", nothing, "evalute {p}/run", 2, "did you mean 'evaluate'?"),
    ("an unknown option", nothing, "lora {p}/recipe.yaml --epochs 3", 2, "--epochs"),
    ("an unknown backend", nothing, "lora {p}/recipe.yaml --backend tensorflow", 2, "tensorflow"),
    ("an unknown device", nothing, "lora {p}/recipe.yaml --device tpu", 2, "unknown device 'tpu'; expected auto, cpu, gpu, cuda or cuda:N"),
    ("a backend for replies that are there", nothing, "evaluate {p}/run --predictions x --backend mlx", 2, "--backend cannot be used with --predictions"),
    ("a device for replies that are there", nothing, "evaluate {p}/run --predictions x --device cpu", 2, "--device cannot be used with --predictions"),
    ("an encoder where no text is scored", nothing, "evaluate {p}/run --bertscore {p}/base", 2, "no field of kind text"),
    ("replies by ids that the rows have not", replies_by_id, "evaluate {p}/run --predictions {p}/replies.jsonl", 1, "test.jsonl:1: no column 'id'"),
    ("a judge without its model", nothing, "evaluate {p}/run --judge http://127.0.0.1:1", 2, "--judge needs --judge-model NAME"),
    ("a judge's model without a judge", nothing, "evaluate {p}/run --judge-model m", 2, "--judge-model needs --judge URL"),
    ("a sample for no judge", nothing, "compare {p}/run --judge-sample 5", 2, "--judge-sample needs --judge URL"),
    ("a judge that is no address", nothing, "evaluate {p}/run --judge localhost:8080 --judge-model m", 2, "expected the address of a chat server"),
    ("a judge of labels", nothing, "evaluate {p}/run --out {p}/new --judge http://127.0.0.1:1 --judge-model m", 1, "expected a field of kind text"),
    ("an option without its value", nothing, "lora {p}/recipe.yaml --out", 2, "--out"),
    ("a word where a number belongs", nothing, "evaluate {p}/run --limit many", 2, "--limit"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "command", "code", "said"), [case[1:] for case in MISTAKES], ids=[case[0] for case in MISTAKES]
)
def test_a_mistake_gets_one_clear_message_and_loses_nothing(
    change: Break, command: str, code: int, said: str, place: Place, mlxtune: Run, tmp_path: Path
) -> None:
    change(place)
    before = snapshot(tmp_path)
    result = mlxtune(*shlex.split(command.format(p=place.folder, b=place.base)))
    assert result.code == code, result.err
    assert "Error: " in result.err and "Traceback" not in result.err
    assert said in result.err
    assert result.err.count("Error: ") == 1
    assert result.out == ""
    shutil.rmtree(place.folder / "broken", ignore_errors=True)  # a run that failed keeps its evidence
    after = snapshot(tmp_path)
    assert {name: after.get(name) for name in before} == before
    assert set(after) - set(before) <= {"place/run/.lock", "place/run/evaluation/tuned/.lock"}, "something was written"


COMPUTING = [
    "convert {b} --out {p}/new", "lora {p}/recipe.yaml --out {p}/new", "lora {p}/recipe.yaml --plan", "evaluate {p}/run",
    "evaluate {p}/run --base --out {p}/new", "predict {p}/run hi", "fuse {p}/run --out {p}/new",
    "sweep {p}/recipe.yaml --vary lora.rank=2,4 --out {p}/new",
]  # fmt: skip


@pytest.mark.parametrize("backend", ["auto", "mlx", "torch"])
@pytest.mark.parametrize("command", COMPUTING)
def test_no_command_ignores_the_device(
    command: str, backend: str, place: Place, mlxtune: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = snapshot(tmp_path)
    words = shlex.split(command.format(p=place.folder, b=place.base))
    result = mlxtune(*words, "--backend", backend, "--device", "cuda:99")
    monkeypatch.setenv("MLXTUNE_BACKEND", backend)
    monkeypatch.setenv("MLXTUNE_DEVICE", "cuda:99")
    assert mlxtune(*words) == result  # the environment says the same
    assert result.code == 1 and result.out == ""
    assert result.err.count("Error: ") == 1 and "Traceback" not in result.err
    assert result.err.splitlines()[-1].startswith("Error: --device cuda:99: ")
    assert snapshot(tmp_path) == before


def test_the_command_line_wins_over_the_environment(
    place: Place, mlxtune: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLXTUNE_BACKEND", "mlx")
    monkeypatch.setenv("MLXTUNE_DEVICE", "cuda:99")
    result = mlxtune("predict", place.run, "hi", "--device", "cpu")
    assert result.code == 0 and "backend: mlx on the CPU" in result.err


def test_a_wrong_word_in_the_environment_is_misuse_that_names_the_variable(
    place: Place, mlxtune: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("MLXTUNE_BACKEND", "MLXTUNE_DEVICE"):
        with monkeypatch.context() as patch:
            patch.setenv(variable, "tpu")
            result = mlxtune("predict", place.run, "hi")
        assert result.code == 2 and variable in result.err and result.out == ""


def test_an_evaluation_is_not_overwritten(place: Place, mlxtune: Run) -> None:
    assert mlxtune("evaluate", place.run, "--limit", "2").code == 0
    before = snapshot(place.run)
    again = mlxtune("evaluate", place.run, "--limit", "2")
    assert again.code == 1 and "--force" in again.err and snapshot(place.run) == before
    assert mlxtune("evaluate", place.run, "--limit", "2", "--force").code == 0


def test_a_reader_that_leaves_early_is_no_error(place: Place) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "mlxtune", "evaluate", str(place.run), "--limit", "2"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    said = process.stderr.read()
    process.stderr.close()
    assert process.wait() == 1
    assert [place.run / "evaluation"] == [file.parents[1] for file in place.run.rglob("scores.json")], said
    assert "Traceback" not in said and "Error" not in said


def test_output_is_utf_8_whatever_the_locale(place: Place) -> None:
    write_rows(place.folder / "train.jsonl", [{"text": "你好", "intents": ["支付"]}])
    done = subprocess.run(
        [sys.executable, "-m", "mlxtune", "lora", str(place.recipe)],
        capture_output=True, check=False, env={"LC_ALL": "C", "PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 1 and "支付" in done.stderr.decode("utf-8")
