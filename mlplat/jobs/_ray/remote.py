"""Commands sent to a cluster from a machine that is none of it, by Ray's job API (2.60)."""

from __future__ import annotations

import asyncio
import json
import logging
import shlex
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from ray._private.runtime_env.packaging import GCS_STORAGE_MAX_SIZE, _dir_travel
from ray.exceptions import AuthenticationError
from ray.job_submission import JobStatus, JobSubmissionClient

from mlplat.errors import InvalidInput, NotFound, Refused, Unavailable

_SHOWN = 3
_CHATTER = ("ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk", "ray._private.runtime_env")
_MIB = 2**20
_NO_AGENT, _TRIES = "No available agent", 6


class Remote:
    """A cluster by the address of its dashboard. `token` is the file with its key; without one, what Ray finds in the
    environment. Raises `Unavailable` where none answers, `Refused` where the key is wrong."""

    def __init__(self, address: str, token: Path | None = None) -> None:
        if not address.startswith(("http://", "https://")):
            raise InvalidInput(f"address {address!r}: give the dashboard's, as in http://127.0.0.1:8265")
        if token is not None and not token.is_file():
            raise NotFound(f"there is no token file {token}")
        for name in _CHATTER:  # what is sent, and how a line to the cluster was closed
            logging.getLogger(name).setLevel(logging.ERROR)
        self.address = address
        with self._translated():
            # With each request: Ray's own way would take this process from the cluster that it may be in.
            key = None if token is None else {"Authorization": f"Bearer {token.read_text().strip()}"}
            self._client = JobSubmissionClient(address, headers=key)

    def submit(
        self,
        script: str,
        *arguments: object,
        home: str | None = None,
        compute: str | Mapping[str, Any] = "cpu:1",
        priority: str = "normal",
        tenant: str | None = None,
        working_dir: str | Path = ".",
        packages: Sequence[str] = (),
        variables: Mapping[str, str] | None = None,
        data_gb: Mapping[str, float] | None = None,
    ) -> str:
        """Have a script run in a copy of a folder once the queue has slots; its id comes back at once. What `.gitignore` and
        `.rayignore` name stays here. `home` is as the cluster's machines see it (default: their MLPLAT_HOME), and `compute` what
        the script itself runs on. `data_gb` is how much it reads, by place."""
        folder = Path(working_dir).resolve()
        if not (folder / script).is_file():
            raise InvalidInput(f"{script} is not in {folder}, which is what is sent: see working_dir")
        check_size(folder)
        asked = [
            "--compute",
            compute if isinstance(compute, str) else json.dumps(compute),
            "--priority",
            priority,
            "--follow",
        ]
        for name, value in (("--home", home), ("--tenant", tenant)):
            asked += [] if value is None else [name, value]
        for package in packages:
            asked += ["--package", package]
        for name, value in (variables or {}).items():
            asked += ["--variable", f"{name}={value}"]
        for place, amount in (data_gb or {}).items():
            asked += ["--data-gb", f"{place}={amount}"]
        return self.run(["mlplat", "jobs", "submit", *asked, "--", "python", script, *map(str, arguments)], folder)

    def run(self, command: Sequence[str], folder: Path | None = None) -> str:
        """Have a command run on the head at once; its id."""
        job_id = f"mlplat-{uuid4().hex[:12]}"
        env = {} if folder is None else {"working_dir": str(folder)}
        with self._translated():
            for left in reversed(range(_TRIES)):
                try:
                    self._client.submit_job(entrypoint=shlex.join(command), submission_id=job_id, runtime_env=env)
                    break
                except RuntimeError as error:  # a head that has just been started: it waited ten seconds for its agent
                    if not left or _NO_AGENT not in str(error):
                        raise
        return job_id

    def follow(self, job_id: str, say: Callable[[str], None]) -> bool:
        """Pass on all that it prints, until it has ended; whether it ended well."""

        async def tail() -> None:
            async for text in self._client.tail_job_logs(job_id):
                say(text)

        with self._translated(job_id):
            self._client.get_job_status(job_id)
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "ssl=None", DeprecationWarning)  # Ray's client gives that to aiohttp
                asyncio.run(tail())
            return bool(self._client.get_job_status(job_id) == JobStatus.SUCCEEDED)

    def stop(self, job_id: str) -> None:
        """It gets SIGTERM. `NotFound` if there is none; one that has ended stays as it is."""
        with self._translated(job_id):
            self._client.stop_job(job_id)

    def list(self) -> Sequence[dict[str, Any]]:
        """Those that were submitted, the newest last."""
        with self._translated():
            found = [one for one in self._client.list_jobs() if one.submission_id]
        found.sort(key=lambda one: one.start_time or 0)
        return [{"id": one.submission_id, "state": one.status.value, "command": one.entrypoint} for one in found]

    @contextmanager
    def _translated(self, job_id: str | None = None) -> Iterator[None]:
        try:
            yield
        except ConnectionError:
            raise Unavailable(f"no cluster answers at {self.address}: is its tunnel open?") from None
        except AuthenticationError as error:
            raise Refused(f"{self.address} does not take this key: {str(error).splitlines()[0]}") from None
        except RuntimeError as error:
            if job_id is not None and "does not exist" in str(error):
                raise NotFound(f"{self.address} has no job {job_id!r}") from None
            raise Unavailable(f"{self.address}: {str(error).splitlines()[0]}") from None


def check_size(folder: Path) -> None:
    """Refused if it has more than a cluster takes, with what is largest in it."""
    sizes: dict[Path, int] = {}

    def count(path: Path) -> None:
        if path.is_file():
            sizes[path] = path.stat().st_size

    _dir_travel(folder, [], count, include_gitignore=True)
    total = sum(sizes.values())
    if total < GCS_STORAGE_MAX_SIZE:
        return
    largest = sorted(sizes, key=lambda path: -sizes[path])[:_SHOWN]
    named = ", ".join(f"{path.relative_to(folder)} ({sizes[path] / _MIB:,.0f} MiB)" for path in largest)
    raise Refused(
        f"{folder} has {total / _MIB:,.0f} MiB, and a cluster takes {GCS_STORAGE_MAX_SIZE / _MIB:,.0f}; the largest are "
        f"{named}. Name in .gitignore or .rayignore what the work does not need, and keep data where the cluster reads it"
    )
