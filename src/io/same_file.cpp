// Size and hash of the files that every rank reads, compared over the ranks.
#include "neuronmoe/io/same_file.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "neuronmoe/base/error.hpp"
#include "neuronmoe/base/handle.hpp"
#include "neuronmoe/base/sha256.hpp"

namespace nmoe::io {
namespace {

constexpr std::size_t hash_chars = 16;  // of 64: enough to tell files apart, short enough to be read

/// "1, 3" of the ranks whose entry is `value`.
std::string ranks_with(std::span<const std::string> all, const std::string& value) {
  std::vector<std::size_t> ranks;
  for (std::size_t r = 0; r < all.size(); ++r)
    if (all[r] == value) ranks.push_back(r);
  return fmt::format("{} {}", ranks.size() == 1 ? "rank" : "ranks", fmt::join(ranks, ", "));
}

/// "rank 0: A; ranks 1, 2: B", each version once.
std::string list_versions(std::span<const std::string> all) {
  std::string text;
  for (std::size_t r = 0; r < all.size(); ++r) {
    if (std::find(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(r), all[r]) !=
        all.begin() + static_cast<std::ptrdiff_t>(r))
      continue;
    text += fmt::format("{}{}: {}", text.empty() ? "" : "; ", ranks_with(all, all[r]),
                        all[r].empty() ? "none" : all[r]);
  }
  return text;
}

}  // namespace

std::string file_fingerprint(const std::string& path) {
  struct stat info {};
  if (::stat(path.c_str(), &info) != 0 || !S_ISREG(info.st_mode)) return "";
  const Handle<int, ::close, -1> fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) return "";
  const std::int64_t size = info.st_size;
  const std::int64_t num_pieces = size <= same_file_bytes ? 1 : same_file_pieces;
  const std::int64_t piece_bytes = std::min(size, same_file_bytes) / num_pieces;
  std::vector<char> piece(static_cast<std::size_t>(piece_bytes));
  Sha256 sha;
  for (std::int64_t i = 0; i < num_pieces; ++i) {
    // From 0 to size − piece_bytes; in parts, so that nothing overflows for files of terabytes.
    const std::int64_t room = size - piece_bytes, last = std::max<std::int64_t>(1, num_pieces - 1);
    const std::int64_t begin = room / last * i + room % last * i / last;
    for (std::int64_t done = 0; done < piece_bytes;) {
      const ssize_t n =
          ::pread(fd.get(), piece.data() + done, static_cast<std::size_t>(piece_bytes - done), begin + done);
      if (n <= 0) return "";
      done += n;
    }
    sha.update(piece.data(), piece.size());
  }
  return fmt::format("{} bytes, hash {}", size, sha.hex().substr(0, hash_chars));
}

void require_same_files(comm::Communicator& comm, std::span<const std::string> paths,
                        std::span<const std::string> optional) {
  if (comm.size() == 1) return;
  std::vector<std::string> names(paths.begin(), paths.end());
  names.insert(names.end(), optional.begin(), optional.end());
  std::string mine;
  for (const std::string& path : names) mine += file_fingerprint(path) + "\n";
  std::vector<std::string> rest = comm::all_gather_strings(comm, mine);
  for (std::size_t i = 0; i < names.size(); ++i) {
    std::vector<std::string> all;
    for (std::string& text : rest) {
      const std::size_t end = std::min(text.find('\n'), text.size());
      all.push_back(text.substr(0, end));
      text.erase(0, end + 1);
    }
    if (std::all_of(all.begin(), all.end(), [&](const auto& a) { return a == all.front(); })) continue;
    const bool somewhere_missing =
        std::any_of(all.begin(), all.end(), [](const auto& a) { return a.empty(); });
    if (somewhere_missing && i < paths.size()) continue;
    throw Error(ErrorCode::bad_data,
                fmt::format("{} is not the same file on every rank: {}; name one that all "
                            "nodes share, or copy it to each",
                            names[i], list_versions(all)));
  }
}

void require_same_file(comm::Communicator& comm, const std::string& path) {
  require_same_files(comm, {&path, 1});
}

}  // namespace nmoe::io
