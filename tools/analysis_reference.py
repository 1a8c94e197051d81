#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""An independent AP table: the Llama forward in plain numpy (float64), scikit-learn's average_precision_score.

    tools/analysis_reference.py MODEL_DIR TOKENIZER SENSE_DIR --languages en,el [--neurons neurons.h5] [--json out.json]
    tools/analysis_reference.py --make-tokenizer tok512.bin tokenizer.model

Needs numpy, safetensors, scikit-learn, h5py, and sentencepiece or transformers: TOKENIZER is a sentencepiece model, whose
BOS, if it has one, is put before a sentence, or a Hugging Face directory, whose AutoTokenizer encodes. With --neurons it
compares the table with what `neuronmoe analyze` wrote from the same files (analysis.sentences at least as large as the
files, same max_tokens). If MODEL_DIR has a golden.json with prompt_ids and logits, the forward is checked against it
first. --make-tokenizer turns a vocabulary of llama2.c into a sentencepiece model, which both programs read. Dense Llama
without rope scaling or bias.
"""
import argparse
import json
import os
import struct
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from tool_errors import exit_code_of, need_packages


def make_tokenizer(source: str, target: str) -> None:
    """Writes the protobuf by hand: pieces (1), trainer_spec (2) and normalizer_spec (3) of sentencepiece's ModelProto."""
    def number(value: int) -> bytes:
        out = b""
        while value > 127:
            out, value = out + bytes([value % 128 + 128]), value // 128
        return out + bytes([value])

    def integer(field: int, value: int) -> bytes:
        return number(field * 8) + number(value)

    def text(field: int, value: bytes) -> bytes:
        return number(field * 8 + 2) + number(len(value)) + value

    with open(source, "rb") as stream:
        data = stream.read()
    at, pieces = 4, []
    while at < len(data):
        score, size = struct.unpack_from("fi", data, at)
        piece, at = data[at + 8:at + 8 + size], at + 8 + size
        kind = 1
        if len(pieces) < 3:  # control pieces; the next 256 are bytes
            piece, kind = (b"<unk>", b"<s>", b"</s>")[len(pieces)], (2, 3, 3)[len(pieces)]
        elif len(pieces) < 259:
            kind = 6
        else:
            piece = piece.replace(b" ", "\u2581".encode())
        pieces.append(text(1, piece) + number(2 * 8 + 5) + struct.pack("f", score) + integer(3, kind))
    trainer = integer(3, 2) + integer(4, len(pieces)) + integer(35, 1)  # BPE, vocabulary, byte fallback
    normalizer = text(1, b"identity") + integer(3, 1) + integer(4, 0) + integer(5, 1)
    with open(target, "wb") as stream:
        stream.write(b"".join(text(1, piece) for piece in pieces) + text(2, trainer) + text(3, normalizer))


class Llama:
    def __init__(self, folder: str) -> None:
        from safetensors.numpy import load_file
        with open(os.path.join(folder, "config.json"), encoding="utf-8") as stream:
            self.c = json.load(stream)
        self.w = {name: value.astype(np.float64)
                  for name, value in load_file(os.path.join(folder, "model.safetensors")).items()}
        self.head = self.c.get("head_dim") or self.c["hidden_size"] // self.c["num_attention_heads"]

    def norm(self, x: np.ndarray, name: str) -> np.ndarray:
        """Returns x [T, hidden] after the RMSNorm of that name."""
        return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + self.c["rms_norm_eps"]) * self.w[name + ".weight"]

    def rotate(self, x: np.ndarray) -> np.ndarray:
        """Returns x [T, heads, head] after the rotary embedding: the halves of a head are the two coordinates."""
        half = self.head // 2
        angle = np.outer(np.arange(len(x)), self.c["rope_theta"] ** (-np.arange(half) / half))[:, None, :]
        a, b = x[..., :half], x[..., half:]
        return np.concatenate([a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle)], axis=-1)

    def forward(self, ids: list[int]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Returns (logits [T, V], {module: output [T, width]})."""
        seen, c = {}, self.c
        heads, kv = c["num_attention_heads"], c["num_key_value_heads"]

        def linear(x: np.ndarray, name: str) -> np.ndarray:
            seen[name] = x @ self.w[name + ".weight"].T
            return seen[name]

        x = self.w["model.embed_tokens.weight"][ids]
        count = len(ids)
        future = np.triu(np.full((count, count), -np.inf), 1)
        for i in range(c["num_hidden_layers"]):
            p = f"model.layers.{i}."
            h = self.norm(x, p + "input_layernorm")
            q, k, v = (linear(h, f"{p}self_attn.{n}_proj").reshape(count, -1, self.head) for n in "qkv")
            q, k = self.rotate(q), np.repeat(self.rotate(k), heads // kv, axis=1)
            score = np.einsum("thd,shd->hts", q, k) / np.sqrt(self.head) + future
            score = np.exp(score - score.max(axis=-1, keepdims=True))
            mixed = np.einsum("hts,shd->thd", score / score.sum(axis=-1, keepdims=True), np.repeat(v, heads // kv, axis=1))
            x = x + linear(mixed.reshape(count, -1), p + "self_attn.o_proj")
            h = self.norm(x, p + "post_attention_layernorm")
            gate, up = linear(h, p + "mlp.gate_proj"), linear(h, p + "mlp.up_proj")
            x = x + linear(gate / (1 + np.exp(-gate)) * up, p + "mlp.down_proj")
        out = self.w.get("lm_head.weight", self.w["model.embed_tokens.weight"])
        return self.norm(x, "model.norm") @ out.T, seen

    def check(self, golden: dict[str, Any]) -> None:
        """Compares the logits of a prompt with those of golden.json."""
        logits, _ = self.forward(golden["prompt_ids"])
        worst = np.abs(logits[-1][:8] - golden["logits_pos19_first8"]).max()
        print(f"forward against golden.json: largest difference of logits {worst:.1e}")
        assert worst < 1e-9


def encoder(path: str) -> tuple[Callable[[str], list[int]], list[int]]:
    """Returns (ids of a sentence, ids of what stands before every sentence)."""
    if os.path.isdir(path):
        from transformers import AutoTokenizer
        tokenizer = AutoTokenizer.from_pretrained(path)
        return tokenizer.encode, tokenizer.encode("")
    import sentencepiece
    tokenizer = sentencepiece.SentencePieceProcessor(model_file=path)
    before = [tokenizer.bos_id()] if tokenizer.bos_id() >= 0 else []
    return lambda sentence: before + tokenizer.encode(sentence), before


def table(options: argparse.Namespace) -> tuple[Any, ...]:
    """Returns (languages, AP [language, unit], counts, responses [unit, sentence], labels)."""
    from sklearn.metrics import average_precision_score
    model = Llama(options.model)
    golden = os.path.join(options.model, "golden.json")
    if os.path.exists(golden):
        with open(golden, encoding="utf-8") as stream:
            model.check(json.load(stream))
    encode, before = encoder(options.tokenizer)
    print("before every sentence:", before)
    languages, rows, labels, counts = options.languages.split(","), [], [], {}
    for label, language in enumerate(languages):
        with open(os.path.join(options.sense, language + ".json"), encoding="utf-8") as stream:
            sentences = json.load(stream)["sentences"]["positive"]
        kept = [ids for ids in map(encode, sentences) if len(before) < len(ids) <= options.max_tokens]
        counts[language] = {"sentences": len(kept), "dropped": len(sentences) - len(kept), "tokens": sum(map(len, kept))}
        for ids in kept:
            seen = model.forward(ids)[1]
            names = sorted(seen)
            rows.append(np.concatenate([seen[name].mean(axis=0) for name in names]))
            labels.append(label)
    responses, labels = np.stack(rows, axis=1), np.array(labels)
    units = [f"{name}:0/{unit}" for name in names for unit in range(seen[name].shape[1])]
    ap = np.array([[average_precision_score(labels == g, row) for row in responses] for g in range(len(languages))])
    for g, language in enumerate(languages):
        best = np.lexsort((np.arange(len(units)), -ap[g]))[:10]
        counts[language].update({"above_half": int((ap[g] > 0.5).sum()), "mean_ap": round(float(ap[g].mean()), 6),
                                 "best": {units[n]: round(float(ap[g][n]), 6) for n in best}})
    return languages, ap, counts, responses, labels


def reachable(row: np.ndarray, positive: np.ndarray, error: float) -> tuple[float, float]:
    """Returns bounds of the AP of a neuron whose responses are known to +- error only. Positives that may tie count as tied for the
    upper one: equal responses enter together, with the precision after the last of them."""
    from sklearn.metrics import average_precision_score
    low = average_precision_score(positive, row + np.where(positive, -error, error))
    order = np.argsort(row[positive])
    values = row[positive][order]
    last = np.append(np.diff(values) > 2 * error, True)  # of a chain of neighbors
    tied = np.empty_like(values)
    tied[order] = values[last][np.append(0, np.cumsum(last)[:-1])]
    high = row - error
    high[positive] = tied + error
    return low, average_precision_score(positive, high)


def explained(ap: float, row: np.ndarray, positive: np.ndarray, error: float) -> bool:
    """Returns whether responses off by `error` of the largest, as a float32 forward has them, can give this AP."""
    low, high = reachable(row, positive, error * np.abs(row).max())
    return low - 1e-12 <= ap <= high + 1e-12


def compare(path: str, languages: list[str], ap: np.ndarray, counts: dict[str, Any], responses: np.ndarray,
            labels: np.ndarray) -> dict[str, Any]:
    """Returns how far the AP of neurons.h5 are from the table, after printing it."""
    import h5py
    with h5py.File(path) as file:
        assert [x.decode() for x in file["language"][...]] == languages, "other languages"
        mine = file["ap"][...]
        assert mine.shape == ap.shape, (mine.shape, ap.shape)
        assert list(file["n_pos"][...]) == [counts[x]["sentences"] for x in languages], "other sentences"
        assert list(file["n_tokens"][...]) == [counts[x]["tokens"] for x in languages], "other tokens"
    apart = np.abs(mine - ap)
    error, others = 1e-7, np.argwhere(apart > 1e-12)
    while len(others):  # those that no error of this size can explain
        others = [(g, n) for g, n in others if not explained(mine[g, n], responses[n], labels == g, error)]
        error *= 1 if not others else 2
    found = {"values": int(ap.size), "equal_to_1e-12": int((apart <= 1e-12).sum()), "largest_difference": float(apart.max()),
             "above_1e-4": int((apart > 1e-4).sum()), "explained_by_responses_within": error}
    print("AP of analyze (float32 forward) against the table:", found)
    return found


def main() -> None:
    """Does what the command line says."""
    need_packages("analysis_reference", "sklearn", "safetensors", "h5py")
    if sys.argv[1:2] == ["--make-tokenizer"]:
        make_tokenizer(*sys.argv[2:4])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("tokenizer")
    parser.add_argument("sense")
    parser.add_argument("--languages", required=True)
    parser.add_argument("--max-tokens", type=int, default=256)
    parser.add_argument("--neurons")
    parser.add_argument("--json")
    show(parser.parse_args())


def show(options: argparse.Namespace) -> None:
    """Makes the table, compares it and prints what was found."""
    languages, ap, counts, responses, labels = table(options)
    result = {"languages": counts, "max_tokens": options.max_tokens}
    if options.neurons:
        result["analyze"] = compare(options.neurons, languages, ap, counts, responses, labels)
    if options.json:
        with open(options.json, "w", encoding="utf-8") as stream:
            json.dump(result, stream, indent=1, ensure_ascii=False)
            stream.write("\n")
    for language, row in counts.items():
        print(language, {k: v for k, v in row.items() if k != "best"}, *list(row["best"].items())[:1])


if __name__ == "__main__":
    sys.exit(exit_code_of("analysis_reference", main))
