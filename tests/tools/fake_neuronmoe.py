#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Stands in for the program in tests/tools/test_pipeline.py: makes each step's output, records its call, can fail,
can be slow, and understands USR1 the way a training does (saves and ends with 85)."""
import hashlib
import json
import os
import signal
import sys
import time


def main():
    if sys.argv[1] == "--version":
        print("neuronmoe 0.0.0-fake")
        return 0
    command, options = sys.argv[1], dict(zip(sys.argv[2::2], sys.argv[3::2]))
    output = options["--output"]
    if command == "loglikelihood":
        return answer(options)
    if command == "generate" and "--config" not in options:  # as the plug-in of lm-eval calls it
        return write_texts(options)
    rank = int(os.environ.get("OMPI_COMM_WORLD_RANK", "0"))
    if not os.path.exists(options["--config"]):
        return 78
    if rank != 0:
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        while command in ("pretrain", "train") and not os.path.exists(os.path.join(output, "complete")):
            time.sleep(0.02)
        return 0
    with open("calls.jsonl", "a", encoding="utf-8") as stream:
        stream.write(json.dumps([command, options]) + "\n")
    if output == os.environ.get("FAKE_FAIL"):
        print("fake: this step was told to fail")
        return 65
    if command in ("pretrain", "train"):
        stop = []
        signal.signal(signal.SIGUSR1, lambda *_: stop.append(1))
        run = os.path.join(output, "checkpoints") if command == "pretrain" else output
        os.makedirs(run, exist_ok=True)
        steps = int(os.environ.get("FAKE_STEPS", "2")) if output == os.environ.get("FAKE_SLOW") else 2
        path = os.path.join(run, "metrics.jsonl")
        done = len(open(path, encoding="utf-8").readlines()) if os.path.exists(path) else 0
        for step in range(done, steps):
            with open(path, "a", encoding="utf-8") as stream:
                stream.write(json.dumps({"step": step + 1, "loss_lm": 1.0}) + "\n")
            print(f"step {step + 1}/{steps}", flush=True)
            time.sleep(0.05)
            if stop:
                return 85
        open(os.path.join(output, "complete"), "w").close()
    else:
        write_output(command, output)
        if "--allocation.add_to" in options:
            with open(output, encoding="utf-8") as stream:
                text = stream.read()
            counts = text.strip().split("=")[1]
            with open(output, "w", encoding="utf-8") as stream:
                stream.write(f"# added to the experts of {options['--allocation.add_to']}: {counts} + (E - 1) of {counts}\n" + text)
    return 0


def write_texts(options):
    """Each prompt backwards, with the options it was written with."""
    how = [options[f"--generate.{name}"] for name in ("max_tokens", "temperature", "top_p")]
    with open(options["--generate.prompt_file"], encoding="utf-8") as stream, open(options["--output"], "w", encoding="utf-8") as out:
        for line in stream:
            out.write(json.dumps({"text": f"{json.loads(line)['prompt'][::-1]} {how}\nmore"}) + "\n")
    return 0


def answer(options):
    """An invented log-likelihood for each request, the same whenever it is asked of the same checkpoint."""
    if int(os.environ.get("OMPI_COMM_WORLD_RANK", "0")) != 0:
        return 0
    if os.environ.get("FAKE_FAIL") == "loglikelihood":
        print("fake: no answers today", file=sys.stderr)
        return 65
    with open(options["--loglikelihood.requests"], encoding="utf-8") as stream, \
            open(options["--output"], "w", encoding="utf-8") as out:
        for line in stream:
            asked = json.loads(line)
            tokens = asked.get("continuation") or asked["rolling"]
            seed = sum(asked.get("context", [])) + 7 * sum(tokens) + len(options.get("--resume", ""))
            out.write(json.dumps({"loglikelihood": -1 - seed % 97 / 10, "is_greedy": seed % 3 == 0, "tokens": len(tokens)}) + "\n")
    with open(options["--output"] + ".json", "w", encoding="utf-8") as stream:
        json.dump({"options": options, "requests_hash": two_hashes(options["--loglikelihood.requests"])}, stream)
    return 0


def two_hashes(path):
    with open(path, "rb") as stream:
        return hashlib.sha256(hashlib.sha256(stream.read()).hexdigest().encode()).hexdigest()


def write_output(command, output):
    if command == "tokenize":
        with open(output, "w", encoding="utf-8") as stream:
            stream.write(command + "\n")
        return
    if command == "generate":
        with open(os.path.join(os.path.dirname(output), "prompts.jsonl"), encoding="utf-8") as stream:
            prompts = [json.loads(line)["prompt"] for line in stream]
        with open(output, "w", encoding="utf-8") as stream:
            stream.writelines(json.dumps({"prompt": prompt, "text": prompt + "!", "ids": [1], "ended": True}) + "\n" for prompt in prompts)
        return
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    import synthetic  # here: the other steps start faster without h5py
    if command == "analyze":
        synthetic.write_neurons(output)
    elif command == "specialize":
        synthetic.write_expert_neurons(output)
    elif command == "allocate":
        synthetic.write_experts(output, (3,) * 8 if "uniform" in output else synthetic.EXPERTS)
    elif command == "evaluate":
        synthetic.write_eval(output, output.rsplit("-", 1)[1].removesuffix(".json").replace("before", "stage2"))


if __name__ == "__main__":
    sys.exit(main())
