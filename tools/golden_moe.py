# SPDX-License-Identifier: Apache-2.0
"""The method in plain PyTorch, read off its description and not off the C++: the mixture layer (METHOD 5), its losses
(METHOD 6), packing (METHOD 7.2), the order of samples and the training loop (METHOD 7.1). make_golden.py runs it in
float64, or in bfloat16 as the reference code does, and stores what comes out. Needs torch and transformers."""
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

IGNORED = -100


class Mlp(nn.Module):
    def __init__(self, hidden: int, width: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(hidden, width, bias=False)
        self.up_proj = nn.Linear(hidden, width, bias=False)
        self.down_proj = nn.Linear(width, hidden, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the SwiGLU MLP of x."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Moe(Mlp):
    """Steps 1-7 of METHOD 5. The expert in the module itself is number 0, the base. `release`: router logits, expert
    weights and the combination in the type of the model, else in float32 (float64 for a float64 model)."""

    def __init__(self, hidden: int, width: int, num_experts: int, top_k: int, release: bool) -> None:
        super().__init__(hidden, width)
        self.router = nn.Linear(hidden, num_experts, bias=False)
        self.experts = nn.ModuleDict({str(e): Mlp(hidden, width) for e in range(1, num_experts)})
        self.top_k, self.release = top_k, release

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the weighted sum of the chosen experts."""
        shape, x = x.shape, x.reshape(-1, x.shape[-1])
        wide = torch.promote_types(x.dtype, torch.float32)
        if self.release:
            logits = self.router(x).to(wide)
        else:
            logits = F.linear(x.to(wide), self.router.weight.to(wide))
        num_experts = logits.shape[-1]
        self.probs = torch.softmax(logits, -1)
        ranked = torch.sort(self.probs, descending=True, stable=True)  # equal probabilities: lower number first
        k = min(self.top_k, num_experts)
        weights, self.indices = ranked.values[:, :k], ranked.indices[:, :k]
        if k < num_experts:
            self.margin = (ranked.values[:, k - 1] - ranked.values[:, k]).min().item()
        else:
            self.margin = 1.0
        if self.top_k != 1:
            weights = weights / weights.sum(-1, keepdim=True)
        self.weights = weights
        kind = x.dtype if self.release else wide
        y = torch.zeros(x.shape, dtype=kind)
        for e in range(num_experts):  # ascending
            token, choice = torch.where(self.indices == e)
            expert = Mlp.forward(self, x[token]) if e == 0 else self.experts[str(e)](x[token])
            y = y.index_add(0, token, expert.to(kind) * weights[token, choice, None].to(kind))
        return y.to(x.dtype).reshape(shape)


def build(config: Any, num_experts: list[int], top_k: int, dtype: torch.dtype, release: bool = False) -> Any:
    """Returns a transformers Llama whose layers with more than one expert have a Moe in place of their MLP."""
    from transformers import LlamaForCausalLM
    model = LlamaForCausalLM(config)
    for layer, count in zip(model.model.layers, num_experts):
        if count > 1:
            layer.mlp = Moe(config.hidden_size, config.intermediate_size, count, top_k, release)
    model.tie_weights()
    return model.to(dtype).train()


def moe_layers(model: Any) -> list[Moe]:
    """Returns the layers with experts."""
    return [layer.mlp for layer in model.model.layers if isinstance(layer.mlp, Moe)]


def trainable_names(model: Any, which: str) -> list[str]:
    """Returns the names of what trains: all | experts_and_routers | routers (METHOD 5, table)."""
    names = [name for name, _ in model.named_parameters()]
    if which == "all":
        return names
    return [n for n in names if "mlp.router" in n or (which == "experts_and_routers" and "mlp.experts" in n)]


def statistics(layer: Moe) -> tuple[Any, ...]:
    """Returns choices and summed probabilities of each expert, and the tokens they were taken over."""
    num_experts = layer.probs.shape[-1]
    counts = F.one_hot(layer.indices, num_experts).sum((0, 1)).to(layer.probs.dtype)
    return counts, layer.probs.sum(0), layer.probs.shape[0]


def balancing_loss(groups: Any) -> torch.Tensor:
    """Returns the loss of METHOD 6.2, mean over layers. `groups`: per layer, the statistics of one micro-batch or of several."""
    total = 0.0
    for parts in groups:
        n = sum(part[2] for part in parts)
        share = sum(part[0] for part in parts) / n
        mean = sum(part[1] for part in parts) / n
        total = total + len(share) * (mean * share).sum()
    return total / len(groups)


def prior_loss(model: Any, old: torch.Tensor, form: str, layer_mean: str) -> torch.Tensor:
    """Returns the loss of METHOD 6.3. `old`: bool per token."""
    layers = moe_layers(model)
    if not old.any():
        return torch.zeros((), dtype=layers[0].probs.dtype)
    per_layer = []
    for layer in layers:
        p = layer.probs[old]
        value = -torch.log_softmax(p, -1)[:, 0] if form == "double_softmax" else -torch.log(p[:, 0])
        per_layer.append((p.shape[1], value.mean()))
    if layer_mean == "flat":
        return sum(v for _, v in per_layer) / len(per_layer)
    sizes = sorted({e for e, _ in per_layer})
    means = [sum(v for e, v in per_layer if e == size) / sum(e == size for e, _ in per_layer) for size in sizes]
    return sum(means) / len(means)


def token_losses(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Returns the cross-entropy of each label."""
    wide = torch.promote_types(logits.dtype, torch.float32)
    return F.cross_entropy(logits.to(wide).reshape(-1, logits.shape[-1]), labels.reshape(-1), reduction="sum",
                           ignore_index=IGNORED)


# ---- data -----------------------------------------------------------------------------------------------------------

def pack(documents: Any, marks: Any, length: int, eos: int, eos_label: bool, batch_docs: int = 0, shards: int = 1) -> list[tuple[Any, ...]]:
    """Returns the blocks [(ids, labels, old)] of METHOD 7.2. batch_docs = 0: every remainder is carried over."""
    shards = min(shards, len(documents))
    share, longer = divmod(len(documents), shards)
    blocks, start = [], 0
    for shard in range(shards):
        end = start + share + (shard < longer)
        step = batch_docs or end - start
        for first in range(start, end, step):
            chosen = range(first, min(end, first + step))
            ids = [i for d in chosen for i in documents[d]]
            old = [marks[d] for d in chosen for _ in documents[d]]
            for at in range(0, len(ids) - length + 1, length):
                block = ids[at:at + length]
                labels = [IGNORED if label == eos and not eos_label else label for label in block[1:]] + [IGNORED]
                blocks.append((block, labels, old[at:at + length]))
        start = end
    return blocks


def philox(counter: tuple[int, ...], key: tuple[int, ...]) -> tuple[int, ...]:
    """Returns a block of Philox4x32-10 (Salmon et al. 2011)."""
    counter, key, mask = list(counter), list(key), 0xFFFFFFFF
    for _ in range(10):
        a, b = 0xD2511F53 * counter[0], 0xCD9E8D57 * counter[2]
        counter = [(b >> 32) ^ counter[1] ^ key[0], b & mask, (a >> 32) ^ counter[3] ^ key[1], a & mask]
        key = [(key[0] + 0x9E3779B9) & mask, (key[1] + 0xBB67AE85) & mask]
    return counter


def sample_at(position: int, n: int, seed: int) -> int:
    """Returns the block at a position of training as data/sample_order.hpp documents it: a four-round Feistel permutation of each
    epoch, values beyond n walked on."""
    epoch, index = divmod(position, n)
    half = 1
    while 1 << (2 * half) < n:
        half += 1
    mask = (1 << half) - 1
    while True:
        left, right = index >> half, index & mask
        for turn in range(4):
            word = philox((right, epoch, 2 | turn << 16, 0), (seed & 0xFFFFFFFF, seed >> 32))[0]
            left, right = right, left ^ (word & mask)
        index = left << half | right
        if index < n:
            return index


# ---- training -------------------------------------------------------------------------------------------------------

def learning_rate(run: dict[str, Any], step: int) -> float:
    """Returns the rate of a step: warm-up, then a cosine."""
    if step < run["warmup_steps"]:
        return run["learning_rate"] * step / run["warmup_steps"]
    progress = (step - run["warmup_steps"]) / (run["steps"] - run["warmup_steps"])
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return run["learning_rate"] * (run["min_lr_ratio"] + (1 - run["min_lr_ratio"]) * cosine)


def micro_batches(blocks: list[Any], run: dict[str, Any], step: int) -> Any:
    """Returns the step's micro-batches as (ids, labels, old) tensors [B, S]."""
    size, result = run["micro_batch_size"], []
    for m in range(run["global_batch_size"] // size):
        first = step * run["global_batch_size"] + m * size
        chosen = [blocks[sample_at(first + i, len(blocks), run["seed"])] for i in range(size)]
        result.append(tuple(torch.tensor([block[part] for block in chosen]) for part in range(3)))
    return result


def step_losses(model: Any, batches: Any, run: dict[str, Any], collect: Callable[[], None]) -> tuple[Any, ...]:
    """Runs one optimizer step's backward passes, `collect` called after each; returns (lm, balancing, prior, smallest
    margin between a chosen and the best unchosen expert)."""
    m, total_labels = len(batches), sum((b[1] != IGNORED).sum().item() for b in batches)
    lm, lbl, lpr, margin, kept = 0.0, 0.0, 0.0, 1.0, []
    for ids, labels, old in batches:
        summed = token_losses(model(input_ids=ids).logits, labels)
        n = total_labels if run["loss_norm"] == "global_tokens" else m * (labels != IGNORED).sum().item()
        loss = summed / n
        lm += loss.item()
        margin = min([margin] + [layer.margin for layer in moe_layers(model)])
        parts = [[statistics(layer)] for layer in moe_layers(model)]
        if run["stage"] == 1 and run["lbl_scope"] == "local":
            value = balancing_loss(parts) / m
            lbl += value.item()
            loss = loss + run["router_aux_loss_coef"] * value
        if run["stage"] == 2 and run["lpr_form"] != "off":
            value = prior_loss(model, old.reshape(-1).bool(), run["lpr_form"], run["lpr_layer_mean"]) / m
            lpr += value.item()
            loss = loss + run["lpr_loss_coef"] * value
        if run["stage"] == 1 and run["lbl_scope"] == "global":
            kept.append((loss, parts))  # its graph is needed until the last micro-batch is known
        else:
            loss.backward()
            collect()
    if kept:
        value = balancing_loss([sum((parts[i] for _, parts in kept), []) for i in range(len(kept[0][1]))])
        lbl = value.item()
        (sum(loss for loss, _ in kept) + run["router_aux_loss_coef"] * value).backward()
        collect()
    return lm, lbl, lpr, margin


def train(model: Any, blocks: list[Any], run: dict[str, Any]) -> tuple[Any, ...]:
    """Runs 20 steps of AdamW on fp32 (fp64) masters. Returns {series} and the trained tensors."""
    which = "experts_and_routers" if run["stage"] == 1 else "routers"
    named = dict(model.named_parameters())
    names = sorted(trainable_names(model, which))
    for name, p in named.items():
        p.requires_grad_(name in names)
    wide = torch.promote_types(model.dtype, torch.float32)
    masters = [nn.Parameter(named[name].detach().to(wide)) for name in names]
    optimizer = torch.optim.AdamW(masters, lr=1.0, betas=(run["beta1"], run["beta2"]), eps=run["eps"],
                                  weight_decay=run["weight_decay"])
    series = {key: [] for key in ("loss_lm", "loss_lbl", "loss_lpr", "grad_norm", "lr")}
    margin = 1.0

    def collect() -> None:
        for name, master in zip(names, masters):
            if named[name].grad is not None:
                master.grad += named[name].grad.to(wide)
        model.zero_grad(set_to_none=True)

    for step in range(run["steps"]):
        for master in masters:
            master.grad = torch.zeros_like(master)
        lm, lbl, lpr, smallest = step_losses(model, micro_batches(blocks, run, step), run, collect)
        norm = torch.nn.utils.clip_grad_norm_(masters, run["max_grad_norm"])
        rate = optimizer.param_groups[0]["lr"] = learning_rate(run, step)
        optimizer.step()
        with torch.no_grad():
            for name, master in zip(names, masters):
                named[name].copy_(master)
        for key, value in zip(series, (lm, lbl, lpr, norm.item(), rate)):
            series[key].append(value)
        margin = min(margin, smallest)
    return series, margin, {name: named[name].detach() for name in names}
