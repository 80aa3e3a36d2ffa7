"""`mlplat cluster check`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from mlplat.cli.cluster import app
from mlplat.cluster.trace import read
from mlplat.errors import InvalidInput, Refused
from mlplat.testing.lab import config


def checked(file: Path, *options: str) -> Any:
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, ["check", str(file), *options])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "lab.yaml").write_text(yaml.safe_dump(config(per_day=100), sort_keys=False))
    return tmp_path / "lab.yaml"


def test_a_good_one_is_summed_up(file: Path) -> None:
    done = checked(file)
    assert done.exit_code == 0
    assert "lab: nothing is wrong" in done.stdout
    assert "spot a, then spot b, then on demand" in done.stdout
    assert "budget: per_day 100" in done.stdout


def test_what_is_wrong_has_its_line_and_a_limit_may_not_be_below_what_runs(file: Path) -> None:
    found = checked(file, "--running", "cloud.gpu=11").exception
    assert isinstance(found, InvalidInput)
    line = int(str(found).removeprefix(f"{file}:").partition(":")[0])
    assert file.read_text().splitlines()[line - 1].strip() == "max_workers: 10"
    assert isinstance(checked(file, "--running", "cloud.gpu").exception, InvalidInput)


def test_a_guard_whose_head_is_silent_ends_the_machine(tmp_path: Path) -> None:
    options = ["--head", "127.0.0.1", "--port", "1", "--lease", "1e-9", "--end", f"touch {tmp_path / 'ended'}"]
    done = CliRunner().invoke(app, ["guard", *options])
    assert done.exit_code == 0, done.exception
    assert (tmp_path / "ended").exists()


@pytest.mark.parametrize("wrong", [["--cloud", "ibm"], ["--lease", "0"]])
def test_a_guard_with_wrong_options_does_not_start(wrong: list[str]) -> None:
    assert isinstance(CliRunner().invoke(app, ["guard", "--head", "h", *wrong]).exception, InvalidInput)


TRACE = """at_s,bundles,work_s,GPU,CPU,priority
0,2,3600,4,1,normal
60,1,36000,4,1,explore
"""


@pytest.mark.slow
def test_a_trace_is_tried_with_each_rule(file: Path, tmp_path: Path) -> None:
    (tmp_path / "jobs.csv").write_text(TRACE)
    given = config(per_day=100)
    given["provider"]["egress"] = {"onprem": 0.05}
    file.write_text(yaml.safe_dump(given, sort_keys=False))
    runner = CliRunner(env={"COLUMNS": "200"})
    picture = tmp_path / "who.svg"
    done = runner.invoke(app, ["simulate", str(file), "--trace", str(tmp_path / "jobs.csv"), "--plot", str(picture)])
    assert done.exit_code == 0, done.exception
    rows = {cells[0]: cells for line in done.stdout.splitlines() if len(cells := line.strip().split("  ")) > 3}
    rows = {name: [cell for cell in cells[1:] if cell] for name, cells in rows.items() if name != "rule"}
    assert rows.keys() == {"as the file says", "work stays where it is", "buys at once", "without a look at data"}
    assert rows["without a look at data"] == rows["as the file says"]  # no job of it has data
    bought = {rule: float(cells[1]) for rule, cells in rows.items()}
    assert all(f"{rule}: cost " in picture.read_text() for rule in rows)
    assert 0 < bought["as the file says"] < 4 < 40 < bought["buys at once"]


@pytest.mark.slow
def test_a_trace_is_tried_in_shards(file: Path, tmp_path: Path) -> None:
    file.write_text(yaml.safe_dump(config(), sort_keys=False))
    (tmp_path / "jobs.csv").write_text(TRACE.splitlines()[0] + "\n" + "0,1,600,4,1,normal\n" * 4)
    options = ["simulate", str(file), "--trace", str(tmp_path / "jobs.csv"), "--plot", str(tmp_path / "who.svg")]
    done = CliRunner(env={"COLUMNS": "200"}).invoke(app, [*options, "--shards", "2"])
    assert done.exit_code == 0, done.exception
    assert "4 jobs on lab, in 2 shards" in done.stdout
    assert "buys at once: cost " in (tmp_path / "who.svg").read_text()


def test_a_job_that_is_too_large_for_a_shard_is_named_by_its_line(file: Path, tmp_path: Path) -> None:
    (tmp_path / "jobs.csv").write_text(TRACE.replace("0,2,", "0,8,"))
    options = ["simulate", str(file), "--trace", str(tmp_path / "jobs.csv"), "--shards", "2"]
    found = CliRunner().invoke(app, options).exception
    assert isinstance(found, InvalidInput)
    assert "'line-2' asks for 8 x 4 GPU, 1 CPU" in str(found)
    assert "1 is the most shards" in str(found)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("0,1,0,1,1,normal", ":2: at_s must be 0 or more, work_s above 0"),
        ("0,1.5,9,1,1,normal", ":2: at_s must be 0 or more, work_s above 0, and bundles a whole number"),
        ("0,1,9,1,1,urgent", ":2: priority 'urgent' is not one of"),
        ("0,1,,1,1,normal\n1,1,5,1,1,normal", ":2: a number is missing"),
        ("0,1,soon,1,1,normal", ":1: work_s must be numbers"),
    ],
)
def test_what_is_wrong_in_a_trace_has_its_line(file: Path, tmp_path: Path, line: str, said: str) -> None:
    (tmp_path / "jobs.csv").write_text(TRACE.splitlines()[0] + "\n" + line + "\n")
    found = CliRunner().invoke(app, ["simulate", str(file), "--trace", str(tmp_path / "jobs.csv")]).exception
    assert isinstance(found, InvalidInput)
    assert said in str(found)
    (tmp_path / "jobs.csv").write_text("at_s,work_s,GPU\n0,1,1\n")
    with pytest.raises(InvalidInput, match="has no column bundles"):
        read(tmp_path / "jobs.csv")


def test_certificates_are_made_for_a_file_and_say_what_to_write_and_when_they_end(file: Path, tmp_path: Path) -> None:
    def made(*options: str) -> Any:
        return CliRunner().invoke(app, ["certificates", str(file), str(tmp_path / "lab.tls"), *options])

    found = made().exception
    assert isinstance(found, InvalidInput)
    assert "give --network" in str(found)
    done = made("--network", "10.0.0.0/24", "--days", "30")
    assert f"file_mounts: {{~/mlplat/tls: {tmp_path}/lab.tls/nodes}}" in done.stdout
    assert re.search(r"they end on \d{4}-\d\d-\d\d \d\d:\d\d UTC", done.stdout)
    assert isinstance(made("--network", "10.0.0.0/24").exception, Refused)
    assert made("--network", "10.0.0.0/24", "--renew").exit_code == 0


def test_a_trace_may_say_what_jobs_read_and_where_that_is(tmp_path: Path) -> None:
    jobs = tmp_path / "jobs.csv"
    jobs.write_text("at_s,bundles,work_s,GPU,data_gb,data_at\n0,1,9,1,1.5,onprem\n0,1,9,1,,\n0,1,9,1,0,fra\n")
    assert [one.job.data for one in read(jobs)] == [(("onprem", 1_500_000_000),), (), ()]
    for row, said in (
        ("-1,fra", ":2: data_gb -1 must be"),
        ("much,fra", ":2: data_gb 'much' must be"),
        ("8,", ":2: data_at is"),
    ):
        jobs.write_text(f"at_s,bundles,work_s,GPU,data_gb,data_at\n0,1,9,1,{row}\n")
        with pytest.raises(InvalidInput, match=said):
            read(jobs)
