"""The folder of answers is whole or not there, whatever is killed, and a repeat doubles nothing."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import fsspec
import polars as pl
import pytest

from mlplat.errors import InvalidInput, Refused, Unavailable
from mlplat.features.files import file_system
from mlplat.features.read_data import to_frame
from mlplat.serve.batch_files import SUCCESS, Draft, Target
from tests.cli.test_main import variables
from tests.features.s3_stand_in import stand_in


def rows(number: int, count: int = 3) -> pl.DataFrame:
    return pl.DataFrame({"number": [number] * count, "at": range(count)})


def put(target: Target, files: int, count: int = 3) -> None:
    with target.draft() as draft:
        for number in reversed(range(files)):
            assert draft.write(number, [rows(number, count), rows(number, count)]) == 2 * count
        target.publish(draft, files, {"rows": files * count * 2})


@pytest.fixture(params=["local", "memory", pytest.param("s3", marks=pytest.mark.slow)])
def where(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    if request.param == "s3":
        with stand_in() as named:
            for name, value in named.items():
                monkeypatch.setenv(name, value)
            yield "s3://lake/scores"
    elif request.param == "memory":
        yield f"memory://{tmp_path.name}/scores"
        fsspec.filesystem("memory").store.clear()
    else:
        yield str(tmp_path / "deep" / "scores")


def test_what_is_published_is_read_in_order_and_a_repeat_replaces_it(where: str) -> None:
    for files, count in ((3, 2), (2, 5)):
        put(Target.of(where), files, count)
        assert to_frame(where).equals(pl.concat([rows(n, count) for n in range(files) for _ in range(2)]))
        system, path = file_system(where)
        said = json.loads(system.open_input_stream(f"{path}/{SUCCESS}").read())
        assert said == {"rows": files * count * 2, "files": [f"part-{n:06}.parquet" for n in range(files)]}
        assert Target.of(where).names() == [SUCCESS, *said["files"]]


def test_until_it_is_published_the_old_one_stands(where: str) -> None:
    put(Target.of(where), 1)
    with Target.of(where).draft() as draft:
        draft.write(0, [rows(9)])
    assert to_frame(where).equals(pl.concat([rows(0), rows(0)]))
    assert Target.of(where).names() == [SUCCESS, "part-000000.parquet"]


def test_a_file_that_another_machine_wrote_elsewhere_is_missed(where: str) -> None:
    target = Target.of(where)
    with target.draft() as draft:
        draft.write(0, [rows(0)])
        with pytest.raises(Unavailable, match=r"part-000001\.parquet was written by a process whose disk"):
            target.publish(draft, 2, {})


def test_a_folder_with_other_things_is_refused_and_a_file_too(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(Refused, match=r"other things in it, such as 'notes\.txt'"):
        Target.of(tmp_path)
    with pytest.raises(InvalidInput, match="is a file"):
        Target.of(tmp_path / "notes.txt")


def test_a_failing_block_leaves_nothing_open(tmp_path: Path) -> None:
    def failing() -> Iterator[pl.DataFrame]:
        yield rows(0)
        raise InvalidInput("row 3")

    with pytest.raises(InvalidInput, match="row 3"):
        Draft(at=str(tmp_path)).write(0, failing())


def test_killed_between_the_steps_of_a_swap_the_old_one_comes_back(tmp_path: Path) -> None:
    target = Target.of(tmp_path / "scores")
    put(target, 1)
    (tmp_path / "scores").rename(tmp_path / ".scores.draft-x-old")
    with target.draft():
        assert to_frame(target.where).equals(pl.concat([rows(0), rows(0)]))


KILLED = """
import sys, time
import polars as pl
from mlplat.serve.batch_files import Target
with Target.of(sys.argv[1]).draft() as draft:
    draft.write(0, [pl.DataFrame({"number": [7]})])
    print(draft.at, flush=True)
    sys.stdin.read()
"""


@pytest.mark.slow
def test_a_killed_process_leaves_what_was_there_and_the_next_one_clears_up(tmp_path: Path) -> None:
    target = Target.of(tmp_path / "scores")
    put(target, 2)
    command = [sys.executable, "-c", KILLED, target.where]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=variables(), stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        left = Path(process.stdout.readline().strip())
        with target.draft():  # beside a living one
            assert left.exists()
        process.send_signal(signal.SIGKILL)
    assert left.exists()
    assert to_frame(target.where).height == 12
    put(target, 1)
    assert to_frame(target.where).height == 6
    assert [path.name for path in tmp_path.iterdir()] == ["scores"]
