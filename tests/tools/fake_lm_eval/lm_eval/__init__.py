# SPDX-License-Identifier: Apache-2.0
"""Stands in for lm-eval in tests/tools/test_lm_eval.py: the tasks that tools/benchmark_tasks.py writes from files, without shots."""
import json
import math
import os

__version__ = "0.0.0-fake"


class Instance:
    def __init__(self, arguments, task_name):
        self.args, self.task_name = arguments, task_name


def simple_evaluate(model, tasks, num_fewshot, limit, task_manager, bootstrap_iters, log_samples):
    (task,) = tasks
    if task == "broken":
        raise KeyError("no such data set\nsecond line")
    if task == "writes":
        return model.generate_until([Instance(("text", {}), task)])
    path = next(path for path in (os.path.join(task_manager.include_path, "data", f"{task}_{split}.jsonl")
                                  for split in ("test", "validation")) if os.path.exists(path))
    with open(path, encoding="utf-8") as stream:
        items = [json.loads(line) for line in stream][:limit]
    front = "shot " * num_fewshot
    requests = [Instance((front + item["query"], " " + choice), task) for item in items for choice in item["choices"]]
    replies = iter(model.loglikelihood(requests))
    samples = []
    for number, item in enumerate(items):
        found = [next(replies) for _ in item["choices"]]
        scores = [value for value, _ in found]
        normed = [value / len(choice) for value, choice in zip(scores, item["choices"])]
        samples.append({"doc_id": number, "target": item["gold"], "filtered_resps": found,
                        "acc": float(scores.index(max(scores)) == item["gold"]),
                        "acc_norm": float(normed.index(max(normed)) == item["gold"])})
    values = {}
    for metric in ("acc", "acc_norm"):
        mean = sum(sample[metric] for sample in samples) / len(samples)
        values[f"{metric},none"], values[f"{metric}_stderr,none"] = mean, math.sqrt(mean * (1 - mean) / max(1, len(samples) - 1))
    return {"results": {task: values}, "n-samples": {task: {"effective": len(items)}}, "samples": {task: samples}}
