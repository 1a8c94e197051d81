// Tensors of safetensors files, read in small pieces.
#include "neuronmoe/io/safetensors.hpp"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <set>

#include "neuronmoe/base/error.hpp"
#include "neuronmoe/base/handle.hpp"
#include "neuronmoe/io/atomic_file.hpp"
#include "neuronmoe/io/regular_file.hpp"
#include "safetensors_header.hpp"

namespace nmoe::io {
namespace {

/// Fills `out` from byte `offset` on. (Not by mapping: a file that shrinks meanwhile is an error here and a
/// SIGBUS there, and mapped pages count as memory of the process.)
void read_at(int fd, const std::string& path, std::uint64_t offset, std::span<char> out) {
  while (!out.empty()) {
    const ssize_t n = ::pread(fd, out.data(), out.size(), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    NMOE_CHECK(n >= 0, io, "cannot read {} at byte {}: {}", path, offset, std::strerror(errno));
    NMOE_CHECK(n > 0, bad_data, "{} ends at byte {}: it was truncated while being read", path, offset);
    out = out.subspan(static_cast<std::size_t>(n));
    offset += static_cast<std::uint64_t>(n);
  }
}

}  // namespace

std::int64_t SafetensorsEntry::num_bytes() const {
  return shape.num_elements() * safetensors_element_bytes(dtype);
}

struct SafetensorsReader::Impl {
  std::string path;
  std::vector<std::string> files;
  std::vector<Descriptor> descriptors;
  std::vector<std::uint64_t> data_begin;
  std::map<std::string, LocatedTensor> tensors;
  std::map<std::string, std::string> metadata;

  void add_file(const std::string& file) {
    const std::int64_t file_bytes = file_size_bytes(file);
    Descriptor fd = open_regular(file);
    constexpr std::int64_t pointer_bytes = 64;
    std::string text(static_cast<std::size_t>(std::min(pointer_bytes, file_bytes)), '\0');
    read_at(fd.get(), file, 0, text);
    require_no_lfs_pointer(file, text);
    text.resize(std::min<std::size_t>(8, text.size()));
    const std::uint64_t header_bytes = safetensors_header_bytes(file, text, file_bytes);
    text.resize(header_bytes);
    read_at(fd.get(), file, 8, text);
    const std::uint64_t begin = 8 + header_bytes;
    SafetensorsHeader header =
        parse_safetensors_header(file, text, static_cast<std::uint64_t>(file_bytes) - begin, files.size());
    for (LocatedTensor& t : header.tensors) {
      std::string name = t.entry.name;
      const bool fresh = tensors.emplace(name, std::move(t)).second;
      NMOE_CHECK(fresh, bad_data, "{}: tensor {} is also in another shard", file, name);
    }
    if (files.empty()) metadata = std::move(header.metadata);
    descriptors.push_back(std::move(fd));
    data_begin.push_back(begin);
    files.push_back(file);
  }

  void add_index(const std::string& index) {
    const auto shards = parse_safetensors_index(index);
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

  const LocatedTensor& find(const std::string& name) const {
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

const std::map<std::string, std::string>& SafetensorsReader::metadata() const {
  return impl_->metadata;
}

void SafetensorsReader::read_bytes(const std::string& name, std::int64_t begin, std::span<char> out) const {
  const LocatedTensor& t = impl_->find(name);
  const auto size = static_cast<std::int64_t>(t.end - t.begin), count = static_cast<std::int64_t>(out.size());
  NMOE_CHECK(begin >= 0 && count <= size - begin, internal,
             "{}: bytes [{}, +{}) of {} are asked for, it has {}", impl_->path, begin, count, name, size);
  const std::uint64_t offset = impl_->data_begin[t.shard] + t.begin + static_cast<std::uint64_t>(begin);
  read_at(impl_->descriptors[t.shard].get(), impl_->files[t.shard], offset, out);
}

void SafetensorsReader::read(const std::string& name, TensorView out) const {
  const LocatedTensor& t = impl_->find(name);
  const auto bytes = [&](std::int64_t begin, std::span<char> piece) { read_bytes(name, begin, piece); };
  read_tensor({t.entry, bytes}, out, impl_->files[t.shard]);
}

void read_tensor(const TensorSource& source, TensorView out, const std::string& where) {
  const SafetensorsEntry& entry = source.entry;
  NMOE_CHECK(out && out.device() == Device::cpu, internal, "{}: {} can only be read into a CPU tensor", where,
             entry.name);
  NMOE_CHECK(entry.shape == out.shape(), bad_data, "{}: tensor {} has shape {} but {} is needed", where,
             entry.name, entry.shape.to_string(), out.shape().to_string());
  constexpr std::int64_t piece_bytes = std::int64_t{4} << 20;
  const std::int64_t element_bytes = safetensors_element_bytes(entry.dtype), total = out.num_elements();
  const std::int64_t piece = piece_bytes / element_bytes;
  std::vector<char> buffer(static_cast<std::size_t>(std::min(piece, total) * element_bytes));
  const TensorView flat = out.reshape({total});
  for (std::int64_t first = 0; first < total; first += piece) {
    const std::int64_t count = std::min(piece, total - first);
    const std::span<char> bytes(buffer.data(), static_cast<std::size_t>(count * element_bytes));
    source.read(first * element_bytes, bytes);
    safetensors_convert(bytes.data(), entry.dtype, flat.rows(first, count));
  }
}

}  // namespace nmoe::io
