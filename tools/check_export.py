"""Loads what `neuronmoe convert` exported in transformers and compares it with the model it came from.

    check_export.py ORIGINAL EXPORT [ADAPTER CHECKPOINT]

ORIGINAL and EXPORT are Hugging Face directories: weights and logits have to be equal bit for bit. With an ADAPTER, its
experts and routers are compared with those in model.h5 of the CHECKPOINT it was exported from. Needs torch,
transformers, safetensors and h5py, which the program itself does not."""
import sys

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


if __name__ == "__main__":
    if len(sys.argv) not in (3, 5):
        sys.exit(__doc__)
    good = compare_dense(*sys.argv[1:3]) and (len(sys.argv) == 3 or compare_adapter(*sys.argv[3:5]))
    print("equal" if good else "NOT equal")
    sys.exit(0 if good else 1)
