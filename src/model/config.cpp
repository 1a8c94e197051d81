// What a configuration says in sum, and the expert counts of an experts.cfg.
#include "neuronmoe/model/config.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <sstream>

#include "neuronmoe/base/error.hpp"
#include "neuronmoe/io/atomic_file.hpp"

namespace nmoe::model {

int ModelConfig::num_moe_layers() const {
  return static_cast<int>(std::count_if(num_experts.begin(), num_experts.end(), [](int e) { return e > 1; }));
}

namespace {

constexpr std::string_view key = "ADA_MOE_NUM_EXPERTS_LIST=";

}  // namespace

std::string expert_counts_line(const std::vector<int>& num_experts) {
  return fmt::format("{}{}\n", key, fmt::join(num_experts, ","));
}

std::vector<int> load_expert_counts(const std::string& path, std::optional<int> num_layers) {
  std::istringstream text(io::read_file(path, 1 << 20));
  std::vector<int> counts;
  bool found = false;
  std::string line;
  for (int number = 1; std::getline(text, line); ++number) {
    while (!line.empty() && (line.back() == '\r' || line.back() == ' ')) line.pop_back();
    if (line.empty() || line.front() == '#') continue;
    NMOE_CHECK(line.starts_with(key), bad_data, "{}:{}: expected {}..., found \"{}\"", path, number, key,
               line.substr(0, 60));
    NMOE_CHECK(!found, bad_data, "{}:{}: a second {}", path, number, key);
    found = true;
    std::istringstream list(line.substr(key.size()));
    for (std::string entry; std::getline(list, entry, ',');) {
      std::size_t used = 0;
      int count = 0;
      try {
        count = std::stoi(entry, &used);
      } catch (const std::exception&) {
        used = std::string::npos;
      }
      NMOE_CHECK(used == entry.size() && count >= 1 && count <= max_num_experts, bad_data,
                 "{}:{}: entry {} is \"{}\", expected a count from 1 (dense) to {}", path, number,
                 counts.size(), entry, max_num_experts);
      counts.push_back(count);
    }
    NMOE_CHECK(!num_layers || static_cast<int>(counts.size()) == *num_layers, bad_data,
               "{}:{}: {} expert counts for a model of {} layers; allocate for this model", path, number,
               counts.size(), *num_layers);
  }
  NMOE_CHECK(found, bad_data, "{}: no line {}", path, key);
  return counts;
}

}  // namespace nmoe::model
