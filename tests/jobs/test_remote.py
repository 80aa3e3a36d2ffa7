"""What is sent to a cluster from outside, and what is refused before anything is."""

from __future__ import annotations

import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from mlplat._ray.connect import free_port
from mlplat.errors import InvalidInput, NotFound, Refused, Unavailable

pytestmark = pytest.mark.slow  # Ray takes seconds to import


def test_a_folder_that_is_too_large_is_refused_with_its_largest_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlplat.jobs._ray import remote

    monkeypatch.setattr(remote, "GCS_STORAGE_MAX_SIZE", 2 * 2**20)
    (tmp_path / "big.bin").write_bytes(bytes(3 * 2**20))
    (tmp_path / "small.py").write_text("x")
    with pytest.raises(
        Refused, match=r"has 3 MiB, and a cluster takes 2; the largest are big\.bin \(3 MiB\), small\.py"
    ):
        remote.check_size(tmp_path)
    (tmp_path / ".gitignore").write_text("*.bin\n")
    remote.check_size(tmp_path)  # what git ignores stays here


def test_an_address_a_key_and_a_script_that_are_none_are_told(tmp_path: Path) -> None:
    from mlplat.jobs._ray.remote import Remote

    with pytest.raises(InvalidInput, match="give the dashboard's"):
        Remote("ray://head:10001")
    with pytest.raises(NotFound, match="there is no token file"):
        Remote("http://127.0.0.1:1", tmp_path / "token")
    nobody = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(Unavailable, match=f"no cluster answers at {nobody}"):
        Remote(nobody)


class Dashboard(BaseHTTPRequestHandler):
    """Answers what a client asks first."""

    keys: ClassVar[list[str | None]] = []

    def do_GET(self) -> None:
        self.keys.append(self.headers["Authorization"])
        body = b'{"version": "4", "ray_version": "2.60.0", "ray_commit": "", "session_name": ""}'
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None: ...


def test_a_key_goes_with_the_requests_and_this_process_keeps_its_own(tmp_path: Path) -> None:
    from mlplat.jobs._ray.remote import Remote

    (tmp_path / "key").write_text("of-the-other-cluster\n")
    before = dict(os.environ)
    with ThreadingHTTPServer(("127.0.0.1", 0), Dashboard) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            Remote(f"http://127.0.0.1:{server.server_port}", tmp_path / "key")
        finally:
            server.shutdown()
            thread.join()
    assert set(Dashboard.keys) == {"Bearer of-the-other-cluster"}
    assert dict(os.environ) == before


@pytest.mark.parametrize(("tries", "said"), [(3, None), (100, "No available agent")])
def test_a_head_that_has_just_been_started_is_asked_again(tries: int, said: str | None) -> None:
    from mlplat.jobs._ray.remote import Remote

    asked: list[str] = []

    class Client:
        def submit_job(self, submission_id: str, **_: Any) -> None:
            asked.append(submission_id)
            if len(asked) < tries:
                raise RuntimeError(
                    "Request failed with status code 500: No available agent to submit job, please try again later."
                )

    cluster = object.__new__(Remote)
    cluster._client, cluster.address = Client(), "http://head:8265"
    if said is None:
        job_id = cluster.run(["true"])
        assert asked == [job_id] * 3
    else:
        with pytest.raises(Unavailable, match=said):
            cluster.run(["true"])
        assert len(asked) == 6


def test_a_script_is_a_job_of_the_queue_with_all_that_it_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlplat.jobs._ray.remote import Remote

    sent: dict[str, Any] = {}

    class Client:
        def submit_job(self, **asked: Any) -> None:
            sent.update(asked)

    cluster = object.__new__(Remote)
    cluster._client, cluster.address = Client(), "http://head:8265"
    (tmp_path / "train.py").touch()
    job_id = cluster.submit(
        "train.py",
        "--lr",
        1e-3,
        home="/nfs/home",
        compute={"GPU": 1},
        priority="explore",
        tenant="ann",
        working_dir=tmp_path,
        packages=["lion"],
        variables={"A": "b c"},
        data_gb={"onprem": 0.5},
    )
    assert sent["submission_id"] == job_id
    assert sent["runtime_env"] == {"working_dir": str(tmp_path)}
    assert sent["entrypoint"] == (
        "mlplat jobs submit --compute '{\"GPU\": 1}' --priority explore --follow --home /nfs/home --tenant ann "
        "--package lion --variable 'A=b c' --data-gb onprem=0.5 -- python train.py --lr 0.001"
    )
    with pytest.raises(InvalidInput, match=r"other\.py is not in"):
        cluster.submit("other.py", working_dir=tmp_path)
