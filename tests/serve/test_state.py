from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from mlplat.errors import Corrupt, InvalidInput, NotFound
from mlplat.serve import state
from mlplat.serve.http import BodyLimits
from mlplat.serve.policy import FeaturePolicy
from mlplat.serve.state import Entry, Member, Role


def entry(name: str = "late", version: int = 1) -> Entry:
    return Entry(name=name, version=version, digest="d", path="/m", url="http://127.0.0.1:1", cluster="c")


def test_a_home_that_serves_nothing_reads_as_empty(tmp_path: Path) -> None:
    assert state.read(tmp_path) == {}


def test_every_change_of_a_name_has_a_higher_epoch(tmp_path: Path) -> None:
    assert [state.put(tmp_path, entry(version=v)).epoch for v in (1, 2, 1)] == [1, 2, 3]
    assert state.put(tmp_path, entry("other")).epoch == 1
    assert {name: found.version for name, found in state.read(tmp_path).items()} == {"late": 1, "other": 1}


def test_a_change_can_be_undone(tmp_path: Path) -> None:
    before = state.put(tmp_path, entry())
    state.put(tmp_path, entry(version=2))
    state.restore(tmp_path, "late", before)
    assert state.read(tmp_path) == {"late": before}
    state.remove(tmp_path, "late")
    state.remove(tmp_path, "late")
    assert state.read(tmp_path) == {}


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"late": {"name": "late"}}'])
def test_a_torn_record_is_said(tmp_path: Path, content: str) -> None:
    (tmp_path / "endpoints.json").write_text(content)
    with pytest.raises(Corrupt, match=r"endpoints\.json"):
        state.read(tmp_path)


def test_the_policy_for_features_comes_back_and_stays_as_gold_and_experiments_change(tmp_path: Path) -> None:
    policy = FeaturePolicy(missing={"weather": "refuse"}, expired="keep", features_s=0.05)
    found = state.put(tmp_path, replace(entry(), policy=policy).with_member(member("b", 2)))
    assert state.read(tmp_path)["late"] == found
    assert found.policy == found.with_gold(member("gold", 3)).policy == found.without("b").policy == policy


def test_the_limits_of_a_body_come_back_and_stay_as_gold_and_experiments_change(tmp_path: Path) -> None:
    body = BodyLimits(body_bytes=4 << 20, body_s=2.5)
    found = state.put(tmp_path, replace(entry(), body=body).with_member(member("b", 2)))
    assert state.read(tmp_path)["late"] == found
    assert found.body == found.with_gold(member("gold", 3)).body == found.without("b").body == body


@pytest.mark.parametrize("limits", [{"body_bytes": 1}, {"body_s": 0}, {"bytes": 2_000}])
def test_limits_that_nobody_wrote_are_said(tmp_path: Path, limits: dict[str, int]) -> None:
    state.put(tmp_path, entry())
    path = tmp_path / "endpoints.json"
    recorded = json.loads(path.read_text())
    recorded["late"]["body"] = limits
    path.write_text(json.dumps(recorded))
    with pytest.raises(Corrupt, match="is not what was written"):
        state.read(tmp_path)


def test_an_entry_of_before_there_were_policies_and_limits_has_the_plain_ones(tmp_path: Path) -> None:
    state.put(tmp_path, entry())
    path = tmp_path / "endpoints.json"
    recorded = json.loads(path.read_text())
    del recorded["late"]["policy"], recorded["late"]["body"]
    path.write_text(json.dumps(recorded))
    old = state.read(tmp_path)["late"]
    assert (old.policy, old.body) == (FeaturePolicy(), BodyLimits())
    recorded["late"]["policy"] = {"missing": "perhaps"}
    path.write_text(json.dumps(recorded))
    with pytest.raises(Corrupt, match="'perhaps' is not 'null' or 'refuse'"):
        state.read(tmp_path)


@pytest.mark.slow
def test_two_processes_lose_no_change(tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
from mlplat.serve import state
for i in range(50):
    entry = state.Entry(name=f"{sys.argv[2]}{i}", version=1, digest="d", path="/m", url="u", cluster="c")
    state.put(Path(sys.argv[1]), entry)
"""
    writers = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path), name]) for name in ("a", "b")]
    assert [writer.wait(timeout=60) for writer in writers] == [0, 0]
    assert len(state.read(tmp_path)) == 100


def test_an_entry_of_a_home_from_before_there_were_objectives_has_none(tmp_path: Path) -> None:
    state.put(tmp_path, replace(entry(), objective="p99 < 50ms"))
    file = tmp_path / "endpoints.json"
    entries = json.loads(file.read_text())
    assert entries["late"].pop("objective") == "p99 < 50ms"
    file.write_text(json.dumps(entries))
    assert state.read(tmp_path)["late"].objective is None


def member(name: str, version: int, role: Role = "experiment", share: float = 0.1) -> Member:
    return Member(name=name, role=role, version=version, digest=f"d{version}", path=f"/m{version}", share=share)


def test_experiments_and_shadows_stand_beside_gold_and_come_back_from_the_file(tmp_path: Path) -> None:
    whole = entry().with_member(member("b", 2)).with_member(member("s", 3, "shadow", 1.0))
    found = state.put(tmp_path, whole)
    assert state.read(tmp_path)["late"] == found
    table = found.table()
    assert [(arm.name, arm.version, arm.share) for arm in table.arms] == [("gold", 1, 0.9), ("b", 2, 0.1)]
    assert [arm.name for arm in table.mirrors] == ["s"]
    assert table.versions == {1, 2, 3}
    more = found.with_member(member("b", 2, share=0.5))
    assert [arm.share for arm in more.table().arms] == [0.5, 0.5]
    assert [arm.name for arm in more.without("b").table().arms] == ["gold"]


def test_what_was_gold_is_kept_alone_and_comes_back_in_an_instant() -> None:
    first = replace(entry(), objective="p99 < 50ms").with_member(member("b", 2))
    second = first.with_gold(member("gold", 2))
    assert [(m.name, m.role, m.version) for m in second.members()] == [("gold", "kept", 2), ("kept", "kept", 1)]
    third = second.with_gold(member("gold", 3))
    assert third.objective == "p99 < 50ms"
    assert [(m.name, m.version) for m in third.members()] == [("gold", 3), ("kept", 2)]
    assert third.with_gold(member("gold", 3)).members() == third.members()
    back = third.with_gold(member("gold", 2))
    assert [(m.name, m.version) for m in back.members()] == [("gold", 2), ("kept", 3)]


def test_what_cannot_stand_beside_gold_is_refused_by_name() -> None:
    with pytest.raises(InvalidInput, match="version 1 of 'late' is gold already"):
        entry().with_member(member("b", 1))
    with pytest.raises(InvalidInput, match=r"share=0.7: other experiments have all but 0.3 of the units"):
        entry().with_member(member("b", 2, share=0.7)).with_member(member("c", 3, share=0.7))
    with pytest.raises(InvalidInput, match="not called 'kept'"):
        entry().with_member(member("kept", 2))
    with pytest.raises(InvalidInput, match="two arms of a routing table have one name"):
        entry().with_member(member("gold", 2))
    with pytest.raises(NotFound, match=r"'x'.* Known: b"):
        entry().with_member(member("b", 2)).without("x")
