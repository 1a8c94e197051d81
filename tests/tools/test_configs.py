# SPDX-License-Identifier: Apache-2.0
"""Every config that we ship: it resolves for the commands it is for, and the numbers that follow from it are those of
METHOD 3.2 and 7. The program is NMOE_TEST_BINARY."""
import concurrent.futures
import configparser
import glob
import itertools
import math
import os
import re
import subprocess
import sys
import tempfile
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path.insert(0, os.path.join(ROOT, "launch"))
import pipeline_config  # noqa: E402

BINARY = os.environ.get("NMOE_TEST_BINARY") or os.path.join(ROOT, "build", "release", "neuronmoe")
LAYERS = {"llama3.2-3b": 28, "qwen1.5-1.8b": 24}
RUNS = [f"llama3.2-3b-{lang}" for lang in ("el", "tr", "hu", "bn", "ne")] + ["qwen1.5-1.8b-el"]
PRESETS = ("default", "paper-literal", "released-script")
# METHOD 3.2, from its text; totals and layers are checked besides.
LISTS = {
    "llama3.2-3b-el": (49, "6,2,1,1,1,1,1,1,1,1,1,1,1,1,1,1,2,1,1,1,1,4,1,4,2,2,4,4"),
    "llama3.2-3b-tr": (50, "6,2,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,2,2,4,4,4,4,3"),
    "llama3.2-3b-hu": (47, "5,2,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,2,1,3,4,6,3,2"),
    "llama3.2-3b-en": (37, "6,2,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,2,1,1,2,2"),
    "llama3.2-3b-el-released": (44, "1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,2,1,1,1,1,6,1,4,2,2,4,3"),
    "qwen1.5-1.8b-el": (36, "4,2,2,2,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,2,6"),
    "llama3.2-3b-layermoe-84": (84, "5,5,5,4,3,3,2,2,2,2,2,2,2,2,2,2,2,2,3,3,3,3,3,4,4,4,4,4"),
    "qwen1.5-1.8b-layermoe-72": (72, "5,4,3,5,4,3,2,3,3,2,2,2,2,2,2,2,2,3,3,4,4,4,3,3"),
    "llama3.2-3b-uniform-84": (84, ",".join("3" * 28)),
    "qwen1.5-1.8b-uniform-72": (72, ",".join("3" * 24)),
}


def resolved(command, *names):
    """The whole config as the program reads it."""
    arguments = [part for name in names for part in ("--config", os.path.join("configs", name + ".cfg"))]
    return printed(command, arguments, ROOT)


def printed(command, arguments, folder):
    done = subprocess.run([BINARY, command, *arguments, "--print-config"], cwd=folder, capture_output=True, text=True,
                          env=dict(os.environ, OMP_NUM_THREADS="1"))
    if done.returncode != 0:
        raise AssertionError(f"{command} {arguments}: exit {done.returncode}: {done.stderr}")
    parser = configparser.ConfigParser(interpolation=None, strict=False, default_section="\0")
    parser.read_string(done.stdout)
    return parser


def model_of(run):
    return run.rsplit("-", 1)[0]


def stage_files(run, preset, stage):
    replay = [model_of(run) + "-replay"] if stage == 2 else []
    return [run, *replay, "optimizer", f"{preset}-stage{stage}"]


def steps(train, tokens):
    """METHOD 7.1 for `tokens` of data, W = 1 and G = micro-batches of a step."""
    if float(train["epochs"]) == 0:
        return int(train["steps"])
    micro = math.ceil(tokens // int(train["seq_length"]) / int(train["micro_batch_size"]))
    per_epoch = micro // (int(train["global_batch_size"]) // int(train["micro_batch_size"]))
    return math.ceil(float(train["epochs"]) * per_epoch)


def data_of(config, target):
    """{language: (mark, most documents, share)} of the data sets, whatever the target's is called."""
    names = [name.removeprefix("data.") for name in config.sections() if name.startswith("data.")]
    return {target if name == "target" else name: tuple(config["data." + name].get(key) for key in ("mark", "max_docs", "weight"))
            for name in names}


class Configs(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        # Run files and presets set different keys: every run with one preset, every preset with one run per model.
        chosen = [(run, preset, stage) for run, preset, stage in itertools.product(RUNS, PRESETS, (1, 2))
                  if preset == "default" or run.endswith("-el")]
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            cls.train = dict(zip(chosen, pool.map(lambda case: resolved("train", *stage_files(*case)), chosen)))

    def test_no_file_is_forgotten(self):
        known = set(RUNS) | {f"{p}-stage{s}" for p in PRESETS for s in (1, 2)}
        known |= {"llama3.2-3b-replay", "qwen1.5-1.8b-replay", "optimizer", "sense", "quickstart", "quickstart-short",
                  "quickstart-base", "your-model", "llama3.2-3b-plan", "llama3.2-3b-pipeline",
                  "llama3.2-3b-bn-pipeline", "llama3.2-3b-ne-pipeline"}
        found = {os.path.basename(path)[:-4] for path in glob.glob(os.path.join(ROOT, "configs", "*.cfg"))}
        self.assertEqual(found, known)
        experts = {os.path.basename(path)[:-4] for path in glob.glob(os.path.join(ROOT, "configs", "experts", "*"))}
        self.assertEqual(experts, set(LISTS))

    def test_expert_lists_are_those_of_the_method(self):
        for name, (total, wanted) in LISTS.items():
            with open(os.path.join(ROOT, "configs", "experts", name + ".cfg"), encoding="utf-8") as stream:
                lines = [line for line in stream.read().splitlines() if not line.startswith("#")]
            self.assertEqual(lines, ["ADA_MOE_NUM_EXPERTS_LIST=" + wanted], name)
            counts = [int(count) for count in wanted.split(",")]
            self.assertEqual((sum(counts), len(counts)), (total, LAYERS[re.match(r"[^-]+-[^-]+", name).group()]), name)

    def test_batch_length_and_learning_rate_of_the_presets(self):
        tokens = {("default", 1): 131072, ("paper-literal", 1): 32768, ("released-script", 1): 2097152,
                  ("default", 2): 65536, ("paper-literal", 2): 16384, ("released-script", 2): 1048576}
        rate = {("default", 1): 1e-4, ("paper-literal", 1): 1e-4, ("released-script", 1): 1e-4,
                ("default", 2): 5e-5, ("paper-literal", 2): 1e-4, ("released-script", 2): 5e-5}
        for (run, preset, stage), config in self.train.items():
            train = config["train"]
            with self.subTest(run=run, preset=preset, stage=stage):
                self.assertEqual(int(train["stage"]), stage)
                self.assertEqual(int(train["global_batch_size"]) * int(train["seq_length"]), tokens[preset, stage])
                self.assertEqual(int(train["micro_batch_size"]), 32)
                self.assertEqual(float(train["learning_rate"]), rate[preset, stage])
                for key, value in {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0, "max_grad_norm": 1,
                                   "warmup_steps": 0, "min_lr_ratio": 0, "seed": 42, "top_k": 2}.items():
                    self.assertEqual(float(train[key]), value, key)
                self.assertEqual(train["dtype"], "bfloat16")
                self.assertEqual(train["eos_label"], "false")

    def test_the_plan_is_of_the_run(self):
        planned = resolved("plan", "llama3.2-3b-plan")["train"]
        self.assertEqual(dict(planned), dict(self.train["llama3.2-3b-el", "default", 1]["train"]))

    def test_steps_of_two_billion_tokens(self):
        for (run, preset, stage), config in self.train.items():
            if stage == 1:
                wanted = {"default": 15259, "paper-literal": 15000, "released-script": 477}[preset]
                self.assertEqual(steps(config["train"], 2_000_000_000), wanted, (run, preset))

    def test_losses_and_compatibility(self):
        for (run, preset, stage), config in self.train.items():
            train, release = config["train"], preset == "released-script"
            with self.subTest(run=run, preset=preset, stage=stage):
                self.assertEqual(float(train["router_aux_loss_coef"]), 0.01)
                self.assertEqual(float(train["lpr_loss_coef"]), 0.1)
                if stage == 2:
                    self.assertEqual(train["lpr_form"], "off" if release else "double_softmax")
                self.assertEqual(train["loss_norm"], "microbatch_mean" if release else "global_tokens")
                self.assertEqual(config["router"]["compat"], "release" if release else "none")
                self.assertEqual((config["pack"]["batch_docs"], config["pack"]["shards"]),
                                 ("1000", "128") if release else ("0", "1"))

    def test_data_and_experts_of_each_run(self):
        for (run, _, stage), config in self.train.items():
            model, lang = run.rsplit("-", 1)
            with self.subTest(run=run, stage=stage):
                old = [s for s in config.sections() if s.startswith("data.") and config[s]["mark"] == "old"]
                self.assertEqual(sorted(old), ["data.en", "data.es", "data.zh"] if stage == 2 else [])
                self.assertEqual(config["data.target"]["tokens"], f"tokens/{model}/{lang}.h5")
                self.assertEqual(config["data.target"]["mark"], "new")
                self.assertEqual(config["data.target"]["max_docs"], "100000" if stage == 2 else "0")
                self.assertEqual([config[s]["max_docs"] for s in old], ["50000"] * len(old))
                experts = config["run"]["experts"]
                if lang in ("bn", "ne"):  # not published: made by the user
                    self.assertEqual(experts, f"runs/{model}/experts-{lang}.cfg")
                else:
                    self.assertEqual(experts, f"configs/experts/{run}.cfg")
                    self.assertTrue(os.path.exists(os.path.join(ROOT, experts)))

    def test_the_other_commands(self):
        for run in RUNS:
            lang = run.rsplit("-", 1)[1]
            self.assertEqual(resolved("allocate", run)["allocation"]["languages"], "en," + lang)
            self.assertEqual(resolved("tokenize", run)["tokenize"]["input"], f"{lang}:new:text/{lang}.jsonl")
            for command in ("analyze", "specialize"):
                analysis = resolved(command, run, "sense")["analysis"]
                self.assertEqual((analysis["top_k"], analysis["max_tokens"], analysis["dtype"]),
                                 ("1000", "256", "float32"))

    def test_pipeline_configs_resolve(self):
        command = {"tokenize": "tokenize", "pretrain": "pretrain", "analyze": "analyze", "allocate": "allocate",
                   "uniform": "allocate", "stage1": "train", "stage2": "train", "specialize": "specialize",
                   "evaluate": "evaluate", "generate": "generate"}
        quickstart, short, base, own = (os.path.join(ROOT, "configs", name + ".cfg") for name in (
            "quickstart", "quickstart-short", "quickstart-base", "your-model"))
        with tempfile.TemporaryDirectory() as work:
            for chosen, more in (([quickstart], []), ([quickstart, short], []), ([quickstart, base], ["pipeline.base=m"]),
                                 ([own], [])):
                texts = pipeline_config.step_files(pipeline_config.read_files(chosen, more), "el", "test")
                self.assertGreaterEqual(len(texts), 10)
                for name, text in texts.items():
                    path = os.path.join(work, "step.cfg")
                    with open(path, "w", encoding="utf-8") as stream:
                        stream.write(text)
                    step = os.path.basename(name)[:-4].split("-")[0]
                    stage = ["--stage", step[-1]] if step.startswith("stage") else []
                    printed(command[step], ["--config", path, *stage], work)

    def test_runs_of_the_paper_resolve_as_pipelines_with_the_same_numbers(self):
        for lang, preset in [(lang, "default") for lang in ("el", "tr", "hu", "bn", "ne")] + [("el", "paper-literal"),
                                                                                              ("el", "released-script")]:
            more = [f"pipeline.stage{n}={'llama3.2-3b-replay.cfg ' if n == 2 else ''}optimizer.cfg {preset}-stage{n}.cfg" for n in (1, 2)]
            chosen = ["llama3.2-3b-pipeline"] + ([f"llama3.2-3b-{lang}-pipeline"] if lang in ("bn", "ne") else [])
            texts = pipeline_config.step_files(pipeline_config.read_files(
                [os.path.join(ROOT, "configs", name + ".cfg") for name in chosen], more), lang, "test")
            run = f"llama3.2-3b-{lang}"
            with tempfile.TemporaryDirectory() as work:
                def printed_step(name, command, *options):
                    path = os.path.join(work, "step.cfg")
                    with open(path, "w", encoding="utf-8") as stream:
                        stream.write(texts[name])
                    return printed(command, ["--config", path, *options], work)
                for stage in (1, 2):
                    found = printed_step(f"{lang}/stage{stage}.cfg", "train", "--stage", str(stage))
                    wanted = self.train.get((run, preset, stage)) or resolved("train", *stage_files(run, preset, stage))
                    for section in ("train", "lbl", "router", "pack"):
                        self.assertEqual(dict(found[section]), dict(wanted[section]), (run, preset, stage, section))
                    self.assertEqual(data_of(found, lang), data_of(wanted, lang))
                found = printed_step("analyze.cfg", "analyze")["analysis"]
                wanted = resolved("analyze", run, "sense")["analysis"]
                for key in ("sentences", "max_tokens", "top_k", "ap_min", "dtype"):
                    self.assertEqual(found[key], wanted[key])
                self.assertEqual(printed_step(f"{lang}/allocate.cfg", "allocate")["allocation"]["languages"], "en," + lang)

    def test_readme_has_the_short_names_and_exit_codes_of_the_program(self):
        done = subprocess.run([BINARY, "--help"], capture_output=True, text=True, check=True)
        with open(os.path.join(ROOT, "README.md"), encoding="utf-8") as stream:
            readme = stream.read()
        names = re.findall(r"^  --(\w+) +--\w+\.\w+", done.stdout.split("Short names")[1], re.M)
        codes = re.findall(r"^  (\d+) +(.+)$", done.stdout.split("Exit codes:")[1], re.M)
        self.assertGreater(len(names), 10)
        self.assertGreater(len(codes), 7)
        paragraph = re.search(r"Short\s+names exist for\s+`([^`]+)`", readme)[1]
        self.assertEqual(sorted(re.findall(r"--(\w+)", paragraph)), sorted(set(names)))
        table = readme.split("## Exit codes")[1].split("##")[0]
        self.assertEqual(re.findall(r"^\| (\d+) \| (.+) \|$", table, re.M), codes)

    def test_documented_files_exist(self):
        with open(os.path.join(ROOT, "docs", "configs.md"), encoding="utf-8") as stream:
            text = stream.read()
        named = re.findall(r"\$c/([\w.-]+\.cfg)", text)
        self.assertGreater(len(named), 8)
        for name in named:
            self.assertTrue(os.path.exists(os.path.join(ROOT, "configs", name)), name)


if __name__ == "__main__":
    unittest.main()
