"""The pipeline's data: where it is, and a check of it before any work.

Two sources share one shape (rows.py): the Chicago trips that ship in the tfx package, and CSV files with the
columns of the Taxi Fare course. Pure, so that wrong data is refused before TFX is even imported; the
component that reads all rows is in example_gen.py.
"""

import csv
import dataclasses
import fnmatch
import importlib.util
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from taxi_fare import rows
from taxi_fare.rows import Row, Source
from tfx_mobile.common.errors import ConfigError, DataError

TRAIN_SPLIT, EVAL_SPLIT = "train", "eval"
_ROWS_CHECKED_FIRST = 1000


@dataclasses.dataclass(frozen=True)
class Data:
    """A data set that was looked at and found usable.

    Attributes:
      folder: Local folder or URI that the patterns are relative to.
      splits: Split name to file pattern; a single pattern named 'all' is split 2:1 by the hash of the row.
      source: How columns become features.
      name: What to call it to a reader.
      slug: What tells models of these rows from those of others, of a-z, 0-9 and '-'; empty for the embedded.
    """

    folder: str
    splits: tuple[tuple[str, str], ...]
    source: Source
    name: str
    slug: str = ""


def chicago() -> Data:
    """Returns the Chicago taxi trips that ship in the tfx package (9,909 train and 5,091 eval rows)."""
    spec = importlib.util.find_spec("tfx")
    if spec is None or spec.origin is None:
        raise ConfigError("The package tfx must be installed; it was not found. Run make setup.")
    folder = Path(spec.origin).parent / "components" / "testdata" / "csv_example_gen"
    return Data(
        folder=str(folder),
        splits=((TRAIN_SPLIT, "Split-train/*"), (EVAL_SPLIT, "Split-eval/*")),
        source=rows.CHICAGO_SOURCE,
        name="Chicago taxi trips (in the tfx package)",
    )


def csv_folder(folder: Path, columns: Mapping[str, tuple[str, ...]] | None = None) -> Data:
    """Returns the CSV files of a folder, after reading the header and the first rows of each one used.

    Files named *train* are training data and files named *valid* (or else *eval*, or else *test*) are
    evaluation data; without such names all rows are split 2:1 by their hash.

    Args:
      folder: Has at least one .csv file.
      columns: Feature name to possible column names, in place of the default mapping's entry.

    Raises:
      ConfigError: The folder does not exist or has no CSV file, or a file is in both splits by its name.
      DataError: A file is empty, lacks a column, or holds something that cannot be read.
    """
    if not folder.is_dir():
        raise ConfigError(f"DATA must be a folder with CSV files; got {folder}, which does not exist.")
    files = sorted(folder.glob("*.csv"))
    if not files:
        others = ", ".join(sorted(p.name for p in folder.iterdir())[:5])
        raise ConfigError(f"DATA must be a folder with CSV files; {folder} has {others or 'nothing in it'}.")
    source = dataclasses.replace(rows.CSV_SOURCE, columns=rows.CSV_SOURCE.columns | dict(columns or {}))
    splits = _splits([path.name for path in files])
    ignored = []
    for path in files:
        matching = [glob for _, glob in splits if fnmatch.fnmatchcase(path.name, glob)]
        if len(matching) > 1:
            raise ConfigError(
                f"Each CSV file must be training or evaluation data; {path.name!r} matches both "
                f"{' and '.join(matching)}. Rename it."
            )
        if matching:
            _check_csv(path, source)
        else:
            ignored.append(path.name)
    note = f" (not used: {', '.join(ignored)})" if ignored else ""
    return Data(
        folder=str(folder.resolve()),
        splits=splits,
        source=source,
        name=f"CSV files in {folder}{note}",
        slug=re.sub("[^a-z0-9]+", "-", folder.resolve().name.lower()).strip("-")[:32] or "csv",
    )


def read_csv(stream: Iterable[str], name: str, source: Source) -> Iterator[Row]:
    """Yields the rows of a CSV file.

    Args:
      stream: Its lines, header first.
      name: What to call it in messages.
      source: How columns become features.

    Raises:
      DataError: The header lacks a column, or a row cannot be read; the message has the line.
    """
    reader = csv.DictReader(stream, strict=True)
    if reader.fieldnames is None:
        raise DataError(f"{name} must have a header line; it is empty.")
    columns = source.resolve(reader.fieldnames, name)
    for cells in reader:
        if None in cells or None in cells.values():
            raise DataError(
                f"{name}, line {reader.line_num}: a row must have {len(reader.fieldnames)} cells like the "
                f"header; got {'more' if None in cells else 'fewer'}."
            )
        yield rows.parse_row(cells, columns, f"{name}, line {reader.line_num}")


def _check_csv(path: Path, source: Source) -> None:
    if not path.stat().st_size:
        raise DataError(f"{path} must have a header line and rows; it is empty.")
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            first = list(itertools.islice(read_csv(stream, path.name, source), _ROWS_CHECKED_FIRST))
    except (UnicodeDecodeError, csv.Error, OSError) as error:
        raise DataError(f"{path} must be a readable CSV file in UTF-8; {error}.") from error
    if not first:
        raise DataError(f"{path} must have rows; it has only a header line.")


def _splits(names: list[str]) -> tuple[tuple[str, str], ...]:
    if fnmatch.filter(names, "*train*"):
        for glob in ("*valid*.csv", "*eval*.csv", "*test*.csv"):
            if fnmatch.filter(names, glob):
                return ((TRAIN_SPLIT, "*train*.csv"), (EVAL_SPLIT, glob))
    return (("all", "*.csv"),)
