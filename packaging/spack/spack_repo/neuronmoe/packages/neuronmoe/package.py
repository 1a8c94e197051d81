"""neuronmoe from the checkout that this file lies in (Spack 1.0 or newer):

    spack repo add packaging/spack/spack_repo/neuronmoe
    spack install neuronmoe +cuda cuda_arch=90a ^openmpi
"""
import os

from spack_repo.builtin.build_systems.cmake import CMakePackage
from spack_repo.builtin.build_systems.cuda import CudaPackage

from spack.package import *

_CHECKOUT = os.path.abspath(os.path.join(os.path.dirname(os.path.realpath(__file__)), *[os.pardir] * 6))


class Neuronmoe(CMakePackage, CudaPackage):
    """Turns dense language models into multilingual mixtures of experts, guided by their neurons, and measures them."""

    homepage = "file://" + _CHECKOUT
    git = "file://" + _CHECKOUT

    license("Apache-2.0")

    version("main", branch="main")

    variant("native", default=False, description="Tune for the CPU that builds; Spack's target is used otherwise")
    variant("nccl", default=True, when="+cuda", description="NCCL between GPUs")

    depends_on("c", type="build")
    depends_on("cxx", type="build")
    depends_on("cmake@3.21:", type="build")
    depends_on("ninja", type="build")
    depends_on("pkgconfig", type="build")

    depends_on("mpi@3.1:")
    depends_on("hdf5@1.10.8:1 +mpi")
    depends_on("boost@1.74.0: +program_options +test")
    depends_on("fmt")
    depends_on("spdlog")
    depends_on("nlohmann-json")
    depends_on("openssl")
    depends_on("pcre2")
    depends_on("utf8proc@2.7:")  # older ones install no pkg-config file
    depends_on("zlib-api")
    depends_on("onednn@2.7:")
    depends_on("sentencepiece@0.1.91:")
    depends_on("cuda@12.4:", when="+cuda")
    depends_on("nccl@2.14:", when="+nccl")
    # tools/, launch/pipeline.sh
    depends_on("python@3.11:", type="run")
    depends_on("py-h5py", type="run")
    depends_on("py-numpy", type="run")
    depends_on("py-matplotlib", type="run")

    requires("%gcc@12.2:", "%clang@14.0:", policy="one_of", msg="C++20: GCC 12.2 or Clang 14.0")
    conflicts("cuda_arch=none", when="+cuda", msg="give the GPU: cuda_arch=90a (Hopper)")

    generator("ninja")

    def cmake_args(self):
        arguments = [
            self.define("NMOE_BUILD_TESTS", self.run_tests),
            self.define_from_variant("NMOE_NATIVE", "native"),
            self.define("NMOE_CUDA", "ON" if self.spec.satisfies("+cuda") else "OFF"),
            self.define("NMOE_NCCL", "ON" if self.spec.satisfies("+nccl") else "OFF"),
            self.define("HDF5_ROOT", self.spec["hdf5"].prefix),
            self.define("MPI_HOME", self.spec["mpi"].prefix),
        ]
        if self.spec.satisfies("+cuda"):
            arguments.append(self.define("CMAKE_CUDA_ARCHITECTURES", ";".join(self.spec.variants["cuda_arch"].value)))
        return arguments

    def setup_run_environment(self, env):
        env.set("NMOE_ROOT", os.path.join(self.prefix.share, "neuronmoe"))
