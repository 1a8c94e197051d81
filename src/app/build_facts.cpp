// The text of --version: what CMake wrote into nmoe_build.hpp, and what loaded libraries say of themselves.
#include "build_facts.hpp"

#include <fmt/core.h>

#include <string_view>

#include "mpi_facts.hpp"
#include "neuronmoe/app/version.hpp"
#include "neuronmoe/comm/device_communicator.hpp"
#include "neuronmoe/io/hdf5_version.hpp"
#include "neuronmoe/tensor/device.hpp"
#include "nmoe_build.hpp"

namespace nmoe::app {
namespace {

std::string line(std::string_view name, std::string_view text) {
  return fmt::format("{:<14} {}\n", name, text);
}

std::string cuda_text() {
  if (std::string_view(NMOE_BUILD_CUDA).empty()) return "not built in";
  const int visible = num_cuda_devices();
  return fmt::format("{}; {}", NMOE_BUILD_CUDA,
                     visible > 0 ? fmt::format("{} GPU{} visible here", visible, visible == 1 ? "" : "s")
                                 : why_no_cuda_device());
}

std::string nccl_text() {
  if (std::string_view(NMOE_BUILD_NCCL).empty()) return "not built in";
  const std::string missing = comm::why_no_nccl();
  return fmt::format("{} (header); {}", NMOE_BUILD_NCCL,
                     missing.empty() ? "the library opens here" : missing);
}

}  // namespace

std::string version_text() {
  const std::string_view type = NMOE_BUILD_TYPE;
  std::string text = fmt::format("neuronmoe {}\n", version());
  text += line("compiler", NMOE_BUILD_COMPILER);
  text += line("flags", fmt::format("{}{}{}", NMOE_BUILD_FLAGS, type.empty() ? "" : "; build type ", type));
  text += line("MPI", mpi_library_text());
  text += line("HDF5", io::hdf5_version() + ", parallel");
  text += line("oneDNN", NMOE_BUILD_ONEDNN);
  text += line("sentencepiece", NMOE_BUILD_SENTENCEPIECE);
  text += line("CUDA", cuda_text());
  return text + line("NCCL", nccl_text());
}

}  // namespace nmoe::app
