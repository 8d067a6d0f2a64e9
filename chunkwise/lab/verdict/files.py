"""Rows of a file, whichever tool wrote it: CSV, TSV, JSON lines, a JSON array, Parquet; the text
formats also compressed by gzip.

Nothing is repaired: what is no such file is refused with its place.
"""

from __future__ import annotations

import contextlib
import csv
import functools
import gzip
import io
import json
import math
import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from chunkwise.core.errors import InputError
from chunkwise.core.io import read_parquet

SUFFIXES = (".csv", ".tsv", ".jsonl", ".json", ".parquet")
LARGEST = 1e100  # nobody measures more, and squares of it are still numbers
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)
_NO_NUMBER = {"nan", "inf", "+inf", "-inf", "infinity", "-infinity", "none", "null", "na", "n/a"}
_BOOLEANS = {"true": 1.0, "false": 0.0}


@dataclass(frozen=True)
class Sheet:
    """The rows of one file.

    Attributes:
        file: as errors name it.
        columns: names, each once.
        rows: cells in the order of the columns; None where a JSON record lacks one.
        lines: number of each row: its line in a text file, else its place in the table.
        unit: what is counted by `lines`, "line" or "row".
    """

    file: str
    columns: tuple[str, ...]
    rows: list[list[Any]]
    lines: list[int]
    unit: str = "line"

    @functools.cached_property
    def at(self) -> dict[str, int]:
        """Name of a column -> its number."""
        return {name: number for number, name in enumerate(self.columns)}

    def place(self, row: int) -> str:
        return f"{self.file}, {self.unit} {self.lines[row]}"

    def error(
        self, row: int, text: str, *, column: int | None = None, hint: str | None = None
    ) -> InputError:
        """What is wrong with a row, or with one of its cells, with its place."""
        place = self.place(row)
        if column is not None:
            place += f", column {self.columns[column]!r}"
        return InputError(f"{place}: {text}", hint=hint)

    def label(self, row: int, name: str) -> str | None:
        """The name in a cell; None where it has none, or where there is no such column."""
        column = self.at.get(name)
        return None if column is None else as_label(self.rows[row][column])

    def number(self, row: int, column: int) -> float:
        """A cell as a number; NaN where a run has none.

        Raises:
            InputError: the cell holds something else.
        """
        cell = self.rows[row][column]
        value = parse_number(cell)
        if value is None:
            text = f"expected a number, got {shortened(cell)}{_what_is_odd(cell)}"
            raise self.error(row, text, column=column)
        if abs(value) > LARGEST:
            raise self.error(row, f"expected a measurement, got {value:g}", column=column)
        return value


def shortened(cell: Any) -> str:
    text = repr(cell)
    return text if len(text) <= 60 else f"{text[:57]}..."


def is_blank(cell: Any) -> bool:
    return cell is None or (isinstance(cell, str) and not cell.strip())


def stem(file: Path) -> str:
    """The name of a file without its ending, compressed or not."""
    return file.name.removesuffix(".gz").rpartition(".")[0]


def as_label(cell: Any) -> str | None:
    """A name; whole numbers as such, for a table that went through pandas has 0.0 for 0. None where
    there is none.
    """
    if is_blank(cell) or isinstance(cell, dict | list):
        return None
    if isinstance(cell, float):
        if not math.isfinite(cell):
            return None
        return str(int(cell)) if cell == int(cell) else str(cell)
    text = str(cell).strip()
    return text[: text.index(".")] if re.fullmatch(r"\d+\.0+", text) else text


def parse_number(cell: Any) -> float | None:
    """NaN for what says that there is no value; None for what is no number."""
    if is_blank(cell):
        return math.nan
    if isinstance(cell, bool | int | float):
        # JSON has whole numbers of any length.
        try:
            value = float(cell)
        except OverflowError:
            return math.inf
        return value if math.isfinite(value) else math.nan
    if not isinstance(cell, str):
        return None
    # By a pattern: float() also takes "1_000" and digits of other scripts.
    text = cell.strip().lower()
    if text in _NO_NUMBER:
        return math.nan
    if text in _BOOLEANS:
        return _BOOLEANS[text]
    return float(text) if _NUMBER.fullmatch(text) else None


def _what_is_odd(cell: Any) -> str:
    if not isinstance(cell, str):
        return ""
    text = cell.strip()
    if text.endswith("%"):
        return "; write a share from 0 to 1, without a percent sign"
    if re.fullmatch(r"[+-]?\d+,\d+", text):
        return "; write a decimal point"
    return ""


def read_sheet(path: Path) -> Sheet:
    """The rows of a file.

    Raises:
        InputError: it cannot be read, is of another kind, or holds no rows.
    """
    name = path.name.removesuffix(".gz")
    if not name.endswith(SUFFIXES):
        raise InputError(f"{path}: expected a file that ends in {', '.join(SUFFIXES)} (or .gz)")
    if name.endswith(".parquet"):
        sheet = _read_parquet(path)
    else:
        with _refused(path), _text(path) as stream:
            sheet = _read_text(path, name, stream)
    if not sheet.rows:
        raise InputError(f"{path}: expected rows, got none")
    return sheet


def _read_text(path: Path, name: str, stream: IO[str]) -> Sheet:
    if name.endswith(".jsonl"):
        return _of_records(path, _json_lines(path, stream))
    if name.endswith(".json"):
        return _of_records(path, _json_array(path, stream), unit="record")
    return _read_csv(path, stream, "\t" if name.endswith(".tsv") else None)


@contextlib.contextmanager
def _refused(path: Path) -> Iterator[None]:
    """What the libraries raise over a file that is not what its name says."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: expected UTF-8, got byte 0x{error.object[error.start]:02x}; save it as UTF-8"
        ) from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(f"{path}: expected a whole gzip file: {error}") from None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from None


@contextlib.contextmanager
def _text(path: Path) -> Iterator[IO[str]]:
    """Lines of a text file; a byte order mark is dropped, line ends are left as they are."""
    with open(path, "rb") as file:
        first = file.read(2)
        file.seek(0)
        if first in (b"\xff\xfe", b"\xfe\xff"):
            raise InputError(f"{path}: expected UTF-8, got UTF-16; save it as UTF-8")
        # By content: a browser may unpack a download and leave the name.
        binary: Any = gzip.GzipFile(fileobj=file) if first == b"\x1f\x8b" else file
        with io.TextIOWrapper(binary, encoding="utf-8-sig", newline="") as stream:
            yield stream


def _read_csv(path: Path, stream: IO[str], delimiter: str | None) -> Sheet:
    text = stream.read()
    if not text.strip():
        raise InputError(f"{path}: expected a table, got an empty file")
    if delimiter is None:
        # Of the heading, where no cell holds one: spreadsheets of some countries write semicolons.
        heading, _, _ = text.lstrip("\r\n").partition("\n")
        delimiter = max(",;\t", key=heading.count)
    # Strict: a quote that is never closed would swallow the rest of the file.
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header: list[str] = []
    rows, lines = [], []
    try:
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            # The first line that is not blank: exports begin with an empty one.
            if not header:
                header = [cell.strip() for cell in cells]
                _require_names(path, header)
                continue
            # A decimal comma in a file of commas shows here, and nowhere later.
            if len(cells) != len(header):
                raise InputError(
                    f"{path}, line {reader.line_num}: expected {len(header)} cells as in the "
                    f"heading, got {len(cells)}",
                    hint="quote a cell that holds the delimiter; decimals take a point",
                )
            rows.append(list(cells))
            lines.append(reader.line_num)
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: expected CSV: {error}") from None
    return Sheet(str(path), tuple(header), rows, lines)


def _require_names(path: Path, header: list[str]) -> None:
    names: set[str] = set()
    for number, name in enumerate(header, start=1):
        # pandas writes its index as a first column without a name.
        if name in names:
            raise InputError(f"{path}: expected each column once, got {name!r} twice (no {number})")
        names.add(name)


def _json_lines(path: Path, stream: IO[str]) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(stream, start=1):
        if line.strip():
            yield number, _parsed(f"{path}, line {number}", line)


def _json_array(path: Path, stream: IO[str]) -> Iterator[tuple[int, Any]]:
    value = _parsed(str(path), stream.read())
    if not isinstance(value, list):
        raise InputError(f"{path}: expected an array of records, got {type(value).__name__}")
    yield from enumerate(value, start=1)


def _parsed(where: str, text: str) -> Any:
    try:
        return json.loads(text)
    # A number of thousands of digits is a ValueError of its own.
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: expected JSON: {error}") from None


def _of_records(path: Path, records: Iterable[tuple[int, Any]], unit: str = "line") -> Sheet:
    columns: dict[str, int] = {}
    rows, lines = [], []
    for number, record in records:
        if not isinstance(record, dict):
            raise InputError(
                f"{path}, {unit} {number}: expected a record with names, got {shortened(record)}"
            )
        for name in record:
            columns.setdefault(name, len(columns))
        cells = [None] * len(columns)
        for name, cell in record.items():
            cells[columns[name]] = _without_texts(name, cell)
        rows.append(cells)
        lines.append(number)
    # Names that a later record brings are columns of the earlier ones too.
    for cells in rows:
        cells += [None] * (len(columns) - len(cells))
    return Sheet(str(path), tuple(columns), rows, lines, unit)


def _without_texts(name: str, cell: Any) -> Any:
    """A cell, or an empty one of its type for prompts and documents, which are most of a file of
    samples and not held in memory.
    """
    if isinstance(cell, list) and (name == "metrics" or len(cell) <= 2):
        # A pair is a log-likelihood with its length.
        return cell if all(isinstance(item, str | int | float) for item in cell) else []
    return {} if isinstance(cell, dict | list) else cell


def _read_parquet(path: Path) -> Sheet:
    # Values of Python, as the other formats give them.
    table = read_parquet(path)
    columns = [column.to_pylist() for column in table.columns]
    names = [str(name) for name in table.column_names]
    _require_names(path, names)
    rows = [list(cells) for cells in zip(*columns, strict=True)]
    return Sheet(str(path), tuple(names), rows, list(range(1, len(rows) + 1)), "row")
