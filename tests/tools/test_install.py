#!/usr/bin/env python3
"""docs/install.md names the versions that cmake/NeuronmoeVersions.cmake and CMakeLists.txt state."""
import os
import re
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def read(*path):
    with open(os.path.join(ROOT, *path), encoding="utf-8") as stream:
        return stream.read()


class Versions(unittest.TestCase):
    def test_the_page_names_the_versions_of_the_build(self):
        rows = {row.split("|")[1].strip(): row.split("|")[2] for row in read("docs", "install.md").splitlines()
                if row.startswith("| ")}
        places = {"GNU": ("C++ compiler", "GCC "), "Clang": ("C++ compiler", "Clang "), "OPEN_MPI": ("MPI", "Open MPI "),
                  "MPICH": ("MPI", "MPICH "), "HDF5": ("HDF5", ""), "BOOST": ("Boost", ""), "CUDA": ("CUDA toolkit", ""),
                  "NCCL": ("NCCL", "")}
        stated = dict(re.findall(r"set\(NMOE_OLDEST_(\w+) ([\d.]+)\)", read("cmake", "NeuronmoeVersions.cmake")))
        self.assertEqual(sorted(stated), sorted(places))
        for name, (row, before) in places.items():
            self.assertRegex(rows[row], rf"(^|[ ]){before}{re.escape(stated[name])}( |$)", name)
        cmake = re.search(r"cmake_minimum_required\(VERSION ([\d.]+)\)", read("CMakeLists.txt")).group(1)
        self.assertEqual(rows["CMake"].strip(), cmake)

    def test_the_recipe_of_spack_demands_them(self):
        stated = dict(re.findall(r"set\(NMOE_OLDEST_(\w+) ([\d.]+)\)", read("cmake", "NeuronmoeVersions.cmake")))
        recipe = read("packaging", "spack", "spack_repo", "neuronmoe", "packages", "neuronmoe", "package.py")
        for name, spec in (("GNU", "%gcc@"), ("Clang", "%clang@"), ("HDF5", "hdf5@"), ("BOOST", "boost@"), ("CUDA", "cuda@"), ("NCCL", "nccl@")):
            self.assertIn(f'"{spec}{stated[name]}:', recipe)
        cmake = re.search(r"cmake_minimum_required\(VERSION ([\d.]+)\)", read("CMakeLists.txt")).group(1)
        self.assertIn(f'"cmake@{cmake}:"', recipe)

    def test_versions_said_elsewhere_are_the_same(self):
        stated = dict(re.findall(r"set\(NMOE_OLDEST_(\w+) ([\d.]+)\)", read("cmake", "NeuronmoeVersions.cmake")))
        self.assertIn(f"NCCL {stated['NCCL']} or newer is needed", read("src", "comm", "nccl", "nccl_library.cpp"))
        self.assertIn(f"NCCL {stated['NCCL']} or newer", read("README.md"))
        self.assertRegex(read("README.md"), rf"CUDA\s+{re.escape(stated['CUDA'])} or newer")


if __name__ == "__main__":
    unittest.main()
