// Manifests of checkpoint directories: checksums of the blocks of every file, written and compared.
#include "neuronmoe/io/manifest.hpp"

#include <fcntl.h>
#include <fmt/core.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "directory_entries.hpp"
#include "neuronmoe/base/error.hpp"
#include "neuronmoe/base/handle.hpp"
#include "neuronmoe/comm/agree.hpp"
#include "neuronmoe/io/atomic_file.hpp"
#include "neuronmoe/io/crc32c.hpp"
#include "neuronmoe/io/file_format.hpp"
#include "neuronmoe/io/hdf5_file.hpp"
#include "neuronmoe/io/json_file.hpp"

namespace nmoe::io {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr std::int64_t block_bytes = std::int64_t{64} << 20;
constexpr const char* manifest_name = "manifest.json";
constexpr FileFormat manifest_format{"neuronmoe-manifest", 1};
/// Between the datasets of an HDF5 file, or all of any other file.
constexpr const char* rest_name = "(structure)";

std::string manifest_path(const std::string& directory) {
  return (fs::path(directory) / manifest_name).string();
}

struct Block {
  std::string file, region;
  std::int64_t begin, end;
  std::uint32_t crc = 0;
};

/// CRC-32C of bytes [begin, end) as the disk has them.
std::uint32_t crc_of(const std::string& path, std::int64_t begin, std::int64_t end) {
  const Handle<int, ::close, -1> fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) fail_read(path, errno);
  ::posix_fadvise(fd.get(), begin, end - begin, POSIX_FADV_DONTNEED);  // ask the disk, not the page cache
  std::vector<char> buffer(static_cast<std::size_t>(std::min<std::int64_t>(end - begin, 4 << 20)));
  std::uint32_t crc = 0;
  while (begin < end) {
    const auto want = std::min<std::int64_t>(end - begin, static_cast<std::int64_t>(buffer.size()));
    const ssize_t n = ::pread(fd.get(), buffer.data(), static_cast<std::size_t>(want), begin);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail_read(path, errno);
    NMOE_CHECK(n > 0, bad_data, "{} ends at byte {}: it is shorter than expected", path, begin);
    crc = crc32c(buffer.data(), static_cast<std::size_t>(n), crc);
    begin += n;
  }
  return crc;
}

/// Names of the files in a directory in order, without manifest.json and hidden ones (.nfs..., .DS_Store),
/// which are never ours. A link to a file counts as that file: checksums tell whether it holds the right
/// bytes.
std::vector<std::string> files_in(const std::string& directory) {
  std::vector<std::string> names;
  for_each_entry(directory, [&](const fs::directory_entry& entry) {
    const std::string name = entry.path().filename().string();
    std::error_code ignored;
    if (name != manifest_name && !name.starts_with('.') && entry.is_regular_file(ignored))
      names.push_back(name);
  });
  std::sort(names.begin(), names.end());
  return names;
}

void cut(std::vector<Block>& blocks, const std::string& file, const std::string& region, std::int64_t begin,
         std::int64_t end) {
  for (; begin < end; begin += block_bytes)
    blocks.push_back({file, region, begin, std::min(end, begin + block_bytes)});
}

/// Every byte of every file exactly once: datasets under their names, the rest as structure.
std::vector<Block> list_blocks(const std::string& directory) {
  std::vector<Block> blocks;
  for (const std::string& name : files_in(directory)) {
    const std::string path = (fs::path(directory) / name).string();
    const std::int64_t size = file_size_bytes(path);
    std::int64_t position = 0;
    if (name.ends_with(".h5"))
      for (const DatasetExtent& extent : dataset_extents(path)) {
        NMOE_CHECK(extent.offset_bytes >= position && extent.num_bytes <= size - extent.offset_bytes,
                   bad_data, "{}:{} lies outside the file or over another dataset", path, extent.name);
        cut(blocks, name, rest_name, position, extent.offset_bytes);
        position = extent.offset_bytes + extent.num_bytes;
        cut(blocks, name, extent.name, extent.offset_bytes, position);
      }
    cut(blocks, name, rest_name, position, size);
  }
  return blocks;
}

/// Rank r computes blocks r, r + R, ...; every rank ends up with all checksums. Collective.
void checksum(comm::Communicator& comm, const std::string& directory, std::vector<Block>& blocks) {
  const auto stride = static_cast<std::size_t>(comm.size());
  constexpr std::size_t round = 8;  // blocks of a rank between two agreements, which are the signs of life
  std::string mine;
  for (std::size_t first = 0; first < blocks.size(); first += round * stride) {
    comm::agree(comm, [&] {
      const std::size_t end = std::min(blocks.size(), first + round * stride);
      for (std::size_t i = first + static_cast<std::size_t>(comm.rank()); i < end; i += stride) {
        const std::uint32_t crc =
            crc_of((fs::path(directory) / blocks[i].file).string(), blocks[i].begin, blocks[i].end);
        mine += fmt::format("{:08x}", crc);
      }
    });
  }
  const std::vector<std::string> all = comm::all_gather_strings(comm, mine);
  for (std::size_t i = 0; i < blocks.size(); ++i)
    blocks[i].crc =
        static_cast<std::uint32_t>(std::stoul(all[i % stride].substr(i / stride * 8, 8), nullptr, 16));
}

json to_json(const std::string& directory, const std::vector<Block>& blocks, const ManifestFacts& facts) {
  json files = json::object();
  for (const std::string& name : files_in(directory))
    files[name] = {{"bytes", file_size_bytes((fs::path(directory) / name).string())},
                   {"blocks", json::array()}};
  for (const Block& b : blocks)
    files[b.file]["blocks"].push_back(
        {{"region", b.region}, {"begin", b.begin}, {"end", b.end}, {"crc32c", fmt::format("{:08x}", b.crc)}});
  return {{"format", manifest_format.name},
          {"format_version", manifest_format.version},
          {"facts", facts},
          {"files", files}};
}

/// The manifest with its own checksum in the last line, so that a flipped bit in it is seen too.
std::string sealed(const json& manifest) {
  std::string text = manifest.dump(1);
  return text + fmt::format("\n{:08x}\n", crc32c(text.data(), text.size()));
}

/// The manifest of a directory, of whatever version. @throws Error(bad_data) if it is missing or damaged
json unsealed(const std::string& path) {
  const std::string text = read_file(path, std::int64_t{256} << 20);
  constexpr std::size_t seal_bytes = 10;
  NMOE_CHECK(text.size() > seal_bytes, bad_data, "{} is too short", path);
  const std::string_view body(text.data(), text.size() - seal_bytes);
  NMOE_CHECK(text.substr(body.size()) == fmt::format("\n{:08x}\n", crc32c(body.data(), body.size())),
             bad_data, "{} does not match its own checksum", path);
  return parse_json(body, path);
}

/// @throws Error(bad_data) if a later program wrote the manifest
void require_known_version(const std::string& directory, const json& manifest) {
  const std::string path = manifest_path(directory);
  try {
    const std::string name = manifest.value("format", "none");
    require_readable(path, {name, manifest.value("format_version", std::int64_t{1})}, manifest_format);
  } catch (const json::exception& e) {
    throw Error(ErrorCode::bad_data, fmt::format("{}: {}", path, e.what()));
  }
}

/// Blocks of a manifest after checking that the directory holds its files at their sizes.
std::vector<Block> expected_blocks(const std::string& directory, const json& manifest) {
  std::vector<Block> blocks;
  try {
    const std::vector<std::string> present = files_in(directory);
    for (const auto& [name, file] : manifest.at("files").items()) {
      NMOE_CHECK(std::binary_search(present.begin(), present.end(), name), bad_data, "{} is missing", name);
      const std::int64_t size = file_size_bytes((fs::path(directory) / name).string());
      NMOE_CHECK(size == file.at("bytes").get<std::int64_t>(), bad_data, "{} has {} bytes instead of {}",
                 name, size, file.at("bytes").get<std::int64_t>());
      for (const json& b : file.at("blocks"))
        blocks.push_back(
            {name, b.at("region").get<std::string>(), b.at("begin").get<std::int64_t>(),
             b.at("end").get<std::int64_t>(),
             static_cast<std::uint32_t>(std::stoul(b.at("crc32c").get<std::string>(), nullptr, 16))});
    }
  } catch (const json::exception& e) {
    throw Error(ErrorCode::bad_data, fmt::format("{}: {}", manifest_path(directory), e.what()));
  }
  return blocks;
}

/// What `check` finds damaged as text, or "". What cannot be read for now is thrown on: it may be intact.
template <typename Check>
std::string fault_in(Check&& check) {
  try {
    check();
  } catch (const Error& e) {
    if (e.code() != ErrorCode::bad_data) throw;
    return e.what();
  }
  return "";
}

/// @throws Error(bad_data) if a step directory has another number than the step it holds
void require_own_number(const std::string& directory, const json& manifest) {
  const auto number = step_of_directory_name(fs::path(directory).filename().string());
  if (!number || !manifest.contains("facts")) return;
  const std::string step = manifest.at("facts").value("step", "");
  NMOE_CHECK(step.empty() || step == std::to_string(*number), bad_data,
             "it holds step {}: a directory that was renamed; give it its own name again ({})", step,
             fmt::format("step_{:0>10}", step));
}

/// @throws Error(bad_data) unless `found` is what the manifest says of the block
void require_same(const Block& expected, std::uint32_t found) {
  NMOE_CHECK(found == expected.crc, bad_data,
             "{}: {} is damaged in bytes [{}, {}): CRC-32C {:08x} instead of {:08x}", expected.file,
             expected.region, expected.begin, expected.end, found, expected.crc);
}

}  // namespace

void write_manifest(comm::Communicator& comm, const std::string& directory, const ManifestFacts& facts) {
  std::vector<Block> blocks;
  comm::agree(comm, [&] {
    blocks = list_blocks(directory);
    for (const std::string& name : files_in(directory)) sync_path((fs::path(directory) / name).string());
  });
  checksum(comm, directory, blocks);
  comm::agree(comm, [&] {
    if (comm.rank() != 0) return;
    const std::string path = manifest_path(directory), text = sealed(to_json(directory, blocks, facts));
    write_file_atomically(path, text);
    const auto size = static_cast<std::int64_t>(text.size());
    NMOE_CHECK(file_size_bytes(path) == size && crc_of(path, 0, size) == crc32c(text.data(), text.size()), io,
               "{} does not read back as it was written", path);
  });
}

std::string verify_manifest(comm::Communicator& comm, const std::string& directory) {
  json manifest;  // what is agreed on throws on every rank, so all take the same way
  const std::string fault =
      fault_in([&] { comm::agree(comm, [&] { manifest = unsealed(manifest_path(directory)); }); });
  if (!fault.empty()) return fault;
  // Not damage: passed over as such, a resume would start from older numbers and remove the newer ones.
  comm::agree(comm, [&] { require_known_version(directory, manifest); });
  return fault_in([&] {
    std::vector<Block> blocks;
    comm::agree(comm, [&] {
      require_own_number(directory, manifest);
      blocks = expected_blocks(directory, manifest);
    });
    std::vector<Block> found = blocks;
    checksum(comm, directory, found);
    for (std::size_t i = 0; i < blocks.size(); ++i) require_same(blocks[i], found[i].crc);
  });
}

std::string verify_file(const std::string& directory, const std::string& file) {
  json manifest;
  const std::string fault = fault_in([&] { manifest = unsealed(manifest_path(directory)); });
  if (!fault.empty()) return fault;
  require_known_version(directory, manifest);
  return fault_in([&] {
    for (const Block& block : expected_blocks(directory, manifest)) {
      if (block.file != file) continue;
      require_same(block, crc_of((fs::path(directory) / file).string(), block.begin, block.end));
    }
  });
}

std::vector<std::string> stray_files(const std::string& directory) {
  const json manifest = unsealed(manifest_path(directory));
  std::vector<std::string> strays;
  for_each_entry(directory, [&](const fs::directory_entry& entry) {
    const std::string name = entry.path().filename().string();
    if (name != manifest_name && !manifest.value("files", json::object()).contains(name))
      strays.push_back(name);
  });
  std::sort(strays.begin(), strays.end());
  return strays;
}

ManifestFacts read_manifest_facts(const std::string& directory) {
  const std::string path = manifest_path(directory);
  const json manifest = unsealed(path);
  require_known_version(directory, manifest);
  try {
    return manifest.at("facts").get<ManifestFacts>();
  } catch (const json::exception& e) {
    throw Error(ErrorCode::bad_data, fmt::format("{}: {}", path, e.what()));
  }
}

}  // namespace nmoe::io
