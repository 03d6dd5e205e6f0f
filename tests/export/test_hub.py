"""Uploads to a Hub on 127.0.0.1 by the real client: one commit, what breaks and goes on, and what each refusal says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mlxtune.errors import ExportError, Misuse
from mlxtune.export.hub import HubRepository, Uploaded, open_repository
from tests.conftest import heard
from tests.hub_server import Hub, Repository, hub_server

NAME = "alice/intent"
FILES = {
    "README.md": b"# intent\n",
    "adapter_config.json": b"{}\n",
    "adapter_model.safetensors": b"A" * 3000,
    "mlx/adapters.safetensors": b"B" * 2000,
}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with hub_server(monkeypatch, tmp_path) as server:
        server.log_in("alice")
        yield server


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return folder_of(tmp_path / "folder", FILES)


def folder_of(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def uploaded(folder: Path, name: str = NAME, *, public: bool = False, force: bool = False) -> Uploaded:
    return open_repository(name, public=public, force=force).upload(folder)


def held(repository: Repository) -> dict[str, bytes]:
    return {name: content for name, content in repository.files.items() if name != ".gitattributes"}


# What arrives


def test_a_folder_arrives_whole_in_one_commit_of_a_private_repository(hub: Hub, folder: Path) -> None:
    done = uploaded(folder)
    repository = hub.repositories[NAME]
    assert held(repository) == FILES
    assert repository.commits == [(set(FILES), set())]
    assert repository.private
    assert done == Uploaded(f"{hub.url}/{NAME}", f"{1:040d}", is_public=False)


def test_a_repository_is_public_where_that_is_asked_for(hub: Hub, folder: Path) -> None:
    assert uploaded(folder, public=True).is_public
    assert not hub.repositories[NAME].private


def test_nothing_is_made_before_there_is_something_to_upload(hub: Hub) -> None:
    assert not open_repository(NAME).exists
    assert hub.repositories == {}


def test_an_organisation_of_the_user_is_an_owner(hub: Hub, folder: Path) -> None:
    hub.log_in("alice", orgs=("acme",))
    uploaded(folder, "acme/intent")
    assert held(hub.repositories["acme/intent"]) == FILES


# What is there already


def test_what_is_there_with_other_content_is_kept_without_force(hub: Hub, folder: Path) -> None:
    before = {"adapter_config.json": b'{"r": 4}\n', "notes.txt": b"mine"}
    hub.repositories[NAME] = Repository(True, dict(before))
    with pytest.raises(
        ExportError, match=r"exists and holds adapter_config.json with other content; replace with --force"
    ):
        uploaded(folder)
    assert hub.repositories[NAME].files == before
    done = uploaded(folder, force=True)
    assert hub.repositories[NAME].files == {**before, **FILES}
    assert (done.replaced, done.kept) == (("adapter_config.json",), ("notes.txt",))


def test_a_file_that_will_be_replaced_is_said_before_anything_is_made(hub: Hub) -> None:
    hub.repositories[NAME] = Repository(True, {"README.md": b"another"})
    with pytest.raises(ExportError, match=r"holds README.md with other content"):
        open_repository(NAME, known={"README.md": FILES["README.md"]})
    assert open_repository(NAME, known={"README.md": b"another"}).exists


def test_files_beside_those_that_are_there_need_no_force(hub: Hub, folder: Path) -> None:
    hub.repositories[NAME] = Repository(True, {"LICENSE": b"x", "README.md": FILES["README.md"]})
    done = uploaded(folder)
    assert hub.repositories[NAME].commits == [(set(FILES) - {"README.md"}, set())]
    assert (done.replaced, done.kept) == ((), ("LICENSE",))


def test_the_same_upload_again_is_no_commit(hub: Hub, folder: Path) -> None:
    uploaded(folder)
    again = uploaded(folder)
    assert again.unchanged
    assert len(hub.repositories[NAME].commits) == 1


def test_weights_of_the_model_before_go_with_it(hub: Hub, tmp_path: Path) -> None:
    shards = {"model-00001-of-00002.safetensors": b"1", "model-00002-of-00002.safetensors": b"2"}
    hub.repositories[NAME] = Repository(True, {**shards, "model.safetensors.index.json": b"{}", "notes.txt": b"mine"})
    folder = folder_of(tmp_path / "model", {"model.safetensors": b"new"})
    with pytest.raises(ExportError, match=r"holds weights of another model, model-00001-of-00002\.safetensors"):
        uploaded(folder)
    done = uploaded(folder, force=True)
    assert hub.repositories[NAME].files == {"model.safetensors": b"new", "notes.txt": b"mine"}
    assert set(done.replaced) == {*shards, "model.safetensors.index.json"}


def test_a_public_repository_is_not_filled_unasked(hub: Hub) -> None:
    hub.repositories[NAME] = Repository(False)
    with pytest.raises(ExportError, match="is public already, so that everybody could read the upload; say --public"):
        open_repository(NAME)
    assert open_repository(NAME, public=True).exists


def test_a_private_repository_is_not_said_to_become_public(hub: Hub) -> None:
    hub.repositories[NAME] = Repository(True)
    with pytest.raises(ExportError, match="exists and is private, which --public does not change"):
        open_repository(NAME, public=True)


# Connections that break


def test_an_upload_goes_on_after_a_broken_connection_and_sends_nothing_twice(hub: Hub, folder: Path) -> None:
    hub.drop("commit", times=2)
    with heard() as said:
        uploaded(folder)
    assert held(hub.repositories[NAME]) == FILES
    assert (hub.sent("commit"), hub.sent("put")) == (3, 2)
    assert len([one for one in said if one.startswith("the upload was interrupted (RemoteProtocolError")]) == 2


def test_a_large_file_goes_on_after_a_broken_connection(hub: Hub, folder: Path) -> None:
    hub.drop("put", times=1)
    uploaded(folder)
    assert held(hub.repositories[NAME]) == FILES


def test_a_commit_whose_answer_is_lost_is_not_made_again(hub: Hub, folder: Path) -> None:
    hub.drop_late("commit")
    assert uploaded(folder).unchanged
    assert len(hub.repositories[NAME].commits) == 1


def test_a_hub_that_is_busy_is_asked_again(hub: Hub, folder: Path) -> None:
    hub.be_busy("commit")
    uploaded(folder)
    assert held(hub.repositories[NAME]) == FILES


def test_attempts_are_bounded_and_the_next_command_goes_on(hub: Hub, folder: Path) -> None:
    hub.drop("commit", times=4)
    with pytest.raises(
        ExportError, match=r"the upload failed 4 times, lastly by RemoteProtocolError.*; the same command goes on"
    ):
        uploaded(folder)
    assert held(hub.repositories[NAME]) == {}
    uploaded(folder)
    assert held(hub.repositories[NAME]) == FILES
    assert hub.sent("put") == 2


# Refusals


def refusal(name: str = NAME) -> str:
    with pytest.raises(ExportError) as error:
        open_repository(name)
    return str(error.value)


def test_without_a_token_it_is_said_how_to_log_in(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    assert "you are not logged in to the Hub; run `hf auth login`, or set HF_TOKEN" in refusal()
    assert hub.asked == []


def test_a_token_that_the_hub_refuses_is_said(hub: Hub) -> None:
    hub.roles.clear()
    assert "the Hub refused the token" in refusal()
    assert "`hf auth login`" in refusal()


def test_a_token_that_may_only_read_is_said(hub: Hub) -> None:
    hub.log_in("alice", role="read")
    assert "the token of alice may only read; make one with write permission" in refusal()


def test_another_owners_name_is_refused_with_ones_own(hub: Hub) -> None:
    hub.log_in("alice", orgs=("acme",))
    assert refusal("bob/intent") == (
        "bob/intent: bob is not you: you are logged in as alice, a member of acme; take alice/intent"
    )


def test_a_name_that_only_the_hub_can_refuse_is_refused_by_it(hub: Hub, folder: Path) -> None:
    hub.log_in("alice", role="fineGrained")
    with pytest.raises(
        ExportError, match=r"bob/intent: the Hub does not let you write there \(You don't have the rights"
    ):
        uploaded(folder, "bob/intent")


def test_another_owners_repository_is_refused_by_the_hub(hub: Hub, folder: Path) -> None:
    hub.log_in("alice", role="fineGrained")
    hub.repositories["bob/intent"] = Repository(False)
    with pytest.raises(ExportError, match=r"bob/intent: the Hub does not let you write there \(You have no access"):
        uploaded(folder, "bob/intent", public=True)
    assert hub.repositories["bob/intent"].files == {}


def test_a_hub_that_cannot_be_reached_is_said(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    assert "alice/intent: the Hub (http://127.0.0.1:9) cannot be reached (ConnectError" in refusal()


def test_offline_nothing_is_asked(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert (
        refusal() == "alice/intent: HF_HUB_OFFLINE is set; unset it to upload, or look at what would be with --dry-run"
    )
    assert hub.asked == []


@pytest.mark.parametrize(
    "name", ["intent", "alice/", "alice/intent/x", "alice/in--tent", "alice/intent.git", "./intent", ""]
)
def test_a_name_that_is_no_repository_is_misuse(name: str) -> None:
    with pytest.raises(Misuse):
        open_repository(name)


def test_an_error_of_ours_is_not_taken_for_one_of_the_hub(
    hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> Uploaded:
        raise KeyError("a mistake")

    monkeypatch.setattr(HubRepository, "_commit", broken)
    with pytest.raises(KeyError):
        uploaded(folder)
