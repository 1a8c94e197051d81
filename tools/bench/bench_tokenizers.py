#!/usr/bin/env python3
"""Encoding rate of one thread beside Hugging Face tokenizers and tiktoken: the same texts and ranks, interleaved rounds,
medians of CPU seconds. Needs the packages tokenizers and tiktoken.

    bench_tokenizers.py BENCH_TOKENIZERS RANK_FILE TEXT.txt [TEXT.txt ...] [--rounds 11]

RANK_FILE is Llama 3's tokenizer.model; its merges are derived for Hugging Face as transformers does. Every text is
encoded line by line. The token counts of all three must agree."""
import argparse
import base64
import os
import statistics
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from tool_errors import exit_code_of, need_packages  # noqa: E402

need_packages("bench_tokenizers", "tiktoken", "tokenizers")

import tiktoken  # noqa: E402
import tokenizers  # noqa: E402
from tokenizers import Tokenizer, models, pre_tokenizers  # noqa: E402

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
          r"\s+(?!\S)|\s+")


def read_ranks(path):
    ranks = {}
    with open(path, "rb") as stream:
        for line in stream.read().splitlines():
            token, rank = line.split()
            ranks[base64.b64decode(token)] = int(rank)
    return ranks


def spelling():
    own = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in own]
    table = {**{b: chr(b) for b in own}, **{b: chr(256 + i) for i, b in enumerate(others)}}
    return lambda token: "".join(table[b] for b in token)


def hugging_face(ranks):
    spell = spelling()
    merges = []
    for token, rank in ranks.items():
        local = [(token[:cut], token[cut:]) for cut in range(1, len(token)) if token[:cut] in ranks and token[cut:] in ranks]
        local.sort(key=lambda pair: (ranks[pair[0]], ranks[pair[1]]))
        merges.extend((left, right, rank) for left, right in local)
    merges.sort(key=lambda merge: merge[2])
    tokenizer = Tokenizer(models.BPE(vocab={spell(t): r for t, r in ranks.items()}, ignore_merges=True,
                                     merges=[(spell(left), spell(right)) for left, right, _ in merges]))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(tokenizers.Regex(LLAMA3), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    return tokenizer


def timed(encode, lines):
    begin = time.thread_time()
    count = sum(len(encode(line)) for line in lines)
    return time.thread_time() - begin, count


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bench", help="the built bench_tokenizers")
    parser.add_argument("ranks", help="Llama 3's tokenizer.model")
    parser.add_argument("texts", nargs="+")
    parser.add_argument("--rounds", type=int, default=11)
    options = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    ranks = read_ranks(options.ranks)
    peer = hugging_face(ranks)
    tik = tiktoken.Encoding("llama3", pat_str=LLAMA3, mergeable_ranks=ranks, special_tokens={})
    print(f"tokenizers {tokenizers.__version__}, tiktoken {tiktoken.__version__}; {options.rounds} rounds, one thread, CPU seconds")
    for text in options.texts:
        with open(text, encoding="utf-8") as stream:
            lines = stream.read().splitlines()
        megabytes = sum(len(line.encode()) for line in lines) / 1e6
        ours = subprocess.Popen([options.bench, options.ranks, text], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        ours.stdout.readline()
        seconds = {"neuronmoe": [], "tokenizers": [], "tiktoken": []}
        for _ in range(options.rounds + 1):
            ours.stdin.write("\n")
            ours.stdin.flush()
            answer = ours.stdout.readline().split()
            rounds = {"neuronmoe": (float(answer[0]), int(answer[1])),
                      "tokenizers": timed(lambda line: peer.encode(line, add_special_tokens=False).ids, lines),
                      "tiktoken": timed(tik.encode_ordinary, lines)}
            counts = {count for _, count in rounds.values()}
            if len(counts) != 1:
                sys.exit(f"{text}: token counts differ: { {name: count for name, (_, count) in rounds.items()} }")
            for name, (spent, _) in rounds.items():
                seconds[name].append(spent)
        ours.stdin.close()
        ours.wait()
        for name, spent in seconds.items():
            kept = spent[1:]
            print(f"{os.path.basename(text)} {megabytes:.2f} MB  {name:10s} {megabytes / statistics.median(kept):6.1f} MB/s "
                  f"(min {megabytes / max(kept):.1f}, max {megabytes / min(kept):.1f}; first round, caches empty "
                  f"{megabytes / spent[0]:.1f})")


if __name__ == "__main__":
    sys.exit(exit_code_of("bench_tokenizers", main))
