# SPDX-License-Identifier: Apache-2.0
"""Tests of tools/to_tensorboard.py: event files read back by a reader that shares nothing with the writer, and against bytes that
TensorFlow writes."""
import contextlib
import io
import json
import math
import os
import pathlib
import struct
import sys
import tempfile
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(HERE)), "tools"))
import to_tensorboard  # noqa: E402


def crc(content):
    """CRC-32C bit by bit."""
    value = 0xFFFFFFFF
    for byte in content:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ 0x82F63B78 * (value & 1)
    return value ^ 0xFFFFFFFF


def unmasked(stored):
    rotated = (struct.unpack("<I", stored)[0] - 0xA282EAD8) & 0xFFFFFFFF
    return (rotated << 15 | rotated >> 17) & 0xFFFFFFFF


def records(content):
    """The contents of a TFRecord file; checksums are compared."""
    while content:
        length = struct.unpack("<Q", content[:8])[0]
        assert unmasked(content[8:12]) == crc(content[:8]) and unmasked(content[12 + length:16 + length]) == crc(content[12:12 + length])
        yield content[12:12 + length]
        content = content[16 + length:]


def number(content, at):
    value = shift = 0
    while True:
        value |= (content[at] & 127) << shift
        shift, at = shift + 7, at + 1
        if content[at - 1] < 128:
            return value, at


def fields(content):
    """[(field, value)] of a protocol buffer."""
    at, out = 0, []
    while at < len(content):
        key, at = number(content, at)
        if key & 7 == 0:
            value, at = number(content, at)
        else:
            size, at = {1: lambda: (8, at), 5: lambda: (4, at), 2: lambda: number(content, at)}[key & 7]()
            value, at = content[at:at + size], at + size
        out.append((key >> 3, value))
    return out


class ToTensorBoard(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.work = pathlib.Path(folder.name)

    def call(self, *paths):
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = to_tensorboard.main(["--output", str(self.work / "logs"), *map(str, paths)])
        return code, out.getvalue(), err.getvalue()

    def write(self, name, *rows):
        path = self.work / name / "metrics.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 9, "torn', encoding="utf-8")
        os.utime(path, (1000.0, 1000.0))
        return path

    def events(self, run):
        """[(wall time, step, {tag: value})]"""
        found = []
        for record in records((self.work / "logs" / run / to_tensorboard.NAME).read_bytes()):
            event = dict(fields(record))
            values = [dict(fields(value)) for field, value in fields(event.get(5, b"")) if field == 1]
            found.append((struct.unpack("<d", event[1])[0], event.get(2, 0),
                          {value[1].decode(): struct.unpack("<f", value[2])[0] for value in values} or event[3]))
        return found

    def test_every_number_is_read_back(self):
        self.write("el/stage1", {"step": 1, "tokens": 1024, "loss_lm": 2.5, "step_s": 3.0, "bytes": {"all_reduce": 7}},
                   {"step": 300, "tokens": 2048, "loss_lm": None, "step_s": 4.0, "skipped": True, "note": "text", "lr": 1e99})
        self.write("el/stage2", {"step": 1, "loss_lm": 1.5})
        code, out, err = self.call(self.work / "el")
        self.assertEqual((code, err, out.count("\n")), (0, "", 2))
        head, first, second = self.events("stage1")
        self.assertEqual(head, (993.0, 0, b"brain.Event:2"))
        self.assertEqual(first, (996.0, 1, {"tokens": 1024.0, "loss_lm": 2.5, "step_s": 3.0, "bytes/all_reduce": 7.0}))
        self.assertEqual(second[:2], (1000.0, 300))
        self.assertTrue(math.isnan(second[2].pop("loss_lm")))
        self.assertEqual(second[2], {"tokens": 2048.0, "step_s": 4.0, "skipped": 1.0, "lr": math.inf})
        self.assertEqual(self.events("stage2")[1], (1000.0, 1, {"loss_lm": 1.5}))

    def test_bytes_are_those_of_tensorflow(self):
        self.assertEqual(to_tensorboard.crc32c(b"123456789"), 0xE3069283)  # the check value of CRC-32C
        head = to_tensorboard.record(to_tensorboard.event(1.5, 0, to_tensorboard.block(3, b"brain.Event:2")))
        # The first bytes of any event file of TensorFlow: 24 bytes and their checksum, wall_time, then file_version.
        self.assertEqual(head[:13], bytes.fromhex("18 00 00 00 00 00 00 00 a3 7f 4b 22 09"))
        self.assertEqual(head[21:36], b"\x1a\rbrain.Event:2")
        # Event(wall_time=1.5, step=300, summary=Summary(value=[Value(tag="lr", simple_value=0.5)])) by protobuf
        self.assertEqual(to_tensorboard.event(1.5, 300, to_tensorboard.summary(iter([("lr", 0.5)]))),
                         bytes.fromhex("09 00 00 00 00 00 00 f8 3f 10 ac 02 2a 0b 0a 09 0a 02 6c 72 15 00 00 00 3f"))

    def test_names_of_runs(self):
        one = self.write("a/run", {"step": 1, "loss_lm": 1.0})
        self.write("b/run", {"step": 1, "loss_lm": 2.0})
        self.assertEqual(list(to_tensorboard.find([str(one)])), ["run"])
        self.assertEqual(list(to_tensorboard.find([str(one.parent)])), ["run"])
        self.assertEqual(list(to_tensorboard.find([str(self.work)])), ["a/run", "b/run"])
        code, out, err = self.call(self.work / "a", self.work / "b")
        self.assertEqual((code, out, err.count("\n")), (65, "", 1))
        self.assertIn("has the same name, run", err)

    def test_what_is_no_training(self):
        for content in (b"", b"\xff\n", b"[]\n", b'{"loss": 1}\n', b'{"step": -1}\n'):
            path = self.write("run")
            path.write_bytes(content)
            code, out, err = self.call(path)
            self.assertEqual((code, out, err.count("\n")), (65, "", 1), content)
            self.assertIn("metrics.jsonl", err)
        self.assertEqual(self.call(self.work / "nowhere")[0], 65)
        self.assertFalse((self.work / "logs").exists())


if __name__ == "__main__":
    unittest.main()
