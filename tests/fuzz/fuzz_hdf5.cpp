// Fuzz target: what stands before and instead of the HDF5 library. The first byte chooses: 0 to 7 are filters
// of a dataset whose one stored chunk the rest is; anything else a file that is compared with its seal.
// Whatever the bytes, there is an answer or Error(bad_data).
#include <hdf5.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include "fuzz.hpp"
#include "neuronmoe/io/hdf5_file.hpp"

namespace {

constexpr hsize_t num_elements = 300, chunk_elements = 256;

/// A file as an attacker makes it: the bytes of its first chunk are given, its second chunk was never
/// written.
void write_with_chunk(const std::string& path, unsigned filters, const std::uint8_t* data, std::size_t size) {
  const hid_t file = H5Fcreate(path.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
  const hid_t creation = H5Pcreate(H5P_DATASET_CREATE), space = H5Screate_simple(1, &num_elements, nullptr);
  H5Pset_chunk(creation, 1, &chunk_elements);
  if ((filters & 1U) != 0) H5Pset_shuffle(creation);
  if ((filters & 2U) != 0) H5Pset_deflate(creation, 1);
  if ((filters & 4U) != 0) H5Pset_fletcher32(creation);
  const hid_t dataset = H5Dcreate2(file, "x", H5T_IEEE_F32LE, space, H5P_DEFAULT, creation, H5P_DEFAULT);
  const hsize_t origin = 0;
  nmoe::fuzz::require(dataset >= 0 && H5Dwrite_chunk(dataset, H5P_DEFAULT, 0, &origin, size, data) >= 0);
  H5Dclose(dataset), H5Sclose(space), H5Pclose(creation), H5Fclose(file);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 2) return 0;
  std::string path = "/dev/shm/nmoe-fuzz-XXXXXX";  // HDF5 wants a real path, so no memfd
  const int file = ::mkstemp(path.data());
  nmoe::fuzz::require(file >= 0);
  if (data[0] < 8) {
    write_with_chunk(path, data[0], data + 1, size - 1);
    nmoe::fuzz::only_bad_data([&] {
      auto opened = nmoe::io::H5File::open_foreign(path);
      nmoe::fuzz::require(opened.read<float>("/x").size() == num_elements);
    });
  } else {
    nmoe::fuzz::require(::write(file, data + 1, size - 1) == static_cast<ssize_t>(size - 1));
    nmoe::fuzz::only_bad_data([&] { nmoe::io::verify_seal(path); });
  }
  ::close(file);
  ::unlink(path.c_str());
  return 0;
}
