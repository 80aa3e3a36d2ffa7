"""Settings: what is refused, and that secrets stay secret."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlplat.config import Environment, environment, load
from mlplat.errors import InvalidInput, NotYetAvailable, Refused
from tests.certificates import certificate

NOWHERE = Environment()
AWS = Environment(variables={"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"})


def test_the_default_is_a_local_folder_and_nothing_else() -> None:
    settings = load(NOWHERE)
    assert (settings.home, settings.ray, settings.online, settings.metadata) == (".mlplat", None, None, None)


def test_arguments_win_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLPLAT_HOME", "/from/environment")
    assert load(NOWHERE).home == "/from/environment"
    assert load(NOWHERE, home="/from/argument").home == "/from/argument"


def test_a_ray_client_address_is_refused_with_what_to_use_instead() -> None:
    with pytest.raises(Refused, match="ray job submit"):
        load(NOWHERE, ray="ray://head:10001")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({}, 'give online="redis://..." and metadata="postgresql://..."'),
        ({"online": "redis://r"}, 'give metadata="postgresql://..."'),
        ({"metadata": "postgresql://p"}, 'give online="redis://..."'),
    ],
)
def test_a_remote_home_without_server_stores_is_refused_by_name(arguments: dict[str, str], named: str) -> None:
    with pytest.raises(Refused, match="the embedded stores serve one machine") as caught:
        load(AWS, home="s3://bucket/home", **arguments)
    assert named in str(caught.value)


def test_a_missing_credential_is_named() -> None:
    with pytest.raises(InvalidInput, match="AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"):
        load(NOWHERE, home="s3://bucket/home", online="redis://r", metadata="postgresql://p")


def test_an_unknown_scheme_of_a_home_is_named() -> None:
    with pytest.raises(InvalidInput, match="'ftp'"):
        load(NOWHERE, home="ftp://host/home", online="redis://r", metadata="postgresql://p")


def test_what_is_not_in_this_release_says_so() -> None:
    with pytest.raises(NotYetAvailable, match="object storage"):
        load(AWS, home="s3://bucket/home", online="redis://r", metadata="postgresql://p")


def test_a_relative_home_inside_a_submitted_job_is_refused() -> None:
    inside = environment({"RAY_JOB_CONFIG_JSON_ENV_VAR": "{}"})
    with pytest.raises(Refused, match="MLPLAT_HOME"):
        load(inside, home="relative")
    assert load(inside, home="/absolute").home == "/absolute"


def test_a_relative_folder_on_each_machines_disk_is_refused() -> None:
    with pytest.raises(InvalidInput, match="scratch 'disk': give an absolute path"):
        load(NOWHERE, scratch="disk")
    assert load(NOWHERE, scratch="/local/disk").scratch == "/local/disk"


@pytest.mark.parametrize("scheme", ["redis", "rediss", "redis+cluster", "rediss+cluster"])
def test_a_redis_may_be_the_online_store(scheme: str) -> None:
    assert load(NOWHERE, online=f"{scheme}://r").online is not None


def test_a_wrong_online_url_is_refused() -> None:
    with pytest.raises(InvalidInput, match="online: the URL must begin with redis://, rediss://, redis\\+cluster://"):
        load(NOWHERE, online="memcached://m")


def test_answers_are_shared_by_one_redis_and_by_nothing_else() -> None:
    assert load(NOWHERE, shared_cache="rediss://:pw@r/1").shared_cache is not None
    for wrong in ("redis+cluster://:hunter2@r", "memcached://:hunter2@r"):
        with pytest.raises(
            InvalidInput, match=r"shared_cache: the URL must begin with redis:// or rediss://"
        ) as caught:
            load(NOWHERE, shared_cache=wrong)
        assert "hunter2" not in str(caught.value)


def test_a_wrong_metadata_url_is_refused() -> None:
    with pytest.raises(InvalidInput, match="sqlite:// or postgresql://"):
        load(NOWHERE, metadata="mysql://m")


def test_a_postgresql_may_hold_the_metadata_whatever_its_password() -> None:
    for url in ("postgresql://ann:p[w@host/db", "postgresql+psycopg://host/db"):
        assert load(NOWHERE, metadata=url).metadata is not None


def test_an_unknown_setting_is_named() -> None:
    with pytest.raises(InvalidInput, match="setting onlin"):
        load(NOWHERE, onlin="redis://r")


def test_a_password_in_a_url_is_never_shown() -> None:
    settings = load(NOWHERE, metadata="postgresql://user:hunter2@host/db", shared_cache="redis://:hunter2@host")
    assert "hunter2" not in repr(settings) + str(settings) + settings.model_dump_json()
    assert settings.metadata is not None
    assert "hunter2" in settings.metadata.get_secret_value()


def test_endpoints_listen_on_the_loopback_interface_unless_told() -> None:
    assert (load(environment({})).host, load(environment({})).tls) == ("127.0.0.1", None)
    assert load(environment({}), host="0.0.0.0").host == "0.0.0.0"
    for host in ("localhost", "::1", "1.2.3", ""):
        with pytest.raises(InvalidInput, match="give the IPv4 address of the interface"):
            load(environment({}), host=host)


def test_a_tls_file_holds_a_certificate_and_its_key_and_asks_nobody_for_a_password(tmp_path: Path) -> None:
    assert load(environment({}), tls=str(certificate(tmp_path))).tls is not None
    for wrong in (tmp_path / "ca.pem", tmp_path / "absent.pem", certificate(tmp_path, password=b"hunter2")):
        with pytest.raises(
            InvalidInput, match=r"this is no PEM file with a certificate, .*, and its private key"
        ) as told:
            load(environment({}), tls=str(wrong))
        assert ("its key has a password" in str(told.value)) == (wrong.name == "both.pem")
