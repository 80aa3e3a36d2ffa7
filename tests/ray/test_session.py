from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from mlplat._ray.look import look
from mlplat._ray.session import Session
from mlplat.config import environment
from mlplat.errors import InvalidInput, Unavailable

SCRIPT = """
import sys, time, warnings
from pathlib import Path
from mlplat._ray.session import Session
from mlplat.config import environment

if __name__ == "__main__":
    home = Path(sys.argv[1])
    with Session.start(None, home=home, env=environment(), cpus=1) as session:
        if "serve" in sys.argv:
            from mlplat.serve._ray import control
            control._start(session, None, control.LISTEN)
        if "share" in sys.argv:
            session.share()
        print("ready", session.owned, session.address, flush=True)
        while "stay" in sys.argv:
            time.sleep(1)
"""
PATIENCE_S = 60


def clean(home: Path) -> dict[str, str]:
    """The environment of a fresh user: nothing of Ray's, and a home folder in which every file would be seen."""
    kept = {name: value for name, value in environment().variables.items() if not name.startswith("RAY_")}
    return {**kept, "HOME": str(home), "PYTHONPATH": str(Path(__file__).parents[2])}


class Driver:
    """A script that runs in a process of its own."""

    def __init__(self, tmp_path: Path, home: Path, *words: str) -> None:
        script = tmp_path / "script.py"
        script.write_text(SCRIPT)
        user = tmp_path / "user"
        user.mkdir(exist_ok=True)
        words = (sys.executable, str(script), str(home), *words)
        self.process = subprocess.Popen(
            words, env=clean(user), cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def ready(self) -> list[str]:
        assert self.process.stdout is not None
        words = self.process.stdout.readline().split()
        assert words[:1] == ["ready"], self.process.communicate()[1]
        return words

    def family(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def end(self, number: signal.Signals | None = None) -> str:
        """What it said besides."""
        if number is not None:
            self.process.send_signal(number)
        return "".join(self.process.communicate(timeout=PATIENCE_S))


@pytest.mark.ray
@pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, marks=pytest.mark.soak), signal.SIGTERM])
def test_a_signal_leaves_no_process_and_no_file_of_the_user(tmp_path: Path, number: signal.Signals) -> None:
    driver = Driver(tmp_path, tmp_path / "home", "serve", "stay")
    driver.ready()
    family = driver.family()
    assert len(family) > 5
    driver.end(number)
    assert driver.process.returncode != 0
    assert not [process for process in family if process.is_running()]
    assert list((tmp_path / "user").rglob("*")) == []
    assert look(tmp_path / "home") is None


@pytest.mark.ray
def test_a_killed_driver_takes_its_cluster_with_it(tmp_path: Path) -> None:
    driver = Driver(tmp_path, tmp_path / "home", "serve", "stay")
    driver.ready()
    # Two idle agents wait a minute for a word with the dead cluster before they go, whatever one sets.
    family = [process for process in driver.family() if not process.name().endswith("Agent")]
    assert len(family) > 5
    driver.end(signal.SIGKILL)
    _, alive = psutil.wait_procs(family, timeout=PATIENCE_S)
    assert alive == []
    proxy = str(tmp_path / "home")
    assert not [
        p
        for p in psutil.process_iter(["environ"])
        if proxy in (p.info["environ"] or {}).get("RAY_AUTH_TOKEN_PATH", "") and p.name() == "haproxy"
    ]
    assert look(tmp_path / "home") is None


@pytest.mark.ray
def test_a_whole_run_says_nothing_and_ends_with_success(tmp_path: Path) -> None:
    driver = Driver(tmp_path, tmp_path / "home", "serve")
    driver.ready()
    assert (driver.end(), driver.process.returncode) == ("", 0)


@pytest.mark.ray
def test_a_shared_cluster_is_joined_and_left_running(tmp_path: Path) -> None:
    home = tmp_path / "home"
    owner = Driver(tmp_path, home, "share", "stay")
    _, owned, address = owner.ready()
    assert owned == "True"
    guest = Driver(tmp_path, home)
    assert guest.ready() == ["ready", "False", address]
    assert guest.end() == ""
    seen = look(home)
    assert seen is not None
    assert (seen["address"], seen["shared"], seen["nodes"][0]["resources"]["CPU"]) == (address, True, 1.0)
    owner.end(signal.SIGINT)


@pytest.mark.ray
def test_a_look_at_another_home_leaves_the_own_connection_alone(ray_cluster: Session, tmp_path: Path) -> None:
    other = Driver(tmp_path, tmp_path / "home", "stay")
    other.ready()
    seen = look(tmp_path / "home")
    assert seen is not None
    assert seen["nodes"][0]["resources"]["CPU"] == 1.0
    other.end(signal.SIGINT)
    assert ray_cluster.nodes()[0]["alive"]


@pytest.mark.ray
def test_two_processes_on_one_home_have_clusters_of_their_own(tmp_path: Path) -> None:
    drivers = [Driver(tmp_path, tmp_path / "home", "serve", "stay") for _ in range(2)]
    words = [driver.ready() for driver in drivers]
    assert {owned for _, owned, _ in words} == {"True"}
    assert words[0][2] != words[1][2]
    for driver in drivers:
        driver.end(signal.SIGINT)


@pytest.mark.ray
def test_the_cluster_tells_its_resources_and_nodes(ray_cluster: Session) -> None:
    assert ray_cluster.owned
    assert ray_cluster.total()["CPU"] >= 2
    assert ray_cluster.available()["CPU"] <= ray_cluster.total()["CPU"]
    (node,) = (one for one in ray_cluster.nodes() if one["alive"])  # machines that are gone are told too
    assert node["address"]
    assert ray_cluster.logs.is_dir()


@pytest.mark.ray
def test_a_process_that_is_connected_uses_its_connection(ray_cluster: Session, tmp_path: Path) -> None:
    with Session.start(None, home=tmp_path, env=environment()) as session:
        assert (session.address, session.owned) == (ray_cluster.address, False)
    assert ray_cluster.nodes()


@pytest.mark.ray
def test_token_authentication_is_on(ray_cluster: Session) -> None:
    import ray
    from ray._raylet import GcsClient

    assert ray._private.authentication.authentication_utils.is_token_auth_enabled()
    code = f"from ray._raylet import GcsClient; GcsClient(address={ray_cluster.address!r}).get_all_node_info(timeout=5)"
    stranger = clean(ray_cluster.home) | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}
    refused = subprocess.run(
        [sys.executable, "-c", code], env=stranger, capture_output=True, text=True, check=False, timeout=PATIENCE_S
    )
    assert refused.returncode != 0
    assert "uthenticat" in refused.stderr
    assert GcsClient(address=ray_cluster.address).get_all_node_info(timeout=5)


def start(tmp_path: Path, address: str) -> subprocess.CompletedProcess[str]:
    code = f"""
from pathlib import Path
from mlplat._ray.session import Session
from mlplat.config import environment
from mlplat.errors import MlplatError
try:
    Session.start({address!r}, home=Path({str(tmp_path)!r}), env=environment())
except MlplatError as error:
    print(type(error).__name__, error)
"""
    environment_ = clean(tmp_path) | {"RAY_gcs_rpc_server_connect_timeout_s": "1", "RAY_TMPDIR": str(tmp_path)}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment_, capture_output=True, text=True, check=False, timeout=PATIENCE_S
    )


@pytest.mark.ray
def test_an_address_where_nobody_answers_is_unavailable_with_a_remedy(tmp_path: Path) -> None:
    ended = start(tmp_path, "127.0.0.1:1")
    assert ended.stdout.startswith(f"{Unavailable.__name__} No Ray cluster answers at 127.0.0.1:1"), ended
    assert "ray start --head" in ended.stdout


@pytest.mark.ray
def test_what_is_no_address_is_invalid(tmp_path: Path) -> None:
    assert start(tmp_path, "nonsense").stdout.startswith(f"{InvalidInput.__name__} ray='nonsense'")
