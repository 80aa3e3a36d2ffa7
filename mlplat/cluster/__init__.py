"""Clusters of own machines that grow into the cloud when they are full: what `clusters/*.yaml` point to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlplat.cluster._ray.provider import Provider

__all__ = ["Provider"]


def __getattr__(name: str) -> Any:
    if name == "Provider":
        from mlplat.cluster._ray.provider import Provider

        return Provider
    raise AttributeError(name)
