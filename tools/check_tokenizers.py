#!/usr/bin/python3
"""Encodes the reference texts of a data directory with `neuronmoe tokenize` and compares ids with the references.

    tools/check_tokenizers.py NEURONMOE DATA_DIR

DATA_DIR holds llama.cpp's vectors (ggml-vocab-NAME.gguf.inp and .out, ids by Hugging Face AutoTokenizer) and the
vocabularies themselves: phi-2.tokenizer.json (the vocabulary and merges of GPT-2), llama3.tokenizer.model and
qwen.tiktoken (rank files), llama2.tokenizer.model (sentencepiece). None of them is part of this project. Exit code 0
only if every text of every vocabulary gives the reference ids."""
import argparse
import json
import os
import subprocess
import sys
import tempfile

import h5py

from tool_errors import ToolError, exit_code_of, reading

SEPARATOR = "\n__ggml_vocab_test__\n"
GPT2_TOKENS = 50257


def gpt2_from_phi2(source: str, target: str) -> None:
    """Writes GPT-2's tokenizer: phi-2's file is GPT-2's vocabulary and merges, with tokens for runs of blanks added behind: without those."""
    with reading(source), open(source, encoding="utf-8") as stream:
        document = json.load(stream)
        document["added_tokens"] = [t for t in document["added_tokens"] if t["id"] < GPT2_TOKENS]
    with open(target, "w", encoding="utf-8") as stream:
        json.dump(document, stream, ensure_ascii=False)


def read_cases(directory: str, name: str) -> tuple[list[str], list[list[int]]]:
    """Returns the texts of a vocabulary and their reference ids."""
    base = os.path.join(directory, f"ggml-vocab-{name}.gguf")
    with reading(base + ".inp"), open(base + ".inp", encoding="utf-8", newline="") as stream:
        texts = stream.read().split(SEPARATOR)
    with reading(base + ".out"), open(base + ".out", encoding="utf-8") as stream:
        ids = [[int(i) for i in line.split()] for line in stream.read().split("\n")]
    return texts, ids[:len(texts)]


def encode(binary: str, tokenizer: str, texts: list[str], folder: str) -> list[list[int]]:
    """Returns the ids of each text, without the EOS that `tokenize` puts behind a document."""
    source, target = os.path.join(folder, "texts.jsonl"), os.path.join(folder, "tokens.h5")
    with open(source, "w", encoding="utf-8") as stream:
        stream.writelines(json.dumps({"text": text}) + "\n" for text in texts)
    command = [binary, "tokenize", "--tokenize.tokenizer", tokenizer, "--tokenize.input", f"xx:new:{source}", "--output", target]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise ToolError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr.strip()}", done.returncode)
    with h5py.File(target) as stream:
        ids, offset = stream["ids"][...].tolist(), stream["doc/offset"][...].tolist()
    return [ids[offset[d]:offset[d + 1] - 1] for d in range(len(offset) - 1)]


def compare(options: argparse.Namespace) -> int:
    """Prints every vocabulary and the texts that differ; 1 if there are any."""
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        gpt2 = os.path.join(folder, "tokenizer.json")
        gpt2_from_phi2(os.path.join(options.data, "phi-2.tokenizer.json"), gpt2)
        for name, vectors, tokenizer in (("GPT-2", "gpt-2", gpt2), ("Llama-3", "llama-bpe", "llama3.tokenizer.model"),
                                         ("Qwen2", "qwen2", "qwen.tiktoken"), ("Llama-2", "llama-spm", "llama2.tokenizer.model")):
            texts, expected = read_cases(options.data, vectors)
            found = encode(options.neuronmoe, os.path.join(options.data, tokenizer), texts, folder)
            wrong = [i for i in range(len(texts)) if found[i] != expected[i]]
            print(f"{name}: {len(texts) - len(wrong)} of {len(texts)}")
            for i in wrong:
                print(f"  case {i} {texts[i]!r}\n    reference {expected[i]}\n    found     {found[i]}")
            failed += len(wrong)
    return 1 if failed else 0


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("neuronmoe", help="the built program")
    parser.add_argument("data", help="directory with vocabularies and vectors")
    return exit_code_of("check_tokenizers", lambda: compare(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
