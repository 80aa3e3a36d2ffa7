"""Where the record of a search is: a journal in the home, or the database that has the other records."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import sqlalchemy as sa
from optuna.storages import BaseStorage, RDBStorage

from mlplat.errors import unknown
from mlplat.metadata.database import engine_of, translated
from mlplat.train.search.journal import open_journal

SCHEMA = "mlplat_searches"


@contextmanager
def opened_storage(folder: Path, url: str | None, *, make: bool) -> Iterator[BaseStorage]:
    """With `make` it is made if it is not there, else that is `NotFound`. `url` is SQLAlchemy's, of a PostgreSQL. Optuna's tables
    have a schema of their own there: both it and MLflow call the table that has the version of theirs `alembic_version`."""
    if url is None:
        if not make and not (folder / "journal.log").exists():
            raise unknown("search", folder.name, [one.parent.name for one in folder.parent.glob("*/journal.log")])
        yield open_journal(folder / "journal.log")
        return
    own = f"{url}{'&' if '?' in url else '?'}options={quote(f'-csearch_path={SCHEMA}')}"
    with translated():
        engine = engine_of(url)
        with engine.begin() as connection:
            connection.execute(sa.text(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}"))
        engine.dispose()
        storage = RDBStorage(own, engine_kwargs={"pool_pre_ping": True})
    try:
        yield storage
    finally:
        storage.remove_session()
        storage.engine.dispose()
