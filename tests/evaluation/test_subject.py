"""What a path to a recipe or a run means: whose model is evaluated, and where its evaluation lies."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlxtune.data.rows import read_rows
from mlxtune.errors import RecipeError, RunError
from mlxtune.evaluation.subject import find_subject, read_test_rows
from mlxtune.recipe.load import load_recipe
from mlxtune.runs.folder import new_run
from tests.conftest import write_recipe


@pytest.fixture
def recipe_file(tmp_path, base, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return write_recipe(tmp_path / "recipe", base)


def make_run(recipe_file: Path) -> Path:
    run = new_run(load_recipe(recipe_file), Path("runs/tiny/one"))
    run.update_info(status="finished")
    run.adapter.mkdir()
    (run.adapter / "adapter_config.json").write_text("{}")
    return run.path


def test_a_recipe_stands_for_its_newest_run(recipe_file):
    run = make_run(recipe_file)
    subject = find_subject(recipe_file)
    assert subject.folder == run
    assert subject.evaluation() == run / "evaluation/tuned"
    assert subject.adapter == run / "adapter"


def test_a_recipe_without_a_run_says_what_to_do(recipe_file):
    with pytest.raises(RunError, match=r"mlxtune lora .*--base"):
        find_subject(recipe_file)


def test_the_base_model_needs_no_run(recipe_file):
    subject = find_subject(recipe_file, base=True)
    assert subject.evaluation() == Path("runs/tiny/base/evaluation/base")
    assert subject.adapter is None


def test_the_base_model_of_a_run_is_evaluated_beside_it(recipe_file):
    run = make_run(recipe_file)
    assert find_subject(run, base=True).evaluation() == run / "evaluation/base"
    assert find_subject(run).counterparts() == [run / "evaluation/base", Path("runs/tiny/base/evaluation/base")]


def test_a_trial_on_a_few_rows_has_a_folder_of_its_own(recipe_file):
    run = make_run(recipe_file)
    assert find_subject(run).evaluation(limit=5) == run / "evaluation/tuned-first-5"


def test_a_recipe_whose_prompt_changed_does_not_stand_for_the_old_run(recipe_file, tmp_path, base):
    make_run(recipe_file)
    changed = write_recipe(tmp_path / "changed", base, prompt={"system": "Other."})
    with pytest.raises(RunError, match="prompt: differ"):
        find_subject(changed)
    assert find_subject(changed, base=True).run is None


def test_a_run_without_an_adapter_says_so(recipe_file):
    run = make_run(recipe_file)
    (run / "adapter/adapter_config.json").unlink()
    with pytest.raises(RunError, match="no adapter"):
        find_subject(run)


def test_a_recipe_without_test_rows_says_so(recipe):
    without = recipe.model_copy(update={"data": recipe.data.model_copy(update={"test": None})})
    with pytest.raises(RecipeError, match=r"data\.test"):
        read_test_rows(without)
    assert len(read_test_rows(recipe)) == len(read_rows(Path(str(recipe.data.test))))
