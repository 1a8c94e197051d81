#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""lm-evaluation-harness (lm-eval) on a model of neuronmoe: prompts, tasks and scores are lm-eval's, log-likelihoods the program's.

    lm_eval_neuronmoe.py run   --model_args model=DIR,checkpoint=STEP,ranks=4 --tasks arc_challenge --num_fewshot 25
    lm_eval_neuronmoe.py write REQUESTS.jsonl              --model_args model=DIR --tasks arc_challenge --num_fewshot 25
    lm_eval_neuronmoe.py read  REQUESTS.jsonl ANSWERS.jsonl --model_args model=DIR --tasks arc_challenge --num_fewshot 25

`run` starts launch/run.sh itself. `write` and `read` stand before and after a job that needs no Python:

    srun neuronmoe loglikelihood --model DIR --resume STEP --loglikelihood.requests REQUESTS.jsonl --output ANSWERS.jsonl

The rest of the line is lm-eval's (`run --help` shows it). With `--benchmarks FILE` of tools/benchmark_tasks.py in its place,
`write` and `read` go through several tasks with their own shots (`--help` after either); launch/evaluate.sh does so.

model_args: model (directory with the tokenizer), checkpoint, ranks (1), bos (auto, yes or no), max_length, prefix_token_id,
options (more options of the program, with spaces between them). Wants lm_eval and transformers; docs/lm-eval.md.
"""
import argparse
import contextlib
import io
import json
import os
import shlex
import sys
import tempfile
from typing import Any

import loglikelihood_files as files
from tool_errors import EXIT_CONFIG, EXIT_IO, ToolError

try:
    from lm_eval.api.model import TemplateLM
    from lm_eval.api.registry import register_model
except ImportError as missing:
    if __name__ != "__main__":
        raise
    print(f"lm_eval_neuronmoe: {sys.executable} has no {missing.name or 'lm_eval'}; make a virtual environment, `pip install "
          "lm_eval==0.4.13 transformers torch` there, and start this with its python", file=sys.stderr)
    sys.exit(EXIT_CONFIG)


class Exchange:
    """How requests become answers: `run` launches the program, `write` only notes them down, `read` looks them up."""

    def __init__(self, mode: str = "run", requests: str = "", answers: str = "") -> None:
        self.mode, self.answers_path, self.requests_path = mode, answers, requests
        self.writer = files.RequestWriter(requests) if mode == "write" else None
        self.found = files.read_answers(requests, answers) if mode == "read" else {}
        self.provenance = files.provenance_of(requests, answers) if mode == "read" else {}

    def answer(self, lines: list[str], lm: "NeuronMoE") -> list[files.Answer]:
        """Returns an answer to each request, or zeros while they are only noted down."""
        if self.writer:
            for line in lines:
                self.writer.add(line)
            return [files.Answer(0.0, False)] * len(lines)
        if self.mode == "run":
            self.launch(lines, lm)
        answers = []
        for line in lines:
            if (answer := self.found.get(files.key_of(line))) is None:
                raise ToolError(f"{self.answers_path}: no answer to the request {line[:60]}...; tasks, shots, limit, bos or tokenizer "
                                f"differ from when {self.requests_path} was written: write the requests again")
            answers.append(answer)
        return answers

    def launch(self, lines: list[str], lm: "NeuronMoE") -> None:
        """Runs the program on requests and keeps its answers."""
        with tempfile.TemporaryDirectory(prefix="neuronmoe-", dir=os.environ.get("NMOE_SHARED_TMP")) as folder:
            requests, answers = os.path.join(folder, "requests.jsonl"), os.path.join(folder, "answers.jsonl")
            writer = files.RequestWriter(requests)
            for line in lines:
                writer.add(line)
            writer.close()
            files.launch(files.program_command(requests, answers, lm.model_dir, lm.checkpoint, lm.given_length, lm.options),
                         lm.ranks)
            self.found.update(files.read_answers(requests, answers))
            self.provenance = files.provenance_of(requests, answers)

    def write_texts(self, prompts: list[str], how: files.Generation, lm: "NeuronMoE") -> list[str]:
        """Returns the texts that the program writes after prompts."""
        with tempfile.TemporaryDirectory(prefix="neuronmoe-", dir=os.environ.get("NMOE_SHARED_TMP")) as folder:
            asked, written = os.path.join(folder, "prompts.jsonl"), os.path.join(folder, "texts.jsonl")
            with open(asked, "w", encoding="utf-8") as stream:
                stream.writelines(json.dumps({"prompt": prompt}, ensure_ascii=False) + "\n" for prompt in prompts)
            files.launch(how.command(asked, written, lm.model_dir, lm.checkpoint, lm.options), lm.ranks)
            return files.read_texts(written, len(prompts))


def load_tokenizer(model: str) -> Any:
    """Returns the tokenizer of a model directory."""
    try:
        import transformers
        return transformers.AutoTokenizer.from_pretrained(model)
    except ImportError as error:
        raise ToolError(f"{sys.executable} has no transformers, which reads the tokenizer; pip install transformers",
                        EXIT_CONFIG) from error
    except Exception as error:  # whatever a damaged tokenizer leads to
        raise ToolError(f"{model}: transformers cannot read its tokenizer ({str(error).splitlines()[0]})") from error


@register_model("neuronmoe")
class NeuronMoE(TemplateLM):
    exchange: Exchange | None = None  # set by main for write and read

    def __init__(self, model: str = "", checkpoint: str = "", ranks: int = 1, bos: str = "auto", max_length: int = 0,
                 prefix_token_id: int | None = None, options: str = "", batch_size: Any = None, max_batch_size: Any = None,
                 device: Any = None) -> None:
        """batch_size, max_batch_size and device come from lm-eval and mean nothing here: the program forms its batches."""
        super().__init__()
        if not model:
            raise ToolError("model_args: model=DIR is missing; give the model's Hugging Face directory", EXIT_CONFIG)
        if int(ranks) < 1 or int(max_length) < 0:
            raise ToolError(f"model_args: ranks={ranks}, max_length={max_length}: expected positive numbers", EXIT_CONFIG)
        self.model_dir, self.checkpoint, self.ranks, self.given_length = str(model), str(checkpoint), int(ranks), int(max_length)
        self.options = shlex.split(options)
        length = files.max_length_of(self.model_dir)
        self.tokenizer = load_tokenizer(self.model_dir)
        self.encoder = files.Encoder(self.tokenizer, str(bos).lower().replace("true", "yes").replace("false", "no"), prefix_token_id)
        self.max_length = self.given_length or length or 2048
        self.exchange = type(self).exchange or Exchange()
        print(f"neuronmoe: {self.encoder.describe()}; at most {self.max_length} tokens", file=sys.stderr)

    @property
    def eot_token_id(self) -> int:
        return self.tokenizer.eos_token_id

    @property
    def prefix_token_id(self) -> int:
        return self.encoder.prefix

    @property
    def tokenizer_name(self) -> str:
        return self.model_dir.replace("/", "__")

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Returns a conversation as the tokenizer's template writes it."""
        return self.tokenizer.apply_chat_template(chat_history, tokenize=False, add_generation_prompt=add_generation_prompt,
                                                  continue_final_message=not add_generation_prompt)

    def get_model_info(self) -> dict[str, Any]:
        """Returns what lm-eval stores beside the scores."""
        return {"neuronmoe": {"model": self.model_dir, "checkpoint": self.checkpoint, "bos": self.encoder.bos,
                              "bos_rule": self.encoder.describe(), "max_length": self.max_length,
                              "answers": self.exchange.provenance}}

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Returns the ids of a text."""
        return self.encoder.encode(string, add_special_tokens)

    def _loglikelihood_tokens(self, requests: list[tuple[tuple[str, str], list[int], list[int]]],
                              **kwargs: Any) -> list[tuple[float, bool]]:
        for texts, _, continuation in requests:
            if not continuation or len(continuation) > self.max_length:
                raise ToolError(f"the continuation {texts[1][:60]!r} after {texts[0][-60:]!r} has {len(continuation)} tokens; "
                                f"1 to {self.max_length} can be scored")
        answers = self.exchange.answer([files.pair_line(context, continuation) for _, context, continuation in requests], self)
        for (texts, _, _), answer in zip(requests, answers):
            self.cache_hook.add_partial("loglikelihood", texts, tuple(answer))
        return [tuple(answer) for answer in answers]

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """Returns the log-likelihood of whole texts."""
        texts = [request.args[0] for request in requests]
        answers = self.exchange.answer([files.rolling_line(self.tok_encode(text), self.prefix_token_id) for text in texts], self)
        for text, answer in zip(texts, answers):
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), answer.loglikelihood)
        return [answer.loglikelihood for answer in answers]

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """Texts of `neuronmoe generate`, cut where the first string of `until` begins."""
        names = ", ".join(sorted({str(request.task_name) for request in requests}))
        if self.exchange.mode != "run":
            raise ToolError(f"{names}: this task lets the model write, which only `run` can do", EXIT_CONFIG)
        if self.encoder.bos != "auto":
            raise ToolError(f"{names}: this task lets the model write, behind what the tokenizer's own rule puts in front; use bos=auto",
                            EXIT_CONFIG)
        texts, groups = [""] * len(requests), {}
        for place, request in enumerate(requests):
            groups.setdefault(files.Generation.of(request.args[1]), []).append(place)
        for how, places in groups.items():
            for place, text in zip(places, self.exchange.write_texts([requests[i].args[0] for i in places], how, self)):
                texts[place] = files.until_first(text, requests[place].args[1].get("until"))
                self.cache_hook.add_partial("generate_until", requests[place].args, texts[place])
        return texts


# ---------------------------------------------------------------- benchmarks with shots of their own

def scores_of(found: dict[str, Any], entry: dict[str, Any]) -> dict[str, Any]:
    """Returns a row of the results: the scores of one benchmark in one language, of a task or a group of tasks."""
    task = entry["task"]
    values = found["results"].get(task) or found.get("groups", {}).get(task)
    row = {name: entry[name] for name in ("benchmark", "language", "task", "shots", "metric", "source")}
    for metric in ("acc", "acc_norm"):
        for name in (metric, metric + "_stderr"):
            value = values.get(name + ",none")
            row[name] = float(value) if isinstance(value, (int, float)) else None
    row["n"] = sum(counts["effective"] for counts in found["n-samples"].values())
    return row


def samples_of(found: dict[str, Any], entry: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns each item with its log-likelihoods, so that two models can be compared item by item."""
    return [{"benchmark": entry["benchmark"], "language": entry["language"], "task": task, "item": sample["doc_id"],
             "gold": sample["target"],
             "loglikelihoods": [float(reply[0] if isinstance(reply, (list, tuple)) else reply) for reply in sample["filtered_resps"]],
             "acc": sample.get("acc"), "acc_norm": sample.get("acc_norm")}
            for task, samples in found.get("samples", {}).items() for sample in samples]


def save(path: str, text: str) -> None:
    """Writes a file whole or not at all."""
    try:
        with open(path + ".tmp", "w", encoding="utf-8") as stream:
            stream.write(text)
        os.replace(path + ".tmp", path)
    except OSError as error:
        raise ToolError(f"{path}: {error.strerror}; name a file that can be written", EXIT_IO) from error


def run_benchmarks(lm: Any, path: str, limit: int | None) -> tuple[list[dict], list[dict]]:
    """Returns (scores, items) of the benchmarks listed in `path`; the tasks beside it are known to lm-eval by name."""
    import lm_eval
    from lm_eval.tasks import TaskManager
    try:
        with open(path, encoding="utf-8") as stream:
            entries = [{name: entry[name] for name in ("benchmark", "language", "task", "shots", "metric", "source")}
                       for entry in json.load(stream)["benchmarks"]]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ToolError(f"{path}: {error}; make it with tools/benchmark_tasks.py", EXIT_CONFIG) from error
    manager = TaskManager(include_path=os.path.dirname(os.path.abspath(path)))
    rows, items = [], []
    for entry in entries:
        try:
            found = lm_eval.simple_evaluate(model=lm, tasks=[entry["task"]], num_fewshot=entry["shots"], limit=limit,
                                            task_manager=manager, bootstrap_iters=1000, log_samples=True)
        except ToolError:
            raise
        except Exception as error:  # a data set that is not there, a task that lm-eval does not know
            raise ToolError(f"{entry['task']}: lm-eval cannot run it ({(str(error) or repr(error)).splitlines()[0]}); data sets of the "
                            "hub need the network or its cache, see --data for files of your own") from error
        other = {name: shots for name, shots in found.get("n-shot", {}).items() if shots != entry["shots"]}
        if other:
            raise ToolError(f"{entry['task']}: wanted {entry['shots']} shots, lm-eval made {other}; its task fixes the number: name another "
                            "with --task", EXIT_CONFIG)
        rows.append(scores_of(found, entry))
        items += samples_of(found, entry)
        print(f"neuronmoe: {entry['task']}: {rows[-1]['n']} items, {entry['shots']} shots", file=sys.stderr)
    return rows, items


def benchmarks(mode: str, exchange: Exchange, arguments: list[str]) -> None:
    """Goes through the benchmarks of a file."""
    parser = argparse.ArgumentParser(prog=f"lm_eval_neuronmoe.py {mode} ...")
    parser.add_argument("--benchmarks", required=True, help="benchmarks.json of tools/benchmark_tasks.py")
    parser.add_argument("--model", required=True)
    parser.add_argument("--bos", choices=files.BOS_RULES, default="auto")
    parser.add_argument("--max-length", type=int, default=0)
    parser.add_argument("--limit", type=int, help="first N items of each task; default: all")
    parser.add_argument("--output", help="read: the scores, JSON; items go to OUTPUT.items.jsonl beside it")
    options = parser.parse_args(arguments)
    if mode == "read" and not options.output:
        parser.error("read wants --output")
    lm = NeuronMoE(options.model, bos=options.bos, max_length=options.max_length)
    rows, items = run_benchmarks(lm, options.benchmarks, options.limit)
    if mode == "read":
        import lm_eval
        save(options.output + ".items.jsonl", "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items))
        save(options.output, json.dumps({"format": "neuronmoe-benchmarks", "format_version": 1, "lm_eval": lm_eval.__version__,
                                         "limit": options.limit, **lm.get_model_info()["neuronmoe"], "scores": rows}, indent=1))


# ---------------------------------------------------------------- lm-eval's own command line

def harness(mode: str, arguments: list[str]) -> None:
    """Hands the command line to lm-eval."""
    from lm_eval.__main__ import cli_evaluate
    for name in (word.split("=")[0] for word in arguments):
        if name in ("--model", "-M"):
            raise ToolError(f"{name}: the model is neuronmoe; its directory goes into --model_args model=DIR", EXIT_CONFIG)
        if mode == "write" and name in ("--output_path", "-o", "--log_samples", "-s"):
            raise ToolError(f"{name}: `write` has no scores yet; give it to `read`", EXIT_CONFIG)
    sys.argv = ["lm_eval", "run", "--model", "neuronmoe", *arguments]
    # The table of `write` would hold scores of nothing.
    with contextlib.redirect_stdout(io.StringIO()) if mode == "write" else contextlib.nullcontext():
        cli_evaluate()


def work(arguments: list[str]) -> None:
    """Does what the command line says."""
    if not arguments or arguments[0] in ("--help", "-h"):
        print(__doc__)
        return
    mode, rest = arguments[0], arguments[1:]
    places = {"run": 0, "write": 1, "read": 2}
    if mode not in places:
        raise ToolError(f"'{mode}': expected run, write or read", EXIT_CONFIG)
    paths = rest[:places[mode]]
    if len(paths) < places[mode] or any(path.startswith("-") for path in paths):
        raise ToolError(f"{mode}: expected {' '.join(('REQUESTS.jsonl', 'ANSWERS.jsonl')[:places[mode]])} first", EXIT_CONFIG)
    exchange = Exchange(mode, *paths)
    NeuronMoE.exchange = exchange
    try:
        if "--benchmarks" in rest:
            benchmarks(mode, exchange, rest[places[mode]:])
        else:
            harness(mode, rest[places[mode]:])
        if exchange.writer:
            print(f"neuronmoe: {exchange.writer.close()} requests in {paths[0]}")
    except BaseException:
        if exchange.writer:
            exchange.writer.abandon()
        raise


def main(arguments: list[str]) -> int:
    """Returns the exit code."""
    try:
        work(arguments)
    except ToolError as error:
        print(f"lm_eval_neuronmoe: {error}", file=sys.stderr)
        return error.code
    except Exception as error:  # lm-eval's own
        if os.environ.get("NMOE_TRACEBACK"):
            raise
        text = (str(error) or repr(error)).strip().splitlines()[0]
        print(f"lm_eval_neuronmoe: lm-eval: {text} ({type(error).__name__}; NMOE_TRACEBACK=1 shows where)", file=sys.stderr)
        return EXIT_IO
    return 0


if __name__ == "__main__":
    sys.modules["lm_eval_neuronmoe"] = sys.modules[__name__]  # one class, however it is reached
    sys.exit(main(sys.argv[1:]))
