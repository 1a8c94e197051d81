#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Last step of the journey: one self-contained report.html, the result table on the terminal, and a plain verdict.

    tools/report.py --work DIR --source en --target el [--control DIR] [--split test] [--check]

Reads neurons.h5, experts.cfg, metrics.jsonl, expert_neurons.h5 and eval-*.json below DIR; every statement is
computed from them. --check exits with 1 unless the inequalities of a working run hold. Needs Debian's python3-h5py
and python3-matplotlib, so use /usr/bin/python3.
"""
import argparse
import base64
import glob
import html
import math
import os
import sys

import report_data as data

ORDER_OF_TIES = {"random": "a draw decided which", "uuid": "the order of rows decided which, first layers first",
                 "separation": "their separation decided which"}


def percent(new, old):
    return f"{100.0 * (new / old - 1.0):+.0f} %"


class Journey:
    """Everything the report speaks about."""

    def __init__(self, options):
        work, target = options.work, options.target
        self.source, self.target, self.split, self.version = options.source, target, options.split, options.version
        before = os.path.join(work, target, "eval-before.json")  # of the mixture that an extension adds to
        self.before = data.read_eval(before) if os.path.exists(before) else None
        neurons = os.path.join(work, target, "neurons.h5") if self.before else os.path.join(work, "neurons.h5")
        self.neurons = data.read_neurons(neurons)
        for lang in (self.source, target):
            if lang not in self.neurons["languages"]:
                raise data.ReportError(f"{neurons}: language {lang} was not analysed")
        dense = os.path.join(work, target, "eval-dense.json")
        self.dense = data.read_eval(dense)
        self.interventions = data.read_interventions(dense, self.dense)
        self.guided = data.Run(os.path.join(work, target), "neuron-guided")
        self.control = data.Run(os.path.join(work, options.control), "uniform") if options.control else None
        pretrain = os.path.join(work, "base", "checkpoints", "metrics.jsonl")  # a base that was given has none
        self.pretrain = data.read_metrics(pretrain) if os.path.exists(pretrain) else None
        self.specialization, self.bar = data.read_specialization(
            os.path.join(work, target, "expert_neurons.h5"), target)
        self.counts = data.union_counts(self.neurons, [self.source, target])
        if len(self.guided.experts) != len(self.counts):
            raise data.ReportError(f"experts.cfg has {len(self.guided.experts)} layers, neurons.h5 {len(self.counts)}")
        texts = {name: os.path.join(work, target, f"texts-{stage}.jsonl")
                 for name, stage in (("dense base", "dense"), ("stage 1", "stage1"), ("stage 2", "stage2"))}
        self.texts = {name: data.read_texts(path) for name, path in texts.items() if os.path.exists(path)}
        corpus = os.path.join(work, "corpus", "corpus.json")
        self.corpus_path, self.corpus = corpus, data.read_json(corpus) if os.path.exists(corpus) else None
        self.configs = sorted(glob.glob(os.path.join(glob.escape(work), "config", "*.cfg"))
                              + glob.glob(os.path.join(glob.escape(work), "config", glob.escape(target), "*.cfg")))

    @property
    def languages(self):
        known = [lang for lang in self.neurons["languages"] if lang in self.dense["perplexity"]]
        return [self.source, self.target] + [lang for lang in known if lang not in (self.source, self.target)]

    def dense_ppl(self, lang):
        return float(self.dense["perplexity"][lang]["ppl"])

    def rows(self):
        """(name, experts, new experts, evaluation) of each line of the table."""
        layers = len(self.guided.experts)
        rows = [("dense base", layers, 0, self.dense)]
        if self.before:
            existing = sum(self.guided.existing or self.guided.experts)
            rows.append(("before, the mixture", existing, existing - layers, self.before))
        for run in [self.guided] + ([self.control] if self.control else []):
            for stage in ("stage1", "stage2"):
                rows.append((f"{stage[:-1]} {stage[-1]}, {run.label}", run.total, run.new, run.evals[stage]))
        return rows


# ---------------------------------------------------------------- what the numbers say

def change_in_accuracy(before, after):
    """Words for a change between two accuracies; 2 standard errors is the bar for calling it a change."""
    difference = after["acc"] - before["acc"]
    error = math.hypot(before.get("stderr", 0.0), after.get("stderr", 0.0))
    words = f"{before['acc']:.3f} → {after['acc']:.3f}"
    return words + ("" if abs(difference) > 2 * error else f" (within 2 standard errors, {2 * error:.3f}: no clear change)")


def gain(dense, value):
    """Gain in log-perplexity, nats per token; positive = better."""
    return math.log(dense) - math.log(value)


def verdict_stages(journey):
    run, source, target = journey.guided, journey.source, journey.target
    dense_source, dense_target = journey.dense_ppl(source), journey.dense_ppl(target)
    s1, s2 = run.ppl("stage1", source), run.ppl("stage2", source)
    t1, t2 = run.ppl("stage1", target), run.ppl("stage2", target)
    lines = []
    if s1 > dense_source:
        lines.append(f"Forgetting: stage 1 costs {source} {percent(s1, dense_source)} perplexity "
                     f"({dense_source:.1f} → {s1:.1f}).")
    else:
        lines.append(f"Forgetting was NOT seen: {source} perplexity {dense_source:.1f} → {s1:.1f} in stage 1.")
    if s2 < s1 and s1 > dense_source:
        undone = gain(s1, s2) / gain(s1, dense_source)
        lines.append(f"Recovery: stage 2 (routers only) brings {source} to {s2:.1f}, {percent(s2, dense_source)} against "
                     f"the base: {100 * undone:.0f} % of the loss in log-perplexity is undone.")
    elif s2 < s1:
        lines.append(f"Stage 2 lowers {source} perplexity further, {s1:.1f} → {s2:.1f}.")
    else:
        lines.append(f"Recovery was NOT seen: {source} perplexity {s1:.1f} → {s2:.1f} in stage 2.")
    if t1 < dense_target:
        kept = gain(dense_target, t2) / gain(dense_target, t1)
        lines.append(f"Target: {target} perplexity {dense_target:.1f} → {t1:.1f} in stage 1 ({percent(t1, dense_target)}), "
                     f"{t2:.1f} after stage 2: {100 * kept:.0f} % of the gain in log-perplexity is kept.")
    else:
        lines.append(f"The target did NOT gain: {target} perplexity {dense_target:.1f} → {t1:.1f} in stage 1.")
    for lang in (source, target):
        tasks = [e.get("continuation", {}).get(lang) for e in
                 (journey.dense, run.evals["stage1"], run.evals["stage2"])]
        if all(tasks):
            lines.append(f"Continuation task, {lang} ({tasks[0]['n']} items, chance 0.25): base to stage 1 "
                         f"{change_in_accuracy(tasks[0], tasks[1])}; stage 1 to stage 2 "
                         f"{change_in_accuracy(tasks[1], tasks[2])}.")
    return lines


def verdict_allocation(journey):
    experts, counts = journey.guided.experts, journey.counts
    layers, total = len(experts), sum(experts)
    lines = [f"Allocation: {','.join(map(str, experts))} = {total} experts, {total - layers} of them new, in "
             f"{sum(e > 1 for e in experts)} of {layers} layers; three in every layer would be {3 * layers}, "
             f"{2 * layers} of them new."]
    if journey.guided.existing:
        existing = sum(journey.guided.existing)
        lines.append(f"Extension: {existing - layers} of the new experts were there before and are frozen, {total - existing} were "
                     f"added; the comparisons with the base count what both have changed.")
    if layers >= 8 and sum(counts):
        edge = sum(counts[:2] + counts[-2:]) / sum(counts)
        lines.append(f"Neurons of {journey.source} or {journey.target}: {min(counts)} to {max(counts)} per layer; the "
                     f"first two and last two layers hold {100 * edge:.0f} % (an even spread: {400 / layers:.0f} %).")
    rows = journey.neurons["rows"]
    lines.append(f"Selection: the top {max(rows.values())} of {journey.neurons['num_neurons']} neurons per language "
                 f"({100 * max(rows.values()) / journey.neurons['num_neurons']:.2g} %). The paper takes 1000 of 774,144; "
                 "the count is scaled to this model, not copied.")
    for lang, (ap, tied, taken, order) in journey.neurons["cut"].items():
        if tied > taken:
            lines.append(f"Caution: {tied} neurons of {lang} have the AP of the cut, {ap:.4f}, and {taken} of them were "
                         f"taken; {ORDER_OF_TIES.get(order, order)}. top_k = {rows[lang] + tied - taken} takes them all, and "
                         "negatives in the same script would tell them apart.")
    if journey.guided.tie_range:
        lines.append(f"How much of the list is chance: {journey.guided.tie_range}.")
    values = journey.specialization
    if values and max(values.values()) > 0:
        (layer, expert), share = max(values.items(), key=lambda item: item[1])
        name = "the base expert" if expert == 0 else f"exp_{expert - 1}"
        base = max((share for (_, e), share in values.items() if e == 0), default=0.0)
        lines.append(f"Specialisation: {name} of layer {layer} carries the most high-AP values for {journey.target} "
                     f"({share:.1f} % with AP ≥ {journey.bar:g}); the most in any base expert is {base:.1f} %.")
    return lines


def verdict_control(journey):
    run, control, target = journey.guided, journey.control, journey.target
    dense = journey.dense_ppl(target)
    ours, theirs = gain(dense, run.ppl("stage2", target)), gain(dense, control.ppl("stage2", target))
    if theirs <= 0 or control.new == 0:
        return [f"Control: the uniform model did not gain on {target}; no comparison."]
    better = "uniform is better" if theirs > ours else "neuron-guided is better"
    return [f"Control: after stage 2 the neuron-guided model has {100 * ours / theirs:.0f} % of the uniform model's "
            f"log-perplexity gain on {target} with {100 * run.new / control.new:.0f} % of its new experts "
            f"({run.new} against {control.new}); on the target {better} here. One seed, and the expert counts differ: "
            "this is a trade-off, not a ranking of placements."]


def verdict_interventions(matrix):
    """For each language's neurons: what becomes of its own text, of the others', and of its own with a random set."""
    replaced = {"zero": "set to 0", "off_p50": "set to their medians over other languages",
                "on_p50": "set to their medians over the language"}.get(matrix["replace"], matrix["replace"])
    lines = []
    for number, (lang, control, size) in enumerate(matrix["rows"]):
        if control or lang not in matrix["columns"]:
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
        lines.append(f"Neurons of {lang} ({size} of them) {replaced}: {words}.")
    return lines


def verdict(journey):
    lines = verdict_stages(journey) + verdict_allocation(journey)
    if journey.interventions:
        lines += verdict_interventions(journey.interventions)
    if journey.control:
        lines += verdict_control(journey)
    return lines + ["One seed, one narrow domain: this shows the mechanism; it says "
                    "nothing about the accuracy of large models."]


def broken_inequalities(journey):
    """What must hold in any working run; no allocation list is ever asserted."""
    run, source, target = journey.guided, journey.source, journey.target
    dense_s, dense_t = journey.dense_ppl(source), journey.dense_ppl(target)
    s1, s2, t1, t2 = (run.ppl(stage, lang) for lang in (source, target) for stage in ("stage1", "stage2"))
    tests = [(s1 > dense_s, f"stage 1 {source} perplexity {s1:.2f} > dense {dense_s:.2f}"),
             (s2 < s1, f"stage 2 {source} perplexity {s2:.2f} < stage 1 {s1:.2f}"),
             (t1 < dense_t, f"stage 1 {target} perplexity {t1:.2f} < dense {dense_t:.2f}"),
             (t2 < dense_t, f"stage 2 {target} perplexity {t2:.2f} < dense {dense_t:.2f}"),
             (run.total < 3 * len(run.experts), f"{run.total} experts < 3 per layer = {3 * len(run.experts)}"),
             (run.new > 0, f"{run.new} new experts > 0")]
    return [text for holds, text in tests if not holds]


# ---------------------------------------------------------------- table

def table(journey):
    """Header and cells; perplexity per language, then accuracy of the continuation task."""
    tasks = [lang for lang in journey.languages if lang in journey.dense.get("continuation", {})]
    header = ["model", "experts (new)"] + [f"{lang} ppl" for lang in journey.languages] + [f"{lang} cont." for lang in tasks]
    cells = []
    for name, total, new, found in journey.rows():
        row = [name, f"{total} ({new})"]
        row += [f"{found['perplexity'][lang]['ppl']:.1f}" if lang in found["perplexity"] else "-"
                for lang in journey.languages]
        for lang in tasks:
            task = found.get("continuation", {}).get(lang)
            row.append(f"{task['acc']:.3f} ± {task.get('stderr', 0.0):.3f}" if task else "-")
        cells.append(row)
    return header, cells


def print_table(header, cells):
    header, cells = [data.plain(c) for c in header], [[data.plain(c) for c in row] for row in cells]
    widths = [max(len(row[i]) for row in [header] + cells) for i in range(len(header))]
    for n, row in enumerate([header] + cells):
        print("  ".join(cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths))))
        if n == 0:
            print("  ".join("-" * w for w in widths))


def continuations(journey):
    """[(prompt, [(model, continuation)])] of the models that continued them."""
    prompts = {prompt: [] for texts in journey.texts.values() for prompt, _ in texts}
    for name, texts in journey.texts.items():
        for prompt, text in texts:
            prompts[prompt].append((name, text))
    return list(prompts.items())


# ---------------------------------------------------------------- page

STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;color:#1a202c}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2rem}img{max-width:100%}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}td,th{padding:.25rem .6rem;border-bottom:1px solid #cbd5e0;
text-align:right}td:first-child,th:first-child{text-align:left}.note{color:#4a5568;font-size:.9rem}
.texts td:last-child{text-align:left;white-space:pre-wrap}
pre{background:#f7fafc;padding:.6rem;overflow:auto;font-size:.8rem}"""


def image(png, text):
    return f'<p><img alt="{html.escape(text)}" src="data:image/png;base64,{base64.b64encode(png).decode()}"></p>'


def pictures(journey):
    import report_charts as charts  # here: the terminal table does not need matplotlib
    layers = [str(layer) for layer in range(len(journey.counts))]
    neurons, guided = journey.neurons, journey.guided
    per_language = [[len(units) for units in neurons["units"][lang]] for lang in neurons["languages"]]
    width = max(guided.experts)
    heat = [[journey.specialization.get((layer, e), math.nan) for e in range(width)] for layer in range(len(layers))]
    runs = [guided] + ([journey.control] if journey.control else [])
    stages = [(f"stage {n}", [(run.label, run.metrics[f"stage{n}"]) for run in runs]) for n in (1, 2)]
    parts = [
        "<h2>Experts per layer</h2>",
        image(charts.allocation(guided.experts, journey.counts, journey.source, journey.target), "experts per layer"),
        "<h2>Language neurons per layer</h2>",
        image(charts.heat_map(per_language, neurons["languages"], layers, "selected neurons (distinct unit indices)"),
              "neurons per layer and language"),
        *intervention_picture(journey.interventions, charts),
        "<h2>Losses</h2>", image(charts.losses(([("base", [("base", journey.pretrain)])] if journey.pretrain else []) + stages),
              "loss curves"),
        f"<h2>Where the experts speak {html.escape(journey.target)}</h2>",
        image(charts.heat_map(heat, layers, ["base"] + [f"exp_{e}" for e in range(width - 1)],
                              f"% of values with AP ≥ {journey.bar:g} for {journey.target}", "{:.1f}"),
              "share of high-AP values per layer and expert")]
    routers = {stage: {lang: [(int(r["layer"]), float(r["base_weight"])) for r in rows]
                       for lang, rows in guided.evals[stage].get("router", {}).items()}
               for stage in ("stage1", "stage2")}
    if any(rows for langs in routers.values() for rows in langs.values()):
        parts += ["<h2>What stage 2 does to the routers</h2>",
                  image(charts.routers(routers, journey.source, journey.target), "router weight of the base expert")]
    return parts


def intervention_picture(matrix, charts):
    if not matrix:
        return []
    names = [f"neurons of {lang}" if not control else f"random for {lang}" + (f", {control}" if control > 1 else "")
             for lang, control, _ in matrix["rows"]]
    return ["<h2>Do the neurons matter?</h2>",
            image(charts.change_map(matrix["change"], names, matrix["columns"],
                                    f"change of log-perplexity, nats per token (outputs replaced: {matrix['replace']})"),
                  "change of log-perplexity where neurons are replaced"),
            "<p class=note>Rows: whose selected neurons are replaced in the dense base, and random sets as large in every module "
            "that share no neuron with any language's. Above 0: the text becomes less probable.</p>"]


def provenance(journey):
    lines = [f"program: {journey.version}", f"measured on the held-out split '{journey.split}'"]
    first = journey.dense["perplexity"][journey.source]
    lines.append(f"perplexity per token over {first.get('tokens', '?')} {journey.source} tokens; never compare it "
                 "between tokenizers")
    for name in ("model_sha256", "tokenizer_sha256", "corpus_sha256", "seed", "definition", "tie_rule"):
        if name in journey.neurons["attributes"]:
            lines.append(f"neurons.h5 {name}: {journey.neurons['attributes'][name]}")
    if not journey.corpus:
        return lines
    with data.reading(journey.corpus_path):
        packages = journey.corpus["packages"]
        lines += [f"text: {name} {package['version']}" for name, package in packages.items()]
        lines += [f"text: {lang} {file['path']} ({file.get('bytes', '?')} bytes)"
                  for lang, files in journey.corpus.get("inputs", {}).items() for file in files]
        lines.append(f"text licence: {journey.corpus['license']}; seed {journey.corpus['seed']}")
        counts = journey.corpus["counts"]
        for split in ("train", "tune", "test"):
            unit = "documents" if "inputs" in journey.corpus else "paragraphs"
            lines.append(f"{split}: " + ", ".join(f"{lang} {c[unit]}" for lang, c in counts[split].items()) + f" {unit}")
    return lines


def write_page(journey, path):
    header, cells = table(journey)
    escape = html.escape
    others = [lang for lang in journey.languages if lang not in (journey.source, journey.target)]
    parts = ["<!doctype html><html lang=en><meta charset=utf-8><title>neuronmoe report</title>",
             f"<style>{STYLE}</style><h1>neuronmoe: {escape(journey.source)} + {escape(journey.target)}</h1>",
             "<table><tr>" + "".join(f"<th>{escape(cell)}</th>" for cell in header) + "</tr>"]
    parts += ["<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in cells]
    parts.append("</table><p class=note>ppl: perplexity per token on held-out files, lower is better. cont.: choosing the "
                 "true second half of a paragraph among four, higher is better, chance 0.25, ± one standard error. "
                 + (f"{escape(', '.join(others))}: shown for completeness; a language that is neither target nor replayed "
                    "in stage 2 pays for both stages.</p>" if others else "</p>"))
    parts.append("<ul>" + "".join(f"<li>{escape(line)}</li>" for line in verdict(journey)) + "</ul>")
    parts += pictures(journey)
    if journey.texts:
        parts.append("<h2>The same prompts, continued</h2><p class=note>always the most probable token</p>")
    for prompt, texts in continuations(journey):
        parts.append(f"<p><b>{escape(prompt)}</b></p><table class=texts>" + "".join(
            f"<tr><td>{escape(name)}</td><td>{escape(text)}</td></tr>" for name, text in texts) + "</table>")
    parts.append("<h2>Where the numbers come from</h2><ul class=note>"
                 + "".join(f"<li>{escape(line)}</li>" for line in provenance(journey)) + "</ul>")
    for name in journey.configs:
        with open(name, encoding="utf-8", errors="replace") as stream:
            parts.append(f"<details><summary>{escape(os.path.basename(name))}</summary><pre>{escape(stream.read())}"
                         "</pre></details>")
    with open(path + ".tmp", "w", encoding="utf-8") as stream:
        stream.write("\n".join(parts))
    os.replace(path + ".tmp", path)


def main(argv=None):
    parser = argparse.ArgumentParser(description="Report of one journey.")
    parser.add_argument("--work", required=True)
    parser.add_argument("--source", required=True)
    parser.add_argument("--target", required=True)
    parser.add_argument("--control", help="folder of the control run, relative to --work")
    parser.add_argument("--split", default="test")
    parser.add_argument("--version", default="unknown")
    parser.add_argument("--output", help="default WORK/TARGET/report.html")
    parser.add_argument("--check", action="store_true", help="exit 1 unless the inequalities of a working run hold")
    options = parser.parse_args(argv)
    output = options.output or os.path.join(options.work, options.target, "report.html")
    try:
        journey = Journey(options)
        write_page(journey, output)
        cells, lines = table(journey), verdict(journey)
    except (data.ReportError, KeyError) as error:
        text = f"key {error} is missing in one of the files" if isinstance(error, KeyError) else str(error)
        print(f"report: {data.plain(text)}", file=sys.stderr)
        return 65
    except OSError as error:
        print(f"report: {error.filename or output}: {error.strerror}", file=sys.stderr)
        return 75 if error.errno == 28 else 70
    except (ArithmeticError, AttributeError, IndexError, TypeError, ValueError) as error:
        print(f"report: the files in {options.work} do not go together ({data.plain(str(error))})", file=sys.stderr)
        return 65
    print()
    print_table(*cells)
    print()
    for line in lines:
        print("* " + data.plain(line))
    for prompt, texts in continuations(journey):
        print(f"\n{data.plain(prompt)} ...")
        for name, text in texts:
            print(f"  {name:10}  {data.plain(text.replace(chr(10), ' '))}")
    print(f"\nreport: {os.path.abspath(output)}")
    if options.check:
        broken = broken_inequalities(journey)
        for text in broken:
            print(f"check: does NOT hold: {text}", file=sys.stderr)
        if broken:
            return 1
        print("check: all inequalities hold")
    return 0


if __name__ == "__main__":
    sys.exit(main())
