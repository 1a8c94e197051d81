# SPDX-License-Identifier: Apache-2.0
"""The rules of the quickstart's text, for tools/prepare_corpus.py: what is a paragraph, what is clean, which split a
file belongs to, what becomes a sense sentence or a continuation item. Pure functions; no files, no network.
"""
import hashlib
import html
import random
import re
from collections.abc import Iterable, Iterator
from typing import Any

from tool_errors import ToolError

# Share of letters that must belong to the language's own script.
NATIVE_SHARE = {"el": 0.6, "zh": 0.5, "ja": 0.5}
MIN_CHARS = {"zh": 8, "ja": 8}
ENGLISH_WORDS = frozenset(
    "the of and to in is for that with this on are you from by an as it can if not which when will your or be".split())
BLOCK = re.compile(r"<(p|h[1-6])\b([^>]*)>(.*?)</\1>", re.S)
ATTR_ID = re.compile(r'\bid="([^"]+)"')
ATTR_CLASS = re.compile(r'\bclass="([^"]*)"')
BREAK = re.compile(r"<br\b[^>]*>")
TAG = re.compile(r"<[^>]*>")
WORD = re.compile(r"[^\W\d_]+")
Row = tuple[str, str, str]  # path, id, text
SENTENCE_END = re.compile(r"[.!?]+\s+")


# ---------------------------------------------------------------- pages to paragraphs

def paragraphs(page: str) -> Iterator[tuple[str, str]]:
    """Yields (id, text) of each body paragraph of one help page; headings and code are left out."""
    start = page.find('id="DisplayArea"')
    if start < 0:
        return
    end = page.find('<div id="DonationFrame"', start)
    for tag, attributes, body in BLOCK.findall(page[start:end if end >= 0 else len(page)]):
        key = ATTR_ID.search(attributes)
        if tag != "p" or not key:
            continue
        css = ATTR_CLASS.search(attributes)
        if css and any(word in css.group(1) for word in ("code", "literal", "emph")):
            continue
        text = " ".join(html.unescape(TAG.sub("", BREAK.sub(" ", body))).split())
        if text:
            yield key.group(1), text


def is_native(lang: str, char: str) -> bool:
    """Returns whether a letter belongs to the script of the language."""
    code = ord(char)
    if lang == "el":
        return 0x370 <= code < 0x400 or 0x1F00 <= code < 0x2000
    han = 0x3400 <= code < 0xA000 or 0xF900 <= code < 0xFB00
    return han or (lang == "ja" and 0x3040 <= code < 0x3100)


def is_clean(lang: str, text: str, english: str | None) -> bool:
    """Returns whether `text` is prose of `lang`; `english` is the English text of the same key, or None."""
    if len(text) < MIN_CHARS.get(lang, 20):
        return False
    visible = [c for c in text if not c.isspace()]
    letters = [c for c in visible if c.isalpha()]
    if len(letters) < 0.6 * len(visible):
        return False
    if lang in NATIVE_SHARE:
        return sum(is_native(lang, c) for c in letters) >= NATIVE_SHARE[lang] * len(letters)
    if lang == "en":
        return True
    if text == english:  # left untranslated
        return False
    words = WORD.findall(text.lower())
    return sum(word in ENGLISH_WORDS for word in words) <= 0.18 * len(words)


def read_pages(lang: str, members: Iterable[tuple[str, bytes]]) -> dict[str, list[tuple[str, str]]]:
    """Returns {path: [(id, text)]}. `members`: (path inside the text folder, bytes)."""
    pages = {}
    for path, raw in members:
        try:
            page = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ToolError(f"{lang}: {path} is not UTF-8 ({error}); the package may be damaged") from error
        found = list(paragraphs(page))
        if found:
            pages[path] = found
    return pages


def clean_pages(lang: str, pages: dict[str, list[tuple[str, str]]], english_text: dict[tuple[str, str], str]) -> list[Row]:
    """Drops what is not prose of the language and exact duplicates. Returns [(path, id, text)], paths in byte order."""
    seen, kept = set(), []
    for path in sorted(pages):
        for key, text in pages[path]:
            if text in seen or not is_clean(lang, text, english_text.get((path, key))):
                continue
            seen.add(text)
            kept.append((path, key, text))
    return kept


# ---------------------------------------------------------------- split, order, sampling

def unit_hash(*parts: object) -> float:
    """Returns a number in [0, 1) that depends on the parts alone."""
    digest = hashlib.sha256("\0".join(str(part) for part in parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2.0**64


def split_of(path: str) -> str:
    """Returns the split of a file: 10 % of the files are `tune`, 10 % `test`. No seed: a held-out file is held out in every run."""
    value = unit_hash("split", path)
    return "test" if value < 0.1 else "tune" if value < 0.2 else "train"


def arrange(seed: int, kept: list[Row]) -> list[Row]:
    """Orders files by a seeded hash, so that any leading part of a file list is a fair sample; a file stays whole."""
    return sorted(kept, key=lambda row: unit_hash(seed, "order", row[0]))


def sense_pieces(text: str) -> list[str]:
    """Returns the sense sentences of one document (METHOD 1.1): of 20 < length < 500 code points its first three pieces longer than 20."""
    text = text.strip()
    if not 20 < len(text) < 500:
        return []
    return [piece for piece in (piece.strip() for piece in SENTENCE_END.split(text)[:3]) if len(piece) > 20]


def sense_pool(texts: Iterable[str], wanted: int, rng: random.Random) -> list[str]:
    """Returns the pool of sense sentences: stop after the document that reaches 2*pool; draw the pool without replacement;
    pool = 2*wanted."""
    pool_size, found = 2 * wanted, []
    for text in texts:
        found.extend(sense_pieces(text))
        if len(found) >= 2 * pool_size:
            break
    return rng.sample(found, pool_size) if len(found) > pool_size else found


def negatives_from_others(lang: str, positives: dict[str, list[str]]) -> dict[str, Any]:
    """Returns the sense file of `lang`: its own sentences, and those of all other languages as negatives."""
    return {"concept": lang, "group": "sense", "source": "language", "sentences": {
        "positive": positives[lang],
        "negative": [text for other in positives if other != lang for text in positives[other]]}}


def sense_sets(train: dict[str, list[Row]], wanted: int, seed: int) -> dict[str, dict[str, Any]]:
    """Returns one fixed set of `wanted` sentences per language, reused as negatives of every other language."""
    positives = {}
    for lang in train:
        rng = random.Random(f"{seed}/sense/{lang}")
        pool = sense_pool((row[2] for row in train[lang]), wanted, rng)
        if not pool:
            raise ToolError(f"{lang}: no sentence of the train split passes the sense rule (20 to 500 characters)")
        positives[lang] = rng.sample(pool, min(wanted, len(pool)))
    return {lang: negatives_from_others(lang, positives) for lang in positives}


# Characters of a paragraph that come to 24-80 pieces of the quickstart's 4096-piece vocabulary, measured on the
# tune split (characters per piece: en 3.5, es and el 3.2, hu and tr 2.75, zh 0.93). 95 % of the items fall inside.
ITEM_CHARS = {"en": (92, 264), "es": (88, 250), "el": (88, 250), "zh": (24, 72), "ja": (24, 72)}
ITEM_CHARS_DEFAULT = (74, 205)


def halve(lang: str, text: str) -> tuple[str, str] | None:
    """Splits in the middle; at the blank nearest to the middle where the script has blanks. None if it cannot."""
    middle = len(text) // 2
    if lang in ("zh", "ja"):
        return text[:middle], text[middle:]
    blanks = [i for i, c in enumerate(text) if c == " "]
    if not blanks:
        return None
    cut = min(blanks, key=lambda i: (abs(i - middle), i))
    head, tail = text[:cut], text[cut + 1:]
    return (head, tail) if len(head) >= 12 and len(tail) >= 12 else None


def continuation_items(lang: str, rows: list[Row], wanted: int, seed: int) -> list[dict[str, Any]]:
    """Returns items of the continuation task: which of four halves of similar length ends this paragraph?"""
    low, high = ITEM_CHARS.get(lang, ITEM_CHARS_DEFAULT)
    halves = []
    for path, key, text in rows:
        parts = halve(lang, text) if low <= len(text) <= high else None
        if parts:
            halves.append((path, key) + parts)
    rng = random.Random(f"{seed}/continuation/{lang}")
    rng.shuffle(halves)
    by_length = sorted(range(len(halves)), key=lambda i: (len(halves[i][3]), i))
    place = {index: n for n, index in enumerate(by_length)}
    items = []
    for index, (path, key, head, tail) in enumerate(halves):
        if len(items) == wanted:
            break
        # The 30 nearest in length; other pages only, so that a distractor never continues the same topic.
        near = by_length[max(0, place[index] - 15):place[index] + 16]
        others = sorted({halves[i][3] for i in near if halves[i][0] != path and halves[i][3] != tail})
        if len(others) < 3:
            continue
        choices = rng.sample(others, 3)
        gold = rng.randrange(4)
        choices.insert(gold, tail)
        items.append({"context": head, "choices": choices, "gold": gold, "id": f"{path}|{key}"})
    return items


def parse_mix(text: str) -> dict[str, float]:
    """Returns {language: share} of a text like en=1.0,el=0.6."""
    mix = {}
    for part in text.split(","):
        lang, _, share = part.partition("=")
        try:
            mix[lang.strip()] = float(share)
        except ValueError:
            raise ToolError(f"--mix: '{part}' is not LANG=SHARE", 78) from None
        if not 0 <= mix[lang.strip()] <= 1:
            raise ToolError(f"--mix: share of {lang} is {share}, it must lie in [0, 1]", 78)
    return mix


def tokenizer_lines(train: dict[str, list[Row]], mix: dict[str, float], seed: int) -> list[str]:
    """Returns a fixed sample of train lines, `mix[lang]` of each language, interleaved by hash."""
    rows = [(unit_hash(seed, "interleave", lang, *row[:2]), row[2]) for lang in train for row in train[lang]
            if unit_hash(seed, "mix", lang, *row[:2]) < mix.get(lang, 0.0)]
    return [text for _, text in sorted(rows)]
