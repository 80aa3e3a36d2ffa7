"""The database that records are kept in: how it is reached, and what its errors become."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mlplat.errors import InvalidInput, MlplatError, Unavailable

if TYPE_CHECKING:
    import sqlalchemy as sa
    from sqlalchemy.exc import SQLAlchemyError

BUSY_TIMEOUT_S = 30


def is_sqlite(url: str) -> bool:
    return url.startswith("sqlite")


def engine_of(url: str) -> sa.Engine:
    import sqlalchemy as sa

    arguments = {"timeout": BUSY_TIMEOUT_S} if is_sqlite(url) else {}
    # A server may have been away since the last call: a connection is tried before it is used.
    return sa.create_engine(url, connect_args=arguments, pool_pre_ping=not is_sqlite(url))


def make_tables(engine: sa.Engine, tables: sa.MetaData) -> None:
    """Where they are not there. One process at a time may call this."""
    import sqlalchemy as sa

    if engine.dialect.name == "sqlite":  # kept in the file: readers of every process then never wait for a writer
        with engine.connect() as connection:
            connection.execute(sa.text("PRAGMA journal_mode = WAL"))
    tables.create_all(engine)


@contextmanager
def translated() -> Iterator[None]:
    """SQLAlchemy's errors as ours."""
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except SQLAlchemyError as error:
        raise of_database(error) from error


def of_database(error: SQLAlchemyError) -> MlplatError:
    """In the words of the database alone: SQLAlchemy adds the statement and its values."""
    from sqlalchemy.exc import DataError, DBAPIError

    said = " ".join(str(error.orig).split()) if isinstance(error, DBAPIError) else first_line(error)
    if isinstance(error, DataError):
        return InvalidInput(f"The metadata database refused a value: {said}")
    return Unavailable(f"The metadata database is not to be used now: {said}")


def first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
