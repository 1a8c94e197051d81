#pragma once
// Headers of safetensors files and indexes, read with suspicion. Used by safetensors.cpp only.
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "neuronmoe/io/safetensors.hpp"

namespace nmoe::io {

inline constexpr std::int64_t max_safetensors_header_bytes = 100'000'000;

/// A tensor and where its bytes are.
struct LocatedTensor {
  SafetensorsEntry entry;
  std::size_t shard;
  std::uint64_t begin, end;  // bytes in the shard's data
};

/// What the header of one file says.
struct SafetensorsHeader {
  std::vector<LocatedTensor> tensors;
  std::map<std::string, std::string> metadata;
};

/// Length of the header from the first eight bytes of a file. @throws Error(bad_data) if the file cannot hold
/// it or it is longer than any that is read
std::uint64_t safetensors_header_bytes(const std::string& path, std::string_view first_bytes,
                                       std::int64_t file_bytes);
/// All tensors of one file; their offsets must tile `data_bytes` exactly. @throws Error(bad_data)
SafetensorsHeader parse_safetensors_header(const std::string& path, std::string_view text,
                                           std::uint64_t data_bytes, std::size_t shard);
/// Tensor name -> shard file name, from model.safetensors.index.json. @throws Error(bad_data)
std::map<std::string, std::string> parse_safetensors_index(const std::string& path);

}  // namespace nmoe::io
