#!/usr/bin/python3
"""Neurons whose outputs are replaced, in evaluate and generate: the matrix on several ranks against the lines of its documents,
what is written and what is not, and files that do not fit. Usage: interventions.py MPIEXEC NEURONMOE"""
import csv
import json
import math
import shutil
import sys
import tempfile
from pathlib import Path

import h5py
import numpy as np

sys.path.append(str(Path(__file__).resolve().parents[2] / "tools"))
import convert  # noqa: E402
import report_data  # noqa: E402
import inputs  # a toy model, texts and checks  # noqa: E402
from inputs import check, run  # noqa: E402

LANGUAGES = ["en", "el"]


def prepare(work):
    inputs.make_model(work / "model")
    inputs.make_inputs(work)
    sense = [x for lang in LANGUAGES for x in ("--analysis.sense", f"{lang}:{work}/{lang}.json")]
    run("analyze", "analyze", "--model", work / "model", *sense, "--analysis.top_k", "12", "--analysis.ap_min", "0", "--output",
        work / "neurons.h5")
    run("train", "train", "--stage", "1", "--model", work / "model", "--experts", work / "ex.cfg", "--tokens", work / "el.h5",
        *inputs.small(work), "--output", work / "s1")


def texts(work):
    return ["--evaluation.block", "24", "--evaluation.max_tokens", "400",
            *(x for lang in LANGUAGES for x in ("--evaluation.text", f"{lang}:{work}/{lang}.h5"))]


def numbers(path):
    """What an eval.json says besides its options."""
    found = json.loads(Path(path).read_text())
    del found["config"]
    return found


def matrices(work):
    evaluate = ["evaluate", "--model", work / "model", *texts(work)]
    wanted = ["--intervention.neurons", work / "neurons.h5", "--intervention.controls", "2"]
    for name, more in (("dense", []), ("mixture", ["--resume", work / "s1"])):
        run(f"{name} untouched", *evaluate, *more, "--output", work / f"{name}.json")
        check(not list(work.glob(f"{name}.interventions.*")), f"{name}: no matrix that nobody asked for")
        for ranks, replace in ((1, "off_p50"), (2, "off_p50"), (3, "off_p50"), (1, "zero")):
            parallel = ["--train.expert_parallel_size", "2"] if ranks == 2 and more else []
            folder = work / f"{name}-{replace}-{ranks}"
            folder.mkdir()
            run(f"{name} on {ranks} ranks", *evaluate, *more, *parallel, *wanted, "--intervention.replace", replace,
                "--evaluation.seed", "7", "--output", folder / "eval.json", ranks=ranks)
            check(numbers(folder / "eval.json") == numbers(work / f"{name}.json"), f"{name}: the untouched model's numbers")
        first = work / f"{name}-off_p50-1"
        for ranks in (2, 3):
            for file in ("eval.items.jsonl", "eval.interventions.csv", "eval.interventions.h5"):
                check((work / f"{name}-off_p50-{ranks}" / file).read_bytes() == (first / file).read_bytes(),
                      f"{name}: {file} on {ranks} ranks")
        read_matrix(name, first, (work / f"{name}.items.jsonl").read_text())
        with h5py.File(first / "eval.interventions.h5") as a, h5py.File(work / f"{name}-zero-1/eval.interventions.h5") as b:
            check((a["neuron/uuid"][:] == b["neuron/uuid"][:]).all(), f"{name}: the same neurons, whatever replaces them")
            check((a["change"][:] != b["change"][:]).any(), f"{name}: medians are not zeros")
            check((report_data.text_of(a.attrs["replace"]), int(a.attrs["seed"])) == ("off_p50", 7), f"{name}: attributes")
        run("inspect", "inspect", first / "eval.interventions.h5")


def read_matrix(name, folder, untouched):
    """HDF5, CSV and the documents' lines say the same."""
    with h5py.File(folder / "eval.interventions.h5") as f:
        rows = list(zip([x.decode() for x in f["row/language"][:]], f["row/control"][:].tolist()))
        columns = [x.decode() for x in f["column/language"][:]]
        check(rows == [(lang, control) for lang in LANGUAGES for control in range(3)], f"{name}: rows {rows}")
        check(columns == LANGUAGES, f"{name}: columns {columns}")
        check(f["row/neurons"][:].tolist() == [12] * 6 and f["neuron/uuid"].shape == (72,), f"{name}: 12 neurons in each row")
        sets = f["neuron/uuid"][:].reshape(6, 12)
        selected = set(sets[0]) | set(sets[3])
        check(all(not selected & set(sets[r]) for r in (1, 2, 4, 5)), f"{name}: controls share no selected neuron")
        change, error, nll = f["change"][:], f["stderr"][:], f["column/nll"][:]
        check(np.abs(change).max() > 1e-4, f"{name}: something changes")
        text = (folder / "eval.items.jsonl").read_text()
        lines = [json.loads(line) for line in text.splitlines()]
        check("".join(line + "\n" for line in text.splitlines() if '"task":"perplexity"' in line) == untouched,
              f"{name}: the lines of the untouched model are as without an intervention")
        table = list(csv.DictReader(open(folder / "eval.interventions.csv")))
        check(len(table) == 12, f"{name}: {len(table)} cells in the CSV")
        for c, column in enumerate(columns):
            base = [x for x in lines if x["task"] == "perplexity" and x["set"] == column]
            tokens = sum(x["tokens"] for x in base)
            check(math.isclose(nll[c], -sum(x["loglikelihood"] for x in base) / tokens), f"{name}: nll of {column}")
            for r, (lang, control) in enumerate(rows):
                mine = [x for x in lines if x["task"] == "intervention" and (x["neurons"], x["control"], x["set"]) == (lang, control, column)]
                check([x["document"] for x in mine] == [x["document"] for x in base], f"{name}: documents of {lang} {control} {column}")
                worse = [(b["loglikelihood"] - m["loglikelihood"]) for b, m in zip(base, mine)]
                by_hand = sum(worse) / tokens
                residuals = sum((d - by_hand * b["tokens"]) ** 2 for d, b in zip(worse, base))
                deviation = math.sqrt(len(base) / (len(base) - 1) * residuals) / tokens
                check(math.isclose(change[r, c], by_hand, rel_tol=1e-9, abs_tol=1e-12) and
                      math.isclose(error[r, c], deviation, rel_tol=1e-9, abs_tol=1e-12), f"{name}: {lang} {control} {column} by hand")
                cell = next(x for x in table if (x["neurons"], x["control"], x["text"]) == (lang, str(control), column))
                check((float(cell["change"]), float(cell["stderr"]), int(cell["tokens"])) == (change[r, c], error[r, c], tokens),
                      f"{name}: {cell} in the CSV")


def texts_written(work):
    generate = ["generate", "--model", work / "model", "--generate.prompt", "river", "--generate.prompt", "x", "--generate.max_tokens", "12"]
    forced = ["--intervention.neurons", work / "neurons.h5", "--intervention.languages", "el", "--intervention.replace", "on_p50"]
    run("generate", *generate, "--output", work / "free.jsonl")
    for ranks in (1, 2):
        run(f"generate on {ranks} ranks", *generate, *forced, "--output", work / f"forced{ranks}.jsonl", ranks=ranks)
    check((work / "forced1.jsonl").read_bytes() == (work / "forced2.jsonl").read_bytes(), "the same texts on 1 and 2 ranks")
    check((work / "forced1.jsonl").read_bytes() != (work / "free.jsonl").read_bytes(), "replaced neurons change what is written")
    free, origin = (json.loads((work / f"{name}.jsonl.json").read_text()) for name in ("free", "forced1"))
    check(origin["config"]["intervention.replace"] == "on_p50" and "neurons_sha256" in origin, "the record names the intervention")
    check(not any(key.startswith("intervention") for key in free["config"]), "and has none where there was none")


def damaged(work):
    """Files that do not fit, made from neurons.h5."""
    def copy(name, change):
        path = work / name
        with h5py.File(work / "neurons.h5") as source, h5py.File(path, "w") as target:  # h5py takes no checksum along
            for key in source:
                source.copy(key, target)
            target.attrs.update(source.attrs)
            change(target)
        return path

    def drop(f):
        del f["off_p50"]

    def not_finite(f):
        f["off_p50"][...] = np.nan

    def no_sentence(f):
        f["n_neg"][...] = 0

    bitten = work / "bitten.h5"
    content = bytearray((work / "neurons.h5").read_bytes())
    content[len(content) // 2] ^= 1
    bitten.write_bytes(content)
    return [("without medians", copy("dropped.h5", drop), ["dropped.h5", "off_p50"]),
            ("medians that are no numbers", copy("nan.h5", not_finite), ["nan.h5", "not a finite number"]),
            ("medians of nothing", copy("nothing.h5", no_sentence), ["nothing.h5", "no sentence"]),
            ("a flipped bit", bitten, ["bitten.h5"]),
            ("a token file", work / "el.h5", ["el.h5", "neuronmoe-neurons"]),
            ("no file", work / "missing.h5", ["missing.h5"])]


def refused(work):
    out = work / "never.json"
    convert.VOCAB = inputs.VOCAB
    other = convert.random_tensors(np.random.default_rng(4), convert.dense_shapes(False, True), "F32")
    inputs.make_model(work / "other", other)
    neurons, evaluate = ["--intervention.neurons", work / "neurons.h5"], ["evaluate", *texts(work), "--output", out]
    generate = ["generate", "--generate.prompt", "x", "--output", out]
    model = ["--model", work / "model"]
    run("an unknown language", *evaluate, *model, *neurons, "--intervention.languages", "en,tr", code=78, ranks=2,
        words=["neurons.h5", "'tr'", "en"])
    run("languages of nothing", *evaluate, *model, "--intervention.languages", "en", code=78, words=["intervention.neurons"])
    run("no text", "evaluate", *model, *neurons, "--evaluation.continuation", f"en:{work}/items.jsonl", "--output", out, code=78,
        words=["evaluation.text"])
    run("another replacement", *evaluate, *model, *neurons, "--intervention.replace", "half", code=78,
        words=["intervention.replace", "off_p50"])
    run("another model", *evaluate, "--model", work / "other", *neurons, code=65, ranks=2, words=["neurons.h5", "other", "hash"])
    run("two languages in a text", *generate, *model, *neurons, code=78, words=["one"])
    run("another model in generate", *generate, "--model", work / "other", *neurons, code=65, words=["neurons.h5", "hash"])
    for what, path, words in damaged(work):
        run(what, *evaluate, *model, "--intervention.neurons", path, "--intervention.replace", "off_p50", code=65, words=words)
    check(not list(work.glob("never*")), f"left behind: {list(work.glob('never*'))}")


def main():
    work = Path(tempfile.mkdtemp(prefix="nmoe-interventions-"))
    try:
        prepare(work)
        matrices(work)
        texts_written(work)
        refused(work)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    print(f"interventions.py: {inputs.count} checks, {len(inputs.failures)} failures")
    return 1 if inputs.failures else 0


if __name__ == "__main__":
    sys.exit(main())
