"""Rows on the Hub, against a Hub on 127.0.0.1 that the real client talks to: which files, which commit, which refusal."""

from __future__ import annotations

import hashlib
import http.server
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlxtune.data.hub_rows import hub_files, splits_of
from mlxtune.data.rows import content_hash, read_rows
from mlxtune.errors import DataError, RecipeError
from mlxtune.recipe.load import load_recipe
from tests.conftest import ROWS, write_recipe

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class _Hub(http.server.BaseHTTPRequestHandler):
    """As much of the Hub as a dataset's download needs, over one folder."""

    folder: Path
    asked: list[str]

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.asked.append(path)
        if "gated" in path:
            return self._answer(403, b"{}", {"X-Error-Code": "GatedRepo"})
        if "owner/tickets" not in path:
            return self._answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        if path.startswith("/api/"):
            if not path.endswith(("/owner/tickets", "/v1.0", COMMIT)):
                return self._answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
            files = [file for file in sorted(self.folder.rglob("*")) if file.is_file()]
            siblings = [{"rfilename": file.relative_to(self.folder).as_posix()} for file in files]
            body = {"id": "owner/tickets", "sha": COMMIT, "siblings": siblings, "tags": [], "downloads": 0}
            return self._answer(200, json.dumps(body).encode())
        content = (self.folder / path.partition(f"/resolve/{COMMIT}/")[2]).read_bytes()
        etag = hashlib.sha1(content, usedforsecurity=False).hexdigest()
        self._answer(200, content, {"X-Repo-Commit": COMMIT, "ETag": f'"{etag}"'})

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


class Hub:
    """The Hub: its dataset owner/tickets is what lies in `folder`."""

    def __init__(self, folder: Path, endpoint: str, asked: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self._endpoint, self.asked, self._monkeypatch = folder, endpoint, asked, monkeypatch

    def put(self, file: str, *texts: str) -> None:
        """A file with a row of each text."""
        path = self.folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))

    def readme(self, front: str) -> None:
        (self.folder / "README.md").write_text(f"---\n{front}\n---\n# Tickets\n")

    def out_of_reach(self, offline: bool = True) -> None:
        """What comes now comes from the cache, and in a new process."""
        from huggingface_hub import constants

        hub_files.cache_clear()
        self.asked.clear()
        self._monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
        if not offline:
            point_to(self._monkeypatch, "http://127.0.0.1:9")


def point_to(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    # Read from HF_ENDPOINT when the library is imported, which other tests have done.
    from huggingface_hub import constants, hf_api

    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(hf_api.api, "endpoint", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    from huggingface_hub import constants

    folder = tmp_path / "served"
    folder.mkdir()
    asked: list[str] = []
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), type("Handler", (_Hub,), {"folder": folder, "asked": asked})
    )
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("MLXTUNE_CACHE", str(tmp_path / "mlxtune"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    point_to(monkeypatch, endpoint)
    hub_files.cache_clear()
    yield Hub(folder, endpoint, asked, monkeypatch)
    hub_files.cache_clear()
    server.shutdown()
    server.server_close()


def texts_of(name: str) -> list[str]:
    return [row.fields["text"] for row in read_rows(Path(name))]


# Which files are a split


@pytest.mark.parametrize(
    ("files", "splits"),
    [
        (["train.jsonl", "test.csv", "README.md"], {"train": ["train.jsonl"], "test": ["test.csv"]}),
        (["data/train-00001-of-00002.parquet", "data/train-00000-of-00002.parquet", "data/other.csv"],
         {"train": ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"]}),
        (["data/train_sft-00000-of-00001.parquet"], {"train_sft": ["data/train_sft-00000-of-00001.parquet"]}),
        (["dev/b.csv", "dev/a.csv", "training/x.csv"], {"validation": ["dev/a.csv", "dev/b.csv"], "train": ["training/x.csv"]}),
        (["my_test_rows2.jsonl", "contest.jsonl"], {"test": ["my_test_rows2.jsonl"]}),
        (["tickets.csv", "more.csv"], {"train": ["more.csv", "tickets.csv"]}),
        (["train.zip", "dataset_infos.json"], {}),
        (["train.json", "dataset_infos.json"], {"train": ["train.json"]}),
        (["train.jsonl", "test.json"], {"train": ["train.jsonl"]}),
    ],
)  # fmt: skip
def test_files_belong_to_splits_as_the_hub_reads_their_names(files: list[str], splits: dict[str, list[str]]) -> None:
    assert splits_of(files) == splits


def test_shards_are_one_split_and_each_row_says_which_file_it_is_from(hub: Hub) -> None:
    hub.put("data/train-00001-of-00002.jsonl", "c")
    hub.put("data/train-00000-of-00002.jsonl", "a", "b")
    hub.put("data/test-00000-of-00001.jsonl", "d")
    rows = read_rows(Path("hub:owner/tickets:train"))
    assert [(row.fields["text"], row.file, row.line) for row in rows] == [
        ("a", "hub:owner/tickets:data/train-00000-of-00002.jsonl", 1),
        ("b", "hub:owner/tickets:data/train-00000-of-00002.jsonl", 2),
        ("c", "hub:owner/tickets:data/train-00001-of-00002.jsonl", 1),
    ]
    assert texts_of(rows[2].file) == ["c"]
    assert not any(path.endswith("test-00000-of-00001.jsonl") for path in hub.asked)
    assert {one.commit for one in hub_files("hub:owner/tickets:train")} == {COMMIT}


def test_the_hash_is_that_of_the_files_themselves(hub: Hub) -> None:
    hub.put("train/1.jsonl", "a")
    hub.put("train/2.jsonl", "b")
    content = b"".join((hub.folder / "train" / name).read_bytes() for name in ("1.jsonl", "2.jsonl"))
    assert content_hash(Path("hub:owner/tickets:train")) == hashlib.sha256(content).hexdigest()
    assert content_hash(hub.folder / "train" / "1.jsonl") == content_hash(Path("hub:owner/tickets:train/1.jsonl"))


def test_any_word_for_a_split_finds_it(hub: Hub) -> None:
    hub.put("dev.jsonl", "a")
    assert texts_of("hub:owner/tickets:validation") == texts_of("hub:owner/tickets:val") == ["a"]


def test_readme_says_which_files_are_which(hub: Hub) -> None:
    hub.put("en/part1.jsonl", "a")
    hub.put("en/deep/part2.jsonl", "b")
    hub.put("zh/part1.jsonl", "c")
    hub.put("zh/held.jsonl", "d")
    hub.put("zh/part_of_another/1.jsonl", "e")
    hub.readme(
        "configs:\n"
        "- config_name: en\n  data_files: 'en/**/*.jsonl'\n  default: true\n"
        "- config_name: zh\n  data_files:\n  - {split: train, path: zh/part*}\n  - {split: held, path: [zh/held.jsonl]}"
    )
    assert texts_of("hub:owner/tickets:train") == ["b", "a"]
    assert texts_of("hub:owner/tickets/zh:train") == ["c"]
    assert texts_of("hub:owner/tickets/zh:held") == ["d"]
    with pytest.raises(DataError, match="no configuration 'fr'; it has 'en', 'zh'"):
        texts_of("hub:owner/tickets/fr:train")


def test_of_several_configurations_one_is_to_be_named(hub: Hub) -> None:
    hub.put("en/train.jsonl", "a")
    hub.readme("configs:\n- {config_name: en, data_dir: en}\n- {config_name: zh, data_dir: zh}")
    with pytest.raises(DataError, match="several configurations: 'en', 'zh'; name one: hub:OWNER/NAME/en"):
        texts_of("hub:owner/tickets:train")
    assert texts_of("hub:owner/tickets/en:train") == ["a"]


def test_without_a_readme_a_configuration_is_a_folder(hub: Hub) -> None:
    hub.put("en/train.jsonl", "a")
    hub.put("zh/train.jsonl", "b")
    hub.readme("configs: [")
    assert texts_of("hub:owner/tickets/zh:train") == ["b"]
    with pytest.raises(DataError, match="the folders are 'en', 'zh'"):
        texts_of("hub:owner/tickets/fr:train")


BOMB = "\n".join(
    f"{two}: &{two} [{','.join([f'*{one}'] * 10)}]" for one, two in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("readme", "found"),
    [
        ("---\nconfigs: [{data_files: '" + "a*" * 49 + "b'}]\n---\n", []),
        ("---\nconfigs: [{data_dir: none}]\na: &a [x]\n" + BOMB + "\n---\n", ["a"]),  # counts as none
        ("---" + "\n" * 300_000, ["a"]),
    ],
    ids=["stars", "aliases", "lines"],
)
def test_a_hostile_readme_is_read_in_a_moment(hub: Hub, readme: str, found: list[str]) -> None:
    hub.put("a" * 200 + ".jsonl", "a")
    (hub.folder / "README.md").write_text(readme)
    began = time.perf_counter()
    if found:
        assert texts_of("hub:owner/tickets:train") == found
    else:
        with pytest.raises(DataError, match=r"no file of .* matches what README.md names for 'train'"):
            texts_of("hub:owner/tickets:train")
    assert time.perf_counter() - began < 5, "a tenth of a second"


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("a*" * 60, "a pattern of 60 wildcards, at most 50 are read; give a file's path after the colon"),
        ("a" * 2000, "a pattern of 2,000 characters, at most 1,000"),
        ("[" + "a, " * 1001 + "]", "1,001 patterns of files, at most 1,000"),
    ],
)
def test_patterns_that_nobody_means_are_refused(hub: Hub, pattern: str, message: str) -> None:
    hub.put("train.jsonl", "a")
    hub.readme(f"configs: [{{data_files: [{{split: train, path: {pattern}}}]}}]")
    with pytest.raises(DataError, match=message):
        texts_of("hub:owner/tickets:train")


# What is refused


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hub:owner/gated:train", "owner/gated: gated: .* accept"),
        ("hub:owner/tikets:train", "owner/tikets: no such dataset on the Hub, or a private one"),
        ("hub:owner/tickets@v9:train", "owner/tickets: has no revision 'v9'"),
        ("hub:owner/tickets:tests", r"no split 'tests'; did you mean 'test'\?; it has 'test', 'train', or give a file"),
        ("hub:owner/tickets:notes.txt", "expected a file of .jsonl, .*, got 'notes.txt'"),
        ("hub:owner/tickets/:train", r"expected hub:OWNER/NAME"),
    ],
)
def test_each_refusal_has_its_message(hub: Hub, name: str, message: str) -> None:
    hub.put("train.jsonl", "a")
    hub.put("test.jsonl", "b")
    hub.put("notes.txt", "c")
    with pytest.raises(DataError, match=message):
        read_rows(Path(name))


def test_a_tag_is_a_revision(hub: Hub) -> None:
    hub.put("train.jsonl", "a")
    assert texts_of("hub:owner/tickets@v1.0:train") == ["a"]


def test_the_same_rows_in_two_formats_are_not_taken_twice(hub: Hub) -> None:
    hub.put("train.jsonl", "a")
    hub.put("train.csv", "a")
    with pytest.raises(
        DataError, match=r"'train' has files of .csv and .jsonl, .*; name one .*'train.csv', 'train.jsonl'"
    ):
        texts_of("hub:owner/tickets:train")


def test_a_missing_shard_is_missed(hub: Hub) -> None:
    hub.put("data/train-00000-of-00003.jsonl", "a")
    hub.put("data/train-00001-of-00003.jsonl", "b")
    with pytest.raises(DataError, match="expected 3 shards of 'train', got 2"):
        texts_of("hub:owner/tickets:train")


def test_shards_of_several_configurations_are_not_mixed(hub: Hub) -> None:
    hub.put("en/train-00000-of-00001.jsonl", "a")
    hub.put("zh/train-00000-of-00001.jsonl", "b")
    with pytest.raises(DataError, match="shards in several folders: 'en', 'zh'; name one: hub:owner/tickets/en"):
        texts_of("hub:owner/tickets:train")
    assert texts_of("hub:owner/tickets/zh:train") == ["b"]


def test_formats_that_are_not_read_are_named(hub: Hub) -> None:
    hub.put("train.json.gz", "a")
    with pytest.raises(DataError, match=r"expected files of .jsonl, .* the repository has .gz"):
        texts_of("hub:owner/tickets:train")


def test_a_malformed_line_is_found_in_the_downloaded_file(hub: Hub) -> None:
    (hub.folder / "train.jsonl").write_text('{"text": "a"}\n{"text"\n')
    with pytest.raises(DataError, match=r"train.jsonl:2: expected one JSON object"):
        texts_of("hub:owner/tickets:train")


# Without a connection


@pytest.mark.parametrize("offline", [True, False])
def test_what_was_read_once_is_read_without_the_hub(hub: Hub, offline: bool) -> None:
    hub.put("train.jsonl", "a")
    hub.put("test.jsonl", "b")
    assert texts_of("hub:owner/tickets:train") == ["a"]
    hub.out_of_reach(offline)
    assert texts_of("hub:owner/tickets:train") == ["a"]
    if offline:  # elsewhere the client tries for half a minute
        with pytest.raises(
            DataError, match=r"not, or only partly, in the cache, .*hf download .*; missing: test.jsonl"
        ):
            texts_of("hub:owner/tickets:test")
    assert hub.asked == []


def test_a_split_of_which_a_part_is_cached_is_not_taken_for_the_whole(hub: Hub) -> None:
    hub.put("train/1.jsonl", "a")
    hub.put("train/2.jsonl", "b")
    assert texts_of("hub:owner/tickets:train/1.jsonl") == ["a"]
    hub.out_of_reach()
    with pytest.raises(DataError, match=r"missing: train/2.jsonl"):
        texts_of("hub:owner/tickets:train")


def test_a_cache_that_another_tool_filled_serves(hub: Hub, tmp_path: Path) -> None:
    from huggingface_hub import snapshot_download

    hub.put("train.jsonl", "a")
    snapshot = tmp_path / "hub" / "datasets--owner--tickets"
    (snapshot / "snapshots" / COMMIT).mkdir(parents=True)
    (snapshot / "snapshots" / COMMIT / "train.jsonl").write_bytes((hub.folder / "train.jsonl").read_bytes())
    (snapshot / "refs").mkdir()
    (snapshot / "refs" / "main").write_text(COMMIT)
    hub.out_of_reach()
    assert snapshot_download("owner/tickets", repo_type="dataset", local_files_only=True)
    assert texts_of("hub:owner/tickets:train") == ["a"]


def test_never_read_and_out_of_reach_says_how_to_bring_it(hub: Hub) -> None:
    hub.out_of_reach()
    with pytest.raises(DataError, match=r"HF_HUB_OFFLINE is set; .*hf download --repo-type dataset owner/tickets"):
        texts_of("hub:owner/tickets:train")


# In a recipe


def test_a_recipe_leaves_the_name_as_it_is_and_spells_out_the_split(tmp_path: Path) -> None:
    names = {"train": "hub:o/n", "valid": "hub:o/n/en@v1", "test": "hub:o/n:held/out.csv"}
    recipe = load_recipe(write_recipe(tmp_path, Path("/nowhere"), data=names))
    assert (recipe.data.train, recipe.data.valid) == ("hub:o/n:train", "hub:o/n/en@v1:validation")
    assert recipe.data.test == "hub:o/n:held/out.csv"
    assert load_recipe(tmp_path / "recipe.yaml", ["data.test=hub:o/n"]).data.test == "hub:o/n:test"


def test_a_recipe_refuses_what_is_no_name_on_the_hub(tmp_path: Path) -> None:
    with pytest.raises(
        RecipeError, match=r"data.train: expected hub:OWNER/NAME\[/CONFIG\]\[@REVISION\]\[:SPLIT\], got 'hub:n'"
    ):
        load_recipe(write_recipe(tmp_path, Path("/nowhere"), data={"train": "hub:n"}))


def test_columns_have_our_names_as_in_a_file(hub: Hub, tmp_path: Path) -> None:
    (hub.folder / "train.jsonl").write_text("".join(json.dumps({"body": row["text"]}) + "\n" for row in ROWS))
    assert read_rows(Path("hub:owner/tickets:train"), {"text": "body"})[0].fields == {"text": ROWS[0]["text"]}


def test_numbered_classes_of_a_dataset_have_their_names(hub: Hub) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    features = {
        "priority": {"names": ["low", "high"], "_type": "ClassLabel"},
        "tags": {"feature": {"names": ["x", "y"], "_type": "ClassLabel"}, "_type": "List"},
        "count": {"dtype": "int64", "_type": "Value"},
    }
    table = pyarrow.table({"priority": [1, -1], "tags": [[0, 1], []], "count": [1, 0]})
    table = table.replace_schema_metadata({b"huggingface": json.dumps({"info": {"features": features}}).encode()})
    (hub.folder / "data").mkdir()
    parquet.write_table(table, hub.folder / "data" / "train-00000-of-00001.parquet")
    first, second = read_rows(Path("hub:owner/tickets:train"))
    assert first.fields == {"priority": "high", "tags": ["x", "y"], "count": "1"}
    assert second.fields == {"priority": "", "tags": [], "count": "0"}
