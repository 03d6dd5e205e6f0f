from __future__ import annotations

import numpy as np
import pytest

from mlxtune.evaluation.metrics.calibration import Calibration, Coverage, calibration
from mlxtune.evaluation.metrics.paired import with_verdict
from mlxtune.evaluation.metrics.thresholds import LabelThreshold
from mlxtune.evaluation.predict.consistency import Consistency
from mlxtune.evaluation.predict.probabilities import FieldCalibration
from mlxtune.evaluation.results import FieldThresholds
from mlxtune.report.blocks import Paragraph, Section
from mlxtune.report.charts import LineChart
from mlxtune.report.sections.calibration import calibration_blocks, consistency_section, threshold_blocks
from mlxtune.report.sections.fields import field_sections
from mlxtune.report.words import Words
from tests.report.sections.made import contents_of, one, scores_of, section_of, table, texts

EN = Words("en")


def made(confidences, right, coverage=None, validation_rows=0):
    return FieldCalibration(calibration(confidences, right), coverage, validation_rows)


def blocks(found, say=EN):
    return Section("calibration", "", calibration_blocks("intents", found, say))


def test_points_of_the_diagram_are_the_means_of_their_bins():
    rng = np.random.default_rng(0)
    p = rng.uniform(0.3, 1, 200)
    right = rng.uniform(size=200) < p
    chart = one(blocks(made(p.tolist(), right.tolist())), LineChart)
    diagonal, model = chart.series
    assert diagonal.dashed and (list(diagonal.x), list(diagonal.y)) == ([0, 1], [0, 1])
    bins = [(p >= low) & (p < low + 0.1) for low in np.arange(3, 10) / 10]
    assert list(model.x) == pytest.approx([p[inside].mean() for inside in bins])
    assert list(model.y) == pytest.approx([right[inside].mean() for inside in bins])
    assert f"of {bins[0].sum()} rows with a probability of 0.3 to 0.4" in chart.description
    counted = table(blocks(made(p.tolist(), right.tolist())), "Rows by probability")
    assert [int(row[1].text.split(" ")[0]) for row in counted.rows] == [int(inside.sum()) for inside in bins]


def test_a_model_that_is_too_sure_is_told_from_one_that_is_not_sure_enough():
    assert "too sure of itself" in texts(blocks(made([0.95, 0.95], [True, False])))
    assert "less sure than it could be" in texts(blocks(made([0.35, 0.35], [True, False])))
    assert "sure" not in texts(blocks(made([0.5, 0.5], [True, False])))


def test_coverage_is_said_for_each_way_that_it_can_end():
    p, right = [0.9, 0.6], [True, False]
    some = texts(blocks(made(p, right, Coverage(0.8, 0.5, 1.0), 1)))
    assert (
        "probability 0.800 or more were answered, 50.0% of the rows would be, and 100.0% of these would be right"
        in some
    )
    assert "chosen on 1 row of validation" in some
    assert "no test row reaches it" in texts(blocks(made(p, right, Coverage(0.95, 0.0, None), 4)))
    assert "No probability is high enough" in texts(blocks(made(p, right, Coverage(None, 0.0, None), 4)))


def test_without_a_probability_that_is_all_that_is_said():
    found = calibration_blocks("intents", FieldCalibration(Calibration(0, None, []), None, 0), EN)
    assert found == [Paragraph("No row has a probability.")]


def test_a_fields_probabilities_stand_in_its_section():
    tuned = contents_of("en", "asked_model", "tuned")
    section = section_of(field_sections(tuned, None, EN), "intents")
    found = tuned.result.top.calibration["intents"].calibration
    assert f"Expected calibration error {found.expected_calibration_error:.3f} over 24 rows" in texts(section)


def test_thresholds_show_what_they_gain():
    scores = scores_of(contents_of("en", "asked_model", "base"), "intents")
    tuned = scores_of(contents_of("en", "asked_model", "tuned"), "intents")
    gain = {
        name: with_verdict(name, 0.25, 0.1, 0.4, 0.01, "without thresholds") for name in ("exact_match", "macro_f1")
    }
    labels = {"payment": LabelThreshold(0.35, 0.9, 0.75, 12)}
    section = Section("t", "", threshold_blocks("intents", scores, FieldThresholds(labels, tuned, gain, 30), EN))
    assert "Thresholds of intents make its exact match better: +0.250 [+0.100, +0.400]." in texts(section)
    metrics = table(section, "What the thresholds change on the test rows")
    wanted = [f"{scores[name].value:.3f}" for name in gain]
    assert [row[1].text.split(" ")[0] for row in metrics.rows] == wanted
    chosen = table(section, "Thresholds for intents, chosen on 30 rows of validation")
    assert [cell.text for cell in chosen.rows[0]] == ["payment", "0.350", "0.900", "0.750", "12"]


def test_rows_whose_samples_differ_are_listed():
    found = contents_of("en", "asked_model", "base").result.top.consistency
    assert found is not None
    section = consistency_section(found, EN)
    assert f"intents: in {found.fields['intents'].flip_rate.value:.1%} of the rows" in texts(section)
    rows = table(section, "Rows whose samples differ").rows
    assert len(rows) == min(20, len(found.flips)) and rows[0][0].text == str(found.flips[0].row)


def test_nothing_is_said_of_samples_of_texts_alone():
    assert consistency_section(Consistency(3, 0.7, {}, []), EN) is None
