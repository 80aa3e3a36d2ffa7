"""The journal after a kill, a full disk, and while another has it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from optuna.storages import JournalStorage
from optuna.study import StudyDirection

from mlplat.train.search.journal import Lock, open_journal


def filled(path: Path) -> JournalStorage:
    storage = open_journal(path)
    study = storage.create_new_study([StudyDirection.MINIMIZE], "s")
    for value in range(3):
        storage.set_trial_user_attr(storage.create_new_trial(study), "value", value)
    return storage


@pytest.mark.slow
def test_wherever_a_kill_cut_the_last_line_the_journal_reads_and_goes_on(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    filled(whole)
    raw = whole.read_bytes()
    last = raw[:-1].rfind(b"\n") + 1
    for end in range(last, len(raw) + 1):
        path = tmp_path / f"cut{end}"
        path.write_bytes(raw[:end])
        storage = open_journal(path)
        study = storage.get_study_id_from_name("s")
        storage.create_new_trial(study)
        again = open_journal(path).get_all_trials(study)
        values = [trial.user_attrs.get("value") for trial in again]
        assert values == [0, 1, 2 if end == len(raw) else None, None], end


def test_a_line_longer_than_a_block_is_cut_off_whole(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    filled(path)
    size = path.stat().st_size
    with path.open("ab") as file:
        file.write(b"x" * 200_000)
    open_journal(path)
    assert path.stat().st_size == size


def test_what_was_never_whole_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    path.write_bytes(b'{"op_code": 0')
    assert open_journal(path).get_all_studies() == []
    assert path.read_bytes() == b""


@pytest.mark.slow
def test_the_lock_of_a_process_that_was_killed_is_free(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    filled(path)
    script = (
        "import pathlib, sys; from mlplat.train.search.journal import Lock; "
        "Lock(pathlib.Path(sys.argv[1])).acquire(); print('has it', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", script, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "has it\n"
        holder.kill()
    with Lock(path):
        pass


def test_a_disk_that_was_full_for_a_while_costs_the_line_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "journal"
    storage = filled(path)
    study = storage.get_study_id_from_name("s")

    def full(handle: int) -> None:
        os.truncate(path, path.stat().st_size - 5)  # half of the line is there
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("optuna.storages.journal._file.os.fsync", full)
        with pytest.raises(OSError, match="No space left"):
            storage.create_new_trial(study)
    storage.create_new_trial(study)
    assert len(open_journal(path).get_all_trials(study)) == 4
