// Step directories of a run: made, committed, searched for and removed.
#include <fcntl.h>
#include <fmt/core.h>

#include <algorithm>
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>

#include "directory_entries.hpp"
#include "neuronmoe/base/error.hpp"
#include "neuronmoe/comm/agree.hpp"
#include "neuronmoe/io/atomic_file.hpp"
#include "neuronmoe/io/manifest.hpp"

namespace nmoe::io {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

/// Rank 0's answer to a question about files, on every rank: they must not see different directories.
std::string ask_rank_zero(comm::Communicator& comm, const std::function<std::string()>& question) {
  std::string answer;
  comm::agree(comm, [&] {
    if (comm.rank() == 0) answer = question();
  });
  return comm::broadcast_string(comm, answer, 0);
}

/// Names of step directories in `run_dir`, newest first.
std::vector<std::string> list_steps(comm::Communicator& comm, const std::string& run_dir) {
  const std::string joined = ask_rank_zero(comm, [&] {
    std::vector<std::string> names;
    if (fs::is_directory(run_dir))
      for_each_entry(run_dir, [&](const fs::directory_entry& entry) {
        const std::string name = entry.path().filename().string();
        if (entry.is_directory() && step_of_directory_name(name)) names.push_back(name);
      });
    std::sort(names.rbegin(), names.rend());
    return json(names).dump();
  });
  return json::parse(joined).get<std::vector<std::string>>();
}

}  // namespace

std::string step_directory_name(std::int64_t step) {
  return fmt::format("step_{:010d}", step);
}

std::optional<std::int64_t> step_of_directory_name(const std::string& name) {
  constexpr std::size_t digits = 10;
  if (name.size() != 5 + digits || !name.starts_with("step_")) return std::nullopt;
  if (name.find_first_not_of("0123456789", 5) != std::string::npos) return std::nullopt;
  return std::stoll(name.substr(5));
}

std::string begin_step(comm::Communicator& comm, const std::string& run_dir, std::int64_t step) {
  const std::string tmp = (fs::path(run_dir) / (step_directory_name(step) + ".tmp")).string();
  comm::agree(comm, [&] {
    if (comm.rank() != 0) return;
    make_directories(run_dir);
    for (const auto& entry : fs::directory_iterator(run_dir)) {  // what a killed save or prune left behind
      const fs::path& path = entry.path();
      const bool leftover = path.extension() == ".tmp" || path.extension() == ".old";
      if (leftover && step_of_directory_name(path.stem().string())) fs::remove_all(path);
    }
    make_directories(tmp);
  });
  return tmp;
}

void commit_directory(comm::Communicator& comm, const std::string& tmp_dir, const std::string& final_dir) {
  comm::agree(comm, [&] {
    if (comm.rank() != 0) return;
    sync_path(tmp_dir);
    // rename(2) does not replace a directory that has files; exchanging the two leaves a whole one there at
    // any moment.
    const bool exchanged = fs::exists(final_dir) && renameat2(AT_FDCWD, tmp_dir.c_str(), AT_FDCWD,
                                                              final_dir.c_str(), RENAME_EXCHANGE) == 0;
    if (exchanged) {
      sync_path(fs::path(final_dir).parent_path().string());
      fs::remove_all(tmp_dir);
      return;
    }
    const std::string old = final_dir + ".old";  // a file system without the exchange
    fs::remove_all(old);
    if (fs::exists(final_dir)) fs::rename(final_dir, old);
    rename_durably(tmp_dir, final_dir);
    fs::remove_all(old);
  });
}

std::string commit_step(comm::Communicator& comm, const std::string& run_dir, std::int64_t step,
                        const ManifestFacts& facts) {
  const std::string final_dir = (fs::path(run_dir) / step_directory_name(step)).string();
  const std::string tmp = final_dir + ".tmp";
  write_manifest(comm, tmp, facts);
  commit_directory(comm, tmp, final_dir);
  return final_dir;
}

ValidStep newest_valid_step(comm::Communicator& comm, const std::string& run_dir) {
  ValidStep result;
  for (const std::string& name : list_steps(comm, run_dir)) {
    const std::string directory = (fs::path(run_dir) / name).string();
    const std::string fault = verify_manifest(comm, directory);
    if (fault.empty()) {
      result.step = *step_of_directory_name(name);
      result.directory = directory;
      return result;
    }
    result.skipped.push_back(directory + ": " + fault);
  }
  return result;
}

std::vector<std::string> prune_steps(comm::Communicator& comm, const std::string& run_dir, int keep_last) {
  std::vector<std::string> removed;
  const std::vector<std::string> names = list_steps(comm, run_dir);
  if (keep_last <= 0 || names.size() <= static_cast<std::size_t>(keep_last)) return removed;
  const ValidStep valid = newest_valid_step(comm, run_dir);
  for (std::size_t i = static_cast<std::size_t>(keep_last); i < names.size(); ++i) {
    const std::string directory = (fs::path(run_dir) / names[i]).string();
    if (directory != valid.directory) removed.push_back(directory);
  }
  comm::agree(comm, [&] {
    if (comm.rank() != 0) return;
    for (const std::string& directory : removed) {
      // Out of sight first: a kill in the middle must not leave a step that looks whole but is not.
      const std::string tmp = directory + ".old";
      fs::remove_all(tmp);
      fs::rename(directory, tmp);
      fs::remove_all(tmp);
    }
  });
  return removed;
}

}  // namespace nmoe::io
