# SPDX-License-Identifier: Apache-2.0
"""What the tests of tools/report.py share: a folder of a run, the tool called on it, the page that it wrote."""
import contextlib
import io
import os
import tempfile
import unittest

import report


class ReportCase(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.work = folder.name

    def call(self, *arguments):
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = report.main(["--work", self.work, "--source", "en", "--target", "el", *arguments])
        return code, out.getvalue(), err.getvalue()

    def page(self):
        with open(os.path.join(self.work, "el", "report.html"), encoding="utf-8") as stream:
            return stream.read()
