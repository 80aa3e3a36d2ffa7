"""What a cluster for one piece of work is asked for, and how its launcher's errors read."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from mlplat.cluster.launch import _of_head, _why
from mlplat.errors import InvalidInput, Refused
from mlplat.jobs.cloud import Cloud, Kind

FILE = Path(__file__).parents[2] / "clusters" / "aws.yaml"


@pytest.mark.slow  # Ray takes seconds to import
def test_what_is_missing_beside_own_machines_is_bought() -> None:
    from mlplat.cluster._ray.gather import machines

    own = Kind(name="own", total={"CPU": 32.0, "GPU": 4.0}, labels={}, most=2)
    small = Kind(name="small", total={"CPU": 8.0, "GPU": 1.0}, labels={}, most=2)
    large = Kind(name="large", total={"CPU": 48.0, "GPU": 4.0}, labels={}, most=3)
    cloud = Cloud(kinds=(small, large), own=(own,), most=4)
    assert machines(cloud, {"GPU": 8}) == {}
    assert machines(cloud, {"GPU": 9}) == {"small": 1}
    assert machines(cloud, {"GPU": 15}) == {"small": 2, "large": 2}
    assert machines(cloud, {"CPU": 70}) == {"small": 1}
    with pytest.raises(Refused, match="can never have so many GPUs"):
        machines(cloud, {"GPU": 19})


def test_the_key_is_the_file_that_is_mounted_where_the_head_looks_for_it(tmp_path: Path) -> None:
    config = yaml.safe_load(FILE.read_text())
    config["file_mounts"] = {"~/mlplat/token": str(tmp_path / "token")}
    with pytest.raises(InvalidInput, match=r"there is no key at .*openssl rand -hex 32"):
        _of_head(FILE, config)
    (tmp_path / "token").touch()
    assert _of_head(FILE, config) == (tmp_path / "token", 8265)
    config["file_mounts"]["~/mlplat/tls"] = str(tmp_path / "tls" / "nodes")
    with pytest.raises(
        InvalidInput, match=r"~/mlplat/tls: there is no .*nodes \(certificates: mlplat cluster certificates"
    ):
        _of_head(FILE, config)
    config["file_mounts"] = {}
    with pytest.raises(InvalidInput, match="must have RAY_AUTH_TOKEN_PATH"):
        _of_head(FILE, config)


def test_an_error_of_the_launcher_is_told_without_its_times_and_tracebacks() -> None:
    said = (
        "2026-11-28 15:45:03,193\tINFO commands.py:975 -- ray attach\n"
        "2026-11-28 15:55:44,646\tERR updater.py:543 -- \x1b[31mFailed.\x1b[39m\n"
        "2026-11-28 15:55:44,727\tERR updater.py:193 -- Error message: Start command failed.\n"
        "2026-11-28 15:55:44,727\tERR updater.py:194 -- !!!\n"
        "2026-11-28 15:55:44,726\tERR updater.py:191 -- Full traceback: Traceback (most recent call last):\n"
        "2026-11-28 15:55:46,441\tPANIC commands.py:925 -- Failed to setup head node.\n"
        "Error: Failed to setup head node.\n"
    )
    assert _why(said) == "Error message: Start command failed. Failed to setup head node."
    assert _why("Traceback\nmlplat.errors.InvalidInput: max_workers is missing\n").endswith("max_workers is missing")
    assert _why("") == "it said nothing"
