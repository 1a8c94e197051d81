// Fuzz target: a safetensors file. Whatever the bytes, it opens or throws Error(bad_data); what opens can be
// read whole.
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <string>

#include "fuzz.hpp"
#include "neuronmoe/base/error.hpp"
#include "neuronmoe/io/safetensors.hpp"

namespace {

constexpr std::int64_t max_elements = 1 << 16;

void read_all(const nmoe::io::SafetensorsReader& reader) {
  for (const std::string& name : reader.names()) {
    const nmoe::Shape& shape = reader.entry(name).shape;
    if (shape.num_elements() == 0 || shape.num_elements() > max_elements) continue;
    nmoe::Tensor tensor(shape, nmoe::DType::float32);
    reader.read(name, tensor.view());
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const int file = ::memfd_create("fuzz", 0);
  nmoe::fuzz::require(file >= 0 && ::write(file, data, size) == static_cast<ssize_t>(size));
  nmoe::fuzz::only_bad_data(
      [&] { read_all(nmoe::io::SafetensorsReader("/proc/self/fd/" + std::to_string(file))); });
  ::close(file);
  return 0;
}
