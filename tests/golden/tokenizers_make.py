#!/usr/bin/env python3
"""Makes tokenizers.json beside this file: a small byte-level BPE trained on the sentences below, the sections of
several kinds of tokenizer.json around it, and what Hugging Face tokenizers and tiktoken make of tricky texts. Needs the
packages tokenizers and tiktoken; the tests read only the JSON."""
import base64
import copy
import json
import pathlib
import unicodedata

import tiktoken
import tokenizers
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

SENTENCES = """The router sends every token to two experts, and the base expert is always there.
We measure which neurons answer to which language, and give each layer as many experts as it needs.
It's what they've said: don't train what you'll freeze, and we'd rather measure than guess.
Ο δρομολογητής στέλνει κάθε λέξη σε δύο ειδικούς, και ο βασικός ειδικός είναι πάντα εκεί.
Μετράμε ποιοι νευρώνες απαντούν σε ποια γλώσσα, και δίνουμε σε κάθε στρώμα όσους ειδικούς χρειάζεται.
A router minden szót két szakértőhöz küld, és az alapszakértő mindig ott van.
Yönlendirici her sözcüğü iki uzmana gönderir ve temel uzman her zaman oradadır.
Cada palabra va a dos expertos, y el experto básico siempre está allí.
路由器把每个词送给两个专家，基础专家总是在那里。
রাউটার প্রতিটি শব্দ দুই বিশেষজ্ঞের কাছে পাঠায়। राउटरले प्रत्येक शब्द दुई विशेषज्ञलाई पठाउँछ।
for (int i = 0; i < 1024; ++i) { sum += x[i] * w[i]; }  // 12345 67 8
""".split("\n")
TEXTS = [
    "", " ", "  ", "   ", "\t", "\n", "\n\n", " \n", "\r\n\r\n", "a", " a", "  a", "a ", "a  b   c", "the the  the",
    "Hello, world! It's 1234567 o'clock; WE'VE said 'LL and ſ's.", "don't they'RE I'd 's '", "x\t\ty\n \nz  \r\n  w",
    "κάθε λέξη, και Ο ΒΑΣΙΚΟΣ ΕΙΔΙΚΟΣ", "Ωραία!!! ...  «ναι»", "szakértőhöz küld", "sözcüğü ĞÜŞİÖÇ ığ",
    "路由器把每个词送给两个专家，基础专家总是在那里。", "প্রতিটি শব্দ বিশেষজ্ঞের ো ড়", "विशेषज्ञलाई क़",
    "e\u0301 A\u030a \u03b1\u0301\u0345 \u1100\u1161\u11a8 \u212b \u2126 q\u0323\u0307 q\u0307\u0323 \ufb01 x\u0344",
    "\u0301 starts with a mark", "🦙 👩‍👩‍👧 🇬🇷 ¼ ② Ⅷ ٣٤ x²", "a\u180eb \u180e \u00a0 \u2003 \u3000 \u0085 \u200b \ufeff",
    "for (int i = 0; i < 1024; ++i) { sum += x[i] * w[i]; }", "https://example.org/?q=%20a&b=1#x", "a" * 50, "ab" * 60, "=" * 70,
    "word" * 20 + " " * 40 + "word", "\u0000\u0001\u007f", "<|begin|>", "x<|end|>y <|end|>  <|end|>", "<|end|", "<|en<|end|>d|>",
    "a<mask>b  <mask>  c", "a <mask>\n<mask> b", "word sword wordy word. (word) λword word", "the EXPERT expert the", "  \t  \t\t  ",
    "unreachable unreachables", "caf\u00e9 cafe\u0301", "<|end|><|end|>", "   the   <|begin|>   the", "tab\there",
]
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
          r"\s+(?!\S)|\s+")
QWEN = LLAMA3.replace("{1,3}", "")
GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def added(token_id, content, **flags):
    return {"id": token_id, "content": content, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
            "special": True, **flags}


def byte_level(**settings):
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True, **settings}


def split(pattern):
    return {"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}, byte_level(use_regex=False)]}


def before_byte_level(*steps):
    """Steps of which ByteLevel, with its own expression, gets the pieces."""
    return {"type": "Sequence", "pretokenizers": [*steps, byte_level()]}


def bos(token_id):
    return {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<|begin|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"SpecialToken": {"id": "<|begin|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                     {"SpecialToken": {"id": "<|begin|>", "type_id": 1}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<|begin|>": {"id": "<|begin|>", "ids": [token_id], "tokens": ["<|begin|>"]}}}


def train():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(tokenizers.Regex(LLAMA3), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    trainer = trainers.BpeTrainer(vocab_size=800, min_frequency=1, show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return json.loads(tokenizer.to_str())["model"]


def variants(size):
    """name -> sections that differ from a plain GPT-2 file; `size` is the first free id."""
    specials = [added(size, "<|begin|>"), added(size + 1, "<|end|>")]
    flags = [*specials, added(size + 2, "<mask>", lstrip=True, rstrip=True), added(size + 3, "word", single_word=True, special=False),
             added(size + 4, "expert", normalized=True, special=False), added(size + 5, "\u00e9 cafe\u0301", normalized=True, special=False),
             added(size + 6, "  ", normalized=True, special=False), added(size + 7, "    ", normalized=True, special=False)]
    return {
        "llama3": {"added_tokens": specials, "pre_tokenizer": split(LLAMA3), "ignore_merges": True,
                   "post_processor": {"type": "Sequence", "processors": [byte_level(trim_offsets=False), bos(size)]}},
        "llama3_merged": {"added_tokens": specials, "pre_tokenizer": split(LLAMA3), "post_processor": bos(size)},
        "qwen": {"added_tokens": specials, "normalizer": {"type": "NFC"}, "pre_tokenizer": split(QWEN), "post_processor": byte_level()},
        "gpt2": {"added_tokens": specials},
        "flags": {"added_tokens": flags},
        "flags_nfc": {"added_tokens": flags, "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}]}},
        "prefix_space": {"added_tokens": specials, "pre_tokenizer": byte_level(add_prefix_space=True)},
        "no_regex": {"added_tokens": [], "pre_tokenizer": byte_level(use_regex=False)},
        "digits": {"added_tokens": specials, "pre_tokenizer": before_byte_level({"type": "Digits", "individual_digits": True})},
        "digit_runs": {"added_tokens": specials, "pre_tokenizer": before_byte_level({"type": "Digits", "individual_digits": False})},
        "split_then_regex": {"added_tokens": specials, "pre_tokenizer": before_byte_level(
            {"type": "Split", "pattern": {"Regex": QWEN}, "behavior": "Isolated", "invert": False},
            {"type": "Digits", "individual_digits": True})},
    }


def document(model, sections):
    sections = dict(sections)
    model = {**model, "ignore_merges": sections.pop("ignore_merges", False)}
    return {"version": "1.0", "truncation": None, "padding": None, "normalizer": None, "pre_tokenizer": byte_level(),
            "post_processor": None, "decoder": byte_level(add_prefix_space=True), **sections, "model": model}


def rank_cases(model):
    """tiktoken on the same vocabulary as ranks, with each family's expression and special tokens."""
    characters = {c: b for b, c in bytes_to_unicode().items()}
    ranks = {bytes(characters[c] for c in token): i for token, i in model["vocab"].items()}
    first = len(ranks)
    families = {"llama3": (LLAMA3, {"<|begin_of_text|>": first, "<|end_of_text|>": first + 1, "<|eot_id|>": first + 9}),
                "qwen": (QWEN, {"<|endoftext|>": first, "<|im_start|>": first + 1, "<|im_end|>": first + 2}),
                "gpt2": (GPT2, {"<|endoftext|>": first})}
    texts = [*TEXTS, "a<|endoftext|>b<|im_end|>", "<|begin_of_text|>x<|end_of_text|><|eot_id|>"]
    cases = {}
    for name, (pattern, specials) in families.items():
        encoding = tiktoken.Encoding(name, pat_str=pattern, mergeable_ranks=ranks, special_tokens=specials)
        prepared = [unicodedata.normalize("NFC", t) if name == "qwen" else t for t in texts]
        cases[name] = [encoding.encode(t, allowed_special="all") for t in prepared]
    file = "".join(f"{base64.b64encode(t).decode()} {r}\n" for t, r in sorted(ranks.items(), key=lambda item: item[1]))
    return {"file": file, "texts": texts, "cases": cases}


def bytes_to_unicode():
    own = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in own]
    return {**{b: chr(b) for b in own}, **{b: chr(256 + i) for i, b in enumerate(others)}}


def main():
    model = train()
    model["vocab"]["Ġunreachable"] = len(model["vocab"])  # no merge ends there: only a whole piece can be it
    result = {"versions": {"tokenizers": tokenizers.__version__, "tiktoken": tiktoken.__version__}, "texts": TEXTS, "variants": {}}
    for name, sections in variants(len(model["vocab"])).items():
        whole = document(model, sections)
        tokenizer = Tokenizer.from_str(json.dumps(whole))
        cases = []
        for text in TEXTS:
            ids = tokenizer.encode(text, add_special_tokens=False).ids
            case = {"ids": ids, "with_specials": tokenizer.encode(text).ids[:len(tokenizer.encode(text).ids) - len(ids)]}
            decoded = tokenizer.decode(ids, skip_special_tokens=False)
            if decoded != text:
                case["decoded"] = decoded
            cases.append(case)
        kept = copy.deepcopy(whole)
        del kept["model"]["vocab"], kept["model"]["merges"]
        result["variants"][name] = {"document": kept, "cases": cases}
    result["vocab"], result["merges"] = model["vocab"], model["merges"]
    result["ranks"] = rank_cases(model)
    path = pathlib.Path(__file__).parent / "tokenizers.json"
    path.write_text(json.dumps(result, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")
    print(path, path.stat().st_size, "bytes", len(model["vocab"]), "tokens", len(model["merges"]), "merges")


if __name__ == "__main__":
    main()
