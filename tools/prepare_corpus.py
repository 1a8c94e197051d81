#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes the quickstart's text: first step of the journey, before `neuronmoe tokenize`.

Fetches the libreoffice-help packages of Debian (MPL-2.0) in several languages, cuts clean paragraphs out of
their pages, splits them BY FILE into train / tune / test (the same files in every language, because the
paragraphs are parallel) and writes

    OUT/text/<split>/<lang>.jsonl      {"text": ..., "id": "file|paragraph"}
    OUT/sense/<lang>.json              positive and negative sentences for `neuronmoe analyze`
    OUT/continuation/<split>/<lang>.jsonl   {"context": ..., "choices": [4], "gold": n} for `neuronmoe evaluate`
    OUT/tokenizer.txt                  the line mix a tokenizer is trained on (train split only)
    OUT/corpus.json                    counts, hashes, seeds, package versions, license

Settings are chosen on `tune`, results are reported on `test`. Standard library only. Everything is a function
of the packages, the seed and the tool itself: the same command writes the same bytes. The folder appears by one
rename, so it is whole or absent; a second call finds it and does nothing.
"""
import argparse
import contextlib
import glob
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterable, Iterator
from typing import Any

import corpus_rules
from corpus_rules import Row, arrange, clean_pages, continuation_items, parse_mix, read_pages, sense_sets, split_of, tokenizer_lines
from tool_errors import EXIT_CONFIG, EXIT_IO, ToolError, exit_code_of

FORMAT_VERSION = 1
LICENSE = "MPL-2.0 (LibreOffice help; usr/share/doc/libreoffice-help-*/copyright)"
# language -> (Debian package suffix, folder of the pages)
SOURCES = {
    "en": ("en-us", "en-US"), "es": ("es", "es"), "zh": ("zh-cn", "zh-CN"), "el": ("el", "el"),
    "hu": ("hu", "hu"), "tr": ("tr", "tr"), "de": ("de", "de"), "fr": ("fr", "fr"), "ja": ("ja", "ja"),
}
SPLITS = ("train", "tune", "test")
DEFAULT_MIX = "en=1.0,el=0.6,es=0.5,zh=0.4,hu=0.4,tr=0.4"


# ---------------------------------------------------------------- packages

def run(command: list[str], **kwargs: Any) -> subprocess.CompletedProcess[str]:
    """Runs a command and returns its output."""
    return subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True, check=False, **kwargs)


def folder_mb(folder: str) -> float:
    """Returns the megabytes of the files below a folder that somebody else writes."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):  # renamed or removed meanwhile
                total += os.path.getsize(os.path.join(parent, name))
    return total / 1e6


def run_watched(command: list[str], what: str, folder: str) -> subprocess.CompletedProcess[str]:
    """Runs a command in `folder`, which says every few seconds how long it takes and how much is there."""
    started = shown = time.monotonic()
    with tempfile.TemporaryFile("w+") as errors, subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors, cwd=folder) as process:
        while process.poll() is None:
            time.sleep(0.1)
            if time.monotonic() - shown >= float(os.environ.get("NMOE_PROGRESS_S", "10")):
                shown = time.monotonic()
                print(f"corpus: {what}: {folder_mb(folder):.1f} MB in {shown - started:.0f} s", flush=True)
        errors.seek(0)
        return subprocess.CompletedProcess(command, process.returncode, "", errors.read())


def cached_deb(cache: str, package: str) -> str | None:
    """Returns the newest file of a package in the cache."""
    found = sorted(glob.glob(os.path.join(cache, glob.escape(package) + "_*.deb")))
    return found[-1] if found else None


def fetch(packages: list[str], cache: str) -> dict[str, str]:
    """Returns {package: .deb path}; downloads what the cache lacks with apt-get (no root, nothing installed)."""
    os.makedirs(cache, exist_ok=True)
    missing = [p for p in packages if not cached_deb(cache, p)]
    if missing:
        if not shutil.which("apt-get"):
            raise ToolError("apt-get not found: put the files " + ", ".join(p + "_*.deb" for p in missing)
                              + f" into {cache} by hand (https://packages.debian.org) and run again", EXIT_IO)
        print(f"corpus: downloading {', '.join(missing)} (19 MB for six languages)", flush=True)
        with tempfile.TemporaryDirectory(prefix="fetch-", dir=cache) as folder:
            command = ["apt-get", "-q", "download"]
            if os.geteuid() == 0:  # apt's own user cannot write into this folder
                command[1:1] = ["-o", "APT::Sandbox::User=root"]
            result = run_watched(command + missing, "downloading", folder)
            if result.returncode != 0 and os.geteuid() == 0:  # usual cause: no package lists yet
                run_watched(["apt-get", "-q", "update"], "apt-get update", folder)
                result = run_watched(command + missing, "downloading", folder)
            if result.returncode != 0:
                last = (result.stderr.strip().splitlines() or ["no message"])[-1]
                raise ToolError(f"apt-get download failed: {last}; run 'sudo apt-get update' and check the network,"
                                  f" or put the .deb files into {cache}", EXIT_IO)
            for name in sorted(os.listdir(folder)):
                if name.endswith(".deb"):
                    os.replace(os.path.join(folder, name), os.path.join(cache, name))
    debs = {p: cached_deb(cache, p) for p in packages}
    absent = [p for p, deb in debs.items() if deb is None]
    if absent:
        raise ToolError(f"apt-get download succeeded but brought no file for {', '.join(absent)}", EXIT_IO)
    return debs


def deb_version(deb: str) -> str:
    """Returns the version of a package."""
    result = run(["dpkg-deb", "--field", deb, "Version"])
    if result.returncode != 0:
        raise ToolError(f"{deb} is not a readable Debian package; delete it and run again", EXIT_IO)
    return result.stdout.strip()


def deb_members(deb: str, folder: str) -> Iterator[tuple[str, bytes]]:
    """Yields (path below .../help/<folder>/text/, bytes) of each page in the package; nothing is written to disk."""
    marker = f"/help/{folder}/text/"
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", deb], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE) as process:
        try:
            with tarfile.open(fileobj=process.stdout, mode="r|") as archive:
                for member in archive:
                    _, found, path = member.name.partition(marker)
                    if found and member.isfile() and path.endswith(".html"):
                        yield path, archive.extractfile(member).read()
            process.stdout.read()
        except tarfile.TarError as error:
            raise ToolError(f"{deb} is damaged ({error}); delete it and run again", EXIT_IO) from error
        finally:
            process.stdout.close()
            message = process.stderr.read().decode(errors="replace").strip()
    if process.returncode != 0:
        raise ToolError(f"{deb} is damaged ({message}); delete it and run again", EXIT_IO)


def sha256_file(path: str) -> str:
    """Returns the SHA-256 of a file in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        for chunk in iter(lambda: stream.read(1 << 20), b""):
            digest.update(chunk)
    return digest.hexdigest()


# ---------------------------------------------------------------- output

def write_text(path: str, text: str) -> None:
    """Writes a file and the folders it needs."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8", newline="\n") as stream:
        stream.write(text)


def json_lines(rows: Iterable[Any]) -> str:
    """Returns rows as JSON, one on each line."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def write_corpus(out: str, kept: dict[str, list[Row]], options: argparse.Namespace, provenance: dict[str, Any]) -> dict[str, Any]:
    """Writes every file of the corpus below `out` and, last, corpus.json. `kept`: {lang: [(path, id, text)]}."""
    splits = {s: {lang: [row for row in arrange(options.seed, rows) if split_of(row[0]) == s]
                  for lang, rows in kept.items()} for s in SPLITS}
    empty = [f"{lang}/{s}" for s in SPLITS for lang in kept if not splits[s][lang]]
    if empty:
        raise ToolError(f"no paragraph is left in {', '.join(empty)}; are these the libreoffice-help packages?")
    counts = {"files": {lang: len({row[0] for row in rows}) for lang, rows in kept.items()}}
    for split in SPLITS:
        for lang, rows in splits[split].items():
            write_text(os.path.join(out, "text", split, lang + ".jsonl"),
                       json_lines({"text": text, "id": f"{path}|{key}"} for path, key, text in rows))
        counts[split] = {lang: {"paragraphs": len(rows), "characters": sum(len(row[2]) for row in rows)}
                         for lang, rows in splits[split].items()}
    senses = sense_sets(splits["train"], options.sentences, options.seed)
    for lang, sense in senses.items():
        write_text(os.path.join(out, "sense", lang + ".json"), json.dumps(sense, ensure_ascii=False, indent=2) + "\n")
    counts["sense_positive"] = {lang: len(sense["sentences"]["positive"]) for lang, sense in senses.items()}
    counts["continuation"] = {}
    for split in ("tune", "test"):
        counts["continuation"][split] = {}
        for lang in (x for x in options.item_languages if x in kept):
            items = continuation_items(lang, splits[split][lang], options.items, options.seed)
            write_text(os.path.join(out, "continuation", split, lang + ".jsonl"), json_lines(items))
            counts["continuation"][split][lang] = len(items)
    lines = tokenizer_lines(splits["train"], parse_mix(options.mix), options.seed)
    write_text(os.path.join(out, "tokenizer.txt"), "".join(line + "\n" for line in lines))
    counts["tokenizer_lines"] = len(lines)
    hashes = {os.path.relpath(os.path.join(folder, name), out): sha256_file(os.path.join(folder, name))
              for folder, _, names in sorted(os.walk(out)) for name in sorted(names)}
    write_text(os.path.join(out, "corpus.json"),
               json.dumps(dict(provenance, counts=counts, sha256=hashes), ensure_ascii=False, indent=2) + "\n")
    return counts


def commit(tmp: str, out: str) -> None:
    """Puts the finished folder in place; an older one is moved aside first and deleted after."""
    old = f"{out}.old-{os.getpid()}"
    if os.path.lexists(out):
        os.rename(out, old)
    os.rename(tmp, out)
    shutil.rmtree(old, ignore_errors=True)


def is_complete(out: str, provenance: dict[str, Any]) -> bool:
    """Returns True if `out` was made by the same command from the same packages, and every file still has its hash."""
    try:
        with open(os.path.join(out, "corpus.json"), encoding="utf-8") as stream:
            found = json.load(stream)
        return (all(found.get(key) == value for key, value in provenance.items())
                and all(sha256_file(os.path.join(out, name)) == value for name, value in found["sha256"].items()))
    except (OSError, ValueError, KeyError, AttributeError):
        return False


def prepare(options: argparse.Namespace) -> None:
    """Makes the folder, or finds it."""
    started = time.monotonic()
    langs = options.languages
    unknown = [lang for lang in langs + options.item_languages if lang not in SOURCES]
    if unknown:
        raise ToolError(f"unknown language '{unknown[0]}'; known: {', '.join(SOURCES)}", EXIT_CONFIG)
    parse_mix(options.mix)  # refuse a bad mix before anything is fetched
    # English is always read: it tells which paragraphs were left untranslated.
    wanted = langs if "en" in langs else ["en"] + langs
    debs = fetch(["libreoffice-help-" + SOURCES[lang][0] for lang in wanted], options.cache)
    provenance = {
        "format": "neuronmoe-corpus", "format_version": FORMAT_VERSION, "license": LICENSE,
        "languages": langs, "seed": options.seed, "sentences": options.sentences, "items": options.items,
        "item_languages": options.item_languages, "tokenizer_mix": options.mix,
        "split_rule": "sha256 of the file path: 10 % test, 10 % tune, 80 % train",
        "packages": {name: {"version": deb_version(deb), "sha256": sha256_file(deb)} for name, deb in debs.items()},
        "tool_sha256": [sha256_file(os.path.abspath(path)) for path in (__file__, corpus_rules.__file__)],
    }
    if is_complete(options.output, provenance):
        print(f"corpus: reusing {options.output}")
        return
    english, kept = {}, {}
    shown = started
    for number, lang in enumerate(wanted, 1):
        if time.monotonic() - shown > 5:
            shown = time.monotonic()
            print(f"corpus: reading {lang}, {number} of {len(wanted)} languages", flush=True)
        package, folder = SOURCES[lang]
        pages = read_pages(lang, deb_members(debs["libreoffice-help-" + package], folder))
        if not pages:
            raise ToolError(f"{debs['libreoffice-help-' + package]} holds no help page below help/{folder}/text")
        if lang == "en":
            english = {(path, key): text for path, rows in pages.items() for key, text in rows}
        if lang in langs:
            kept[lang] = clean_pages(lang, pages, english)
    out = options.output.rstrip("/")
    os.makedirs(os.path.dirname(os.path.abspath(out)), exist_ok=True)
    for leftover in glob.glob(glob.escape(out) + ".tmp-*") + glob.glob(glob.escape(out) + ".old-*"):
        shutil.rmtree(leftover, ignore_errors=True)  # of a run that was killed
    tmp = f"{out}.tmp-{os.getpid()}"
    try:
        if time.monotonic() - started > 5:
            print("corpus: writing sentences and items", flush=True)
        counts = write_corpus(tmp, {lang: kept[lang] for lang in langs}, options, provenance)
        commit(tmp, out)
    finally:
        shutil.rmtree(tmp, ignore_errors=True)
    for lang in langs:
        print(f"corpus: {lang}  " + "  ".join(
            f"{s} {counts[s][lang]['paragraphs']} paragraphs" for s in SPLITS))
    print(f"corpus: {out} written in {time.monotonic() - started:.1f} s ({LICENSE})")


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Returns the options."""
    parser = argparse.ArgumentParser(description="Fetch, clean and split the libreoffice-help corpus.")
    languages = lambda text: [part for part in text.replace(" ", "").split(",") if part]
    parser.add_argument("--output", required=True, help="folder to make")
    parser.add_argument("--cache", help="folder of the .deb files (default: OUTPUT/../packages)")
    parser.add_argument("--languages", type=languages, default="en,es,zh,el,hu,tr", help="default %(default)s")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--sentences", type=int, default=500, help="sense sentences per language (default 500)")
    parser.add_argument("--items", type=int, default=400, help="continuation items per language (default 400)")
    parser.add_argument("--item-languages", type=languages, default="en,el,hu,tr,es", help="default %(default)s")
    parser.add_argument("--mix", default=DEFAULT_MIX, help="tokenizer line mix (default %(default)s)")
    options = parser.parse_args(argv)
    if options.sentences < 1 or options.items < 1:
        parser.error("--sentences and --items must be at least 1")
    if not options.cache:
        options.cache = os.path.join(os.path.dirname(os.path.abspath(options.output)), "packages")
    return options


def main(argv: list[str] | None = None) -> int:
    """Returns the exit code."""
    return exit_code_of("prepare_corpus", lambda: prepare(parse_arguments(argv)))


if __name__ == "__main__":
    sys.exit(main())
