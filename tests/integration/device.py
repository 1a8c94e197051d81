#!/usr/bin/python3
"""pretrain, stage 1 and stage 2 of a toy with --device cuda beside --device cpu: losses, norms, checkpoints, resumes.
Usage: device.py NEURONMOE BENCH_GPU_TRAIN SOURCE_DIR: programs for a GPU, or linked with the emulated one"""
import hashlib
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

BINARY, BENCH, SOURCE = sys.argv[1], sys.argv[2], Path(sys.argv[3])
TOKENIZER = SOURCE / "tests/golden/tiny_spm.model"
# float32 on both sides, sums of a few hundred terms in another order: one pass is off by some 1e-6
# (tests/gpu/test_gpu_decoder.cpp); steps of at most 3e-3 hardly amplify it. The gradient norm keeps less.
LOSS, NORM = 1e-5, 1e-4
problems = []


def check(condition, what):
    print(("ok     " if condition else "FAILED ") + what, flush=True)
    if not condition:
        problems.append(what)


def run(*arguments, code=0):
    job = subprocess.run([BINARY, *[str(a) for a in arguments]], capture_output=True, text=True, timeout=300)
    if job.returncode != code:
        check(False, f"{arguments[0]} ends with {job.returncode}, not {code}\n{job.stdout}\n{job.stderr}")
        sys.exit(1)
    return job.stderr


def sha(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def metrics(directory):
    return [json.loads(line) for line in open(directory / "metrics.jsonl")]


def compare(what, found, wanted, first=0):
    def worst(key):
        return max(abs(a[key] - b[key]) / max(abs(b[key]), 1e-3) for a, b in zip(found[first:], wanted[first:]))

    check(len(found) == len(wanted) and [m["flops"] for m in found] == [m["flops"] for m in wanted], f"{what}: steps and FLOPs")
    losses = max(worst(key) for key in ("loss_lm", "loss_lbl", "loss_lpr"))
    check(losses < LOSS, f"{what}: losses within {losses:.1e}")
    check(worst("grad_norm") < NORM, f"{what}: gradient norms within {worst('grad_norm'):.1e}")


def make_inputs(work):
    rng = random.Random(3)
    words = ["".join(rng.choices("etaoinshrdlu", k=rng.randint(2, 6))) for _ in range(60)]
    for language in ("en", "el"):
        with open(work / f"{language}.jsonl", "w") as f:
            for _ in range(60):
                f.write(json.dumps({"text": " ".join(rng.choices(words, k=12))}) + "\n")
    run("tokenize", "--tokenize.tokenizer", TOKENIZER, "--tokenize.input", f"en:old:{work}/en.jsonl", "--tokenize.input",
        f"el:new:{work}/el.jsonl", "--output", work / "tokens.h5")
    inspected = subprocess.run([BINARY, "inspect", work / "tokens.h5"], capture_output=True, text=True).stdout
    vocabulary = int(re.search(r"vocab_size\D+(\d+)", inspected).group(1))
    (work / "arch.json").write_text(json.dumps({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": vocabulary, "hidden_size": 16,
        "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8,
        "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": True,
        "hidden_act": "silu", "bos_token_id": 1, "eos_token_id": 2, "torch_dtype": "float32"}))
    (work / "toy.cfg").write_text(f"""[train]
seq_length = 16
micro_batch_size = 2
global_batch_size = 6   # 3 micro-batches: partial sums wait for later ones
learning_rate = 3e-3
save_every = 3
[data.el]
tokens = {work}/tokens.h5
lang = el
weight = 1
[data.en]
tokens = {work}/tokens.h5
lang = en
weight = 1
""")


def resume(work, arguments, steps):
    """The run on the GPU cut after step 3 and continued on either device; the one on the CPU continued on the GPU."""
    last = f"step_{steps:010d}"
    for origin, device in [("cuda", "cuda"), ("cuda", "cpu"), ("cpu", "cuda")]:
        name = work / f"s1-{origin}-{device}"
        shutil.copytree(work / f"s1-{origin}", name)
        shutil.rmtree(name / last)
        err = run(*arguments, "--device", device, "--output", name)
        check(f"at step 3 of {steps}" in err, f"{origin} -> {device}: goes on at step 3")
        if origin == device:
            same = all(sha(name / last / f) == sha(work / f"s1-{origin}" / last / f) for f in ("model.h5", "optim.h5"))
            check(same, "the same bytes as without the stop")
        compare(f"{origin} -> {device}", metrics(name), metrics(work / "s1-cpu"))


def bench(work):
    """The benchmark counts and allocates as a run does; its rates on a toy mean nothing."""
    for stage, routing in [(1, "balanced"), (1, "skewed"), (2, "balanced")]:
        job = subprocess.run([BENCH, f"model={work}/arch.json", f"experts={work}/list.cfg", f"stage={stage}", f"routing={routing}",
                              "sequences=2", "length=16", "steps=2", "gemm=16"], capture_output=True, text=True, timeout=300)
        check(job.returncode == 0 and " 0 allocations after warm-up" in job.stdout, f"bench_gpu_train, stage {stage}, {routing}")
        if job.returncode != 0:
            print(job.stdout, job.stderr)


def main():
    work = Path(tempfile.mkdtemp(prefix="nmoe-device-"))
    try:
        make_inputs(work)
        pretrain = ["pretrain", "--config", work / "toy.cfg", "--pretrain.model_config", work / "arch.json",
                    "--pretrain.tokenizer", TOKENIZER, "--train.steps", "3"]
        stage1 = ["train", "--config", work / "toy.cfg", "--model", work / "base-cpu", "--stage", "1", "--experts",
                  work / "list.cfg", "--train.steps", "6"]
        stage2 = ["train", "--config", work / "toy.cfg", "--model", work / "base-cpu", "--stage", "2", "--train.init_from",
                  work / "s1-cpu", "--train.steps", "3"]
        run("allocate", "--allocation.mode", "list", "--allocation.list", "2,1,3", "--output", work / "list.cfg")
        for name, arguments in [("base", pretrain), ("s1", stage1), ("s2", stage2)]:
            for device in ("cpu", "cuda"):
                err = run(*arguments, "--device", device, "--output", work / f"{name}-{device}")
                check(("GPU memory of rank 0" in err) == (device == "cuda"), f"{name}: runs on the device it was told")
                if device == "cuda":
                    check("DIFFERENT" not in err, f"{name}: FLOPs and bytes as planned")
                    check("allocations after the first step: 0" in err, f"{name}: no allocation after the first step")
                    planned, allocated = re.search(r"MB: ([0-9.]+) planned, ([0-9.]+) allocated", err).groups()
                    # Room for odd cuts, 1 MiB in each of two blocks; an arena that grew would take 16 MiB more.
                    check(float(allocated) < 1.05 * float(planned) + 3.0, f"{name}: {allocated} MB of {planned} planned")
                    beside = re.search(r"by cudaMemGetInfo, MB: [0-9.]+ in use of [0-9.]+; ([0-9.]+) of it beside", err)
                    check(beside and float(beside.group(1)) > 0, f"{name}: what the GPU holds beside our memory is told")
            directory = "checkpoints" if name == "base" else "."
            compare(name, metrics(work / f"{name}-cuda" / directory), metrics(work / f"{name}-cpu" / directory))
        resume(work, stage1, 6)
        bench(work)
    finally:
        if not os.environ.get("NMOE_TEST_KEEP"):
            shutil.rmtree(work, ignore_errors=True)
    print(f"device.py: {len(problems)} problems")
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
