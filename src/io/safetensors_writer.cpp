// The writing half of safetensors: headers, streams, shards.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>

#include "neuronmoe/base/error.hpp"
#include "neuronmoe/io/atomic_file.hpp"
#include "neuronmoe/io/safetensors.hpp"

namespace nmoe::io {
namespace {

using nlohmann::json;

/// The first bytes of a file: length and text of the header, padded so that the data begins at a multiple
/// of 8.
std::string header_of(const std::string& path, const std::vector<TensorSource>& sources,
                      const std::map<std::string, std::string>& metadata) {
  json header = json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  std::int64_t position = 0;
  for (const TensorSource& source : sources) {
    const SafetensorsEntry& t = source.entry;
    NMOE_CHECK(safetensors_element_bytes(t.dtype) > 0, internal, "{}: tensor {} has dtype {}", path, t.name,
               t.dtype);
    NMOE_CHECK(!header.contains(t.name), internal, "{}: tensor {} is given twice", path, t.name);
    json shape = json::array();
    for (int axis = 0; axis < t.shape.rank(); ++axis) shape.push_back(t.shape[axis]);
    header[t.name] = {
        {"dtype", t.dtype}, {"shape", shape}, {"data_offsets", {position, position + t.num_bytes()}}};
    position += t.num_bytes();
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  std::string length(8, '\0');
  for (std::size_t i = 0; i < 8; ++i) length[i] = static_cast<char>(text.size() >> (8 * i));
  return length + text;
}

}  // namespace

void write_tensor_sources(const std::string& path, std::vector<TensorSource> sources,
                          const std::map<std::string, std::string>& metadata) {
  constexpr std::int64_t piece_bytes = std::int64_t{16} << 20;
  std::sort(sources.begin(), sources.end(),
            [](const TensorSource& a, const TensorSource& b) { return a.entry.name < b.entry.name; });
  const std::string header = header_of(path, sources, metadata);
  std::int64_t data_bytes = 0;
  for (const TensorSource& source : sources) data_bytes += source.entry.num_bytes();
  require_free_space(path, data_bytes + static_cast<std::int64_t>(header.size()));
  std::vector<char> buffer(static_cast<std::size_t>(std::min(piece_bytes, data_bytes)));
  write_file_atomically(path, [&](const ByteSink& sink) {
    sink(header);
    for (const TensorSource& source : sources) {
      const std::int64_t size = source.entry.num_bytes();
      for (std::int64_t begin = 0; begin < size; begin += piece_bytes) {
        const std::span<char> piece(buffer.data(),
                                    static_cast<std::size_t>(std::min(piece_bytes, size - begin)));
        source.read(begin, piece);
        sink({piece.data(), piece.size()});
      }
    }
  });
}

void write_safetensors(const std::string& path, std::vector<NamedTensor> tensors,
                       const std::map<std::string, std::string>& metadata) {
  std::vector<TensorSource> sources;
  for (const NamedTensor& t : tensors) {
    NMOE_CHECK(t.view && t.view.device() == Device::cpu, internal, "{}: tensor {} is not on the CPU", path,
               t.name);
    const char* const data = static_cast<const char*>(t.view.raw());
    sources.push_back({{t.name, safetensors_dtype(t.view.dtype(), t.name), t.view.shape()},
                       [data](std::int64_t begin, std::span<char> out) {
                         std::memcpy(out.data(), data + begin, out.size());
                       }});
  }
  write_tensor_sources(path, std::move(sources), metadata);
}

std::vector<Shard> plan_shards(const std::vector<TensorSource>& sources, std::int64_t max_bytes) {
  std::vector<std::size_t> order(sources.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::sort(order.begin(), order.end(),
            [&](std::size_t a, std::size_t b) { return sources[a].entry.name < sources[b].entry.name; });
  std::vector<Shard> shards(1);
  std::int64_t filled = 0;
  for (const std::size_t i : order) {
    const std::int64_t size = sources[i].entry.num_bytes();
    if (!shards.back().tensors.empty() && size > max_bytes - filled) {
      shards.emplace_back();
      filled = 0;
    }
    shards.back().tensors.push_back(i);
    filled += size;
  }
  for (std::size_t s = 0; s < shards.size(); ++s)
    shards[s].file = shards.size() == 1
                         ? "model.safetensors"
                         : fmt::format("model-{:05d}-of-{:05d}.safetensors", s + 1, shards.size());
  return shards;
}

std::string shard_index_json(const std::vector<TensorSource>& sources, const std::vector<Shard>& shards) {
  json weight_map = json::object();
  std::int64_t total = 0;
  for (const Shard& shard : shards)
    for (const std::size_t i : shard.tensors) {
      weight_map[sources[i].entry.name] = shard.file;
      total += sources[i].entry.num_bytes();
    }
  return json{{"metadata", {{"total_size", total}}}, {"weight_map", weight_map}}.dump(2) + "\n";
}

}  // namespace nmoe::io
