#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Turns one pipeline config into one config file per step. Called by launch/pipeline.sh; standard library only.

    pipeline_config.py CONFIG... --work DIR [--target LANG] [--control uniform] [--split test] [--set section.key=value]

Later files and then --set win. Writes WORK/config/*.cfg (options of the program only, so that every step can be
repeated by hand), WORK/config/model.json and prints shell assignments for pipeline.sh. Paths in the written files
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
    "pipeline": {"source": None, "target": None, "replay": None, "languages": None, "model": None,
                 "continuation": ""},
    "tokenizer": {"vocab_size": None, "character_coverage": "0.9995"},
    "control": {"experts": "3"},
}
PASSED = ("analysis", "allocation", "evaluation", "train", "neurons", "lbl", "router", "pack")
OPEN = tuple(f"{stage}.{part}" for stage in STAGES for part in ("train", "mix"))


class ConfigError(Exception):
    pass


def nearest(word, known):
    found = difflib.get_close_matches(word, known, 1)
    return f"; did you mean '{found[0]}'?" if found else f"; known: {', '.join(known)}"


def read_files(paths, overrides):
    """Returns {section: {key: value}}; refuses what nobody would read."""
    merged = {}
    for path in paths:
        parser = configparser.ConfigParser(interpolation=None, delimiters=("=",), comment_prefixes=("#",),
                                           inline_comment_prefixes=("#",), strict=True, default_section="\0")
        parser.optionxform = str
        try:
            with open(path, encoding="utf-8") as stream:
                parser.read_file(stream)
        except (OSError, UnicodeDecodeError, configparser.Error) as error:
            raise ConfigError(f"{path}: {str(error).splitlines()[0]}") from error
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
    for stage in STAGES:
        if not merged.get(stage + ".mix"):
            raise ConfigError(f"{paths[-1]}: [{stage}.mix] is missing or empty")
    return merged


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


def train_text(config, stage, target, languages, replay):
    parts = [section_text("train", {**config.get("train", {}), **config.get(stage + ".train", {})})]
    parts += [section_text(name, config[name]) for name in ("lbl", "router", "pack") if config.get(name)]
    for lang, weight in mixture(config, stage, target, languages).items():
        parts.append(section_text("data." + lang, {
            "tokens": "tokens/train.h5", "lang": lang, "mark": "old" if lang in replay else "new",
            "weight": f"{weight:g}"}))
    return "\n".join(parts)


def tokenize_text(split, languages, replay):
    return section_text("tokenize", {
        "tokenizer": "tokenizer/tokenizer.model",
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
    allocation = dict(config.get("allocation", {}), neurons="neurons.h5")
    allocation.setdefault("languages", f"{source},{target}")
    neurons = section_text("neurons", config["neurons"]) if config.get("neurons") else ""
    try:
        experts = int(config["control"]["experts"])
    except ValueError:
        experts = 0
    if experts < 1:
        raise ConfigError(f"[control] experts = {config['control']['experts']} is not a positive integer")
    return {
        "tokenize-train.cfg": tokenize_text("train", languages, replay),
        f"tokenize-{split}.cfg": tokenize_text(split, languages, replay),
        "pretrain.cfg": section_text("pretrain", {"model_config": "config/model.json",
                                                  "tokenizer": "tokenizer/tokenizer.model"})
        + "\n" + train_text(config, "pretrain", target, languages, replay),
        "analyze.cfg": section_text("analysis", analysis) + neurons,
        f"{target}/allocate.cfg": section_text("allocation", allocation) + neurons,
        f"{target}/uniform.cfg": section_text("allocation", {
            "neurons": "neurons.h5", "mode": "uniform", "experts": experts}),
        f"{target}/stage1.cfg": train_text(config, "stage1", target, languages, replay),
        f"{target}/stage2.cfg": train_text(config, "stage2", target, languages, replay),
        f"{target}/specialize.cfg": section_text("analysis", analysis) + neurons,
        f"{target}/evaluate.cfg": section_text("evaluation", evaluation),
    }


def read_model(config, paths):
    """Text of the model description: beside the config file that names it last."""
    name = config["pipeline"]["model"]
    for folder in [os.path.dirname(os.path.abspath(path)) for path in reversed(paths)] + [os.getcwd()]:
        path = os.path.join(folder, name)
        if os.path.isfile(path):
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
    raise ConfigError(f"[pipeline] model = {name}: no such file beside {paths[-1]}")


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
    return 0


if __name__ == "__main__":
    sys.exit(main())
