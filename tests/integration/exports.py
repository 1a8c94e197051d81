#!/usr/bin/python3
"""neuronmoe convert: mixtures for transformers, padded to a class that it has or with Python of our own; what is in the files,
and what is refused. Usage: exports.py MPIEXEC NEURONMOE"""
import ast
import hashlib
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

import h5py
import numpy as np

import convert  # its models, token file and checks; it takes the same arguments
from convert import HIDDEN, LAYERS, TOKENIZER, WIDE, check, make_model, random_tensors, read_model, read_safetensors, run, write_safetensors

PYTHON = Path(__file__).resolve().parents[2] / "src/model/transformers"


def make_inputs(work):
    """A base of each family; of the first also two others, and a run of stage 1 as checkpoint and as adapter."""
    rng = np.random.default_rng(1)
    shapes = convert.dense_shapes
    for name, tensors, dtype, config in (
            ("tied-f32", shapes(False, False), "F32", convert.config_json(rope_scaling=convert.LLAMA3)),
            ("qwen-bias-f32", shapes(True, True), "F32", convert.config_json(**convert.QWEN)),
            ("mistral-f32", shapes(False, True), "F32", convert.config_json(**convert.MISTRAL)),
            ("qwen3-bf16", shapes(False, False, head_dim=12, qk_norm=True), "BF16", convert.config_json(**convert.QWEN3))):
        make_model(work / name, random_tensors(rng, tensors, dtype), config, 2 if "qwen-" in name else 1)
    model, tokens = work / "tied-f32", work / "tokens.h5"
    convert.token_file(tokens)
    shutil.copy(TOKENIZER, model / "tokenizer.model")  # the one that the tokens name
    (work / "experts.cfg").write_text("ADA_MOE_NUM_EXPERTS_LIST=3,1,12\n")
    run(2, "train", "--stage", "1", "--experts", work / "experts.cfg", "--model", model, "--tokens", tokens, "--train.steps", "5",
        "--train.seq_length", "16", "--train.global_batch_size", "4", "--train.micro_batch_size", "2", "--output", work / "s1")
    run(1, "convert", work / "s1", "--convert.to", "adapter", "--output", work / "adapter")
    run(1, "convert", model, "--convert.to", "huggingface", "--output", work / "half", "--convert.dtype", "bfloat16")
    run(1, "convert", work / "adapter", "--model", model, "--convert.to", "checkpoint", "--output", work / "converted")


def padded(work):
    """The export that transformers has a class for, tensor by tensor; tools/check_export.py compares its numbers."""
    model, original = work / "tied-f32", next((work / "s1").glob("step_*"))
    (model / "notes.txt").write_text("of the owner\n")
    for ranks in (1, 2):
        run(ranks, "convert", work / "s1", "--model", model, "--convert.to", "transformers", "--output", work / f"padded{ranks}")
    names = sorted(os.listdir(work / "padded1"))
    check(names == ["LICENSE", "README.md", "config.json", "model.safetensors", "tokenizer.json", "tokenizer.model"], f"files: {names}")
    check(all((work / "padded1" / n).read_bytes() == (work / "padded2" / n).read_bytes() for n in names), "the same bytes on 2 ranks")
    card = (work / "padded1/README.md").read_text()
    check(all(words in card for words in ("3,1,12", "2 per token", "2.25 times the FFN weights", "stage 1", hashlib.sha256(
        hashlib.sha256((model / "config.json").read_bytes()).hexdigest().encode() + b" model.safetensors " +
        hashlib.sha256((model / "model.safetensors").read_bytes()).hexdigest().encode()).hexdigest())), f"model card: {card}")
    config = json.loads((work / "padded1/config.json").read_text())
    wanted = {"architectures": ["Ernie4_5_MoeForCausalLM"], "model_type": "ernie4_5_moe", "moe_num_experts": 12, "moe_k": 2,
              "moe_layer_start_index": 0, "moe_layer_end_index": 2, "moe_layer_interval": 1, "moe_num_shared_experts": 0,
              "moe_intermediate_size": WIDE, "use_bias": False, "dtype": "float32", "tie_word_embeddings": True, "bos_token_id": 1}
    check({k: config.get(k) for k in wanted} == wanted, f"config.json: {config}")
    got, base = (read_safetensors(d / "model.safetensors") for d in (work / "padded1", model))
    array = lambda tensors, name: np.frombuffer(tensors[name][2], "<f4").reshape(tensors[name][1])
    half = [r for head in range(2) for i in range(4) for r in (8 * head + i, 8 * head + 4 + i)]  # halves of a head to pairs
    with h5py.File(original / "model.h5") as f:
        for l, count in enumerate((3, 1, 12)):
            p = f"model.layers.{l}."
            check(np.array_equal(array(got, p + "self_attn.q_proj.weight"), array(base, p + "self_attn.q_proj.weight")[half]) and
                  np.array_equal(array(got, p + "self_attn.k_proj.weight"), array(base, p + "self_attn.k_proj.weight")[half[:8]]) and
                  got[p + "self_attn.v_proj.weight"] == base[p + "self_attn.v_proj.weight"], f"layer {l}: rows of q and k in pairs")
            real = count if count > 1 else 2
            bias = array(got, p + "mlp.moe_statics.e_score_correction_bias")
            check(np.array_equal(bias, [[0.0] * real + [-2.0] * (12 - real)]), f"layer {l}: who may be chosen: {bias}")
            router = f[f"model/layers/{l:02d}/router"][...] if count > 1 else np.zeros((12, HIDDEN), "f4")
            if count > 1:
                router = np.concatenate([router, np.repeat(router[:1], 12 - count, axis=0)])
            check(np.array_equal(array(got, p + "mlp.gate.weight"), router), f"layer {l}: rows of the router")
            for w in ("gate", "up", "down"):
                dense = array(base, f"{p}mlp.{w}_proj.weight")
                experts = [dense] + (list(f[f"model/layers/{l:02d}/experts/{w}"][...]) if count > 1 else [dense])
                experts += [np.zeros_like(dense)] * (12 - len(experts))
                check(all(np.array_equal(array(got, f"{p}mlp.experts.{e}.{w}_proj.weight"), experts[e]) for e in range(12)),
                      f"layer {l}: {w} of base, new experts, padding")
    check(len(got) == len(base) + 3 * (2 + 3 * 12 - 3), f"{len(got)} tensors")
    run(1, "convert", work / "adapter", "--model", model, "--convert.to", "transformers", "--convert.dtype", "bfloat16", "--output", work / "narrow")
    kinds = {name: dtype for name, (dtype, _, _) in read_safetensors(work / "narrow/model.safetensors").items()}
    routing = {n for n, d in kinds.items() if d == "F32"}
    check(routing == {n for n in kinds if ".mlp.gate." in n or "moe_statics" in n} and set(kinds.values()) == {"F32", "BF16"},
          f"an adapter in bfloat16; its routing stays float32: {sorted(routing)}")


def random_adapter(path, counts, rng):
    """An adapter as the lineage writes it, of random numbers; its tensors by name."""
    path.mkdir()
    shapes, prefix = {}, "base_model.model.model.layers."
    for l, count in enumerate(counts):
        if count > 1:
            shapes[f"{prefix}{l}.mlp.moe_router_embedding.weight"] = (count, HIDDEN)
        for e in range(count - 1):
            shapes |= {f"{prefix}{l}.mlp.moe_experts.{e}.{w}_proj.weight": s
                       for w, s in (("gate", (WIDE, HIDDEN)), ("up", (WIDE, HIDDEN)), ("down", (HIDDEN, WIDE)))}
    tensors = random_tensors(rng, shapes, "F32")
    write_safetensors(path / "adapter_model.safetensors", tensors)
    (path / "adapter_config.json").write_text(json.dumps({
        "peft_type": "MOE", "topk": 3, "num_experts": counts, "layers_to_transform": list(range(LAYERS)), "aux_loss_coef": None,
        "lpr_loss_coef": None}))
    return tensors


def with_code(work):
    """The export in its exact size, of every family; tools/check_export.py runs it and compares its numbers."""
    trees = {name: ast.parse((PYTHON / f"{name}.py").read_text()) for name in ("configuration_neuronmoe", "modeling_neuronmoe")}
    classes = {f"{name}.{node.name}" for name, tree in trees.items() for node in tree.body if isinstance(node, ast.ClassDef)}
    init, = (node for node in ast.walk(trees["configuration_neuronmoe"]) if isinstance(node, ast.FunctionDef) and node.name == "__init__")
    of_transformers = {"architectures", "auto_map", "model_type", "dtype", "tie_word_embeddings", "bos_token_id", "eos_token_id",
                       "pad_token_id", "attention_bias"}
    known = {a.arg for a in init.args.args} | of_transformers
    rng, counts = np.random.default_rng(9), [2, 1, 3]
    for base, features in (("tied-f32", {}), ("qwen-bias-f32", {"qkv_bias": True}), ("mistral-f32", {}), ("qwen3-bf16", {"qk_norm": True})):
        source, adapter, out = work / base, work / f"{base}-adapter", work / f"{base}-code"
        experts = random_adapter(adapter, counts, rng)
        for ranks in (1, 2):
            run(ranks, "convert", adapter, "--model", source, "--convert.to", "transformers-code", "--output", f"{out}{ranks}",
                *(("--convert.dtype", "bfloat16") if "bf16" in base else ()))
        out = work / f"{base}-code1"
        names = sorted(os.listdir(out))
        expected = sorted({n for n in os.listdir(source) if n.startswith(("tokenizer", "LICENSE"))} | {
            "README.md", "config.json", "model.safetensors", "configuration_neuronmoe.py", "modeling_neuronmoe.py"})
        check(names == expected, f"{base}: files: {names}")
        check(all((out / n).read_bytes() == (work / f"{base}-code2" / n).read_bytes() for n in names), f"{base}: the same bytes on 2 ranks")
        check(all((out / f"{n}.py").read_bytes() == (PYTHON / f"{n}.py").read_bytes() for n in trees), f"{base}: the Python of the sources")
        config, given = (json.loads((d / "config.json").read_text()) for d in (out, source))
        wanted = {"architectures": ["NeuronMoEForCausalLM"], "model_type": "neuronmoe", "base_model_type": given["model_type"],
                  "num_experts": counts, "num_experts_per_tok": 3, "qkv_bias": False, "qk_norm": False, "attention_bias": False,
                  "router_compat": "none", "dtype": "bfloat16" if "bf16" in base else "float32", "head_dim": given["head_dim"],
                  "tie_word_embeddings": given["tie_word_embeddings"], **features}
        check({k: config.get(k) for k in wanted} == wanted, f"{base}: config.json: {config}")
        check(set(config["auto_map"].values()) <= classes and set(config["auto_map"]) == {"AutoConfig", "AutoModel", "AutoModelForCausalLM"},
              f"{base}: auto_map names classes that are there: {config['auto_map']}")
        check(set(config) <= known, f"{base}: every field is one that the class takes: {set(config) - known}")
        rope = {"rope_type": "default"} | (given.get("rope_scaling") or {}) | {"rope_theta": given["rope_theta"]}
        check(config["rope_parameters"] == rope, f"{base}: rope_parameters: {config['rope_parameters']}")
        got = read_model(out)
        dense = {n: t for file in source.glob("*.safetensors") for n, t in read_safetensors(file).items()}
        check({n: got.get(n) for n in dense} == dense, f"{base}: the base's tensors byte for byte")
        placed = {}
        for name, (_, shape, raw) in experts.items():
            layer, rest = name.removeprefix("base_model.model.model.layers.").split(".mlp.moe_")
            number, _, what = rest.removeprefix("experts.").partition(".")
            values = np.frombuffer(raw, "<f4")
            router = rest.startswith("router")
            if "bf16" in base:  # the bits of the nearest; a router keeps its type, and what conversion to bfloat16 left of its values
                wide = values.view("<u4").astype("<u8")
                narrow = ((wide + 0x7FFF + ((wide >> 16) & 1)) >> 16).astype("<u4")
                raw = (narrow << 16).astype("<u4").tobytes() if router else narrow.astype("<u2").tobytes()
            placed[f"model.layers.{layer}.mlp." + ("router.weight" if router else f"experts.{int(number) + 1}.{what}")] = (
                "BF16" if "bf16" in base and not router else "F32", shape, raw)
        check({n: t for n, t in got.items() if n not in dense} == placed, f"{base}: routers and new experts, {len(placed)} of them, none more")
    card = (work / "tied-f32-code1/README.md").read_text()
    check(all(words in card for words in ("2,1,3; 3 per token", "6 experts in 3 layers", "trust_remote_code", "from tied-f32")), f"model card: {card}")
    plain = convert.read_safetensors(work / "adapter/adapter_model.safetensors")
    shutil.copytree(work / "adapter", work / "release")  # as the lineage writes it: no metadata of ours
    write_safetensors(work / "release/adapter_model.safetensors", plain, {"format": "pt"})
    for source, options, told in (("release", ("--router.compat", "release"), "release"), ("converted", (), "none")):
        run(1, "convert", work / source, "--model", work / "tied-f32", "--convert.to", "transformers-code", *options,
            "--output", work / f"{source}-code")
        config = json.loads((work / f"{source}-code/config.json").read_text())
        check(config["router_compat"] == told, f"{source}: router.compat goes along")
    run(1, "convert", work / "s1", "--model", work / "tied-f32", "--convert.to", "transformers-code", "--convert.max_shard_bytes", "9000",
        "--output", work / "sharded-code")
    whole = read_model(work / "sharded-code")
    with h5py.File(next((work / "s1").glob("step_*")) / "model.h5") as f:
        check(all(np.array_equal(np.frombuffer(whole[f"model.layers.2.mlp.experts.{e + 1}.{w}_proj.weight"][2], "<f4"), rows[e].ravel())
                  for w in ("gate", "up", "down") for rows in [f[f"model/layers/02/experts/{w}"][...]] for e in range(11)),
              "a checkpoint, in shards: expert e of a layer is experts.e")
    check("Trained in stage 1; checkpoint step_0000000005" in (card := (work / "sharded-code/README.md").read_text()), f"how it was made: {card}")


def unfinished(work):
    """Steps that a run was writing, and damaged ones: no form is made of them."""
    step = next((work / "s1").glob("step_*"))
    (work / "unfinished").mkdir()
    shutil.copytree(step, work / "unfinished/step_0000000009.tmp")
    shutil.copytree(step, work / "unfinished/step_0000000007")
    (work / "unfinished/step_0000000007/manifest.json").unlink()
    shutil.copytree(step, work / "short")
    with open(work / "short/model.h5", "r+b") as f:
        f.truncate((step / "model.h5").stat().st_size - 64)
    (work / "no-model").mkdir()
    shutil.copy(step / "manifest.json", work / "no-model")
    return [("a run that was ended before its first step was whole", ["no intact checkpoint"], work / "unfinished"),
            ("a step without manifest", ["no intact checkpoint"], work / "unfinished/step_0000000007"),
            ("a shortened model.h5", ["damaged", "model.h5"], work / "short"), ("no model.h5", ["damaged", "model.h5"], work / "no-model")]


def refusals(work):
    model = work / "tied-f32"
    before = sorted(os.listdir(work))
    to = lambda form: ["--convert.to", form, "--output", work / "never"]

    def refused(what, code, words, *arguments, ranks=1):
        run(ranks, "convert", *arguments, code=code, words=words)
        check(sorted(os.listdir(work)) == before, f"{what}: refused, nothing left")

    refused("dense, padded", 78, ["convert.to = huggingface"], model, *to("transformers"))
    refused("padded, on another base", 65, ["was trained on a base with hash", "half"], work / "s1", "--model", work / "half", *to("transformers"))
    refused("dense, with code", 78, ["convert.to = huggingface"], model, *to("transformers-code"))
    refused("with code, on another base", 65, ["was trained on a base with hash", "half"], work / "s1", "--model", work / "half",
            *to("transformers-code"))
    for family in ("qwen3-bf16", "mistral-f32"):
        refused(f"{family}, padded: what the class has not", 78, ["norm of q and k" if "qwen3" in family else "2 experts and top_k is 3",
                "convert.to = transformers-code"], work / f"{family}-adapter", "--model", work / family, *to("transformers"))
    cases = unfinished(work)
    before = sorted(os.listdir(work))
    for what, words, place in cases:
        for form in ("transformers", "transformers-code"):
            refused(f"{what}, {form}", 65, words, place, "--model", model, *to(form))


def main():
    work = Path(tempfile.mkdtemp(prefix="nmoe-exports-"))
    try:
        for part in (make_inputs, padded, with_code, refusals):
            part(work)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    print(f"exports.py: {len(convert.failures)} failed")
    sys.exit(1 if convert.failures else 0)


if __name__ == "__main__":
    main()
