# SPDX-License-Identifier: Apache-2.0
"""Small files in the layouts of docs/formats.md, with invented numbers, for the tests of the Python tools."""
import json
import os

import h5py
import numpy as np

LANGUAGES = ("en", "es", "zh", "el", "hu", "tr")
LAYERS = 8
PROJECTIONS = (("mlp.down_proj", 128), ("mlp.gate_proj", 344), ("mlp.up_proj", 344), ("self_attn.k_proj", 64),
               ("self_attn.o_proj", 128), ("self_attn.q_proj", 128), ("self_attn.v_proj", 64))
EXPERTS = (3, 1, 1, 1, 2, 3, 3, 4)
PPL = {"dense": {"en": 38.1, "el": 126.9}, "stage1": {"en": 54.7, "el": 86.8}, "stage2": {"en": 40.1, "el": 90.9}}
ACC = {"dense": {"en": .845, "el": .625}, "stage1": {"en": .695, "el": .69}, "stage2": {"en": .795, "el": .685}}


def write_modules(file, names, widths, layers):
    group = file.create_group("module")
    group["name"] = np.array([name.encode() for name in names])
    group["layer"] = np.array(layers, dtype="u4")
    group["width"] = np.array(widths, dtype="u4")
    group["offset"] = np.concatenate([[0], np.cumsum(widths)[:-1]]).astype("u8")


def write_neurons(path, top_k=100, tied=()):
    rng = np.random.default_rng(7)
    names = [(f"model.layers.{i}.{p}:0", w, i) for i in range(LAYERS) for p, w in PROJECTIONS]
    total = sum(w for _, w, _ in names)
    with h5py.File(path, "w") as file:
        write_modules(file, *zip(*names))
        file["language"] = np.array([lang.encode() for lang in LANGUAGES])
        ap = rng.uniform(0.1, 0.9, (len(LANGUAGES), total))
        for lang in tied:
            ap[LANGUAGES.index(lang), 40:40 + 3 * top_k // 2] = 1.0
        file.create_dataset("ap", data=ap, compression="gzip", compression_opts=4, shuffle=True, fletcher32=True)
        kind = np.dtype([("uuid", "u8"), ("module", "u4"), ("unit", "u4"), ("ap", "f8")])
        offsets = file["module/offset"][...]
        for lang, values in zip(LANGUAGES, ap):
            order = np.argsort(-values.astype("f4"), kind="stable")[:top_k]
            module = np.searchsorted(offsets, order, side="right") - 1
            rows = np.zeros(top_k, dtype=kind)
            rows["uuid"], rows["module"], rows["unit"] = order, module, order - offsets[module]
            rows["ap"] = values[order]
            selected = file.create_dataset(f"selected/{lang}", data=rows)
            selected.attrs.update({"k": top_k, "ap_min": 0.5, "ties": "random" if lang == "el" else "uuid"})
        file.attrs.update({"format": "neuronmoe-neurons", "format_version": 1, "seed": 1, "model_sha256": "ab" * 32,
                           "complete": 1})


def write_expert_neurons(path, experts=EXPERTS):
    rng = np.random.default_rng(8)
    ids = [(layer, e) for layer, count in enumerate(experts) if count > 1 for e in range(count)]
    modules = [(f"model.layers.{layer}.mlp.experts.{e}.{p}", w, layer) for layer, e in ids
               for p, w in PROJECTIONS[:3]]
    with h5py.File(path, "w") as file:
        write_modules(file, *zip(*modules))
        file["language"] = np.array([lang.encode() for lang in LANGUAGES])
        file["ap"] = rng.beta(2, 1, (len(LANGUAGES), sum(w for _, w, _ in modules)))
        per_expert = file["ap"][...].reshape(len(LANGUAGES), len(ids), 816)
        file["expert/total"] = np.full(len(ids), 816, dtype="u8")
        file["expert/high_ap"] = (per_expert >= 0.9).sum(axis=2).astype("u8")
        file["expert/zero_samples"] = np.zeros((len(LANGUAGES), len(ids)), dtype="u8")
        file["expert/layer"] = np.array([layer for layer, _ in ids], dtype="u4")
        file["expert/id"] = np.array([e for _, e in ids], dtype="u4")
        file["count_tokens"] = np.ones((len(ids), 12), dtype="u8")
        file.attrs.update({"format": "neuronmoe-expert-neurons", "format_version": 1, "ap_high": 0.9, "complete": 1})


def write_experts(path, experts=EXPERTS):
    with open(path, "w", encoding="utf-8") as stream:
        stream.write("# experts per layer, base included\nADA_MOE_NUM_EXPERTS_LIST=" + ",".join(map(str, experts)) + "\n")


def write_eval(path, stage, ppl=PPL, experts=EXPERTS):
    languages = {lang: {"ppl": ppl[stage].get(lang, 80.0), "nll": 4.0, "tokens": 10240, "documents": 270, "words": 7000, "bytes": 40000,
                        "word_perplexity": None, "byte_perplexity": 2.8, "bits_per_byte": 1.5} for lang in LANGUAGES}
    found = {"format": "neuronmoe-eval", "format_version": 1, "model": "base",
             "checkpoint": None if stage == "dense" else stage, "config": {}, "perplexity": languages,
             "continuation": {lang: {"acc": acc, "stderr": 0.03, "n": 200} for lang, acc in ACC[stage].items()}}
    if stage != "dense":
        found["router"] = {lang: [{"layer": n, "base_weight": 0.3 if stage == "stage1" else 0.8}
                                  for n, e in enumerate(experts) if e > 1] for lang in LANGUAGES}
    with open(path, "w", encoding="utf-8") as stream:
        json.dump(found, stream)


def write_metrics(folder, steps=120):
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "metrics.jsonl"), "w", encoding="utf-8") as stream:
        for step in range(1, steps + 1):
            stream.write(json.dumps({"step": step, "tokens": 1024 * step, "loss_lm": 4 + 4 / step, "lr": 1e-3}) + "\n")


def write_run(folder, experts=EXPERTS, ppl=PPL):
    os.makedirs(folder, exist_ok=True)
    write_experts(os.path.join(folder, "experts.cfg"), experts)
    for stage in ("stage1", "stage2"):
        write_metrics(os.path.join(folder, stage))
        write_eval(os.path.join(folder, f"eval-{stage}.json"), stage, ppl, experts)


def write_journey(work, target="el", control=None, ppl=PPL, tied=(), experts=EXPERTS):
    os.makedirs(os.path.join(work, target), exist_ok=True)
    os.makedirs(os.path.join(work, "config", target), exist_ok=True)
    with open(os.path.join(work, "config", "pretrain.cfg"), "w", encoding="utf-8") as stream:
        stream.write("[train]\nsteps = 120 # <not a tag>\n")
    write_neurons(os.path.join(work, "neurons.h5"), tied=tied)
    write_metrics(os.path.join(work, "base", "checkpoints"))
    write_eval(os.path.join(work, target, "eval-dense.json"), "dense", ppl)
    write_run(os.path.join(work, target), experts, ppl)
    write_expert_neurons(os.path.join(work, target, "expert_neurons.h5"), experts)
    if control:
        write_run(os.path.join(work, control), (3,) * LAYERS, {
            "stage1": {"en": 60.2, "el": 84.1}, "stage2": {"en": 39.9, "el": 88.6}})
