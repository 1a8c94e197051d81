#!/usr/bin/python3
"""Files of a later version of the program: every reader refuses them with one line and 65, and a resume does not pass
them over. Files without a version are version 1. Usage: newer_formats.py MPIEXEC NEURONMOE"""
import json
import shutil
import sys
import tempfile
from pathlib import Path

import h5py
import numpy as np

import convert  # the same model, token file and checks; it takes the same arguments
from convert import check, run

SAYS = ["version 2 of format", "newest that this program reads is 1", "use a newer neuronmoe"]


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = CRC_TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


def crc_entry(value):
    for _ in range(8):
        value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
    return value


CRC_TABLE = [crc_entry(value) for value in range(256)]


def sealed(manifest):
    body = json.dumps(manifest, indent=1).encode()
    return body + b"\n%08x\n" % crc32c(body)


def set_version(path, version):
    """Of an HDF5 file; None takes it away."""
    with h5py.File(path, "r+") as f:
        if version is None:
            del f.attrs["format_version"]
        else:
            f.attrs.modify("format_version", np.int64(version))


def reseal_manifest(step, file):
    """Makes the manifest of a checkpoint fit a changed HDF5 file: one block over all of it."""
    path = step / "manifest.json"
    text = path.read_bytes()
    check(b"\n%08x\n" % crc32c(text[:-10]) == text[-10:], f"{file}: the seal of the manifest is understood here")
    manifest = json.loads(text[:-10])
    data = (step / file).read_bytes()
    manifest["files"][file] = {"bytes": len(data), "blocks": [
        {"region": "(structure)", "begin": 0, "end": len(data), "crc32c": "%08x" % crc32c(data)}]}
    path.write_bytes(sealed(manifest))


def newer_step(step, target, file):
    """A copy of a checkpoint in which one file has version 2 and the manifest fits it."""
    shutil.copytree(step, target)
    text = (target / "manifest.json").read_bytes()
    check(b"\n%08x\n" % crc32c(text[:-10]) == text[-10:], f"{file}: the seal of the manifest is understood here")
    manifest = json.loads(text[:-10])
    if file == "manifest.json":
        manifest["format_version"] = 2
    else:
        set_version(target / file, 2)
        data = (target / file).read_bytes()
        entry = manifest["files"][file]
        entry["bytes"] = len(data)
        for block in entry["blocks"]:
            block["crc32c"] = "%08x" % crc32c(data[block["begin"]:block["end"]])
    (target / "manifest.json").write_bytes(sealed(manifest))
    return target


def refused(what, *arguments, file, ranks=1):
    done = run(ranks, *arguments, code=65, words=[str(file), *SAYS])
    lines = done.stderr.count("neuronmoe: error")
    check(done.returncode == 65 and lines == 1, f"{what}: refused with one line")


def tokens_and_statistics(work, train):
    tokens = work / "tokens.h5"
    newer = work / "newer-tokens.h5"
    shutil.copy(tokens, newer)
    set_version(newer, 2)
    refused("tokens.h5 in train", *train, "--tokens", newer, "--output", work / "never", file=newer, ranks=2)
    evaluate = ["evaluate", "--model", work / "model", "--evaluation.block", "16", "--evaluation.text", f"el:{newer}", "--output"]
    refused("tokens.h5 in evaluate", *evaluate, work / "never.json", file=newer)
    for version, code, output, words in ((None, 0, "without-version.json", []), (0, 65, "never.json", ["format_version is 0"])):
        shutil.copy(tokens, newer)
        set_version(newer, version)
        run(1, *evaluate, work / output, code=code, words=words)
    check((work / "without-version.json").exists(), "no version is the first")
    neurons = work / "neurons.h5"
    with h5py.File(neurons, "w") as f:  # the version comes before everything else
        f.attrs.create("format", np.bytes_(b"neuronmoe-neurons"))
        for key, value in {"format_version": 2, "complete": 1}.items():
            f.attrs.create(key, value, dtype="i8")
    refused("neurons.h5 in allocate", "allocate", "--allocation.neurons", neurons, "--output", work / "never.cfg", file=neurons)
    check("@format_version = 2" in run(1, "inspect", neurons).stdout, "inspect shows what it cannot interpret")


def checkpoints(work, train):
    step = max((work / "s1").glob("step_*"))
    evaluate = ["evaluate", "--model", work / "model", "--evaluation.text", f"el:{work / 'tokens.h5'}", "--evaluation.block", "16",
                "--output", work / "never.json"]
    resumed = [*train, "--tokens", work / "tokens.h5"]
    for file in ("model.h5", "optim.h5", "state.h5", "manifest.json"):
        run_dir = work / f"run-{file}"
        run_dir.mkdir()
        shutil.copytree(min((work / "s1").glob("step_*")), run_dir / min((work / "s1").glob("step_*")).name)
        newer = newer_step(step, run_dir / step.name, file)
        refused(f"{file}: --resume auto", *resumed, "--output", run_dir, file=newer / file, ranks=2)
        refused(f"{file}: --resume DIR", *resumed, "--output", run_dir, "--resume", newer, file=newer / file)
        check(sorted(p.name for p in run_dir.glob("step_*")) == sorted(p.name for p in (work / "s1").glob("step_*")),
              f"{file}: no checkpoint is removed")
        if file in ("model.h5", "manifest.json"):
            refused(f"{file} in evaluate", *evaluate, "--resume", newer, file=newer / file)
            refused(f"{file} in convert", "convert", newer, "--model", work / "model", "--convert.to", "adapter",
                    "--output", work / "never", file=newer / file)
            refused(f"{file}: train.init_from", *resumed, "--train.init_from", newer, "--output", work / "other",
                    file=newer / file)
        if file == "state.h5":
            refused(f"{file}: counts of tokens", *resumed, "--output", work / "other", "--train.placement_tokens", "measured",
                    "--train.placement_tokens_from", newer, file=newer / file)
        if file == "manifest.json":
            refused(f"{file}: inspect", "inspect", newer, file=newer / file)


def main():
    work = Path(tempfile.mkdtemp(prefix="nmoe-newer-"))
    try:
        tensors = convert.random_tensors(np.random.default_rng(1), convert.dense_shapes(False, False), "F32")
        convert.make_model(work / "model", tensors, convert.config_json())
        shutil.copy(convert.TOKENIZER, work / "model/tokenizer.model")  # the one that the tokens name
        convert.token_file(work / "tokens.h5")
        (work / "experts.cfg").write_text("ADA_MOE_NUM_EXPERTS_LIST=3,1,2\n")
        train = ["train", "--model", work / "model", "--experts", work / "experts.cfg", "--train.seq_length", "16",
                 "--train.global_batch_size", "4", "--train.micro_batch_size", "2", "--train.steps", "2", "--train.save_every", "1"]
        run(1, *train, "--tokens", work / "tokens.h5", "--output", work / "s1")
        tokens_and_statistics(work, train)
        checkpoints(work, train)
        check(not list(work.glob("never*")), "nothing is left behind")
    finally:
        shutil.rmtree(work, ignore_errors=True)
    print(f"newer_formats.py: {len(convert.failures)} failed")
    sys.exit(1 if convert.failures else 0)


if __name__ == "__main__":
    main()
