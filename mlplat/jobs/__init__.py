"""The queue for a cluster's machines: what work asks of them, and who gets what."""

from __future__ import annotations

from mlplat.jobs.job import Tenant
from mlplat.jobs.lease import GaveWay, Lease
from mlplat.jobs.policy import Policy
from mlplat.jobs.queue import Jobs
from mlplat.jobs.rules import Rules

__all__ = ["GaveWay", "Jobs", "Lease", "Policy", "Rules", "Tenant"]
