"""Files of events, on this machine or at a URL: Parquet and CSV, folders with partitions, patterns. Read in pieces."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

import fsspec
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.fs as pafs

from mlplat.config import environment, missing_credential
from mlplat.errors import InvalidInput

# Pre-buffering would keep all of a file in memory until its end.
_PIECES = ds.ParquetFileFormat(pre_buffer=False, use_buffered_stream=True, buffer_size=1 << 20)
_PARQUET, _CSV = (".parquet", ".parq", ".pq"), (".csv",)
_NULL_PARTITION = "__HIVE_DEFAULT_PARTITION__"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Files:
    """Files of one kind; `base` is the folder below which `name=value` folders are columns, None for a single file."""

    where: str
    system: pafs.FileSystem
    paths: Sequence[str]
    base: str | None


def read_files(where: str, rows: int) -> Iterator[pl.DataFrame]:
    """The rows of the file, folder or pattern `where`, files in order of their names. Raises `InvalidInput`."""
    try:
        found = _find(where)
        csv = found.paths[0].endswith(_CSV)
        yield from _csv(found, rows) if csv else _parquet(found, rows)
    except (pa.ArrowException, pl.exceptions.PolarsError, OSError, ImportError, ValueError) as error:
        raise InvalidInput(f"{where!r} cannot be read: {error}") from None


def parquet(where: str) -> ds.Dataset | None:
    """The Parquet files at `where`, in order of their names, as one data set; None if they are CSV. Raises `InvalidInput`."""
    try:
        found = _find(where)
        return None if found.paths[0].endswith(_CSV) else _dataset(found, _schema(_dataset(found, None)))
    except (pa.ArrowException, OSError, ImportError, ValueError) as error:
        raise InvalidInput(f"{where!r} cannot be read: {error}") from None


def _find(where: str) -> _Files:
    system, path = file_system(where)
    whole, base = PurePosixPath(path), path
    if globbed := re.search(r"[*?\[]", path):
        base = path[: globbed.start()].rpartition("/")[0] or ("/" if path.startswith("/") else ".")
    info = system.get_file_info(base)
    if info.type == pafs.FileType.NotFound:
        raise InvalidInput(f"there is no file or folder {where!r}")
    if info.type == pafs.FileType.File:
        return _Files(where=where, system=system, paths=[path], base=None)
    listed = system.get_file_info(pafs.FileSelector(base, recursive=True))
    files = sorted(f.path for f in listed if f.type == pafs.FileType.File)
    if any("/_delta_log/" in f for f in files):
        raise InvalidInput(
            f"{where!r} is a Delta table, whose folder holds rows that were deleted, too: hand in "
            "deltalake.DeltaTable(...).to_pyarrow_dataset()"
        )
    wanted = _pattern(str(whole)) if globbed else None
    mine = [f for f in files if not _hidden(f, base) and (wanted is None or wanted.fullmatch(f))]
    return _Files(where=where, system=system, paths=_of_one_kind(where, system, mine), base=base)


def _of_one_kind(where: str, system: pafs.FileSystem, paths: Sequence[str]) -> Sequence[str]:
    # Hive writes files without an ending, as in `000000_0`.
    heads = {path: _head(system, path) for path in paths if not PurePosixPath(path).suffix}
    if orc := next((path for path, head in heads.items() if head.startswith(b"ORC")), None):
        raise InvalidInput(
            f"{where!r} has files in ORC, which is not read, such as {orc!r}: hand in the table as a Spark DataFrame, "
            "spark.table(...), or have it written as Parquet"
        )
    parquet = [path for path in paths if path.endswith(_PARQUET) or heads.get(path) == b"PAR1"]
    csv = [path for path in paths if path.endswith(_CSV)]
    if parquet and csv:
        raise InvalidInput(f"{where!r} has Parquet files and CSV files: give a pattern for one kind, as in '**/*.csv'")
    if not parquet and not csv:
        raise InvalidInput(f"{where!r} has no .parquet or .csv file")
    return parquet or csv


def _head(system: pafs.FileSystem, path: str) -> bytes:
    with system.open_input_stream(path) as file:
        return bytes(file.read(4))


def _hidden(path: str, base: str) -> bool:
    """What writers of folders put beside the data, such as `_SUCCESS`."""
    return any(part.startswith(("_", ".")) for part in PurePosixPath(path).relative_to(base).parts)


def _pattern(text: str) -> re.Pattern[str]:
    """`*` and `?` within a folder, `**` across folders, `[...]` as in a shell."""
    made, at = "", 0
    for found in re.finditer(r"\*\*/|\*\*|\*|\?|\[[^\]]+\]", text):
        made += re.escape(text[at : found.start()])
        kinds = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
        made += kinds.get(found[0]) or found[0].replace("[!", "[^")
        at = found.end()
    return re.compile(made + re.escape(text[at:]))


def file_system(where: str) -> tuple[pafs.FileSystem, str]:
    """The file system of a path or URL, and the path there."""
    scheme, _, rest = where.rpartition("://")
    if not scheme or scheme == "file":
        return pafs.LocalFileSystem(), str(Path(rest).expanduser())
    variables = environment().variables
    if remedy := missing_credential(scheme, variables):
        raise InvalidInput(f"{where!r}: {remedy}")
    if scheme == "s3":
        endpoint = variables.get("AWS_ENDPOINT_URL_S3") or variables.get("AWS_ENDPOINT_URL")
        region = variables.get("AWS_REGION") or variables.get("AWS_DEFAULT_REGION")
        return pafs.S3FileSystem(endpoint_override=endpoint, region=region), rest.rstrip("/")
    if scheme == "gs":
        system, path = pafs.FileSystem.from_uri(where)
        return system, path.rstrip("/")
    if scheme == "hdfs":
        return _hadoop(where, rest)
    system, path = fsspec.core.url_to_fs(where)
    return pafs.PyFileSystem(pafs.FSSpecHandler(system)), path


def _hadoop(where: str, rest: str) -> tuple[pafs.FileSystem, str]:
    """`rest` is `[user@][host[:port]]/path`. No host is Hadoop's `fs.defaultFS`; a nameservice is a host without a port."""
    authority, _, path = rest.partition("/")
    user, _, place = authority.rpartition("@")
    host, _, port = place.partition(":")
    try:
        system = pafs.HadoopFileSystem(host or "default", int(port or 0), user=user or None)
    except OSError as error:
        raise InvalidInput(
            f"{where!r} cannot be reached: {str(error).splitlines()[0]}. Arrow reads HDFS through Hadoop's own client: set "
            "JAVA_HOME, HADOOP_HOME (or ARROW_LIBHDFS_DIR, the folder of libhdfs.so), and CLASSPATH to what "
            "`hadoop classpath --glob` prints"
        ) from None
    return system, f"/{path}".rstrip("/") or "/"


def _parquet(found: _Files, rows: int) -> Iterator[pl.DataFrame]:
    """A column that a file lacks is null there; whole numbers and floats together are floats."""
    schema = _schema(_dataset(found, None))
    batches = _dataset(found, schema).to_batches(batch_size=rows, fragment_readahead=1, batch_readahead=2)
    yield pl.DataFrame(schema.empty_table())
    for batch in batches:
        frame = pl.from_arrow(batch)
        assert isinstance(frame, pl.DataFrame)
        yield frame


def _schema(found: ds.Dataset) -> pa.Schema:
    """Of all its files together."""
    schemas = [found.schema, *(fragment.physical_schema for fragment in found.get_fragments())]
    return pa.unify_schemas(schemas, promote_options="permissive")


def _dataset(found: _Files, schema: pa.Schema | None) -> ds.Dataset:
    partitioning = None if found.base is None else "hive"
    paths = list(found.paths)
    return ds.dataset(paths, schema, format=_PIECES, filesystem=found.system, partitioning=partitioning)


def _csv(found: _Files, rows: int) -> Iterator[pl.DataFrame]:
    """Types are those that all rows of all files have."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [_local(found.system, path, Path(folder) / f"{at}.csv") for at, path in enumerate(found.paths)]
        scan = pl.scan_csv(
            paths,
            infer_schema_length=None,
            infer_schema_files=len(paths),
            try_parse_dates=True,
            glob=False,
            include_file_paths="_path",
        )
        for frame in scan.collect_batches(chunk_size=rows, maintain_order=True):
            yield _with_partitions(frame, found, paths)


def _local(system: pafs.FileSystem, path: str, copy: Path) -> str:
    if isinstance(system, pafs.LocalFileSystem):
        return path
    with system.open_input_stream(path) as source, copy.open("wb") as target:
        while block := source.read(1 << 20):
            target.write(block)
    return str(copy)


def _with_partitions(frame: pl.DataFrame, found: _Files, paths: Sequence[str]) -> pl.DataFrame:
    values = [{"_path": path, **_partition(given, found.base)} for path, given in zip(paths, found.paths, strict=True)]
    columns = pl.DataFrame(values, infer_schema_length=None, strict=False)
    return frame.join(columns, on="_path", how="left", maintain_order="left").drop("_path")


def _partition(path: str, base: str | None) -> dict[str, Any]:
    if base is None:
        return {}
    parts = [part.partition("=") for part in PurePosixPath(path).relative_to(base).parts[:-1]]
    return {name: _partition_value(unquote(value)) for name, equals, value in parts if equals}


def _partition_value(text: str) -> int | str | None:
    if text == _NULL_PARTITION:
        return None
    return int(text) if re.fullmatch(r"-?\d{1,9}", text) else text
