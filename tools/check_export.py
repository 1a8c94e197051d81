"""Loads what `neuronmoe convert` exported in transformers and compares it with the model it came from.

    check_export.py ORIGINAL EXPORT [ADAPTER CHECKPOINT]
    check_export.py --mixture NEURONMOE BASE CHECKPOINT EXPORT

ORIGINAL and EXPORT are Hugging Face directories: weights and logits have to be equal bit for bit. With an ADAPTER, its
experts and routers are compared with those in model.h5 of the CHECKPOINT it was exported from. With --mixture, EXPORT is
what `convert --convert.to transformers` made of CHECKPOINT: its log-probabilities of random tokens have to be those of the program
NEURONMOE to 1e-5. Needs torch, transformers, safetensors and h5py, which
the program itself does not."""
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import h5py
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM


def compare_dense(original, export):
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


def compare_adapter(adapter, checkpoint):
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


def compare_mixture(program, base, checkpoint, export, texts=16, length=48):
    model = AutoModelForCausalLM.from_pretrained(export, dtype=torch.float32, local_files_only=True).eval()
    ids = torch.randint(3, model.config.vocab_size, (texts, length), generator=torch.Generator().manual_seed(1))
    with tempfile.TemporaryDirectory() as folder:
        requests, answers = Path(folder, "requests.jsonl"), Path(folder, "answers.jsonl")
        requests.write_text("".join(json.dumps({"context": row[:1], "continuation": row[1:]}) + "\n" for row in ids.tolist()))
        subprocess.run([program, "loglikelihood", "--model", base, "--resume", checkpoint, "--train.dtype", "float32",
                        "--loglikelihood.requests", requests, "--output", answers], check=True, stdout=subprocess.DEVNULL)
        ours = torch.tensor([json.loads(line)["loglikelihood"] for line in answers.read_text().splitlines()], dtype=torch.float64)
    with torch.no_grad():
        logp = torch.log_softmax(model(ids).logits.float(), -1)[:, :-1]
    theirs = logp.gather(2, ids[:, 1:, None]).double().sum((1, 2))
    difference = ((ours - theirs) / theirs).abs().max().item()
    print(f"{export}: {type(model).__name__}, {sum(p.numel() for p in model.parameters())} parameters; {texts} texts of {length} tokens, "
          f"log-probabilities differ by {difference:.1e} relative at most")
    return difference < 1e-5


if __name__ == "__main__":
    if len(sys.argv) == 6 and sys.argv[1] == "--mixture":
        good = compare_mixture(*sys.argv[2:])
        print("equal" if good else "NOT equal")
        sys.exit(0 if good else 1)
    if len(sys.argv) not in (3, 5):
        sys.exit(__doc__)
    good = compare_dense(*sys.argv[1:3]) and (len(sys.argv) == 3 or compare_adapter(*sys.argv[3:5]))
    print("equal" if good else "NOT equal")
    sys.exit(0 if good else 1)
