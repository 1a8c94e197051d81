#!/usr/bin/env python3
"""Tests of cmake/*.cmake in a small project, without compiling: MPI and HDF5 in paths with blanks, flags, old versions; and of
the presets and the install rules."""
import json
import os
import subprocess
import tempfile
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PROJECT = r'''
cmake_minimum_required(VERSION 3.21)
project(small LANGUAGES C CXX)
set(CMAKE_MODULE_PATH "${ROOT}/cmake")
include(NeuronmoeVersions)
include(NeuronmoeFlags)
get_target_property(options nmoe_flags INTERFACE_COMPILE_OPTIONS)
message(STATUS "options ${options}")
if(WITH_LIBRARIES)
  include(NeuronmoeMpiHdf5)
  get_target_property(mpi MPI::MPI_C INTERFACE_LINK_LIBRARIES)
  get_target_property(headers nmoe_hdf5 INTERFACE_INCLUDE_DIRECTORIES)
  message(STATUS "found <${mpi}> <${headers}>")
endif()
'''


class Build(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = os.path.join(folder.name, "a user folder")
        self.write("source/CMakeLists.txt", PROJECT)

    def write(self, path, text, mode=0o644):
        path = os.path.join(self.folder, path)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as stream:
            stream.write(text)
        os.chmod(path, mode)
        return path

    def cmake(self, *options, code=0):
        command = ["cmake", "-S", "source", "-B", "build", f"-DROOT={ROOT}", *options]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, timeout=120)
        self.assertEqual(done.returncode, code, done.stdout + done.stderr)
        return done.stdout + done.stderr

    def libraries(self, parallel=True, version="1.14.3"):
        """A MPICH and an HDF5 of which only what is looked at exists."""
        self.write("my mpi/bin/mpicc", "#!/bin/sh\nexit 1\n", 0o755)
        self.write("my mpi/include/mpi.h", '#define MPICH_VERSION "4.2.1"\n')
        self.write("my mpi/lib/libmpi.so", "")
        self.write("my hdf5/include/hdf5.h", "")
        self.write("my hdf5/include/H5pubconf.h",
                   f'#define H5_VERSION "{version}"\n' + ("#define H5_HAVE_PARALLEL 1\n" if parallel else ""))
        self.write("my hdf5/lib/libhdf5.so", "")
        return ["-DWITH_LIBRARIES=ON", f"-DMPI_HOME={self.folder}/my mpi", f"-DHDF5_ROOT={self.folder}/my hdf5"]

    def test_mpi_and_hdf5_in_paths_with_blanks(self):
        text = self.cmake("-DCMAKE_DISABLE_FIND_PACKAGE_HDF5=ON", *self.libraries())  # no wrapper to help
        self.assertIn(f"MPI: mpich 4.2.1; HDF5 1.14.3: {self.folder}/my hdf5/lib/libhdf5.so", text)
        self.assertIn(f"found <{self.folder}/my mpi/lib/libmpi.so> <{self.folder}/my hdf5/include>", text)
        self.assertNotIn("older than any", text)

    def test_a_serial_hdf5_is_not_taken(self):
        text = self.cmake("-DCMAKE_DISABLE_FIND_PACKAGE_HDF5=ON", *self.libraries(parallel=False), code=1)
        self.assertNotIn("found <", text)
        self.assertIn("HDF5", text)

    def test_an_old_version_is_told(self):
        self.assertIn("HDF5 1.8.20 is older than any that neuronmoe was tried with", self.cmake(*self.libraries(version="1.8.20")))

    def test_flags(self):
        text = self.cmake()
        self.assertIn("-Wall", text)
        self.assertNotIn("-Werror", text)
        self.assertNotIn("-march=native", text)  # NMOE_NATIVE is not set here
        self.assertIn("-Werror", self.cmake("-DNMOE_WERROR=ON"))
        for flags in ("-DCMAKE_CXX_FLAGS=-O2 -ffast-math", "-DCMAKE_CXX_FLAGS_RELEASE=-Ofast"):
            self.assertIn("changes the order of sums", self.cmake(flags, code=1).replace("\n", " "))

    def test_presets(self):
        with open(os.path.join(ROOT, "CMakePresets.json"), encoding="utf-8") as stream:
            presets = {preset["name"]: preset for preset in json.load(stream)["configurePresets"]}

        def value(name, key):
            preset = presets[name]
            found = preset.get("cacheVariables", {}).get(key)
            return found if found is not None or "inherits" not in preset else value(preset["inherits"], key)

        for name in set(presets) - {"base", "dist"}:
            self.assertEqual(value(name, "NMOE_WERROR"), "ON", name)
        self.assertEqual([value("dist", key) for key in ("NMOE_WERROR", "NMOE_NATIVE", "CMAKE_BUILD_TYPE")], ["OFF", "OFF", "Release"])


if __name__ == "__main__":
    unittest.main()
