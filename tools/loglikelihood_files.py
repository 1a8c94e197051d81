# SPDX-License-Identifier: Apache-2.0
"""Request and answer files of `neuronmoe loglikelihood` (docs/evaluation.md), and the rule for the first token of a prompt.
Standard library only; tools/lm_eval_neuronmoe.py puts lm-eval on top."""
import hashlib
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from tool_errors import EXIT_CONFIG, EXIT_IO, ToolError

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BOS_RULES = ("auto", "yes", "no")


class Answer(NamedTuple):
    loglikelihood: float
    is_greedy: bool


def pair_line(context: Sequence[int], continuation: Sequence[int]) -> str:
    """Returns the request for the log-likelihood of `continuation` after `context`."""
    return json.dumps({"context": list(context), "continuation": list(continuation)}, separators=(",", ":"))


def rolling_line(tokens: Sequence[int], prefix: int) -> str:
    """Returns the request for the log-likelihood of a whole text; `prefix` stands before its first token."""
    return json.dumps({"rolling": list(tokens), "prefix": prefix}, separators=(",", ":"))


def key_of(line: str) -> bytes:
    """Returns what a request is looked up by; the lines themselves would take gigabytes for MMLU."""
    return hashlib.sha256(line.encode()).digest()


class RequestWriter:
    """Writes requests, each once, in the order in which they come. The file appears when `close` is called."""

    def __init__(self, path: str) -> None:
        self.path, self.keys = path, set()
        try:
            os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
            self.stream = open(path + ".tmp", "w", encoding="utf-8")
        except OSError as error:
            raise ToolError(f"{path}: {error.strerror}; name a file that can be written", EXIT_IO) from error

    def add(self, line: str) -> None:
        """Writes a request unless it was written before."""
        key = key_of(line)
        if key not in self.keys:
            self.keys.add(key)
            self.stream.write(line + "\n")

    def close(self) -> int:
        """Returns the number of requests."""
        self.stream.close()
        os.replace(self.path + ".tmp", self.path)
        return len(self.keys)

    def abandon(self) -> None:
        """Removes what was written."""
        self.stream.close()
        if os.path.exists(self.path + ".tmp"):
            os.remove(self.path + ".tmp")


def lines_of(path: str, remedy: str) -> Iterator[str]:
    """Yields the lines of a file, with a remedy where it cannot be read."""
    try:
        with open(path, encoding="utf-8") as stream:
            for line in stream:
                yield line.rstrip("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ToolError(f"{path}: {getattr(error, 'strerror', None) or error}; {remedy}") from error


def parse_answer(path: str, number: int, line: str, request: str) -> Answer:
    """Returns the answer in a line, if it is one and scores as many tokens as its request has."""
    try:
        found = json.loads(line)
        value, greedy, tokens = float(found["loglikelihood"]), found["is_greedy"], int(found["tokens"])
        asked = json.loads(request)
        wanted = len(asked["continuation"] if "continuation" in asked else asked["rolling"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise ToolError(f"{path}, line {number}: not an answer of `neuronmoe loglikelihood` ({error}); run it again") from error
    if not math.isfinite(value) or not isinstance(greedy, bool):
        raise ToolError(f"{path}, line {number}: loglikelihood {value}, is_greedy {greedy!r}; run `neuronmoe loglikelihood` again")
    if tokens != wanted:
        raise ToolError(f"{path}, line {number}: {tokens} tokens were scored, the request has {wanted}: these are answers to other "
                        "requests; run `neuronmoe loglikelihood` again")
    return Answer(value, greedy)


def read_answers(requests: str, answers: str) -> dict[bytes, Answer]:
    """Returns {key of the request: its answer}; refuses files that do not belong together."""
    found: dict[bytes, Answer] = {}
    replies = lines_of(answers, f"make it with `neuronmoe loglikelihood --loglikelihood.requests {requests} --output {answers}`")
    asked = 0
    for asked, request in enumerate(lines_of(requests, "write the requests first"), 1):
        reply = next(replies, None)
        if reply is None:
            raise ToolError(f"{answers}: {asked - 1} answers, but {requests} has more requests; run `neuronmoe loglikelihood` again")
        found[key_of(request)] = parse_answer(answers, asked, reply, request)
    if next(replies, None) is not None:
        raise ToolError(f"{answers}: more answers than the {asked} requests of {requests}; run `neuronmoe loglikelihood` again")
    return found


def hash_of(path: str) -> str:
    """Returns the program's hash of a request file: the SHA-256 of the SHA-256s, in hexadecimal, of its 64 MiB blocks."""
    digests = ""
    try:
        with open(path, "rb") as stream:
            while block := stream.read(64 << 20):
                digests += hashlib.sha256(block).hexdigest()
    except OSError as error:
        raise ToolError(f"{path}: {error.strerror}; write the requests first") from error
    return hashlib.sha256(digests.encode()).hexdigest()


def provenance_of(requests: str, answers: str) -> dict[str, Any]:
    """Returns what the program wrote about its answers, in ANSWERS.json; refuses answers to other requests."""
    path = answers + ".json"
    try:
        with open(path, encoding="utf-8") as stream:
            found = dict(json.load(stream))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise ToolError(f"{path}: {getattr(error, 'strerror', None) or error}; the program writes it with the answers: run "
                        "`neuronmoe loglikelihood` again") from error
    if found.get("requests_hash") != hash_of(requests):
        raise ToolError(f"{answers}: these are answers to other requests than {requests} holds; run `neuronmoe loglikelihood` again")
    return found


def program_command(requests: str, answers: str, model: str, checkpoint: str = "", max_length: int = 0,
                    options: Sequence[str] = ()) -> list[str]:
    """Returns `loglikelihood` and its options, without the launcher."""
    return (["loglikelihood", "--model", model] + (["--resume", checkpoint] if checkpoint else [])
            + ["--loglikelihood.requests", requests, "--output", answers]
            + (["--loglikelihood.max_length", str(max_length)] if max_length else []) + list(options))


class Generation(NamedTuple):
    """How `neuronmoe generate` is to write, from what lm-eval asks of a request."""
    max_tokens: int
    temperature: float
    top_p: float

    @classmethod
    def of(cls, settings: dict[str, Any]) -> "Generation":
        """Returns what lm-eval's settings of a request mean here."""
        drawn = bool(settings.get("do_sample", float(settings.get("temperature") or 0) > 0))
        return cls(int(settings.get("max_gen_toks") or 256), float(settings.get("temperature") or 1) if drawn else 0.0,
                   float(settings.get("top_p") or 1) if drawn else 1.0)

    def command(self, prompts: str, output: str, model: str, checkpoint: str = "", options: Sequence[str] = ()) -> list[str]:
        """Returns `generate` and its options, without the launcher."""
        return (["generate", "--model", model] + (["--resume", checkpoint] if checkpoint else [])
                + ["--generate.prompt_file", prompts, "--generate.max_tokens", str(self.max_tokens), "--generate.temperature",
                   str(self.temperature), "--generate.top_p", str(self.top_p), "--output", output] + list(options))


def until_first(text: str, ends: str | Sequence[str] | None) -> str:
    """Returns `text` up to where the first of `ends` begins."""
    found = [at for end in ([ends] if isinstance(ends, str) else ends or ()) if end and (at := text.find(end)) >= 0]
    return text[:min(found)] if found else text


def read_texts(path: str, count: int) -> list[str]:
    """Returns the texts in an output of `neuronmoe generate`."""
    try:
        texts = [json.loads(line)["text"] for line in lines_of(path, "run `neuronmoe generate` again")]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ToolError(f"{path}: not an output of `neuronmoe generate` ({error}); run it again") from error
    if len(texts) != count:
        raise ToolError(f"{path}: {len(texts)} texts, {count} were asked for; run `neuronmoe generate` again")
    return texts


def launch(command: Sequence[str], ranks: int) -> None:
    """Runs the program through launch/run.sh; its output goes to standard error, where it says how far it is."""
    script = os.path.join(ROOT, "launch", "run.sh")
    done = subprocess.run([script, str(ranks), *command], stdin=subprocess.DEVNULL, stdout=sys.stderr, check=False)
    if done.returncode != 0:
        raise ToolError(f"launch/run.sh {ranks} {command[0]} ended with exit code {done.returncode}; its message stands above",
                        done.returncode if 0 < done.returncode < 126 else EXIT_IO)


class Encoder:
    """Texts to ids, with the first token that the rule asks for. `tokenizer` is one of transformers.

    auto  what the tokenizer does by itself, but no second BOS in front of a text that begins with one (lm-eval since 0.4.5)
    yes   its BOS, unless the text begins with it
    no    none (lm-eval 0.4.4, and so the published numbers)
    """

    def __init__(self, tokenizer: Any, bos: str, prefix: int | None = None) -> None:
        if bos not in BOS_RULES:
            raise ToolError(f"bos={bos}: expected {', '.join(BOS_RULES)}", EXIT_CONFIG)
        if bos == "yes" and tokenizer.bos_token_id is None:
            raise ToolError("bos=yes: the tokenizer has no BOS; choose auto or no", EXIT_CONFIG)
        self.tokenizer, self.bos = tokenizer, bos
        candidates = (prefix, tokenizer.bos_token_id, tokenizer.eos_token_id)
        found = next((token for token in candidates if token is not None), None)
        if found is None:
            raise ToolError("the tokenizer has neither BOS nor EOS to begin a text with; give prefix_token_id=ID", EXIT_CONFIG)
        self.prefix = int(found)

    def encode(self, text: str, add_special_tokens: bool | None = None) -> list[int]:
        """Returns the ids of a text, by the rule or as the caller says."""
        if add_special_tokens is not None:
            return list(self.tokenizer.encode(text, add_special_tokens=add_special_tokens))
        if self.bos == "auto":
            begins = text.startswith(self.tokenizer.decode(self.prefix))
            return list(self.tokenizer.encode(text, add_special_tokens=not begins))
        ids = list(self.tokenizer.encode(text, add_special_tokens=False))
        if self.bos == "yes" and ids[:1] != [self.tokenizer.bos_token_id]:
            ids.insert(0, self.tokenizer.bos_token_id)
        return ids

    def describe(self) -> str:
        """Returns one line: the rule, and what it puts in front of a text."""
        with_rule, without = self.encode("a"), self.encode("a", add_special_tokens=False)
        front = with_rule[:len(with_rule) - len(without)] if with_rule != without else []
        words = ", ".join(f"{self.tokenizer.decode(token)} (id {token})" for token in front)
        return f"bos = {self.bos}: {words or 'nothing'} in front of a text"


def max_length_of(model: str) -> int:
    """Returns the longest input in tokens by the model's config.json, where lm-eval looks for it; 0 if it does not say."""
    path = os.path.join(model, "config.json")
    try:
        with open(path, encoding="utf-8") as stream:
            config = json.load(stream)
        config = config.get("text_config") or config
        return next((int(config[name]) for name in ("n_positions", "max_position_embeddings", "n_ctx") if config.get(name)), 0)
    except (OSError, ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ToolError(f"{path}: {getattr(error, 'strerror', None) or error}; model= names a Hugging Face directory",
                        EXIT_CONFIG) from error
