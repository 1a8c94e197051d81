// Reads a CSV of neuron counts per layer and checks every field.
#include "neuronmoe/analysis/counts_csv.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <map>
#include <sstream>

#include "neuronmoe/analysis/allocation.hpp"
#include "neuronmoe/base/error.hpp"
#include "neuronmoe/io/atomic_file.hpp"

namespace nmoe::analysis {
namespace {

double parse_count(const std::string& field, const std::string& path, int line, const std::string& column) {
  double value = 0.0;
  const auto [end, error] = std::from_chars(field.data(), field.data() + field.size(), value);
  NMOE_CHECK(
      error == std::errc() && end == field.data() + field.size() && std::isfinite(value) && value >= 0.0,
      bad_data, "{}:{}: column {} holds '{}', wanted a count >= 0", path, line, column, field);
  return value;
}

std::size_t column_index(const std::vector<std::string>& header, const std::string& name,
                         const std::string& path) {
  const auto found = std::count(header.begin(), header.end(), name);
  NMOE_CHECK(found > 0, bad_data, "{}: no column '{}'; it has: {}", path, name, fmt::join(header, ", "));
  NMOE_CHECK(found == 1, bad_data, "{}: column '{}' appears {} times", path, name, found);
  return static_cast<std::size_t>(std::find(header.begin(), header.end(), name) - header.begin());
}

}  // namespace

std::vector<std::vector<double>> read_counts_csv(const std::string& path,
                                                 const std::vector<std::string>& columns) {
  std::istringstream file(io::read_file(path));
  NMOE_CHECK(!columns.empty(), config, "{}: say which columns to use with --columns a[,b]", path);
  std::vector<std::string> header;
  std::vector<std::size_t> wanted;
  std::size_t layer_column = 0;
  std::map<int, std::vector<double>> rows;
  std::string text;
  for (int line = 1; std::getline(file, text); ++line) {
    if (line == 1 && text.rfind("\xEF\xBB\xBF", 0) == 0) text.erase(0, 3);  // byte order mark of spreadsheets
    if (!text.empty() && text.back() == '\r') text.pop_back();
    const auto fields = split_list(text);
    if (fields.empty()) continue;
    if (header.empty()) {
      header = fields;
      layer_column = column_index(header, "layer", path);
      for (const auto& column : columns) wanted.push_back(column_index(header, column, path));
      continue;
    }
    NMOE_CHECK(fields.size() == header.size(), bad_data, "{}:{}: {} fields, the header has {}", path, line,
               fields.size(), header.size());
    const double layer = parse_count(fields[layer_column], path, line, "layer");
    NMOE_CHECK(layer == std::floor(layer) && layer < 100000.0, bad_data,
               "{}:{}: layer {} is not a layer number", path, line, fields[layer_column]);
    auto& row = rows[static_cast<int>(layer)];
    NMOE_CHECK(row.empty(), bad_data, "{}:{}: layer {} appears twice", path, line, layer);
    for (const std::size_t at : wanted) row.push_back(parse_count(fields[at], path, line, header[at]));
  }
  NMOE_CHECK(!rows.empty(), bad_data, "{}: no layer in it", path);
  std::vector<std::vector<double>> result(columns.size());
  for (int expected = 0; const auto& [layer, row] : rows) {
    NMOE_CHECK(layer == expected, bad_data, "{}: layer {} is missing; layers must be 0..{} without gaps",
               path, expected, rows.rbegin()->first);
    ++expected;
    for (std::size_t c = 0; c < row.size(); ++c) result[c].push_back(row[c]);
  }
  return result;
}

}  // namespace nmoe::analysis
