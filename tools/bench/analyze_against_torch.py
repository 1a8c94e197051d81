#!/usr/bin/env python3
"""`neuronmoe analyze` beside a plain PyTorch + scikit-learn script doing the same, on one core each.

    OMP_NUM_THREADS=1 python3 tools/bench/analyze_against_torch.py build/release/neuronmoe build/quickstart \
        [--rounds 3]

Needs torch, transformers, scikit-learn, pandas and h5py. The second argument is a folder of the pipeline (base/,
corpus/sense/), or any dense model and sense files laid out so. The script gives every sentence to the model's
AutoTokenizer, runs it alone through the Hugging Face model with a hook on each Linear, takes means over tokens, scores
each neuron and language with average_precision_score and the numpy statistics of expertise.csv. It leaves out what
`analyze` does besides (layer similarity, LAPE, files). Prints the
agreement of the two and of expertise.csv with neurons.h5, and medians of processor and wall time.
"""
import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from tool_errors import need_packages  # noqa: E402

need_packages("analyze_against_torch", "torch", "transformers", "sklearn", "pandas", "h5py")

import h5py  # noqa: E402
import numpy as np  # noqa: E402
import pandas  # noqa: E402
import sklearn  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from sklearn.metrics import average_precision_score  # noqa: E402

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("neuronmoe")
parser.add_argument("folder")
parser.add_argument("--languages", default="", help="comma-separated; default: every file of corpus/sense")
parser.add_argument("--rounds", type=int, default=3)
parser.add_argument("--max-tokens", type=int, default=256)
args = parser.parse_args()
torch.set_num_threads(1)

sense = os.path.join(args.folder, "corpus", "sense")
base = os.path.join(args.folder, "base")
languages = args.languages.split(",") if args.languages else sorted(
    name[:-5] for name in os.listdir(sense) if name.endswith(".json"))


def ours(out):
    """Runs analyze; returns (processor s, wall s)."""
    command = [args.neuronmoe, "analyze", "--model", base, "--output", out + "/neurons.h5", "--analysis.csv", out + "/csv",
               "--analysis.sentences", "1000000", "--analysis.max_tokens", str(args.max_tokens), "--run.threads", "1",
               "--run.quiet", "true"]
    for language in languages:
        command += ["--analysis.sense", f"{language}:{sense}/{language}.json"]
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, time.perf_counter() - start


def theirs():
    """(processor s, wall s, module names in order, responses [neuron, sample], labels, statistics)."""
    processor, start = time.process_time(), time.perf_counter()
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    before = len(tokenizer.encode(""))
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    pooled, rows, labels = {}, [], []

    def hook(name):
        def pool(_module, _inputs, output):
            pooled[name] = output[0].mean(dim=0).numpy()
        return pool

    names = sorted(name for name, module in model.named_modules()
                   if isinstance(module, torch.nn.Linear) and name != "lm_head")
    for name, module in model.named_modules():
        if name in names:
            module.register_forward_hook(hook(name))
    with torch.inference_mode():
        for label, language in enumerate(languages):
            with open(f"{sense}/{language}.json", encoding="utf-8") as stream:
                sentences = json.load(stream)["sentences"]["positive"]
            for sentence in sentences:
                ids = tokenizer.encode(sentence)
                if len(ids) > args.max_tokens or len(ids) == before:
                    continue
                model.model(torch.tensor([ids]))
                rows.append(np.concatenate([pooled[name] for name in names]))
                labels.append(label)
    responses, labels = np.stack(rows, axis=1), np.array(labels)
    found = {key: np.empty((len(languages), len(responses))) for key in ("ap", "off_mean", "off_p50", "on_p50", "on_p90")}
    for label in range(len(languages)):
        on, off = responses[:, labels == label], responses[:, labels != label]
        positive = labels == label
        found["ap"][label] = [average_precision_score(positive, row) for row in responses]
        found["off_mean"][label], found["off_p50"][label] = off.mean(axis=1, dtype=np.float64), np.median(off, axis=1)
        found["on_p50"][label], found["on_p90"][label] = np.median(on, axis=1), np.percentile(on, 90, axis=1)
    return time.process_time() - processor, time.perf_counter() - start, names, found


def compare(out, names, found):
    with h5py.File(out + "/neurons.h5") as f:
        assert [x.decode() for x in f["module/name"][...]] == [name + ":0" for name in names], "modules differ"
        assert [x.decode() for x in f["language"][...]] == languages
        for key, values in found.items():
            mine = f[key][...]
            scale = np.abs(values).max() if key != "ap" else 1.0
            print(f"{key}: largest difference {np.abs(mine - values).max() / scale:.1e}"
                  + (f", of {values.size} {(np.abs(mine - values) <= 1e-12).sum()} equal to 1e-12 and "
                  f"{(np.abs(mine - values) > 1e-4).sum()} above 1e-4" if key == "ap"
                     else " of the largest value"))
        top = {language: [row["uuid"] for row in f["selected/" + language][...]] for language in languages}
        for g, language in enumerate(languages):
            k = len(top[language])
            order = np.lexsort((np.arange(len(found["ap"][g])), -found["ap"][g].astype(np.float32)))[:k]
            apart = set(order) ^ set(top[language])
            cut = found["ap"][g][order[-1]]
            far = [n for n in apart if abs(found["ap"][g][n] - cut) > 1e-4]
            print(f"{language}: {k} neurons selected, {len(apart) // 2} differ, {len(far)} of them further than 1e-4 from "
                  f"the cut {cut:.4f}")
            table = pandas.read_csv(f"{out}/csv/{language}/expertise/expertise.csv", keep_default_na=False,
                                    dtype={c: np.float32 for c in found} | {"unit": np.uint32, "uuid": np.int64})
            assert list(table.columns) == ["ap", "off_mean", "off_p50", "on_p50", "on_p90", "layer", "unit", "uuid", "concept",
                                           "group"]
            for key in found:
                assert (table[key].to_numpy() == f[key][g].astype(np.float32)).all(), (language, key)
            assert (table["uuid"] == np.arange(len(table))).all() and (table["concept"] == language).all()
            names_of = np.repeat([name + ":0" for name in names], f["module/width"][...].astype(np.int64))
            assert (table["layer"].to_numpy() == names_of).all()
    print("expertise.csv, read by pandas, equals neurons.h5 in every column")


print(f"torch {torch.__version__}, transformers {transformers.__version__}, scikit-learn {sklearn.__version__}, pandas "
      f"{pandas.__version__}; load {os.getloadavg()[0]:.1f}; languages {','.join(languages)}")
mine, others = [], []
for _ in range(args.rounds):
    with tempfile.TemporaryDirectory() as folder:
        mine.append(ours(folder))
        *times, module_names, result = theirs()
        others.append(times)
        if len(mine) == args.rounds:
            compare(folder, module_names, result)
for index, kind in enumerate(("processor", "wall")):
    a, b = (statistics.median(x[index] for x in times) for times in (mine, others))
    print(f"{kind} time: neuronmoe {a:.2f} s, script {b:.2f} s, ratio {b / a:.1f} (medians of {args.rounds})")
