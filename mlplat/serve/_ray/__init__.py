"""The rig on Ray Serve: `ingress` is the replica that callers reach, `backbones` are versions in processes of their own,
`control` changes what is served."""

from __future__ import annotations

from mlplat.serve._ray.control import change, check_served, deploy, flush_log, undeploy

__all__ = ["change", "check_served", "deploy", "flush_log", "undeploy"]
