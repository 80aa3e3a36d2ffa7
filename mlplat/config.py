"""Settings, and the only place that reads the environment."""

from __future__ import annotations

import ipaddress
import os
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from mlplat.errors import InvalidInput, NotYetAvailable, Refused

# What each remote scheme cannot do without, by environment variable. Profiles and instance roles stand in for the S3 pair.
CREDENTIALS: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "s3": (
        ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
        ("AWS_PROFILE",),
        ("AWS_WEB_IDENTITY_TOKEN_FILE",),
        ("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",),
    ),
    "gs": (("GOOGLE_APPLICATION_CREDENTIALS",), ("GOOGLE_SERVICE_ACCOUNT",)),
}

CARRIED = ("KERAS_BACKEND",)
"""Variables that must be the same wherever a user's code runs."""

ONLINE_SCHEMES = ("redis", "rediss", "redis+cluster", "rediss+cluster")
"""A Redis or a Redis Cluster; with TLS where there are two s."""

CACHE_SCHEMES = ("redis", "rediss")
"""A look that is to be short goes to one server, and not to the nodes of a cluster."""

METADATA_SCHEMES = ("sqlite", "postgresql", "postgresql+psycopg")
"""The last as MLflow and SQLAlchemy know it."""

LOOPBACK = "127.0.0.1"
"""Where only programs of this machine reach what listens."""


class Settings(BaseSettings):
    """Names storage, Ray, the online store, metadata, the cache that endpoints share, for which `tenant` the process works, and
    where endpoints listen: on `host`, with the certificates and key of the PEM file `tls`. `scratch` is a folder of the own
    disk of each machine, and `place` where the home's data are, by the name that a cluster's prices have for it. Arguments win
    over `MLPLAT_*` variables, these over the defaults.

    The URLs are secret: a password in them is never shown by `repr`, stored or logged; `str` of one gives stars.
    """

    model_config = SettingsConfigDict(env_prefix="MLPLAT_", frozen=True, extra="forbid")

    home: str = ".mlplat"
    ray: str | None = None
    online: SecretStr | None = None
    metadata: SecretStr | None = None
    shared_cache: SecretStr | None = None
    host: str = LOOPBACK
    tls: str | None = None
    scratch: str | None = None
    tenant: str = "default"
    place: str | None = None

    @property
    def remote(self) -> bool:
        return "://" in self.home

    @property
    def home_path(self) -> Path:
        return Path(self.home).expanduser().resolve()


class Environment(BaseModel):
    """What mlplat wants to know of the process it runs in."""

    model_config = ConfigDict(frozen=True)

    in_job: bool = False
    """Inside a job submitted to a Ray cluster: the working directory is a copy that is thrown away."""
    variables: Mapping[str, str] = {}


def environment(variables: Mapping[str, str] | None = None) -> Environment:
    values = dict(os.environ) if variables is None else dict(variables)
    return Environment(in_job="RAY_JOB_CONFIG_JSON_ENV_VAR" in values, variables=values)


def set_environment(variables: Mapping[str, str], *, override: bool = False) -> None:
    """Set variables for this process and its children. Values that are already there stay, unless told otherwise."""
    for name, value in variables.items():
        if override or name not in os.environ:
            os.environ[name] = value


@contextmanager
def in_environment(variables: Mapping[str, str]) -> Iterator[None]:
    """As `set_environment`, for as long as the block runs."""
    added = [name for name in variables if name not in os.environ]
    set_environment(variables)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


def carried(env: Environment) -> dict[str, str]:
    """What the user's code finds in this process's environment, and needs to find on workers."""
    return {name: env.variables[name] for name in CARRIED if name in env.variables}


def load(env: Environment | None = None, **arguments: Any) -> Settings:
    """Settings from arguments and environment, checked.

    Raises `InvalidInput` for a wrong value, `Refused` for a combination that would lose data, `NotYetAvailable` for what is
    not in this release.
    """
    env = environment() if env is None else env
    try:
        settings = Settings(**{name: value for name, value in arguments.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        raise InvalidInput(f"setting {'.'.join(str(p) for p in first['loc'])}: {first['msg']}") from None
    check(settings, env)
    return settings


def check(settings: Settings, env: Environment) -> None:
    _check_ray(settings)
    _check_home(settings, env)
    _check_stores(settings)
    _check_scratch(settings)
    _check_endpoint(settings)


def _check_ray(settings: Settings) -> None:
    if settings.ray is not None and settings.ray.startswith("ray://"):
        raise Refused(
            f"ray={settings.ray!r} is a Ray Client address, which cannot carry training and search. From outside use\n"
            f"    ray job submit --address http://HEAD:8265 --working-dir . -- python your_script.py\n"
            'and in the script connect(..., ray="auto").'
        )


def _check_home(settings: Settings, env: Environment) -> None:
    if settings.remote:
        _check_remote(settings, env)
    elif env.in_job and not Path(settings.home).expanduser().is_absolute():
        raise Refused(
            f"home {settings.home!r} is relative, and this script runs as a submitted job, whose working directory is a "
            "copy that is deleted with the job. Give an absolute path that outlives it, or set MLPLAT_HOME."
        )


def _check_remote(settings: Settings, env: Environment) -> None:
    missing = [
        f'{name}="{example}"'
        for name, example, value in (
            ("online", "redis://...", settings.online),
            ("metadata", "postgresql://...", settings.metadata),
        )
        if value is None
    ]
    if missing:
        raise Refused(
            f"home {settings.home!r} is remote, and the embedded stores serve one machine: "
            f"give {' and '.join(missing)} too."
        )
    scheme = urlsplit(settings.home).scheme
    ways = CREDENTIALS.get(scheme)
    if ways is None:
        raise InvalidInput(f"home {settings.home!r}: the scheme {scheme!r} is not one of {', '.join(CREDENTIALS)}.")
    if remedy := missing_credential(scheme, env.variables):
        raise InvalidInput(f"home {settings.home!r}: {remedy}")
    raise NotYetAvailable(
        f"home {settings.home!r}: homes on object storage are not in this release; use a local folder."
    )


def missing_credential(scheme: str, variables: Mapping[str, str]) -> str | None:
    """What to set so that URLs of a scheme can be opened; None if nothing that is known of is missing."""
    ways = CREDENTIALS.get(scheme, ())
    if not ways or any(all(variables.get(name) for name in way) for way in ways):
        return None
    others = "".join(f", or {' and '.join(way)}" for way in ways[1:])
    return f"no credential in the environment. Set {' and '.join(ways[0])}{others}."


def _check_stores(settings: Settings) -> None:
    if settings.online is not None and _scheme(settings.online) not in ONLINE_SCHEMES:
        raise InvalidInput(f"online: the URL must begin with {', '.join(f'{s}://' for s in ONLINE_SCHEMES)}.")
    if settings.metadata is not None and _scheme(settings.metadata) not in METADATA_SCHEMES:
        raise InvalidInput("metadata: the URL must begin with sqlite:// or postgresql://.")
    if settings.shared_cache is not None and _scheme(settings.shared_cache) not in CACHE_SCHEMES:
        raise InvalidInput(
            "shared_cache: the URL must begin with redis:// or rediss://, for one server: no Redis Cluster."
        )


def _check_scratch(settings: Settings) -> None:
    if settings.scratch is not None and not Path(settings.scratch).is_absolute():
        raise InvalidInput(f"scratch {settings.scratch!r}: give an absolute path, which is a folder of every machine.")


def _check_endpoint(settings: Settings) -> None:
    try:
        ipaddress.IPv4Address(settings.host)
    except ValueError:
        raise InvalidInput(
            f"host {settings.host!r}: give the IPv4 address of the interface that endpoints listen on; 0.0.0.0 is all of them."
        ) from None
    if settings.tls is None:
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(settings.tls, password=_no_password)
    except (OSError, ssl.SSLError, InvalidInput) as error:
        raise InvalidInput(
            f"tls {settings.tls!r}: this is no PEM file with a certificate, those that vouch for it, and its private key without "
            f"a password ({error})"
        ) from None


def _no_password() -> str:
    raise InvalidInput("its key has a password")  # else OpenSSL asks at the terminal, and waits


def _scheme(url: SecretStr) -> str:
    return url.get_secret_value().partition("://")[0]  # urlsplit trips over a [ in a password
