#!/usr/bin/python3
"""Takes every event record, event wait and synchronization out of the GPU side of the program, one at a time, and runs the
device tests in several orders of the emulated streams: each must turn a test red. Nothing is built: the call is overwritten in
copies of the test programs (x86-64, built with -O1, where these functions are not inlined). By hand; a quarter of an hour.
Usage: stream_mutations.py BUILD [--only NUMBER,...] [--list]"""
import argparse
import os
import re
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CALLEE = re.compile(r"call\s+\w+ <(nmoe::Event::(?:record|make_wait|wait|reached)|nmoe::synchronize|nmoe::comm::Work::wait"
                    r"|nmoe::comm::InPlaceExchange::wait|nmoe::model::Arrivals::wait|nmoe::ReadBack::drain|cudaStreamSynchronize"
                    r"|nmoe::comm::detail::NcclEngine::(?:drain|settle|follow)|nmoe::train::ShardGroup::(?:order|wait_weights))[(@>]")
CALLER = re.compile(r"nmoe::(?!test)|std::_Function_handler<.*nmoe::(?:comm|train|model|analysis)::")
# In place of the five bytes of a call: true where somebody asks, cudaSuccess, else nothing.
INSTEAD = {"nmoe::Event::reached": b"\xb8\x01\0\0\0", "cudaStreamSynchronize": b"\x31\xc0\x0f\x1f\0"}
NOTHING = b"\x0f\x1f\x44\0\0"
# (program, ranks, orders; none: it goes through orders itself), the fast ones first
TESTS = [("test_waits", 1, [None]), ("emulated_test_gpu_communicators", 1, [0, 1, 2, 3]), ("test_nccl_failures", 2, [0, 3]),
         ("test_device_collectives", 2, [0, 1, 3]), ("test_device_orders", 2, [None]), ("test_device_collectives", 3, [0, 3]),
         ("emulated_test_gpu_decoder", 1, [0]), ("test_device_train", 3, [0, 3])]


def load_segments(program):
    """[(address, offset in the file, bytes)] of a 64-bit ELF program."""
    data = program.read_bytes()
    start, size, count = struct.unpack_from("<Q", data, 32)[0], *struct.unpack_from("<HH", data, 54)
    headers = [struct.unpack_from("<IIQQQQQ", data, start + i * size) for i in range(count)]
    return [(address, offset, length) for kind, _, offset, address, _, length, _ in headers if kind == 1]


def calls_of(program):
    """{(caller, callee, how many such calls come before): offset in the file} of a program."""
    listing = subprocess.run(["objdump", "-d", "-C", "--no-show-raw-insn", program], capture_output=True, text=True, check=True).stdout
    segments, caller, found, seen = load_segments(program), "", {}, {}
    for line in listing.splitlines():
        if line.endswith(">:"):
            caller = line[line.index("<") + 1:-2]
            continue
        call = CALLEE.search(line)
        if call is None or not CALLER.match(caller):
            continue
        address = int(line.split(":")[0], 16)
        offset = next(offset + address - begin for begin, offset, size in segments if begin <= address < begin + size)
        key = (caller, call.group(1))
        found[(*key, seen.setdefault(key, 0))] = offset
        seen[key] += 1
    return found


def run(folder, test, order, timeout_s=100):
    target, ranks, _ = test
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
                   "OMPI_MCA_rmaps_base_oversubscribe": "1", "OMPI_MCA_mpi_yield_when_idle": "1", "NMOE_EMULATED_GUARD": "0",
                   "OMPI_MCA_hwloc_base_binding_policy": "none", "NMOE_TEST_TIMEOUT_S": "60", "MALLOC_PERTURB_": "165",
                   "NMOE_TEST_SOURCE_DIR": str(Path(__file__).resolve().parent.parent.parent)}
    if order is not None:
        environment["NMOE_EMULATED_ORDER"] = str(order)
    launcher = ["mpirun", "-n", str(ranks)] if ranks > 1 else []
    job = subprocess.Popen([*launcher, str(folder / target)], env=environment, stdout=subprocess.PIPE,
                           stderr=subprocess.STDOUT, text=True, errors="replace", start_new_session=True)
    try:
        out, _ = job.communicate(timeout=timeout_s)
        return job.returncode, out
    except subprocess.TimeoutExpired:
        os.killpg(job.pid, 9)
        job.communicate()
        return "hangs", ""


def first_red(folder, tests):
    for test in tests:
        for order in test[2]:
            code, out = run(folder, test, order)
            if code == 0:
                continue
            case = re.search(r'error: in "([^"]+)"', out)
            name = test[0] + (f" on {test[1]} ranks" if test[1] > 1 else "") + ("" if order is None else f", order {order}")
            detail = case.group(1) if case else next((x for x in out.splitlines() if "emulated device:" in x), f"ends with {code}")
            return f"{name}: {detail}"
    return None


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("build", type=Path)
    parser.add_argument("--only", default="")
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args()
    tests = options.build / "tests"
    programs = list(dict.fromkeys(name for name, _, _ in TESTS))
    calls = {name: calls_of(tests / name) for name in programs}
    mutants = sorted(set().union(*calls.values()))
    chosen = {int(n) for n in options.only.split(",") if n} or set(range(1, len(mutants) + 1))
    red = None if options.list else first_red(tests, TESTS)
    if red is not None:
        sys.exit(f"without a mutant: {red}")
    green = 0
    for number, key in enumerate(mutants, 1):
        if number not in chosen:
            continue
        caller = key[0].replace("(anonymous namespace)::", "").replace("std::_Function_handler<void (), ", "a function of ")
        caller = caller.replace("std::_Function_handler<void (int), ", "a function of ")
        what = f"{number:3} {key[1].split('::')[-1]} in {caller.split('(')[0]}"
        what += f" #{key[2] + 1}"
        if options.list:
            print(what, key[0])
            continue
        begin = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            for name in programs:
                program = bytearray((tests / name).read_bytes())
                if key in calls[name]:
                    at = calls[name][key]
                    if program[at] != 0xE8:
                        sys.exit(f"{name}: no call at {at:#x}")
                    program[at:at + 5] = INSTEAD.get(key[1], NOTHING)
                (Path(folder) / name).write_bytes(program)
                (Path(folder) / name).chmod(0o755)
            red = first_red(Path(folder), [test for test in TESTS if key in calls[test[0]]])
        green += red is None
        print(f"{what:100} {time.monotonic() - begin:4.0f} s  {red or 'GREEN'}", flush=True)
    print(f"{green} of {len(chosen)} green")
    return 1 if green and not options.list else 0


if __name__ == "__main__":
    sys.exit(main())
