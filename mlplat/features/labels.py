"""Labels coming in, and training sets going out: which column plays which part, and the file that workers map."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson
import polars as pl
import pyarrow as pa

from mlplat.disk import sync, write_atomically
from mlplat.errors import BatchRefused, InvalidInput, Problem
from mlplat.features.tables import locked
from mlplat.features.training_set import TrainingSet
from mlplat.features.validate import normal, to_frame
from mlplat.model.signature import DType, FeatureRef, Field

_DTYPES: Mapping[pl.DataType, DType] = {
    pl.Float64(): "float64",
    pl.Int64(): "int64",
    pl.String(): "string",
    pl.Boolean(): "bool",
    pl.Datetime("us", "UTC"): "timestamp",
}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,199}")


def to_polars(frame: Any) -> pl.DataFrame:
    return to_frame(frame)


def with_time(frame: pl.DataFrame, time: str) -> pl.DataFrame:
    """`time` in microseconds UTC. Raises `InvalidInput` if it is missing, naive, no timestamp, or null somewhere."""
    if time not in frame.columns:
        raise InvalidInput(f"the rows have no time column {time!r}; they have {', '.join(frame.columns)}")
    dtype = frame.schema[time]
    if not isinstance(dtype, pl.Datetime) or dtype.time_zone is None:
        raise InvalidInput(
            f"column {time!r} is {dtype}; a time is a timestamp with a zone, as from .dt.replace_time_zone('UTC')"
        )
    _refuse_nulls(frame, time, "the time")
    return frame.with_columns(pl.col(time).dt.convert_time_zone("UTC").dt.cast_time_unit("us"))


def checked(name: str, frame: pl.DataFrame, label: str, time: str) -> pl.DataFrame:
    """The labels in normal form, if each row has one."""
    if _NAME.fullmatch(name) is None:
        raise InvalidInput(
            f"training set name {name!r}: use letters, digits, _, - and ., beginning with a letter or digit"
        )
    frame = normal(frame)
    if label not in frame.columns:
        raise InvalidInput(f"the labels have no column {label!r}; they have {', '.join(frame.columns)}")
    if frame.is_empty():
        raise InvalidInput("there are no labels: a training set needs at least one row")
    if label == time:
        raise InvalidInput(f"label and time are both {label!r}")
    _refuse_nulls(frame, label, "the label")
    return frame


def _refuse_nulls(frame: pl.DataFrame, name: str, what: str) -> None:
    at = frame[name].is_null().arg_true()
    if len(at):
        problem = Problem(
            field=name, message=f"{what} is null; leave such rows out", rows=tuple(at.head(5)), count=len(at)
        )
        raise BatchRefused("the training set", [problem])


@dataclass(frozen=True, slots=True, kw_only=True)
class Roles:
    """Which column is what."""

    name: str
    label: str
    time: str
    entities: tuple[Field, ...]
    request: tuple[Field, ...]
    features: tuple[FeatureRef, ...]

    @classmethod
    def of(
        cls,
        joined: pl.DataFrame,
        name: str,
        features: Sequence[FeatureRef],
        label: str,
        time: str,
        request: Sequence[str] | None,
    ) -> Roles:
        keys = list(dict.fromkeys(key for ref in features for key in ref.keys))
        made = {column for ref in features for column in ref.columns()}
        if request is None:
            request = [c for c in joined.columns if c not in {*keys, *made, label, time}]
        for column in request:
            if column not in joined.columns or column in made:
                raise InvalidInput(f"request field {column!r} is no column of the labels")
            if column in (label, time):
                raise InvalidInput(
                    f"request field {column!r} is the {'label' if column == label else 'time'}; a caller cannot send it"
                )
        return cls(
            name=name,
            label=label,
            time=time,
            # An entity may be unknown, and then be null: its features are what an entity without data has.
            entities=tuple(replace(_field(joined, key), required=False) for key in keys),
            request=tuple(_field(joined, column) for column in request),
            features=tuple(features),
        )

    def columns(self) -> list[str]:
        names = [f.name for f in self.entities] + [self.time, self.label] + [f.name for f in self.request]
        return list(dict.fromkeys([*names, *(column for ref in self.features for column in ref.columns())]))


def _field(frame: pl.DataFrame, name: str) -> Field:
    dtype = _DTYPES.get(frame.schema[name])
    if dtype is None:
        raise InvalidInput(f"column {name!r} is {frame.schema[name]}, which a model cannot take: cast it")
    # A caller may leave out what was null in training, and must give what never was.
    return Field(name=name, dtype=dtype, required=frame[name].null_count() == 0)


def write(folder: Path, joined: pl.DataFrame, roles: Roles, data_versions: Mapping[str, int]) -> TrainingSet:
    """Store the table under its content's hash; the same content is stored once."""
    columns = joined.select(roles.columns()).rechunk()
    snapshot = _hash(columns, roles.features)
    table = columns.to_arrow(compat_level=pl.CompatLevel.oldest())
    path = folder / f"{snapshot}.arrow"
    with locked(folder / "lock"):
        if not path.exists():
            partial = folder / f".new-{snapshot}"
            with pa.OSFile(str(partial), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
                writer.write_table(table)
            sync(partial)
            partial.replace(path)
    data = TrainingSet(
        name=roles.name,
        path=path,
        rows=table.num_rows,
        label=roles.label,
        time=roles.time,
        entities=roles.entities,
        request=roles.request,
        features=roles.features,
        snapshot=snapshot,
        data_versions=dict(data_versions),
    )
    write_atomically(folder / f"{snapshot}.json", orjson.dumps(data.to_json(), option=orjson.OPT_INDENT_2))
    return data


def _hash(table: pl.DataFrame, features: Sequence[FeatureRef]) -> str:
    """Of the values alone: how they lie in memory, and what lies under a null, does not matter."""
    digest = hashlib.blake2b(digest_size=12)
    for ref in features:
        digest.update(f"{ref.view}@{ref.version};".encode())
    for column in table:
        digest.update(f"{column.name}:{column.dtype};".encode())
        digest.update(column.is_null().to_numpy().tobytes())
        if column.dtype == pl.String:
            texts = column.fill_null("")
            digest.update(texts.str.len_bytes().to_numpy().tobytes() + "".join(texts.to_list()).encode())
        else:
            plain = column.to_physical()
            digest.update(plain.fill_null(False if plain.dtype == pl.Boolean else 0).to_numpy().tobytes())
    return digest.hexdigest()
