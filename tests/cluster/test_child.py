"""What an error of a cloud's client says of whether a machine may have been made."""

from __future__ import annotations

import pytest

from mlplat.cluster.site import NoCapacity, Unknown
from mlplat.errors import InvalidInput, Unavailable

pytestmark = pytest.mark.slow  # Ray takes seconds to import


def test_only_what_may_have_been_done_is_unknown() -> None:
    from botocore.exceptions import (
        ConnectTimeoutError,
        EndpointConnectionError,
        NoCredentialsError,
        PartialCredentialsError,
        ReadTimeoutError,
    )
    from ray.autoscaler.node_launch_exception import NodeLaunchException

    from mlplat.cluster._ray.child import _told

    url = "https://ec2.eu-central-1.amazonaws.com"
    none = (None, None, None)
    for error, kind in (
        (NodeLaunchException("InsufficientInstanceCapacity", "none", none), NoCapacity),
        (NodeLaunchException("RequestLimitExceeded", "later", none), Unavailable),
        (NodeLaunchException("InvalidAMIID.NotFound", "wrong", none), InvalidInput),
        (NodeLaunchException("InternalError", "?", none), Unknown),
        (NoCredentialsError(), InvalidInput),
        (PartialCredentialsError(provider="env", cred_var="AWS_SECRET_ACCESS_KEY"), InvalidInput),
        (EndpointConnectionError(endpoint_url=url), Unavailable),
        (ConnectTimeoutError(endpoint_url=url), Unavailable),
        (ReadTimeoutError(endpoint_url=url), Unknown),
        (ValueError("?"), Unknown),
    ):
        assert type(_told(error)) is kind, error
