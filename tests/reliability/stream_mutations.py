#!/usr/bin/python3
"""Takes every event record, event wait and synchronization out of the GPU side of the program, one at a time, and runs the
device tests in several orders of the emulated streams: each must turn a test red. By hand; takes a quarter of an hour.
Usage: stream_mutations.py SOURCE WORK [--build COMMAND] [--only NUMBER,...]
SOURCE is copied to WORK/source, where each place asks for its number at run time, so that one build serves all. COMMAND builds
the targets that follow it there, in build/dev; the default configures and builds without CUDA."""
import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

PLACES = ["src/tensor/*.cpp", "src/tensor/cuda/*.cpp", "src/comm/host_copy_communicator.cpp", "src/comm/local_communicator.cpp",
          "src/comm/nccl/*.cpp", "src/ops/cuda/*.cpp", "src/model/*.cpp", "src/train/shard_group.cpp",
          "src/train/sharded_optimizer.cpp", "src/analysis/responses.cpp"]
CALL = re.compile(r"(?:[\w:]+(?:\(\))?(?:\.|->))*(?:record|make_wait|wait|synchronize|drain|settle|follow|order|wait_weights)\("
                  r"|check\(cudaStreamSynchronize\(")
# What is no statement of its own: text, and what stands for it in the mutant.
CONDITIONS = [("src/comm/host_copy_communicator.cpp", "!slot->copied_back.reached()", "(!{m} && !slot->copied_back.reached())"),
              ("src/comm/nccl/nccl_engine.cpp", "e.use_count() == 1", "({m} || e.use_count() == 1)")]
DEFAULT_BUILD = ("sh -c 'cmake -S . -B build/dev -G Ninja -DCMAKE_BUILD_TYPE=None -DCMAKE_CXX_FLAGS=-O1 -DNMOE_CUDA=OFF "
                 "-DNMOE_NATIVE=OFF > /dev/null && ninja -C build/dev \"$@\"' sh")
# (target, ranks, orders; none: it goes through orders itself), the fast ones first
TESTS = [("test_waits", 1, [None]), ("emulated_test_gpu_communicators", 1, [0, 1, 2, 3]),
         ("emulated_test_gpu_pooling", 1, [0, 1]), ("emulated_test_gpu_ranking", 1, [0]), ("test_nccl_failures", 2, [0, 3]),
         ("test_device_collectives", 2, [0, 1, 2, 3]), ("test_device_orders", 2, [None]), ("test_device_collectives", 3, [0, 3]),
         ("emulated_test_gpu_decoder", 1, [0])]
HEADER = """#pragma once
#include <cstdlib>
#include <string>
namespace nmoe {
inline bool mutant(int number) {
  static const char* text = std::getenv("NMOE_MUTANT");
  static const int chosen = text == nullptr ? 0 : std::stoi(text);
  return chosen == number;
}
}  // namespace nmoe
"""


def statement_end(text, begin):
    """The position after the semicolon that ends the statement of the call at `begin`; -1 if the call is part of another."""
    depth, at = 0, begin
    while at < len(text):
        if text[at] == "(":
            depth += 1
        elif text[at] == ")":
            depth -= 1
            if depth == 0:
                return at + 2 if text[at + 1:at + 2] == ";" else -1
        at += 1
    return -1


def chain_begin(text, at):
    """Where the statement whose call ends at `at`, a closing parenthesis, begins: after ; { } or the parenthesis of an if."""
    depth, begin = 0, at
    while depth > 0 or text[begin] not in ";{}":
        depth += {")": 1, "}": 1, "(": -1, "{": -1}.get(text[begin], 0)
        begin -= 1
    begin += 1 + re.match(r"(\s|//.*)*", text[begin + 1:]).end()
    if text.startswith("if (", begin):
        begin += 3
        while True:
            depth += {"(": 1, ")": -1}.get(text[begin], 0)
            begin += 1
            if depth == 0:
                return begin + 1
    return begin


def mutate(source):
    """Rewrites the files under `source`; returns [(number, place, text)]."""
    mutants = []

    def next_number(path, text, at):
        line = text.count("\n", 0, at) + 1
        shown = " ".join(text.splitlines()[line - 1].split())
        mutants.append((len(mutants) + 1, f"{path.relative_to(source)}:{line}", shown))
        return f"::nmoe::mutant({len(mutants)})"

    for path in sorted(p for pattern in PLACES for p in source.glob(pattern)):
        text, edits = path.read_text(), []
        for match in CALL.finditer(text):
            begin, end = match.start(), statement_end(text, match.start())
            line = text[text.rfind("\n", 0, begin) + 1:begin].strip()
            if end < 0 or (line and line[-1] not in ";{)") or text[begin - 1] in ".>" or "host_->" in match.group():
                continue
            edits.append((begin, begin, "if (!{m}) "))
        for match in re.finditer(r"\)\s*\.wait\(\);", text if "analysis" not in path.parts else ""):
            begin = chain_begin(text, match.start())
            chain = text[begin:match.start() + 1]
            edits.append((begin, match.end(), "{{ auto nmoe_work = " + chain.replace("{", "{{").replace("}", "}}")
                          + "; if (!{m}) nmoe_work.wait(); }}"))
        for file, wanted, replacement in CONDITIONS:
            if source / file == path:
                at = text.index(wanted)
                edits.append((at, at + len(wanted), replacement))
        numbered = [(begin, end, new.format(m=next_number(path, text, begin))) for begin, end, new in sorted(edits)]
        for begin, end, new in reversed(numbered):
            text = text[:begin] + new + text[end:]
        if edits:
            first = text.index("#include")
            path.write_text(text[:first] + '#include "neuronmoe/base/mutant.hpp"\n' + text[first:])
    (source / "include/neuronmoe/base/mutant.hpp").write_text(HEADER)
    return mutants


def run(build, test, order, number, timeout_s=100):
    target, ranks, _ = test
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
                   "OMPI_MCA_rmaps_base_oversubscribe": "1", "OMPI_MCA_mpi_yield_when_idle": "1", "NMOE_EMULATED_GUARD": "0",
                   "OMPI_MCA_hwloc_base_binding_policy": "none", "NMOE_TEST_TIMEOUT_S": "80", "NMOE_MUTANT": str(number),
                   "NMOE_TEST_SOURCE_DIR": str(build.parent.parent), "MALLOC_PERTURB_": "165"}
    if order is not None:
        environment["NMOE_EMULATED_ORDER"] = str(order)
    launcher = ["mpirun", "-n", str(ranks)] if ranks > 1 else []
    job = subprocess.Popen([*launcher, str(build / "tests" / target)], env=environment, stdout=subprocess.PIPE,
                           stderr=subprocess.STDOUT, text=True, errors="replace", start_new_session=True)
    try:
        out, _ = job.communicate(timeout=timeout_s)
        return job.returncode, out
    except subprocess.TimeoutExpired:
        os.killpg(job.pid, 9)
        job.communicate()
        return "hangs", ""


def first_red(build, number):
    for test in TESTS:
        for order in test[2]:
            code, out = run(build, test, order, number)
            if code == 0:
                continue
            case = re.search(r'error: in "([^"]+)"', out)
            name = test[0] + (f" on {test[1]} ranks" if test[1] > 1 else "") + ("" if order is None else f", order {order}")
            detail = case.group(1) if case else next((x for x in out.splitlines() if "emulated device:" in x), f"ends with {code}")
            return f"{name}: {detail}"
    return None


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("source", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--build", default=DEFAULT_BUILD)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    copy = options.work.resolve() / "source"
    files = subprocess.run(["git", "-C", options.source, "ls-files", "-co", "--exclude-standard"], capture_output=True, text=True,
                           check=True).stdout.splitlines()
    wanted = {file: (options.source / file).read_bytes() for file in files if (options.source / file).is_file()}
    fresh = options.work.resolve() / "fresh"
    shutil.rmtree(fresh, ignore_errors=True)
    for file, content in wanted.items():
        (fresh / file).parent.mkdir(parents=True, exist_ok=True)
        (fresh / file).write_bytes(content)
        shutil.copymode(options.source / file, fresh / file)
    mutants = mutate(fresh)
    for path in sorted(p for p in fresh.rglob("*") if p.is_file()):  # what has not changed keeps its time: nothing is built twice
        to = copy / path.relative_to(fresh)
        if not to.exists() or to.read_bytes() != path.read_bytes():
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, to)
    targets = list(dict.fromkeys(target for target, _, _ in TESTS))
    if subprocess.run([*shlex.split(options.build), *targets], cwd=copy).returncode != 0:
        sys.exit("the build failed")
    build = copy / "build/dev"
    red = first_red(build, 0)
    if red is not None:
        sys.exit(f"without a mutant: {red}")
    chosen = {int(n) for n in options.only.split(",") if n}
    green = 0
    for number, place, text in mutants:
        if chosen and number not in chosen:
            continue
        begin = time.monotonic()
        red = first_red(build, number)
        green += red is None
        print(f"{number:3} {place:45} {text[:90]:90} {time.monotonic() - begin:5.0f} s  {red or 'GREEN'}", flush=True)
    print(f"{green} of {len(chosen) or len(mutants)} green")
    return 1 if green else 0


if __name__ == "__main__":
    sys.exit(main())
