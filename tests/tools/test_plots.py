# SPDX-License-Identifier: Apache-2.0
"""Tests of tools/plot_*.py on synthetic files: the numbers behind the pictures, and that pictures come out."""
import os
import subprocess
import sys
import tempfile
import unittest

import h5py
import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
TOOLS = os.path.join(os.path.dirname(os.path.dirname(HERE)), "tools")
sys.path[:0] = [HERE, TOOLS]
import plot_data  # noqa: E402
import synthetic  # noqa: E402


class Plots(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.neurons = os.path.join(folder.name, "neurons.h5")
        self.experts = os.path.join(folder.name, "expert_neurons.h5")
        self.png = os.path.join(folder.name, "out.png")
        synthetic.write_neurons(self.neurons)
        synthetic.write_expert_neurons(self.experts)

    def plot(self, tool, *arguments):
        return subprocess.run(["/usr/bin/python3", os.path.join(TOOLS, tool), *arguments], stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, check=False)

    def draws(self, tool, *arguments):
        done = self.plot(tool, *arguments[:1], self.png, *arguments[1:])
        self.assertEqual((done.returncode, done.stdout), (0, ""))
        with open(self.png, "rb") as stream:
            self.assertTrue(stream.read().startswith(b"\x89PNG\r\n"))

    def test_counts_per_layer_are_rows_of_the_file(self):
        counts, layers = plot_data.selected_per_layer(self.neurons, "el,en")
        self.assertEqual((list(counts), layers), (["el", "en"], 8))
        with h5py.File(self.neurons) as file:
            expected = [0] * 8
            for row in file["selected/el"]:
                expected[int(file["module/name"][row["module"]].decode().split(".")[2])] += 1
        self.assertEqual(list(counts["el"]), expected)
        self.assertEqual(counts["en"].sum(), 100)

    def test_ratios_stand_at_their_layer_and_expert(self):
        values = plot_data.expert_ratios(self.experts, "el")
        self.assertEqual(values.shape, (8, 4))
        with h5py.File(self.experts) as file:
            at = [i for i, (layer, e) in enumerate(zip(file["expert/layer"], file["expert/id"])) if (layer, e) == (5, 2)][0]
            self.assertEqual(values[5, 2], 100 * file["expert/high_ap"][3, at] / 816)
        self.assertTrue(np.isnan(values[4, 2]))  # two experts there
        self.assertTrue(np.isnan(values[1, 0]))  # a dense layer that is not in this file

    def test_pictures(self):
        self.draws("plot_neurons.py", self.neurons)
        self.draws("plot_neurons.py", self.neurons, "--languages", "en,el")
        self.draws("plot_experts.py", self.experts, "--languages", "el")
        self.draws("plot_ap.py", self.neurons, "--languages", "hu")
        self.draws("plot_ap.py", self.experts)

    def test_scores_have_labels_instead_of_languages(self):
        with h5py.File(self.neurons, "w") as file:
            file["label"], file["ap"] = np.array([3, 5]), np.array([[0.1, 0.7], [0.6, 0.9]])
            file.attrs.update({"format": "neuronmoe-scores", "complete": 1})
        self.assertEqual({k: list(v) for k, v in plot_data.ap_values(self.neurons).items()},
                         {"label 3": [0.1, 0.7], "label 5": [0.6, 0.9]})

    def test_files_of_a_later_version_are_refused(self):
        with h5py.File(self.neurons, "w") as file:
            file.attrs.update({"format": "neuronmoe-scores", "format_version": 2, "complete": 1})
        done = self.plot("plot_ap.py", self.neurons, self.png)
        self.assertEqual(done.returncode, 1)
        self.assertIn(f'{self.neurons} has version 2 of format "neuronmoe-scores"', done.stdout)
        self.assertEqual(done.stdout.count("\n"), 1)

    def test_faults_are_one_line(self):
        for arguments, wanted in [((self.neurons, self.png, "--languages", "xx"), "language 'xx' is not in it; it has: en, es"),
                                  ((self.experts, self.png), "it is neuronmoe-expert-neurons, wanted neuronmoe-neurons"), (("/nowhere.h5", self.png), "nowhere.h5")]:
            done = self.plot("plot_neurons.py", *arguments)
            self.assertEqual(done.returncode, 1)
            self.assertIn(wanted, done.stdout)
            self.assertNotIn("Traceback", done.stdout)
        self.assertIn("name one language", self.plot("plot_experts.py", self.experts, self.png).stdout)


if __name__ == "__main__":
    unittest.main()
