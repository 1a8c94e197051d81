#!/usr/bin/python3
"""Runs the device tests in many orders of the emulated streams. By hand: 200 orders take about half an hour on two cores.
Usage: stream_orders.py BUILD [--orders 200] [--first 0]"""
import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

# (target, ranks, every how many-th order: odd, so that orders of every kind come to all)
TESTS = [("emulated_test_gpu_communicators", 1, 1), ("emulated_test_gpu_pooling", 1, 1), ("emulated_test_gpu_moe", 1, 1),
         ("emulated_test_gpu_linear", 1, 1), ("emulated_test_gpu_transformer", 1, 3), ("emulated_test_gpu_ranking", 1, 5),
         ("test_device_collectives", 2, 1), ("test_device_collectives", 3, 5), ("test_nccl_failures", 2, 5),
         ("test_device_collectives", 4, 9), ("emulated_test_gpu_decoder", 1, 15), ("emulated_test_gpu_attention", 1, 25),
         ("test_device_train", 3, 51), ("test_device_train", 4, 67)]
ALL_ORDERS = [("test_waits", 1), ("test_device_orders", 2)]  # go through the orders by themselves


def run(build, target, ranks, environment):
    launcher = ["mpirun", "-n", str(ranks)] if ranks > 1 else []
    settings = {"OMP_NUM_THREADS": "1", "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
                "OMPI_MCA_rmaps_base_oversubscribe": "1", "OMPI_MCA_mpi_yield_when_idle": "1", "NMOE_EMULATED_GUARD": "0",
                "OMPI_MCA_hwloc_base_binding_policy": "none", "NMOE_TEST_TIMEOUT_S": "3600", "MALLOC_PERTURB_": "165",
                "NMOE_TEST_SOURCE_DIR": str(Path(__file__).resolve().parent.parent.parent)}
    job = subprocess.run([*launcher, str(build / "tests" / target)], env={**os.environ, **settings, **environment},
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    if job.returncode != 0:
        print(f"FAILED {target} on {ranks} ranks, {environment}: ends with {job.returncode}\n{job.stdout[-3000:]}", flush=True)
    return job.returncode == 0


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("build", type=Path)
    parser.add_argument("--orders", type=int, default=200)
    parser.add_argument("--first", type=int, default=0)
    options = parser.parse_args()
    counts, failed, begin = {}, 0, time.monotonic()
    for target, ranks in ALL_ORDERS:
        failed += not run(options.build, target, ranks, {"NMOE_TEST_ORDERS": str(options.first + options.orders)})
        counts[target, ranks] = options.first + options.orders
        print(f"{target} on {ranks} ranks: {options.first + options.orders} orders, {time.monotonic() - begin:.0f} s", flush=True)
    for order in range(options.first, options.first + options.orders):
        for target, ranks, step in TESTS:
            if (order + ranks) % step == 0:
                failed += not run(options.build, target, ranks, {"NMOE_EMULATED_ORDER": str(order)})
                counts[target, ranks] = counts.get((target, ranks), 0) + 1
    for (target, ranks), count in counts.items():
        print(f"{count:4} orders of {target} on {ranks} ranks")
    print(f"{failed} failed, {time.monotonic() - begin:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
