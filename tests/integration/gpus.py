#!/usr/bin/python3
"""Several ranks on (emulated) GPUs: who gets which, what is refused, and that analyze, evaluate, loglikelihood and
specialize write what one rank writes, by host copies on one shared GPU and by (emulated) NCCL on two.
Usage: gpus.py MPIEXEC NEURONMOE SOURCE_DIR, the program linked with the emulated device"""
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

MPIEXEC, BINARY, SOURCE = sys.argv[1], sys.argv[2], Path(sys.argv[3])
TOKENIZER = SOURCE / "tests/golden/tiny_spm.model"
ONE, TWO = "0000:01:00.0", "0000:02:00.0"
problems = []


def check(condition, what):
    print(("ok     " if condition else "FAILED ") + what, flush=True)
    if not condition:
        problems.append(what)


def run(ranks, *arguments, gpus=ONE, code=0, words=(), **variables):
    """Bus ids in `gpus`: what every rank sees; a list: what each one sees, as with --gpus-per-task=1."""
    per_rank = gpus if isinstance(gpus, list) else [gpus] * ranks
    launcher = [MPIEXEC]
    for r, visible in enumerate(per_rank):
        launcher += ([":"] if r > 0 else []) + ["-n", "1", "-x", f"NMOE_EMULATED_GPUS={visible}", BINARY, *map(str, arguments)]
    job = subprocess.run(launcher, capture_output=True, text=True, timeout=300, env={**os.environ, **variables})
    missing = [w for w in words if w not in job.stdout + job.stderr]
    if job.returncode != code or missing:
        check(False, f"{arguments[0]} on {gpus}: ends with {job.returncode}, not {code}; lacks {missing}\n{job.stdout}\n{job.stderr}")
    return job.stdout + job.stderr


def sha(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def transports(work, cuda, both):
    """What NCCL's log says of its way between GPUs, and what it is worth."""
    logs = work / "logs"
    logs.mkdir()
    for way, told in [("P2P/CUMEM/read", "between GPUs ok: the same by NCCL 2.28.9, P2P/CUMEM\n"),
                      ("SHM/direct/direct", "between GPUs warning: the same by NCCL 2.28.9, SHM/direct: through host memory"),
                      ("NET/Socket/0", "between GPUs warning: the same by NCCL 2.28.9, NET/Socket: TCP"),
                      ("NET/IB/0/GDRDMA", "between GPUs ok: the same by NCCL 2.28.9, NET/IB/GDRDMA\n")]:
        out = run(2, *cuda, gpus=both, words=[told], NMOE_EMULATED_NCCL_WAY=way, TMPDIR=str(logs))
        check("NCCL_DEBUG" not in out, f"{way}: what the program asked NCCL for is not taken for the user's")
        check(("remedy: " in out.split("between GPUs", 2)[-1].split("\n")[0]) == ("warning" in told), f"{way}: a remedy if there is need")
    check(not list(logs.glob("neuronmoe-nccl-*")), "NCCL's log is removed")
    out = run(2, *cuda, gpus=both, words=["between GPUs ok: the same by NCCL 2.28.9\n", "NCCL_DEBUG=WARN"], NCCL_DEBUG="WARN")


def placement(work):
    cuda = ["check", "--device", "cuda", "--output", work]
    both = f"{ONE},{TWO}"
    run(1, *cuda, words=["verdict      ready", "between GPUs ok", ONE])
    for gpus, how in [(both, "all visible on every rank"), ([ONE, TWO], "one visible per rank"), ([both, both], "again")]:
        out = run(2, *cuda, gpus=gpus, words=["between GPUs: NCCL", "between GPUs ok: the same by NCCL", "verdict      ready"])
        check(re.search(f"rank    0 .*{ONE}", out) and re.search(f"rank    1 .*{TWO}", out), f"a GPU each: {how}")
    transports(work, cuda, both)
    for ranks, gpus, pair in [(2, ONE, "ranks 0 and 1"), (3, both, "ranks 0 and 2"), (2, [TWO, TWO], "ranks 0 and 1")]:
        out = run(ranks, *cuda, gpus=gpus, code=78, words=[f"{pair} both hold", "--comm.share_gpu true"])
        check(out.count("neuronmoe: error") == 1, f"{ranks} ranks on {gpus}: refused once, naming both")
    share = ["--comm.share_gpu", "true"]
    run(3, *cuda, *share, words=["between GPUs ok: the same by copies through host memory"])
    run(2, *cuda, *share, "--comm.gpu_transport", "nccl", code=78, words=["NCCL refuses several ranks on one GPU"])
    run(2, *cuda, "--comm.gpu_transport", "host", gpus=both, words=["between GPUs ok: the same by copies"])
    run(1, *cuda, "--comm.gpu_transport", "nccl", words=["between GPUs ok: the same by NCCL"])
    # Nothing said: a GPU for each rank that computes or, in one line, why not; never the CPU of a job that has GPUs.
    auto = ["check", "--output", work]
    run(2, *auto, gpus=both, words=["device of rank 1: ", "between GPUs: NCCL", "verdict      ready"])
    run(2, *auto, words=["device: cpu (auto: ranks 0 and 1 both hold", "--comm.share_gpu true", "verdict      ready"])
    run(2, *auto, gpus=[ONE, "none"], words=[f"device: cpu (auto: rank 1 ({os.uname()[1]}): this process sees no CUDA device"])
    job = {"SLURM_JOB_ID": "7", "SLURM_JOB_GPUS": "0,1"}
    for variables, gpus, named in [(job, "none", "SLURM_JOB_GPUS=0,1"), (job, ONE, "both hold"),
                                   ({"PBS_JOBID": "7", "CUDA_VISIBLE_DEVICES": "0"}, "none", "CUDA_VISIBLE_DEVICES=0")]:
        out = run(2, *auto, gpus=gpus, code=78, words=["this job has GPUs (", named, "--device cpu insists on the CPU"], **variables)
        check(out.count("neuronmoe: error") == 1, f"a job with GPUs that cannot be used is refused once: {named}")
    run(2, *auto, "--device", "cpu", gpus="none", words=["verdict      ready"], **job)
    run(1, *auto, gpus="none", words=["verdict      ready"], SLURM_JOB_ID="7", SLURM_GPUS_ON_NODE="0")
    out = run(1, "allocate", "--allocation.mode", "list", "--allocation.list", "2,1", "--output", work / "no-gpu.cfg", gpus="none", **job)
    check("device" not in out, "a command that computes nothing asks for no GPU")
    run(2, *cuda, "--run.check_collectives", "true", gpus=both, words=["between GPUs ok: the same by NCCL"])
    drivers(cuda, both)
    run(1, *cuda, "--comm.gpu_transport", "mpi", code=78, words=["comm.gpu_transport = 'mpi'", "auto|nccl|host"])


def drivers(cuda, both):
    """What the driver, its partitioned GPUs and a machine without NCCL say."""
    run(1, *cuda, gpus="none", code=78, words=["--device cuda: this process sees no CUDA device; or use --device cpu"])
    run(1, *cuda, gpus="broken", code=78, words=["--device cuda: the CUDA devices cannot be asked for: unknown error"])
    run(1, *cuda, code=78, NMOE_EMULATED_DRIVER="12040",
        words=["the NVIDIA driver is for CUDA 12.4, this program for CUDA 13.0", "update the driver"])
    run(1, *cuda, code=78, NMOE_EMULATED_DRIVER="0", words=["no NVIDIA driver was found (libcuda.so.1; this program needs CUDA 13.0)"])
    parts = f"{ONE}/1,{ONE}/2"
    out = run(2, *cuda, gpus=parts, words=["between GPUs ok: the same by copies through host memory", "verdict      ready"])
    check(len(set(re.findall(r"rank    \d .*device .*, ([0-9a-f-]{36})", out))) == 2, "instances of one GPU are two seats")
    run(2, *cuda, "--comm.gpu_transport", "nccl", gpus=parts, code=78, words=["instances of a partitioned GPU"])
    run(2, *cuda, gpus=both, NMOE_EMULATED_NCCL="missing",
        words=["through host memory, not by NCCL: libnccl.so.2: cannot open", "between GPUs ok: the same by copies"])
    run(2, *cuda, "--comm.gpu_transport", "nccl", gpus=both, code=78, NMOE_EMULATED_NCCL="missing",
        words=["comm.gpu_transport = nccl: libnccl.so.2: cannot open"])


def make_inputs(work):
    rng = random.Random(3)
    for language in ("en", "el"):
        words = ["".join(rng.choices("etaoinshrdlu", k=rng.randint(2, 6))) for _ in range(40)]

        def sentence():
            return " ".join(rng.choices(words, k=8))

        (work / f"{language}.jsonl").write_text("".join(json.dumps({"text": sentence()}) + "\n" for _ in range(40)))
        (work / f"sense.{language}.json").write_text(json.dumps({
            "concept": language, "sentences": {"positive": [sentence() for _ in range(12)], "negative": []}}))
    run(1, "tokenize", "--tokenize.tokenizer", TOKENIZER, "--tokenize.input", f"en:old:{work}/en.jsonl", "--tokenize.input",
        f"el:new:{work}/el.jsonl", "--output", work / "tokens.h5")
    vocabulary = int(re.search(r"vocab_size\D+(\d+)", run(1, "inspect", work / "tokens.h5")).group(1))
    (work / "arch.json").write_text(json.dumps({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": vocabulary, "hidden_size": 16,
        "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8,
        "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": True,
        "hidden_act": "silu", "bos_token_id": 1, "eos_token_id": 2, "torch_dtype": "float32"}))
    (work / "toy.cfg").write_text(f"""[train]
seq_length = 16
micro_batch_size = 2
global_batch_size = 4
steps = 2
[data.el]
tokens = {work}/tokens.h5
lang = el
weight = 1
[analysis]
sense = en:{work}/sense.en.json
sense = el:{work}/sense.el.json
top_k = 20
""")
    run(1, "pretrain", "--config", work / "toy.cfg", "--pretrain.model_config", work / "arch.json", "--pretrain.tokenizer",
        TOKENIZER, "--output", work / "base", "--device", "cpu")
    run(1, "allocate", "--allocation.mode", "list", "--allocation.list", "4,3", "--output", work / "list.cfg")
    run(1, "train", "--config", work / "toy.cfg", "--model", work / "base", "--stage", "1", "--experts", work / "list.cfg",
        "--output", work / "s1", "--device", "cpu")


def same_files(work):
    """The file of one rank on one GPU, again by two ranks on it, and by two with one each."""
    requests = [{"context": [1, 5, 9 + i], "continuation": [7, c, 11][:c - 1]} for i in range(30) for c in (2, 3, 4)]
    (work / "requests.jsonl").write_text("".join(json.dumps(r) + "\n" for r in [*requests, {"rolling": list(range(90)), "prefix": 1}]))
    model = ["--config", work / "toy.cfg", "--model", work / "base", "--device", "cuda"]
    text = ["--evaluation.text", f"el:{work}/tokens.h5", "--evaluation.block", "16"]
    owned = ["--resume", work / "s1", "--train.expert_parallel_size", "2"]
    for name, arguments, on_two in [
            ("neurons.h5", ["analyze"], []),
            ("dense.json", ["evaluate", *text], []),
            ("mixture.json", ["evaluate", *text, "--resume", work / "s1"], owned),
            ("answers.jsonl", ["loglikelihood", "--loglikelihood.requests", work / "requests.jsonl", "--resume", work / "s1"], owned),
            ("expert_neurons.h5", ["specialize", "--resume", work / "s1"], owned)]:
        command = [*arguments[:1], *model, *arguments[1:]]
        run(1, *command, "--output", work / name)
        for how, gpus, more, words in [("shared", ONE, ["--comm.share_gpu", "true"], "copies through host memory"),
                                       ("nccl", [ONE, TWO], [], "NCCL")]:
            output = work / f"{how}-{name}"
            run(2, *command, *on_two, *more, "--output", output, gpus=gpus, words=[f"between GPUs: {words}"])
            check(output.exists() and sha(output) == sha(work / name), f"{name}: the same bytes from 2 ranks, {how}")


def main():
    work = Path(tempfile.mkdtemp(prefix="nmoe-gpus-"))
    try:
        placement(work)
        make_inputs(work)
        same_files(work)
    finally:
        if not os.environ.get("NMOE_TEST_KEEP"):
            shutil.rmtree(work, ignore_errors=True)
    print(f"gpus.py: {len(problems)} problems")
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
