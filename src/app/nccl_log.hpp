#pragma once
// How NCCL reaches its peers, which no call of it tells: its log says so. For `check`.
#include <string>

namespace nmoe::app {

/// Lets NCCL write its log into a file of this process. Before NCCL is used; nothing is done where the user
/// has set NCCL_DEBUG.
void keep_nccl_log();

/// Takes the wish back, so that nobody takes it for the user's, and returns the file's path, "" if NCCL logs
/// to where the user wants it.
std::string nccl_log_path();

/// Returns the ways that lines of NCCL's log name, each once: "P2P/CUMEM, SHM/direct, NET/IB/GDRDMA"; "" if
/// they name none. A network device's number is left out.
std::string nccl_transports(const std::string& log);

}  // namespace nmoe::app
