"""What the URL of a PostgreSQL needs. Its driver is the extra `mlplat[postgresql]`."""

from __future__ import annotations

from mlplat.errors import InvalidInput

# Where the URL does not say otherwise. A machine that lost its power refuses nothing and closes nothing: without limits a call
# to it waits for hours.
LIMITS = {"connect_timeout": "5", "keepalives_idle": "5", "keepalives_interval": "5", "tcp_user_timeout": "10000"}

_FORM = (
    "metadata: the URL must be postgresql://user:password@host:port/database, with @ in a user or a password written as "
    "%40, and % as %25."
)


def is_postgres(url: str) -> bool:
    return url.startswith("postgresql")


def driver_url(url: str) -> str:
    """`url` as SQLAlchemy and MLflow take it: both would load psycopg2. One of another database stays as it is."""
    if not is_postgres(url):
        return url
    try:
        import psycopg  # noqa: F401
    except ImportError:
        raise InvalidInput("metadata=...: PostgreSQL needs its library: pip install 'mlplat[postgresql]'") from None
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    if url.count("@") > 1:  # half of the password would be taken for the host, and shown as that
        raise InvalidInput(_FORM)
    try:
        given = make_url(url)
    except (ArgumentError, ValueError):  # what they say may have a part of the password
        raise InvalidInput(_FORM) from None
    limited = given.set(drivername="postgresql+psycopg", query={**LIMITS, **given.query})
    return limited.render_as_string(hide_password=False)
