// SHA-256 of a large file, each rank hashing some of its pieces.
#include "neuronmoe/io/file_hash.hpp"

#include <algorithm>
#include <cstdint>
#include <fstream>
#include <vector>

#include "neuronmoe/base/error.hpp"
#include "neuronmoe/base/sha256.hpp"
#include "neuronmoe/comm/agree.hpp"
#include "neuronmoe/io/atomic_file.hpp"

namespace nmoe::io {

std::string file_hash(comm::Communicator& comm, const std::string& path) {
  constexpr std::int64_t block_bytes = std::int64_t{64} << 20;
  std::int64_t num_blocks = 0;
  std::string mine;
  comm::agree(comm, [&] {
    const std::int64_t size = file_size_bytes(path);
    num_blocks = (size + block_bytes - 1) / block_bytes;
    std::ifstream file(path, std::ios::binary);
    std::vector<char> buffer(1 << 20);
    for (std::int64_t block = comm.rank(); block < num_blocks; block += comm.size()) {
      Sha256 sha;
      file.seekg(block * block_bytes);
      for (std::int64_t left = std::min(block_bytes, size - block * block_bytes); left > 0;) {
        const auto count = std::min(left, static_cast<std::int64_t>(buffer.size()));
        NMOE_CHECK(file.read(buffer.data(), count), bad_data, "{} cannot be read in block {} of {}", path,
                   block, num_blocks);
        sha.update(buffer.data(), static_cast<std::size_t>(count));
        left -= count;
      }
      mine += sha.hex();
    }
  });
  const std::vector<std::string> all = comm::all_gather_strings(comm, mine);
  std::string digests;
  for (std::int64_t block = 0; block < num_blocks; ++block) {
    constexpr std::size_t digest_chars = 64;
    const auto rank = static_cast<std::size_t>(block % comm.size());
    digests += all[rank].substr(static_cast<std::size_t>(block / comm.size()) * digest_chars, digest_chars);
  }
  return sha256_text(digests);
}

}  // namespace nmoe::io
