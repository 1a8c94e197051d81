#!/usr/bin/python3
"""The whole journey on a toy: text -> tokens -> base -> neurons -> experts -> stage 1 -> stage 2 -> specialisation and
evaluation, on 1, 2 and 3 ranks, with a stop, a resume and a damaged checkpoint on the way.
Usage: journey.py MPIEXEC NEURONMOE"""
import contextlib
import hashlib
import json
import math
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np

MPIEXEC, BINARY = sys.argv[1:3]
LANGUAGES = ["en", "es", "el"]
ALPHABET = {"en": "etaoinshrdlu", "es": "eaosnrlduñáé", "el": "αοιετσνηυρπκ"}
problems = []


def check(condition, what):
    print(("ok     " if condition else "FAILED ") + what, flush=True)
    if not condition:
        problems.append(what)


def start(ranks, *arguments):
    launcher = [MPIEXEC, "-n", str(ranks)] if ranks > 1 else []
    return subprocess.Popen(launcher + [BINARY] + [str(a) for a in arguments], stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True)


def run(ranks, *arguments, code=0):
    begin = time.monotonic()
    job = start(ranks, *arguments)
    out, err = job.communicate(timeout=300)
    what = f"{arguments[0]} on {ranks} ranks ends with {code} ({time.monotonic() - begin:.1f} s)"
    check(job.returncode == code, what if job.returncode == code else f"{what}, not {job.returncode}\n{out}\n{err}")
    if job.returncode != code:
        finish()
    return out, err


def finish():
    print(f"journey.py: {len(problems)} problems")
    sys.exit(1 if problems else 0)


def sha(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def make_text(work):
    """Sentences of made-up words, each language with letters and words of its own; a word is followed by one of three,
    so that there is something to learn besides which words there are."""
    for language in LANGUAGES:
        rng = random.Random(language)
        words = ["".join(rng.choices(ALPHABET[language], k=rng.randint(2, 6))) for _ in range(60)]
        followers = [rng.sample(range(60), 3) for _ in words]

        def sentence():
            at, text = rng.randrange(60), []
            for _ in range(rng.randint(6, 14)):
                text.append(words[at])
                at = rng.choice(followers[at])
            return " ".join(text)

        for part, lines in [("train", 400), ("held", 60)]:
            with open(work / f"{part}.{language}.jsonl", "w") as f:
                for _ in range(lines):
                    f.write(json.dumps({"text": sentence()}, ensure_ascii=False) + "\n")
        (work / f"sense.{language}.json").write_text(json.dumps({
            "concept": language, "sentences": {"positive": [sentence() for _ in range(40)], "negative": []}}))
        with open(work / f"items.{language}.jsonl", "w") as f:
            for _ in range(20):
                item = {"context": sentence(), "choices": [sentence() for _ in range(4)], "gold": rng.randrange(4)}
                f.write(json.dumps(item, ensure_ascii=False) + "\n")
    lines = work / "spm.txt"
    lines.write_text("".join(json.loads(line)["text"] + "\n" for language in LANGUAGES
                             for line in open(work / f"train.{language}.jsonl")))
    subprocess.run(["spm_train", f"--input={lines}", f"--model_prefix={work}/tok", "--vocab_size=400", "--model_type=bpe",
                    "--byte_fallback=true", "--unk_id=0", "--bos_id=-1", "--eos_id=2", "--character_coverage=1.0",
                    "--hard_vocab_limit=false", "--minloglevel=2"], check=True, capture_output=True)


def tokenize(work):
    def arguments(part, output):
        inputs = sum((["--tokenize.input", f"{l}:{'new' if l == 'el' else 'old'}:{work}/{part}.{l}.jsonl"] for l in LANGUAGES), [])
        return ["tokenize", "--tokenize.tokenizer", work / "tok.model", *inputs, "--output", work / output]

    run(1, *arguments("train", "train1.h5"))
    run(3, *arguments("train", "train.h5"))
    check(sha(work / "train1.h5") == sha(work / "train.h5"), "tokens.h5 has the same bytes from 1 and 3 ranks")
    run(2, *arguments("held", "held.h5"))
    good = (work / "held.el.jsonl").read_bytes()
    for name, bytes_, reason in [("broken", b'{"text": "half a li\n', "broken.jsonl:61"),
                                 ("nofield", b'{"txet": "a"}\n', "nofield.jsonl:61"),
                                 ("utf8", b'{"text": "caf\xe9"}\n', "utf8.jsonl:61")]:
        path = work / f"{name}.jsonl"
        path.write_bytes(good + bytes_ + good)
        options = ["tokenize", "--tokenize.tokenizer", work / "tok.model", "--tokenize.input", f"el:new:{path}", "--output",
                   work / "bad.h5"]
        _, err = run(2, *options, code=65)
        check(err.count("neuronmoe: error") == 1 and reason in err, f"{name}: one line with {reason}")
        check(not list(work.glob("bad.h5*")), f"{name}: nothing half-written")
        run(2, *options, "--tokenize.bad_line", "skip")
        with h5py.File(work / "bad.h5") as f:
            check(f["doc/lang"].shape[0] == 120, f"{name}: skipped, 120 documents left")
        (work / "bad.h5").unlink()


def write_config(work):
    (work / "arch.json").write_text(json.dumps({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 400, "hidden_size": 32,
        "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
        "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": True,
        "hidden_act": "silu", "bos_token_id": 2, "eos_token_id": 2, "torch_dtype": "float32"}))
    (work / "toy.cfg").write_text(f"""[train]
seq_length = 32
micro_batch_size = 4
global_batch_size = 12   # 3 micro-batches: uneven on 2 ranks
log_every = 20
save_every = 20
[analysis]
sense = en:{work}/sense.en.json
sense = es:{work}/sense.es.json
sense = el:{work}/sense.el.json
top_k = 60
[allocation]
languages = en,el
e_max = 3
""")
    share = {"en": 0.5, "es": 0.35, "el": 0.15}  # a base that knows little Greek
    (work / "base.cfg").write_text("".join(f"[data.{l}]\ntokens = {work}/train.h5\nlang = {l}\nweight = {share[l]}\n"
                                           for l in LANGUAGES))
    (work / "stage1.cfg").write_text(f"[data.greek]\ntokens = {work}/train.h5\nlang = el\n")
    (work / "stage2.cfg").write_text(f"[data.greek]\ntokens = {work}/train.h5\nlang = el\nweight = 1\n"
                                     f"[data.english]\ntokens = {work}/train.h5\nlang = en\nweight = 1\n")


def metrics(path):
    return [json.loads(line) for line in open(path)]


def close(a, b, tolerance):
    return len(a) == len(b) and all(abs(x - y) <= tolerance * max(1.0, abs(y)) for x, y in zip(a, b))


def pretrain(work):
    arguments = ["pretrain", "--config", work / "toy.cfg", "--config", work / "base.cfg", "--pretrain.model_config",
                 work / "arch.json", "--pretrain.tokenizer", work / "tok.model", "--train.learning_rate", "1e-2",
                 "--train.steps", "200"]
    _, err = run(2, *arguments, "--output", work / "base")
    check("backward: 4 of 4 layers train (lowest: layer 0), and the embedding;" in err and "segment" not in err,
          "base: one line of backward")
    check(err.rstrip().endswith(f"model: {work}/base"), "base: the last line names the model")
    loss = [m["loss_lm"] for m in metrics(work / "base/checkpoints/metrics.jsonl")]
    check(len(loss) == 200 and loss[-1] < loss[0] - 0.5, f"base: loss {loss[0]:.3f} -> {loss[-1]:.3f}")
    one_loss = one_norm = None
    for ranks in (1, 3):
        run(ranks, *arguments, "--output", work / f"base{ranks}", "--train.steps", "10")
        other = [m["loss_lm"] for m in metrics(work / f"base{ranks}/checkpoints/metrics.jsonl")]
        norm = [m["grad_norm"] for m in metrics(work / f"base{ranks}/checkpoints/metrics.jsonl")]
        # 10 steps have another cosine: only the first one is the same step.
        check(close(other[:1], loss[:1], 1e-5), f"base: first loss on {ranks} ranks as on 2")
        if ranks == 3:
            check(close(norm, one_norm, 1e-3) and close(other, one_loss, 1e-4), "base: losses and norms on 3 ranks as on 1")
        one_loss, one_norm = other, norm
    for name in ("config.json", "model.safetensors", "tokenizer.model"):
        check((work / "base" / name).is_file(), f"base/{name} is there")
    settings = json.loads((work / "base/tokenizer_config.json").read_text())
    check(settings == {"add_bos_token": True, "bos_token": "</s>", "eos_token": "</s>"}, f"base/tokenizer_config.json: {settings}")


def interrupt_ranks(mpirun, times):
    """Many USR1 straight to the ranks: none may land in the middle of a matrix product (docs/decisions.md, signals)."""
    children = [int(pid) for task in Path(f"/proc/{mpirun}/task").iterdir() for pid in (task / "children").read_text().split()]
    for _ in range(times):
        for pid in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGUSR1)


def stop_and_resume(work):
    """USR1 to mpirun in the middle: exit 85; the same command goes on to the same end."""
    arguments = ["pretrain", "--config", work / "toy.cfg", "--config", work / "base.cfg", "--pretrain.model_config",
                 work / "arch.json", "--pretrain.tokenizer", work / "tok.model", "--train.learning_rate", "1e-2",
                 "--train.steps", "200", "--output", work / "stopped"]
    job = start(2, *arguments)
    lines = work / "stopped/checkpoints/metrics.jsonl"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and job.poll() is None and not (lines.exists() and len(lines.read_text().splitlines()) > 5):
        time.sleep(0.01)
    job.send_signal(signal.SIGUSR1)
    interrupt_ranks(job.pid, 50)
    _, err = job.communicate(timeout=120)
    check(job.returncode == 85, f"USR1 ends with 85 (got {job.returncode})" + ("" if job.returncode == 85 else "\n" + err))
    done = len(metrics(lines))
    check(0 < done < 200, f"stopped after {done} of 200 steps")
    _, err = run(2, *arguments)
    check(f"at step {done} of 200" in err, "says where it resumed")
    check([m["step"] for m in metrics(lines)] == list(range(1, 201)), "metrics.jsonl has each step once")
    check(sha(work / "stopped/model.safetensors") == sha(work / "base/model.safetensors"), "same weights as without the stop")
    weights = lambda run_: sha(work / run_ / "checkpoints/step_0000000200/optim.h5")
    check(weights("stopped") == weights("base"), "same optimizer state as without the stop")


def measure(work):
    arguments = ["analyze", "--config", work / "toy.cfg", "--model", work / "base"]
    for ranks in (1, 3):
        run(ranks, *arguments, "--output", work / f"neurons{ranks}.h5")
    with h5py.File(work / "neurons1.h5") as a, h5py.File(work / "neurons3.h5") as b:
        check(np.array_equal(a["ap"][:], b["ap"][:]), "same AP on 1 and 3 ranks")
        check(np.array_equal(a["separation"][:], b["separation"][:]), "same separation on 1 and 3 ranks")
        check(all(np.array_equal(a["selected"][l][:], b["selected"][l][:]) for l in LANGUAGES), "same neurons selected on both")
        check(a["ap"].shape == (3, 4 * (48 + 48 + 32 + 32 + 32 + 16 + 16)), f"AP of every neuron: {a['ap'].shape}")
        check(float(a["ap"][:].max()) > 0.9, "some neuron knows its language")
    responses(work, arguments)
    beginnings(work)
    ties(work, arguments)
    run(2, "allocate", "--config", work / "toy.cfg", "--allocation.neurons", work / "neurons1.h5", "--output", work / "experts.cfg")
    text = (work / "experts.cfg").read_text()
    counts = [int(x) for x in text.split("ADA_MOE_NUM_EXPERTS_LIST=")[1].split()[0].split(",")]
    check(len(counts) == 4 and max(counts) == 3 and min(counts) == 1, f"experts per layer {counts}")
    # Toy neurons are so clear-cut (AP 1.0) that ties put all experts into layer 0: train a list with 2 and 3 experts.
    run(1, "allocate", "--allocation.mode", "list", "--allocation.list", "2,1,3,2", "--output", work / "list.cfg")
    return [2, 1, 3, 2]


def responses(work, arguments):
    """Numbers for analyses of one's own: on any number of ranks, enough for `score`; options that say nothing are refused."""
    chosen = [*arguments, "--analysis.response_modules", "layers.2,down_proj", "--output", work / "again.h5", "--analysis.responses"]
    for ranks in (1, 3):
        _, err = run(ranks, *chosen, work / f"responses{ranks}.h5")
        check("responses of 320 neurons in 10 modules" in err and " MB will be written" in err, "its size is said")
    run(2, "score", "--score.input", work / "responses3.h5", "--output", work / "scores.h5")
    with h5py.File(work / "responses1.h5") as a, h5py.File(work / "responses3.h5") as b, h5py.File(work / "scores.h5") as scores, \
            h5py.File(work / "neurons1.h5") as neurons:
        check(a["responses"].dtype == "f4" and np.array_equal(a["responses"][:], b["responses"][:]), "same responses on 1 and 3 ranks")
        rows = np.concatenate([np.arange(int(n), int(n + w)) for n, w in zip(b["module/first_neuron"][:], b["module/width"][:])])
        check(np.array_equal(scores["ap"][:], neurons["ap"][:][:, rows]), "`score` finds the AP of analyze in them")
    for what, options, said in [
            ("no such module", ["--analysis.responses", work / "refused-r.h5", "--analysis.response_modules", "layers.4"],
             "'layers.4' names no module; choose from model (all of them), layers.0 to layers.3, mlp.down_proj, "),
            ("no modules", ["--analysis.responses", work / "refused-r.h5"], "analysis.response_modules is not"),
            ("no file", ["--analysis.response_modules", "layers.0"], "analysis.responses, the file they go to, is not"),
            ("a directory", ["--analysis.responses", work, "--analysis.response_modules", "layers.0"], "--analysis.responses"),
            ("the other output", ["--analysis.responses", f"{work}/./refused-n.h5", "--analysis.response_modules", "layers.0"], "is --output too")]:
        _, err = run(2, *arguments, "--output", work / "refused-n.h5", *options, code=78)
        lines = [line for line in err.splitlines() if "neuronmoe: error" in line]
        check(len(lines) == 1 and said in lines[0], f"{what}: {lines}")
        check(not list(work.glob("refused-*")), f"{what}: nothing is left")


def ties(work, arguments):
    """Toy neurons are clear-cut: many have an AP of 1. Who is selected, what the files say about it, and files of before."""
    allocate = ["allocate", "--config", work / "toy.cfg", "--allocation.explain", "--output", work / "tied.cfg", "--allocation.neurons"]
    text, cut = {}, {}
    for order in ("random", "uuid", "separation"):
        path = work / f"ties-{order}.h5"
        _, err = run(2, *arguments, "--analysis.ties", order, "--analysis.top_k", "20", "--output", path)
        with h5py.File(path) as f:
            for g, lang in enumerate(LANGUAGES):
                ap, rows, attrs = f["ap"][g], f["selected"][lang][:], f["selected"][lang].attrs
                last = np.float32(rows["ap"][-1])
                tied = np.flatnonzero((ap.astype("f4") == last) & (ap > attrs["ap_min"]))
                taken = [u for u in rows["uuid"] if np.float32(ap[u]) == last]
                cut[order, lang] = len(tied), len(taken)
                check((attrs["cut_ap"], attrs["cut_tied"], attrs["cut_taken"]) == (last, len(tied), len(taken))
                      and attrs["ties"] == order.encode(), f"{order}, {lang}: {len(tied)} tie, {len(taken)} taken")
                key = {"random": None, "uuid": -tied, "separation": f["separation"][g][tied]}[order]
                if key is not None:
                    wanted = tied[np.lexsort((tied, -key))][:len(taken)]
                    check(list(wanted) == taken, f"{order}, {lang}: those and in that order")
                said = f"{lang}: {len(tied)} neurons have the AP of the cut, {last:.6f}, and {len(taken)} of them were taken"
                check((said in err) == (len(tied) > len(taken)), f"{order}, {lang}: analyze says so")
        check("fewer" not in err, "nobody is told to select fewer")
        _, err = run(1, *allocate, path)
        text[order] = (work / "tied.cfg").read_text()
        check("ties drawn at random with 100 seeds" in err and "# warning: ties drawn at random with 100 seeds" in text[order]
              and "takes all that tie and gives" in text[order], f"{order}: allocate says what other draws give")
    check(any(tied > taken > 0 for tied, taken in cut.values()), f"ties at the cut, or this shows nothing: {cut}")
    lists = {order: t.split("ADA_MOE_NUM_EXPERTS_LIST=")[1] for order, t in text.items()}
    drawn = text["random"].split("by layer, layer 0 first: ")[1].split("\n")[0].split(",")
    for entry, count in zip(drawn, lists["random"].split(",")):
        low, _, high = entry.partition("-")
        check(int(low) <= int(count) <= int(high or low), f"{count} experts are within {entry}")
    for order in lists:  # one function decides, in analyze and in allocate
        run(1, *allocate, work / "ties-uuid.h5", "--allocation.ties", order)
        check((work / "tied.cfg").read_text().split("ADA_MOE_NUM_EXPERTS_LIST=")[1] == lists[order], f"selected anew: {order}")
    old = work / "ties-old.h5"
    shutil.copy(work / "ties-uuid.h5", old)
    with h5py.File(old, "r+") as f:
        del f["separation"]
        for lang in LANGUAGES:
            for name in ("ties", "cut_ap", "cut_tied", "cut_taken"):
                del f["selected"][lang].attrs[name]
    old.write_bytes(old.read_bytes()[512:])  # nor had it a checksum
    _, err = run(1, *allocate, old)
    check((work / "tied.cfg").read_text().split("ADA_MOE_NUM_EXPERTS_LIST=")[1] == lists["uuid"]
          and "in the order of rows, which favors the first layers" in err, "a file of before: as it was selected, with the warning")
    _, err = run(1, *allocate, old, "--allocation.ties", "separation", code=78)
    check("no separation was stored" in err, "but not by a separation that it does not hold")


def beginnings(work):
    """What stands before a sentence is the tokenizer's affair: the same base with a byte-level tokenizer.json, without and
    with a post_processor that puts a BOS. bos_token_id is 2 throughout."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    vocabulary = {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(others)}
    bos = {"id": 256, "content": "<bos>", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    template = {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<bos>", "type_id": 0}},
                                                         {"Sequence": {"id": "A", "type_id": 0}}],
                "pair": [], "special_tokens": {"<bos>": {"id": "<bos>", "ids": [256], "tokens": ["<bos>"]}}}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    lengths = [sum(len(s.encode()) for s in json.loads((work / f"sense.{l}.json").read_text())["sentences"]["positive"])
               for l in LANGUAGES]
    with h5py.File(work / "neurons1.h5") as f:
        check(f.attrs["bos"] == b"2 (tokenizer_config.json)", f"BOS of the base: {f.attrs['bos']}")
    for name, processor, extra, rule in [("bare", None, 0, "none"), ("begun", template, 1, "256")]:
        model = work / name
        model.mkdir()
        for file in ("config.json", "model.safetensors"):
            shutil.copy(work / "base" / file, model)
        (model / "tokenizer.json").write_text(json.dumps({
            "version": "1.0", "added_tokens": [bos], "normalizer": None, "pre_tokenizer": level, "post_processor": processor,
            "decoder": level, "model": {"type": "BPE", "vocab": vocabulary, "merges": []}}))
        _, err = run(1, "analyze", "--config", work / "toy.cfg", "--model", model, "--analysis.max_tokens", "1000",
                     "--output", work / f"{name}.h5")
        with h5py.File(work / f"{name}.h5") as f:
            check(list(f["n_tokens"]) == [length + 40 * extra for length in lengths], f"{name}: {list(f['n_tokens'])} tokens")
            check(f.attrs["bos"] == f"{rule} (tokenizer.json)".encode() and f"BOS: {rule} (tokenizer.json)" in err,
                  f"{name}: BOS {f.attrs['bos']}")


def stages(work):
    common = ["--model", work / "base", "--config", work / "toy.cfg"]
    stage1 = ["train", *common, "--config", work / "stage1.cfg", "--experts", work / "list.cfg", "--stage", "1",
              "--train.learning_rate", "1e-2", "--train.steps", "40"]
    run(2, *stage1, "--output", work / "s1")
    base = metrics(work / "s1/metrics.jsonl")
    check(base[-1]["loss_lm"] < base[0]["loss_lm"], f"stage 1: loss {base[0]['loss_lm']:.3f} -> {base[-1]['loss_lm']:.3f}")
    check(all(m["loss_lbl"] >= 1.9 and m["loss_lpr"] == 0 for m in base), "stage 1: balancing loss only")
    measured = ["--train.placement_tokens", "measured"]
    for ranks, size in [(1, 1), (2, 2), (3, 1), (4, 2)]:
        name = f"s1-{ranks}-{size}"
        more = {(1, 1): ["--explain"], (2, 2): [*measured, "--expert_ap.every", 20],
                (4, 2): [*measured, "--train.placement_tokens_from", work / "s1"]}.get((ranks, size), [])
        _, err = run(ranks, *stage1, "--output", work / name, "--train.expert_parallel_size", size, *more)
        where = {4: f"experts, placed by tokens counted in {work}/s1/step_0000000040:", 2: "there is no checkpoint to go on from"}
        check(where.get(ranks, "experts, placed by expected tokens:") in err, f"{name}: says by which tokens experts are placed")
        if ranks == 1:
            check("segment 1, layer 3: weight gradients: new experts, router;" in err, f"{name}: --explain lists backward")
        else:
            check("backward: 3 of 4 layers train (lowest: layer 0);" in err and "segment" not in err, f"{name}: one line of backward")
        check(err.rstrip().endswith(f"checkpoint: {work / name}/step_0000000040"), f"{name}: the last line names the checkpoint")
        other = metrics(work / name / "metrics.jsonl")
        check(close([m["loss_lm"] for m in other[:10]], [m["loss_lm"] for m in base[:10]], 1e-4)
              and close([m["grad_norm"] for m in other[:10]], [m["grad_norm"] for m in base[:10]], 1e-3),
              f"stage 1 on {ranks} ranks, expert-parallel size {size}: losses and norms as on 2 ranks")
    last = lambda name: [sha(work / name / "step_0000000040" / f) for f in ("model.h5", "optim.h5")]
    check(last("s1-2-2") == last("s1"), "measuring experts while they train changes no byte of the checkpoint")
    check(last("s1-4-2") == last("s1"), "placing them by measured tokens changes none either")
    damage(work, stage1, measured)
    plans(work, measured)
    stage2 = ["train", *common, "--config", work / "stage2.cfg", "--stage", "2", "--train.init_from", work / "s1",
              "--train.learning_rate", "3e-3", "--train.steps", "20", "--train.seq_length", "32"]
    _, err = run(2, *stage2, "--output", work / "s2", "--train.expert_parallel_size", "2", *measured)
    check(f"experts, placed by tokens counted in {work}/s1/step_0000000040:" in err, "stage 2 places by the tokens of stage 1")
    lines = metrics(work / "s2/metrics.jsonl")
    check(all(m["loss_lpr"] > 0 for m in lines), f"stage 2: LPR loss {lines[0]['loss_lpr']:.3f} -> {lines[-1]['loss_lpr']:.3f}")


def plans(work, measured):
    """Plans with the counts of a checkpoint, or what is wrong with them."""
    plan = ["plan", "--model", work / "base", "--machine.gpus_per_node", "2", "--train.expert_parallel_size", "2",
            "--train.init_from", work / "s1", "--train.seq_length", "64"]
    out, _ = run(1, *plan, "--experts", work / "list.cfg", *measured)
    check(f"new experts are placed by tokens counted in {work}/s1/step_0000000040: of 2 ranks" in out, "plan names the counts")
    out, _ = run(1, *plan, "--experts", work / "list.cfg")
    check("new experts are placed by expected tokens\n" in out, "plan with expected tokens")
    (work / "other.cfg").write_text("ADA_MOE_NUM_EXPERTS_LIST=3,1,3,2\n")
    _, err = run(2, *plan, "--experts", work / "other.cfg", *measured, "--train.placement_tokens_from", work / "s1", code=65)
    check(err.count("neuronmoe: error") == 1 and "tokens of 2,1,3,2 experts per layer, the model has 3,1,3,2" in err, "counts of other experts: one line")


def damage(work, stage1, measured):
    """A flipped bit in the newest checkpoint: the one before is used, and the run ends as if nothing had happened."""
    whole = sha(work / "s1/step_0000000040/model.h5")
    shutil.copytree(work / "s1", work / "hurt")
    newest = work / "hurt/step_0000000040/model.h5"
    bytes_ = bytearray(newest.read_bytes())
    bytes_[len(bytes_) * 3 // 4] ^= 4
    newest.write_bytes(bytes_)
    run(1, "inspect", work / "hurt/step_0000000040", code=65)
    _, err = run(2, *stage1, "--output", work / "hurt", "--train.expert_parallel_size", "2", *measured)
    check("step_0000000040" in err and "at step 20 of 40" in err, "passes over the damaged checkpoint and says so")
    check("placed by tokens counted in" in err, "a resume places by the tokens counted so far")
    check(sha(newest) == whole, "the run repeated from step 20 gives the same bytes")


def judge(work, counts):
    run(2, "specialize", "--config", work / "toy.cfg", "--model", work / "base", "--resume", work / "s1", "--output",
        work / "expert_neurons.h5")
    with h5py.File(work / "expert_neurons.h5") as f:
        check(f["count_tokens"].shape == (sum(counts), 120), f"tokens per expert and sample: {f['count_tokens'].shape}")
    telemetry(work)
    check((work / "expert_neurons_el.csv").read_text().startswith("layer,expert,total,high_ap,ratio_percent"), "its table")
    texts = sum((["--evaluation.text", f"{l}:{work}/held.h5", "--evaluation.continuation", f"{l}:{work}/items.{l}.jsonl"]
                 for l in LANGUAGES), [])
    evaluate = ["evaluate", "--model", work / "base", *texts, "--evaluation.block", "32", "--evaluation.limit", "10"]
    perplexity = {}
    for name, more in [("dense", []), ("s1", ["--resume", work / "s1"]), ("s2", ["--resume", work / "s2/step_0000000020"])]:
        for ranks in (2, 1):
            run(ranks, *evaluate, *more, "--output", work / f"{name}{ranks}.json")
        a, b = (json.loads((work / f"{name}{r}.json").read_text()) for r in (1, 2))
        check(json.dumps(a) == json.dumps(b), f"{name}: same eval.json on 1 and 2 ranks")
        lines = [(work / f"{name}{r}.items.jsonl").read_text() for r in (1, 2)]
        check(lines[0] == lines[1], f"{name}: same documents and items on 1 and 2 ranks")
        by_document(work, name, a, [json.loads(line) for line in lines[0].splitlines()])
        perplexity[name] = find_perplexity(a)
    print("       perplexity:", {n: {l: round(v, 2) for l, v in p.items()} for n, p in perplexity.items()})
    check(perplexity["s1"]["el"] < 0.97 * perplexity["dense"]["el"], "stage 1 lowers Greek perplexity")
    check(perplexity["s2"]["el"] < perplexity["dense"]["el"], "stage 2 keeps some of it")
    check(all(math.isfinite(v) and 1 < v < 400 for p in perplexity.values() for v in p.values()), "every perplexity is sane")
    inspected(work, counts)
    torn = work / "torn.jsonl"
    torn.write_text((work / "s1/metrics.jsonl").read_text()[:-20])
    _, err = run(1, "inspect", torn, code=65)
    check("torn.jsonl:40" in err, "inspect names the torn line")


def inspected(work, counts):
    """What inspect says of each kind of file, beside what is in it."""
    with h5py.File(work / "train.h5") as f:
        documents = (f["doc/lang"][...] == [name.decode() for name in f["languages"][...]].index("el")).sum()
        tokens = f["ids"].shape[0]
    with h5py.File(work / "neurons1.h5") as f:
        neurons, chosen = f["ap"].shape[1], f["selected/el"].shape[0]
    experts = f"{sum(counts)} in {len(counts)} layers: {','.join(map(str, counts))}"
    wanted = {"train.h5": [f"el {documents:,} documents", f"{tokens:,} tokens; vocabulary of"],
              "neurons1.h5": [f"neurons {neurons:,} in", f"{chosen:,} selected, AP of the last"],
              "expert_neurons.h5": [f"experts {sum(counts)} in"], "s1-2-2/expert_probe.h5": ["measured at"],
              "list.cfg": [f"{sum(counts)} experts in {len(counts)} layers, {sum(counts) - len(counts)} of them new"],
              "experts.cfg": ["experts in"], "base/model.safetensors": ["million in F32"], "base": ["million in F32"],
              "dense1.json": ["perplexity", "continuation"], "dense1.items.jsonl": ["lines of JSON"],
              "s1/metrics.jsonl": ["steps 1 to 40", "at step 40"], "expert_neurons_el.csv": [f"{sum(counts)} rows below"],
              "s1": ["steps 1 to 40", f"experts {experts}"], "s2/step_0000000020": ["step 20", f"experts {experts}", "seen"]}
    for name, words in wanted.items():
        out, _ = run(1, "inspect", work / name)
        text = " ".join(out.split())
        check(all(word in text for word in words), f"inspect of {name} says {words}: {out[:1500]}")


def telemetry(work):
    """expert_probe.h5 of a run beside what `specialize` says of the checkpoint at the last probe's step."""
    with h5py.File(work / "s1-2-2/expert_probe.h5") as f, h5py.File(work / "expert_neurons.h5") as whole:
        check(list(f["step"][:]) == [20, 40], f"a probe every 20 steps: {list(f['step'][:])}")
        for name in ("high_ap", "zero_samples"):
            check(np.array_equal(f[name][1], whole[f"expert/{name}"][:]), f"the probe at step 40: {name} as specialize says")
        check(f["high_ap"][1].sum() > 0, f"the probe at step 40: {f['high_ap'][1].sum()} times AP >= 0.9")
        check(not np.array_equal(f["num_tokens"][0], f["num_tokens"][1]), "routing changes between the probes")


def by_document(work, name, report, lines):
    """What a run says of each document and item adds up to eval.json, and sizes are those of the text."""
    for language in LANGUAGES:
        scores, mine = report["perplexity"][language], [x for x in lines if x["set"] == language]
        texts = [json.loads(line)["text"] for line in open(work / f"held.{language}.jsonl")]
        documents = [x for x in mine if x["task"] == "perplexity"]
        sizes = [(len(t.encode()), len(re.split(r"\s+", t))) for t in texts]
        check([(x["bytes"], x["words"]) for x in documents] == sizes, f"{name} {language}: bytes and words of {len(texts)} documents")
        total = sum(x["loglikelihood"] for x in documents)
        num_bytes, words, tokens = (sum(x[key] for x in documents) for key in ("bytes", "words", "tokens"))
        check((scores["bytes"], scores["words"], scores["tokens"], scores["documents"]) == (num_bytes, words, tokens, len(texts)),
              f"{name} {language}: their sums")
        for key, value in (("nll", -total / tokens), ("ppl", math.exp(-total / tokens)), ("bits_per_byte", -total / num_bytes / math.log(2)),
                           ("byte_perplexity", math.exp(-total / num_bytes)), ("word_perplexity", math.exp(-total / words))):
            check(math.isclose(scores[key], value, rel_tol=1e-9), f"{name} {language}: {key} {scores[key]}, by hand {value}")
        items = [x for x in mine if x["task"] == "continuation"]
        gold = [json.loads(line)["gold"] for line in open(work / f"items.{language}.jsonl")][:10]
        check([x["gold"] for x in items] == gold, f"{name} {language}: the first 10 items")
        check(all(max(x["scores"]) == x["scores"][x["chosen"]] for x in items), f"{name} {language}: the best choice")
        right = sum(x["chosen"] == x["gold"] for x in items)
        check(math.isclose(report["continuation"][language]["acc"], right / 10), f"{name} {language}: {right} of 10 right")


def find_perplexity(report):
    return {language: report["perplexity"][language]["ppl"] for language in LANGUAGES}


def main():
    work = Path(tempfile.mkdtemp(prefix="nmoe-journey-"))
    try:
        make_text(work)
        tokenize(work)
        write_config(work)
        pretrain(work)
        stop_and_resume(work)
        counts = measure(work)
        stages(work)
        judge(work, counts)
    finally:
        if not os.environ.get("NMOE_TEST_KEEP"):
            shutil.rmtree(work, ignore_errors=True)
    finish()


if __name__ == "__main__":
    main()
