#!/usr/bin/python3
"""Every name of CUDA, cuBLASLt, CUB and NCCL that the GPU side uses stands in data/cuda_api.tsv with a version that has it, and
none of them is newer than the oldest versions this project is for (NMOE_OLDEST_CUDA of CMake, the words of nccl_library.cpp).
tools/compile_cuda12.sh asks the compiler itself, which takes a download of 670 MB."""
import os
import re
import shutil
import subprocess
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NAME = re.compile(r"\b(cuda[A-Z]\w+|cublas[A-Z]\w+|CUBLAS\w+|nccl[A-Z]\w+|NCCL_\w+|cub::\w+::\w+|CUDA_R_\w+|__[a-z]\w+_sync|__cvta\w+"
                  r"|__bfloat\w+|__floats?2bfloat\w+)\b")


def used_names():
    names = {}
    for folder in [*ROOT.glob("src/*/cuda"), ROOT / "src/comm/nccl"]:
        for source in folder.rglob("*.*"):
            text = re.sub(r"//.*", "", source.read_text())
            for name in NAME.findall(text):
                names.setdefault(name, source.relative_to(ROOT))
    names.pop("cublasLt", None)  # of libcublasLt.so
    return names


def version(text):
    return tuple(int(part) for part in text.split("."))


class CudaApi(unittest.TestCase):
    def setUp(self):
        rows = (line.split("\t") for line in (ROOT / "tests/tools/data/cuda_api.tsv").read_text().splitlines() if line[0] != "#")
        self.known = {name: (library, version(since)) for name, library, since in rows}

    def test_the_list_is_what_is_used(self):
        used = used_names()
        self.assertGreater(len(used), 100)
        missing = [f"{name} ({place})" for name, place in used.items() if name not in self.known]
        self.assertEqual(missing, [], "add these to cuda_api.tsv with the version that introduced them")
        self.assertEqual(sorted(set(self.known) - set(used)), [], "nothing uses these any more")

    def test_the_oldest_versions_have_all_of_it(self):
        cmake = (ROOT / "cmake/NeuronmoeVersions.cmake").read_text()
        words = (ROOT / "src/comm/nccl/nccl_library.cpp").read_text()
        oldest = {"CUDA": version(re.search(r"set\(NMOE_OLDEST_CUDA ([\d.]+)\)", cmake).group(1)),
                  "NCCL": version(re.search(r"NCCL ([\d.]+) or newer", words).group(1))}
        newer = [name for name, (library, since) in self.known.items() if since > oldest[library]]
        self.assertEqual(newer, [])
        readme = (ROOT / "README.md").read_text()
        for library, number in oldest.items():
            self.assertIn(f"{library} {'.'.join(map(str, number))}", readme)

    @unittest.skipUnless(shutil.which("cmake"), "no cmake")
    def test_nccl_of_a_python_wheel_is_found(self):
        """It has libnccl.so.2 and no libnccl.so; without a library the header is enough, for it is opened where it runs."""
        with tempfile.TemporaryDirectory() as folder:
            wheel, project, commands = Path(folder) / "nvidia/nccl", Path(folder) / "project", Path(folder) / "bin"
            for path in (wheel / "include", wheel / "lib", project, commands):
                path.mkdir(parents=True)
            (wheel / "include/nccl.h").write_text("#define NCCL_MAJOR 2\n#define NCCL_MINOR 21\n#define NCCL_PATCH 5\n")
            (commands / "python3").write_text(f"#!/bin/sh\necho {wheel}\n")
            (commands / "python3").chmod(0o755)
            (project / "CMakeLists.txt").write_text(
                'cmake_minimum_required(VERSION 3.21)\nproject(x LANGUAGES NONE)\nset(CMAKE_FIND_LIBRARY_PREFIXES lib)\n'
                'set(CMAKE_FIND_USE_CMAKE_SYSTEM_PATH OFF)\nset(CMAKE_FIND_USE_SYSTEM_ENVIRONMENT_PATH OFF)\n'
                f'set(CMAKE_FIND_LIBRARY_SUFFIXES .so)\nlist(APPEND CMAKE_MODULE_PATH "{ROOT}/cmake")\nfind_package(NCCL)\n'
                'message(STATUS "NCCL: ${NCCL_FOUND} ${NCCL_VERSION} ${NCCL_LIBRARY}")\n')
            for library, found in [(None, "NCCL_LIBRARY-NOTFOUND"), ("libnccl.so.2", f"{wheel}/lib/libnccl.so.2")]:
                if library:
                    (wheel / "lib" / library).write_text("")
                shutil.rmtree(project / "build", ignore_errors=True)
                job = subprocess.run(["cmake", "-S", project, "-B", project / "build"], capture_output=True, text=True,
                                     env={**os.environ, "PATH": f"{commands}:{os.environ['PATH']}"})
                self.assertIn(f"NCCL: TRUE 2.21.5 {found}", job.stdout, job.stderr)


if __name__ == "__main__":
    unittest.main()
