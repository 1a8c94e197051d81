"""Loads what `neuronmoe convert` exported in transformers and compares it with the model it came from.

    check_export.py ORIGINAL EXPORT [ADAPTER CHECKPOINT]
    check_export.py --mixture NEURONMOE BASE CHECKPOINT EXPORT...
    check_export.py --greedy TOKENS NEURONMOE BASE CHECKPOINT EXPORT... [--prompt TEXT]...
    check_export.py --toys NEURONMOE

ORIGINAL and EXPORT are Hugging Face directories: weights and logits have to be equal bit for bit. With an ADAPTER, its
experts and routers are compared with those in model.h5 of the CHECKPOINT it was exported from. With --mixture, EXPORT is
what `convert --convert.to transformers` or `transformers-code` made of CHECKPOINT: its log-probabilities of random tokens have to be
those of the program NEURONMOE to 1e-5; one with code of its own is saved, loaded again and compared as well. With --greedy, both
continue each prompt by TOKENS tokens, which have to be the same up to a place where the two largest logits are within 1e-4.
--toys makes a small mixture of each family and does --mixture on both its exports. Needs torch, transformers, safetensors and h5py,
which the program itself does not."""
import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tool_errors import EXIT_CONFIG, ToolError, exit_code_of, need_packages

need_packages("check_export", "torch", "transformers", "safetensors", "h5py")

# Code of an export is copied there; a stale copy must not be what is tested.
CODE = tempfile.TemporaryDirectory()
os.environ["HF_MODULES_CACHE"] = CODE.name

import h5py  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: E402


def compare_dense(original: str, export: str) -> bool:
    """Returns whether weights and logits of two dense models are the same, bit for bit."""
    a, b = (AutoModelForCausalLM.from_pretrained(path, dtype="auto", local_files_only=True).eval() for path in (original, export))
    first, second = a.state_dict(), b.state_dict()
    different = [name for name in first | second if name not in first or name not in second or
                 first[name].dtype != second[name].dtype or not torch.equal(first[name], second[name])]
    ids = torch.arange(a.config.vocab_size)[:64].flip(0)[None]
    with torch.no_grad():
        x, y = a(ids).logits, b(ids).logits
    print(f"{export}: {type(b).__name__}, {len(second)} tensors of {b.dtype}, {len(different)} different {different[:3]}; "
          f"logits {list(y.shape)}, largest difference {(x - y).abs().max().item()}")
    return not different and torch.equal(x, y)


def compare_adapter(adapter: str, checkpoint: str) -> bool:
    """Returns whether an adapter holds the experts and routers of the checkpoint."""
    tensors, different = load_file(f"{adapter}/adapter_model.safetensors"), []
    with h5py.File(f"{checkpoint}/model.h5") as f:
        for name, tensor in tensors.items():
            layer, rest = name.removeprefix("base_model.model.model.layers.").split(".mlp.moe_")
            stored = f[f"model/layers/{int(layer):02d}"]
            where = rest.split(".")
            value = stored["router"][...] if where[0] == "router_embedding" else \
                stored["experts/" + where[2].removesuffix("_proj")][int(where[1])]
            if not torch.equal(tensor.float(), torch.from_numpy(value).float()):
                different.append(name)
    print(f"{adapter}: {len(tensors)} tensors, {len(different)} different from {checkpoint} {different[:3]}")
    return not different


def load(export: str | Path) -> Any:
    """Loads an export in float32, code of its own included."""
    return AutoModelForCausalLM.from_pretrained(export, dtype=torch.float32, local_files_only=True, trust_remote_code=True).eval()


def run(*command: Any) -> None:
    """Runs a command that must end well."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command[:2]))} ended with {done.returncode}\n{done.stderr[-2000:]}")


def log_probabilities_of(program: str, base: str, checkpoint: str, ids: torch.Tensor) -> torch.Tensor:
    """Returns the log-probability of everything but the first token of each row, summed, by the program."""
    with tempfile.TemporaryDirectory() as folder:
        requests, answers = Path(folder, "requests.jsonl"), Path(folder, "answers.jsonl")
        requests.write_text("".join(json.dumps({"context": row[:1], "continuation": row[1:]}) + "\n" for row in ids.tolist()))
        run(program, "loglikelihood", "--model", base, "--resume", checkpoint, "--train.dtype", "float32",
            "--loglikelihood.requests", requests, "--output", answers)
        return torch.tensor([json.loads(line)["loglikelihood"] for line in answers.read_text().splitlines()], dtype=torch.float64)


def survives_saving(model: Any, ids: torch.Tensor, logits: torch.Tensor) -> bool:
    """Returns whether a model with code of its own is the same after save_pretrained; and whether it tells how it routes."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        same = torch.equal(load(folder)(ids).logits, logits)
    shapes = [tuple(r.shape) for r in model(ids, output_router_logits=True).router_logits]
    expected = [(ids.numel(), count) for count in model.config.num_experts if count > 1]
    print(f"  saved and loaded again: {'the same logits' if same else 'OTHER LOGITS'}; router logits of {len(shapes)} layers, "
          f"{len(expected)} expected")
    return same and shapes == expected


@torch.no_grad()
def compare_mixture(program: str, base: str, checkpoint: str, exports: list[str], texts: int = 16, length: int = 48) -> bool:
    """Returns whether exports of a mixture give the log-probabilities of the program."""
    ours, good = None, True
    for export in exports:
        model = load(export)
        ids = torch.randint(3, model.config.vocab_size, (texts, length), generator=torch.Generator().manual_seed(1))
        ours = log_probabilities_of(program, base, checkpoint, ids) if ours is None else ours
        logits = model(ids).logits
        logp = torch.log_softmax(logits.float(), -1)[:, :-1]
        theirs = logp.gather(2, ids[:, 1:, None]).double().sum((1, 2))
        difference = ((ours - theirs) / theirs).abs().max().item()
        print(f"{export}: {type(model).__name__}, {sum(p.numel() for p in model.parameters())} parameters; {texts} texts of {length} "
              f"tokens, log-probabilities differ by {difference:.1e} relative at most")
        good = good and difference < 1e-5
        if model.config.model_type == "neuronmoe":
            good = survives_saving(model, ids, logits) and good
    return good


def texts_of(program: str, base: str, checkpoint: str, prompts: list[str], tokens: int) -> list[list[int]]:
    """Returns the ids with which the program continues prompts."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, "texts.jsonl")
        run(program, "generate", "--model", base, "--resume", checkpoint, "--train.dtype", "float32", "--generate.max_tokens", tokens,
            "--output", output, *(word for p in prompts for word in ("--generate.prompt", p)))
        return [json.loads(line)["ids"] for line in output.read_text().splitlines()]


@torch.no_grad()
def compare_greedy(program: str, base: str, checkpoint: str, exports: list[str], prompts: list[str], tokens: int) -> bool:
    """Returns whether exports continue prompts as the program does."""
    good, ours = True, texts_of(program, base, checkpoint, prompts, tokens)
    for export in exports:
        model, tokenizer = load(export), AutoTokenizer.from_pretrained(export, local_files_only=True, trust_remote_code=True)
        for prompt, mine in zip(prompts, ours):
            ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
            told = model.generate(ids, do_sample=False, max_new_tokens=tokens, output_logits=True, return_dict_in_generate=True,
                                  attention_mask=torch.ones_like(ids), pad_token_id=0)
            theirs = told.sequences[0, ids.shape[1]:].tolist()
            margins = [(best[0] - best[1]).item() for best in (step[0].topk(2).values for step in told.logits)]
            ended = len(theirs) < tokens  # the token that ends a text is among theirs alone
            same = next((i for i, (a, b) in enumerate(zip(mine, theirs)) if a != b), None)
            if same is None and len(mine) != len(theirs) - ended:
                same = min(len(mine), len(theirs))
            what = f"the same {len(mine)} ids{' to the end of the text' if ended else ''}" if same is None else \
                f"ids part at {same}, where the two largest logits are {margins[same]:.1e} apart"
            print(f"{export}: {prompt!r}: {what}; smallest margin of the two largest logits {min(margins):.1e}")
            good = good and (same is None or margins[same] < 1e-4)
    return good


FAMILIES = {"llama": {"rope_parameters": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                                          "original_max_position_embeddings": 32, "rope_theta": 10000.0}, "tie_word_embeddings": True},
            "qwen2": {"use_sliding_window": False}, "mistral": {"sliding_window": None}, "qwen3": {"num_attention_heads": 6}}
CLASSES = {"llama": "Llama", "qwen2": "Qwen2", "mistral": "Mistral", "qwen3": "Qwen3"}


def make_toy(folder: Path, family: str, counts: list[int], top_k: int) -> None:
    """Makes a base and an adapter of random numbers, large enough that every part of the model matters."""
    sizes = {"vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": len(counts), "num_attention_heads": 4,
             "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 128, "bos_token_id": 1, "eos_token_id": 2}
    config = getattr(transformers, CLASSES[family] + "Config")(**{**sizes, **FAMILIES[family]})
    torch.manual_seed(3)
    model = getattr(transformers, CLASSES[family] + "ForCausalLM")(config)
    for name, p in model.named_parameters():
        torch.nn.init.normal_(p, 1.0 if name.endswith("norm.weight") else 0.0, 0.3)
    model.save_pretrained(folder / "base")
    tensors, prefix = {}, "base_model.model.model.layers."
    for l, count in enumerate(counts):
        if count == 1:
            continue
        tensors[f"{prefix}{l}.mlp.moe_router_embedding.weight"] = torch.randn(count, config.hidden_size)
        for e in range(count - 1):
            for name, shape in (("gate", (48, 32)), ("up", (48, 32)), ("down", (32, 48))):
                tensors[f"{prefix}{l}.mlp.moe_experts.{e}.{name}_proj.weight"] = torch.randn(shape) * 0.3
    (folder / "adapter").mkdir()
    save_file(tensors, folder / "adapter/adapter_model.safetensors")
    (folder / "adapter/adapter_config.json").write_text(json.dumps({
        "peft_type": "MOE", "topk": top_k, "num_experts": counts, "layers_to_transform": list(range(len(counts))),
        "aux_loss_coef": None, "lpr_loss_coef": None}))


def compare_toys(program: str) -> bool:
    """Compares every family, top_k of 1, 2 and 3; whatever the padded class cannot hold has to be refused."""
    good = True
    for family in FAMILIES:
        for counts, top_k in (([3, 1, 4, 1], 2), ([1, 5, 1, 3], 3), ([2, 1, 4, 1], 3), ([2, 3, 1, 2], 1)):
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                make_toy(folder, family, counts, top_k)
                exports = []
                for form in ("checkpoint", "transformers", "transformers-code"):
                    done = subprocess.run([program, "convert", folder / "adapter", "--model", folder / "base", "--convert.to", form,
                                           "--output", folder / form], capture_output=True, text=True, check=False)
                    refused = form == "transformers" and (family == "qwen3" or top_k == 1 or any(1 < n < top_k for n in counts))
                    if done.returncode != (78 if refused else 0):
                        print(f"{family}, top_k {top_k}: convert to {form} ended with {done.returncode}\n{done.stderr[-500:]}")
                        good = False
                    elif form != "checkpoint" and not refused:
                        exports.append(folder / form)
                print(f"{family}, experts {counts}, top_k {top_k}")
                good = compare_mixture(program, folder / "base", folder / "checkpoint", exports) and good
    return good


def show(arguments: list[str]) -> int:
    """Prints the verdict; 1 if anything differs."""
    good = main(arguments)
    print("equal" if good else "NOT equal")
    return 0 if good else 1


def main(arguments: list[str]) -> bool:
    """Returns whether all that the command line names is equal."""
    if arguments[:1] == ["--toys"] and len(arguments) == 2:
        return compare_toys(arguments[1])
    if arguments[:1] == ["--mixture"] and len(arguments) > 4:
        return compare_mixture(*arguments[1:4], arguments[4:])
    if arguments[:1] == ["--greedy"]:
        parser = argparse.ArgumentParser(usage=__doc__)
        parser.add_argument("--greedy", type=int)
        parser.add_argument("--prompt", action="append")
        parser.add_argument("places", nargs="+")
        options = parser.parse_intermixed_args(arguments)
        return compare_greedy(*options.places[:3], options.places[3:],
                              options.prompt or ["The capital of France is", "Η πρωτεύουσα της Ελλάδας είναι"], options.greedy)
    if len(arguments) not in (2, 4) or arguments[0].startswith("-"):
        raise ToolError("wrong arguments; its first lines say which there are", EXIT_CONFIG)
    return compare_dense(*arguments[:2]) and (len(arguments) == 2 or compare_adapter(*arguments[2:]))


if __name__ == "__main__":
    sys.exit(exit_code_of("check_export", lambda: show(sys.argv[1:])))
