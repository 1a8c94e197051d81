# SPDX-License-Identifier: Apache-2.0
"""What the numbers of a run say, in sentences; every one is computed, and one whose numbers are missing is left out."""
import math
from typing import Any

import report_pairs
from report_run import Results
from tool_errors import ToolError

ORDER_OF_TIES = {"random": "a draw decided which", "uuid": "the order of rows decided which, first layers first",
                 "separation": "their separation decided which"}
REPLACED = {"zero": "set to 0", "off_p50": "set to their medians over other languages", "on_p50": "set to their medians over the language"}


def percent(new: float, old: float) -> str:
    """Returns a relative change with its sign."""
    return f"{100.0 * (new / old - 1.0):+.0f} %"


def gain(dense: float, value: float) -> float:
    """Returns the gain in log-perplexity, nats per token; positive = better."""
    return math.log(dense) - math.log(value)


def expert_name(expert: int) -> str:
    """Returns how an expert is called: by its number, and 0 is the base's."""
    return f"expert {expert}" if expert else "the base expert"


def change_in_accuracy(before: dict[str, Any], after: dict[str, Any], paired: report_pairs.Change | None) -> str:
    """Returns words for a change between two accuracies; 2 standard errors is the bar for calling it a change."""
    words = f"{before['acc']:.3f} → {after['acc']:.3f}"
    if paired:
        return f"{words} ({paired.words()} in pairs{'' if paired.is_clear else ': no clear change'})"
    difference = after["acc"] - before["acc"]
    error = math.hypot(before.get("stderr", 0.0), after.get("stderr", 0.0))
    return words + ("" if abs(difference) > 2 * error else f" (within 2 standard errors, {2 * error:.3f}: no clear change)")


def doubt(before: report_pairs.Items | None, after: report_pairs.Items | None, lang: str) -> str:
    """Returns what has to be added where two perplexities do not clearly differ on the same documents."""
    change = report_pairs.change_of_nll(before, after, lang)
    return "" if change is None or change.is_clear else f" No clear change: {change.words()} nats per token in pairs."


def of_source(results: Results) -> list[str]:
    """Says what both stages did to the source language."""
    run, source, items = results.guided, results.source, results.guided.items
    dense, s1, s2 = results.dense_ppl(source), run.ppl("stage1", source), run.ppl("stage2", source)
    lines = []
    if dense and s1:
        lines.append(f"Forgetting: stage 1 costs {source} {percent(s1, dense)} perplexity ({dense:.1f} → {s1:.1f})." if s1 > dense else
                     f"Forgetting was NOT seen: {source} perplexity {dense:.1f} → {s1:.1f} in stage 1.")
        lines[-1] += doubt(results.dense_items, items.get("stage1"), source)
    if dense and s1 and s2:
        if s2 < s1 and s1 > dense:
            undone = gain(s1, s2) / gain(s1, dense)
            lines.append(f"Recovery: stage 2 (routers only) brings {source} to {s2:.1f}, {percent(s2, dense)} against "
                         f"the base: {100 * undone:.0f} % of the loss in log-perplexity is undone.")
        elif s2 < s1:
            lines.append(f"Stage 2 lowers {source} perplexity further, {s1:.1f} → {s2:.1f}.")
        else:
            lines.append(f"Recovery was NOT seen: {source} perplexity {s1:.1f} → {s2:.1f} in stage 2.")
        lines[-1] += doubt(items.get("stage1"), items.get("stage2"), source)
    return lines


def of_target(results: Results) -> list[str]:
    """Says what both stages did to the target language."""
    run, target = results.guided, results.target
    dense, t1, t2 = results.dense_ppl(target), run.ppl("stage1", target), run.ppl("stage2", target)
    if not dense or not t1:
        return []
    if t1 >= dense:
        return [f"The target did NOT gain: {target} perplexity {dense:.1f} → {t1:.1f} in stage 1."]
    after = f", {t2:.1f} after stage 2: {100 * gain(dense, t2) / gain(dense, t1):.0f} % of the gain in log-perplexity is kept" if t2 else ""
    return [f"Target: {target} perplexity {dense:.1f} → {t1:.1f} in stage 1 ({percent(t1, dense)}){after}."]


def of_tasks(results: Results) -> list[str]:
    """Says how the continuation task changed, in pairs where the items of both models are there."""
    run, lines = results.guided, []
    steps = [("base", results.dense, results.dense_items), ("stage 1", run.evals.get("stage1"), run.items.get("stage1")),
             ("stage 2", run.evals.get("stage2"), run.items.get("stage2"))]
    for lang in (results.source, results.target):
        found = [(name, task, items) for name, evaluation, items in steps if (task := (evaluation or {}).get("continuation", {}).get(lang))]
        changes = [f"{name} to {next_name} {change_in_accuracy(task, next_task, report_pairs.change_of_accuracy(items, next_items, lang))}"
                   for (name, task, items), (next_name, next_task, next_items) in zip(found, found[1:])]
        if changes:
            lines.append(f"Continuation task, {lang} ({found[0][1]['n']} items, chance 0.25): {'; '.join(changes)}.")
    return lines


def of_allocation(results: Results) -> list[str]:
    """Says where the experts are, how many were there before, and what the selection stands on."""
    experts, lines = results.guided.experts, []
    if experts:
        layers, total = len(experts), sum(experts)
        lines.append(f"Allocation: {','.join(map(str, experts))} = {total} experts, {total - layers} of them new, in "
                     f"{sum(e > 1 for e in experts)} of {layers} layers; three in every layer would be {3 * layers}, "
                     f"{2 * layers} of them new.")
        if results.guided.existing:
            existing = sum(results.guided.existing)
            lines.append(f"Extension: {existing - layers} of the new experts were there before and are frozen, {total - existing} were "
                         f"added; the comparisons with the base count what both have changed.")
    counts = results.counts
    if counts and len(counts) >= 8 and sum(counts):
        edge = sum(counts[:2] + counts[-2:]) / sum(counts)
        lines.append(f"Neurons of {results.source} or {results.target}: {min(counts)} to {max(counts)} per layer; the "
                     f"first two and last two layers hold {100 * edge:.0f} % (an even spread: {400 / len(counts):.0f} %).")
    return lines


def of_selection(results: Results) -> list[str]:
    """Says how many neurons were selected, and how much of that is chance."""
    neurons, lines = results.neurons, []
    if neurons and neurons["rows"]:
        rows = neurons["rows"]
        lines.append(f"Selection: the top {max(rows.values())} of {neurons['num_neurons']} neurons per language "
                     f"({100 * max(rows.values()) / neurons['num_neurons']:.2g} %). The paper takes 1000 of 774,144; "
                     "the count is scaled to this model, not copied.")
        for lang, (ap, tied, taken, order) in neurons["cut"].items():
            if tied > taken:
                lines.append(f"Caution: {tied} neurons of {lang} have the AP of the cut, {ap:.4f}, and {taken} of them were "
                             f"taken; {ORDER_OF_TIES.get(order, order)}. top_k = {rows[lang] + tied - taken} takes them all, and "
                             "negatives in the same script would tell them apart.")
    for line in results.guided.warnings:
        if line.startswith("ties drawn"):
            lines.append(f"How much of the list is chance: {line}.")
        elif line.startswith("top_k = "):
            lines.append(f"Without a draw: {line}.")
        elif not neurons or " have the AP of the cut" not in line:  # which stands above
            lines.append(f"Caution: {line}.")
    return lines


def of_experts(results: Results) -> list[str]:
    """Says which expert is most specialized in the target."""
    shares = results.specialization
    if not shares or max(shares.values()) <= 0:
        return []
    (layer, expert), share = max(shares.items(), key=lambda item: item[1])
    base = max((share for (_, e), share in shares.items() if e == 0), default=0.0)
    return [f"Specialization: {expert_name(expert)} of layer {layer} carries the most high-AP values for {results.target} "
            f"({share:.1f} % with AP ≥ {results.bar:g}); the most in any base expert is {base:.1f} %."]


def of_interventions(matrix: dict[str, Any] | None) -> list[str]:
    """Says for each language's neurons what becomes of its own text, of the others', and of its own with a random set."""
    lines = []
    for number, (lang, control, size) in enumerate(matrix["rows"] if matrix else []):
        if not matrix or control or lang not in matrix["columns"]:
            continue
        own = matrix["columns"].index(lang)
        change, error = matrix["change"][number], matrix["stderr"][number][own]
        others = [value for column, value in enumerate(change) if column != own]
        random = [row[own] for (other, which, _), row in zip(matrix["rows"], matrix["change"]) if other == lang and which]
        words = f"{change[own]:+.3f} ± {error:.3f} nats per token on {lang}"
        if others:
            words += f", {min(others):+.3f} to {max(others):+.3f} on the other languages"
        if random:
            words += f"; as many random ones: {min(random):+.3f}" + (f" to {max(random):+.3f}" if len(random) > 1 else "") + f" on {lang}"
        beats = change[own] - 2 * error > max(others + random, default=0.0)
        if others and random:
            words += ": " + ("its own text is hit most" if beats else "its own text does NOT stand out")
        lines.append(f"Neurons of {lang} ({size} of them) {REPLACED.get(matrix['replace'], matrix['replace'])}: {words}.")
    return lines


def of_control(results: Results) -> list[str]:
    """Compares the run with its control on the target."""
    run, control, target = results.guided, results.control, results.target
    if not control:
        return []
    dense, ours, theirs = results.dense_ppl(target), run.ppl("stage2", target), control.ppl("stage2", target)
    if not dense or not ours or not theirs:
        return [f"Control: {target} was not measured after stage 2 of both; no comparison."]
    if theirs >= dense or control.new == 0:
        return [f"Control: the uniform model did not gain on {target}; no comparison."]
    better = "uniform is better" if theirs < ours else "neuron-guided is better"
    paired = report_pairs.change_of_nll(control.items.get("stage2"), run.items.get("stage2"), target)
    if paired:
        better += f" ({paired.words(signed=False)} nats per token in pairs{'' if paired.is_clear else ': no clear difference'})"
    return [f"Control: after stage 2 the neuron-guided model has {100 * gain(dense, ours) / gain(dense, theirs):.0f} % of the uniform "
            f"model's log-perplexity gain on {target} with {100 * run.new / control.new:.0f} % of its new experts "
            f"({run.new} against {control.new}); on the target {better} here. One seed, and the expert counts differ: "
            "this is a trade-off, not a ranking of placements."]


def verdict(results: Results) -> list[str]:
    """Returns all sentences, the most wanted first."""
    return (of_source(results) + of_target(results) + of_tasks(results) + of_allocation(results) + of_selection(results)
            + of_experts(results) + of_interventions(results.interventions) + of_control(results)
            + ["One seed, one narrow domain: this shows the mechanism; it says nothing about the accuracy of large models."])


def broken_inequalities(results: Results) -> list[str]:
    """Returns what does not hold of what must hold in any working run; no list of experts is ever asserted."""
    run, source, target = results.guided, results.source, results.target
    values = {name: value for name, value in (
        ("dense_s", results.dense_ppl(source)), ("dense_t", results.dense_ppl(target)), ("s1", run.ppl("stage1", source)),
        ("s2", run.ppl("stage2", source)), ("t1", run.ppl("stage1", target)), ("t2", run.ppl("stage2", target)))}
    if None in values.values() or not run.experts:
        raise ToolError("--check needs experts.cfg and the perplexities of source and target of the base and after both stages; some are missing")
    dense_s, dense_t, s1, s2, t1, t2 = (value or 0.0 for value in values.values())
    tests = [(s1 > dense_s, f"stage 1 {source} perplexity {s1:.2f} > dense {dense_s:.2f}"),
             (s2 < s1, f"stage 2 {source} perplexity {s2:.2f} < stage 1 {s1:.2f}"),
             (t1 < dense_t, f"stage 1 {target} perplexity {t1:.2f} < dense {dense_t:.2f}"),
             (t2 < dense_t, f"stage 2 {target} perplexity {t2:.2f} < dense {dense_t:.2f}"),
             (run.total < 3 * len(run.experts), f"{run.total} experts < 3 per layer = {3 * len(run.experts)}"),
             (run.new > 0, f"{run.new} new experts > 0")]
    return [text for holds, text in tests if not holds]
