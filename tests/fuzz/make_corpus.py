#!/usr/bin/python3
"""Writes the first inputs of the fuzz targets to tests/fuzz/corpus/<target>; inputs that a fuzzer found lie beside them."""
import base64
import json
import struct
import zlib
from pathlib import Path

CORPUS = Path(__file__).parent / "corpus"
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
          r"\s+(?!\S)|\s+")


def write(target, name, data):
    folder = CORPUS / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data if isinstance(data, bytes) else data.encode())


def safetensors(header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header, separators=(",", ":")).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensor(shape, begin, end, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def make_safetensors():
    """A sound file of each kind and the negative cases of the reference implementation's own tests."""
    two = {"a": tensor([2, 2], 0, 16), "b": tensor([3], 16, 22, "BF16")}
    cases = {
        "two": safetensors({"__metadata__": {"format": "pt"}, **two}, bytes(22)),
        "empty_header": safetensors({}), "scalar": safetensors({"a": tensor([], 0, 8, "F64")}, bytes(8)),
        "no_elements": safetensors({"a": tensor([0, 4], 0, 0, "F16")}),
        "header_too_large": safetensors(b"{}", length=0xFFFFFFFFFFFFFFFF), "header_too_small": b"", "seven_bytes": b"\0" * 7,
        "invalid_length": safetensors(b"{}", length=60), "non_utf8": safetensors(b"\xff\xfe"), "not_json": safetensors(b"{ab"),
        "metadata_incomplete_buffer": safetensors(two, bytes(21)), "invalid_info": safetensors({"a": tensor([2, 2], 0, 4)}, bytes(4)),
        "validation_overflow": safetensors({"a": tensor([2, 2 ** 63], 0, 16)}, bytes(16)),
        "whitespace": safetensors(b"   {}"), "padding": safetensors(b"{}      "), "hole": safetensors({"a": tensor([1], 4, 8)}, bytes(8)),
        "overlap": safetensors({"a": tensor([2], 0, 8), "b": tensor([2], 4, 12)}, bytes(12)),
        "twice": safetensors(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', bytes(4)),
        "deep": safetensors(b'{"a":' + b"[" * 20 + b"]" * 20 + b"}"),
    }
    for name, data in cases.items():
        write("safetensors", name, data)


def alphabet():
    own = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in own]
    return {**{b: chr(b) for b in own}, **{b: chr(256 + i) for i, b in enumerate(others)}}


def tokenizer_json(**changes):
    spelled = alphabet()
    vocab = {spelled[b]: b for b in range(256)}
    merges = [("t", "h"), ("th", "e"), ("a", "t"), ("Ġ", "the"), ("a", "a"), ("aa", "aa"), (spelled[0xCE], spelled[0xB1])]
    for left, right in merges:
        vocab[left + right] = len(vocab)
    document = {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": len(vocab) + i, "content": content, "single_word": False, "lstrip": False, "rstrip": False,
                          "normalized": False, "special": True} for i, content in enumerate(["<|begin|>", "<|endoftext|>"])],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": LLAMA3}, "behavior": "Isolated", "invert": False},
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}]},
        "post_processor": {"type": "Sequence", "processors": [
            {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True},
            {"type": "TemplateProcessing",
             "single": [{"SpecialToken": {"id": "<|begin|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}], "pair": [],
             "special_tokens": {"<|begin|>": {"id": "<|begin|>", "ids": [len(vocab)], "tokens": ["<|begin|>"]}}}]},
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
                  "fuse_unk": False, "byte_fallback": False, "ignore_merges": True, "vocab": vocab,
                  "merges": [f"{left} {right}" for left, right in merges]}}
    document.update(changes)
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"))


def make_tokenizer_json():
    byte_level = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    pairs = json.loads(tokenizer_json())["model"]
    pairs["merges"] = [merge.split(" ") for merge in pairs["merges"]]
    flags = [{"id": 263, "content": " a", "single_word": True, "lstrip": True, "rstrip": True, "normalized": True, "special": False}]
    write("tokenizer_json", "llama3", tokenizer_json())
    write("tokenizer_json", "gpt2", tokenizer_json(pre_tokenizer=byte_level, post_processor=byte_level))
    write("tokenizer_json", "qwen", tokenizer_json(normalizer={"type": "NFC"}, post_processor=None, model=pairs))
    write("tokenizer_json", "flags", tokenizer_json(added_tokens=flags, post_processor=None))
    write("tokenizer_json", "empty_object", "{}")


def make_rank_file():
    tokens = [bytes([b]) for b in range(256)] + [b"th", b"the", b" the", b"aa", b"aaaa", "α".encode()]
    lines = [base64.b64encode(token) + b" " + str(rank).encode() for rank, token in enumerate(tokens)]
    write("rank_file", "sound", b"\n".join(lines) + b"\n")
    write("rank_file", "crlf", b"\r\n".join(lines))
    for name, text in {"gap": "IQ== 0\nIg== 2\n", "twice": "IQ== 0\nIg== 0\n", "same_token": "IQ== 0\nIQ== 1\n", "no_rank": "IQ==\n",
                       "not_base64": "I!== 0\n", "stray_bits": "IR== 0\n", "negative": "IQ== -1\n", "huge": "IQ== 99999999999\n"}.items():
        write("rank_file", name, text)


def make_jsonl():
    for name, text in {
            "documents": '{"text": "one"}\n{"text": "δύο", "id": 2}\n\n{"text": ""}\n', "no_newline": '{"text": "a"}', "crlf": '{"text": "a"}\r\nplain\r\n',
            "byte_order_mark": '\ufeff{"text": "a"}\n', "lone_surrogate": '{"text": "\\ud800"}\n', "nul": '{"text": "a\\u0000b"}\n',
            "not_text": '{"text": 1}\n[1, 2]\n{"other": "x"}\n{"text": "a", "text": "b"}\n', "deep": "[" * 40 + "]" * 40 + "\n",
            "numbers": '{"text": "x", "n": 1e999}\n{"text": "y", "n": -0.5e-3}\n'}.items():
        write("jsonl", name, text)
    write("jsonl", "ill_formed", b'{"text": "\xff\xc0\xaf\xed\xa0\x80"}\n\xf4\x90\x80\x80\n')


def make_hdf5():
    """First byte: 1 shuffle, 2 deflate, 4 fletcher32 of a chunk of 1024 bytes; 8 a file to compare with its seal."""
    plain = bytes(i * i % 251 for i in range(1024))
    for name, filters, raw in (
            ("plain", 0, plain), ("plain_short", 0, plain[:-1]), ("deflate", 2, zlib.compress(plain)), ("shuffle", 3, zlib.compress(plain)),
            ("inflates_to_less", 2, zlib.compress(plain[:-4])), ("inflates_to_more", 2, zlib.compress(plain + b"1234")),
            ("bomb", 2, zlib.compress(bytes(1 << 22))), ("not_deflate", 2, b"nothing"), ("wrong_checksum", 4, plain + b"abcd"),
            ("checksum_of_zeros", 4, bytes(1028)), ("checksum_alone", 4, b"abcd"), ("all", 7, zlib.compress(plain) + b"abcd")):
        write("hdf5", name, bytes([filters]) + raw)
    seal = b"neuronmoe-seal 1\nbytes 514\ncrc32c 00000000\n"
    for name, head in (("seal", seal.ljust(512, b"\0") + b"xy"), ("seal_cut", seal), ("seal_negative", seal.replace(b"514", b"-1").ljust(514, b"\0")),
                       ("seal_huge", seal.replace(b"514", b"99999999999999999999").ljust(514, b"\0")), ("signature", b"\x89HDF\r\n\x1a\n"),
                       ("nothing", b" ")):
        write("hdf5", name, b"\x08" + head)


if __name__ == "__main__":
    make_hdf5()
    make_safetensors()
    make_tokenizer_json()
    make_rank_file()
    make_jsonl()
