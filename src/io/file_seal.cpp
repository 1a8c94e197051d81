// The checksum in the user block of a HDF5 file, written and compared.
#include "neuronmoe/io/file_seal.hpp"

#include <fcntl.h>
#include <fmt/core.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "neuronmoe/base/error.hpp"
#include "neuronmoe/comm/agree.hpp"
#include "neuronmoe/io/atomic_file.hpp"
#include "neuronmoe/io/crc32c.hpp"
#include "neuronmoe/io/regular_file.hpp"

namespace nmoe::io {
namespace {

constexpr std::int64_t block_bytes = std::int64_t{64} << 20;
constexpr std::string_view seal_name = "neuronmoe-seal ";
constexpr int seal_version = 1;
constexpr std::string_view hdf5_signature = "\x89HDF\r\n\x1a\n";
constexpr std::size_t digits = 8;  // of a CRC in hexadecimal

struct Seal {
  std::int64_t num_bytes;  // of the whole file
  std::uint32_t crc;
};

std::string text_of(const Seal& seal) {
  std::string text =
      fmt::format("{}{}\nbytes {}\ncrc32c {:08x}\n", seal_name, seal_version, seal.num_bytes, seal.crc);
  text.resize(static_cast<std::size_t>(seal_bytes), '\0');
  return text;
}

/// Reads bytes [begin, begin + out.size()). @throws Error(bad_data) if they are not there
void read_bytes(const Descriptor& file, const std::string& path, std::int64_t begin, std::span<char> out) {
  for (std::size_t done = 0; done < out.size();) {
    const ssize_t n =
        ::pread(file.get(), out.data() + done, out.size() - done, begin + static_cast<std::int64_t>(done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail_read(path, errno);
    NMOE_CHECK(n > 0, bad_data, "{} ends at byte {}; it was longer when it was opened", path,
               begin + static_cast<std::int64_t>(done));
    done += static_cast<std::size_t>(n);
  }
}

/// The first bytes of a file, at most as many as a seal has.
std::string head_of(const std::string& path) {
  std::string head(static_cast<std::size_t>(std::min(seal_bytes, file_size_bytes(path))), '\0');
  read_bytes(open_regular(path), path, 0, head);
  return head;
}

/// What a block of text says, if it is a seal to the last byte.
std::optional<Seal> parse(const std::string& block) {
  const auto number_after = [&](std::string_view word, auto& value, int base) {
    const std::size_t at = block.find(word);
    if (at == std::string::npos) return false;
    const char* const first = block.data() + at + word.size();
    return std::from_chars(first, block.data() + block.size(), value, base).ec == std::errc();
  };
  Seal seal{};
  if (!number_after("\nbytes ", seal.num_bytes, 10) || !number_after("\ncrc32c ", seal.crc, 16) ||
      text_of(seal) != block)
    return std::nullopt;
  return seal;
}

/// The seal of a file; nothing if it begins as HDF5 does. @throws Error(bad_data)
std::optional<Seal> read_seal(const std::string& path) {
  const std::string head = head_of(path);
  if (head.starts_with(hdf5_signature)) return std::nullopt;
  const std::optional<Seal> seal = parse(head);
  NMOE_CHECK(seal || head.starts_with(seal_name), bad_data,
             "{} is not a HDF5 file of this program: it begins neither with HDF5's signature nor with a "
             "checksum of ours",
             path);
  NMOE_CHECK(
      seal, bad_data,
      "{}: the checksum in its first {} bytes is damaged, or of a later version; make the file again or "
      "use a newer neuronmoe",
      path, seal_bytes);
  const std::int64_t found = file_size_bytes(path);
  NMOE_CHECK(found == seal->num_bytes, bad_data,
             "{} is damaged: it has {} bytes, but {} were written; copy or make it again", path, found,
             seal->num_bytes);
  return seal;
}

std::int64_t num_blocks_of(std::int64_t num_bytes) {
  return (num_bytes - seal_bytes + block_bytes - 1) / block_bytes;
}

/// CRC of one block, as text.
std::string block_crc(const Descriptor& file, const std::string& path, std::int64_t num_bytes,
                      std::int64_t block) {
  std::vector<char> buffer(std::size_t{4} << 20);
  const std::int64_t begin = seal_bytes + block * block_bytes, end = std::min(num_bytes, begin + block_bytes);
  std::uint32_t crc = 0;
  for (std::int64_t at = begin; at < end;) {
    const auto count = std::min<std::int64_t>(end - at, static_cast<std::int64_t>(buffer.size()));
    read_bytes(file, path, at, std::span(buffer).first(static_cast<std::size_t>(count)));
    crc = crc32c(buffer.data(), static_cast<std::size_t>(count), crc);
    at += count;
  }
  return fmt::format("{:08x}", crc);
}

std::uint32_t crc_of(const std::string& path, std::int64_t num_bytes) {
  const Descriptor file = open_regular(path);
  std::string crcs;
  for (std::int64_t block = 0; block < num_blocks_of(num_bytes); ++block)
    crcs += block_crc(file, path, num_bytes, block);
  return crc32c(crcs.data(), crcs.size());
}

/// The same, rank r reading blocks r, r + R, ... The ranks agree after each, so that a slow disk shows
/// progress. Collective.
std::uint32_t crc_of(comm::Communicator& comm, const std::string& path, std::int64_t num_bytes) {
  const std::int64_t num_blocks = num_blocks_of(num_bytes), size = comm.size();
  Descriptor file;
  comm::agree(comm, [&] { file = open_regular(path); });
  std::string mine;
  for (std::int64_t first = 0; first < num_blocks; first += size)
    comm::agree(comm, [&] {
      const std::int64_t block = first + comm.rank();
      if (block < num_blocks) mine += block_crc(file, path, num_bytes, block);
    });
  const std::vector<std::string> all = comm::all_gather_strings(comm, mine);
  std::string crcs;
  for (std::int64_t block = 0; block < num_blocks; ++block)
    crcs += all[static_cast<std::size_t>(block % size)].substr(
        static_cast<std::size_t>(block / size) * digits, digits);
  return crc32c(crcs.data(), crcs.size());
}

void require_same(const std::string& path, const Seal& seal, std::uint32_t found) {
  NMOE_CHECK(found == seal.crc, bad_data,
             "{} is damaged or was changed: CRC-32C {:08x}, but {:08x} was written; copy or make it again "
             "(h5unjam -i IN --delete -o OUT takes the checksum away)",
             path, found, seal.crc);
}

void write_seal(const std::string& path, const Seal& seal) {
  const std::string text = text_of(seal);
  const Descriptor file(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
  if (!file) fail_write(path, errno);
  const ssize_t n = ::pwrite(file.get(), text.data(), text.size(), 0);
  if (n < 0) fail_write(path, errno);
  NMOE_CHECK(n == static_cast<ssize_t>(text.size()), io, "{}: the write of its checksum was cut short", path);
  sync_path(path);
  NMOE_CHECK(head_of(path) == text, io, "{}: its checksum does not read back as it was written", path);
}

}  // namespace

void seal_file(const std::string& path) {
  const std::int64_t num_bytes = file_size_bytes(path);
  write_seal(path, {num_bytes, crc_of(path, num_bytes)});
}

void seal_file(comm::Communicator& comm, const std::string& path) {
  std::int64_t num_bytes = 0;
  comm::agree(comm, [&] { num_bytes = file_size_bytes(path); });
  const std::uint32_t crc = crc_of(comm, path, num_bytes);
  comm::agree(comm, [&] {
    if (comm.rank() == 0) write_seal(path, {num_bytes, crc});
  });
}

bool verify_seal(const std::string& path) {
  const std::optional<Seal> seal = read_seal(path);
  if (seal) require_same(path, *seal, crc_of(path, seal->num_bytes));
  return seal.has_value();
}

bool verify_seal(comm::Communicator& comm, const std::string& path) {
  std::optional<Seal> seal;
  comm::agree(comm, [&] { seal = read_seal(path); });
  const std::int64_t mine = seal ? seal->num_bytes : 0, most = comm::all_reduce_max(comm, mine);
  comm::agree(comm, [&] {
    NMOE_CHECK(mine == most, bad_data,
               "{}: its checksum is for {} bytes here and for {} where another rank reads it: they see "
               "different files (0: no checksum)",
               path, mine, most);
  });
  if (!seal) return false;
  const std::uint32_t found = crc_of(comm, path, seal->num_bytes);
  comm::agree(comm, [&] { require_same(path, *seal, found); });
  return true;
}

bool has_seal(const std::string& path) {
  return head_of(path).starts_with(seal_name);
}

}  // namespace nmoe::io
