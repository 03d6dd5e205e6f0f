"""What several processes agree on: values, failures, turns and shares of rows."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from mlxtune.backends.group import ALONE, in_turns, require_same, share_rows, together
from mlxtune.backends.processes import PIECE_BYTES, SLOT_BYTES, Processes
from mlxtune.errors import BackendError, DataError, Misuse, ProcessFailed, ProcessLost
from tests.backends.groups import Unwatched, on_ranks
from tests.conftest import ROOT


@pytest.mark.parametrize("length", [0, SLOT_BYTES - 20, SLOT_BYTES, 5 * SLOT_BYTES])
def test_values_of_any_length_are_gathered_by_rank(length: int) -> None:
    wanted = [{"rank": 0, "text": ""}, {"rank": 1, "text": "x" * length}, {"rank": 2, "text": "é" * 2}]
    assert on_ranks(3, lambda group: group.gather(wanted[group.rank])) == [wanted] * 3


def test_what_rank_0_broadcasts_arrives_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlxtune.backends.processes.PIECE_BYTES", 7)
    content = bytes(range(256))
    assert PIECE_BYTES > 1 << 20
    assert on_ranks(2, lambda group: group.broadcast(content if group.rank == 0 else b"")) == [content] * 2


def test_where_one_fails_all_raise_and_only_that_one_has_the_error() -> None:
    def section(group: Processes) -> None:
        with together(group):
            if group.rank == 1:
                raise Misuse("no such thing")

    first, failing, last = on_ranks(3, section)
    assert isinstance(failing, Misuse)
    for other in (first, last):
        assert isinstance(other, ProcessFailed)
        assert (str(other), other.exit_code) == ("process 1 failed: no such thing", 2)


def test_of_several_that_fail_the_first_says_why() -> None:
    def section(group: Processes) -> None:
        with together(group):
            raise DataError(f"rank {group.rank}")

    found = on_ranks(2, section)
    assert isinstance(found[0], DataError)
    assert isinstance(found[1], ProcessFailed) and "rank 0" in str(found[1])


def test_a_fault_of_ours_on_one_process_ends_the_others_too() -> None:
    def section(group: Processes) -> None:
        with together(group):
            assert group.rank != 1, "a bug"

    found = on_ranks(2, section)
    assert isinstance(found[0], ProcessFailed) and "AssertionError: a bug" in str(found[0])
    assert isinstance(found[1], AssertionError)


def test_a_lost_connection_is_no_failure_to_tell_the_others_of() -> None:
    class Broken:
        rank, size = 0, 2

        def gather(self, own: object) -> object:
            raise RuntimeError("peer closed the socket. Some advice")

        def said(self) -> None:
            pass

    group = Processes(Broken(), Unwatched())  # type: ignore[arg-type]
    with pytest.raises(ProcessLost, match=r"peer closed the socket\)\. The last checkpoint is kept"), together(group):
        group.gather(1)


def test_who_fails_in_a_pass_leaves_with_its_own_error_and_the_others_hear_why() -> None:
    said: list[str] = []

    class Connection:
        rank, size = 0, 2

        def gather(self, own: object) -> object:
            return pytest.fail("the other process is in a pass, and comes to no gather")

        def is_broken_by(self, error: RuntimeError) -> bool:
            return "closed" in str(error)

        def say(self, why: str) -> None:
            said.append(why)

        def said(self) -> str | None:
            return said[0] if said else None

    first, second = (Processes(Connection(), Unwatched()) for _ in range(2))  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="a fault"), together(first), first.passes():
        raise RuntimeError("a fault")
    with (
        pytest.raises(ProcessFailed, match="process 0 failed: RuntimeError: a fault"),
        together(second),
        second.passes(),
    ):
        raise RuntimeError("closed by peer")
    assert first.is_broken and second.is_broken and len(said) == 1


def test_one_process_is_a_group_that_answers_itself() -> None:
    with together(ALONE) as report:
        report.value = {1: "any object"}
    assert report.values == ({1: "any object"},)
    with pytest.raises(DataError, match="mine"), together(ALONE):
        raise DataError("mine")


def test_rank_0_has_the_first_turn_then_one_process_a_machine_then_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    machines = ["a", "a", "b", "b"]
    of_thread: dict[int, str] = {}
    monkeypatch.setattr(platform, "node", lambda: of_thread[threading.get_ident()])
    done: list[int] = []
    seen: dict[int, list[int]] = {}

    def prepare(group: Processes) -> int:
        of_thread[threading.get_ident()] = machines[group.rank]

        def work() -> int:
            seen[group.rank] = sorted(done)
            time.sleep(0.02)
            done.append(group.rank)
            return group.rank * 10

        return in_turns(group, work)

    assert on_ranks(4, prepare) == [0, 10, 20, 30]
    assert seen[0] == []
    assert seen[2] == [0]
    assert set(seen[1]) >= {0, 2} and set(seen[3]) >= {0, 2}


def test_what_differs_is_said_by_the_process_that_differs() -> None:
    def check(group: Processes) -> None:
        require_same(group, {"weights": "a" if group.rank == 0 else "b", "rows": 7})

    found = on_ranks(2, check)
    assert isinstance(found[1], BackendError)
    assert "weights: a on process 0, b here" in str(found[1]) and "rows" not in str(found[1]).partition("\n")[2][:40]
    assert isinstance(found[0], ProcessFailed)
    assert on_ranks(2, lambda group: require_same(group, {"rows": 7})) == [None, None]


@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_each_row_is_one_processs_and_tokens_are_shared_evenly(size: int) -> None:
    lengths = np.random.default_rng(0).integers(5, 100, 64).tolist()
    shares = share_rows(lengths, size)
    assert sorted(row for share in shares for row in share) == list(range(64))
    tokens = [sum(lengths[row] for row in share) for share in shares]
    assert max(tokens) - min(tokens) <= max(lengths) / 4


def test_where_there_are_fewer_rows_than_processes_some_have_none() -> None:
    assert sorted(map(len, share_rows([5, 5], 4))) == [0, 0, 1, 1]


WAITING = """
import os, signal, sys, time
from mlxtune.backends.watchdog import Watchdog
watchdog = Watchdog(grace_s=0.5, stalled_s=float(sys.argv[1]))
signal.signal(signal.SIGTERM, lambda number, frame: None)
print(os.getpid(), flush=True)
with watchdog.watching(patient=sys.argv[2] == "patient"):
    while True:
        time.sleep(0.05)
"""


def waiting(stalled_s: float, patience: str, parent: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    command = [*parent, sys.executable, "-c", WAITING, str(stalled_s), patience]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)


def test_a_process_that_was_asked_to_end_does_not_wait_for_ever() -> None:
    process = waiting(1000, "patient")
    assert process.stdout is not None and process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "asked to end, and the other processes have not answered" in said and "--resume" in said


ENDING = """
import os, signal
from mlxtune.backends.watchdog import Watchdog
from mlxtune.training.interrupt import Interrupt
watchdog = Watchdog()
with Interrupt():
    watchdog.lose()
os.kill(os.getpid(), signal.SIGTERM)
print("said")
"""


def test_a_process_that_lost_the_others_says_so_even_where_its_launcher_ends_it() -> None:
    ended = subprocess.run([sys.executable, "-c", ENDING], capture_output=True, text=True, cwd=ROOT, check=False)
    assert (ended.returncode, ended.stdout) == (0, "said\n")


def test_an_exchange_that_takes_too_long_ends_the_process_unless_it_is_patient() -> None:
    impatient, patient = waiting(0.3, "no"), waiting(0.3, "patient")
    _, said = impatient.communicate(timeout=20)
    assert impatient.returncode == 1 and "the other processes have not answered for" in said
    assert patient.poll() is None
    patient.kill()
    patient.communicate()


def test_a_process_ends_where_its_launcher_is_gone() -> None:
    launcher = waiting(1000, "patient", ("/bin/sh", "-c", '"$@" & wait', "sh"))
    assert launcher.stdout is not None
    child = int(launcher.stdout.readline())
    launcher.kill()
    launcher.wait()
    for _ in range(100):
        try:
            os.kill(child, 0)
        except ProcessLookupError:
            break
        time.sleep(0.1)
    else:
        os.kill(child, signal.SIGKILL)
        pytest.fail("it goes on without its launcher")
