# SPDX-License-Identifier: Apache-2.0
"""The page of tools/report.py: one HTML file without anything from elsewhere, for a desktop, a phone and paper, light and dark."""
import html
import math
import os
import re
import urllib.parse
from collections.abc import Iterable, Sequence

import metrics_file
import report_charts as charts
import report_pairs
import report_provenance as provenance
from language_names import name_of
from report_run import STAGES, Results
from report_verdict import verdict

STYLE = """:root{color-scheme:light dark;--bg:#fff;--fg:#1a202c;--soft:#4a5568;--rule:#cbd5e0;--box:#f4f6f9;--link:#1f5fa8;--base:#a3adb9;
--old:#dfab5c;--new:#cf5a20;--source:#2b6cb0;--target:#c05621;--control:#6b7686;--heat:#96330c;--cold:#2b6cb0;--high:#fff}
@media(prefers-color-scheme:dark){:root{--bg:#14181f;--fg:#e4e8ee;--soft:#a4aebc;--rule:#3a4453;--box:#1d232d;--link:#7db4f0;--base:#6b7686;
--old:#b98636;--new:#e06a2c;--source:#63a4e6;--target:#ec8448;--control:#97a3b4;--heat:#c8521f;--cold:#3f83cc}}
*{box-sizing:border-box}body{font:16px/1.5 system-ui,sans-serif;max-width:74rem;margin:0 auto;padding:1.2rem 1rem 4rem;background:var(--bg);
color:var(--fg);overflow-wrap:break-word}
h1{font-size:1.6rem;line-height:1.25;margin:.4rem 0}h2{font-size:1.2rem;margin:2.4rem 0 .6rem}a{color:var(--link)}li{margin:.3rem 0}
.wide{overflow-x:auto;margin:.6rem 0}table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.93rem}
td,th{padding:.3rem .5rem;border-bottom:1px solid var(--rule);text-align:right;white-space:nowrap;vertical-align:top}
th{font-weight:600}td:first-child,th:first-child{text-align:left;position:sticky;left:0;background:var(--bg);padding-left:0}
th.group{text-align:left;padding-left:1rem}tr.top th{border-bottom:0;padding-bottom:0;color:var(--soft);font-weight:400}
.unclear{color:var(--soft)}.note,figcaption{color:var(--soft);font-size:.88rem;max-width:54rem}
figure{margin:.6rem 0 0}figcaption{margin-top:.3rem}.panels{display:flex;flex-wrap:wrap;gap:.5rem 1.2rem}
.panels h3{font-size:.95rem;margin:.4rem 0 0;font-weight:600}
.texts td{white-space:pre-wrap;text-align:left;min-width:5.5rem}.texts td+td{min-width:12rem;overflow-wrap:anywhere}
blockquote{margin:1rem 0 .2rem;font-weight:600}
pre{background:var(--box);padding:.6rem;overflow:auto;font-size:.8rem;margin:.3rem 0}summary{cursor:pointer}
.facts td{white-space:normal;max-width:22rem}
svg{display:block;max-width:none;height:auto;font:12px system-ui,sans-serif}svg text{fill:var(--fg)}svg .label{fill:var(--soft)}
svg .high{fill:var(--high)}
.line{fill:none;stroke-width:1.8;stroke:var(--fg)}.grid{stroke:var(--rule);stroke-width:.7}.axis{stroke:var(--soft);stroke-width:1}
.whisker{stroke:var(--fg);stroke-width:1.2}.dashed{stroke-dasharray:3 3}.faint{opacity:.3;stroke-width:.8}
.s-source{stroke:var(--source)}.s-target{stroke:var(--target)}.s-control{stroke:var(--control);stroke-dasharray:6 3}.s-count{stroke:var(--fg);stroke-width:1.2}
.f-source{fill:var(--source)}.f-target{fill:var(--target)}.f-count{fill:var(--fg)}.f-base{fill:var(--base)}.f-old{fill:var(--old)}
.f-new{fill:var(--new)}.f-heat{fill:var(--heat)}.f-cold{fill:var(--cold)}
@media(max-width:40rem){body{font-size:15px}td,th{padding:.25rem .4rem}ul{padding-left:1.1rem}td:first-child,th:first-child{white-space:normal;
min-width:5.5rem}}
@media print{.wide{overflow:visible}body{max-width:none}}"""
escape = html.escape
DRAWN_LAYERS = re.compile(r"by layer, layer 0 first: ([\d,\-]+)")


def list_of(lines: Iterable[str], css: str = "") -> str:
    """Returns an unordered list of plain text."""
    return f"<ul{css and f' class={css}'}>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"


def table_of(header: Sequence[str], rows: Iterable[Sequence[str]], css: str = "", caption: str = "", above: str = "") -> str:
    """Returns a table of HTML cells in a box that scrolls where the screen is narrower; `above`: what the columns are."""
    skipped = "<th></th>" * (2 if header[1:2] == ["experts (new)"] else 1)
    lines = [f"{skipped}{above}"] if above else []
    lines += ["".join(f"<th>{cell}</th>" for cell in header)] if header else []
    lines += ["".join(cell if cell.startswith("<td") else f"<td>{cell}</td>" for cell in row) for row in rows]
    lines = [("<tr class=top>" if above and not n else "<tr>") + line + "</tr>" for n, line in enumerate(lines)]
    note = f"<p class=note>{caption}</p>" if caption else ""
    return f"<div class=wide><table{css and f' class={css}'}>{''.join(lines)}</table></div>{note}"


def group_of(columns: Sequence[str], words: str) -> str:
    """Returns a heading over columns, nothing without them."""
    return f"<th class=group colspan={len(columns)}>{words}</th>" if columns else ""


def figure(picture: str, caption: str) -> str:
    """Returns a picture with the sentences that explain it."""
    return f"<figure><div class=wide>{picture}</div><figcaption>{escape(caption)}</figcaption></figure>"


# ---------------------------------------------------------------- tables

def result_table(results: Results) -> str:
    """Returns models by perplexity per token and accuracy of the continuation task."""
    languages, rows = results.languages, results.rows()
    tasks = [lang for lang in languages if any(lang in found.get("continuation", {}) for *_, found in rows)]
    head = ["model", "experts (new)"] + [escape(name_of(lang)) for lang in languages] + [escape(name_of(lang)) for lang in tasks]
    cells = []
    for name, total, new, found in rows:
        row = [escape(name), f"{escape(total)} ({escape(new)})"]
        row += [f"{found['perplexity'][lang]['ppl']:.1f}" if lang in found["perplexity"] else "–" for lang in languages]
        for lang in tasks:
            task = found.get("continuation", {}).get(lang)
            row.append(f"{task['acc']:.3f} ± {task.get('stderr', 0.0):.3f}" if task else "–")
        cells.append(row)
    others = [name_of(lang) for lang in languages if lang not in (results.source, results.target)]
    caption = "Perplexity on held-out text." + (" Continuation: the true second half of a paragraph among four, chance 0.25, ± one standard "
                                                "error." if tasks else "")
    if others:
        caption += (f" {escape(', '.join(others))}: shown for completeness; a language that is neither target nor replayed in stage 2 pays for "
                    "both stages.")
    return table_of(head, cells, caption=caption, above=group_of(languages, "perplexity per token, lower is better")
                    + group_of(tasks, "right continuations, higher is better"))


def bytes_table(results: Results) -> str:
    """Returns perplexity per byte, where the evaluations have it: it does not depend on the tokenizer."""
    rows, languages = results.rows(), results.languages
    values = [[found["perplexity"].get(lang, {}).get("byte_perplexity") for lang in languages] for *_, found in rows]
    if not any(isinstance(value, (int, float)) for row in values for value in row):
        return ""
    cells = [[escape(name)] + [f"{value:.3f}" if isinstance(value, (int, float)) else "–" for value in row]
             for (name, *_), row in zip(rows, values)]
    return ("<details><summary>Perplexity per byte</summary>"
            + table_of(["model"] + [escape(name_of(lang)) for lang in languages], cells,
                       caption="Per UTF-8 byte of the text, so models with other tokenizers can be compared.") + "</details>")


def change_cell(change: report_pairs.Change | None) -> str:
    """Returns a difference with its standard error, gray where it is within two of them."""
    if change is None:
        return "–"
    text = change.words().replace("-", "−")
    return text if change.is_clear else f'<td class="unclear">{text}</td>'


def pairs_table(results: Results) -> str:
    """Returns the differences of models on the same documents and items."""
    pairs = results.pairs()
    if not pairs:
        return ""
    parts = ["<h2>Differences in pairs</h2>", "<p class=note>Two models on the same documents and items: the difference ± its standard error "
             "over them. Gray: within two standard errors, no clear change.</p>"]
    for change_of, numbered, above in (
            (report_pairs.change_of_nll, {lang: len(found) for _, a, _ in pairs if a for lang, found in a.documents.items()},
             "log-perplexity, nats per token; below 0 is better"),
            (report_pairs.change_of_accuracy, {lang: len(found) for _, a, _ in pairs if a for lang, found in a.answers.items()},
             "right continuations; above 0 is better")):
        languages = [lang for lang in results.languages if lang in numbered]
        if languages:
            head = ["from → to"] + [f"{escape(name_of(lang))} ({numbered[lang]})" for lang in languages]
            parts.append(table_of(head, [[escape(name)] + [change_cell(change_of(a, b, lang)) for lang in languages] for name, a, b in pairs],
                                  above=group_of(languages, f"{above} (of how many)")))
    return "".join(parts)


def selection_table(results: Results) -> str:
    """Returns for each language what was selected and what ties at the cut."""
    if not results.neurons:
        return ""
    rows = [[escape(name_of(lang)), str(results.neurons["rows"][lang]), f"{ap:.4f}" if math.isfinite(ap) else "–", str(tied), str(taken)]
            for lang, (ap, tied, taken, _) in results.neurons["cut"].items()]
    return table_of(["language", "selected", "AP of the last", "have that AP", "of them selected"], rows, caption=(
        "AP: average precision of the neuron's response as a detector of the language, 1 is best. Where more neurons have the AP of the last "
        "one than were selected, which of them were is chance or order, not a measurement."))


# ---------------------------------------------------------------- pictures

def drawn_ranges(results: Results) -> list[tuple[int, int]] | None:
    """Returns the least and most experts of each layer over other draws of ties, if `allocate` tried them."""
    for line in results.guided.warnings:
        found = DRAWN_LAYERS.search(line)
        if found:
            pairs = [(int(a), int(b or a)) for a, _, b in (word.partition("-") for word in found[1].split(","))]
            return pairs if len(pairs) == results.num_layers else None
    return None


def allocation_part(results: Results) -> list[str]:
    """Returns experts per layer."""
    experts = results.guided.experts
    if not experts:
        return []
    base = [1] * len(experts)
    existing = results.guided.existing if results.guided.existing and len(results.guided.existing) == len(experts) else base
    ranges = drawn_ranges(results)
    languages = f"{results.source} or {results.target}"
    caption = "How many experts each layer has: expert 0 is the base's own FFN, the others are new."
    if results.counts:
        caption += (f" The line counts neurons that are specific to {name_of(results.source)} or {name_of(results.target)} (a unit index of a "
                    "layer counts once); more of them make more experts.")
    if ranges:
        caption += " Whiskers: fewest and most experts that other draws among neurons with the same AP would have given."
    return ["<h2>Experts per layer</h2>", figure(charts.allocation((base, existing, experts), results.counts, ranges, languages), caption)]


def neurons_part(results: Results) -> list[str]:
    """Returns neurons by layer and language, and the matrix of what happens without them."""
    parts, neurons = [], results.neurons
    if neurons:
        values = [[float(len(units)) for units in neurons["units"][lang]] for lang in neurons["languages"]]
        layers = [str(layer) for layer in range(neurons["num_layers"])]
        parts += ["<h2>Language neurons per layer</h2>",
                  figure(charts.heat_map(values, [name_of(lang) for lang in neurons["languages"]], layers, ("layer", "language", "neurons"),
                                         "{:.0f}"), "Distinct unit indices of the selected neurons of each language in each layer."),
                  selection_table(results)]
    matrix = results.interventions
    if matrix:
        rows = [f"neurons of {lang}" if not control else f"random for {lang}" + (f", {control}" if control > 1 else "")
                for lang, control, _ in matrix["rows"]]
        parts += ["<h2>Do the neurons matter?</h2>",
                  figure(charts.heat_map(matrix["change"], rows, [name_of(lang) for lang in matrix["columns"]],
                                         ("held-out text", "replaced", "nats per token"), "{:+.3f}"),
                         "Change of the log-perplexity where the outputs of neurons are replaced in the dense base "
                         f"({matrix['replace']}). Rows: whose selected neurons are replaced, and random sets as large in every module that share "
                         "no neuron with any language's. Above 0: the text becomes less probable.")]
    return parts


def loss_part(results: Results) -> list[str]:
    """Returns a panel for each training that has a loss."""
    runs = [results.guided] + ([results.control] if results.control else [])
    series = [("base", [("base", results.pretrain)])] if results.pretrain else []
    series += [(f"stage {n}", [(run.label, run.metrics.get(f"stage{n}", [])) for run in runs]) for n in (1, 2)]
    panels = []
    for title, curves in series:
        found = [(label, points) for label, rows in curves if (points := metrics_file.numbers_of(rows or [], "loss_lm"))]
        if found:
            panels.append(f"<div><h3>{escape(title)}</h3>{charts.loss(found)}</div>")
    if not panels:
        return []
    return ["<h2>Losses</h2>", figure(f"<div class=panels>{''.join(panels)}</div>", "Loss of the language model on the training text, "
                                      "natural logarithm, per token. Faint: each step; strong: running mean.")]


def experts_part(results: Results) -> list[str]:
    """Returns which expert of which layer is specialized in the target, and where the routers send a language."""
    parts, shares = [], results.specialization
    layers = max([results.num_layers] + [layer + 1 for layer, _ in shares])
    if shares:
        width = max(expert for _, expert in shares) + 1
        values = [[shares.get((layer, expert), math.nan) for layer in range(layers)] for expert in range(width)]
        target = name_of(results.target)
        parts += [f"<h2>Where the experts speak {escape(target)}</h2>",
                  figure(charts.heat_map(values, [f"{e}, base" if e == 0 else str(e) for e in range(width)], list(map(str, range(layers))),
                                         ("layer", "expert", "percent of its values"), "{:.1f}"),
                         f"Share of each expert's values that detect {target} with AP ≥ {results.bar:g}. Expert 0 is the base's FFN. (The CSV files "
                         "and modules call expert 1 exp_0, expert 2 exp_1, as the published code does.)")]
    routers = {stage: {lang: {int(r["layer"]): float(r["base_weight"]) for r in rows} for lang, rows in found.get("router", {}).items()}
               for stage, found in results.guided.evals.items() if stage in STAGES}
    if any(rows for langs in routers.values() for rows in langs.values()):
        parts += ["<h2>Where the routers send a language</h2>",
                  figure(charts.routers(routers, [results.source, results.target], layers),
                         "Mean weight that the router of a layer gives to the base expert on held-out text; 1: all to the base, as before. Stage 2 "
                         f"should bring {name_of(results.source)} back to it.")]
    return parts


# ---------------------------------------------------------------- text and sources

def continuations(results: Results) -> list[tuple[str, list[tuple[str, str]]]]:
    """Returns [(prompt, [(model, continuation)])] of the models that continued them."""
    prompts: dict[str, list[tuple[str, str]]] = {prompt: [] for texts in results.texts.values() for prompt, _ in texts}
    for name, texts in results.texts.items():
        for prompt, text in texts:
            prompts[prompt].append((name, text))
    return list(prompts.items())


def texts_part(results: Results) -> list[str]:
    """Returns what base, stage 1 and stage 2 make of the same prompts."""
    parts = ["<h2>The same prompts, continued</h2><p class=note>Greedy: always the most probable token.</p>"] if results.texts else []
    for prompt, texts in continuations(results):
        parts.append(f"<blockquote dir=auto>{escape(prompt)}</blockquote>"
                     + table_of([], [[escape(name), f"<td dir=auto>{escape(text)}</td>"] for name, text in texts], "texts"))
    return parts


def link(path: str, page: str) -> str:
    """Returns a relative link from the page to a file."""
    where = os.path.relpath(os.path.abspath(path), os.path.dirname(os.path.abspath(page)))
    return f'<a href="{escape(urllib.parse.quote(where))}">{escape(os.path.relpath(path, os.path.dirname(page) or "."))}</a>'


def run_part(results: Results) -> list[str]:
    """Returns when, where and how fast the run was made."""
    parts, rows = ["<h2>The run</h2>"], provenance.training_table(results)
    names = [name for name in dict.fromkeys(key for row in rows for key in row) if any(row.get(name) for row in rows)]
    names.sort(key=lambda name: name == "ended")  # a sentence: last
    if rows:
        parts.append(table_of(["", *(escape(row["training"]) for row in rows)], [
            [escape(name)] + [escape(row.get(name, "")) or "–" for row in rows] for name in names[1:]], "facts", caption=(
            "Time: sum over the steps of the training, without loading and saving. Hosts, ranks, program and settings as in the newest checkpoint; "
            "all settings stand in the files below.")))
    steps = provenance.step_times(results)
    if steps:
        parts.append(f"<details><summary>All steps of the pipeline: {escape(provenance.duration(sum(s for _, s in steps)))}</summary>"
                     + table_of(["step", "time"], [[escape(name), escape(provenance.duration(seconds))] for name, seconds in steps], caption=(
                         "From the start of a step to its end by the times of its stamps, pauses included.")) + "</details>")
    return parts


def sources_part(results: Results, page: str) -> list[str]:
    """Returns what the numbers stand on: hashes, files, settings."""
    folder = results.folder
    parts = ["<h2>Where the numbers come from</h2>", list_of(provenance.source_lines(results), "note")]
    if folder.missing:
        parts.append(f"<p class=note>Not there, so not on this page: {escape(', '.join(folder.missing))}.</p>")
    parts.append("<details><summary>Files</summary><ul class=note>" + "".join(
        f"<li>{link(folder.path(name), page)}, {os.path.getsize(folder.path(name)):,} bytes</li>" for name in folder.files) + "</ul></details>")
    listed = os.path.join(results.guided.name, "experts.cfg")
    for path in ([folder.path(listed)] if results.guided.experts else []) + results.configs:
        with open(path, encoding="utf-8", errors="replace") as stream:
            parts.append(f"<details><summary>{escape(os.path.relpath(path, folder.root))}</summary><pre>{escape(stream.read())}</pre></details>")
    return parts


def write_page(results: Results, path: str) -> None:
    """Writes the page; it is there whole or not at all."""
    title = f"{name_of(results.source)} + {name_of(results.target)}"
    facts = [provenance.dates(results), provenance.base_model(results), results.version if results.version != "unknown" else ""]
    parts = ['<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">',
             f"<title>{escape(title)} - neuronmoe report</title><style>{STYLE}</style></head><body>",
             f"<h1>{escape(title)}: experts from language neurons</h1>",
             f"<p class=note>{escape(results.source)} is the source, {escape(results.target)} the target. "
             f"{escape(' · '.join(fact for fact in facts if fact))}</p>"]
    if results.rows():
        parts += [result_table(results), bytes_table(results)]
    parts += ["<h2>What it says</h2>", list_of(verdict(results)), pairs_table(results), *allocation_part(results), *neurons_part(results),
              *loss_part(results), *experts_part(results), *texts_part(results), *run_part(results), *sources_part(results, path),
              "</body></html>\n"]
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    with open(path + ".tmp", "w", encoding="utf-8", errors="replace") as stream:
        stream.write("\n".join(part for part in parts if part))
    os.replace(path + ".tmp", path)
