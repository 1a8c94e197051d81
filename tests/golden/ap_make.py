#!/usr/bin/env python3
"""Makes ap_sklearn.json beside this file. Needs numpy and scikit-learn; the tests read only the JSON."""
import json
import pathlib
import warnings

import numpy as np
import sklearn
from sklearn.metrics import average_precision_score

warnings.filterwarnings("ignore")
rng = np.random.default_rng(20260711)
samples, languages = 60, 3


def case(name, scores, labels=None):
    scores = np.asarray(scores, dtype=np.float32)
    result = {"name": name, "scores": [repr(float(x)) for x in scores], "languages": []}
    if labels is not None:
        result["labels"] = labels.tolist()
    labels = default_labels if labels is None else labels
    for g in range(languages):
        on, off = scores[labels == g], scores[labels != g]
        wide = off.astype(np.float64)
        result["languages"].append({
            "ap": repr(float(average_precision_score(labels == g, scores))),
            "off_mean": repr(float(np.float32(wide.mean()))),
            "off_p50": repr(float(np.float32(np.median(wide)))),
            "on_p50": repr(float(np.float32(np.median(on.astype(np.float64))))),
            "on_p90": repr(float(np.float32(np.percentile(on.astype(np.float64), 90)))),
        })
    return result


default_labels = rng.integers(0, languages, samples)
normal = rng.normal(size=samples).astype(np.float32)
cases = [
    case("continuous", normal),
    case("separated", normal + 10 * (default_labels == 1)),
    case("reversed", normal - 10 * (default_labels == 1)),
    case("five_values", rng.integers(-2, 3, samples)),
    case("relu", np.maximum(normal, 0)),
    case("constant", np.full(samples, 0.25)),
    case("signed_zeros", np.where(normal > 0, 0.0, -0.0)),
    case("tiny_and_huge", normal * np.float32(10.0) ** rng.integers(-44, 37, samples)),
    case("bfloat16_like", (normal.view(np.uint32) & 0xFFFF0000).view(np.float32)),
    case("denormal", (rng.integers(-40, 40, samples).astype(np.float32) * np.float32(1.4e-45))),
    case("one_positive", normal, np.where(np.arange(samples) == 17, 1, 2 * (np.arange(samples) % 2))),
    case("outlier", np.where(np.arange(samples) == 3, np.float32(1e30), normal)),
]
text = {"sklearn": sklearn.__version__, "numpy": np.__version__, "labels": default_labels.tolist(), "cases": cases}
pathlib.Path(__file__).with_name("ap_sklearn.json").write_text(json.dumps(text, indent=1) + "\n")
