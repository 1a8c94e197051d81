// exit.json, and the files by which the ranks of a hanging job find out who is missing.
#include "exit_file.hpp"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <chrono>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <thread>

#include "neuronmoe/app/version.hpp"
#include "neuronmoe/base/error.hpp"
#include "neuronmoe/io/atomic_file.hpp"

namespace nmoe::app {

namespace {

namespace fs = std::filesystem;

nlohmann::ordered_json ranks_and_hosts(const std::vector<int>& ranks, const std::vector<std::string>& hosts) {
  auto list = nlohmann::ordered_json::array();
  for (const int rank : ranks) {
    const auto at = static_cast<std::size_t>(rank);
    list.push_back({{"rank", rank}, {"host", at < hosts.size() ? hosts[at] : "unknown"}});
  }
  return list;
}

std::string roll_file(const std::string& directory, int rank) {
  return fmt::format("{}/.waiting.{}", directory, rank);
}
/// One file for all ranks, since each of them looks for it again and again.
std::string call_file(const std::string& directory) {
  return directory + "/.waiting";
}

}  // namespace

void write_exit_file(const std::string& path, const ExitVerdict& v, const std::vector<std::string>& hosts) {
  nlohmann::ordered_json json = {{"code", v.code}, {"reason", v.reason}, {"step", nullptr}};
  if (v.step >= 0) json["step"] = v.step;
  json["absent_ranks"] = ranks_and_hosts(v.absent, hosts);
  json["ranks_not_waiting"] = ranks_and_hosts(v.not_waiting, hosts);
  json["num_ranks"] = hosts.size();
  json["version"] = version();
  json["time"] = fmt::format("{:%FT%TZ}", fmt::gmtime(std::time(nullptr)));
  try {
    io::write_file_atomically(path,
                              json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n");
  } catch (const Error&) {  // a full disk, say: the exit code still tells
    return;
  }
}

Roll call_the_roll(const std::string& directory, int rank, int num_ranks, const std::string& last_operation,
                   double patience_s) {
  const std::string mine = roll_file(directory, rank);
  std::ofstream(mine) << last_operation;
  std::ofstream(call_file(directory)).flush();
  std::this_thread::sleep_for(std::chrono::duration<double>(patience_s));
  Roll roll;
  int lowest = rank;
  for (int r = num_ranks - 1; r >= 0; --r) {
    std::ifstream file(roll_file(directory, r));
    if (!file) {
      if (r != rank) roll.verdict.absent.insert(roll.verdict.absent.begin(), r);
      continue;
    }
    lowest = r;
    const std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
    if (!text.ends_with("still running"))
      roll.verdict.not_waiting.insert(roll.verdict.not_waiting.begin(), r);
  }
  if (!roll.verdict.absent.empty())
    roll.verdict.not_waiting.clear();  // they may wait inside a library for those
  roll.is_writer = lowest == rank;
  return roll;
}

bool roll_is_called(const std::string& directory) {
  std::error_code ignored;
  return fs::exists(call_file(directory), ignored);
}

void end_the_roll(const std::string& directory) {
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(directory, ignored))
    if (entry.path().filename().string().starts_with(".waiting")) fs::remove(entry.path(), ignored);
}

}  // namespace nmoe::app
