#!/usr/bin/env python3
"""AP of neuronmoe's scorer beside scikit-learn's, on the same arrays in the same run, one core each.

    OMP_NUM_THREADS=1 python3 tools/bench/ap_against_sklearn.py build/release/tools/bench/bench_ap

Needs numpy and scikit-learn. Rounds of the two alternate; medians of processor time are printed.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from tool_errors import need_packages  # noqa: E402

need_packages("ap_against_sklearn", "sklearn", "numpy")

import numpy as np  # noqa: E402
import sklearn  # noqa: E402
from sklearn.metrics import average_precision_score  # noqa: E402

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("bench_ap")
parser.add_argument("--samples", type=int, default=4500)
parser.add_argument("--languages", type=int, default=9)
parser.add_argument("--neurons", type=int, default=2000, help="scored by neuronmoe; scikit-learn takes 20 of them")
parser.add_argument("--rounds", type=int, default=9)
args = parser.parse_args()

rng = np.random.default_rng(7)
labels = np.arange(args.samples) * args.languages // args.samples
kinds = {"continuous": lambda x: x, "half zeros": lambda x: np.maximum(x, 0)}
print(f"numpy {np.__version__}, scikit-learn {sklearn.__version__}, load {os.getloadavg()[0]:.1f}, "
      f"{args.samples} samples, {args.languages} languages")
print("neurons/s and core: responses, AP alone, all statistics, scikit-learn for all languages; ratio of AP "
      "alone to one call and to all; largest difference")
for kind, shape in kinds.items():
    responses = shape(rng.normal(size=(args.neurons, args.samples))).astype(np.float32)
    few = min(args.neurons, 20)
    alone, everything, peer = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "responses.f32")
        responses.tofile(path)
        for _ in range(args.rounds):
            run = subprocess.run([args.bench_ap, str(args.samples), str(args.languages), str(args.neurons), path],
                                 check=True, capture_output=True, text=True)
            found = json.loads(run.stdout)
            alone.append(found["ap_alone"])
            everything.append(found["all_statistics"])
            start = time.process_time()
            expected = [[average_precision_score(labels == g, responses[n]) for g in range(args.languages)]
                        for n in range(few)]
            peer.append(few / (time.process_time() - start))
        scored = np.fromfile(path + ".ap").reshape(args.neurons, args.languages)
    a, s, p = (statistics.median(x) for x in (alone, everything, peer))
    print(f"{kind}: {a:.0f}, {s:.0f}, {p:.1f}; {a / (p * args.languages):.1f} x one call, {a / p:.0f} x all; "
          f"{np.abs(scored[:few] - expected).max():.1e}")
