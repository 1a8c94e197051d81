#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes tests/golden/{llama,qwen,mistral,qwen3,moe}, tests/golden/reference.json and tests/golden/interventions.json: what PyTorch and
transformers compute on tiny random models, for tests/unit/test_golden_*.cpp, tests/unit/test_model_interventions.cpp and
tests/mpi/test_golden_train.cpp. Run by hand, never in CI:

    python3 -m venv venv && venv/bin/pip install torch transformers
    venv/bin/python tools/make_golden.py [--output tests/golden] [--only mistral qwen3 | --interventions]

`--only` makes dense models again, or new ones, and `--interventions` interventions.json from the models that are there;
both leave the rest of the files as they are.
Everything is computed in float64 from float32 weights unless it says otherwise, so the oracle's own error is not that
of the program under test. (transformers keeps RMSNorm and the rotary angles in float32 even then; `float32_error` in
the file, the distance of a whole float32 run, bounds what that can do.) The seeds are in the file; two runs with the
versions recorded there give the same bytes."""
import argparse
import json
import pathlib
import sys
from typing import Any

from tool_errors import exit_code_of, need_packages

need_packages("make_golden", "torch", "transformers", "safetensors")

import torch  # noqa: E402
import transformers  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from transformers import (LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM, Qwen2Config,  # noqa: E402
                          Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM)

import golden_moe as gm  # noqa: E402

DENSE_SEED, MOE_SEED, DATA_SEED = 20261122, 20261123, 20261124
EOS = 2
# Llama-3.2's real rope settings: with head_dim 16 all three bands (kept, blended, divided) occur.
LLAMA = dict(vocab_size=96, hidden_size=32, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, head_dim=16, max_position_embeddings=131072, rms_norm_eps=1e-5, rope_theta=500000.0,
             tie_word_embeddings=True, attention_bias=False, bos_token_id=1, eos_token_id=EOS, hidden_act="silu",
             rope_scaling=dict(rope_type="llama3", factor=32.0, low_freq_factor=1.0, high_freq_factor=4.0,
                               original_max_position_embeddings=8192))
QWEN = dict(vocab_size=96, hidden_size=32, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=4, max_position_embeddings=32768, rms_norm_eps=1e-6, rope_theta=1000000.0,
            tie_word_embeddings=False, use_sliding_window=False, bos_token_id=1, eos_token_id=EOS, hidden_act="silu")
MISTRAL = dict(vocab_size=96, hidden_size=32, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
               num_key_value_heads=2, max_position_embeddings=32768, rms_norm_eps=1e-5, rope_theta=1000000.0,
               tie_word_embeddings=False, sliding_window=None, bos_token_id=1, eos_token_id=EOS, hidden_act="silu")
QWEN3 = dict(vocab_size=96, hidden_size=32, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, head_dim=16, max_position_embeddings=40960, rms_norm_eps=1e-6, rope_theta=1000000.0,
             tie_word_embeddings=True, attention_bias=False, use_sliding_window=False, sliding_window=None,
             bos_token_id=1, eos_token_id=EOS, hidden_act="silu")
DENSE = {  # folder: what dense_case takes
    "llama": (LLAMA, LlamaConfig, LlamaForCausalLM),
    "qwen": (QWEN, Qwen2Config, Qwen2ForCausalLM),
    "mistral": (MISTRAL, MistralConfig, MistralForCausalLM),
    "qwen3": (QWEN3, Qwen3Config, Qwen3ForCausalLM),
}
MOE = dict(vocab_size=64, hidden_size=32, intermediate_size=24, num_hidden_layers=4, num_attention_heads=4,
           num_key_value_heads=2, head_dim=8, max_position_embeddings=64, rms_norm_eps=1e-5, rope_theta=10000.0,
           tie_word_embeddings=True, attention_bias=False, bos_token_id=1, eos_token_id=EOS, hidden_act="silu",
           rope_scaling=None)
EXPERTS = [3, 2, 3, 1]


def randomise(model: Any, generator: torch.Generator) -> None:
    """Draws weights that make every part of the model matter, exactly representable in float32."""
    with torch.no_grad():
        for name, p in sorted(model.named_parameters()):
            noise = torch.randn(p.shape, generator=generator, dtype=torch.float64)
            if name.endswith("norm.weight"):
                value = 1 + 0.1 * noise
            elif name.endswith("bias"):
                value = 0.2 * noise
            elif "embed_tokens" in name or "lm_head" in name:
                value = 0.3 * noise
            else:
                value = noise / p.shape[1] ** 0.5
            p.copy_(value.float())


def tensors(named: Any, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """Returns named tensors in the type and layout of a file."""
    return {name: value.detach().to(dtype).contiguous() for name, value in named.items()}


def gradients(model: Any, names: Any = None) -> dict[str, torch.Tensor]:
    """Returns the gradients of a model's parameters."""
    return {f"grad.{n}": p.grad for n, p in model.named_parameters() if names is None or n in names}


def norm_error(a: torch.Tensor, b: torch.Tensor) -> float:
    """Returns the distance of two tensors relative to the second."""
    return ((a.double() - b.double()).norm() / b.double().norm()).item()


def labels_of(ids: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Returns labels of which some are ignored."""
    labels = torch.cat([ids[:, 1:], torch.full((ids.shape[0], 1), gm.IGNORED)], 1)
    labels[torch.rand(ids.shape, generator=generator) < 0.1] = gm.IGNORED
    return labels


# ---- dense models, by transformers --------------------------------------------------------------------------------

def dense_case(folder: pathlib.Path, settings: dict[str, Any], config_class: Any, model_class: Any) -> dict[str, Any]:
    """Writes a dense model with its logits and gradients."""
    generator = torch.Generator().manual_seed(DENSE_SEED)
    config = config_class(**settings)
    model = model_class(config)
    randomise(model, generator)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors({n: p for n, p in model.named_parameters()}), folder / "model.safetensors", {"format": "pt"})
    # transformers 5 writes rope_parameters; model hubs hold this form
    text = dict(settings, model_type=config_class.model_type, architectures=[model_class.__name__], torch_dtype="float32")
    (folder / "config.json").write_text(json.dumps(text, indent=1) + "\n")
    ids = torch.randint(3, settings["vocab_size"], (2, 48), generator=generator)
    labels = labels_of(ids, generator)
    found = {}
    for dtype in (torch.float32, torch.float64):
        copy = model_class(config).to(dtype)
        copy.load_state_dict(model.state_dict())
        logits = copy(input_ids=ids).logits
        loss = gm.token_losses(logits, labels) / (labels != gm.IGNORED).sum()
        loss.backward()
        found[dtype] = (logits.detach(), loss.item(), gradients(copy))
    logits, loss, grads = found[torch.float64]
    save_file(tensors({"logits": logits.reshape(-1, logits.shape[-1]), **grads}), folder / "golden.safetensors")
    low = model_class(config).to(torch.bfloat16)
    low.load_state_dict(model.state_dict())
    high = model_class(config).to(torch.float64)
    high.load_state_dict({n: v.to(torch.bfloat16) for n, v in model.state_dict().items()})
    with torch.no_grad():
        exact = high(input_ids=ids).logits
        rounded = low(input_ids=ids).logits
    save_file(tensors({"logits": exact.reshape(-1, exact.shape[-1])}), folder / "bfloat16.safetensors")
    return dict(ids=ids.tolist(), labels=labels.tolist(), loss=loss,
                float32_error=norm_error(found[torch.float32][0], logits), bfloat16_error=norm_error(rounded, exact))


# ---- neurons whose outputs are replaced, by forward hooks -----------------------------------------------------------

# Layers, projections and how many units of each: all of them, those before attention, the last layer, the first one's MLP.
PROJECTIONS = ["mlp.down_proj", "mlp.gate_proj", "mlp.up_proj", "self_attn.k_proj", "self_attn.o_proj", "self_attn.q_proj",
               "self_attn.v_proj"]
REPLACED = [([0, 1], PROJECTIONS, 3), ([0], PROJECTIONS[3:], 5), ([1], PROJECTIONS, 2), ([0], PROJECTIONS[:3], 8)]


def replacing(units: Any, values: Any) -> Any:
    """Returns a hook that replaces outputs of a module."""
    def hook(_module: Any, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
        output = output.clone()
        output[..., units] = values
        return output
    return hook


def intervention_cases(folder: pathlib.Path, settings: dict[str, Any], config_class: Any, model_class: Any, ids: Any) -> list[dict[str, Any]]:
    """Returns the log-probabilities of the next tokens of `ids`, sequence by sequence, with each set of neurons replaced."""
    generator = torch.Generator().manual_seed(DENSE_SEED + 1)
    model = model_class(config_class(**settings)).to(torch.float64)
    model.load_state_dict({n: v.double() for n, v in load_file(folder / "model.safetensors").items()}, strict=False)
    model.tie_weights()
    cases = []
    for layers, projections, count in REPLACED:
        neurons, hooks = [], []
        for layer in layers:
            for name in projections:
                module = model.model.layers[layer].get_submodule(name)
                units = torch.randperm(module.out_features, generator=generator)[:count]
                values = torch.randn(count, generator=generator).float().double()
                values[0] = 0.0
                hooks.append(module.register_forward_hook(replacing(units, values)))
                neurons += [[layer, name, u, v] for u, v in zip(units.tolist(), values.tolist())]
        with torch.no_grad():
            log_probs = torch.log_softmax(model(input_ids=ids).logits, -1)
        for hook in hooks:
            hook.remove()
        found = log_probs[:, :-1].gather(-1, ids[:, 1:, None]).reshape(-1)
        cases.append(dict(neurons=neurons, log_probs=[round(value, 9) for value in found.tolist()]))
    return cases


def interventions(output: pathlib.Path, reference: dict[str, Any]) -> None:
    """Writes interventions.json."""
    models = {name: intervention_cases(output / name, *case, torch.tensor(reference[name]["ids"])) for name, case in DENSE.items()}
    versions = dict(torch=torch.__version__, transformers=transformers.__version__)
    (output / "interventions.json").write_text(json.dumps(dict(made_by="tools/make_golden.py", **versions, models=models)) + "\n")


# ---- the mixture ------------------------------------------------------------------------------------------------

def moe_model(state: dict[str, torch.Tensor], num_experts: list[int] = EXPERTS, top_k: int = 2, dtype: torch.dtype = torch.float64,
              release: bool = False) -> Any:
    """Returns the mixture with the weights of `state`; fewer experts take the first ones and the first rows of the router."""
    model = gm.build(LlamaConfig(**MOE), num_experts, top_k, dtype, release)
    with torch.no_grad():
        for name, p in model.named_parameters():
            value = state[name]
            p.copy_(value[:p.shape[0]] if "mlp.router" in name else value)
    return model


def moe_weights(folder: pathlib.Path) -> dict[str, torch.Tensor]:
    """Writes and returns the weights of the mixture."""
    generator = torch.Generator().manual_seed(MOE_SEED)
    model = gm.build(LlamaConfig(**MOE), EXPERTS, 2, torch.float64)
    randomise(model, generator)
    named = dict(model.named_parameters())
    with torch.no_grad():  # experts near their base but apart: exact copies have a router gradient of pure rounding
        for name, p in named.items():
            if "mlp.experts" in name:
                base = named[name.replace("experts." + name.split("experts.")[1][0] + ".", "")]
                p.copy_((base + 0.5 * p).float())
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors(named), folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(dict(MOE, model_type="llama"), indent=1) + "\n")
    return {name: p.detach().clone() for name, p in named.items()}


STEP_CASES = {  # name: (top_k, experts, trainables, balancing scale, LPR scale, form, layer mean, old sequences)
    "stage1": (2, EXPERTS, "all", 0.5, 0, "off", "", 0),
    "top_1": (1, EXPERTS, "experts_and_routers", 0.5, 0, "off", "", 0),
    "all_experts": (4, EXPERTS, "experts_and_routers", 0.5, 0, "off", "", 0),
    "two_experts": (2, [2, 2, 2, 1], "routers", 0.5, 0, "off", "", 0),
    "lpr_by_expert_count": (2, EXPERTS, "routers", 0, 0.7, "double_softmax", "by_expert_count", 2),
    "lpr_flat": (2, EXPERTS, "routers", 0, 0.7, "double_softmax", "flat", 2),
    "lpr_nll": (2, EXPERTS, "routers", 0, 0.7, "nll", "by_expert_count", 2),
    "lpr_nll_flat": (2, EXPERTS, "routers", 0, 0.7, "nll", "flat", 2),
    "lpr_no_old_token": (2, EXPERTS, "routers", 0, 0.7, "double_softmax", "by_expert_count", 0),
}


def step_cases(folder: pathlib.Path, state: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Writes losses and gradients of one step in every mode."""
    generator = torch.Generator().manual_seed(DATA_SEED)
    ids = torch.randint(3, MOE["vocab_size"], (4, 16), generator=generator)
    labels = labels_of(ids, generator)
    cases = {}
    for name, (top_k, experts, which, balancing, lpr, form, mean, old_rows) in STEP_CASES.items():
        model = moe_model(state, experts, top_k)
        names = gm.trainable_names(model, which)
        old = torch.zeros(ids.shape, dtype=torch.bool)
        old[:old_rows] = True
        logits = model(input_ids=ids).logits
        lm = gm.token_losses(logits, labels)
        lbl = gm.balancing_loss([[gm.statistics(layer)] for layer in gm.moe_layers(model)])
        prior = gm.prior_loss(model, old.reshape(-1), form, mean) if lpr else torch.zeros(())
        (lm / (labels != gm.IGNORED).sum() + balancing * lbl + lpr * prior).backward()
        stored = gradients(model, names)
        if not lpr:  # the prior loss does not change the forward pass of `stage1`
            stored["logits"] = logits.reshape(-1, logits.shape[-1])
        save_file(tensors(stored), folder / f"{name}.safetensors")
        cases[name] = dict(top_k=top_k, num_experts=experts, trainable=which, balancing_scale=balancing, lpr_scale=lpr,
                           lpr_form=form, lpr_layer_mean=mean, old_sequences=old_rows, lm_sum=lm.item(),
                           balancing=lbl.item() if balancing else 0.0, lpr=prior.item(),
                           margin=min(layer.margin for layer in gm.moe_layers(model)))
    return dict(ids=ids.tolist(), labels=labels.tolist(), cases=cases)


BASE_RUN = dict(stage=1, steps=20, seq_length=16, micro_batch_size=2, global_batch_size=12, learning_rate=3e-3,
                min_lr_ratio=0.0, warmup_steps=0, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0, max_grad_norm=1.08,
                seed=42, top_k=2, router_aux_loss_coef=0.05, lpr_loss_coef=0.1, lpr_form="double_softmax",
                lpr_layer_mean="by_expert_count", loss_norm="global_tokens", eos_label=False, lbl_scope="local",
                router_compat="none", batch_docs=0, shards=1, dtype="float32")
RUNS = {
    "stage1": {},
    "stage2": dict(stage=2, max_grad_norm=0.27),
    "stage2_nll_flat": dict(stage=2, lpr_form="nll", lpr_layer_mean="flat", max_grad_norm=0.27),
    "stage2_off": dict(stage=2, lpr_form="off", max_grad_norm=0.27),
    "microbatch_mean": dict(loss_norm="microbatch_mean", weight_decay=0.1, warmup_steps=4, min_lr_ratio=0.1, eps=1e-3),
    "top_1": dict(top_k=1, max_grad_norm=0.96),
    "all_experts": dict(top_k=4, max_grad_norm=1.0),
    "eos_label": dict(eos_label=True, max_grad_norm=1.0),
    "packed": dict(batch_docs=7, shards=3, max_grad_norm=1.0),
    "global_balancing": dict(lbl_scope="global", micro_batch_size=6, router_aux_loss_coef=1.0),
    # A step of 2e-4 is below half a unit of most bfloat16 weights: without float32 masters they would not move.
    "bfloat16": dict(dtype="bfloat16", learning_rate=2e-4),
    "bfloat16_release": dict(dtype="bfloat16", learning_rate=2e-4, router_compat="release",
                             loss_norm="microbatch_mean"),
}


def documents() -> Any:
    """Returns the documents that are packed, with their marks."""
    generator = torch.Generator().manual_seed(DATA_SEED + 1)
    docs, marks = [], []
    for d in range(90):
        length = int(torch.randint(4, 40, (), generator=generator))
        docs.append(torch.randint(3, MOE["vocab_size"], (length,), generator=generator).tolist() + [EOS])
        marks.append(int(d % 3 == 0))
    return docs, marks


def trajectories(folder: pathlib.Path, state: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Writes what some trainings give, step by step."""
    docs, marks = documents()
    found = {}
    for name, changes in RUNS.items():
        run = dict(BASE_RUN, **changes)
        blocks = gm.pack(docs, marks, run["seq_length"], EOS, run["eos_label"], run["batch_docs"], run["shards"])
        low = run["dtype"] == "bfloat16"
        model = moe_model(state, EXPERTS, run["top_k"], torch.bfloat16 if low else torch.float64,
                          run["router_compat"] == "release")
        series, margin, trained = gm.train(model, blocks, run)
        if not low and margin < 1e-5:
            raise SystemExit(f"{name}: a choice of expert hangs on {margin}: float32 may choose otherwise; other seed")
        clipped = sum(norm > run["max_grad_norm"] for norm in series["grad_norm"])
        if not 0 < clipped < run["steps"]:
            raise SystemExit(f"{name}: {clipped} of {run['steps']} steps clipped; norms {series['grad_norm']}")
        save_file(tensors(trained), folder / f"train_{name}.safetensors")
        found[name] = dict(run=run, num_blocks=len(blocks), margin=margin, clipped=clipped, **series)
    return dict(documents=docs, marks=marks, eos=EOS, runs=found)


# ---- router.compat = release, where every product is exact --------------------------------------------------------

def exact_model(folder: pathlib.Path) -> dict[str, Any]:
    """Writes one layer in bfloat16 whose numbers are exact up to the points that `release` rounds: attention adds nothing,
    embeddings are +-1 (so the norm leaves them), router weights are multiples of 2^-7, and SiLU sees 32 only."""
    generator = torch.Generator().manual_seed(MOE_SEED + 1)
    config = LlamaConfig(**dict(MOE, num_hidden_layers=1, tie_word_embeddings=False))
    state = {}
    for name, p in gm.build(config, [3], 2, torch.float32).named_parameters():
        draw = torch.randint(-8, 9, p.shape, generator=generator).float()
        if name.endswith("norm.weight"):
            state[name] = torch.ones(p.shape)
        elif "embed_tokens" in name:
            state[name] = torch.where(draw >= 0, 1.0, -1.0)
            state[name][:, 0] = 1.0
        elif "o_proj" in name:
            state[name] = torch.zeros(p.shape)
        elif "mlp.router" in name:
            state[name] = torch.randint(-64, 65, p.shape, generator=generator).float() / 128
        elif "gate_proj" in name:
            state[name] = torch.zeros(p.shape)
            state[name][:, 0] = 32.0
        elif "up_proj" in name:
            state[name] = (torch.rand(p.shape, generator=generator) < 0.05).float()
        elif "down_proj" in name:
            state[name] = (torch.rand(p.shape, generator=generator) < 0.1).float() / 16
        else:
            state[name] = draw / 8
    ids = torch.randint(3, MOE["vocab_size"], (2, 16), generator=generator)
    out = {}
    for kind, release in (("release", True), ("none", False)):
        model = gm.build(config, [3], 2, torch.bfloat16, release)
        model.load_state_dict(state)
        with torch.no_grad():
            logits = model(input_ids=ids).logits
        layer = gm.moe_layers(model)[0]
        out |= {f"{kind}.logits": logits.reshape(-1, logits.shape[-1]), f"{kind}.probs": layer.probs,
                f"{kind}.weights": layer.weights}
    save_file(tensors(state), folder / "exact_model.safetensors", {"format": "pt"})
    save_file(tensors(out), folder / "exact.safetensors")
    return dict(ids=ids.tolist())


def main() -> None:
    """Writes what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", default=pathlib.Path(__file__).resolve().parent.parent / "tests/golden",
                        type=pathlib.Path)
    parser.add_argument("--only", nargs="+", choices=DENSE, metavar="MODEL")
    parser.add_argument("--interventions", action="store_true")
    args = parser.parse_args()
    output = args.output
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    if args.interventions:
        return interventions(output, json.loads((output / "reference.json").read_text()))
    result = dict(made_by="tools/make_golden.py", torch=torch.__version__, transformers=transformers.__version__,
                  seeds=dict(dense=DENSE_SEED, moe=MOE_SEED, data=DATA_SEED))
    if args.only:
        versions = {name: result[name] for name in ("torch", "transformers")}
        result = json.loads((output / "reference.json").read_text())
    for name in args.only or DENSE:
        result[name] = dense_case(output / name, *DENSE[name])
        if args.only:
            result[name] |= versions
    if not args.only:
        state = moe_weights(output / "moe")
        result["moe"] = dict(num_experts=EXPERTS, step=step_cases(output / "moe", state),
                             train=trajectories(output / "moe", state), exact=exact_model(output / "moe"))
    (output / "reference.json").write_text(json.dumps(result) + "\n")
    interventions(output, result)
    size = sum(f.stat().st_size for f in output.rglob("*") if f.is_file())
    print(f"{output}: {size / 1e6:.2f} MB")


if __name__ == "__main__":
    sys.exit(exit_code_of("make_golden", main))
