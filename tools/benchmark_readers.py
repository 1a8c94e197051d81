# SPDX-License-Identifier: Apache-2.0
"""Benchmark files as their authors give them, as items {"query", "choices", "gold"} with the prompts of lm-eval's tasks. Standard
library only; tools/benchmark_tasks.py makes lm-eval tasks of them."""
import bz2
import csv
import io
import json
import os
import re
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

from tool_errors import ToolError, reading

LETTERS = "ABCDE"
Item = dict[str, Any]


def clean(text: str) -> str:
    """Returns a text by lm-eval's rule for HellaSwag and the translated ARC: the brackets come from WikiHow."""
    text = re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". "))
    return text.replace("  ", " ")


def lettered(question: str, choices: list[str], gold: int) -> Item:
    """Returns a question whose answer is the letter of a choice."""
    lines = "\n".join(f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices))
    return {"query": f"{question.strip()}\n{lines}\nAnswer:", "choices": list("ABCD"), "gold": gold}


def options_of(record: Item) -> list[str]:
    """Returns the choices of a file in the layout of Okapi (m_arc, m_mmlu)."""
    return [record[f"option_{letter}"] for letter in "abcde" if record.get(f"option_{letter}")]


def arc_item(record: Item) -> Item:
    """Returns an item of ARC: the authors' own files, the hub's, EXAMS, or Okapi's m_arc."""
    if "instruction" in record:
        return {"query": f"Question: {clean(record['instruction'])}\nAnswer:", "choices": [clean(text) for text in options_of(record)],
                "gold": LETTERS.index(record["answer"])}
    question, choices = record["question"], record.get("choices")
    if isinstance(question, dict):
        question, choices = question["stem"], question["choices"]
    if isinstance(choices, list):
        choices = {"text": [choice["text"] for choice in choices], "label": [choice["label"] for choice in choices]}
    return {"query": f"Question: {question}\nAnswer:", "choices": choices["text"], "gold": choices["label"].index(record["answerKey"])}


def hellaswag_item(record: Item) -> Item:
    """Returns an item of HellaSwag."""
    context = record["ctx_a"] + " " + record["ctx_b"].capitalize()
    return {"query": clean(record["activity_label"] + ": " + context), "choices": [clean(text) for text in record["endings"]],
            "gold": int(record["label"])}


def belebele_item(record: Item) -> Item:
    """Returns an item of Belebele."""
    choices = "\n".join(f"{letter}: {record[f'mc_answer{n}']}" for n, letter in enumerate("ABCD", 1))
    return {"query": f"P: {record['flores_passage']}\nQ: {record['question'].strip()}\n{choices}\nAnswer:", "choices": list("ABCD"),
            "gold": int(record["correct_answer_num"]) - 1}


def mmlu_item(record: Item) -> Item:
    """Returns an item of MMLU as on the hub, or Okapi's m_mmlu. `subject`, if there is one, chooses the shots and the first line of the prompt."""
    if "instruction" in record:
        return lettered(record["instruction"], options_of(record), LETTERS.index(record["answer"]))
    answer = record["answer"]
    item = lettered(record["question"], record["choices"], LETTERS.index(answer) if isinstance(answer, str) else int(answer))
    return {**item, "subject": record["subject"]} if record.get("subject") else item


ITEMS: dict[str, Callable[[Item], Item]] = {"arc": arc_item, "hellaswag": hellaswag_item, "belebele": belebele_item,
                                            "mmlu": mmlu_item}


def checked(item: Item) -> Item:
    """Returns an item whose right choice is one of its choices; refuses another."""
    if not (len(item["choices"]) > 1 and all(isinstance(text, str) and text for text in item["choices"])):
        raise ValueError(f"choices {item['choices']!r}")
    if not 0 <= item["gold"] < len(item["choices"]):
        raise ValueError(f"the right choice is number {item['gold']} of {len(item['choices'])}")
    return item


def read_jsonl(path: str, benchmark: str) -> Iterator[Item]:
    """Yields the items of a file with one on each line."""
    with open(path, encoding="utf-8-sig") as stream:
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            try:
                yield checked(ITEMS[benchmark](json.loads(line)))
            except KeyError as error:
                raise ToolError(f"{path}, line {number}: {error} is missing; docs/lm-eval.md lists the fields") from error
            except (ValueError, TypeError, AttributeError, IndexError, RecursionError) as error:
                raise ToolError(f"{path}, line {number}: not an item of {benchmark} ({error})") from error


def read_six_lines(path: str, _: str) -> Iterator[Item]:
    """Yields the items of HellaSwag as llama.cpp has it: context, number of the right ending, four endings. Its contexts are taken as they are."""
    opened = bz2.open(path, "rt", encoding="utf-8") if path.endswith(".bz2") else open(path, encoding="utf-8")
    with opened as stream:
        lines = stream.read().split("\n")
    while lines and not lines[-1]:
        lines.pop()
    for start in range(0, len(lines), 6):
        group = lines[start:start + 6]
        try:
            yield checked({"query": group[0], "choices": group[2:6], "gold": int(group[1])})
        except (ValueError, IndexError) as error:
            raise ToolError(f"{path}, line {start + 1}: wanted a context, the number of an ending and four endings ({error})") from error


def mmlu_tables(path: str) -> Iterator[tuple[str, str]]:
    """Yields (name, text) of every CSV file of MMLU's data folder, or of a zip archive of it."""
    if os.path.isdir(path):
        for folder, _, names in sorted(os.walk(path)):
            for name in sorted(names):
                if name.endswith(".csv"):
                    with open(os.path.join(folder, name), encoding="utf-8", newline="") as stream:
                        yield os.path.join(folder, name), stream.read()
        return
    with zipfile.ZipFile(path) as archive:
        for name in sorted(archive.namelist()):
            if name.endswith(".csv"):
                yield f"{path}:{name}", archive.read(name).decode()


def read_mmlu(path: str) -> dict[str, list[Item]]:
    """Returns {"dev": items, "test": items} of MMLU's CSV files; `subject` comes from their names."""
    with reading(path):
        return sort_mmlu(path)


def sort_mmlu(path: str) -> dict[str, list[Item]]:
    """Deals the rows of MMLU's tables out."""
    found: dict[str, list[Item]] = {"dev": [], "test": []}
    for name, text in mmlu_tables(path):
        subject, _, split = os.path.basename(name)[:-len(".csv")].rpartition("_")
        if split not in found:
            continue
        for number, row in enumerate(csv.reader(io.StringIO(text, newline="")), 1):
            try:
                question, *choices, answer = row
                item = checked(lettered(question, choices, LETTERS.index(answer)))
            except ValueError as error:
                raise ToolError(f"{name}, row {number}: wanted a question, four choices and a letter ({error})") from error
            found[split].append({**item, "subject": subject})
    if not found["test"]:
        raise ToolError(f"{path}: there is no SUBJECT_test.csv in it; wanted is MMLU's data folder or a zip of it")
    return found


def read_items(path: str, benchmark: str) -> list[Item]:
    """Returns the items of one file."""
    text = path.endswith((".txt", ".txt.bz2"))
    if text and benchmark != "hellaswag":
        raise ToolError(f"{path}: {benchmark} is read from .jsonl")
    with reading(path):
        items = list((read_six_lines if text else read_jsonl)(path, benchmark))
    if not items:
        raise ToolError(f"{path}: it is empty")
    return items
