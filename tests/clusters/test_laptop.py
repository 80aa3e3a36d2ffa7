"""clusters/laptop.yaml is what `ray up` accepts, and what the design asks of a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

FILE = Path(__file__).parents[2] / "clusters" / "laptop.yaml"


@pytest.fixture
def config() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(FILE.read_text())
    return found


@pytest.mark.slow  # Ray takes seconds to import
def test_ray_accepts_the_file(config: dict[str, Any]) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(config)
    validate_config(prepared)
    assert prepared["max_workers"] == 0


def test_the_head_wants_a_token_and_shows_its_dashboard_to_this_machine_only(config: dict[str, Any]) -> None:
    (start,) = config["head_start_ray_commands"]
    assert "RAY_AUTH_MODE=token" in start
    assert "--dashboard-host=127.0.0.1" in start
