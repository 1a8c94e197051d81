#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A step of training on one GPU, kernel by kernel, as a model: useful FLOPs, bytes, launches and milliseconds of each group
of kernels, from the shapes of the model and the rates of a machine. Nothing in it is measured; --measured sets the times of a
profiled step beside it.

  performance_model.py [--model configs/models/llama3.2-3b.json] [--experts configs/experts/llama3.2-3b-el.cfg]
      [--rates configs/machines/h200-rates.ini] [--stage 1] [--sequences 32] [--length 1024] [--measured kernels.csv]
      [--plan NEURONMOE]

kernels.csv: `ncu --csv --metrics gpu__time_duration.sum` of one step (tools/gpu_session.sh kernels). --plan compares the FLOPs
with those of `neuronmoe plan`, which counts them without this list, and fails if they differ.
"""
import argparse
import configparser
import csv
import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tool_errors import ToolError, exit_code_of, reading

ROOT = Path(__file__).resolve().parent.parent
BF16, F32 = 2, 4
ADAMW_BYTES = 30  # of a parameter: gradient, master and two moments read, the last three and the weight written


def head_chunk() -> int:
    """Returns the rows of logits that are there at once."""
    header = ROOT / "include/neuronmoe/model/lm_head.hpp"
    return int(re.search(r"lm_head_chunk = (\d+)", header.read_text()).group(1))


@dataclass
class Group:
    """Kernels that belong together. Products of cuBLASLt have no pattern: their names do not say whose they are."""

    name: str
    pattern: str = ""
    flops: float = 0.0
    bytes: float = 0.0
    launches: int = 0
    seconds: float = 0.0


class Shapes:
    """Sizes of a step: tokens, rows of experts with balanced routing, and which layers have a backward pass."""

    def __init__(self, model: dict[str, Any], experts: list[int], sequences: int, length: int, stage: int, top_k: int = 2) -> None:
        self.hidden, self.width, self.vocab = model["hidden_size"], model["intermediate_size"], model["vocab_size"]
        self.heads, self.kv_heads = model["num_attention_heads"], model["num_key_value_heads"]
        self.head = model.get("head_dim") or self.hidden // self.heads
        self.experts, self.layers, self.stage = experts, len(experts), stage
        self.tokens, self.length, self.top_k = sequences * length, length, top_k
        self.moe = [layer for layer, count in enumerate(experts) if count > 1]
        self.lowest = self.moe[0]  # below and in its attention nothing flows back: all of it is frozen
        self.through = self.layers - 1 - self.lowest  # layers with a whole backward pass

    def slots(self, layer: int) -> int:
        """Returns the (token, expert) pairs of a layer."""
        return self.tokens * min(self.top_k, self.experts[layer])

    def new_rows(self, layer: int) -> float:
        """Returns the rows of all experts but the base."""
        return self.slots(layer) * (self.experts[layer] - 1) / self.experts[layer]

    def passes_back(self, layer: int) -> bool:
        """Returns whether gradients flow through the whole layer."""
        return layer > self.lowest


class Model:
    """Collects groups. Every product reads its two operands and writes its result once, every other kernel reads and writes
    each array once."""

    def __init__(self, shapes: Shapes, rates: dict[str, float]) -> None:
        self.s, self.r = shapes, rates
        self.groups = []

    def group(self, name: str, pattern: str = '') -> Group:
        """Adds a group."""
        self.groups.append(Group(name, pattern))
        return self.groups[-1]

    def product(self, group: Group, rows: float, inner: float, columns: float, rate: str, times: float = 1, result: int = BF16,
                added: bool = False) -> None:
        """Adds `times` products [rows, inner] x [inner, columns] in bfloat16."""
        flops = 2.0 * rows * inner * columns
        group.flops += times * flops
        group.bytes += times * (BF16 * inner * (rows + columns) + result * rows * columns * (2 if added else 1))
        group.launches += round(times)
        group.seconds += times * flops / (self.r[rate] * 1e12)

    def stream(self, group: Group, moved: float, launches: int, share: str = 'streaming') -> None:
        """Adds kernels that only move bytes."""
        group.bytes += moved
        group.launches += launches
        group.seconds += moved / (self.r["memory"] * 1e9 * self.r[share])

    def dense_products(self) -> None:
        """Adds the MLPs without experts."""
        s, g = self.s, self.group("dense MLP products")
        for layer in range(s.layers):
            if s.experts[layer] > 1:
                continue
            self.product(g, s.tokens, s.hidden, s.width, "product", 3)
            if s.passes_back(layer):
                self.product(g, s.tokens, s.width, s.hidden, "product", 2)
                self.product(g, s.tokens, s.width, s.hidden, "product", added=True)

    def expert_products(self) -> None:
        """Adds the MLPs of experts."""
        s = self.s
        g, weights = self.group("expert products, forward and input gradients"), Group("expert weight gradients")
        for layer in s.moe:
            count, rows = s.experts[layer], s.slots(layer) / s.experts[layer]
            self.product(g, rows, s.hidden, s.width, "product", 3 * count)
            if s.passes_back(layer):
                self.product(g, rows, s.width, s.hidden, "product", 2 * count)
                self.product(g, rows, s.width, s.hidden, "product", count, added=True)
            elif s.stage == 1:  # only to the hidden values of those that train
                self.product(g, rows, s.width, s.hidden, "product", count - 1)
            if s.stage == 1:
                self.product(weights, s.hidden, rows, s.width, "product_weight_gradient", 3 * (count - 1), F32, added=True)
        self.groups.append(weights)

    def projections(self) -> None:
        """Adds q, k, v and o."""
        s, g = self.s, self.group("attention projections")
        queries, keys = s.heads * s.head, s.kv_heads * s.head
        self.product(g, s.tokens, s.hidden, queries, "product", s.layers)
        self.product(g, s.tokens, s.hidden, keys, "product_narrow", 2 * s.layers)
        self.product(g, s.tokens, queries, s.hidden, "product", s.layers)
        self.product(g, s.tokens, queries, s.hidden, "product", 2 * s.through)
        self.product(g, s.tokens, keys, s.hidden, "product_narrow_added", 2 * s.through, added=True)

    def head_products(self) -> None:
        """Adds the product with the vocabulary."""
        s, g = self.s, self.group("lm-head products")
        rows = head_chunk()
        self.product(g, rows, s.hidden, s.vocab, "product_head", s.tokens / rows)
        self.product(g, rows, s.vocab, s.hidden, "product_head_backward", s.tokens / rows)

    def attention(self) -> None:
        """Adds attention itself."""
        s, g = self.s, self.group("attention", r"attention_(forward|dq|dk_dv)_kernel|delta_kernel")
        pair = s.tokens * s.length * s.heads * s.head  # FLOPs of one product over the causal half
        wide, narrow = BF16 * s.tokens * s.heads * s.head, BF16 * s.tokens * s.kv_heads * s.head
        g.flops = 2.0 * pair * s.layers + 4.0 * pair * s.through
        g.bytes = (2 * wide + 2 * narrow) * s.layers + (5 * wide + 6 * narrow) * s.through
        g.launches = s.layers + 2 * s.through
        g.seconds = (2.0 * pair * s.layers / self.r["attention_forward"] + 5.0 * pair * s.through / self.r["attention_backward"]) / 1e12
        self.stream(g, 2 * wide * s.through, s.through)  # the sums of d_o · o

    def pointwise(self) -> None:
        """Adds SwiGLU."""
        s, g = self.s, self.group("SwiGLU", r"for_each_kernel.*[Ss]wiglu")
        rows = sum(s.slots(layer) for layer in range(s.layers))
        back = sum(s.slots(layer) for layer in range(s.layers) if s.passes_back(layer))
        new = sum(s.new_rows(layer) for layer in s.moe) if s.stage == 1 else 0
        lowest = s.new_rows(s.lowest) if s.stage == 1 else 0
        row, per_expert = BF16 * s.width, s.layers - len(s.moe) + sum(s.experts[layer] for layer in s.moe)
        trained = sum(s.experts[layer] - 1 for layer in s.moe) if s.stage == 1 else 0
        backward = sum(s.experts[layer] for layer in range(s.layers) if s.passes_back(layer))
        self.stream(g, 3 * row * rows, per_expert)
        self.stream(g, 5 * row * (back + lowest), backward + (s.experts[s.lowest] - 1 if s.stage == 1 else 0))
        self.stream(g, 3 * row * new, trained)  # the hidden values again, for the last weight's gradient

    def norms(self) -> None:
        """Adds the norms."""
        s, g = self.s, self.group("norms", r"rms_norm_(forward|backward)_kernel")
        row = BF16 * s.hidden * s.tokens
        self.stream(g, 2 * row + 4 * row * 2 * s.layers, 2 * s.layers + 1, "norm")  # all but the first add the residual
        self.stream(g, 2 * row * len(s.moe), len(s.moe), "norm")  # what routers and experts saw, again
        self.stream(g, 3 * row + 4 * row * 2 * s.through, 2 * s.through + 1, "norm")

    def parameters(self) -> None:
        """Adds gradients and AdamW."""
        s = self.s
        count = sum(s.experts[layer] * s.hidden for layer in s.moe)
        if s.stage == 1:
            count += sum((s.experts[layer] - 1) * 3 * s.hidden * s.width for layer in s.moe)
        tensors = len(s.moe) + (sum((s.experts[layer] - 1) * 3 for layer in s.moe) if s.stage == 1 else 0)
        g = self.group("gradients and AdamW", r"adamw|sum_of_squares_kernel|[Ff]ill")
        self.stream(g, F32 * count, tensors)  # zeros
        self.stream(g, 2 * F32 * count, tensors)  # into the sum
        self.stream(g, F32 * count, tensors)  # norm
        self.stream(g, ADAMW_BYTES * count, tensors)

    def router(self) -> None:
        """Adds routers and their losses."""
        s, g = self.s, self.group("router", r"route_(forward|backward)_kernel|balancing|expert_(sums|totals)_kernel|[Cc]ast|first_rows_kernel")
        values, flops = s.tokens * s.hidden, 2.0 * s.tokens * s.hidden
        back = [layer for layer in s.moe if s.passes_back(layer)]
        g.flops = flops * (2 * sum(s.experts[layer] for layer in s.moe) + sum(s.experts[layer] for layer in back))
        self.stream(g, 2 * len(s.moe) * (BF16 + F32) * values, 2 * len(s.moe))  # widened, twice
        self.stream(g, len(s.moe) * 2 * F32 * values, 2 * len(s.moe), "router_product")
        self.stream(g, len(back) * F32 * values, len(back), "router_product")
        self.stream(g, len(back) * (F32 + 2 * BF16) * values, len(back))
        g.launches += 5 * len(s.moe)  # the router's weight widened twice, choice, its gradient, the balancing loss: of no size

    def moving(self) -> None:
        """Adds what moves rows to experts and back."""
        s = self.s
        row = BF16 * s.hidden
        g = self.group("gather and combine", r"gather_kernel|combine_(forward|backward)_kernel|(count|place)_slots_kernel")
        for layer in s.moe:
            slots = s.slots(layer)
            self.stream(g, row * (2 * slots + slots + s.tokens), 2)
            self.stream(g, row * (s.tokens + 2 * slots), 1)
            if s.stage == 1:
                self.stream(g, 2 * row * s.new_rows(layer), 1)
            if s.passes_back(layer):
                self.stream(g, row * (slots + s.tokens), 1)
        g = self.group("cross-entropy", r"cross_entropy_kernel")
        self.stream(g, 3 * BF16 * s.vocab * s.tokens, s.tokens // head_chunk())  # read twice, written once
        g = self.group("rope", r"rope_kernel")
        per_layer = 2 * BF16 * s.tokens * (s.heads + s.kv_heads) * s.head
        self.stream(g, per_layer * (s.layers + s.through), 2 * (s.layers + s.through))

    def build(self) -> list[Group]:
        """Returns all groups."""
        self.dense_products()
        self.expert_products()
        self.projections()
        self.head_products()
        self.attention()
        self.pointwise()
        self.norms()
        self.parameters()
        self.router()
        self.moving()
        self.group("waits for the host").seconds = self.r["host_waits_ms"] * 1e-3
        return self.groups


def load_rates(path: str) -> dict[str, float]:
    """Returns the numbers of the section [rates]."""
    parser = configparser.ConfigParser(interpolation=None)
    with reading(path), open(path, encoding="utf-8") as stream:
        parser.read_file(stream)
        rates = {key: float(value) for key, value in parser["rates"].items()}
        if not all(0 < value < 1e12 for value in rates.values()):
            raise ToolError(f"{path}: rates have to be above 0")
        return rates


def load_experts(path: str, layers: int) -> list[int]:
    """Returns the experts of each layer."""
    with reading(path):
        found = re.search(r"^ADA_MOE_NUM_EXPERTS_LIST=([\d,]+)", Path(path).read_text(encoding="utf-8"), re.M)
        counts = [int(n) for n in found.group(1).split(",")] if found else []
    if len(counts) != layers or max(counts, default=1) < 2 or min(counts) < 1:
        raise ToolError(f"{path}: {len(counts)} expert counts for {layers} layers, one of them 2 or more")
    return counts


def read_measured(path: str) -> dict[str, float]:
    """Returns milliseconds by kernel name from the CSV of ncu, whose lines before the heading are skipped."""
    with reading(path):
        return times_of(path, Path(path).read_text(errors="replace").splitlines())


def times_of(path: str, lines: list[str]) -> dict[str, float]:
    """Adds up what the lines of a CSV of ncu say."""
    start = next((i for i, line in enumerate(lines) if '"Kernel Name"' in line), None)
    if start is None:
        raise ToolError(f'{path}: no line with "Kernel Name", is it a CSV of ncu?')
    units = {"nsecond": 1e-6, "ns": 1e-6, "usecond": 1e-3, "us": 1e-3, "msecond": 1.0, "ms": 1.0, "second": 1e3, "s": 1e3}
    times = {}
    for row in csv.DictReader(lines[start:]):
        if row.get("Metric Name") != "gpu__time_duration.sum" or not row.get("Metric Value"):
            continue
        value = float(row["Metric Value"].replace(",", "")) * units[row["Metric Unit"]]
        times[row["Kernel Name"]] = times.get(row["Kernel Name"], 0.0) + value
    if not times:
        raise ToolError(f"{path}: no gpu__time_duration.sum in it")
    return times


def split_measured(groups: list[Group], times: dict[str, float]) -> tuple[dict[str, float], float, float]:
    """Returns the measured ms of each group with a pattern, of all products together, and of the rest."""
    measured, products, rest = {}, 0.0, 0.0
    for name, ms in times.items():
        owner = next((g.name for g in groups if g.pattern and re.search(g.pattern, name)), None)
        if owner:
            measured[owner] = measured.get(owner, 0.0) + ms
        elif re.search(r"gemm|cutlass|nvjet|xmma|splitK", name, re.I):
            products += ms
        else:
            rest += ms
    return measured, products, rest


def table(groups: list[Group], rates: dict[str, float], times: dict[str, float] | None = None) -> str:
    """Returns the lines that are printed."""
    total = sum(g.seconds for g in groups)
    measured, products, rest = split_measured(groups, times) if times else ({}, 0.0, 0.0)
    lines = [f"{'group':<46} {'TFLOP':>7} {'GB':>7} {'launches':>8} {'model ms':>9} {'%':>5}" + (f" {'measured ms':>11}" if times else "")]
    for g in groups:
        line = f"{g.name:<46} {g.flops / 1e12:7.1f} {g.bytes / 1e9:7.1f} {g.launches:8} {g.seconds * 1e3:9.1f} {100 * g.seconds / total:5.1f}"
        lines.append(line + (f" {measured[g.name]:11.1f}" if g.name in measured else ""))
    flops = sum(g.flops for g in groups)
    line = (f"{'sum':<46} {flops / 1e12:7.1f} {sum(g.bytes for g in groups) / 1e9:7.1f} {sum(g.launches for g in groups):8}"
            f" {total * 1e3:9.1f} {100:5.1f}")
    lines.append(line + (f" {sum(times.values()):11.1f}" if times else ""))
    if times:
        modelled = 1e3 * sum(g.seconds for g in groups if not g.pattern and g.flops)
        lines.append(f"of which all products of cuBLASLt, whose names do not tell them apart: model {modelled:.1f}, measured {products:.1f} ms;"
                     f" kernels of no group: measured {rest:.1f} ms")
    lines.append(f"modelled, not measured: {flops / total / 1e12:.0f} useful TFLOP/s, {100 * flops / total / 1e12 / rates['ceiling']:.1f} % of"
                 f" {rates['ceiling']:.0f}")
    return "\n".join(lines)


def compare_with_plan(program: str, options: argparse.Namespace, flops: float) -> bool:
    """Returns whether `neuronmoe plan` counts the same FLOPs."""
    tokens = options.sequences * options.length
    text = subprocess.run(
        [program, "plan", "--run.model", options.model, "--run.experts", options.experts, "--train.stage", str(options.stage),
         "--train.seq_length", str(options.length), "--train.micro_batch_size", str(options.sequences),
         "--train.global_batch_size", str(options.sequences), "--plan.format", "csv"], check=True, capture_output=True,
        text=True).stdout
    planned = next(float(row["value"]) for row in csv.DictReader(text.splitlines()) if row["quantity"] == "forward and backward")
    own = flops / tokens / 1e9
    print(f"GFLOP per token: {own:.4f} here, {planned:.4f} by neuronmoe plan")
    return abs(own - planned) <= 1e-4 * planned + 5e-5


def load_model(path: str) -> dict[str, Any]:
    """Returns a config.json whose sizes are numbers."""
    with reading(path):
        model = json.loads(Path(path).read_text(encoding="utf-8"))
        for name in ("hidden_size", "intermediate_size", "vocab_size", "num_attention_heads", "num_key_value_heads", "num_hidden_layers"):
            if not isinstance(model[name], int) or not 0 < model[name] < 1 << 31:
                raise ToolError(f"{path}: {name} is {model[name]!r}")
        return model


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(ROOT / "configs/models/llama3.2-3b.json"))
    parser.add_argument("--experts", default=str(ROOT / "configs/experts/llama3.2-3b-el.cfg"))
    parser.add_argument("--rates", default=str(ROOT / "configs/machines/h200-rates.ini"))
    parser.add_argument("--stage", type=int, choices=[1, 2], default=1)
    parser.add_argument("--sequences", type=int, default=32)
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--measured")
    parser.add_argument("--plan", metavar="NEURONMOE")
    return exit_code_of("performance_model", lambda: show(parser.parse_args()))


def show(options: argparse.Namespace) -> int:
    """Prints the table; 1 if the plan of the program differs from it."""
    model = load_model(options.model)
    shapes = Shapes(model, load_experts(options.experts, model["num_hidden_layers"]), options.sequences, options.length, options.stage)
    rates = load_rates(options.rates)
    groups = Model(shapes, rates).build()
    print(table(groups, rates, read_measured(options.measured) if options.measured else None))
    if options.plan and not compare_with_plan(options.plan, options, sum(g.flops for g in groups)):
        print("performance_model.py: the two lists of FLOPs differ", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
