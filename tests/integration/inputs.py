#!/usr/bin/python3
"""Inputs with which a run would go on and give a wrong result: files that differ between ranks, tokens of another
tokenizer, a head that is tied in name only, weights that are not numbers, runs that train nothing; and what a message
about a wrong file has to say. Usage: inputs.py MPIEXEC NEURONMOE"""
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import convert  # the same toy models

MPIEXEC, BINARY = sys.argv[1:3]
VOCAB = 260  # 256 bytes, the end of text, and three rows that no token has
failures = []
count = 0


def check(good, what):
    global count
    count += 1
    if not good:
        failures.append(what)
        print("FAILED: " + what)


def run(what, *arguments, ranks=1, code=0, words=(), absent=(), cwd=None, env=None):
    """Exit code; with an error exactly one error line, which has all words; with none the log has them."""
    launcher = [MPIEXEC, "-n", str(ranks)] if ranks > 1 else []
    return judge(what, launcher + [BINARY] + [str(a) for a in arguments], code, words, absent, cwd, env)


def judge(what, command, code, words, absent=(), cwd=None, env=None):
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=cwd, env={**os.environ, **(env or {})})
    lines = [line for line in done.stderr.splitlines() if "neuronmoe: error" in line]
    text = lines[0] if code and lines else done.stdout + done.stderr
    good = (done.returncode == code and len(lines) == (1 if code else 0) and all(w in text for w in words)
            and not any(w in text for w in absent))
    check(good, f"{what}: exit {done.returncode} (expected {code}), {len(lines)} error lines, words {words}, absent {absent}\n"
          f"{done.stdout[-600:]}{done.stderr[-1500:]}")
    return done


def tokenizer_json(first=0, extra=()):
    """Bytes alone; `first` turns them round, so that the hash and the ids are others."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    names = [chr(b) for b in printable] + [chr(256 + i) for i in range(len(others))]
    vocabulary = {name: (i + first) % 256 for i, name in enumerate(names)}
    added = [{"id": 256 + i, "content": content, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
              "special": True} for i, content in enumerate(["<|endoftext|>", *extra])]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return json.dumps({"version": "1.0", "added_tokens": added, "normalizer": None, "pre_tokenizer": level,
                       "post_processor": None, "decoder": level, "model": {"type": "BPE", "vocab": vocabulary, "merges": []}})


def make_model(path, tensors=None, **changes):
    convert.VOCAB = VOCAB
    if tensors is None:
        tensors = convert.random_tensors(np.random.default_rng(3), convert.dense_shapes(False, True), "F32")
    config = convert.config_json(vocab_size=VOCAB, bos_token_id=None, eos_token_id=256, tie_word_embeddings=False, **changes)
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config))
    (path / "tokenizer.json").write_text(tokenizer_json())
    convert.write_safetensors(path / "model.safetensors", tensors)
    return tensors


def make_inputs(work):
    texts = {lang: [f"{lang} {n} " + word * (3 + n % 5) for n in range(60)] for lang, word in (("en", "river "), ("el", "νερό "))}
    for lang, lines in texts.items():
        (work / f"{lang}.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in lines))
        (work / f"{lang}.json").write_text(json.dumps({"sentences": {"positive": lines}}))
        run("tokenize", "tokenize", "--tokenize.tokenizer", work / "model", "--tokenize.input", f"{lang}:new:{work}/{lang}.jsonl",
            "--output", work / f"{lang}.h5")
    (work / "items.jsonl").write_text("".join(json.dumps({"context": t[:8], "choices": [t[8:], "other"], "gold": 0}) + "\n"
                                              for t in texts["en"][:10]))
    (work / "ex.cfg").write_text("ADA_MOE_NUM_EXPERTS_LIST=2,1,2\n")


def small(work, **changes):
    settings = {"seq_length": 32, "micro_batch_size": 2, "global_batch_size": 4, "steps": 2, "log_every": 1} | changes
    return [x for key, value in settings.items() for x in (f"--train.{key}", str(value))]


def different_files(work):
    """Each rank reads its own: one folder has the first, the other the second version of every file."""
    a, b = work / "a", work / "b"
    versions = {"t.h5": ("el.h5", "en.h5"), "x.jsonl": ("el.jsonl", "en.jsonl"), "s.json": ("el.json", "en.json")}
    for folder, at in ((a, 0), (b, 1)):
        folder.mkdir()
        for name, sources in versions.items():
            shutil.copy(work / sources[at], folder / name)
        (folder / "ex.cfg").write_text(f"ADA_MOE_NUM_EXPERTS_LIST=2,1,{2 + at}\n")
        shutil.copytree(work / "model", folder / "m")
        shutil.copytree(work / "model", folder / "w")
        shutil.copytree(work / "model", folder / "k")
        shutil.copy(work / "items.jsonl", folder / "i.jsonl")
    (b / "i.jsonl").write_text((a / "i.jsonl").read_text().replace("other", "OTHER"))
    config = b / "m/config.json"
    config.write_text(config.read_text().replace("10000.0", "500.0"))
    weights = bytearray((b / "w/model.safetensors").read_bytes())
    weights[-1000:] = bytes(1000)
    (b / "w/model.safetensors").write_bytes(weights)
    (b / "k/tokenizer_config.json").write_text('{"eos_token": "<|endoftext|>"}')  # on one rank alone
    train = ["train", *small(work), "--run.watchdog_s", "60"]
    model, out = ["--model", work / "model"], ["--output", work / "never"]
    evaluate = ["evaluate", "--evaluation.block", "32"]
    cases = {
        "t.h5": [*train, *model, "--experts", work / "ex.cfg", "--tokens", "t.h5"],
        "m/config.json": [*train, "--model", "m", "--experts", work / "ex.cfg", "--tokens", work / "el.h5"],
        "ex.cfg": [*train, *model, "--experts", "ex.cfg", "--tokens", work / "el.h5"],
        "x.jsonl": ["tokenize", "--tokenize.tokenizer", work / "model", "--tokenize.input", "el:new:x.jsonl"],
        "t.h5 ": [*evaluate, *model, "--evaluation.text", "el:t.h5"],
        "w/model.safetensors": [*evaluate, "--model", "w", "--evaluation.text", f"el:{work}/el.h5"],
        "i.jsonl": [*evaluate, *model, "--evaluation.continuation", "en:i.jsonl"],
        "k/tokenizer_config.json": [*evaluate, "--model", "k", "--evaluation.continuation", f"en:{work}/items.jsonl"],
        "s.json": ["analyze", *model, "--analysis.sense", "en:s.json", "--analysis.sense", f"el:{work}/el.json"],
        "m/config.json ": ["pretrain", *small(work), "--pretrain.model_config", "m/config.json", "--pretrain.tokenizer",
                           work / "model", "--tokens", work / "el.h5"],
        "m/config.json  ": ["convert", "m", "--convert.to", "checkpoint"],
        "ex.cfg ": ["plan", *model, "--train.seq_length", "32", "--experts", "ex.cfg"],
    }
    for name, arguments in cases.items():
        arguments = [BINARY, *(str(x) for x in [*arguments, *out])]
        for others in (1, 3) if name == "t.h5" else (1,):
            command = [MPIEXEC, "-n", "1", "-wdir", str(a), *arguments, ":", "-n", str(others), "-wdir", str(b), *arguments]
            rest = "rank 1: " if others == 1 else "ranks 1, 2, 3: "
            began = time.monotonic()
            judge(f"{name} differs", command, 65, (name.strip() + " is not the same file on every rank: rank 0: ", rest))
            check(time.monotonic() - began < 50, f"{name}: not by the watchdog")
        check(not (work / "never").exists(), f"{name}: nothing is left behind")
    (b / "t.h5").unlink()
    arguments = [BINARY, *(str(x) for x in [*cases["t.h5"], *out])]
    judge("a file on one rank alone", [MPIEXEC, "-n", "1", "-wdir", str(a), *arguments, ":", "-n", "1", "-wdir", str(b), *arguments],
          65, ("rank 1: ", "t.h5"), ("not the same file",))
    shutil.copy(a / "t.h5", b / "t.h5")
    judge("equal files", [MPIEXEC, "-n", "1", "-wdir", str(a), *arguments, ":", "-n", "1", "-wdir", str(b), *arguments], 0, ())
    shutil.rmtree(work / "never")


def tokenizers(work):
    (work / "turned.json").write_text(tokenizer_json(first=7))
    run("tokenize otherwise", "tokenize", "--tokenize.tokenizer", work / "turned.json", "--tokenize.input",
        f"el:new:{work}/el.jsonl", "--output", work / "turned.h5")
    words = (f"{work}/turned.h5: made with a tokenizer of hash ", f"{work}/model/tokenizer.json")
    model, out = ["--model", work / "model"], ["--output", work / "never"]
    tokens = ["--tokens", work / "turned.h5"]
    run("train on them", "train", *model, "--experts", work / "ex.cfg", *small(work), *tokens, *out, code=65, words=words, ranks=2)
    run("plan with them", "plan", *model, *small(work), *tokens, code=65, words=words)
    evaluate = ["evaluate", "--evaluation.block", "32", "--evaluation.text", f"el:{work}/turned.h5"]
    run("evaluate them", *evaluate, *model, *out, code=65, words=words)
    shutil.copytree(work / "model", work / "both")
    (work / "both/original").mkdir()
    shutil.copy(work / "turned.json", work / "both/original/tokenizer.json")
    run("another form of the tokenizer", *evaluate, "--model", work / "both", "--output", work / "e.json")
    (work / "both/tokenizer.json").unlink()
    shutil.rmtree(work / "both/original")
    run("a model without a tokenizer", *evaluate, "--model", work / "both", "--output", work / "e.json")

    # More tokens than embeddings is fine as long as none of them occurs.
    shutil.copytree(work / "model", work / "more")
    names = [f"<more{n}>" for n in range(VOCAB - 256)]
    (work / "more/tokenizer.json").write_text(tokenizer_json(extra=names))
    for name, text, code in (("unused", "river", 0), ("used", "river " + names[-1], 65)):
        (work / f"{name}.jsonl").write_text((json.dumps({"text": text}) + "\n") * 20)
        (work / f"{name}-items.jsonl").write_text(json.dumps({"context": "a", "choices": [text, "b"], "gold": 0}) + "\n")
        run("tokenize", "tokenize", "--tokenize.tokenizer", work / "more", "--tokenize.input", f"en:new:{work}/{name}.jsonl",
            "--output", work / f"{name}.h5")
        says = (f"{name}.h5: made with a vocabulary of 261 tokens, of which 260 occurs, but the model has 260",) if code else ()
        run(f"tokens with an id that is {name}", "evaluate", "--model", work / "more", "--evaluation.block", "32",
            "--evaluation.text", f"en:{work}/{name}.h5", "--output", work / "e.json", code=code, words=says)
        run(f"train with an id that is {name}", "train", "--model", work / "more", "--experts", work / "ex.cfg",
            *small(work, seq_length=16), "--tokens", work / f"{name}.h5", "--output", work / f"more-{name}", code=code, words=says)
        run(f"items with an id that is {name}", "evaluate", "--model", work / "more", "--evaluation.continuation",
            f"en:{work}/{name}-items.jsonl", "--output", work / "e.json", code=code, words=('("<more3>") occurs',) if code else ())


def heads(work):
    """A model that says it is tied and has a head of its own is what transformers 5 makes of it: untied."""
    def perplexity(model, *options, **more):
        run(f"evaluate {model}", "evaluate", "--model", work / model, "--evaluation.block", "32", "--evaluation.text",
            f"el:{work}/el.h5", *options, "--output", work / "e.json", **more)
        return json.loads((work / "e.json").read_text())["perplexity"]["el"]["nll"]

    tensors = convert.read_safetensors(work / "model/model.safetensors")
    equal = {**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"]}
    without = {name: t for name, t in tensors.items() if name != "lm_head.weight"}
    dtype, shape, raw = tensors["lm_head.weight"]
    short = {**tensors, "lm_head.weight": (dtype, (shape[0] - 1, shape[1]), raw[:-4 * shape[1]])}
    for name, of in (("own", tensors), ("equal", equal), ("without", without), ("short", short)):
        shutil.copytree(work / "model", work / name)
        path = work / name / "config.json"
        path.write_text(path.read_text().replace('"tie_word_embeddings": false', '"tie_word_embeddings": true'))
        convert.write_safetensors(work / name / "model.safetensors", of)
    warning = "tie_word_embeddings is true, but its lm_head.weight is not the embedding"
    untied, tied = perplexity("model"), perplexity("without", absent=(warning,))
    check(untied != tied, "the two heads are told apart")
    check(perplexity("own", words=(warning,)) == untied, "a head of its own is used")
    check(perplexity("equal", absent=(warning,)) == tied, "an equal head stays tied")
    run("a head of another shape", "evaluate", "--model", work / "short", "--evaluation.text", f"el:{work}/el.h5", "--output",
        work / "never", code=65, words=("short: tie_word_embeddings is true, but lm_head.weight has shape [259, 16]",))
    plans = {name: run(f"plan {name}", "plan", "--model", work / name, *small(work)).stdout for name in ("model", "own", "equal", "without")}
    check(plans["own"] == plans["model"] != plans["equal"] == plans["without"], "plan counts the head that is used")
    common = ["--experts", work / "ex.cfg", *small(work), "--tokens", work / "el.h5"]
    for name in ("model", "own"):
        run(f"train {name}", "train", "--model", work / name, *common, "--output", work / f"run-{name}")
    check(convert.losses(work / "run-own") == convert.losses(work / "run-model"), "training uses it")
    run("to a checkpoint", "convert", work / "own", "--convert.to", "checkpoint", "--output", work / "own-checkpoint")
    check(perplexity("own-checkpoint") == untied, "and so does the converted checkpoint")
    run("and back", "convert", work / "own-checkpoint", "--convert.to", "huggingface", "--output", work / "own-again")
    check(perplexity("own-again") == untied, "and the export of that")


def numbers(work):
    """No comparison with NaN is true: the accuracy of a broken model would be the share of first answers."""
    tensors = convert.read_safetensors(work / "model/model.safetensors")
    (work / "requests.jsonl").write_text('{"context": [1, 2], "continuation": [3]}\n')
    for name, value in (("nan", np.nan), ("inf", np.inf)):
        shutil.copytree(work / "model", work / name)
        dtype, shape, raw = tensors["model.layers.1.mlp.up_proj.weight"]
        raw = np.frombuffer(raw, "<f4").copy()
        raw[5] = value
        convert.write_safetensors(work / name / "model.safetensors",
                                  {**tensors, "model.layers.1.mlp.up_proj.weight": (dtype, shape, raw.tobytes())})
        for option in (f"--evaluation.text=el:{work}/el.h5", f"--evaluation.continuation=en:{work}/items.jsonl"):
            run(f"{name} is evaluated", "evaluate", "--model", work / name, "--evaluation.block", "32", option, "--output",
                work / "never", code=65, ranks=2, words=(f"{work}/{name}: its log probabilities of ", "are not finite"))
        run(f"{name} is asked", "loglikelihood", "--model", work / name, "--loglikelihood.requests", work / "requests.jsonl",
            "--output", work / "never", code=65, ranks=2, words=(f"{work}/{name}: its log probabilities of ", "requests.jsonl:1 are not"))
    run("requests over themselves", "loglikelihood", "--model", work / "model", "--loglikelihood.requests", work / "requests.jsonl",
        "--output", work / "requests.jsonl", code=78, ranks=2, words=("is the file of requests",))
    run("longer than the model", "loglikelihood", "--model", work / "model", "--loglikelihood.requests", work / "requests.jsonl",
        "--loglikelihood.max_length", "100000", "--output", work / "never", code=78, words=("loglikelihood.max_length = 100000",))
    run("no request", "loglikelihood", "--model", work / "model", "--loglikelihood.requests", work / "el.jsonl", "--output",
        work / "never", code=65, ranks=2, words=("el.jsonl:1: wanted either",))
    check(not (work / "never").exists(), "nothing is written")


def silent_runs(work):
    model, el = ["--model", work / "model"], ["--tokens", work / "el.h5"]
    train = ["train", *model, "--experts", work / "ex.cfg"]
    run("stage 1", *train, *small(work, dtype="bfloat16"), *el, "--output", work / "s1")
    shutil.copytree(work / "model", work / "updated")
    config = json.loads((work / "model/config.json").read_text())
    (work / "updated/config.json").write_text(json.dumps({**config, "transformers_version": "99.0"}))
    run("resumed on an updated base", "train", "--model", work / "updated", "--experts", work / "ex.cfg", *small(work, dtype="bfloat16"),
        *el, "--output", work / "s1", code=65, words=("(different: config.json: transformers_version; the weights are the same)",))
    second = ["train", "--stage", "2", *model, "--train.init_from", work / "s1", *small(work, dtype="bfloat16")]
    run("stage 2 without old text", *second, *el, "--output", work / "never", code=78, words=("no document of its 1 data sets is marked old",))
    run("and without the routing loss", *second, *el, "--train.lpr_form", "off", "--output", work / "s2-off")
    run("stage 2", *second, "--data.el.tokens", work / "el.h5", "--data.en.tokens", work / "en.h5", "--data.en.mark", "old", "--output", work / "s2")
    rare = ["--data.el.tokens", work / "el.h5", "--data.el.weight", "1", "--data.en.tokens", work / "en.h5", "--data.en.mark", "old",
            "--data.en.weight", "0.0001"]
    run("stage 2 with hardly any", *second, *rare, "--train.steps", "101", "--output", work / "s2-rare",
        words=("no token is in an old language, so the routing loss is 0",))
    nll = {}
    for dtype in ("float32", "bfloat16"):
        run(f"a bfloat16 checkpoint in {dtype}", "evaluate", *model, "--resume", work / "s1", "--train.dtype", dtype, "--evaluation.block", "32",
            "--evaluation.text", f"el:{work}/el.h5", "--output", work / "e.json")
        nll[dtype] = json.loads((work / "e.json").read_text())["perplexity"]["el"]["nll"]
    check(0 < abs(nll["float32"] - nll["bfloat16"]) < 0.05, f"a bfloat16 checkpoint in both types: {nll}")

    (work / "empty.jsonl").write_text('{"text": ""}\n' * 200)
    run("empty documents", "tokenize", "--tokenize.tokenizer", work / "model", "--tokenize.input", f"el:new:{work}/empty.jsonl",
        "--output", work / "empty.h5", ranks=2, words=("200 of 200 documents are empty",))
    done = run("batches without a label", *train, *small(work), "--tokens", work / "empty.h5", "--output", work / "silent", ranks=2,
               words=("step 1: no token of the global batch has a label", "2 steps of this run had no label"))
    check(done.stderr.count("no token of the global batch") == 1, "warned of once")
    check([json.loads(line).get("no_label") for line in open(work / "silent/metrics.jsonl")] == [True, True], "metrics.jsonl counts them")
    check("no_label" not in (work / "s1/metrics.jsonl").read_text(), "and no others")

    long = ("128 is more than the 64 positions of the model",)
    run("sequences longer than the model", *train, *small(work, seq_length=128), *el, "--output", work / "never", code=78, ranks=2,
        words=("train.seq_length = " + long[0],))
    run("planned, too", "plan", *model, *small(work, seq_length=128), code=78, words=("train.seq_length = " + long[0],))
    run("blocks longer than the model", "evaluate", *model, "--evaluation.block", "128", "--evaluation.text", f"el:{work}/el.h5",
        "--output", work / "never", code=78, words=("evaluation.block = " + long[0],))
    shutil.copytree(work / "model", work / "stretched")
    config = json.loads((work / "model/config.json").read_text())
    (work / "stretched/config.json").write_text(json.dumps({**config, "rope_scaling": {"type": "linear", "factor": 2.0}}))
    run("a linear rope_scaling stretches them", "evaluate", "--model", work / "stretched", "--evaluation.block", "128",
        "--evaluation.text", f"el:{work}/el.h5", "--output", work / "e.json")
    run("more ranks than micro-batches", *train, *small(work), *el, "--output", work / "idle", ranks=3,
        words=("3 ranks for the 2 micro-batches of a step", "1 of them have no sequences"))

    shared = json.loads((work / "en.json").read_text())["sentences"]["positive"][:3]
    path = work / "el.json"
    greek = json.loads(path.read_text())["sentences"]["positive"]
    (work / "mixed.json").write_text(json.dumps({"sentences": {"positive": greek + shared}}))
    run("sentences in two languages", "analyze", *model, "--analysis.sense", f"en:{work}/en.json", "--analysis.sense",
        f"el:{work}/mixed.json", "--output", work / "n.h5", words=("3 sentences stand in more than one language (en and el: \"en 0 river",))


def messages(work):
    model = ["--model", work / "model"]
    (work / "array.json").write_text('[{"text": "a"}, {"text": "b"}]')
    (work / "pretty.json").write_text('[\n {\n  "text": "a"\n }\n]\n')
    (work / "object.jsonl").write_text('{\n  "text": "a"\n}\n')
    (work / "cr.txt").write_bytes(b"one\rtwo\rthree\r")
    (work / "cr.jsonl").write_bytes(b'{"text": "a"}\r{"text": "b"}\r')
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{0:064d}\nsize 352128\n"
    (work / "pointer.jsonl").write_text(pointer)
    tokenize = ["tokenize", "--tokenize.tokenizer", work / "model", "--output", work / "never", "--tokenize.input"]
    for name, words in (("array.json", ("array.json:1: this is a JSON array", "jq -c '.[]'")), ("pretty.json", ("jq -c '.[]'",)),
                        ("object.jsonl", ("object.jsonl:1: this is an object over several lines", "jq -c .")),
                        ("cr.txt", ("carriage return alone", "tr '")), ("cr.jsonl", ("carriage return alone",)),
                        ("pointer.jsonl", ("Git LFS pointer", "git lfs pull"))):
        run(name, *tokenize, f"el:new:{work}/{name}", code=65, words=(str(work / name), *words), ranks=2)
    run("an array where bad lines are skipped", *tokenize, f"el:new:{work}/array.json", "--tokenize.bad_line", "skip", code=65,
        words=("holds no document", "jq -c"))
    (work / "odd.jsonl").write_text('{"text": "a \\" NaN", "score": NaN, "low": -Infinity, "a": 1, "a": 2}\n')
    run("what nobody reads may be odd", *tokenize[:-3], "--output", work / "odd.h5", "--tokenize.input", f"el:new:{work}/odd.jsonl",
        words=("1 documents, 8 tokens",))  # seven bytes and the end
    (work / "twice.jsonl").write_text('{"text": "a", "text": "b"}\n')
    run("what is read may not", *tokenize, f"el:new:{work}/twice.jsonl", code=65, words=('key "text" appears twice',))

    shutil.copytree(work / "model", work / "unfetched")
    for name in ("model.safetensors", "tokenizer.json"):
        (work / "unfetched" / name).write_text(pointer)
    for arguments in (["inspect", work / "unfetched"], ["evaluate", "--model", work / "unfetched", "--evaluation.text",
                                                        f"el:{work}/el.h5", "--output", work / "never"]):
        run("weights that were not fetched", *arguments, code=65, words=("unfetched/model.safetensors: this is a Git LFS pointer", "git lfs pull"))
    run("a tokenizer that was not fetched", "tokenize", "--tokenize.tokenizer", work / "unfetched", "--tokenize.input",
        f"el:new:{work}/el.jsonl", "--output", work / "never", code=65, words=("unfetched/tokenizer.json: this is a Git LFS pointer",))

    train = ["train", *model, "--experts", work / "ex.cfg", *small(work), "--tokens", work / "el.h5"]
    run("train", *train, "--output", work / "run")
    run("a run directory for a step", *train, "--output", work / "run2", "--resume", work / "run", code=65,
        words=(f"--resume {work}/run is a run directory; name a step of it, e.g. {work}/run/step_0000000002",))
    lines = (work / "run/metrics.jsonl").read_text()
    for name, content, where in (("text", '{"step": "x"}\n' + lines, ":1: "), ("garbage", lines + "garbage\n" + lines, ":3: "),
                                 ("list", "[]\n" + lines, ":1: ")):
        (work / "run/metrics.jsonl").write_text(content)
        run(f"metrics with {name}", *train, "--output", work / "run", "--train.steps", "3", code=65,
            words=("run/metrics.jsonl" + where + "not a line of metrics",))
    (work / "run/metrics.jsonl").write_text(lines + '{"step": 3, "los')
    run("metrics with a torn line", *train, "--output", work / "run", "--train.steps", "3")
    check((work / "run/metrics.jsonl").read_text().startswith(lines) and (work / "run/metrics.jsonl").read_text().count("\n") == 3,
          "a torn line is dropped")

    first = run("a name in another alphabet", "train", "--data.ελ.tokens", work / "el.h5", "--print-config", words=("[data.ελ]\n", "on_node = auto\n"))
    (work / "printed.cfg").write_text(first.stdout)
    again = run("is read back", "train", "--config", work / "printed.cfg", "--print-config", ranks=2, words=("on_node = auto\n",))
    check(again.stdout == first.stdout, "and gives the same on another number of ranks")
    run("a name that could not be read back", "train", "--data.a b.tokens", "x.h5", "--print-config", code=78, words=("'-' and '.'",))
    run("too many threads", "check", "--output", work / "checked", code=78, words=("OMP_NUM_THREADS = 100000", "4096"), env={"OMP_NUM_THREADS": "100000"})
    done = subprocess.run([BINARY, "check", "--output", "/proc/nowhere"], capture_output=True, text=True)
    check(done.returncode == 70 and "cannot make directory /proc/nowhere" in done.stdout and "space left" not in done.stdout,
          f"a place that cannot be made is not a full disk: {done}")
    (work / "loop").symlink_to("loop")
    run("a loop of links", "evaluate", "--model", work / "loop", "--evaluation.text", f"el:{work}/el.h5", "--output", work / "never", code=65,
        words=(f"{work}/loop",))
    if Path("/dev/full").exists():
        with open("/dev/full", "w") as full:
            for arguments in (["train", "--print-config"], ["--help"]):
                done = subprocess.run([BINARY, *arguments], stdout=full, stderr=subprocess.PIPE, text=True)
                check(done.returncode == 75 and "standard output: No space left" in done.stderr, f"{arguments} on a full disk: {done}")


def main():
    work = Path(tempfile.mkdtemp(prefix="nmoe-inputs-"))
    try:
        make_model(work / "model")
        make_inputs(work)
        different_files(work)
        tokenizers(work)
        heads(work)
        numbers(work)
        silent_runs(work)
        messages(work)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    print(f"inputs.py: {count} cases, {len(failures)} failed")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
