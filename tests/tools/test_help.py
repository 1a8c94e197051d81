"""--help shows every key that a command's source names: the table of commands forgets none."""
import os
import re
import subprocess
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BINARY = os.environ.get("NMOE_TEST_BINARY")
# The lists of fields, and what AppConfig calls the struct that each belongs to.
LISTS = {"app/config.hpp": "", "analysis/neuron_analysis.hpp": "analysis.", "analysis/allocation.hpp": "allocation.",
         "train/config.hpp": "train.", "train/machine.hpp": "machine."}


def keys_of_members():
    """"analysis.every" -> "expert_ap.every": which key a member of AppConfig is."""
    keys = {}
    for name, prefix in LISTS.items():
        text = (ROOT / "include/neuronmoe" / name).read_text(encoding="utf-8")
        for key, member in re.findall(r'\bf\("([\w.]+)",\s*c\.([\w.]+)', text):
            keys[prefix + member] = key
    return keys


def members_named_in(text):
    """Members of `config` that a source names, by references to its structs, too."""
    structs = dict(re.findall(r"&\s*(\w+) = config\.(\w+);", text))
    for parameter in re.findall(r"train::TrainConfig& (\w+)", text):
        structs[parameter] = "train"
    members = {f"{struct}.{member}" for struct, member in re.findall(r"\bconfig_?\.(\w+)\.(\w+)\b(?!\()", text)}
    for name, struct in structs.items():
        members |= {f"{struct}.{member}" for member in re.findall(rf"\b{name}\.(\w+)\b", text)}
    return members


@unittest.skipUnless(BINARY, "NMOE_TEST_BINARY is not set: nothing to run (launch/test.sh sets it)")
class Help(unittest.TestCase):
    def test_a_command_shows_the_keys_that_its_source_names(self):
        keys = keys_of_members()
        self.assertGreater(len(keys), 100)
        found = 0
        for source in sorted((ROOT / "src/app").glob("command_*.cpp")):
            command = source.stem.removeprefix("command_")
            if command == "line":
                continue
            done = subprocess.run([BINARY, command, "--help"], capture_output=True, text=True, check=True)
            shown = set(re.findall(r"--([\w.]+)", done.stdout))
            short = dict(re.findall(r"^  --(\w+) +--(\w+\.\w+)", self.overall(), re.M))
            shown |= {short[name] for name in shown if name in short}
            positional = {"run.input"} if " FILE " in done.stdout else set()
            named = {keys[member] for member in members_named_in(source.read_text(encoding="utf-8")) if member in keys}
            found += len(named)
            self.assertEqual(named - shown - positional, set(), f"{source.name} reads what `{command} --help` does not show")
        self.assertGreater(found, 60)

    @staticmethod
    def overall():
        return subprocess.run([BINARY, "--help"], capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    unittest.main()
