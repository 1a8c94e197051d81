"""What the reliability scripts share: tiny inputs, running the program, and an own check of checkpoint directories that uses
no code of the program. Standard library, numpy and h5py."""
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np

CODES = {0, 65, 70, 75, 78, 85, 86, 87}
LAYERS, HIDDEN, INTERMEDIATE, VOCAB = 2, 16, 24, 64
ENVIRONMENT = {**os.environ, "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "OMP_NUM_THREADS": "1",
               "OMPI_MCA_rmaps_base_oversubscribe": "1", "OMPI_MCA_mpi_yield_when_idle": "1"}


def processes_with(word):
    """Process id, words of the command and environment of every living process that has `word` among its words."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            environment = dict(e.split(b"=", 1) for e in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0") if b"=" in e)
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except OSError:
            continue
        if str(word).encode() in command and state != "Z":
            yield int(pid), command, environment


class Job:
    """One finished run of the program: exit code (None: it had to be killed), stderr, seconds."""

    def __init__(self, code, err, seconds):
        self.code, self.err, self.seconds = code, err, seconds
        self.errors = [line for line in err.splitlines() if line.startswith("neuronmoe: error")]


class Program:
    def __init__(self, mpiexec, binary):
        self.mpiexec, self.binary = mpiexec, str(binary)

    def command(self, arguments, ranks, exported=()):
        options = [word for name in exported for word in ("-x", name)]
        launcher = [self.mpiexec, "--bind-to", "none", *options, "-n", str(ranks)] if ranks > 1 else []
        return launcher + [self.binary] + [str(a) for a in arguments]

    def start(self, arguments, ranks=1, environment=None):
        environment = environment or {}
        return subprocess.Popen(self.command(arguments, ranks, environment), stdin=subprocess.DEVNULL,
                                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**ENVIRONMENT, **environment},
                                start_new_session=True)

    def run(self, arguments, ranks=1, environment=None, timeout=120):
        environment = environment or {}
        begin = time.monotonic()
        with tempfile.TemporaryFile("w+", errors="replace") as err:
            job = subprocess.Popen(self.command(arguments, ranks, environment), stdin=subprocess.DEVNULL,
                                   stdout=subprocess.DEVNULL, stderr=err, env={**ENVIRONMENT, **environment},
                                   start_new_session=True)
            try:
                code = job.wait(timeout)
            except subprocess.TimeoutExpired:
                os.killpg(job.pid, signal.SIGKILL)
                job.wait()
                code = None
            err.seek(0)
            return Job(code, err.read(), time.monotonic() - begin)


def make_model(directory, seed=1):
    rng = np.random.default_rng(seed)
    values = lambda *shape: (rng.standard_normal(shape) * 0.1).astype("<f4")
    tensors = {"model.embed_tokens.weight": values(VOCAB, HIDDEN), "model.norm.weight": np.ones(HIDDEN, "<f4")}
    for layer in range(LAYERS):
        at = f"model.layers.{layer}."
        tensors |= {at + "input_layernorm.weight": np.ones(HIDDEN, "<f4"),
                    at + "post_attention_layernorm.weight": np.ones(HIDDEN, "<f4"),
                    at + "self_attn.q_proj.weight": values(16, HIDDEN), at + "self_attn.k_proj.weight": values(8, HIDDEN),
                    at + "self_attn.v_proj.weight": values(8, HIDDEN), at + "self_attn.o_proj.weight": values(HIDDEN, 16),
                    at + "mlp.gate_proj.weight": values(INTERMEDIATE, HIDDEN),
                    at + "mlp.up_proj.weight": values(INTERMEDIATE, HIDDEN),
                    at + "mlp.down_proj.weight": values(HIDDEN, INTERMEDIATE)}
    header, position, blobs = {}, 0, []
    for name in sorted(tensors):
        blob = tensors[name].tobytes()
        header[name] = {"dtype": "F32", "shape": list(tensors[name].shape), "data_offsets": [position, position + len(blob)]}
        position += len(blob)
        blobs.append(blob)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    directory.mkdir(parents=True)
    (directory / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + b"".join(blobs))
    (directory / "config.json").write_text(json.dumps(
        {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": VOCAB, "hidden_size": HIDDEN,
         "intermediate_size": INTERMEDIATE, "num_hidden_layers": LAYERS, "num_attention_heads": 2, "num_key_value_heads": 1,
         "head_dim": 8, "max_position_embeddings": 256, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu",
         "tie_word_embeddings": True, "bos_token_id": 1, "eos_token_id": 2, "torch_dtype": "float32"}))


def make_tokens(path, docs=400, seed=3):
    rng = np.random.default_rng(seed)
    offset = np.concatenate([[0], np.cumsum(rng.integers(4, 40, docs))]).astype("<u8")
    ids = rng.integers(3, VOCAB, int(offset[-1])).astype("<u4")
    ids[offset[1:].astype(int) - 1] = 2
    with h5py.File(path, "w", libver=("v110", "v110")) as f:
        f["ids"], f["doc/offset"] = ids, offset
        f["doc/lang"] = rng.integers(0, 2, docs).astype("<u2")
        f["doc/mark"] = (f["doc/lang"][...] == 0).astype("u1")
        f["languages"] = np.array([b"en", b"el"], dtype="S2")
        f.attrs["format"] = np.array(b"neuronmoe-tokens", dtype="S16")
        for key, value in {"format_version": 1, "vocab_size": VOCAB, "eos_id": 2, "complete": 1}.items():
            f.attrs[key] = np.int64(value)
        for key in ("tokenizer_sha256", "inputs_sha256"):
            f.attrs[key] = np.array(b"ab" * 32, dtype="S64")


def make_inputs(work):
    make_model(work / "model")
    make_tokens(work / "t.h5")
    (work / "experts.cfg").write_text("ADA_MOE_NUM_EXPERTS_LIST=3,2\n")
    (work / "text.jsonl").write_text("".join(json.dumps({"text": "hello world " * 20}) + "\n" for _ in range(2000)))


def training(work, output, steps, more=(), save_every=1, keep_last=3):
    return ["train", "--model", work / "model", "--experts", work / "experts.cfg", "--tokens", work / "t.h5", "--output", output,
            "--stage", 1, "--train.seq_length", 32, "--train.micro_batch_size", 2, "--train.global_batch_size", 4,
            "--train.steps", steps, "--train.save_every", save_every, "--train.keep_last", keep_last,
            "--train.learning_rate", "1e-3", *more]


def make_crc_table():
    table = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


CRC_TABLE = make_crc_table()


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = CRC_TABLE[(crc ^ byte) & 255] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


def fault_in_step(directory):
    """'' if a step directory is what its manifest says."""
    try:
        text = (directory / "manifest.json").read_bytes()
        if text[-10:] != b"\n%08x\n" % crc32c(text[:-10]):
            return "manifest.json does not match its own checksum"
        files = json.loads(text[:-10])["files"]
        for name, file in files.items():
            content = (directory / name).read_bytes()
            if len(content) != file["bytes"]:
                return f"{name} has {len(content)} bytes"
            covered = 0
            for block in sorted(file["blocks"], key=lambda b: b["begin"]):
                if block["begin"] != covered:
                    return f"{name}: byte {covered} is in no block"
                covered = block["end"]
                if "%08x" % crc32c(content[block["begin"]:covered]) != block["crc32c"]:
                    return f"{name}: {block['region']} differs"
            if covered != len(content):
                return f"{name}: its end is in no block"
    except (OSError, ValueError, KeyError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


def steps_of(run):
    return sorted(p for p in run.glob("step_*") if re.fullmatch(r"step_\d{10}", p.name)) if run.is_dir() else []


def content_of(step):
    """model.h5 and optim.h5 byte by byte; of state.h5 what does not depend on train.keep_last."""
    with h5py.File(step / "state.h5") as f:
        config = [line for line in f["config"][0].split(b"\n") if not line.startswith(b"keep_last")]
        state = (config, {k: repr(v) for k, v in f["progress"].attrs.items()}, f["data/cursor"][...].tolist())
    return ((step / "model.h5").read_bytes(), (step / "optim.h5").read_bytes(), repr(state))


def metric_steps(run):
    return [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def fresh(path):
    shutil.rmtree(path, ignore_errors=True)
    return path
