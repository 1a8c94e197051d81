"""A PEFT-MoE adapter of `neuronmoe convert` put into the dense model in plain PyTorch, against our own forward.

    check_adapter.py BASE ADAPTER CHECKPOINT GREEDY_TOKENS

BASE is the Hugging Face directory, CHECKPOINT what ADAPTER was exported from (or imported into), GREEDY_TOKENS the test
program of that name. Prints the log-probability of some ids and the logits of both sides; they may differ by float32
rounding. Needs torch, transformers and safetensors, which the program itself does not."""
import json
import subprocess
import sys
from typing import Any

from tool_errors import EXIT_CONFIG, exit_code_of, need_packages

need_packages("check_adapter", "torch", "safetensors", "transformers")

import torch  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from transformers import AutoModelForCausalLM  # noqa: E402

PREFIX = "base_model.model."


class Mixture(torch.nn.Module):
    """METHOD 5 over the frozen MLP and its siblings; experts add up in ascending order."""

    def __init__(self, base: Any, tensors: dict[str, Any], name: str, top_k: int) -> None:
        super().__init__()
        self.base, self.top_k = base, top_k
        self.router = tensors[f"{PREFIX}{name}.moe_router_embedding.weight"]
        self.experts = [[tensors[f"{PREFIX}{name}.moe_experts.{j}.{w}_proj.weight"] for w in ("gate", "up", "down")]
                        for j in range(self.router.shape[0] - 1)]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the weighted sum of the chosen experts."""
        probs = torch.softmax(x @ self.router.T, -1)
        values, chosen = probs.topk(min(self.top_k, probs.shape[-1]), -1)
        weights = torch.zeros_like(probs).scatter(-1, chosen, values / values.sum(-1, keepdim=True) if self.top_k > 1 else values)
        y = weights[..., :1] * self.base(x)
        for j, (gate, up, down) in enumerate(self.experts):
            y = y + weights[..., j + 1:j + 2] * ((torch.nn.functional.silu(x @ gate.T) * (x @ up.T)) @ down.T)
        return y


def main(base: str, adapter: str, checkpoint: str, greedy_tokens: str) -> int:
    """Prints both sides; 1 if they differ."""
    config = json.load(open(f"{adapter}/adapter_config.json"))
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, local_files_only=True).eval()
    tensors = {name: t.float() for name, t in load_file(f"{adapter}/adapter_model.safetensors").items()}
    assert isinstance(config["num_experts"], list), "adapter_config.json has one number of experts; export the adapter again"
    listed = dict(zip(config["layers_to_transform"], config["num_experts"]))
    for l, layer in enumerate(model.model.layers):
        router = tensors.get(f"base_model.model.model.layers.{l}.mlp.moe_router_embedding.weight")
        rows = 1 if router is None else len(router)
        assert listed[l] == rows, f"adapter_config.json says {listed[l]} experts for layer {l}, its router has {rows}"
        if rows == 1:
            continue
        layer.mlp = Mixture(layer.mlp, tensors, f"model.layers.{l}.mlp", config["topk"])
    ids = [(7 * i * i + 3 * i + 1) % model.config.vocab_size for i in range(40)]
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0].double()
    log_probs = torch.log_softmax(logits, -1)
    theirs = sum(log_probs[i, ids[i + 1]].item() for i in range(len(ids) - 1))
    out = subprocess.run([greedy_tokens, base, checkpoint, "0", *map(str, ids)], check=True, capture_output=True, text=True).stdout
    found = {line.split()[0]: [float(x) for x in line.split()[1:]] for line in out.splitlines()}
    ours, far = found["sum_logprob"][0], max(abs(a - b.item()) for a, b in zip(found["last"], logits[-1]))
    print(f"log-probability of {len(ids)} ids: PyTorch {theirs:.9f}, neuronmoe {ours:.9f}; last logits differ by at most {far:.2e}")
    good = abs(theirs - ours) < 1e-5 * abs(theirs)
    print("equal" if good else "NOT equal")
    return 0 if good else 1


if __name__ == "__main__":
    if len(sys.argv) != 5:
        print(__doc__, file=sys.stderr)
        sys.exit(EXIT_CONFIG)
    sys.exit(exit_code_of("check_adapter", lambda: main(*sys.argv[1:])))
