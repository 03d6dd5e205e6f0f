from __future__ import annotations

from dataclasses import replace

from mlxtune.evaluation.metrics.estimates import Estimate
from mlxtune.evaluation.metrics.paired import with_verdict
from mlxtune.export.verification import ADAPTER, HeadlineMetric, Verification, Verified
from mlxtune.report.blocks import Paragraph
from mlxtune.report.sections.verification import verification_section
from mlxtune.report.words import Words
from tests.report.sections.made import paragraphs, table

EN = Words("en")


def metric(value, difference=None):
    compared = (
        None
        if difference is None
        else with_verdict("exact_match", difference, difference - 0.1, difference + 0.1, 0.01, ADAPTER)
    )
    return HeadlineMetric("intents", "exact_match", Estimate(value, value - 0.05, value + 0.05), compared)


def artifact(name, value, difference, logits=0.001):
    agreement = Estimate(0.75, 0.5, 1.0)
    return Verified(
        name, f"{name}.gguf", "llama.cpp", "free", 1_500_000, agreement, (metric(value, difference),), logits, 0.25
    )


ADAPTERS = {"free": Verified(ADAPTER, None, "mlx", "free", 1000, Estimate(1.0, None, None), (metric(0.8),), None, 0.5)}


def verification(*artifacts, **more):
    return Verification("run", 20, 0.02, ADAPTERS, artifacts, more.get("failed", {}), more.get("notes", ()))


def test_artifacts_that_keep_the_scores_are_good():
    section = verification_section(verification(artifact("gguf", 0.79, -0.01), artifact("mlx", 0.8, 0.0)), EN)
    assert paragraphs(section)[0] == Paragraph(
        "All 2 artifacts keep the adapter's scores on 20 rows, within the tolerance of 0.02.", "good"
    )
    rows = table(section, "Artifacts").rows
    assert [cell.text for cell in rows[0]] == ["base model with adapter", "mlx", "", "", "1.0 kB", "0.500"]
    assert [cell.text for cell in rows[1]] == ["gguf", "llama.cpp", "75.0%", "0.001", "1.5 MB", "0.250"]
    found = table(section, "intents: exact match").rows
    assert [cell.text for cell in found[1]] == [
        "gguf",
        "0.790 [0.740, 0.840]",
        "-0.010 [-0.110, +0.090]",
        "no real difference",
    ]
    assert found[0][2].text == ""


def test_what_an_artifact_lost_is_said():
    section = verification_section(verification(artifact("gguf-q4", 0.5, -0.3)), EN)
    assert paragraphs(section)[0].tone == "bad"
    assert paragraphs(section)[0].text == (
        "gguf-q4: intents: exact match fell by 0.300, to 0.500. That is more than the tolerance of 0.02 (20 rows)."
    )
    said = paragraphs(verification_section(verification(artifact("gguf-q4", 0.5, -0.3)), Words("zh")))[0].text
    assert said == "gguf-q4（intents：完全匹配率）：下降 0.300，降至 0.500。超过容差 0.02（20 行）。"


def test_an_artifact_that_failed_is_named_with_its_reason():
    section = verification_section(verification(failed={"hf": "cannot be loaded: no such file"}, notes=("a note",)), EN)
    assert paragraphs(section)[0] == Paragraph("hf failed: cannot be loaded: no such file", "bad")
    assert paragraphs(section)[-1] == Paragraph("a note")


def test_two_decodings_of_the_adapter_are_told_apart():
    adapters = {**ADAPTERS, "constrained": replace(ADAPTERS["free"], decoding="constrained")}
    one = replace(verification(artifact("gguf", 0.8, 0.0)), adapter=adapters)
    names = [cells[0].text for cells in table(verification_section(one, EN), "Artifacts").rows]
    assert names == ["base model with adapter, free", "base model with adapter, constrained", "gguf"]


def test_a_run_without_exports_has_no_section():
    assert verification_section(None, EN) is None
    assert verification_section(verification(), EN) is None
