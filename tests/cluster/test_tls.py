"""What `mlplat cluster check` says of start commands with TLS."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from mlplat.cluster import tls
from mlplat.cluster.spec import problems

CLUSTERS = Path(__file__).parents[2] / "clusters"
FILES = ("onprem.yaml", "onprem-burst-aws.yaml", "aws.yaml")
HEAD, WORKER = "head_start_ray_commands", "worker_start_ray_commands"


def config(name: str = "aws.yaml") -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((CLUSTERS / name).read_text())
    return found


def replaced(given: dict[str, Any], key: str, old: str, new: str) -> None:
    given[key] = [command.replace(old, new) for command in given[key]]


@pytest.mark.parametrize("name", FILES)
def test_the_files_that_ship_use_tls_in_all_that_talks_to_ray(name: str) -> None:
    given = config(name)
    talk = [c for key in (HEAD, WORKER) for c in given[key] if "ray start" in c or "mlplat cluster guard" in c]
    assert all(tls.uses(command) for command in talk)
    assert {tls.mount(path, given["file_mounts"]) for c in talk for path in tls.paths(c).values()} == {"~/mlplat/tls"}
    assert problems(given) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda c: c["file_mounts"].pop("~/mlplat/tls"),
            "head_start_ray_commands.2: RAY_TLS_CA_CERT is ~/mlplat/tls/ca.pem, which no file_mounts bring to the machine",
        ),
        (
            lambda c: replaced(c, HEAD, "RAY_TLS_SERVER_KEY=~/mlplat/tls/node.key", ""),
            "head_start_ray_commands.2: has RAY_USE_TLS=1, and no RAY_TLS_SERVER_KEY=...",
        ),
        (
            lambda c: replaced(c, WORKER, "RAY_USE_TLS=1", "RAY_USE_TLS=0"),
            "worker_start_ray_commands.2: has no RAY_USE_TLS=1, and others have it: none of them could talk to it",
        ),
    ],
)
def test_what_would_not_talk_is_said_with_its_place(change: Callable[[dict[str, Any]], None], said: str) -> None:
    given = config()
    change(given)
    assert str(problems(given)[0]) == said


def test_without_tls_nothing_is_asked_for() -> None:
    given = config()
    for key in (HEAD, WORKER):
        replaced(given, key, "RAY_USE_TLS=1", "")
    del given["file_mounts"]["~/mlplat/tls"]
    assert problems(given) == []


def test_a_file_is_brought_by_itself_or_by_a_folder_around_it() -> None:
    mounts = ["~/mlplat/token", "~/mlplat/tls", "/etc/tls/ca.pem"]
    assert tls.mount("~/mlplat/tls/ca.pem", mounts) == "~/mlplat/tls"
    assert tls.mount("/etc/tls/ca.pem", mounts) == "/etc/tls/ca.pem"
    assert tls.mount("~/mlplat/tls2/ca.pem", mounts) is None
