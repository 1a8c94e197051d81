#!/usr/bin/python3
"""A mixture that gets more experts: what it starts from and what of it stays, a resume, what its checkpoints, plan and lists say,
the steps around it, and what is refused. Usage: extension.py MPIEXEC NEURONMOE"""
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

import h5py
import numpy as np

import inputs
from inputs import check, make_inputs, make_model, run, small

OLD, NEW = [2, 1, 2], [2, 2, 3]  # experts per layer


def experts(work, name, counts):
    (work / name).write_text(f"ADA_MOE_NUM_EXPERTS_LIST={','.join(map(str, counts))}\n")
    return work / name


def weights(step):
    """{dataset: values} of model.h5."""
    found = {}
    with h5py.File(step / "model.h5") as f:
        f["model"].visititems(lambda name, item: found.update({name: item[:]}) if isinstance(item, h5py.Dataset) else None)
    return found


def newest(run_directory):
    return max(run_directory.glob("step_*"))


def extended(work, extend):
    """Old experts stay, on any layout and after a resume."""
    run("extended", *extend, "--output", work / "x", ranks=2, words=("experts are added to", "5 exist and stay frozen, 2 are new"), absent=("ranks are idle",))
    shutil.copytree(work / "x", work / "again")
    shutil.rmtree(newest(work / "again"))
    run("resumed on other ranks", *extend, "--output", work / "again", "--train.expert_parallel_size", "3", "--machine.name", "elsewhere", ranks=3,
        words=("at step 2 of 4", "warning: 1 of 3 ranks are idle: a step has 2 micro-batches", "s modeled (elsewhere: 0.2 TFLOP/s x 60 %)"),
        absent=("the configuration has changed",))
    same = [(newest(work / "x") / f).read_bytes() == (newest(work / "again") / f).read_bytes() for f in ("model.h5", "optim.h5", "state.h5")]
    check(all(same), f"a resume ends with the same bytes: {same}")
    before, after = weights(newest(work / "s1")), weights(newest(work / "x"))
    check(all(np.array_equal(after[name][:len(values)], values) for name, values in before.items() if "experts" in name),
          "old experts have the bytes they had")
    check(after["layers/02/router"].shape[0] == 3 and not np.array_equal(after["layers/00/router"], before["layers/00/router"]),
          "every router is a new one")
    run("with routers kept", *extend, "--train.extend_router", "keep", "--train.learning_rate", "0", "--train.steps", "1", "--output", work / "kept")
    kept = weights(newest(work / "kept"))
    check(all(np.array_equal(kept[name][:len(values)], values) for name, values in before.items() if "router" in name),
          "train.extend_router = keep keeps their rows")
    with h5py.File(newest(work / "x") / "optim.h5") as f:
        names = {row["name"].tobytes().rstrip(b"\0").decode() if hasattr(row["name"], "tobytes") else row["name"].decode().rstrip("\0")
                 for row in f["index"][:]}
    wanted = {f"model.layers.{layer}.mlp.router.weight" for layer in range(3)} | {
        f"model.layers.{layer}.mlp.experts.{expert}.{part}_proj.weight"
        for layer in range(3) for expert in range(OLD[layer], NEW[layer]) for part in ("gate", "up", "down")}
    check(names == wanted, f"optimizer state of new experts and routers alone: {sorted(names ^ wanted)}")


def told(work, extend):
    """What inspect and plan say."""
    out = run("inspect", "inspect", newest(work / "x")).stdout
    check(f"init_from = {newest(work / 's1')}\n" in out and "num_old_experts = 2,1,2\n" in out and "init_from_sha256 = " in out,
          f"inspect names the origin: {out}")
    out = run("plan", "plan", *extend[1:]).stdout
    mixture = weights(newest(work / "x"))
    size = sum(values[0].size for name, values in mixture.items() if "experts" in name and "/02/" in name)
    routers = sum(values.size for name, values in mixture.items() if "router" in name)
    train = int(re.search(r"parameters that train[ |]*exact[ |]*([0-9]+) ", out).group(1))
    check(train == 2 * size + routers, f"plan counts what trains: {train} of 2 experts of {size} and routers")
    run("plan of a start that is not there yet", "plan", *extend[1:], "--train.init_from", work / "later", words=("does not exist yet",))


def onwards(work, model, extend):
    """Stage 2, the measurements, and a third language."""
    both = ["--data.el.tokens", work / "el.h5", "--data.en.tokens", work / "en.h5", "--data.en.mark", "old"]
    run("stage 2", "train", "--stage", "2", *model, "--train.init_from", work / "x", *small(work), *both, "--output", work / "x2")
    first, second = weights(newest(work / "x")), weights(newest(work / "x2"))
    check(all(np.array_equal(first[name], second[name]) != ("router" in name) for name in first), "stage 2 trains every router, nothing else")
    sense = [word for lang in ("en", "el") for word in ("--analysis.sense", f"{lang}:{work}/{lang}.json")]
    run("specialize", "specialize", *model, "--resume", work / "x2", *sense, "--output", work / "expert_neurons.h5", ranks=2)
    for ranks in (1, 2):
        run("analyze", "analyze", *model, "--resume", work / "x2", *sense, "--output", work / f"neurons{ranks}.h5", ranks=ranks)
    check((work / "neurons1.h5").read_bytes() == (work / "neurons2.h5").read_bytes(), "neurons of a mixture: the same file on 1 and 2 ranks")
    with h5py.File(work / "neurons1.h5") as f:
        names = [name.decode() for name in f["module/name"][:]]
        check(len(names) == 3 * 4 + 3 * sum(NEW) and "model.layers.2.mlp.exp_1.up_proj:0" in names, f"modules of all experts: {names}")
        check(f["similarity"].shape[1] == 3 and len(f.attrs["checkpoint_sha256"]) == 64, "similarity of its layers")
    allocate = ["allocate", "--allocation.neurons", work / "neurons1.h5", "--allocation.languages", "en,el"]
    run("allocate for it alone", *allocate, "--output", work / "alone.cfg", words=("was measured on a mixture", "allocation.add_to"))
    run("allocate on top", *allocate, "--allocation.add_to", work / "x2", "--output", work / "third.cfg", words=("added to the experts of",))
    alone, third = ([int(n) for n in (work / f"{name}.cfg").read_text().split("LIST=")[1].split(",")] for name in ("alone", "third"))
    check(third == [a + n - 1 for a, n in zip(alone, NEW)], f"{alone} on top of {NEW} is {third}")
    run("a list on top of a list", "allocate", "--allocation.mode", "list", "--allocation.list", "1,2,3", "--allocation.add_to", work / "more.cfg",
        "--output", work / "list.cfg")
    check("LIST=2,3,5" in (work / "list.cfg").read_text(), "added to an experts.cfg")
    run("on top of another model", "allocate", "--allocation.mode", "list", "--allocation.list", "1,2", "--allocation.add_to", work / "x",
        "--output", work / "never", code=65, words=("x has 3 layers, 2 were allocated",))
    once_more = [word if word != work / "more.cfg" else work / "list.cfg" for word in extend]
    run("extended again", *once_more, "--train.init_from", work / "x2", "--output", work / "xx", words=("7 exist and stay frozen, 3 are new",))
    old, new = weights(newest(work / "x2")), weights(newest(work / "xx"))
    check(all(np.array_equal(new[name][:len(values)], values) for name, values in old.items() if "experts" in name), "all experts of both are frozen")


def refused(work, model, extend):
    """One line, a documented code, nothing written."""
    def no(what, *more, code, words, start=work / "s1"):
        run(what, *extend, "--train.init_from", start, "--output", work / "never", *more, code=code, words=words, ranks=2)
        check(not (work / "never").exists(), f"{what}: nothing is written")

    fewer = experts(work, "fewer.cfg", [2, 3, 1])
    no("fewer", "--experts", fewer, code=78, words=("fewer.cfg gives layer 2 1 experts", "has 2 there", "at least 2"))
    run("planned", "plan", *extend[1:], "--experts", fewer, code=78, words=("fewer.cfg gives layer 2 1 experts",))
    no("another length", "--experts", experts(work, "short.cfg", [2, 2]), code=65, words=("short.cfg:1: 2 expert counts",))
    no("stage 2", "--stage", "2", code=78, words=("more.cfg differs from the experts of train.init_from",))
    no("top_k", "--train.top_k", "1", code=78, words=("train.top_k = 1", "trained with 2"))
    no("router.compat", "--router.compat", "release", code=78, words=("router.compat = release", "trained with none"))
    no("another type", "--train.dtype", "bfloat16", code=65, words=("float32", "bfloat16"))
    make_model(work / "other", inputs.convert.random_tensors(np.random.default_rng(9), inputs.convert.dense_shapes(False, True), "F32"))
    no("another base", "--model", work / "other", code=65, words=("was trained on a base with hash",))
    step = newest(work / "s1")
    unfinished, torn = work / "unfinished" / step.name, work / "torn" / step.name
    shutil.copytree(step, unfinished, ignore=lambda *_: ["manifest.json"])
    shutil.copytree(step, torn)
    with open(torn / "model.h5", "r+b") as f:
        f.truncate((torn / "model.h5").stat().st_size - 100)
    for start in (unfinished, unfinished.parent):
        no("an unfinished start", code=65, words=("holds no intact checkpoint",), start=start)
    no("a torn start", code=65, words=("is damaged", "model.h5"), start=torn)
    run("pretrain", "pretrain", "--pretrain.model_config", work / "model/config.json", "--pretrain.tokenizer", work / "model/tokenizer.json",
        *small(work, steps=1), "--tokens", work / "el.h5", "--output", work / "dense")
    no("a dense start", code=78, words=("has no experts that",), start=newest(work / "dense/checkpoints"))
    files = lambda: {path.name: path.read_bytes() for path in (work / "s1").rglob("*") if path.is_file() and path.name != "exit.json"}
    before = files()
    run("into the start itself", *extend, "--output", work / "s1", code=65, words=("s1/step_0000000002", "was trained on token files"))
    run("with its tokens", *extend, "--tokens", work / "el.h5", "--output", work / "s1", code=65,
        words=("/num_experts is 2,1,2, the model has 2,2,3",))
    check(files() == before, "the start is left as it was")
    run("stage 1 with another seed", "train", *model, "--experts", work / "ex.cfg", *small(work, steps=1, seed=5), "--tokens", work / "el.h5",
        "--output", work / "s1b")
    run("resumed from another start", *extend, "--train.init_from", work / "s1b", "--train.steps", "6", "--output", work / "x", code=65,
        words=(f"{newest(work / 's1')} with hash", "s1b"))


def main():
    work = Path(tempfile.mkdtemp(prefix="nmoe-extension-"))
    try:
        make_model(work / "model")
        make_inputs(work)
        model = ["--model", work / "model"]
        run("stage 1", "train", *model, "--experts", work / "ex.cfg", *small(work), "--tokens", work / "el.h5", "--output", work / "s1")
        extend = ["train", *model, "--train.init_from", work / "s1", "--experts", experts(work, "more.cfg", NEW), *small(work, steps=4, save_every=2),
                  "--tokens", work / "en.h5"]
        extended(work, extend)
        told(work, extend)
        onwards(work, model, extend)
        refused(work, model, extend)
    finally:
        if not os.environ.get("NMOE_TEST_KEEP"):
            shutil.rmtree(work, ignore_errors=True)
    print(f"extension.py: {inputs.count} checks, {len(inputs.failures)} failed")
    sys.exit(1 if inputs.failures else 0)


if __name__ == "__main__":
    main()
