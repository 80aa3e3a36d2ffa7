"""Sites whose machines Ray's own providers make: AWS, Google, Azure, and whatever else Ray has one for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ray.autoscaler.node_launch_exception import NodeLaunchException
from ray.autoscaler.node_provider import NodeProvider

from mlplat.cluster.site import LAUNCH, NoCapacity, Seen, Unknown
from mlplat.errors import InvalidInput, Unavailable

# What clouds say, by parts of their error codes. EC2: docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html
_NONE = (
    "InsufficientInstanceCapacity",
    "InsufficientHostCapacity",
    "InsufficientReservedInstanceCapacity",
    "SpotMaxPriceTooLow",
    "MaxSpotInstanceCountExceeded",
    "InstanceLimitExceeded",
    "VcpuLimitExceeded",
    "Unsupported",
    "ZONE_RESOURCE_POOL_EXHAUSTED",
    "QUOTA_EXCEEDED",
    "SkuNotAvailable",
    "AllocationFailed",
    "OverconstrainedAllocationRequest",
)
_LATER = (
    "RequestLimitExceeded",
    "Throttling",
    "TooManyRequests",
    "rateLimitExceeded",
    "ServiceUnavailable",
    "Unavailable",
)
_WRONG = (
    "Invalid",
    "Unauthorized",
    "AuthFailure",
    "Missing",
    "Malformed",
    "UnknownParameter",
    "OptInRequired",
    "Forbidden",
    "Credential",  # botocore's NoCredentialsError and its like, google.auth's DefaultCredentialsError
    "ClientAuthenticationError",
)
_UNHEARD = ("EndpointConnectionError", "ConnectTimeoutError", "ProxyConnectionError", "ServiceRequestError")
"""What clients raise where the cloud never got the request. A read that timed out is none: the cloud may have done it."""


class Child:
    """`Site` of a provider of Ray's (2.60), with the tags that a machine has there."""

    def __init__(self, provider: NodeProvider) -> None:
        self.provider = provider
        self._listed: frozenset[str] = frozenset()

    def machines(self) -> Mapping[str, Seen]:
        try:
            names = self.provider.non_terminated_nodes({})
            self._listed = frozenset(names)
            return {n: Seen(tags=self.provider.node_tags(n), running=self.provider.is_running(n)) for n in names}
        except Exception as error:  # each provider has its own
            raise Unavailable(f"its machines cannot be listed: {_first_line(error)}") from error

    def create(self, node: Mapping[str, Any], tags: Mapping[str, str], count: int) -> Sequence[str]:
        try:
            made = self.provider.create_node_with_resources_and_labels(dict(node), dict(tags), count, {}, {})
            return list(made) if made else self.provider.non_terminated_nodes({LAUNCH: tags[LAUNCH]})
        except Exception as error:  # each provider has its own
            raise _told(error) from error

    def terminate(self, names: Sequence[str]) -> None:
        try:
            self.provider.terminate_nodes(list(names))
        except Exception as error:  # each provider has its own
            raise Unavailable(f"{', '.join(names)} could not be ended: {_first_line(error)}") from error

    def address(self, name: str) -> str:
        found = self.provider.internal_ip(name)
        if not found:
            raise Unavailable(f"{name} has no address yet")
        return str(found)

    def tag(self, name: str, tags: Mapping[str, str]) -> None:
        if name not in self._listed:  # EC2's tags only what it has listed: it fails once, and then waits for ever
            self.machines()
        try:
            self.provider.set_node_tags(name, dict(tags))
        except Exception as error:  # each provider has its own
            raise Unavailable(f"{name} could not be tagged: {_first_line(error)}") from error


def _told(error: Exception) -> NoCapacity | Unavailable | InvalidInput | Unknown:
    """Whether a machine may have been made: only where the cloud, or its client, gave a code that says why not, none was."""
    code = error.category if isinstance(error, NodeLaunchException) else type(error).__name__
    said = _first_line(error)
    if any(part in code for part in _NONE):
        return NoCapacity(said)
    if any(part in code for part in (*_LATER, *_UNHEARD)):
        return Unavailable(said)
    if any(part in code for part in _WRONG):
        return InvalidInput(said)
    return Unknown(said)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
