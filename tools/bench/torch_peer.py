#!/usr/bin/env python3
"""The peer for one GPU: the same mixture in eager PyTorch, as its users run it (bf16 weights, fp32 AdamW master copies,
gradient checkpointing, SDPA attention), random weights and tokens. Prints one JSON line: tokens/s, peak memory, useful
FLOP/s, and the rate of an 8192^3 bf16 product on random data in the same run.

  torch_peer.py [--preset llama3.2-3b-el|tiny] [--sequences 32] [--length 1024] [--steps 20] [--warmup 5] [--no-checkpoint]
"""
import argparse
import json
import os
import statistics
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from tool_errors import exit_code_of, need_packages  # noqa: E402

need_packages("torch_peer", "torch")

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from torch import nn  # noqa: E402
from torch.utils.checkpoint import checkpoint  # noqa: E402

GREEK = [6, 2] + [1] * 14 + [2] + [1] * 4 + [4, 1, 4, 2, 2, 4, 4]  # METHOD 0.3: 49 experts in 28 layers
PRESETS = {
    "llama3.2-3b-el": dict(vocab=128256, hidden=3072, width=8192, heads=24, kv_heads=8, head=128, theta=5e5, experts=GREEK),
    "tiny": dict(vocab=97, hidden=64, width=96, heads=4, kv_heads=2, head=16, theta=1e4, experts=[3, 1, 2]),
}


def rope(positions, head, theta, dtype, device):
    inverse = theta ** (-torch.arange(0, head, 2, device=device, dtype=torch.float32) / head)
    angles = torch.outer(positions.float(), inverse).repeat(1, 2)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(x, cos, sin):
    a, b = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-b, a), dim=-1) * sin


class Mlp(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.gate, self.up = (nn.Linear(c["hidden"], c["width"], bias=False) for _ in range(2))
        self.down = nn.Linear(c["width"], c["hidden"], bias=False)

    def forward(self, x):
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Moe(nn.Module):
    """Softmax over all experts in fp32, top 2, renormalized; expert 0 is the frozen base (METHOD 5)."""

    def __init__(self, c, num_experts):
        super().__init__()
        self.experts = nn.ModuleList(Mlp(c) for _ in range(num_experts))
        self.router = nn.Linear(c["hidden"], num_experts, bias=False)

    def forward(self, x):
        flat = x.reshape(-1, x.shape[-1])
        probs = F.softmax(F.linear(flat.float(), self.router.weight.float()), dim=-1)
        weights, chosen = probs.topk(min(2, probs.shape[-1]), dim=-1)
        weights = (weights / weights.sum(-1, keepdim=True)).to(x.dtype)
        out = torch.zeros_like(flat)
        for e, expert in enumerate(self.experts):
            token, choice = torch.where(chosen == e)
            out.index_add_(0, token, expert(flat[token]) * weights[token, choice, None])
        share = F.one_hot(chosen, probs.shape[-1]).float().sum(1).mean(0)
        return out.view_as(x), probs.shape[-1] * (probs.mean(0) * share).sum()


class Layer(nn.Module):
    def __init__(self, c, num_experts):
        super().__init__()
        self.c = c
        self.norm1, self.norm2 = (nn.RMSNorm(c["hidden"], eps=1e-5) for _ in range(2))
        self.q = nn.Linear(c["hidden"], c["heads"] * c["head"], bias=False)
        self.k, self.v = (nn.Linear(c["hidden"], c["kv_heads"] * c["head"], bias=False) for _ in range(2))
        self.o = nn.Linear(c["heads"] * c["head"], c["hidden"], bias=False)
        self.mlp = Mlp(c) if num_experts == 1 else Moe(c, num_experts)

    def forward(self, x, cos, sin):
        batch, length, _ = x.shape
        h = self.norm1(x)
        q, k, v = (p(h).view(batch, length, -1, self.c["head"]).transpose(1, 2) for p in (self.q, self.k, self.v))
        o = F.scaled_dot_product_attention(rotate(q, cos, sin), rotate(k, cos, sin), v, is_causal=True, enable_gqa=True)
        x = x + self.o(o.transpose(1, 2).reshape(batch, length, -1))
        out = self.mlp(self.norm2(x))
        if isinstance(out, tuple):
            return x + out[0], out[1]
        return x + out, x.new_zeros((), dtype=torch.float32)


class Model(nn.Module):
    def __init__(self, c, checkpointing):
        super().__init__()
        self.c, self.checkpointing = c, checkpointing
        self.embed = nn.Embedding(c["vocab"], c["hidden"])
        self.layers = nn.ModuleList(Layer(c, e) for e in c["experts"])
        self.norm = nn.RMSNorm(c["hidden"], eps=1e-5)
        nn.init.normal_(self.embed.weight, std=0.02)

    def forward(self, ids):
        x = self.embed(ids[:, :-1])
        cos, sin = rope(torch.arange(x.shape[1], device=x.device), self.c["head"], self.c["theta"], x.dtype, x.device)
        balancing = 0.0
        for layer in self.layers:
            x, loss = checkpoint(layer, x, cos, sin, use_reentrant=False) if self.checkpointing else layer(x, cos, sin)
            balancing = balancing + loss
        logits = F.linear(self.norm(x), self.embed.weight).float()
        num_moe = sum(e > 1 for e in self.c["experts"])
        return F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()) + 0.01 * balancing / num_moe


def freeze(model):
    """Stage 1: new experts and routers train. Returns them."""
    for p in model.parameters():
        p.requires_grad_(False)
    trained = []
    for layer in model.layers:
        if isinstance(layer.mlp, Moe):
            trained += list(layer.mlp.router.parameters()) + [p for e in layer.mlp.experts[1:] for p in e.parameters()]
    for p in trained:
        p.requires_grad_(True)
    return trained


def useful_flops(c, length, chosen_new):
    """Per token, forward and backward, nothing recomputed, attention at half; `chosen_new` slots reach new experts."""
    mlp = 6 * c["hidden"] * c["width"]
    attention = 4 * c["hidden"] * c["head"] * (c["heads"] + c["kv_heads"])
    scores = 2 * length * c["head"] * c["heads"]
    lowest = next(l for l, e in enumerate(c["experts"]) if e > 1)
    slots = [1 if e == 1 else 2 for e in c["experts"]]
    above = len(c["experts"]) - lowest - 1
    head = 2 * c["vocab"] * c["hidden"]
    forward = len(slots) * (attention + scores) + sum(slots) * mlp + head
    backward = above * (attention + 2 * scores) + sum(slots[lowest + 1:]) * mlp + chosen_new * mlp + head
    return forward + backward


def gemm_rate(device, dtype, size):
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return 2 * size**3 / statistics.median(timed(lambda: a @ b, device, 20))


def timed(step, device, count):
    for _ in range(3):
        step()
    seconds = []
    for _ in range(count):
        synchronize(device)
        start = time.perf_counter()
        step()
        synchronize(device)
        seconds.append(time.perf_counter() - start)
    return seconds


def synchronize(device):
    if device == "cuda":
        torch.cuda.synchronize()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="llama3.2-3b-el", choices=PRESETS)
    parser.add_argument("--sequences", type=int, default=32)
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--warmup", type=int, default=5)
    parser.add_argument("--micro", type=int, default=8, help="sequences per micro-batch: the whole logits exist at once")
    parser.add_argument("--no-checkpoint", action="store_true")
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(1)
    c = PRESETS[args.preset]
    with torch.device(device):
        model = Model(c, not args.no_checkpoint).to(torch.bfloat16)
    trained = freeze(model)
    master = [p.detach().float().requires_grad_() for p in trained]
    optimizer = torch.optim.AdamW(master, lr=5e-5, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)
    loss = torch.zeros(())

    def step():
        nonlocal loss
        for first in range(0, args.sequences, args.micro):
            count = min(args.micro, args.sequences - first)
            ids = torch.randint(c["vocab"], (count, args.length + 1), device=device)
            loss = model(ids) * (count / args.sequences)
            loss.backward()
        for p, m in zip(trained, master):
            m.grad, p.grad = p.grad.float() if p.grad is not None else torch.zeros_like(m), None
        torch.nn.utils.clip_grad_norm_(master, 1.0)
        optimizer.step()
        for p, m in zip(trained, master):
            p.data.copy_(m)

    for _ in range(args.warmup):
        step()
    seconds = statistics.median(timed(step, device, args.steps))
    tokens = args.sequences * args.length
    balanced = sum(2 * (e - 1) / e for e in c["experts"] if e > 1)  # random routers choose about evenly
    rate = tokens / seconds
    flops = useful_flops(c, args.length, balanced) * rate
    gemm = gemm_rate(device, torch.bfloat16, 8192 if device == "cuda" else 256)
    print(json.dumps({
        "peer": "torch eager", "torch": torch.__version__, "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "preset": args.preset, "checkpointing": not args.no_checkpoint, "step_s": seconds, "tokens_per_s": rate,
        "useful_tflops": flops / 1e12, "gemm_tflops": gemm / 1e12, "share_of_gemm": flops / gemm,
        "peak_gb": torch.cuda.max_memory_allocated() / 1e9 if device == "cuda" else None, "loss": float(loss.detach()),
    }))


if __name__ == "__main__":
    sys.exit(exit_code_of("torch_peer", main))
