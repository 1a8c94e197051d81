# SPDX-License-Identifier: Apache-2.0
"""docs/reproduce.md: what can be made without weights is made with its own commands, and comes out as the paper prints it. The program
is NMOE_TEST_BINARY. The page's numbers are compared with ../shared/paper-tables where that exists."""
import configparser
import csv
import os
import re
import shlex
import subprocess
import tempfile
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
BINARY = os.environ.get("NMOE_TEST_BINARY") or os.path.join(ROOT, "build", "release", "neuronmoe")
PRINTED = os.path.join(os.path.dirname(ROOT), "shared", "paper-tables")
LISTS = os.path.join(ROOT, "configs", "experts")
with open(os.path.join(ROOT, "docs", "reproduce.md"), encoding="utf-8") as page:
    PAGE = page.read()


def blocks():
    """The two CSV blocks of the page, by the column behind `layer`."""
    return {text.split(",", 2)[1]: text for text in re.findall(r"```csv\n(.*?)```", PAGE, re.S)}


def experts_of(path):
    with open(path, encoding="utf-8") as stream:
        return [int(part) for part in re.search(r"^ADA_MOE_NUM_EXPERTS_LIST=(.*)$", stream.read(), re.M)[1].split(",")]


def printed(name):
    with open(os.path.join(PRINTED, name), encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


class Reproduce(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name

    def run_in_folder(self, command):
        done = subprocess.run(["bash", "-c", command], cwd=self.folder, capture_output=True, text=True,
                              env=dict(os.environ, OMP_NUM_THREADS="1"), check=False)
        self.assertEqual(done.returncode, 0, command + "\n" + done.stdout + done.stderr)
        return done.stdout

    def save_blocks(self):
        """As the page says."""
        for command in re.findall(r"^    (sed -n '/\^layer.*)$", PAGE, re.M):
            self.run_in_folder(command.replace("docs/", shlex.quote(ROOT) + "/docs/"))
        for name, key in (("neurons.csv", "en"), ("high_ap.csv", "expert")):
            with open(os.path.join(self.folder, name), encoding="utf-8") as stream:
                self.assertEqual(stream.read(), blocks()[key])

    def tool(self, command):
        """A command of the page with paths of the repository."""
        command = re.sub(r"\s*\\\n\s*", " ", command)
        return self.run_in_folder("/usr/bin/python3 " + re.sub(r"\b(tools|configs)/", lambda m: f"{ROOT}/{m[1]}/", command))

    def test_lists_of_the_paper(self):
        self.save_blocks()
        commands = re.findall(r"^    launch/run\.sh 1 (allocate --allocation\.counts \S+ .*--output (\w+)\.cfg) +# (\d+)$", PAGE, re.M)
        self.assertEqual([(lang, total) for _, lang, total in commands], [("el", "49"), ("tr", "50"), ("hu", "47"), ("en", "37")])
        for command, lang, total in commands:
            self.run_in_folder(f"{shlex.quote(BINARY)} {command}")
            found = experts_of(os.path.join(self.folder, lang + ".cfg"))
            self.assertEqual(found, experts_of(os.path.join(LISTS, f"llama3.2-3b-{lang}.cfg")))
            self.assertEqual(sum(found), int(total))
        (command,) = re.findall(r"^    (tools/expert_table\.py .*table8\.csv)$", PAGE, re.M)
        self.tool(command)
        with open(os.path.join(self.folder, "table8.csv"), encoding="utf-8") as stream:
            rows = {row[0]: row[1:] for row in csv.reader(stream)}
        self.assertEqual(rows["layer"], ["LayerMoE", "el", "tr", "hu", "en"])
        self.assertEqual(rows["experts"], ["84", "49", "50", "47", "37"])
        for value in rows["reduction_percent"][1:] + rows["reduction_of_added_percent"][1:2]:
            self.assertIn(f"{value} percent" if value in ("56.0", "62.5") else value, PAGE)
        if os.path.isdir(PRINTED):
            for row in printed("table2.csv"):
                self.assertEqual(rows[row["layer"]][:2], [row["layermoe"], row["neuronmoe_corrected"]])
            for row in printed("table8.csv"):
                if row["kind"] == "corrected_layer":
                    self.assertEqual(rows[row["layers"]][1:4], [row["greek"], row["turkish"], row["hungarian"]])

    def test_tables_2_and_9(self):
        for name, totals in (("Table 2", ["84", "49"]), ("Table 9", ["72", "36"])):
            (command,) = re.findall(rf"^\| {name} \| now.*\| `(tools/expert_table\.py .*?)` \|$", PAGE, re.M)
            lines = self.tool(command).splitlines()
            self.assertEqual([line.split()[1:] for line in lines if line.startswith("experts")], [totals])
            if os.path.isdir(PRINTED) and name == "Table 9":
                wanted = [[row["layer"], row["layermoe"], row["neuronmoe"]] for row in printed("table9.csv") if row["kind"] == "corrected_layer"]
                self.assertEqual([line.split() for line in lines[1:25]], wanted)

    def test_table_7(self):
        """What the command prints is what the page has from the paper."""
        (command,) = re.findall(r"^    launch/run\.sh 1 (train .*--print-config)$", PAGE, re.M)
        text = self.run_in_folder(f"{shlex.quote(BINARY)} " + command.replace("configs/", f"{ROOT}/configs/"))
        config = configparser.ConfigParser(interpolation=None, strict=False)
        config.read_string(text)
        rows = re.findall(r"^\| ([^|]+) \| ([^|]+) \| `(\w+)\.(\w+)` \|$", PAGE, re.M)
        self.assertEqual(len(rows), 16)
        for name, value, section, key in rows:
            found = config[section][key].split("#")[0].strip()
            if value == "BF16":
                self.assertEqual(found, "bfloat16")
            else:
                self.assertEqual(float(found), float(value.replace(",", "")), name)
        if os.path.isdir(PRINTED):
            wanted = [row["value"] for row in printed("table7.csv")
                      if row["parameter"] not in ("optimizer", "lr_scheduler", "gradient_accumulation_steps")]
            self.assertEqual([value.replace(",", "") for _, value, _, _ in rows], wanted)

    def test_table_4_is_rows_of_table_10(self):
        (command,) = re.findall(r"^\| Table 4 \|.*`(grep .*?)` \|$", PAGE, re.M)
        os.makedirs(os.path.join(self.folder, "work", "el"))
        with open(os.path.join(self.folder, "work", "el", "expert_neurons_el.csv"), "w", encoding="utf-8") as stream:
            stream.write(blocks()["expert"])
        rows = self.run_in_folder(command).splitlines()
        self.assertEqual([row.split(",")[3] for row in rows[1:]], "0 0 27 0 61 19 0 278 154 0 179 0 0 405".split())

    def test_figures(self):
        self.save_blocks()
        commands = re.findall(r"^    (tools/plot_\w+\.py (?:.*\\\n)*.*)$", PAGE, re.M)
        names = ("figure1.png", "figure2-top.png", "figure2-neuronmoe.png", "figure2-layermoe.png", "figure3.png")
        self.assertEqual(len(commands), len(names))
        for command, name in zip(commands, names):
            self.tool(command)
            with open(os.path.join(self.folder, name), "rb") as stream:
                self.assertTrue(stream.read().startswith(b"\x89PNG"))

    def test_sums_and_ratios(self):
        rows = list(csv.DictReader(blocks()["en"].splitlines()))
        self.assertEqual([sum(int(row[name]) for row in rows) for name in ("en", "el", "tr", "hu")], [974, 965, 990, 993])
        for row in csv.DictReader(blocks()["expert"].splitlines()):
            self.assertEqual(f"{100 * int(row['high_ap']) / int(row['total']):.2f}", row["ratio_percent"])

    def test_every_artifact_has_a_row_and_every_file_exists(self):
        rows = re.findall(r"^\| ((?:Table|Figure) \d+) \|", PAGE, re.M)
        self.assertEqual(rows, [f"Table {n}" for n in range(1, 12)] + [f"Figure {n}" for n in range(1, 4)])
        for name in set(re.findall(r"\b(?:tools|configs|launch)/[\w./-]+\.(?:py|sh|cfg)\b", PAGE)):
            self.assertTrue(os.path.exists(os.path.join(ROOT, name)), name)

    @unittest.skipUnless(os.path.isdir(PRINTED), "there is no ../shared/paper-tables: numbers of the page are not compared with the paper's")
    def test_numbers_are_those_printed(self):
        counts = list(csv.DictReader(blocks()["en"].splitlines()))
        self.assertEqual([{name: row[name] for name in ("layer", "en", "el", "tr", "hu")} for row in counts], printed("table6.csv"))
        self.assertEqual([row["unique_neurons_en_el"] for row in counts], [row["unique_neurons_en_el"] for row in printed("table5.csv")])
        high = [list(row.values()) for row in csv.DictReader(blocks()["expert"].splitlines())]
        self.assertEqual(high, [list(row.values()) for row in printed("table10.csv")])
        lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if line.startswith("|")]
        scores = [line[4:] for line in lines if len(line) == 12 and re.match(r"\d", line[-1])]
        benchmarks = ("arc", "belebele", "hellaswag", "mmlu")
        self.assertEqual(scores, [[row[f"{b}_{lang}"] for b in benchmarks for lang in langs] for name, langs in (
            ("table1.csv", ("en", "el")), ("table3.csv", ("en", "target"))) for row in printed(name)])
        self.assertEqual([line[2:] for line in lines if len(line) == 6 and re.match(r"\d", line[-1])],
                         [[row[b] for b in benchmarks] for row in printed("table11.csv")])


if __name__ == "__main__":
    unittest.main()
