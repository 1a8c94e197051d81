#!/usr/bin/python3
"""The house rules that a compiler does not check (DESIGN 3, ENGINEERING 5.9): include direction, headers that compile
alone, transports that know nothing of each other, no conditional compilation outside the CUDA files, MPI_COMM_WORLD, the
environment and exit only in app; the first line of a source says what the file is.
Usage: layering.py CXX SOURCE_DIR BUILD_DIR"""
import concurrent.futures
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

CXX, SOURCE = sys.argv[1], Path(sys.argv[2])
BELOW = {"base": [], "tensor": ["base"]}
BELOW["ops"] = BELOW["comm"] = ["base", "tensor"]
BELOW["io"] = ["base", "tensor", "ops", "comm"]
BELOW["data"] = BELOW["io"] + ["io"]
BELOW["model"] = BELOW["data"] + ["data"]
for sibling in ("train", "analysis", "evaluation"):
    BELOW[sibling] = BELOW["model"] + ["model"]
BELOW["app"] = BELOW["model"] + ["model", "train", "analysis", "evaluation"]

INCLUDE = re.compile(r'^\s*#\s*include\s*"([^"]+)"', re.M)
CONDITIONAL = re.compile(r"^\s*#\s*(if|ifdef|ifndef|elif)\b.*$", re.M)
ONLY_IN_APP = re.compile(r"\b(MPI_COMM_WORLD|getenv|setenv|putenv|environ|MPI_Abort|MPI_Init\w*|MPI_Finalize|set_terminate|sigaction)\b"
                         r"|(?<![\w.>])(?:std::|::)?(_exit|exit|quick_exit|abort|terminate)\s*\(")
PRINTING = re.compile(r"\bstd::(cout|cerr)\b|(?<![\w.>:])(?:std::)?f?printf\s*\(")


def without_comments(text):
    keep_lines = lambda m: re.sub(r"[^\n]", " ", m.group(0))
    return re.sub(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"', lambda m: m.group(0) if m.group(0)[0] == '"' else keep_lines(m), text, flags=re.S)


def without_strings(text):
    return re.sub(r'"(?:\\.|[^"\\\n])*"', '""', text)


def layer_of(path):
    parts = path.relative_to(SOURCE).parts
    return parts[2] if parts[0] == "include" else parts[1]


def gpu_file(path):
    return "cuda" in path.parts or path.suffix == ".cu"


def transport_of(path):
    """The folder of src/comm that a file is in; each is a transport or a way to copy."""
    parts = path.relative_to(SOURCE).parts
    return parts[2] if parts[:2] == ("src", "comm") and len(parts) > 3 else None


def check_text(path, problems):
    name = path.relative_to(SOURCE)
    layer = layer_of(path)
    if layer not in BELOW:
        problems.append(f"{name}: '{layer}' is not a layer")
        return
    text = path.read_text()
    code = without_comments(text)
    if path.suffix in (".cpp", ".cu") and not text.startswith("// "):
        problems.append(f"{name}: the first line does not say what the file is")

    def report(match, what):
        problems.append(f"{name}:{code.count(chr(10), 0, match.start()) + 1}: {what}")

    for match in INCLUDE.finditer(code):
        target = match.group(1)
        if target.startswith("neuronmoe/"):
            other = target.split("/")[1]
            if other != layer and other not in BELOW[layer]:
                report(match, f"layer {layer} may not include {target}")
        elif path.is_relative_to(SOURCE / "include"):
            report(match, f'a public header includes the private "{target}"')
        elif not (private := Path(os.path.normpath(path.parent / target))).is_relative_to(SOURCE / "src" / layer):
            report(match, f"{target} is outside src/{layer}")
        elif transport_of(private) and transport_of(private) != transport_of(path):
            report(match, f"{target}: what transports share is in src/comm itself")
    if not gpu_file(path):
        for match in CONDITIONAL.finditer(code):
            report(match, f"conditional compilation: {match.group(0).strip()}")
    if layer != "app":
        bare = without_strings(code)
        for match in ONLY_IN_APP.finditer(bare):
            problems.append(f"{name}: {match.group(1) or match.group(2)} belongs to app")
        for match in PRINTING.finditer(bare):
            problems.append(f"{name}: {match.group(0).strip()} in a library")


def begins_a_source(files):
    """Headers that a source includes before anything else: the build has compiled them alone."""
    first = re.compile(r'^\s*#\s*include\s*["<]([^">]+)[">]', re.M)
    found = (first.search(path.read_text()) for path in files if path.suffix == ".cpp" and not gpu_file(path))
    return {SOURCE / "include" / match.group(1) for match in found if match}


def compile_alone(header):
    include = header.relative_to(SOURCE / "include")
    with tempfile.NamedTemporaryFile("w", suffix=".cpp") as unit:
        unit.write(f'#include "{include}"\n')
        unit.flush()
        command = [CXX, "-std=c++20", "-fsyntax-only", "-Wall", "-Wextra", "-Werror", f"-I{SOURCE}/include", unit.name]
        done = subprocess.run(command, capture_output=True, text=True)
    return "" if done.returncode == 0 else f"include/{include} does not compile alone:\n{done.stderr[:1500]}"


def main():
    problems = []
    files = sorted(p for top in ("include", "src") for p in (SOURCE / top).rglob("*") if p.suffix in (".hpp", ".cpp", ".cu", ".cuh"))
    headers = [p for p in files if p.is_relative_to(SOURCE / "include") and not gpu_file(p)]
    if len(headers) < 20:
        problems.append(f"only {len(headers)} headers found: is {SOURCE} the source tree?")
    for path in files:
        check_text(path, problems)
        if path.suffix == ".hpp" and "#pragma once" not in path.read_text():
            problems.append(f"{path.relative_to(SOURCE)}: no #pragma once")
    built = begins_a_source(files)
    alone = [p for p in headers if p not in built]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        problems += filter(None, pool.map(compile_alone, alone))
    print(f"layering: {len(files)} files, {len(headers)} headers, {len(alone)} of them compiled alone here, {len(problems)} problems")
    for problem in problems:
        print(problem)
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
