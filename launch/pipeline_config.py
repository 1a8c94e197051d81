#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Turns one pipeline config into one config file per step. Called by launch/pipeline.sh; standard library only.

    pipeline_config.py CONFIG... --work DIR [--target LANG] [--control uniform] [--split test] [--set section.key=value]

Later files and then --set win. Writes WORK/config/*.cfg (options of the program only, so that every step can be
repeated by hand), WORK/config/model.json for a base that is made, and prints shell assignments for pipeline.sh. Paths in the written files
are relative to WORK, where pipeline.sh runs the steps. docs/pipeline.md lists the keys.
"""
import argparse
import configparser
import difflib
import json
import os
import shlex
import sys

EXIT_CONFIG = 78
STAGES = ("pretrain", "stage1", "stage2")
# Own sections: key -> default (None = required). The program's sections are passed on and checked by the program.
OWN = {
    "pipeline": {"source": None, "target": None, "replay": None, "languages": None, "model": "", "base": "",
                 "continuation": "", "analysis": "", "stage1": "", "stage2": "", "extend_from": "", "prompts": ""},
    "tokenizer": {"vocab_size": "", "character_coverage": "0.9995"},
    "control": {"experts": "3"},
    "text": {"seed": "1", "sentences": "500", "held_out": "1000", "documents": "0"},
}
# Keys of [pipeline] that name files of the program's own options, and the keys in these that the pipeline sets itself.
INCLUDES = {"analysis": ("analysis.sense",), "stage1": ("train.stage",), "stage2": ("train.stage",)}
DATA = ("tokens", "lang", "mark")  # of [data.*] in such a file: likewise
# Sections of the program and the steps that read them; the program checks their keys.
TRAINING = ("pretrain", "stage1", "stage2")
PASSED = {"analysis": ("analyze", "specialize"), "allocation": ("allocate",), "evaluation": ("evaluate",), "train": TRAINING,
          "neurons": ("analyze", "allocate", "specialize"), "lbl": TRAINING, "router": TRAINING, "pack": TRAINING,
          "plan": TRAINING, "machine": TRAINING,
          "comm": ("tokenize", "analyze", "specialize", "evaluate", "generate", *TRAINING),
          "run": ("tokenize", "analyze", "allocate", "specialize", "evaluate", "generate", *TRAINING), "sense": ("analyze", "specialize"),
          "expert_ap": ("specialize",), "tokenize": ("tokenize",), "generate": ("generate",), "intervention": ("evaluate-dense",)}
OPEN = tuple(f"{stage}.{part}" for stage in STAGES for part in ("train", "mix")) + ("corpus",)


class ConfigError(Exception):
    pass


def parse_file(path, strict=True):
    """The sections of one file."""
    parser = configparser.ConfigParser(interpolation=None, delimiters=("=",), comment_prefixes=("#",),
                                       inline_comment_prefixes=("#",), strict=strict, default_section="\0")
    parser.optionxform = str
    try:
        with open(path, encoding="utf-8") as stream:
            parser.read_file(stream)
    except (OSError, UnicodeDecodeError, configparser.Error) as error:
        raise ConfigError(f"{path}: {str(error).splitlines()[0]}") from error
    return parser


def nearest(word, known):
    found = difflib.get_close_matches(word, known, 1)
    return f"; did you mean '{found[0]}'?" if found else f"; known: {', '.join(known)}"


def read_files(paths, overrides):
    """Returns {section: {key: value}}; refuses what nobody would read."""
    merged = {}
    for path in paths:
        parser = parse_file(path)
        for section in parser.sections():
            check_section(path, section, parser[section])
            merged.setdefault(section, {}).update(parser[section])
    for text in overrides:
        name, equals, value = text.partition("=")
        section, dot, key = name.rpartition(".")
        if not (equals and dot and section and key and value):
            raise ConfigError(f"--set {text}: expected section.key=value")
        check_section("--set", section, {key: value})
        merged.setdefault(section, {})[key] = value
    for section, keys in OWN.items():
        values = merged.setdefault(section, {})
        for key, default in keys.items():
            if default is None and not values.get(key):
                raise ConfigError(f"{paths[-1]}: [{section}] {key} is missing")
            values.setdefault(key, default)
    pipeline = merged["pipeline"]
    if not pipeline["base"]:
        if not (pipeline["model"] and merged["tokenizer"]["vocab_size"]):
            raise ConfigError(f"{paths[-1]}: give [pipeline] base = DIR, a model of your own, or [pipeline] model and [tokenizer] "
                              "vocab_size, to make one")
        if merged.get("corpus"):
            raise ConfigError(f"{paths[-1]}: [corpus] needs [pipeline] base: a base that is made from nothing takes its text from "
                              "WORKDIR/corpus")
    for name in INCLUDES:
        if pipeline[name]:
            include(merged, name, paths)
    for stage in STAGES:
        if not merged.get(stage + ".mix") and not (pipeline["base"] and stage == "pretrain"):
            raise ConfigError(f"{paths[-1]}: [{stage}.mix] is missing or empty")
    return merged


def beside(name, paths):
    """The file `name` beside the config file that stands last, or in the working directory."""
    for folder in [os.path.dirname(os.path.abspath(path)) for path in reversed(paths)] + [os.getcwd()]:
        if os.path.isfile(os.path.join(folder, name)):
            return os.path.join(folder, name)
    return None


def include(merged, name, paths):
    """Takes the files that [pipeline] NAME lists, which [analysis] or [STAGE.train] override. Those of a stage are for it alone;
    their [data.LANGUAGE] are its data sets, mixed by size unless there is a [STAGE.mix], and `data.target` is the target's."""
    found, mix = {}, {}
    for word in words(merged["pipeline"][name]):
        path = beside(word, paths)
        if path is None:
            raise ConfigError(f"[pipeline] {name} = {word}: no such file beside {paths[-1]}")
        parser = parse_file(path, strict=False)  # a key that may stand several times is one that the pipeline sets
        for section in parser.sections():
            if section.startswith("data.") and name != "analysis":
                mix[section[len("data."):]] = ""
                values = {key: value for key, value in parser[section].items() if key not in DATA}
            elif section in PASSED:
                values = {key: value for key, value in parser[section].items() if f"{section}.{key}" not in INCLUDES[name]}
            else:
                raise ConfigError(f"{path}: [{section}] means nothing to [pipeline] {name}" + nearest(section, list(PASSED)))
            found.setdefault(section, {}).update(values)
    for section, values in found.items():
        own = section if name == "analysis" else f"{name}.{section}"
        merged[own] = {**values, **merged.get(own, {})}
    if name != "analysis":
        merged.setdefault(name + ".mix", {**mix, "target": ""})


def check_section(path, section, values):
    known = list(OWN) + list(PASSED) + list(OPEN)
    if section not in known:
        raise ConfigError(f"{path}: unknown section [{section}]" + nearest(section, known))
    for key, value in values.items():
        if section in OWN and key not in OWN[section]:
            raise ConfigError(f"{path}: [{section}] unknown key '{key}'" + nearest(key, list(OWN[section])))
        if not value:
            raise ConfigError(f"{path}: [{section}] {key} has no value")


def words(text):
    return [word for word in text.replace(",", " ").split() if word]


def mixture(config, stage, target, languages):
    """{language: weight}; the word `target` stands for the target language."""
    mix = {}
    for lang, share in config[stage + ".mix"].items():
        lang = target if lang == "target" else lang
        if lang not in languages:
            raise ConfigError(f"[{stage}.mix] {lang} is not one of [pipeline] languages = {', '.join(languages)}")
        if not share:  # of included files: by size
            mix[lang] = None
            continue
        try:
            weight = float(share)
        except ValueError:
            weight = -1.0
        if not 0 < weight < 1e9:
            raise ConfigError(f"[{stage}.mix] {lang} = {share} is not a positive number")
        mix[lang] = mix.get(lang, 0.0) + weight
    return mix


def section_text(name, values):
    rows = [f"{key} = {item}" for key, value in values.items()
            for item in (value if isinstance(value, list) else [value])]
    return f"[{name}]\n" + "\n".join(rows) + "\n"


def passed(config, step, but=()):
    """The program's sections that a step reads, as text; not those that the step makes itself."""
    found = {name: {**config.get(name, {}), **config.get(f"{step}.{name}", {})} for name, steps in PASSED.items()
             if step in steps and name not in but}
    return "".join(section_text(name, values) for name, values in found.items() if values)


def train_text(config, stage, target, languages, replay):
    parts = [section_text("train", {**config.get("train", {}), **config.get(stage + ".train", {})})]
    parts.append(passed(config, stage, but=("train",)))
    for lang, weight in mixture(config, stage, target, languages).items():
        more = config.get(f"{stage}.data.{lang}", {}) | (config.get(f"{stage}.data.target", {}) if lang == target else {})
        parts.append(section_text("data." + lang, {
            "tokens": "tokens/train.h5", "lang": lang, "mark": "old" if lang in replay else "new",
            **({} if weight is None else {"weight": f"{weight:g}"}), **more}))
    return "\n".join(parts)


def tokenize_text(config, split, languages, replay):
    return passed(config, "tokenize", but=("tokenize",)) + section_text("tokenize", {
        **config.get("tokenize", {}), "tokenizer": "base" if config["pipeline"]["base"] else "tokenizer/tokenizer.model",
        "input": [f"{lang}:{'old' if lang in replay else 'new'}:corpus/text/{split}/{lang}.jsonl"
                  for lang in languages]})


def step_files(config, target, split):
    """{file name: text} of every step."""
    own = config["pipeline"]
    languages, replay = words(own["languages"]), words(own["replay"])
    source = own["source"]
    for name, lang in [("source", source), ("target", target)] + [("replay", lang) for lang in replay]:
        if lang not in languages:
            raise ConfigError(f"{name} language '{lang}' is not one of [pipeline] languages = {', '.join(languages)}")
    if target in replay:
        raise ConfigError(f"target '{target}' is also a replay language; choose one of "
                          + ", ".join(lang for lang in languages if lang not in replay))
    asked = [target if lang == "target" else lang for lang in words(own["continuation"])]
    analysis = dict(config.get("analysis", {}))
    analysis["languages"] = ",".join(languages)
    analysis["sense"] = [f"{lang}:corpus/sense/{lang}.json" for lang in languages]
    evaluation = dict(config.get("evaluation", {}))
    evaluation["text"] = [f"{lang}:tokens/{split}.h5" for lang in languages]
    if asked:
        evaluation["continuation"] = [f"{lang}:corpus/continuation/{split}/{lang}.jsonl" for lang in asked]
    evaluate = section_text("evaluation", evaluation) + passed(config, "evaluate", but=("evaluation",))
    if config.get("intervention") and own["extend_from"]:
        raise ConfigError("[intervention] needs the neurons of the dense base, [pipeline] extend_from measures those of a mixture; "
                          "leave one of them out")
    intervention = config.get("intervention") and section_text("intervention", dict(config["intervention"], neurons="neurons.h5"))
    allocation = dict(config.get("allocation", {}), neurons="neurons.h5")
    allocation.setdefault("languages", f"{source},{target}")
    try:
        experts = int(config["control"]["experts"])
    except ValueError:
        experts = 0
    if experts < 1:
        raise ConfigError(f"[control] experts = {config['control']['experts']} is not a positive integer")
    files = {
        "tokenize-train.cfg": tokenize_text(config, "train", languages, replay),
        f"tokenize-{split}.cfg": tokenize_text(config, split, languages, replay),
        "analyze.cfg": section_text("analysis", analysis) + passed(config, "analyze", but=("analysis",)),
        f"{target}/allocate.cfg": section_text("allocation", allocation) + passed(config, "allocate", but=("allocation",)),
        f"{target}/uniform.cfg": section_text("allocation", {
            "neurons": "neurons.h5", "mode": "uniform", "experts": experts}),
        f"{target}/stage1.cfg": train_text(config, "stage1", target, languages, replay),
        f"{target}/stage2.cfg": train_text(config, "stage2", target, languages, replay),
        f"{target}/specialize.cfg": section_text("analysis", analysis) + passed(config, "specialize", but=("analysis",)),
        f"{target}/generate.cfg": section_text("generate", {"max_tokens": "40", **config.get("generate", {}),
                                                            "prompt_file": f"{target}/prompts.jsonl"})
        + passed(config, "generate", but=("generate",)),
        f"{target}/evaluate.cfg": evaluate,
        f"{target}/evaluate-dense.cfg": evaluate + (intervention or ""),
    }
    if not own["base"]:
        files["pretrain.cfg"] = (section_text("pretrain", {"model_config": "config/model.json",
                                                           "tokenizer": "tokenizer/tokenizer.model"})
                                 + "\n" + train_text(config, "pretrain", target, languages, replay))
    return files


def find_base(config, paths):
    """The directory of the user's own model: as given, or beside the config file that names it last."""
    name = os.path.expanduser(config["pipeline"]["base"])
    for folder in [os.getcwd()] + [os.path.dirname(os.path.abspath(path)) for path in reversed(paths)]:
        path = os.path.join(folder, name)
        if os.path.isdir(path):
            if not os.path.isfile(os.path.join(path, "config.json")):
                raise ConfigError(f"[pipeline] base = {name}: there is no config.json in it; wanted is a Hugging Face directory")
            return os.path.abspath(path)
    raise ConfigError(f"[pipeline] base = {name}: there is no such directory")


def find_origin(config, paths, work, target):
    """The trained mixture that gets more experts: a run or step directory, from here, from WORK or from beside a config file."""
    name = os.path.expanduser(config["pipeline"]["extend_from"])
    if not name:
        return ""
    for folder in [os.getcwd(), work] + [os.path.dirname(os.path.abspath(path)) for path in reversed(paths)]:
        path = os.path.realpath(os.path.join(folder, name))
        if os.path.isdir(path):
            if (path + "/").startswith(os.path.realpath(os.path.join(work, target)) + "/"):
                raise ConfigError(f"[pipeline] extend_from = {name} is what the target {target} writes; choose another target or --workdir")
            return path
    raise ConfigError(f"[pipeline] extend_from = {name}: there is no such directory")


def corpus_words(config, languages):
    """The arguments of tools/make_corpus.py; empty without [corpus]."""
    corpus = config.get("corpus", {})
    if not corpus:
        return []
    for lang in corpus:
        if lang not in languages:
            raise ConfigError(f"[corpus] {lang} is not one of [pipeline] languages = {', '.join(languages)}")
    missing = [lang for lang in languages if lang not in corpus]
    if missing:
        raise ConfigError(f"[corpus] has no text for {', '.join(missing)}, which [pipeline] languages names")
    text = config["text"]
    return ([f"{lang}={corpus[lang]}" for lang in languages]
            + ["--seed", text["seed"], "--sentences", text["sentences"], "--held-out", text["held_out"],
               "--documents", text["documents"]])


def read_model(config, paths):
    """Text of the model description: beside the config file that names it last."""
    name = config["pipeline"]["model"]
    path = beside(name, paths)
    if path is None:
        raise ConfigError(f"[pipeline] model = {name}: no such file beside {paths[-1]}")
    try:
        with open(path, encoding="utf-8") as stream:
            text = stream.read()
        model = json.loads(text)
    except (ValueError, OSError) as error:
        raise ConfigError(f"{path}: {error}") from error
    if str(model.get("vocab_size")) != config["tokenizer"]["vocab_size"]:
        raise ConfigError(f"{path}: vocab_size {model.get('vocab_size')} differs from [tokenizer] vocab_size "
                          f"{config['tokenizer']['vocab_size']}")
    return text


def write_if_changed(path, text):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    try:
        with open(path, encoding="utf-8") as stream:
            if stream.read() == text:
                return
    except OSError:
        pass
    with open(path + ".tmp", "w", encoding="utf-8") as stream:
        stream.write(text)
    os.replace(path + ".tmp", path)


def main(argv=None):
    parser = argparse.ArgumentParser(description="One config file per step of the pipeline.")
    parser.add_argument("config", nargs="+")
    parser.add_argument("--work", required=True)
    parser.add_argument("--target")
    parser.add_argument("--control", choices=["uniform"])
    parser.add_argument("--split", choices=["tune", "test"], default="test")
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    options = parser.parse_args(argv)
    try:
        config = read_files(options.config, options.overrides)
        target = options.target or config["pipeline"]["target"]
        files = step_files(config, target, options.split)
        base, corpus = "", []
        prompts = config["pipeline"]["prompts"]
        if prompts:
            found = beside(prompts, options.config)
            if found is None:
                raise ConfigError(f"[pipeline] prompts = {prompts}: no such file beside {options.config[-1]}")
            prompts = os.path.abspath(found)
        origin = find_origin(config, options.config, options.work, target)
        if config["pipeline"]["base"]:
            base = find_base(config, options.config)
            corpus = corpus_words(config, words(config["pipeline"]["languages"]))
        else:
            files["model.json"] = read_model(config, options.config)
        if not words(config["pipeline"]["continuation"]):
            print("pipeline: no continuation task ([pipeline] continuation is empty)", file=sys.stderr)
        for name, text in files.items():
            write_if_changed(os.path.join(options.work, "config", name), text)
    except ConfigError as error:
        print(f"pipeline: {error}", file=sys.stderr)
        return EXIT_CONFIG
    except OSError as error:
        print(f"pipeline: {error.filename or options.work}: {error.strerror}", file=sys.stderr)
        return 75 if error.errno == 28 else 70
    for name, value in (("source", config["pipeline"]["source"]), ("target", target),
                        ("vocab_size", config["tokenizer"]["vocab_size"]),
                        ("character_coverage", config["tokenizer"]["character_coverage"])):
        print(f"{name}={shlex.quote(value)}")
    print(f"base={shlex.quote(base)}")
    print(f"prompts={shlex.quote(prompts)}")
    print(f"extend_from={shlex.quote(origin)}")
    print(f"corpus_words=({' '.join(shlex.quote(word) for word in corpus)})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
