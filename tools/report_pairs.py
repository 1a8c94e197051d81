# SPDX-License-Identifier: Apache-2.0
"""Two models on the same documents and items: the difference and its standard error, from the lines of eval.items.jsonl."""
import json
import math
from typing import Any, NamedTuple

from tool_errors import ToolError, reading


class Change(NamedTuple):
    """A difference between two models: how much, its standard error, over how many documents or items."""

    value: float
    error: float
    size: int

    @property
    def is_clear(self) -> bool:
        """Whether the difference is more than two standard errors."""
        return abs(self.value) > 2 * self.error

    def words(self, signed: bool = True) -> str:
        """Returns the difference and its error, with as many digits as the error needs."""
        digits = 3 if self.error >= 0.001 or not self.error else min(8, 1 - math.floor(math.log10(self.error)))
        return f"{self.value if signed else abs(self.value):{'+' if signed else ''}.{digits}f} ± {self.error:.{digits}f}"


class Items:
    """What one model did to each document, `documents[lang][number] = (tokens, loglikelihood)`, and item,
    `answers[lang][number] = 1 or 0`."""

    def __init__(self) -> None:
        self.documents: dict[str, dict[int, tuple[int, float]]] = {}
        self.answers: dict[str, dict[int, int]] = {}


def read_items(path: str, evaluation: dict[str, Any]) -> Items:
    """Returns the items of `evaluation`; refuses those of another one.

    @raise ToolError with the number of a line that is not as `evaluate` writes it.
    """
    items = Items()
    with reading(path), open(path, encoding="utf-8") as stream:
        for number, line in enumerate(stream, 1):
            try:
                add_line(items, json.loads(line))
            except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
                raise ToolError(f"{path}: line {number} is not as `evaluate` writes it ({type(error).__name__}: {error})") from error
    for lang, documents in items.documents.items():
        found = evaluation["perplexity"].get(lang, {}).get("ppl")
        tokens = sum(count for count, _ in documents.values())
        nll = -sum(value for _, value in documents.values()) / max(tokens, 1)
        if found is None or not math.isclose(nll, math.log(found), rel_tol=1e-5, abs_tol=1e-5):
            raise ToolError(f"{path}: its documents of {lang} have a perplexity of {math.exp(min(nll, 700)):.6g}, the evaluation beside it "
                            f"has {found}; evaluate again")
    for lang, answers in items.answers.items():
        task = evaluation.get("continuation", {}).get(lang, {})
        if task.get("n") != len(answers):
            raise ToolError(f"{path}: {len(answers)} items of {lang}, the evaluation beside it has {task.get('n')}; evaluate again")
    return items


def add_line(items: Items, row: dict[str, Any]) -> None:
    """Adds a line of eval.items.jsonl; lines of tasks that are not compared are passed over."""
    if row["task"] == "perplexity":
        tokens, value = int(row["tokens"]), float(row["loglikelihood"])
        if tokens < 0 or not math.isfinite(value):
            raise ValueError(f"{tokens} tokens, log-likelihood {value}")
        items.documents.setdefault(str(row["set"]), {})[int(row["document"])] = tokens, value
    elif row["task"] == "continuation":
        items.answers.setdefault(str(row["set"]), {})[int(row["item"])] = int(row["gold"] == row["chosen"])


def change_of_nll(before: Items | None, after: Items | None, lang: str) -> Change | None:
    """Returns the change of the negative log-likelihood per token (nats, i.e. of the log-perplexity) with the standard error of a ratio
    over documents, as `evaluate` computes it for replaced neurons; None unless both have the same documents."""
    if before is None or after is None:
        return None
    first, second = before.documents.get(lang, {}), after.documents.get(lang, {})
    if first.keys() != second.keys() or any(first[key][0] != second[key][0] for key in first):
        return None
    tokens = sum(count for count, _ in first.values())
    if len(first) < 2 or not tokens:
        return None
    changes = [(first[key][0], first[key][1] - second[key][1]) for key in first]
    mean = sum(value for _, value in changes) / tokens
    squares = sum((value - mean * count) ** 2 for count, value in changes)
    return Change(mean, math.sqrt(len(first) / (len(first) - 1) * squares) / tokens, len(first))


def change_of_accuracy(before: Items | None, after: Items | None, lang: str) -> Change | None:
    """Returns the change of the share of right choices with its standard error over items; None unless both have the same items."""
    if before is None or after is None:
        return None
    first, second = before.answers.get(lang, {}), after.answers.get(lang, {})
    if first.keys() != second.keys() or len(first) < 2:
        return None
    changes = [second[key] - first[key] for key in first]
    mean = sum(changes) / len(changes)
    squares = sum((value - mean) ** 2 for value in changes)
    return Change(mean, math.sqrt(squares / (len(changes) - 1) / len(changes)), len(changes))
