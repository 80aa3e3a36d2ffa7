"""Clusters of own machines that grow into the cloud when they are full: what `clusters/*.yaml` point to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlplat.cluster._ray.provider import Provider
    from mlplat.jobs._ray.cloud import own_first

__all__ = ["Provider", "own_first"]


def __getattr__(name: str) -> Any:
    if name == "Provider":
        from mlplat.cluster._ray.provider import Provider

        return Provider
    if name == "own_first":
        from mlplat.jobs._ray.cloud import own_first

        return own_first
    raise AttributeError(name)
