#!/usr/bin/python3
"""Damaged and hostile files through the whole program: one line and the documented code, no crash, no wait, and no number
out of a file that was not checked. Usage: hostile_inputs.py MPIEXEC NEURONMOE"""
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path

import h5py
import numpy as np

import convert  # the same model, token file and checks; it takes the same arguments
from convert import check
from newer_formats import crc32c, reseal_manifest

MPIEXEC, BINARY = sys.argv[1], sys.argv[2]
rng = random.Random(1)


SESSION = tempfile.TemporaryDirectory(prefix="nmoe-mpi-")
# One process alone starts no daemon of MPI then, which takes longer than most of the cases here.
ALONE = {"OMPI_MCA_ess_singleton_isolated": "1", "OMPI_MCA_orte_tmpdir_base": SESSION.name}


def run(ranks, *arguments, **how):
    launcher = [MPIEXEC, "-n", str(ranks)] if ranks > 1 else []
    return subprocess.run(launcher + [BINARY] + [str(a) for a in arguments], stderr=subprocess.PIPE, timeout=120,
                          env={**os.environ, **({} if ranks > 1 else ALONE)}, **{"stdout": subprocess.PIPE, **how})


def lines_of(done, word):
    return [line for line in done.stderr.decode(errors="replace").splitlines() if word in line]


def refused(what, code, words, *arguments, ranks=1, **how):
    done = run(ranks, *arguments, **how)
    lines = lines_of(done, "neuronmoe: error")
    good = done.returncode == code and len(lines) == 1 and all(str(word) in lines[0] for word in words)
    check(good, f"{what}: {code}, one line" + ("" if good else f"; got {done.returncode}: {done.stderr.decode()[-600:]}"))


def accepted(what, *arguments, ranks=1):
    done = run(ranks, *arguments)
    good = done.returncode == 0
    check(good, f"{what}: 0" + ("" if good else f"; got {done.returncode}: {done.stderr.decode()[-600:]}"))
    return done


def flipped(path, target, at=None):
    data = bytearray(path.read_bytes())
    at = rng.randrange(len(data)) if at is None else at
    data[at] ^= 1 << rng.randrange(8)
    target.write_bytes(data)
    return target


def sealed_files(work):
    """Files that stand alone carry a checksum, which h5py does not mind."""
    scores, bad = work / "scores.h5", work / "bad.h5"
    accepted("score", "score", "--synthetic", "40x30x3", "--output", scores)
    data = scores.read_bytes()
    crc = crc32c(b"%08x" % crc32c(data[512:]))
    check(data[:512].rstrip(b"\0") == b"neuronmoe-seal 1\nbytes %d\ncrc32c %08x\n" % (len(data), crc), "seal as documented")
    with h5py.File(scores) as f:
        check(f.userblock_size == 512 and f["ap"].shape == (3, 40), "h5py reads a file with a seal")
    accepted("inspect of a sealed file", "inspect", scores)
    for at in (0, 3, 17, 25, 40, 100, 511, 512, 530, len(data) // 2, len(data) - 1):
        refused(f"flip of byte {at}", 65, [bad], "inspect", flipped(scores, bad, at))
    bad.write_bytes(data[:-7])
    refused("cut short", 65, [bad], "inspect", bad)
    bad.write_bytes(data + b"x")
    refused("lengthened", 65, [bad], "inspect", bad)
    accepted("allocate of another format ends in words", "inspect", scores, ranks=2)
    refused("neurons.h5 in allocate", 65, [bad, "damaged"], "allocate", "--allocation.neurons", flipped(scores, bad, 900),
            "--output", work / "never.cfg", ranks=2)
    refused("our own file in score", 65, [bad, "damaged"], "score", "--score.input", bad, "--output", work / "never.h5", ranks=2)
    # A damaged link in a group of many links is what HDF5 1.10 crashes on. Without a checksum, a trial process takes the blow.
    old = work / "old.h5"
    with h5py.File(old, "w", libver=("v110", "v110")) as f:
        f.attrs["complete"] = 1
        for i in range(14):
            f[f"dataset_{i}"] = np.arange(4.0)
    heap = old.read_bytes().index(b"FHDB")
    codes = set()
    for at in range(heap, heap + 300, 18):
        done = run(1, "inspect", flipped(old, bad, at))
        codes.add(done.returncode)
        if len(lines_of(done, "neuronmoe: error")) != (done.returncode != 0):
            check(False, f"flip of byte {at} of a file without checksum: {done.stderr.decode()[-300:]}")
    check(65 in codes and codes <= {0, 65}, f"flips in a file without checksum: codes {codes}")


def token_files(work):
    text = work / "text.jsonl"
    text.write_text('{"text": "a b c a b c"}\n' * 40)
    tokens, bad = work / "sealed-tokens.h5", work / "bad-tokens.h5"
    accepted("tokenize", "tokenize", "--tokenize.tokenizer", convert.TOKENIZER, "--tokenize.input", f"el:new:{text}", "--output",
             tokens, ranks=2)
    evaluate = ["evaluate", "--model", work / "model", "--evaluation.block", "16", "--output", work / "eval.json",
                "--evaluation.text"]
    done = accepted("evaluate of a token file without checksum", *evaluate, f"el:{work / 'tokens.h5'}", ranks=2)
    check(len(lines_of(done, "has no checksum")) == 1, "it is warned of, once")
    check(len(lines_of(done, "tokenize again for both")) == 1, "and of what older programs did not note, once")
    found = json.loads((work / "eval.json").read_text())["perplexity"]["el"]
    check(found["ppl"] > 1 and found["byte_perplexity"] is found["words"] is None, f"which is null: {found}")
    train = train_command(work) + ["--output", work / "never", "--tokens"]
    for at in (5, 700, tokens.stat().st_size - 3):
        flipped(tokens, bad, at)
        refused(f"flip of byte {at} of a token file in evaluate", 65, [bad], *evaluate, f"el:{bad}", ranks=2)
        refused(f"flip of byte {at} of a token file in train", 65, [bad], *train, bad, ranks=2)
    shutil.copy(work / "tokens.h5", bad)
    with h5py.File(bad, "r+") as f:
        names = f["languages"][...]
        del f["languages"]
        f["languages"] = np.concatenate([names, names[:1]])
    refused("a language twice", 65, [bad, "twice"], *evaluate, f"el:{bad}")


def responses(path, values, labels=None, **how):
    with h5py.File(path, "w") as f:
        f.create_dataset("responses", data=values, **how)
        f["labels"] = np.arange(values.shape[1]) % 2 if labels is None else labels
    return path


def score_inputs(work):
    source, out = work / "responses.h5", work / "ap.h5"
    score = ["score", "--output", out, "--score.memory_mb", "1", "--score.input"]
    values = np.random.default_rng(3).standard_normal((70, 46)).astype("f4")
    accepted("contiguous", *score, responses(source, values), ranks=2)
    with h5py.File(out) as f:
        wanted = f["ap"][...]
    for chunks in ((70, 46), (16, 16), (1, 46), (70, 1), (9, 7)):
        for filters in ({}, {"compression": 4}, {"compression": 4, "shuffle": True, "fletcher32": True}, {"fletcher32": True}):
            accepted(f"chunks {chunks} {filters}", *score, responses(source, values, chunks=chunks, **filters))
            with h5py.File(out) as f:
                check(np.array_equal(f["ap"][...], wanted), f"chunks {chunks} {filters}: the same scores")
    with h5py.File(source, "w") as f:  # a chunk that nobody wrote
        d = f.create_dataset("responses", (20, 46), "f4", chunks=(10, 46), compression=4, fillvalue=2.5)
        d[:10] = values[:10]
        f["labels"] = np.arange(46) % 2
    accepted("a chunk that was never written", *score, source)
    never = ["score", "--output", work / "never.h5", "--score.input"]

    def stored(what, raw, *words):
        with h5py.File(source, "w") as f:
            d = f.create_dataset("responses", (64, 46), "f4", chunks=(64, 46), compression=4)
            d.id.write_direct_chunk((0, 0), raw)
            f["labels"] = np.arange(46) % 2
        refused(what, 65, [source, *words], *never, source)

    size = 64 * 46 * 4
    stored("a chunk that inflates to less", zlib.compress(b"x" * (size - 1)), "/responses")
    stored("a chunk that inflates to more", zlib.compress(b"x" * (size + 1)), "/responses")
    stored("a chunk that inflates to a gigabyte", zlib.compress(b"\0" * (1 << 30)), "/responses")
    stored("a chunk that does not inflate", b"not deflate at all", "/responses")
    stored("a chunk cut short", zlib.compress(values[:64].tobytes())[:-9], "/responses")
    with h5py.File(source, "w") as f:
        f.create_dataset("responses", (1 << 14, 1 << 14), "f4", chunks=(256, 1 << 14), compression=9)[:256] = 0
        f["labels"] = np.arange(1 << 14) % 2
    refused("1 GB of nothing in a small file", 65, [source, "more than a file"], *never, source)
    values[3, 5] = np.inf
    refused("infinite response", 65, [source, "/responses[3, 5]", "infinite"], *never, responses(source, values), ranks=2)
    refused("infinite wide response", 65, ["/responses[3, 5]"], *never, responses(source, values.astype("f8")))
    # Whatever bit of the structure is wrong: an answer or one line.
    compressed = responses(work / "sound.h5", np.nan_to_num(values, posinf=0.0), chunks=(16, 46), compression=4, shuffle=True)
    codes = set()
    for at in list(range(0, 96, 8)) + [rng.randrange(compressed.stat().st_size) for _ in range(12)]:
        done = run(1, *score, flipped(compressed, source, at))
        codes.add(done.returncode)
        if len(lines_of(done, "neuronmoe: error")) != (done.returncode != 0):
            check(False, f"flip of byte {at} of a score input: {done.stderr.decode()[-300:]}")
    check(65 in codes and codes <= {0, 65}, f"flips in a score input: codes {codes}")
    check(not list(work.glob("never*")), "nothing is left behind")


def inspected(work):
    odd = work / "odd.h5"

    def made(fill):
        with h5py.File(odd, "w") as f:
            f.attrs["complete"] = 1
            fill(f)

    def cyclic(f):
        group = f.create_group("a")
        group.create_group("b")["back"] = group

    def root_again(f):
        f.create_group("a")["top"] = f["/"]

    made(cyclic)
    refused("cyclic groups", 65, [odd, "links"], "inspect", odd)
    made(root_again)
    refused("the root inside itself", 65, [odd, "links"], "inspect", odd)
    made(lambda f: f.create_group("/".join("d" * 3000)))
    refused("3000 nested groups", 65, [odd, "deeper"], "inspect", odd)
    made(lambda f: f.create_dataset("red\x1b[31m\nintact: \x9b1m", data=[1.0]).attrs.create("k\x1b", np.bytes_(b"v\x1b[2J")))
    out = accepted("escape codes in names", "inspect", odd).stdout
    check(b"\x1b" not in out and b"\xc2\x9b" not in out and b"\\x1b[31m" in out, "no escape code reaches the terminal")
    for what, arguments in (("inspect", ["inspect", odd]), ("--print-config", ["train", "--print-config"]), ("--help", ["--help"]),
                            ("plan", ["plan", "--model", work / "model", "--train.seq_length", "16"])):
        with open("/dev/full", "wb") as full:
            refused(f"{what} > /dev/full", 75, ["standard output"], *arguments, stdout=full)


def pipes_and_devices(work):
    """Opening a pipe waits for its writer; /dev/zero has no end."""
    pipe = work / "pipe"
    os.mkfifo(pipe)
    model = work / "model-of-pipes"
    shutil.copytree(work / "model", model)
    for odd in (pipe, Path("/dev/zero")):
        (model / "config.json").unlink()
        (model / "config.json").symlink_to(odd)
        plan = ["plan", "--model"]
        refused(f"config.json is {odd}", 65, [model / "config.json"], *plan, model)
        refused(f"--config {odd}", 78, [odd], *plan, work / "model", "--config", odd)
        refused(f"--experts {odd}", 65, [odd], *plan, work / "model", "--experts", odd)
        refused(f"--counts {odd}", 65, [odd], "allocate", "--counts", odd, "--columns", "el", "--output", work / "never.cfg")
        refused(f"--tokens {odd}", 65, [odd], *train_command(work), "--output", work / "never", "--tokens", odd, ranks=2)
        refused(f"--score.input {odd}", 65, [odd], "score", "--output", work / "never.h5", "--score.input", odd)
        refused(f"inspect {odd}", 65, [odd], "inspect", odd)
        step = work / "step_0000000001"
        step.mkdir(exist_ok=True)
        (step / "manifest.json").unlink(missing_ok=True)
        (step / "manifest.json").symlink_to(odd)
        refused(f"manifest.json is {odd}", 65, ["manifest.json"], "inspect", step)
        shutil.rmtree(step)


def train_command(work):
    return ["train", "--model", work / "model", "--experts", work / "experts.cfg", "--train.seq_length", "16",
            "--train.global_batch_size", "4", "--train.micro_batch_size", "2", "--train.steps", "2", "--train.save_every", "1"]


def converted_base(work):
    """A --model that convert made is compared with its manifest by every command."""
    base, bad = work / "base", work / "bad-base"
    accepted("convert", "convert", work / "model", "--convert.to", "checkpoint", "--output", base)
    text = f"el:{work / 'tokens.h5'}"
    commands = {
        "evaluate": ["--evaluation.text", text, "--evaluation.block", "16", "--output", work / "base-eval.json"],
        "plan": ["--train.seq_length", "16"],
        "train": train_command(work)[3:] + ["--tokens", work / "tokens.h5", "--output", work / "base-run"],
        "analyze": ["--analysis.sense", "el:none.json", "--output", work / "never.h5"],
        "specialize": ["--analysis.sense", "el:none.json", "--resume", "none", "--output", work / "never.h5"],
        "allocate": ["--counts", "none.csv", "--columns", "el", "--output", work / "never.cfg"],
        "convert": [work / "no-adapter", "--convert.to", "adapter", "--output", work / "never"]}
    for name in ("evaluate", "plan", "train"):
        accepted(f"{name} of a sound converted base", name, "--model", base, *commands[name])
    for file in ("model.h5", "config.json", "manifest.json"):
        shutil.rmtree(bad, ignore_errors=True)
        shutil.copytree(base, bad)
        flipped(base / file, bad / file, (base / file).stat().st_size // 2)
        for name, more in commands.items():
            words = [bad, "damaged"]
            if name == "convert":
                refused(f"{name}: {file} of the base", 65, words, name, more[0], "--model", bad, *more[1:])
            else:
                refused(f"{name}: {file} of the base", 65, words, name, "--model", bad, *more, ranks=2 if file == "model.h5" else 1)
    refused("plan of a config.json", 65, ["manifest.json"], "plan", "--model", bad / "config.json")


def impossible_values(work):
    """A manifest says that the bytes are those that were written, not that the numbers can be."""
    train = train_command(work) + ["--tokens", work / "tokens.h5", "--output"]
    accepted("train", *train, work / "run")
    step = max((work / "run").glob("step_*"))

    def attribute(group, name, value):
        return "state.h5", lambda f: f[group].attrs.modify(name, value), name

    def element(file, name, value):
        def change(f):
            f[name][(0,) * f[name].ndim] = value
        return file, change, name

    def text(f):
        del f["config"]
        f["config"] = np.array([b"\xff\xfe[run]"], "S8")

    with h5py.File(step / "model.h5") as f:
        router = next(f"/model/layers/{name}/router" for name, layer in f["model/layers"].items() if "router" in layer)
    changes = [
        attribute("progress", "step", np.int64(1 << 62)), attribute("progress", "step", np.int64(-1)),
        attribute("progress", "tokens_seen", np.int64(-5)), attribute("progress", "samples_seen", np.int64(-(1 << 63))),
        attribute("progress", "nan_steps_in_a_row", np.int64(1 << 40)), attribute("progress", "skipped_steps", np.int64(-1)),
        attribute("progress", "optimizer_steps", np.int64(1 << 62)), attribute("progress", "lr", np.float64("nan")),
        attribute("progress", "lr", np.float64("inf")),
        element("optim.h5", "/flat/master", np.nan), element("optim.h5", "/flat/exp_avg", np.inf),
        element("optim.h5", "/flat/exp_avg_sq", -1.0), element("optim.h5", "/flat/exp_avg_sq", np.nan),
        element("model.h5", router, np.nan), element("model.h5", router, -np.inf),
        element("model.h5", "/num_experts", 10 ** 9), element("model.h5", "/num_experts", -3),
        element("model.h5", "/num_experts", 2),
        ("state.h5", text, "/config"), ("model.h5", lambda f: f["model"].create_group("z").__setitem__("up", f["model"]), "/model")]
    bad = work / "bad-run" / step.name
    for file, change, name in changes:
        shutil.rmtree(bad.parent, ignore_errors=True)
        shutil.copytree(step, bad)
        with h5py.File(bad / file, "r+") as f:
            change(f)
        reseal_manifest(bad, file)
        refused(f"{file}: {name}", 65, [bad / file, name.strip("/").split("/")[0]], *train, bad.parent, "--train.steps", "3",
                "--resume", bad, ranks=2)
        for form in ("transformers", "transformers-code") if file == "model.h5" else ():
            refused(f"{form} of it", 65, [bad], "convert", bad, "--model", work / "model", "--convert.to", form, "--output", work / "never")


def main():
    work = Path(tempfile.mkdtemp(prefix="nmoe-hostile-"))
    try:
        tensors = convert.random_tensors(np.random.default_rng(1), convert.dense_shapes(False, False), "F32")
        convert.make_model(work / "model", tensors, convert.config_json())
        convert.token_file(work / "tokens.h5")
        shutil.copy(convert.TOKENIZER, work / "model" / "tokenizer.model")  # the one that the tokens name
        (work / "experts.cfg").write_text("ADA_MOE_NUM_EXPERTS_LIST=3,1,2\n")
        for part in (sealed_files, token_files, score_inputs, inspected, pipes_and_devices, converted_base, impossible_values):
            part(work)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    print(f"hostile_inputs.py: {len(convert.failures)} failed")
    sys.exit(1 if convert.failures else 0)


if __name__ == "__main__":
    main()
