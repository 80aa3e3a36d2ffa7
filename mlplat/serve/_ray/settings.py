"""What all of the rig's deployments share."""

from __future__ import annotations

import logging

from ray.serve.schema import LoggingConfig

APPLICATION = "mlplat"
READY_S = 60.0
QUIET = LoggingConfig(log_level="WARNING", enable_access_log=False)

logging.getLogger("ray.serve").setLevel(logging.WARNING)
