// The rate of a run from its metrics.jsonl.
#include "neuronmoe/train/measured_rate.hpp"

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <sstream>
#include <vector>

#include "neuronmoe/base/error.hpp"
#include "neuronmoe/io/atomic_file.hpp"

namespace nmoe::train {

namespace {

/// FLOP/s of a line, 0 if it is not one of metrics.
double rate_of(const std::string& line) {
  const auto object = nlohmann::json::parse(line, nullptr, false);
  if (!object.is_object()) return 0.0;
  const auto number = [&](const char* key) {
    const auto found = object.find(key);
    return found != object.end() && found->is_number() ? found->get<double>() : 0.0;
  };
  const double seconds = number("step_s"), flops = number("flops");
  return seconds > 0 && flops > 0 ? flops / seconds : 0.0;
}

}  // namespace

double quantile(std::span<const double> sorted, double share) {
  const double at = share * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<std::size_t>(at);
  const std::size_t above = std::min(below + 1, sorted.size() - 1);
  return sorted[below] + (at - static_cast<double>(below)) * (sorted[above] - sorted[below]);
}

MeasuredRate measured_rate(const std::string& path) {
  MeasuredRate rate;
  rate.path = std::filesystem::is_directory(path) ? path + "/metrics.jsonl" : path;
  std::istringstream in(io::read_file(rate.path));
  std::vector<double> rates;
  std::int64_t number = 0;
  for (std::string line; std::getline(in, line);) {
    ++number;
    const double of_line = rate_of(line);
    const bool torn = of_line == 0 && in.peek() == std::istringstream::traits_type::eof() && number > 1;
    if (torn) break;
    NMOE_CHECK(
        of_line > 0, bad_data,
        "{}:{}: not a line of metrics with \"step_s\" and \"flops\" above 0; give --plan.calibrate the "
        "metrics.jsonl of a training",
        rate.path, number);
    if (number > warm_up_steps) rates.push_back(of_line);
  }
  rate.num_steps = static_cast<std::int64_t>(rates.size());
  NMOE_CHECK(rate.num_steps >= 2, bad_data,
             "{}: has {} steps, of which the first {} warm up; --plan.calibrate needs at least {}", rate.path,
             number, warm_up_steps, warm_up_steps + 2);
  std::sort(rates.begin(), rates.end());
  rate.slow = quantile(rates, 0.05);
  rate.median = quantile(rates, 0.5);
  rate.fast = quantile(rates, 0.95);
  return rate;
}

}  // namespace nmoe::train
