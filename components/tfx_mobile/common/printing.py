"""What the command line prints: titles, tables and JSON on stdout. Decides nothing."""

from collections.abc import Sequence
from typing import Any

from tfx_mobile.common import jsonable


def print_title(title: str, text: str) -> None:
    """Prints an empty line and a title."""
    print(f"\n{title}  {text}")


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """Prints rows of equally many cells, in columns as wide as their widest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def print_json(value: Any) -> None:
    """Prints canonical JSON, indented."""
    print(jsonable.dumps(value, indent=2))


def flat(value: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Returns nested metadata as dotted keys and text; items of a list have their number, from 1, as key."""
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        return [
            (f"{prefix}.{number}", ", ".join(f"{key} {item}" for key, item in flat(part)))
            for number, part in enumerate(value, 1)
        ]
    if not isinstance(value, dict) or (not value and prefix):
        return [(prefix, str(value))]
    return [
        row for key, item in sorted(value.items()) for row in flat(item, f"{prefix}.{key}" if prefix else key)
    ]
