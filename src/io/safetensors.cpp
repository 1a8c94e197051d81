#include "neuronmoe/io/safetensors.hpp"

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>

#include "neuronmoe/base/error.hpp"
#include "neuronmoe/io/atomic_file.hpp"
#include "neuronmoe/io/json_file.hpp"
#include "neuronmoe/io/mapped_file.hpp"
#include "safetensors_convert.hpp"

namespace nmoe::io {
namespace {

using nlohmann::json;

constexpr std::int64_t max_header_bytes = 100'000'000;
constexpr std::size_t max_entries = 200'000;
constexpr int max_header_depth = 8;

struct Located {
  SafetensorsEntry entry;
  std::size_t shard;
  std::uint64_t begin, end;  // bytes in the shard's data
};

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

Located parse_entry(const std::string& path, const std::string& name, const json& value) {
  NMOE_CHECK(value.is_object() && value.size() == 3 && value.contains("dtype") && value.contains("shape") &&
                 value.contains("data_offsets") && value["dtype"].is_string() &&
                 value["data_offsets"].is_array() && value["data_offsets"].size() == 2,
             bad_data, "{}: tensor {} needs exactly dtype, shape and data_offsets", path, name);
  Located t{{name, value["dtype"].get<std::string>(), shape_of(value["shape"], path, name)}, 0, 0, 0};
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

/// All tensors of one file; offsets must tile its data exactly.
std::vector<Located> parse_header(const std::string& path, std::string_view file, std::size_t shard,
                                  std::uint64_t& data_begin) {
  std::uint64_t header_bytes = 0;
  NMOE_CHECK(file.size() >= 8, bad_data, "{} has {} bytes; a safetensors file has at least 8", path,
             file.size());
  for (std::size_t i = 8; i-- > 0;) header_bytes = header_bytes << 8U | static_cast<unsigned char>(file[i]);
  NMOE_CHECK(header_bytes <= max_header_bytes && header_bytes <= file.size() - 8, bad_data,
             "{}: header of {} bytes, but the file has {} and at most {} are read", path, header_bytes,
             file.size() - 8, max_header_bytes);
  const std::string_view text = file.substr(8, header_bytes);
  NMOE_CHECK(text.starts_with('{'), bad_data, "{}: the header does not start with '{{'", path);
  const json header = parse_json(text, path, max_header_depth);
  NMOE_CHECK(header.is_object() && header.size() <= max_entries, bad_data,
             "{}: the header needs to be an object of at most {} tensors", path, max_entries);
  std::vector<Located> tensors;
  for (const auto& [name, value] : header.items()) {
    if (name == "__metadata__") {
      const bool strings = value.is_object() && std::all_of(value.begin(), value.end(),
                                                            [](const json& v) { return v.is_string(); });
      NMOE_CHECK(strings, bad_data, "{}: __metadata__ needs to map strings to strings", path);
      continue;
    }
    tensors.push_back(parse_entry(path, name, value));
    tensors.back().shard = shard;
  }
  std::sort(tensors.begin(), tensors.end(), [](const Located& a, const Located& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  std::uint64_t position = 0;
  for (const Located& t : tensors) {
    NMOE_CHECK(t.begin == position, bad_data,
               "{}: tensor {} begins at byte {} but the one before it ends at {} (hole or overlap)", path,
               t.entry.name, t.begin, position);
    position = t.end;
  }
  data_begin = 8 + header_bytes;
  NMOE_CHECK(position == file.size() - data_begin, bad_data,
             "{}: tensors end at byte {} of the data but it has {} bytes (truncated or trailing bytes)", path,
             position, file.size() - data_begin);
  return tensors;
}

/// Tensor name -> shard file name, from model.safetensors.index.json.
std::map<std::string, std::string> parse_index(const std::string& path) {
  const json index = read_json(path, max_header_bytes);
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

}  // namespace

struct SafetensorsReader::Impl {
  std::string path;
  std::vector<std::string> files;
  std::vector<MappedFile> mappings;
  std::vector<std::uint64_t> data_begin;
  std::map<std::string, Located> tensors;

  void add_file(const std::string& file) {
    mappings.emplace_back(file);
    data_begin.push_back(0);
    for (Located& t : parse_header(file, mappings.back().bytes(), files.size(), data_begin.back())) {
      std::string name = t.entry.name;
      const bool fresh = tensors.emplace(name, std::move(t)).second;
      NMOE_CHECK(fresh, bad_data, "{}: tensor {} is also in another shard", file, name);
    }
    files.push_back(file);
  }

  void add_index(const std::string& index) {
    const auto shards = parse_index(index);
    const auto directory = std::filesystem::path(index).parent_path();
    std::set<std::string> names;
    for (const auto& [tensor, shard] : shards) names.insert(shard);
    for (const std::string& shard : names) add_file((directory / shard).string());
    for (const auto& [tensor, shard] : shards) {
      const auto found = tensors.find(tensor);
      NMOE_CHECK(found != tensors.end(), bad_data, "{}: tensor {} is not in {}", index, tensor, shard);
      const auto holder = std::filesystem::path(files[found->second.shard]).filename().string();
      NMOE_CHECK(holder == shard, bad_data, "{}: tensor {} is in {}, not in {}", index, tensor, holder,
                 shard);
    }
    for (const auto& [tensor, where] : tensors)
      NMOE_CHECK(shards.contains(tensor), bad_data, "{}: tensor {} of {} is missing from the index", index,
                 tensor, files[where.shard]);
  }

  const Located& find(const std::string& name) const {
    const auto found = tensors.find(name);
    NMOE_CHECK(found != tensors.end(), bad_data, "{} has no tensor {}", path, name);
    return found->second;
  }
};

SafetensorsReader::SafetensorsReader(const std::string& path) : impl_(std::make_unique<Impl>()) {
  impl_->path = path;
  std::string file = path;
  if (std::filesystem::is_directory(path)) {
    file = (std::filesystem::path(path) / "model.safetensors").string();
    if (!std::filesystem::exists(file)) file += ".index.json";
    NMOE_CHECK(std::filesystem::exists(file), bad_data,
               "{} holds neither model.safetensors nor model.safetensors.index.json", path);
  }
  if (file.ends_with(".json"))
    impl_->add_index(file);
  else
    impl_->add_file(file);
}

SafetensorsReader::~SafetensorsReader() = default;
SafetensorsReader::SafetensorsReader(SafetensorsReader&&) noexcept = default;
SafetensorsReader& SafetensorsReader::operator=(SafetensorsReader&&) noexcept = default;

std::vector<std::string> SafetensorsReader::names() const {
  std::vector<std::string> names;
  for (const auto& [name, where] : impl_->tensors) names.push_back(name);
  return names;
}

bool SafetensorsReader::contains(const std::string& name) const {
  return impl_->tensors.contains(name);
}

const SafetensorsEntry& SafetensorsReader::entry(const std::string& name) const {
  return impl_->find(name).entry;
}

const std::vector<std::string>& SafetensorsReader::files() const {
  return impl_->files;
}

void SafetensorsReader::read(const std::string& name, TensorView out) const {
  const Located& t = impl_->find(name);
  NMOE_CHECK(out && out.device() == Device::cpu, internal, "{}: {} can only be read into a CPU tensor",
             impl_->path, name);
  NMOE_CHECK(t.entry.shape == out.shape(), bad_data, "{}: tensor {} has shape {} but {} is needed",
             impl_->files[t.shard], name, t.entry.shape.to_string(), out.shape().to_string());
  const std::string_view bytes =
      impl_->mappings[t.shard].bytes().substr(impl_->data_begin[t.shard] + t.begin, t.end - t.begin);
  safetensors_convert(bytes.data(), t.entry.dtype, out);
}

void write_safetensors(const std::string& path, std::vector<NamedTensor> tensors,
                       const std::map<std::string, std::string>& metadata) {
  std::sort(tensors.begin(), tensors.end(),
            [](const NamedTensor& a, const NamedTensor& b) { return a.name < b.name; });
  json header = json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  std::int64_t position = 0;
  for (const NamedTensor& t : tensors) {
    NMOE_CHECK(t.view && t.view.device() == Device::cpu, internal, "{}: tensor {} is not on the CPU", path,
               t.name);
    NMOE_CHECK(!header.contains(t.name), internal, "{}: tensor {} is given twice", path, t.name);
    json shape = json::array();
    for (int axis = 0; axis < t.view.shape().rank(); ++axis) shape.push_back(t.view.dim(axis));
    header[t.name] = {{"dtype", safetensors_dtype(t.view.dtype(), t.name)},
                      {"shape", shape},
                      {"data_offsets", {position, position + t.view.num_bytes()}}};
    position += t.view.num_bytes();
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');  // data begins at a multiple of 8
  std::vector<std::string_view> parts;
  std::string length(8, '\0');
  for (std::size_t i = 0; i < 8; ++i) length[i] = static_cast<char>(text.size() >> (8 * i));
  parts.emplace_back(length);
  parts.emplace_back(text);
  for (const NamedTensor& t : tensors)
    parts.emplace_back(static_cast<const char*>(t.view.raw()), static_cast<std::size_t>(t.view.num_bytes()));
  require_free_space(path, position + static_cast<std::int64_t>(text.size()) + 8);
  write_file_atomically(path, parts);
}

}  // namespace nmoe::io
