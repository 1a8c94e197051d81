#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compares neuronmoe with the `hf` backend of lm-eval (float32, batch 1, CPU, 1 thread), request by request and item by item.

    tools/check_lm_eval.py --model DIR --benchmarks tasks/benchmarks.json --limit 20 --workdir DIR [--ranks 1,2,4]
    tools/check_lm_eval.py --model DIR --checkpoint STEP --benchmarks tasks/benchmarks.json --limit 100 --workdir DIR

With a checkpoint, a mixture of experts, hf reads what `neuronmoe convert` makes of it, in both forms that transformers loads.

Prints the largest relative difference of log-likelihoods, the items whose `acc` or `acc_norm` differ, whether the answers have the
same bytes on every number of ranks, CPU seconds and peak memory of both. Ends with 1 if anything is not as it should be. What is
in WORKDIR is used again: the slow half is hf. benchmarks.json comes from tools/benchmark_tasks.py. Wants lm_eval, transformers
and torch; nothing in CI runs it.
"""
import argparse
import json
import os
import subprocess
import sys
import time
from typing import Any

import loglikelihood_files as files
from tool_errors import EXIT_IO, ToolError, exit_code_of, need_packages

HERE = os.path.dirname(os.path.abspath(__file__))
TOLERANCE = 1e-4


def hf_worker(options: argparse.Namespace) -> None:
    """Scores the benchmarks with lm-eval's own backend and notes every log-likelihood down."""
    import lm_eval_neuronmoe as plugin
    from lm_eval.models.huggingface import HFLM
    noted, seconds, rolling = {}, 0.0, False

    class Noting(HFLM):
        def loglikelihood_rolling(self, requests: list[Any], *arguments: Any, **kwargs: Any) -> list[float]:
            """Notes whole texts down."""
            nonlocal rolling
            rolling = True  # its windows are not requests of ours
            found = super().loglikelihood_rolling(requests, *arguments, **kwargs)
            rolling = False
            for request, value in zip(requests, found):
                line = files.rolling_line(self.tok_encode(request.args[0]), self.prefix_token_id)
                noted[files.key_of(line).hex()] = (value, None)
            return found

        def _loglikelihood_tokens(self, requests: list[Any], *arguments: Any, **kwargs: Any) -> list[tuple[float, bool]]:
            nonlocal seconds
            began = time.process_time()
            found = super()._loglikelihood_tokens(requests, *arguments, **kwargs)
            seconds += time.process_time() - began
            for (_, context, continuation), (value, greedy) in zip(() if rolling else requests, found):
                noted[files.key_of(files.pair_line(context, continuation)).hex()] = (value, bool(greedy))
            return found

    lm = Noting(pretrained=options.model, dtype="float32", batch_size=1, device="cpu", trust_remote_code=bool(options.checkpoint),
                **({"add_bos_token": False} if options.bos == "no" else {}),
                **({"max_length": options.max_length} if options.max_length else {}))
    _, items = plugin.run_benchmarks(lm, options.benchmarks, options.limit)
    plugin.save(options.output, json.dumps({"seconds": seconds, "answers": noted, "items": items}))


def measured(command: list[str], log: str, **environment: str) -> dict[str, float]:
    """Returns CPU seconds and peak memory of the largest process of a command, which must end well."""
    with open(log, "ab") as stream:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream,
                                   env={**os.environ, "OMP_NUM_THREADS": "1", **environment})
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise ToolError(f"{' '.join(command[:3])}: exit code {process.returncode}; log: {log}", EXIT_IO)
    return {"cpu_s": usage.ru_utime + usage.ru_stime, "peak_mb": usage.ru_maxrss / 1024}


def once(path: str, work: Any) -> dict[str, Any]:
    """Returns what `work` measures, kept in PATH.json so that a second run need not repeat it."""
    if not (os.path.exists(path) and os.path.exists(path + ".measured")):
        found = work()
        with open(path + ".measured", "w", encoding="utf-8") as stream:
            json.dump(found, stream)
    with open(path + ".measured", encoding="utf-8") as stream:
        return json.load(stream)


def forms_of(options: argparse.Namespace) -> dict[str, str]:
    """Returns what hf reads, by name: the dense model, or the exports of the checkpoint."""
    if not options.checkpoint:
        return {"hf": options.model}
    return {f"hf-{form}": os.path.join(options.workdir, form) for form in ("transformers", "transformers-code")}


def export(options: argparse.Namespace, place: str, log: str) -> None:
    """Converts the checkpoint, unless an earlier call has."""
    if not os.path.exists(os.path.join(place, "config.json")):
        command = ["convert", options.checkpoint, "--model", options.model, "--convert.to", os.path.basename(place), "--output", place]
        measured([os.path.join(files.ROOT, "launch", "run.sh"), "1", *command], log)


def run_all(options: argparse.Namespace) -> dict[str, Any]:
    """Writes requests and answers; returns the measurements."""
    place = lambda name: os.path.join(options.workdir, name)  # noqa: E731
    common = ["--benchmarks", options.benchmarks, "--bos", options.bos, "--max-length", str(options.max_length),
              *(["--limit", str(options.limit)] if options.limit else [])]
    ours = [*common, "--model", options.model]
    plugin = [sys.executable, os.path.join(HERE, "lm_eval_neuronmoe.py")]
    requests, log = place("requests.jsonl"), place("log.txt")
    found = {"write": once(requests, lambda: measured([*plugin, "write", requests, *ours], log))}
    for name, model in forms_of(options).items():
        answers = place(name + ".json")
        worker = [sys.executable, os.path.abspath(__file__), "--worker", "--output", answers, *common, "--model", model]
        if options.checkpoint:
            export(options, model, log)
            worker += ["--checkpoint", options.checkpoint]
        found[name] = once(answers, lambda: measured(worker, log))
    if options.hf_only:
        return found
    for ranks in options.ranks:
        answers = place(f"answers-{ranks}.jsonl")
        command = files.program_command(requests, answers, options.model, options.checkpoint, max_length=options.max_length,
                                        options=("--train.dtype", "float32") if options.checkpoint else ())
        found[ranks] = once(answers, lambda: measured([os.path.join(files.ROOT, "launch", "run.sh"), str(ranks), *command], log))
    answers = place(f"answers-{options.ranks[0]}.jsonl")
    once(place("scores.json"), lambda: measured([*plugin, "read", requests, answers, *ours, "--output", place("scores.json")], log))
    return found


def compare_with(name: str, options: argparse.Namespace, found: dict[str, Any]) -> bool:
    """Compares the program with one of the models that hf read, by request and by item."""
    place = lambda name: os.path.join(options.workdir, name)  # noqa: E731
    with open(place(name + ".json"), encoding="utf-8") as stream:
        hf = json.load(stream)
    first = place(f"answers-{options.ranks[0]}.jsonl")
    ours = {key.hex(): answer for key, answer in files.read_answers(place("requests.jsonl"), first).items()}
    if ours.keys() != hf["answers"].keys():
        raise ToolError(f"{place('requests.jsonl')}: {len(ours.keys() ^ hf['answers'].keys())} requests differ from {name}'s")
    differences = [abs(ours[key].loglikelihood - value) / max(abs(value), 1e-9) for key, (value, _) in hf["answers"].items()]
    greedy = sum(told not in (None, ours[key].is_greedy) for key, (_, told) in hf["answers"].items())
    with open(place("scores.json.items.jsonl"), encoding="utf-8") as stream:
        items = [json.loads(line) for line in stream]
    item_of = lambda item: (item["task"], item["item"])  # noqa: E731
    theirs = {item_of(item): item for item in hf["items"]}
    wrong = {metric: [item_of(item) for item in items if item[metric] != theirs[item_of(item)][metric]] for metric in ("acc", "acc_norm")}
    print(f"{name}: {len(ours)} requests, {len(items)} items: largest relative difference {max(differences):.2e}, mean "
          f"{sum(differences) / len(differences):.1e}; is_greedy differs {greedy}; acc differs on {len(wrong['acc'])} items, acc_norm on "
          f"{len(wrong['acc_norm'])}")
    print(f"{name}: {hf['seconds']:.1f} CPU s in the model, {found[name]['cpu_s']:.1f} in all, {found[name]['peak_mb']:.0f} MB")
    return max(differences) <= TOLERANCE and not wrong["acc"] and not wrong["acc_norm"]


def compare(options: argparse.Namespace, found: dict[str, Any]) -> bool:
    """Prints how far the answers are apart; returns whether they agree."""
    good = all([compare_with(name, options, found) for name in forms_of(options)])
    texts = set()
    for ranks in options.ranks:
        with open(os.path.join(options.workdir, f"answers-{ranks}.jsonl"), "rb") as stream:
            texts.add(stream.read())
    print(f"answers on {', '.join(map(str, options.ranks))} ranks: {'the same bytes' if len(texts) == 1 else 'DIFFERENT'}")
    for ranks in options.ranks:
        print(f"neuronmoe, {ranks} ranks: {found[ranks]['cpu_s']:.1f} CPU s, {found[ranks]['peak_mb']:.0f} MB in the largest process")
    return good and len(texts) == 1


def make(options: argparse.Namespace) -> int:
    """Measures and compares; 1 if anything differs."""
    need_packages("check_lm_eval", "lm_eval", "transformers", "torch")
    if options.worker:
        hf_worker(options)
        return 0
    os.makedirs(options.workdir, exist_ok=True)
    found = run_all(options)
    return 0 if options.hf_only or compare(options, found) else 1


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description="neuronmoe against lm-eval's hf backend.")
    parser.add_argument("--model", required=True)
    parser.add_argument("--checkpoint", default="", help="a step of train: its exports instead of the dense model")
    parser.add_argument("--benchmarks", required=True)
    parser.add_argument("--bos", choices=("auto", "no"), default="auto")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--max-length", type=int, default=0, help="a small one makes windows, and cuts contexts")
    parser.add_argument("--workdir", default="build/check-lm-eval")
    parser.add_argument("--ranks", type=lambda text: [int(part) for part in text.split(",")], default=[1])
    parser.add_argument("--hf-only", action="store_true", help="make hf's part and stop")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--output", help=argparse.SUPPRESS)
    return exit_code_of("check_lm_eval", lambda: make(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
