#!/usr/bin/python3
"""Bad input and bad options: one clear line, the documented exit code, nothing half-written, no rank left.
Usage: bad_input.py MPIEXEC NEURONMOE SOURCE_DIR"""
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import h5py
import numpy as np

MPIEXEC, BINARY, SOURCE = sys.argv[1], sys.argv[2], Path(sys.argv[3])
failures = []
count = 0


SESSION = tempfile.TemporaryDirectory(prefix="nmoe-mpi-")
# One process alone starts no daemon of MPI then, which takes longer than most of the cases here.
ALONE = {"OMPI_MCA_ess_singleton_isolated": "1", "OMPI_MCA_orte_tmpdir_base": SESSION.name}


def run(arguments, ranks=1, env=None):
    launcher = [MPIEXEC, "-n", str(ranks)] if ranks > 1 else []
    return subprocess.run(launcher + [BINARY] + [str(a) for a in arguments], capture_output=True, text=True, timeout=60,
                          env={**os.environ, **({} if ranks > 1 else ALONE), **(env or {})})


def fail(what, done, problems):
    failures.append(what)
    print(f"FAILED {what}: " + "; ".join(problems) + f"\n  stdout: {done.stdout[-1500:]}\n  stderr: {done.stderr[-1500:]}")


def expect(what, arguments, code, *texts, ranks=1, untouched=None, env=None):
    """Exit code, exactly one error line, which holds every text; `untouched` directory is as before."""
    global count
    count += 1
    before = sorted(os.listdir(untouched)) if untouched else None
    done = run(arguments, ranks, env)
    lines = [line for line in done.stderr.splitlines() if "neuronmoe: error" in line]
    problems = []
    if done.returncode != code:
        problems.append(f"exit code {done.returncode}, expected {code}")
    if len(lines) != 1:
        problems.append(f"{len(lines)} error lines, expected 1")
    for text in texts:
        if not any(text in line for line in lines):
            problems.append(f"the error line lacks '{text}'")
    if untouched and sorted(os.listdir(untouched)) != before:
        problems.append(f"left behind: {sorted(set(os.listdir(untouched)) - set(before))}")
    if problems:
        fail(what, done, problems)


def expect_ok(what, arguments, ranks=1):
    global count
    count += 1
    done = run(arguments, ranks)
    if done.returncode != 0:
        fail(what, done, [f"exit code {done.returncode}"])
    return done


def options():
    expect("no command", ["--model", "m"], 78, "no command given")
    expect("unknown command", ["trian"], 78, "unknown command 'trian'", "did you mean 'train'")
    expect("help about nothing", ["trian", "--help"], 78, "unknown command 'trian'", "did you mean 'train'")
    expect("help about no key", ["help", "train.stepz"], 78, "unknown key 'train.stepz'", "did you mean 'train.steps'")
    expect("help about too much", ["help", "train", "now"], 78, "stray argument 'now'")
    expect("unknown shell", ["completions", "fish"], 78, "bash or zsh")
    expect("unknown option", ["train", "--modle", "m"], 78, "unknown option '--modle'", "did you mean '--model'", ranks=2)
    expect("abbreviated option", ["train", "--train.step", "1"], 78, "did you mean '--train.steps'")
    expect("stray word", ["train", "m"], 78, "stray argument 'm'")
    expect("option without value", ["train", "--model"], 78, "--model")
    expect("negative for unsigned", ["train", "--train.seed", "-1"], 78, "train.seed = '-1'", ranks=2)
    expect("nan", ["train", "--train.learning_rate", "nan"], 78, "train.learning_rate = 'nan'")
    expect("missing config file", ["train", "--config", "/nowhere/a.cfg"], 78, "/nowhere/a.cfg", "No such file", ranks=2)
    expect("config file is a directory", ["train", "--config", "/"], 78, "is a directory")
    expect("required option missing", ["allocate"], 78, "--output is not set")
    expect("no CUDA", ["allocate", "--device", "cuda", "--output", "x"], 78, "--device cuda", ranks=2,
           env={"CUDA_VISIBLE_DEVICES": ""})
    expect("N singletons under srun", ["check"], 78, "--mpi=pmix", "SLURM_STEP_NUM_TASKS", env={"SLURM_STEP_NUM_TASKS": "4"})
    expect("MPI of another launcher", ["check"], 78, "PMI_SIZE", env={"PMI_SIZE": "2"})
    for path in sorted((SOURCE / "tests/bad_configs").glob("*.cfg")):
        expect(f"bad config {path.name}", ["train", "--config", path, "--print-config"], 78, f"{path}:")


def checked(work):
    """`check`: a verdict on every line, and advice in the words of the launcher."""
    out = run(["check", "--output", work / "place"], ranks=2).stdout
    lines = {line.split("  ")[0]: line for line in out.splitlines() if line and not line.startswith(" ")}
    for what in ("program", "launcher", "cores", "NUMA", "clocks", "MPI", "collectives", "free space", "MPI-IO", "HDF5"):
        if not any(f"{what:12} {verdict}: " in out for verdict in ("ok", "warning")):
            failures.append(f"check: {what}")
            print(f"FAILED check has no verdict on {what}:\n{out}")
    if "verdict      ready" not in out or "mpirun" not in lines["launcher"] or "2 ranks on 1 host" not in lines["launcher"] or "\x1b" in out:
        failures.append("check")
        print(f"FAILED check:\n{out}")
    apart = [word for node in ("one", "two") for word in (":", "-n", "1", "env", f"SLURMD_NODENAME={node}", BINARY, "check", "--output", work / "place")]
    out = subprocess.run([MPIEXEC, *map(str, apart[1:])], capture_output=True, text=True).stdout
    if "2 ranks on 2 hosts" not in out or not re.search(r"clocks +ok: [\d.]+ ms between ranks 0 \(one\) and [01] \((one|two)\)", out):
        failures.append("check on two hosts")
        print(f"FAILED check on two hosts says nothing of their clocks:\n{out}")
    crowded = {"OMP_NUM_THREADS": str(os.cpu_count() + 1)}
    for launcher, env, advice in [("no launcher", {}, "taskset"), ("srun", {"SLURM_STEP_ID": "0", "SLURM_PROCID": "0"}, "srun --cpus-per-task="),
                                  ("mpiexec", {"PALS_RANKID": "0"}, "mpiexec with")]:
        # One core of several: more of them would help.
        bound = subprocess.run(["taskset", "-c", str(min(os.sched_getaffinity(0))), BINARY, "check", "--output", work / "place"],
                               capture_output=True, text=True, env={**os.environ, **ALONE, **crowded, **env})
        line = next(text for text in bound.stdout.splitlines() if text.startswith("cores"))
        if f"ok: {launcher}" not in bound.stdout or "cores        warning: " not in line or (advice not in line and os.cpu_count() > 1):
            failures.append(f"check under {launcher}")
            print(f"FAILED check under {launcher} gives no advice with '{advice}':\n{bound.stdout}")
    if sorted(os.listdir(work / "place")):
        failures.append("check leaves files")
        print(f"FAILED check leaves {os.listdir(work / 'place')}")


def printed_config(work):
    cfg = work / "a b.cfg"
    cfg.write_text("[run]\nmodel = /data/run#3/x\n[train]\nstage = 2\neps = 3e-9\n[data.el]\ntokens = el.h5\nmark = new\n"
                   "[analysis]\nsense = en:a.json\nsense = el:b.json\n")
    first = expect_ok("--print-config", ["train", "--config", cfg, "--train.steps", "7", "--print-config"], ranks=2).stdout
    (work / "printed.cfg").write_text(first)
    second = expect_ok("--print-config again", ["train", "--config", work / "printed.cfg", "--print-config"]).stdout
    if first != second or "steps = 7\n" not in first or "seq_length = 512\n" not in first or first.count("sense = ") != 2:
        failures.append("printed config")
        print("FAILED printed config:\n" + first + "\n---\n" + second)
    for command in "tokenize pretrain analyze score allocate train specialize evaluate loglikelihood generate convert check inspect".split():
        text = expect_ok(f"{command} --help", [command, "--help"]).stdout
        if f"neuronmoe {command}:" not in text or "--run.threads" not in text or "[0..0]" in text:
            failures.append(f"{command} --help")
            print(f"FAILED {command} --help:\n{text}")
    expect_ok("--help", ["--help"], ranks=2)
    expect_ok("help about a command", ["help", "train"])
    for key in ("train.top_k", "stage", "data.el.tokens"):
        if "read by " not in expect_ok(f"help about {key}", ["help", key]).stdout:
            failures.append(f"help {key}")
            print(f"FAILED help {key} does not say which commands read it")
    version = expect_ok("--version", ["--version"]).stdout
    for what in ("neuronmoe ", "compiler", "flags", "MPI", "HDF5", "oneDNN", "CUDA", "NCCL"):
        if not any(line.startswith(what) and len(line.split()) > 1 for line in version.splitlines()):
            failures.append("--version")
            print(f"FAILED --version lacks {what}:\n{version}")


def small_model(work):
    model = work / "model"
    model.mkdir()
    (model / "config.json").write_text(json.dumps({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 64, "hidden_size": 16,
        "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8,
        "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": True,
        "hidden_act": "silu", "bos_token_id": 1, "eos_token_id": 2, "torch_dtype": "float32"}))
    return model


def expert_lists(work, model):
    out = work / "out"
    out.mkdir()
    for name, text, code, *texts in [
            ("too_long", "ADA_MOE_NUM_EXPERTS_LIST=2,1,2\n", 65, "3", "2"),
            ("too_short", "ADA_MOE_NUM_EXPERTS_LIST=2\n", 65, "1", "2"),
            ("zero", "ADA_MOE_NUM_EXPERTS_LIST=2,0\n", 65),
            ("negative", "ADA_MOE_NUM_EXPERTS_LIST=2,-1\n", 65),
            ("letters", "ADA_MOE_NUM_EXPERTS_LIST=2,x\n", 65),
            ("missing_list", "# nothing here\n", 65),
            ("shell", "ADA_MOE_NUM_EXPERTS_LIST=$(touch pwned)\n", 65),
            ("all_dense", "ADA_MOE_NUM_EXPERTS_LIST=1,1\n", 78, "nothing to train")]:
        path = work / f"{name}.cfg"
        path.write_text(text)
        expect(f"expert list {name}", ["train", "--model", model, "--experts", path, "--tokens", "t.h5", "--output", out / "run"],
               code, str(path), *texts, ranks=2, untouched=out)
    good = work / "good.cfg"
    good.write_text("ADA_MOE_NUM_EXPERTS_LIST=2,1\n")
    train = ["train", "--model", model, "--experts", good, "--output", out / "run"]
    expect("expert-parallel size does not divide", train + ["--tokens", "t.h5", "--train.expert_parallel_size", "3"], 78,
           "3", "2", ranks=2, untouched=out)
    placed = train + ["--tokens", "t.h5", "--train.placement_tokens_from", "/nowhere/run"]
    expect("counts that nothing asks for", placed, 78, "/nowhere/run", "expected; set it to measured", ranks=2, untouched=out)
    expect("counts from nowhere", placed + ["--train.placement_tokens", "measured"], 65, "/nowhere/run", ranks=2, untouched=out)
    expect("no data", train, 78, "--tokens is not set", untouched=out)
    expect("missing token file", train + ["--tokens", "/nowhere/t.h5"], 65, "/nowhere/t.h5", ranks=2, untouched=out)
    expect("missing model", ["train", "--model", "/nowhere", "--experts", good, "--tokens", "t.h5", "--output", out / "run"], 65,
           "/nowhere/config.json", ranks=2, untouched=out)
    expect("stage 2 without a start", ["train", "--model", model, "--stage", "2", "--output", out / "run"], 78, "train.init_from")
    expect("stage 2 from nowhere", ["train", "--model", model, "--stage", "2", "--train.init_from", "/nowhere", "--tokens", "t.h5",
                                    "--output", out / "run"],
           65, "/nowhere", ranks=2, untouched=out)


def hdf5_files(work):
    good = work / "matrix.h5"
    rng = np.random.default_rng(1)
    with h5py.File(good, "w") as f:
        f["responses"] = rng.standard_normal((4000, 40)).astype("f4")
        f["labels"] = (np.arange(40) % 2).astype("i8")
    out = work / "score"
    out.mkdir()
    score = ["score", "--output", out / "ap.h5", "--score.input"]
    expect("missing HDF5 file", score + ["/nowhere/a.h5"], 65, "/nowhere/a.h5", ranks=2, untouched=out)
    for what, keep in [("half", 0.5), ("all but one byte", None)]:
        data = good.read_bytes()
        cut = work / "cut.h5"
        cut.write_bytes(data[:int(len(data) * keep)] if keep else data[:-1])
        expect(f"truncated HDF5 ({what})", score + [cut], 65, str(cut), ranks=2, untouched=out)
    (work / "text.h5").write_text("this is no HDF5 file\n")
    expect("not an HDF5 file", score + [work / "text.h5"], 65, "text.h5", untouched=out)
    (work / "empty.h5").write_bytes(b"")
    expect("empty HDF5 file", score + [work / "empty.h5"], 65, "empty.h5", untouched=out)
    with h5py.File(work / "nan.h5", "w") as f:
        values = np.ones((3, 4), "f4")
        values[2, 1] = np.nan
        f["responses"] = values
        f["labels"] = np.array([0, 1, 0, 1], "i8")
    expect("NaN response", score + [work / "nan.h5"], 65, "neuron 2", ranks=2, untouched=out)
    for what, labels, wanted in [("too few labels", [0, 1, 0], "/labels has 3 entries, /responses has 4 samples"),
                                 ("one label for all", [1, 1, 1, 1], "positives and negatives are needed"),
                                 ("negative label", [0, -1, 2, 1], "/labels runs from -1")]:
        with h5py.File(work / "labels.h5", "w") as f:
            f["responses"], f["labels"] = np.ones((3, 4), "f4"), np.array(labels, "i8")
        expect(what, score + [work / "labels.h5"], 65, "labels.h5", wanted, ranks=2, untouched=out)
    expect("input and synthetic", ["score", "--score.input", good, "--synthetic", "4x4x2", "--output", out / "ap.h5"], 78,
           "score.input", "score.synthetic")
    expect("output below a file", ["score", "--score.input", good, "--output", f"{good}/deep/a.h5"], 70, "Not a directory", ranks=2,
           untouched=out)
    expect("output is a directory", ["score", "--score.input", good, "--output", out], 78, "is a directory", ranks=2, untouched=out)
    expect("output is a file", ["convert", SOURCE, "--convert.to", "checkpoint", "--output", good], 78, "is a file", ranks=2)
    expect("parents of a command that fails", ["score", "--score.input", "/nowhere/a.h5", "--output", out / "deep/er/a.h5"], 65, "/nowhere",
           ranks=2, untouched=out)
    expect_ok("parents of a command that ends well", ["score", "--score.input", good, "--output", out / "deep/er/a.h5"], ranks=2)
    shutil.rmtree(out / "deep", ignore_errors=True)
    expect("inspect nothing", ["inspect", "/nowhere"], 65, "/nowhere")
    expect("inspect an unfinished file", ["inspect", good], 65, "complete")
    expect_ok("score", score + [good], ranks=2)
    text = expect_ok("inspect", ["inspect", out / "ap.h5"]).stdout
    if "/ap" not in text or "intact" not in text:
        failures.append("inspect")
        print("FAILED inspect:\n" + text)
    broken = bytearray((out / "ap.h5").read_bytes())
    broken[len(broken) // 2] ^= 1
    (work / "flip.h5").write_bytes(broken)
    done = run(["inspect", work / "flip.h5"])
    print(f"note: one flipped bit in a statistics file: exit code {done.returncode}")
    return good


def full_disk(work, good):
    disk = work / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], capture_output=True, text=True)
    if mounted.returncode != 0:
        print(f"NOT TESTED: full disk (cannot mount a tmpfs here: {mounted.stderr.strip()})")
        return
    try:
        old = disk / "ap.h5"
        old.write_text("the last good result\n")
        expect("full disk", ["score", "--score.input", good, "--output", old], 75, str(disk), ranks=2, untouched=disk)
        if old.read_text() != "the last good result\n":
            failures.append("full disk")
            print("FAILED full disk: the old file was touched")
    finally:
        subprocess.run(["umount", disk], check=True)


def analysis_inputs(work):
    """Counts that cannot be turned into experts."""
    out = work / "allocated"
    out.mkdir()
    counts = work / "counts.csv"
    counts.write_text("layer,en,el\n0,0,0\n1,0,0\n")
    allocate = ["allocate", "--counts", counts, "--columns", "en,el", "--output", out / "experts.cfg"]
    expect("no layer above the threshold", allocate, 65, f"{counts}: no layer has a language-specific neuron", ranks=2,
           untouched=out)
    counts.write_text("layer,en,el\n0,9,5\n1,2,1\n")
    expect("overlap beyond the counts", allocate + ["--overlap", "1:2"], 78, "allocation.overlap = 1:2", "at most 1",
           untouched=out)
    expect("sweep over what a CSV lacks", allocate + ["--sweep", "top_k=5"], 78, "needs allocation.neurons", untouched=out)
    expect("no such model", allocate + ["--model", work / "deep"], 65, "deep/config.json")
    expect_ok("a flag alone", allocate + ["--explain"])
    text = (out / "experts.cfg").read_text()
    if "E shrinks with" not in text:
        failures.append("--explain")
        print("FAILED --explain:\n" + text)


def libraries():
    """What only a GPU needs and every process would pay for is opened when a GPU is taken (docs/performance.md)."""
    global count
    count += 1
    linked = subprocess.run(["ldd", BINARY], capture_output=True, text=True, check=True).stdout
    if "libcublas" in linked or "libmpi" not in linked:
        failures.append("linked libraries")
        print("FAILED linked libraries:\n" + linked)


def main():
    work = Path(tempfile.mkdtemp(prefix="nmoe-bad-input-"))
    try:
        options()
        libraries()
        checked(work)
        printed_config(work)
        expert_lists(work, small_model(work))
        analysis_inputs(work)
        full_disk(work, hdf5_files(work))
    finally:
        shutil.rmtree(work, ignore_errors=True)
    print(f"bad_input.py: {count} cases, {len(failures)} failed")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
