# SPDX-License-Identifier: Apache-2.0
"""Reads the metrics.jsonl of a training (docs/formats.md), for tools/report.py and tools/to_tensorboard.py. Standard library only."""
import json
from typing import Any

from tool_errors import reading

Row = dict[str, Any]


def read_metrics(path: str) -> list[Row]:
    """Returns the rows of a metrics.jsonl by step; after a resume the later row of a step wins; a torn last line is skipped."""
    rows = {}
    with reading(path), open(path, encoding="utf-8") as stream:
        for line in stream:
            try:
                row = json.loads(line)
                if abs(int(row["step"])) < 2**53:
                    rows[int(row["step"])] = row
            except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
                continue
    return [rows[step] for step in sorted(rows)]


def numbers_of(rows: list[Row], name: str) -> list[tuple[int, float]]:
    """Returns [(step, value)] of the rows whose `name` is a finite number."""
    found = [(int(row["step"]), row.get(name)) for row in rows]
    return [(step, float(value)) for step, value in found
            if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300]
