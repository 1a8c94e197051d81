#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the metrics of trainings as event files, which TensorBoard reads. Standard library only; TensorBoard itself is yours.

    tools/to_tensorboard.py --output LOGS PATH...
    tensorboard --logdir LOGS

PATH is a metrics.jsonl, or a folder in which all of them are taken: of a run of `train`, or of a whole pipeline. Every number of a line
becomes a scalar of its name (`loss_lm`, `bytes/all_reduce`, ...) at its step; one that was not finite is NaN. Called again, it replaces the
files, also during a training. Times of day are counted back from the last change of metrics.jsonl by the seconds of each step.
"""
import argparse
import math
import os
import struct
import sys
from collections.abc import Iterator

import metrics_file
from tool_errors import ToolError, exit_code_of

NAME = "events.out.tfevents.0000000000.neuronmoe"


def make_table() -> list[int]:
    """Returns the table of the CRC-32C (Castagnoli, reflected polynomial 0x82F63B78)."""
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


TABLE = make_table()


def crc32c(content: bytes) -> int:
    """Returns the CRC-32C of some bytes."""
    crc = 0xFFFFFFFF
    for byte in content:
        crc = crc >> 8 ^ TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def masked(content: bytes) -> bytes:
    """Returns the checksum as a TFRecord holds it: rotated and shifted, so that checksums of checksums stay good."""
    crc = crc32c(content)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def record(content: bytes) -> bytes:
    """Returns a TFRecord: length, its checksum, content, its checksum."""
    length = struct.pack("<Q", len(content))
    return length + masked(length) + content + masked(content)


def varint(value: int) -> bytes:
    """Returns a number as protocol buffers write it: 7 bits a byte, the lowest first."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(out + bytes([value]))


def block(field: int, content: bytes) -> bytes:
    """Returns a field of a protocol buffer that holds a string or another message."""
    return varint(field << 3 | 2) + varint(len(content)) + content


def event(time: float, step: int, content: bytes) -> bytes:
    """Returns tensorflow.Event: wall_time = 1, step = 2, then `content`, which is file_version = 3 or summary = 5."""
    return b"\x09" + struct.pack("<d", time) + (b"\x10" + varint(step) if step else b"") + content


def summary(scalars: Iterator[tuple[str, float]]) -> bytes:
    """Returns the field `summary` of an event: value = 1 of tag = 1 and simple_value = 2, as often as there are scalars."""
    values = (block(1, tag.encode()) + b"\x15" + float32(value) for tag, value in scalars)
    return block(5, b"".join(block(1, value) for value in values))


def float32(value: float) -> bytes:
    """Returns the four bytes of the nearest float32; infinity beyond its range."""
    try:
        return struct.pack("<f", value)
    except OverflowError:
        return struct.pack("<f", math.copysign(math.inf, value))


def scalars_of(row: metrics_file.Row, prefix: str = "") -> Iterator[tuple[str, float]]:
    """Yields (tag, value) of every number of a line but its step."""
    for name, value in row.items():
        if isinstance(value, dict):
            yield from scalars_of(value, f"{prefix}{name}/")
        elif value is None:
            yield prefix + name, math.nan
        elif isinstance(value, (int, float)) and (prefix or name != "step"):
            yield prefix + name, float(value) if abs(value) < 1e300 else math.copysign(math.inf, value)


def events_of(path: str) -> bytes:
    """Returns the event file of one metrics.jsonl."""
    rows = metrics_file.read_metrics(path)
    if not rows or int(rows[0]["step"]) < 0:
        raise ToolError(f"{path}: there is no step of a training in it")
    seconds = dict(metrics_file.numbers_of(rows, "step_s"))
    time = os.path.getmtime(path) - sum(seconds.values())
    parts = [record(event(time, 0, block(3, b"brain.Event:2")))]
    for row in rows:
        step = int(row["step"])
        time += seconds.get(step, 0.0)
        parts.append(record(event(time, step, summary(scalars_of(row)))))
    return b"".join(parts)


def find(paths: list[str]) -> dict[str, str]:
    """Returns {name of the run: metrics.jsonl}."""
    found: dict[str, str] = {}
    for path in paths:
        here = [os.path.join(folder, "metrics.jsonl") for folder, _, files in sorted(os.walk(path)) if "metrics.jsonl" in files]
        if os.path.isfile(path):
            here = [path]
        if not here:
            raise ToolError(f"{path}: there is no metrics.jsonl in it")
        for file in here:
            folder = os.path.dirname(os.path.abspath(file))
            root = os.path.abspath(path) if os.path.isdir(path) and os.path.abspath(path) != folder else os.path.dirname(folder)
            name = os.path.relpath(folder, root)
            if found.setdefault(name, file) != file:
                raise ToolError(f"{file}: {found[name]} has the same name, {name}; give the folder that holds both")
    return found


def write(output: str, paths: list[str]) -> None:
    """Writes LOGS/RUN/events... of each run."""
    for name, path in find(paths).items():
        content = events_of(path)
        folder = os.path.join(output, name)
        os.makedirs(folder, exist_ok=True)
        target = os.path.join(folder, NAME)
        with open(target + ".tmp", "wb") as stream:
            stream.write(content)
        os.replace(target + ".tmp", target)
        print(f"{target}: {path}")


def main(argv: list[str] | None = None) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description="Metrics of trainings as event files for TensorBoard.")
    parser.add_argument("--output", required=True, metavar="LOGS", help="folder for tensorboard --logdir")
    parser.add_argument("paths", nargs="+", metavar="PATH", help="metrics.jsonl, or a folder with some")
    options = parser.parse_args(argv)
    return exit_code_of("to_tensorboard", lambda: write(options.output, options.paths))


if __name__ == "__main__":
    sys.exit(main())
