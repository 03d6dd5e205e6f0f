"""The adapter folder of a run in mlx-lm's own commands: it generates with it, and fuses it."""

from __future__ import annotations

import json
import sys
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from mlxtune.backends.base import in_order
from mlxtune.backends.mlx.runtime import import_mlx
from mlxtune.models.tokenizer import load_tokenizer
from tests.adapted import backend_named
from tests.adapter_runs import IDS, adapter_run, our_logits
from tests.mlx_lm_server import mlx_lm_server

pytest.importorskip("mlx_lm")
LORA = {"layers": 1, "targets": ["q_proj", "down_proj"], "rank": 3, "alpha": 9}


def test_mlx_lm_generates_what_the_run_generates(base: Path, tmp_path: Path) -> None:
    import_mlx()
    import mlx_lm

    adapter = adapter_run(tmp_path, base, lora=LORA).adapter
    network, tokenizer = mlx_lm.load(str(base), adapter_path=str(adapter))
    theirs = [one.token for one in mlx_lm.stream_generate(network, tokenizer, IDS, max_tokens=12)]
    backend = backend_named("mlx")
    (ours,) = in_order(backend.load(base, adapter).generate([IDS], 12, tokenizer.eos_token_ids))
    (plain,) = in_order(backend.load(base).generate([IDS], 12, tokenizer.eos_token_ids))
    assert theirs == list(ours.tokens) != list(plain.tokens)
    text = mlx_lm.generate(network, tokenizer, IDS, max_tokens=12)
    assert text == tokenizer.decode(list(ours.tokens))


def test_mlx_lms_server_answers_with_the_adapter(base: Path, tmp_path: Path) -> None:
    run = adapter_run(tmp_path, base)
    messages = [{"role": "user", "content": "where is my order, it has been 3 days"}]
    body = json.dumps({"messages": messages, "max_tokens": 12, "temperature": 0, "logprobs": True}).encode()

    with mlx_lm_server(tmp_path / "server.log", base, "--adapter-path", run.adapter) as address:
        request = urllib.request.Request(f"{address}/v1/chat/completions", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request) as response:
            written = json.load(response)["choices"][0]["logprobs"]["content"]

    tokenizer, backend = load_tokenizer(base), backend_named("mlx")
    prompt = tokenizer.prompt(messages, thinking=True)  # what the server's template writes unasked
    replies = [
        in_order(backend.load(base, adapter).generate([prompt], 12, tokenizer.stop_tokens))
        for adapter in (run.adapter, None)
    ]
    ours, plain = (list(reply.tokens) for (reply,) in replies)
    assert [token["id"] for token in written] == ours != plain


def test_mlx_lm_fuses_the_adapter(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import_mlx()
    from mlx_lm import fuse

    adapter = adapter_run(tmp_path, base, lora=LORA).adapter
    out = tmp_path / "fused"
    words = ["fuse", "--model", str(base), "--adapter-path", str(adapter), "--save-path", str(out)]
    monkeypatch.setattr(sys, "argv", words)
    fuse.main()
    expected = our_logits(backend_named("mlx"), base, adapter)
    np.testing.assert_allclose(our_logits(backend_named("mlx"), out), expected, atol=1e-4)
    assert np.abs(expected - our_logits(backend_named("mlx"), base)).max() > 0.1


def test_mlx_lms_trainer_goes_on_from_the_adapter(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`resume_adapter_file`: at a learning rate of zero it saves what it was given."""
    mx = import_mlx()
    from mlx_lm import lora

    adapter = adapter_run(tmp_path, base, lora=LORA).adapter
    rows = tmp_path / "rows"
    rows.mkdir()
    (rows / "train.jsonl").write_text(json.dumps({"prompt": "hi", "completion": "none"}) + "\n")
    said = json.loads((adapter / "adapter_config.json").read_text())
    config = tmp_path / "lora_config.yaml"
    config.write_text(
        json.dumps(
            {
                "model": str(base), "data": str(rows), "train": True, "iters": 1, "batch_size": 1, "learning_rate": 0.0,
                "num_layers": said["num_layers"], "lora_parameters": said["lora_parameters"],
                "resume_adapter_file": str(adapter / "adapters.safetensors"), "adapter_path": str(tmp_path / "again"),
            }
        )
    )  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["lora", "-c", str(config)])
    lora.main()
    before, after = (mx.load(str(folder / "adapters.safetensors")) for folder in (adapter, tmp_path / "again"))
    assert before.keys() == after.keys() and len(before) == 4
    assert all(mx.array_equal(before[name], after[name]) for name in before)
