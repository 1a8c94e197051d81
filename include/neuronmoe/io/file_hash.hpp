#pragma once
// Identity of large files, computed by all ranks together. Used by app for the token files of a run.
#include <string>

#include "neuronmoe/comm/communicator.hpp"

namespace nmoe::io {

/// Returns the SHA-256 over the SHA-256 of every 64 MiB block of the file; rank r reads blocks r, r + R, ...
/// The same on every rank and for any number of ranks. Collective. @throws Error(bad_data) if a rank cannot
/// read its blocks
std::string file_hash(comm::Communicator& comm, const std::string& path);

}  // namespace nmoe::io
