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
import plot_ap  # noqa: E402
import plot_data  # noqa: E402
import synthetic  # noqa: E402


class Plots(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name
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

    def test_counts_per_layer_are_distinct_units(self):
        synthetic.write_neurons(self.neurons, top_k=400)
        counts = plot_data.read_counts([self.neurons], "el,en")
        units = {name: [set() for _ in range(8)] for name in ("el", "en")}
        with h5py.File(self.neurons) as file:
            for name, layers in units.items():
                for row in file["selected/" + name]:
                    layers[int(file["module/name"][row["module"]].decode().split(".")[2])].add(int(row["unit"]))
        self.assertEqual(list(counts.each), ["el", "en"])
        self.assertEqual(counts.each["el"], [len(layer) for layer in units["el"]])
        self.assertEqual(counts.union, [len(one | two) for one, two in zip(units["el"], units["en"])])
        self.assertLess(sum(counts.each["en"]), 400)  # of 400 rows some are the same unit in two projections
        self.assertLess(sum(counts.union), sum(counts.each["el"]) + sum(counts.each["en"]))

    def test_counts_of_the_published_code(self):
        header = "ap,on_p50,off_p50,layer,unit,uuid,concept,group\n"
        rows = {"en": [("model.layers.0.mlp.up_proj:0", 3), ("model.layers.0.mlp.gate_proj:0", 3), ("model.layers.2.self_attn.k_proj:0", 1)],
                "el": [("model.layers.0.mlp.down_proj:0", 3), ("model.layers.0.mlp.down_proj:0", 9)]}
        inputs = []
        for name, found in rows.items():
            path = os.path.join(self.folder, name + ".csv")
            with open(path, "w", encoding="utf-8") as stream:
                stream.write(header + "".join(f"1.0,0,0,{layer},{unit},7,{name},sense\n" for layer, unit in found))
            inputs.append(f"{name}={path}")
        out = os.path.join(self.folder, "counts.csv")
        done = self.plot("neuron_counts.py", *inputs, out)
        self.assertEqual((done.returncode, done.stdout), (0, ""))
        with open(out, encoding="utf-8") as stream:
            self.assertEqual(stream.read(), "layer,en,el,unique_neurons_en_el\n0,1,2,2\n1,0,0,0\n2,1,0,1\n")
        again = plot_data.read_counts([out], "en,el")
        self.assertEqual((again.each, again.union), ({"en": [1, 0, 1], "el": [2, 0, 0]}, [2, 0, 1]))
        self.assertIsNone(plot_data.read_counts([out], "el,en").union)

    def test_lists_side_by_side(self):
        for name, counts in (("a", "3,3,3"), ("b", "1,2,4"), ("c", "1,2")):
            with open(os.path.join(self.folder, name + ".cfg"), "w", encoding="utf-8") as stream:
                stream.write(f"ADA_MOE_NUM_EXPERTS_LIST={counts}\n")
        a, b, c = (os.path.join(self.folder, name + ".cfg") for name in "abc")
        out = os.path.join(self.folder, "table.csv")
        done = self.plot("expert_table.py", a, "mine=" + b, "--csv", out)
        self.assertEqual(done.returncode, 0, done.stdout)
        with open(out, encoding="utf-8") as stream:
            self.assertEqual(stream.read(), "layer,a,mine\n0,3,1\n1,3,2\n2,3,4\nexperts,9,7\nreduction_percent,0.0,22.2\n"
                                            "reduction_of_added_percent,0.0,33.3\n")
        self.assertIn("c.cfg: 2 layers, ", self.plot("expert_table.py", a, c).stdout)

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
        lists = []
        for name in ("guided", "uniform"):
            lists += ["--experts", os.path.join(self.folder, name + ".cfg")]
            synthetic.write_experts(lists[-1], (3,) * 8 if name == "uniform" else synthetic.EXPERTS)
        self.draws("plot_neurons.py", self.neurons, "--languages", "en,el", *lists)
        self.draws("plot_experts.py", self.experts, "--languages", "el")
        self.draws("plot_ap.py", self.neurons, "--languages", "hu")
        self.draws("plot_ap.py", self.experts)

    def test_kind_of_picture_follows_the_name(self):
        for name, beginning in (("a.svg", b"<?xml"), ("a.pdf", b"%PDF-"), ("a.PNG", b"\x89PNG"), ("a", b"\x89PNG")):
            path = os.path.join(self.folder, name)
            plot_ap.draw([self.neurons, path])
            with open(path, "rb") as stream:
                self.assertTrue(stream.read().startswith(beginning), name)
        with open(os.path.join(self.folder, "a.svg"), encoding="utf-8") as stream:
            drawn = stream.read()
        self.assertIn(">100</text>", drawn)
        self.assertNotIn("mathdefault", drawn)
        done = self.plot("plot_ap.py", self.neurons, os.path.join(self.folder, "a.txt"))
        self.assertEqual((done.returncode, done.stdout.count("\n")), (78, 1), done.stdout)
        self.assertEqual([name for name in os.listdir(self.folder) if name.endswith(".tmp")], [])

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
        self.assertEqual(done.returncode, 65)
        self.assertIn(f'{self.neurons} has version 2 of format "neuronmoe-scores"', done.stdout)
        self.assertEqual(done.stdout.count("\n"), 1)

    def test_faults_are_one_line(self):
        for arguments, wanted in [((self.neurons, self.png, "--languages", "xx"), "language 'xx' is not in it; it has: en, es"),
                                  ((self.experts, self.png), "it is neuronmoe-expert-neurons, wanted neuronmoe-neurons"),
                                  (("/nowhere.h5", self.png), "nowhere.h5")]:
            done = self.plot("plot_neurons.py", *arguments)
            self.assertEqual(done.returncode, 78 if "--languages" in arguments else 65)
            self.assertIn(wanted, done.stdout)
            self.assertNotIn("Traceback", done.stdout)
        short, empty = os.path.join(self.folder, "short.cfg"), os.path.join(self.folder, "empty.csv")
        synthetic.write_experts(short, (1, 2))
        with open(empty, "w", encoding="utf-8") as stream:
            stream.write("layer,unit\nlayers,1\n")
        for arguments, wanted in [((self.neurons, self.png, "--experts", short), "short.cfg: 2 layers, the neurons have 8"),
                                  ((empty, self.png), "empty.csv: it is not as neuronmoe writes it"),
                                  ((self.neurons, self.png, *["--experts", short] * 3), "at most two")]:
            done = self.plot("plot_neurons.py", *arguments)
            self.assertEqual((done.returncode, done.stdout.count("\n")), (78 if wanted == "at most two" else 65, 1), done.stdout)
            self.assertIn(wanted, done.stdout)
        done = self.plot("neuron_counts.py", f"en={empty}", self.png)
        self.assertIn("empty.csv, line 2: 'layers' is not a module of a layer", done.stdout)
        self.assertIn("name one language", self.plot("plot_experts.py", self.experts, self.png).stdout)


if __name__ == "__main__":
    unittest.main()
