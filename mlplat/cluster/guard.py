"""What runs on a bought machine beside Ray: it ends the machine when its head has not been heard of for long, so that none is
forgotten, and tells the head when the cloud is about to take the machine away, so that its work moves in time."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from email.utils import parsedate_to_datetime

from mlplat.clock import US_PER_S, Clock
from mlplat.errors import InvalidInput

ASK_S = 2.0
"""The longest that a cloud's metadata service may take to answer."""
GCP_NOTICE_S = 30.0
Notice = Callable[[], float | None]
"""Seconds until the machine is taken away; None: nobody says so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """`heard_s` is when the head answered last; `told`: that the machine is taken away has been passed on."""

    heard_s: float
    told: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Do:
    """`end` the machine now; or `drain` it, that is gone in so many seconds."""

    end: bool = False
    drain: float | None = None


def step(watch: Watch, *, heard: bool, notice_s: float | None, lease_s: float, now_s: float) -> tuple[Watch, Do]:
    """What is to be done at a look. A machine whose head is silent for `lease_s` ends; one that is taken away is drained once,
    and tried again until the head has heard that."""
    watch = replace(watch, heard_s=now_s) if heard else watch
    if now_s - watch.heard_s >= lease_s:
        return watch, Do(end=True)
    if notice_s is not None and heard and not watch.told:
        return watch, Do(drain=notice_s)
    return watch, Do()


def run(
    *,
    heard: Callable[[], bool],
    lease_s: float,
    every_s: float,
    notice: Notice,
    drain: Callable[[float], bool],
    end: Callable[[], bool],
    clock: Clock,
    wait: Callable[[float], None],
) -> None:
    """Until the machine has been ended: for `lease_s` seconds nothing was `heard`. `drain` says whether the head took it, `end`
    whether the machine ends: if not, each is tried again."""
    watch = Watch(heard_s=clock.elapsed_s())
    while True:
        watch, do = step(watch, heard=heard(), notice_s=notice(), lease_s=lease_s, now_s=clock.elapsed_s())
        if do.end and end():
            return
        if do.drain is not None:
            watch = replace(watch, told=drain(do.drain))
        wait(every_s)


def drained(head: str, port: int, seconds: float, *, node: str | None = None) -> bool:
    """Tell the head that a node, by default the one on this machine, will be gone in so many seconds. Whether it took it."""
    command = [sys.executable, "-m", "ray.scripts.scripts", "drain-node", f"--address={head}:{port}"]
    command += ["--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=its cloud takes the machine away"]
    command += [f"--deadline-remaining-seconds={max(1, round(seconds))}"]
    command += [] if node is None else [f"--node-id={node}"]
    return ran(command, timeout_s=60)


def ran(command: Sequence[str], *, timeout_s: float) -> bool:
    """Whether a command did what it is for."""
    try:
        return subprocess.run(command, stdout=subprocess.DEVNULL, timeout=timeout_s).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def notice_of(cloud: str | None, clock: Clock, base: str = "") -> Notice:
    """What the metadata service of "aws", "gcp" or "azure" says of its own machine; None: nothing. `base` is in place of its
    address.

    AWS: docs.aws.amazon.com/AWSEC2/latest/UserGuide/spot-instance-termination-notices.html. Google:
    cloud.google.com/compute/docs/instances/create-use-preemptible. Azure:
    learn.microsoft.com/azure/virtual-machines/linux/scheduled-events.
    """
    asks = {"aws": (_aws, "http://169.254.169.254"), "gcp": (_gcp, "http://metadata.google.internal")}
    asks["azure"] = (_azure, "http://169.254.169.254")
    if cloud is None:
        return lambda: None
    if cloud not in asks:
        raise InvalidInput(f"--cloud {cloud}: is none of {', '.join(asks)}")
    ask, own = asks[cloud]

    def notice() -> float | None:
        try:
            return ask(base or own, clock)
        except (ValueError, KeyError, TypeError):  # what is no answer is no notice: the lease goes on
            return None

    return notice


def _aws(base: str, clock: Clock) -> float | None:
    token = _ask(f"{base}/latest/api/token", {"X-aws-ec2-metadata-token-ttl-seconds": "60"}, method="PUT")
    said = token and _ask(f"{base}/latest/meta-data/spot/instance-action", {"X-aws-ec2-metadata-token": token})
    return _until(json.loads(said)["time"], clock) if said else None


def _gcp(base: str, clock: Clock) -> float | None:
    said = _ask(f"{base}/computeMetadata/v1/instance/preempted", {"Metadata-Flavor": "Google"})
    return GCP_NOTICE_S if said == "TRUE" else None


def _azure(base: str, clock: Clock) -> float | None:
    said = _ask(f"{base}/metadata/scheduledevents?api-version=2020-07-01", {"Metadata": "true"})
    for event in json.loads(said)["Events"] if said else ():
        if event["EventType"] == "Preempt":
            begins = event["NotBefore"]  # empty: it has begun
            return _until(parsedate_to_datetime(begins).isoformat(), clock) if begins else 0.0
    return None


def _until(moment: str, clock: Clock) -> float:
    return max(0.0, datetime.fromisoformat(moment).timestamp() - clock.now_us() / US_PER_S)


def _ask(url: str, headers: dict[str, str], method: str = "GET") -> str | None:
    """None: it does not say, as where there is no notice."""
    try:
        with urllib.request.urlopen(
            urllib.request.Request(url, headers=headers, method=method),
            timeout=ASK_S,
        ) as answer:
            return str(answer.read().decode())
    except (urllib.error.URLError, TimeoutError, OSError):
        return None
