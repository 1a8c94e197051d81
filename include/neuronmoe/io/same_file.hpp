#pragma once
// Files that ranks read for themselves are compared before they are used: on node-local disks a name may mean
// different files. Whoever opens an input on every rank calls it.
#include <span>
#include <string>
#include <string_view>

#include "neuronmoe/comm/communicator.hpp"

namespace nmoe::io {

/// Most bytes of a file that are hashed: smaller ones are read whole, of larger ones same_file_pieces pieces
/// from the first to the last byte.
inline constexpr std::int64_t same_file_bytes = std::int64_t{4} << 20;
inline constexpr std::int64_t same_file_pieces = 64;

/// Demands that each of `paths` be the same file on every rank, by its size and a hash of its bytes
/// (same_file_bytes of them at most, so that a large file costs a few milliseconds). A name that some rank
/// cannot read is passed over: its reader says why. One rank reads nothing. Collective.
/// @param optional files that a reader does without, so that being there on some ranks alone is a difference
/// @throws Error(bad_data) on every rank, naming the first such file, and ranks, size and hash of each
/// version
void require_same_files(comm::Communicator& comm, std::span<const std::string> paths,
                        std::span<const std::string> optional = {});

/// Does the same for one file.
void require_same_file(comm::Communicator& comm, const std::string& path);

/// Returns "SIZE bytes, hash HEX" as require_same_files() compares it, or "" if `path` is not a file that can
/// be read. Not collective.
std::string file_fingerprint(const std::string& path);

}  // namespace nmoe::io
