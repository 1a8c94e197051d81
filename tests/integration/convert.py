#!/usr/bin/python3
"""neuronmoe convert: round trips over every form, element type and layout of files; what a run makes of the results;
and what is refused. Usage: convert.py MPIEXEC NEURONMOE"""
import hashlib
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import h5py
import numpy as np

MPIEXEC, BINARY = sys.argv[1], sys.argv[2]
TOKENIZER = Path(__file__).resolve().parent.parent / "golden/tiny_spm.model"
HIDDEN, WIDE, VOCAB, LAYERS = 16, 24, 64, 3
NUMPY = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "F64": "<f8"}
failures = []


def check(good, what):
    print(("ok: " if good else "FAILED: ") + what)
    if not good:
        failures.append(what)


def run(ranks, *arguments, code=0, words=()):
    launcher = [MPIEXEC, "-n", str(ranks)] if ranks > 1 else []
    done = subprocess.run(launcher + [BINARY] + [str(a) for a in arguments], capture_output=True, text=True, timeout=120,
                          env=os.environ)
    line = next((x for x in done.stderr.splitlines() if "neuronmoe: error" in x), "")
    if done.returncode != code or any(w not in line for w in words):
        check(False, f"{' '.join(str(a) for a in arguments[:6])}: exit {done.returncode} (expected {code}), words {words}\n"
                     f"{done.stdout[-800:]}{done.stderr[-1500:]}")
    return done


def write_safetensors(path, tensors, metadata=None):
    header, data = {}, b""
    if metadata:
        header["__metadata__"] = metadata
    for name, (dtype, shape, raw) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def read_safetensors(path):
    data = path.read_bytes()
    size, = struct.unpack("<Q", data[:8])
    header = json.loads(data[8:8 + size])
    header.pop("__metadata__", None)
    return {n: (t["dtype"], tuple(t["shape"]), data[8 + size + t["data_offsets"][0]:8 + size + t["data_offsets"][1]])
            for n, t in header.items()}


def read_model(directory):
    """Tensors of a directory through its index, if it has one, so that a wrong index is seen."""
    index = directory / "model.safetensors.index.json"
    if not index.exists():
        return read_safetensors(directory / "model.safetensors")
    parsed = json.loads(index.read_text())
    tensors = {name: read_safetensors(directory / shard)[name] for name, shard in parsed["weight_map"].items()}
    check(parsed["metadata"]["total_size"] == sum(len(t[2]) for t in tensors.values()), f"{directory.name}: total_size")
    return tensors


def random_tensors(rng, shapes, dtype):
    out = {}
    for name, shape in shapes.items():
        values = rng.standard_normal(shape).astype("f4") * 0.2
        if dtype == "BF16":
            values = (values.view("<u4") >> 16).astype("<u2")
        out[name] = (dtype, shape, values.astype(NUMPY[dtype]).tobytes())
    return out


def dense_shapes(bias, head, head_dim=8, kv=1, heads=2, qk_norm=False):
    shapes = {"model.embed_tokens.weight": (VOCAB, HIDDEN), "model.norm.weight": (HIDDEN,)}
    if head:
        shapes["lm_head.weight"] = (VOCAB, HIDDEN)
    for l in range(LAYERS):
        p = f"model.layers.{l}."
        shapes |= {p + "input_layernorm.weight": (HIDDEN,), p + "post_attention_layernorm.weight": (HIDDEN,)}
        for name, rows in [("q", heads * head_dim), ("k", kv * head_dim), ("v", kv * head_dim)]:
            shapes[p + f"self_attn.{name}_proj.weight"] = (rows, HIDDEN)
            if bias:
                shapes[p + f"self_attn.{name}_proj.bias"] = (rows,)
            if qk_norm and name != "v":
                shapes[p + f"self_attn.{name}_norm.weight"] = (head_dim,)
        shapes |= {p + "self_attn.o_proj.weight": (HIDDEN, heads * head_dim), p + "mlp.gate_proj.weight": (WIDE, HIDDEN),
                   p + "mlp.up_proj.weight": (WIDE, HIDDEN), p + "mlp.down_proj.weight": (HIDDEN, WIDE)}
    return shapes


def config_json(**changes):
    return {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": VOCAB, "hidden_size": HIDDEN,
            "intermediate_size": WIDE, "num_hidden_layers": LAYERS, "num_attention_heads": 2, "num_key_value_heads": 1,
            "head_dim": 8, "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
            "tie_word_embeddings": True, "hidden_act": "silu", "bos_token_id": 1, "eos_token_id": 2,
            "torch_dtype": "float32", "transformers_version": "4.45.0"} | changes


def make_model(path, tensors, config, num_shards=1):
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config, indent=1))
    (path / "tokenizer.json").write_text('{"version": "1.0"}  \n')
    (path / "LICENSE").write_text("theirs\n")
    (path / "pytorch_model.bin").write_bytes(b"a pickle that nobody carries along")
    if num_shards == 1:
        return write_safetensors(path / "model.safetensors", tensors, {"format": "pt"})
    names, weight_map = list(tensors), {}
    for s in range(num_shards):  # dealt, so that neighbours lie in different files
        shard = f"model-{s + 1:05d}-of-{num_shards:05d}.safetensors"
        weight_map |= {n: shard for n in names[s::num_shards]}
        write_safetensors(path / shard, {n: tensors[n] for n in names[s::num_shards]}, {"format": "pt"})
    (path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


LLAMA3 = {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 32}
MISTRAL = {"architectures": ["MistralForCausalLM"], "model_type": "mistral", "sliding_window": None, "tie_word_embeddings": False}
QWEN3 = {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "sliding_window": None, "use_sliding_window": False,
         "max_window_layers": 3, "attention_bias": False, "head_dim": 12}
QWEN = {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "sliding_window": 4096, "use_sliding_window": False,
        "max_window_layers": 2, "tie_word_embeddings": False}


def round_trips(work):
    rng = np.random.default_rng(1)
    models = {
        "tied-f32": (dense_shapes(False, False), "F32", config_json(rope_scaling=LLAMA3), 1),
        "tied-with-head-bf16": (dense_shapes(False, True), "BF16", config_json(rope_scaling={"type": "linear", "factor": 2.0}), 3),
        "untied-f16": (dense_shapes(False, True, head_dim=4, kv=2), "F16",
                       config_json(tie_word_embeddings=False, head_dim=4, num_key_value_heads=2, rope_scaling=None), 5),
        "qwen-bias-f32": (dense_shapes(True, True), "F32", config_json(**QWEN), 2),
        "mistral-f32": (dense_shapes(False, True), "F32", config_json(**MISTRAL), 1),
        "qwen3-bf16": (dense_shapes(False, False, head_dim=12, qk_norm=True), "BF16", config_json(**QWEN3), 1),
        "transformers-5-bf16": (dense_shapes(False, False), "BF16",
                                config_json(rope_parameters={**LLAMA3, "rope_theta": 5e5}, rope_theta=None, dtype="bfloat16",
                                            eos_token_id=[2, 3], layer_types=["full_attention"] * LAYERS), 1),
    }
    for name, (shapes, dtype, config, num_shards) in models.items():
        tensors = random_tensors(rng, shapes, dtype)
        if name == "untied-f16":  # one tensor in another type, as some files have their norms
            values = np.frombuffer(tensors["model.norm.weight"][2], "<f2").astype("<f4")
            tensors["model.norm.weight"] = ("F32", (HIDDEN,), values.tobytes())
        source, back = work / name, work / f"{name}-back"
        make_model(source, tensors, config, num_shards)
        digests = set()
        for ranks in (1, 2, 3):
            ours = work / f"{name}-ours{ranks}"
            run(ranks, "convert", source, "--convert.to", "checkpoint", "--output", ours)
            digests.add(hashlib.sha256((ours / "model.h5").read_bytes()).hexdigest())
        check(len(digests) == 1, f"{name}: the same model.h5 from 1, 2 and 3 ranks")
        run(2, "convert", ours, "--convert.to", "huggingface", "--output", back, "--convert.max_shard_bytes", "5000")
        check(read_model(back) == tensors, f"{name}: every tensor byte for byte, {len(tensors)} of them, none more")
        shards = sorted(p.name for p in back.glob("*.safetensors"))
        largest = max(sum(len(t[2]) for t in read_safetensors(back / s).values()) for s in shards)
        check(len(shards) > 2 and largest <= 5000, f"{name}: {len(shards)} shards, the largest has {largest} bytes")
        for file in ("config.json", "tokenizer.json", "LICENSE"):
            check((back / file).read_bytes() == (source / file).read_bytes(), f"{name}: {file} is carried along")
        check(sorted(p.name for p in back.iterdir()) ==
              sorted([*shards, "config.json", "tokenizer.json", "LICENSE", "model.safetensors.index.json"]), f"{name}: nothing else")
        with h5py.File(ours / "model.h5") as f:  # h5py widens our types by itself
            stored = f["model/model.embed_tokens.weight"][...].astype("f4")
        raw = np.frombuffer(tensors["model.embed_tokens.weight"][2], NUMPY[dtype])
        wide = (raw.astype("<u4") << 16).view("<f4") if dtype == "BF16" else raw.astype("f4")
        check(np.array_equal(stored, wide.reshape(VOCAB, HIDDEN)), f"{name}: h5py reads the same numbers")
        inspected = run(1, "inspect", ours).stdout
        check("intact" in inspected and f"converted_from = {source}" in inspected, f"{name}: inspect")
    run(1, "convert", work / "tied-f32", "--convert.to", "huggingface", "--output", work / "half", "--convert.dtype", "bfloat16")
    half = read_model(work / "half")
    wide = np.frombuffer(read_model(work / "tied-f32")["model.norm.weight"][2], "<u4").astype("<u8")
    nearest = ((wide + 0x7FFF + ((wide >> 16) & 1)) >> 16).astype("<u2")
    check(half["model.norm.weight"] == ("BF16", (HIDDEN,), nearest.tobytes()), "to bfloat16: nearest, ties to even")
    check(json.loads((work / "half/config.json").read_text())["torch_dtype"] == "bfloat16", "to bfloat16: config.json says so")


def without_head(work):
    """A file of transformers' class without the head, whose names lack "model.": the same model."""
    tensors = read_model(work / "tied-f32")
    make_model(work / "base-class", {name.removeprefix("model."): t for name, t in tensors.items()},
               config_json(rope_scaling=LLAMA3, architectures=["LlamaModel"]), 2)
    run(1, "convert", work / "base-class", "--convert.to", "huggingface", "--output", work / "base-class-back")
    check(read_model(work / "base-class-back") == tensors, "names without \"model.\" get it, the bytes are the same")


def families(work):
    """Both stages and pretraining of families beside Llama: the same bits on one rank and on two."""
    tokens = work / "family-tokens.h5"
    token_file(tokens)
    (work / "two.cfg").write_text("ADA_MOE_NUM_EXPERTS_LIST=2,1,3\n")
    common = ["--tokens", tokens, "--train.seq_length", "16", "--train.global_batch_size", "4", "--train.micro_batch_size", "2",
              "--train.learning_rate", "0.01", "--train.steps", "3"]
    for name in ("mistral-f32", "qwen3-bf16"):
        runs = {}
        shutil.copy(TOKENIZER, work / name / "tokenizer.model")  # the one that the tokens name
        for ranks in (1, 2):
            first, second, base = (work / f"{name}-{kind}{ranks}" for kind in ("s1", "s2", "base"))
            run(ranks, "train", "--stage", "1", "--experts", work / "two.cfg", "--model", work / name, *common, "--output", first)
            run(ranks, "train", "--stage", "2", "--model", work / name, "--train.init_from", first, *common, "--output", second)
            run(ranks, "pretrain", "--pretrain.model_config", work / name / "config.json", "--pretrain.tokenizer", TOKENIZER,
                *common, "--output", base)
            runs[ranks] = [losses(d) for d in (first, second, base / "checkpoints")] + [read_model(base)]
            runs[ranks] += [(next(d.glob("step_*")) / "model.h5").read_bytes() for d in (first, second)]
        check(runs[1] == runs[2], f"{name}: stages 1 and 2 and pretraining give the same bits on 1 and 2 ranks")
        given, written = (json.loads((d / "config.json").read_text()) for d in (work / name, work / f"{name}-base1"))
        different = {k for k in written if k in given and written[k] != given[k]}
        check(not different, f"{name}: config.json of pretraining is that of the family; not equal: {different}")


def token_file(path):
    rng = np.random.default_rng(5)
    documents = [np.append(rng.integers(3, VOCAB, rng.integers(5, 40)), 2) for _ in range(80)]
    with h5py.File(path, "w") as f:
        f["ids"] = np.concatenate(documents).astype("u4")
        f["doc/offset"] = np.cumsum([0] + [len(d) for d in documents]).astype("u8")
        f["doc/lang"] = (np.arange(80) % 2).astype("u2")
        f["doc/mark"] = (np.arange(80) % 2).astype("u1")
        f["languages"] = np.array([b"el", b"en"], dtype="S2")
        for key, value in {"format": "neuronmoe-tokens", "tokenizer_sha256": hashlib.sha256(TOKENIZER.read_bytes()).hexdigest(), "inputs_sha256": "00"}.items():
            f.attrs.create(key, np.bytes_(value.encode()))
        for key, value in {"format_version": 1, "vocab_size": VOCAB, "eos_id": 2, "complete": 1}.items():
            f.attrs.create(key, value, dtype="i8")


def losses(directory):
    return [json.loads(line)["loss_lm"] for line in (directory / "metrics.jsonl").read_text().splitlines()]


def adapters(work):
    model, tokens = work / "tied-f32", work / "tokens.h5"
    token_file(tokens)
    shutil.copy(TOKENIZER, model / "tokenizer.model")  # the one that the tokens name
    (work / "experts.cfg").write_text("ADA_MOE_NUM_EXPERTS_LIST=3,1,12\n")
    common = ["--tokens", tokens, "--train.seq_length", "16", "--train.global_batch_size", "4", "--train.micro_batch_size", "2",
              "--train.learning_rate", "0.01"]
    stage1 = ["train", "--stage", "1", "--experts", work / "experts.cfg", "--train.steps", "5", *common]
    run(2, *stage1, "--model", model, "--output", work / "s1")
    run(1, "convert", work / "s1", "--convert.to", "adapter", "--output", work / "adapter")
    tensors = read_safetensors(work / "adapter/adapter_model.safetensors")
    prefix = "base_model.model.model.layers."
    expected = {f"{prefix}{l}.mlp.moe_router_embedding.weight" for l in (0, 2)}
    expected |= {f"{prefix}{l}.mlp.moe_experts.{j}.{w}_proj.weight" for l, n in ((0, 3), (2, 12)) for j in range(n - 1)
                 for w in ("gate", "up", "down")}
    check(set(tensors) == expected, f"the lineage's names, {len(expected)} of them")
    with h5py.File(next((work / "s1").glob("step_*")) / "model.h5") as f:
        same = all(np.array_equal(f[f"model/layers/02/experts/{w}"][j].ravel(),
                                  np.frombuffer(tensors[f"{prefix}2.mlp.moe_experts.{j}.{w}_proj.weight"][2], "<f4"))
                   for j in range(11) for w in ("gate", "up", "down"))
        check(same and np.array_equal(f["model/layers/00/router"][...].ravel(),
                                      np.frombuffer(tensors[prefix + "0.mlp.moe_router_embedding.weight"][2], "<f4")),
              "expert j + 1 of a layer is moe_experts.j, of eleven as of two")
    config = json.loads((work / "adapter/adapter_config.json").read_text())
    check((config["peft_type"], config["topk"], config["layers_to_transform"], config["num_experts"])
          == ("MOE", 2, [0, 1, 2], [3, 1, 12]), "adapter_config.json: every layer, a dense one with 1 expert")
    # The lineage keeps the routers it loads only if these agree (set_peft_model_state_dict); else it draws them anew.
    routers = {name: shape[0] for name, (_, shape, _) in tensors.items() if name.endswith("moe_router_embedding.weight")}
    listed = {f"base_model.model.model.layers.{l}.mlp.moe_router_embedding.weight": e
              for l, e in zip(config["layers_to_transform"], config["num_experts"]) if e > 1}
    check(routers == listed, f"its list is that of the routers: {routers}")
    check("ADA_MOE_NUM_EXPERTS_LIST=3,1,12\n" in (work / "adapter/experts.cfg").read_text(), "experts.cfg of the adapter")
    for ranks in (1, 3):
        run(ranks, "convert", work / "adapter", "--model", model, "--convert.to", "checkpoint", "--output", work / f"again{ranks}")
    original = next((work / "s1").glob("step_*"))
    check(all((work / f"again{r}/model.h5").read_bytes() == (original / "model.h5").read_bytes() for r in (1, 3)),
          "stage 1 -> adapter -> checkpoint: model.h5 is the same file, on 1 and on 3 ranks")
    evaluate = ["evaluate", "--model", model, "--evaluation.text", f"el:{tokens}", "--evaluation.block", "16"]
    for name, checkpoint in (("s1", work / "s1"), ("again1", work / "again1")):
        run(1, *evaluate, "--resume", checkpoint, "--output", work / f"{name}.json")
    first, second = (json.loads((work / f"{n}.json").read_text())["perplexity"] for n in ("s1", "again1"))
    check(first == second, f"and its log-probabilities are the same: {second}")
    run(1, "convert", work / "tied-f32", "--convert.to", "checkpoint", "--output", work / "dense")
    measured = ("--train.placement_tokens", "measured", "--train.expert_parallel_size", "2")
    for name, base, start, says in (("from-run", model, work / "s1", "experts, placed by tokens counted in "),
                                    ("from-adapter", work / "dense", work / "again3",
                                     "again3 has no counts of tokens per expert; expected tokens are taken\n")):
        done = run(2, "train", "--stage", "2", "--model", base, "--train.init_from", start, "--train.steps", "3", *common,
                   "--output", work / name, *measured)
        check(done.stderr.count(says) == 1, f"{name}: which tokens place the experts")
    run(2, "train", "--stage", "2", "--model", model, "--train.init_from", work / "s1", *common, "--output", work / "none", *measured,
        "--train.placement_tokens_from", work / "again3", code=65, words=("again3: no tokens per expert are counted in it",))
    check(not (work / "none").exists(), "counts that were asked for and are not there: nothing is left behind")
    check(losses(work / "from-run") == losses(work / "from-adapter"),
          "stage 2 goes on from the import, on the converted base, with the same losses")
    run(2, "train", "--stage", "1", "--model", model, "--train.init_from", work / "again1", "--train.steps", "2", *common,
        "--output", work / "s1-more")
    check(losses(work / "s1-more")[0] < losses(work / "s1")[0], "stage 1 goes on from the import as well")
    run(1, "convert", work / "adapter", "--model", model, "--convert.to", "checkpoint", "--convert.dtype", "bfloat16",
        "--output", work / "bf16")
    with h5py.File(work / "bf16/model.h5") as f:
        check((f.attrs["dtype"], f.attrs["router_compat"]) == (b"bfloat16", b"none"), "an adapter in another element type")
    shutil.copytree(work / "adapter", work / "before")  # as this program wrote it before it wrote the list
    (work / "before/adapter_config.json").write_text(json.dumps({**config, "num_experts": 12, "layers_to_transform": [0, 2]}))
    run(1, "convert", work / "before", "--model", model, "--convert.to", "checkpoint", "--output", work / "again-before")
    check((work / "again-before/model.h5").read_bytes() == (work / "again1/model.h5").read_bytes(), "one number is read as before")
    shutil.copytree(work / "adapter", work / "theirs")  # as the lineage's Python writes it: no metadata of ours
    write_safetensors(work / "theirs/adapter_model.safetensors", tensors, {"format": "pt"})
    run(1, "convert", work / "theirs", "--model", model, "--convert.to", "checkpoint", "--router.compat", "release",
        "--output", work / "release")
    with h5py.File(work / "release/model.h5") as f:
        check(f.attrs["router_compat"] == b"release", "the router's arithmetic of an adapter from elsewhere is an option")


def refusals(work):
    model, adapter = work / "tied-f32", work / "adapter"
    before = sorted(os.listdir(work))
    to = lambda form: ["--convert.to", form, "--output", work / "never"]

    def refused(what, code, words, *arguments, ranks=1):
        run(ranks, "convert", *arguments, code=code, words=words)
        check(sorted(os.listdir(work)) == before, f"{what}: refused, nothing left")

    refused("no such directory", 65, ["/nowhere", "no such directory"], "/nowhere", *to("checkpoint"), ranks=2)
    refused("no target", 78, ["--convert.to is not set"], model, "--output", work / "never")
    refused("unknown target", 78, ["convert.to = 'onnx'"], model, *to("onnx"))
    refused("output exists", 78, ["exists", "s1"], model, "--convert.to", "checkpoint", "--output", work / "s1", ranks=2)
    refused("dense into adapter", 78, ["no experts"], model, *to("adapter"))
    refused("mixture into its family's class", 78, ["convert.to = transformers"], work / "s1", "--model", model, *to("huggingface"))
    refused("same form", 78, ["already"], work / "dense", *to("checkpoint"))
    refused("adapter without base", 78, ["--model is not set"], adapter, *to("checkpoint"))
    refused("adapter on another base", 65, ["was trained on a base with hash"], adapter, "--model", work / "half", *to("checkpoint"))
    shutil.copytree(adapter, work / "bad")
    before = sorted(os.listdir(work))
    good_config = json.loads((adapter / "adapter_config.json").read_text())
    for words, changes in [(["peft_type", "LORA"], {"peft_type": "LORA"}), (["topk", "0"], {"topk": 0}), (["topk"], {"topk": None}),
                           (["aux_loss_coef", "lpr_loss_coef"], {"aux_loss_coef": 0.01, "lpr_loss_coef": 0.1}),
                           (["layers_to_transform", "layer 2"], {"layers_to_transform": [0, 1]}),
                           (["layers_to_transform", "99"], {"layers_to_transform": [0, 2, 99]}),
                           (["num_experts", "12 for layer 1", "1 experts"], {"num_experts": [3, 12, 1]}),
                           (["num_experts", "2 layers"], {"num_experts": [3, 12]})]:
        (work / "bad/adapter_config.json").write_text(json.dumps({**good_config, **changes}))
        refused(f"adapter_config.json {changes}", 65, words, work / "bad", "--model", model, *to("checkpoint"))
    shutil.copy(adapter / "adapter_config.json", work / "bad")
    good = read_safetensors(adapter / "adapter_model.safetensors")
    name = "base_model.model.model.layers.2.mlp.moe_experts.3.gate_proj.weight"
    short = ("F32", (WIDE, HIDDEN - 1), bytes(WIDE * (HIDDEN - 1) * 4))
    for words, changed in [(["model.layers.2.mlp.experts.4.gate_proj.weight", "missing"], {k: v for k, v in good.items() if k != name}),
                           (["experts.4.gate_proj.weight", "[24, 15]", "[24, 16]"], {**good, name: short}),
                           (["moe_classifier", "no router or expert"], {**good, "base_model.model.model.layers.2.mlp.moe_classifier.weight": short}),
                           (["layers.7", "no router or expert"], {**good, name.replace("layers.2", "layers.7"): good[name]}),
                           (["no layer of the model has a router"], {name: good[name]})]:
        write_safetensors(work / "bad/adapter_model.safetensors", changed)
        refused(f"adapter: {words}", 65, words, work / "bad", "--model", model, *to("checkpoint"), ranks=2)
    (work / "bad/adapter_model.safetensors").rename(work / "bad/adapter_model.bin")
    refused("pickled adapter", 65, ["pickle"], work / "bad", "--model", model, *to("checkpoint"))
    shutil.rmtree(work / "bad")
    shutil.copytree(work / "dense", work / "bad")
    data = bytearray((work / "bad/model.h5").read_bytes())
    data[len(data) // 2] ^= 4
    (work / "bad/model.h5").write_bytes(data)
    before = sorted(os.listdir(work))
    refused("a flipped bit in a checkpoint", 65, ["damaged", "model.h5"], work / "bad", *to("huggingface"), ranks=2)


def main():
    work = Path(tempfile.mkdtemp(prefix="nmoe-convert-"))
    try:
        round_trips(work)
        without_head(work)
        families(work)
        adapters(work)
        refusals(work)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    print(f"convert.py: {len(failures)} failed")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
