// Headers of safetensors files and indexes: parsed, and refused if anything does not add up.
#include "safetensors_header.hpp"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "neuronmoe/base/error.hpp"
#include "neuronmoe/io/json_file.hpp"

namespace nmoe::io {
namespace {

using nlohmann::json;

constexpr std::size_t max_entries = 200'000;
constexpr int max_header_depth = 8;

/// An unsigned integer below 2^62; floats, negatives and strings are refused.
std::uint64_t unsigned_of(const json& value, const std::string& path, const std::string& name) {
  NMOE_CHECK(value.is_number_unsigned() && value.get<std::uint64_t>() < (std::uint64_t{1} << 62), bad_data,
             "{}: tensor {} has a size or offset that is not a plain number", path, name);
  return value.get<std::uint64_t>();
}

Shape shape_of(const json& value, const std::string& path, const std::string& name) {
  NMOE_CHECK(value.is_array() && value.size() <= 4, bad_data,
             "{}: tensor {} needs a shape of at most 4 extents", path, name);
  std::array<std::int64_t, 4> extents{};
  std::uint64_t total = 1;
  for (std::size_t axis = 0; axis < value.size(); ++axis) {
    const std::uint64_t extent = unsigned_of(value[axis], path, name);
    NMOE_CHECK(extent == 0 || total <= (std::uint64_t{1} << 59) / extent, bad_data,
               "{}: tensor {} declares more than 2^59 elements", path, name);
    total *= std::max<std::uint64_t>(1, extent);
    extents[axis] = static_cast<std::int64_t>(extent);
  }
  switch (value.size()) {
    case 0:
      return {};
    case 1:
      return {extents[0]};
    case 2:
      return {extents[0], extents[1]};
    case 3:
      return {extents[0], extents[1], extents[2]};
    default:
      return {extents[0], extents[1], extents[2], extents[3]};
  }
}

LocatedTensor parse_entry(const std::string& path, const std::string& name, const json& value) {
  NMOE_CHECK(value.is_object() && value.size() == 3 && value.contains("dtype") && value.contains("shape") &&
                 value.contains("data_offsets") && value["dtype"].is_string() &&
                 value["data_offsets"].is_array() && value["data_offsets"].size() == 2,
             bad_data, "{}: tensor {} needs exactly dtype, shape and data_offsets", path, name);
  LocatedTensor t{{name, value["dtype"].get<std::string>(), shape_of(value["shape"], path, name)}, 0, 0, 0};
  const std::int64_t element_bytes = safetensors_element_bytes(t.entry.dtype);
  NMOE_CHECK(element_bytes > 0, bad_data, "{}: tensor {} has dtype {}; F64, F32, BF16 and F16 are read", path,
             name, t.entry.dtype);
  t.begin = unsigned_of(value["data_offsets"][0], path, name);
  t.end = unsigned_of(value["data_offsets"][1], path, name);
  const auto expected = static_cast<std::uint64_t>(t.entry.shape.num_elements() * element_bytes);
  NMOE_CHECK(t.begin <= t.end && t.end - t.begin == expected, bad_data,
             "{}: tensor {} of shape {} needs {} bytes but its offsets are {} and {}", path, name,
             t.entry.shape.to_string(), expected, t.begin, t.end);
  return t;
}

}  // namespace

std::uint64_t safetensors_header_bytes(const std::string& path, std::string_view first_bytes,
                                       std::int64_t file_bytes) {
  NMOE_CHECK(file_bytes >= 8 && first_bytes.size() == 8, bad_data,
             "{} has {} bytes; a safetensors file has at least 8", path, file_bytes);
  std::uint64_t header_bytes = 0;
  for (std::size_t i = 8; i-- > 0;)
    header_bytes = header_bytes << 8U | static_cast<unsigned char>(first_bytes[i]);
  const auto rest = static_cast<std::uint64_t>(file_bytes - 8);
  NMOE_CHECK(header_bytes <= max_safetensors_header_bytes && header_bytes <= rest, bad_data,
             "{}: header of {} bytes, but the file has {} and at most {} are read", path, header_bytes, rest,
             max_safetensors_header_bytes);
  return header_bytes;
}

SafetensorsHeader parse_safetensors_header(const std::string& path, std::string_view text,
                                           std::uint64_t data_bytes, std::size_t shard) {
  NMOE_CHECK(text.starts_with('{'), bad_data, "{}: the header does not start with '{{'", path);
  const json header = parse_json(text, path, max_header_depth);
  NMOE_CHECK(header.is_object() && header.size() <= max_entries, bad_data,
             "{}: the header needs to be an object of at most {} tensors", path, max_entries);
  SafetensorsHeader found;
  std::vector<LocatedTensor>& tensors = found.tensors;
  for (const auto& [name, value] : header.items()) {
    if (name == "__metadata__") {
      const bool strings = value.is_object() && std::all_of(value.begin(), value.end(),
                                                            [](const json& v) { return v.is_string(); });
      NMOE_CHECK(strings, bad_data, "{}: __metadata__ needs to map strings to strings", path);
      found.metadata = value.get<std::map<std::string, std::string>>();
      continue;
    }
    tensors.push_back(parse_entry(path, name, value));
    tensors.back().shard = shard;
  }
  std::sort(tensors.begin(), tensors.end(), [](const LocatedTensor& a, const LocatedTensor& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  std::uint64_t position = 0;
  for (const LocatedTensor& t : tensors) {
    NMOE_CHECK(t.begin == position, bad_data,
               "{}: tensor {} begins at byte {} but the one before it ends at {} (hole or overlap)", path,
               t.entry.name, t.begin, position);
    position = t.end;
  }
  NMOE_CHECK(position == data_bytes, bad_data,
             "{}: tensors end at byte {} of the data but it has {} bytes (truncated or trailing bytes)", path,
             position, data_bytes);
  return found;
}

std::map<std::string, std::string> parse_safetensors_index(const std::string& path) {
  const json index = read_json(path, max_safetensors_header_bytes);
  NMOE_CHECK(index.is_object() && index.contains("weight_map") && index["weight_map"].is_object(), bad_data,
             "{} has no weight_map", path);
  NMOE_CHECK(index["weight_map"].size() <= max_entries, bad_data, "{}: more than {} tensors", path,
             max_entries);
  std::map<std::string, std::string> shards;
  for (const auto& [name, value] : index["weight_map"].items()) {
    NMOE_CHECK(value.is_string(), bad_data, "{}: the shard of {} is not a string", path, name);
    const auto shard = value.get<std::string>();
    const bool plain = !shard.empty() && shard.find('/') == std::string::npos &&
                       shard.find("..") == std::string::npos && shard.find('\0') == std::string::npos;
    NMOE_CHECK(plain, bad_data, "{}: shard \"{}\" of {} is not a plain file name", path, shard, name);
    shards[name] = shard;
  }
  return shards;
}

}  // namespace nmoe::io
