// NCCL's log, kept in a file and read for the lines of its connections.
#include "nccl_log.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <filesystem>
#include <set>
#include <sstream>
#include <string_view>
#include <vector>

namespace nmoe::app {
namespace {

std::string path_of_this_process() {
  std::error_code ignored;  // then NCCL cannot write there, and nothing is found
  return fmt::format("{}/neuronmoe-nccl-{}.log", std::filesystem::temp_directory_path(ignored).string(),
                     getpid());
}

bool is_ours() {
  const char* const file = std::getenv("NCCL_DEBUG_FILE");
  return file != nullptr && file == path_of_this_process();
}

/// "NET/AWS Libfabric/0/GDRDMA/Shared" -> "NET/AWS Libfabric/GDRDMA"; "P2P/CUMEM/read" -> "P2P/CUMEM".
std::string way_of(std::string_view via) {
  std::vector<std::string> parts;
  std::istringstream in{std::string(via)};
  for (std::string part; std::getline(in, part, '/');) parts.push_back(part);
  if (parts.size() < 2) return std::string(via);
  std::string way = parts[0] + "/" + parts[1];
  const bool direct =
      std::any_of(parts.begin(), parts.end(), [](const auto& p) { return p.starts_with("GDRDMA"); });
  return parts[0] == "NET" && direct ? way + "/GDRDMA" : way;
}

}  // namespace

void keep_nccl_log() {
  if (std::getenv("NCCL_DEBUG") != nullptr || std::getenv("NCCL_DEBUG_FILE") != nullptr) return;
  setenv("NCCL_DEBUG", "INFO", 1);
  setenv("NCCL_DEBUG_FILE", path_of_this_process().c_str(), 1);
}

std::string nccl_log_path() {
  if (!is_ours()) return "";
  unsetenv("NCCL_DEBUG");
  unsetenv("NCCL_DEBUG_FILE");
  return path_of_this_process();
}

std::string nccl_transports(const std::string& log) {
  constexpr std::string_view before = " via ";
  std::set<std::string> ways;
  std::istringstream in(log);
  for (std::string line; std::getline(in, line);) {
    const auto at = line.find(before);
    if (at == std::string::npos || line.find(" -> ") > at) continue;
    std::string_view via = std::string_view(line).substr(at + before.size());
    via = via.substr(0, via.find(" comm "));
    while (!via.empty() && std::isspace(static_cast<unsigned char>(via.back())) != 0) via.remove_suffix(1);
    if (via.starts_with("P2P") || via.starts_with("SHM") || via.starts_with("NET")) ways.insert(way_of(via));
  }
  return fmt::format("{}", fmt::join(ways, ", "));
}

}  // namespace nmoe::app
