// A plan as Markdown, CSV and JSON.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>

#include "plan_quantity.hpp"

namespace nmoe::train {

namespace {

using Cells = std::vector<std::string>;

constexpr std::string_view basis_text =
    "exact: integer formulas, equal to what a run counts; modeled: exact counts and the rates of [machine]; "
    "goal: stands or falls with the share of GEMM above; given: by the configuration. Start-up, reading of "
    "data, skewed routing and other load are in none of the times: tokens/s and efficiency are upper bounds.";

/// Whole numbers as they are, others with `digits` significant digits.
std::string number_text(double value, int digits) {
  constexpr double most = 1e15;
  if (value == std::floor(value) && std::abs(value) < most) return fmt::format("{:.0f}", value);
  if (std::abs(value) >= std::pow(10.0, digits) && std::abs(value) < most)
    return fmt::format("{:.0f}", value);
  return fmt::format("{:.{}g}", value, digits);
}

std::string value_text(const Quantity& q, double value) {
  return number_text(value, q.basis == Basis::exact ? 6 : 4);
}

/// Columns as wide as their widest cell, so that the Markdown reads well on a terminal too. Numbers, columns
/// [first, end), stand right.
std::string markdown(const std::vector<Cells>& rows, std::size_t first, std::size_t end) {
  std::vector<std::size_t> widths(rows.front().size(), 0);
  for (const Cells& row : rows) {
    for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  const auto is_text = [&](std::size_t i) { return i < first || i >= end; };
  const auto line = [&](const Cells& row) {
    std::string text = "|";
    for (std::size_t i = 0; i < row.size(); ++i)
      text += is_text(i) ? fmt::format(" {:<{}} |", row[i], widths[i])
                         : fmt::format(" {:>{}} |", row[i], widths[i]);
    return text + "\n";
  };
  std::string text = line(rows.front()) + "|";
  for (std::size_t i = 0; i < widths.size(); ++i)
    text += std::string(widths[i] + 1, '-') + (is_text(i) ? "-|" : ":|");
  text += "\n";
  for (std::size_t i = 1; i < rows.size(); ++i) text += line(rows[i]);
  return text;
}

std::string run_table(const std::vector<Quantity>& run) {
  std::vector<Cells> rows = {{"", "quantity", "unit", "basis", "value", "low", "high", "note"}};
  std::string section;
  for (const Quantity& q : run) {
    rows.push_back({q.section == section ? "" : q.section, q.name, q.unit, std::string(name_of(q.basis)),
                    value_text(q, q.estimate.value), q.has_range ? value_text(q, q.estimate.low) : "",
                    q.has_range ? value_text(q, q.estimate.high) : "", q.note});
    section = q.section;
  }
  return markdown(rows, 4, 7);
}

std::string node_table(const PlanTables& tables, Scaling scaling) {
  std::vector<Cells> rows;
  for (const NodeRow& row : tables.nodes) {
    if (row.scaling != scaling) continue;
    if (rows.empty()) {
      rows.push_back({"nodes"});
      for (const Quantity& q : row.quantities)
        rows.back().push_back(q.unit.empty() ? q.name : fmt::format("{}, {}", q.name, q.unit));
    }
    Cells cells = {fmt::format("{}", row.nodes)};
    for (const Quantity& q : row.quantities) {
      std::string text = value_text(q, q.estimate.value);
      if (q.has_range)
        text += fmt::format(" ({} to {})", number_text(q.estimate.low, 3), number_text(q.estimate.high, 3));
      cells.push_back(text);
    }
    if (!row.fits) cells.back() += " DOES NOT FIT";
    rows.push_back(cells);
  }
  return markdown(rows, 0, rows.front().size());
}

/// A quantity and the table it stands in.
struct Row {
  std::string table;
  std::optional<int> nodes;
  const Quantity* quantity;
};

std::vector<Row> all_rows(const PlanTables& tables) {
  std::vector<Row> rows;
  for (const Quantity& q : tables.run) rows.push_back({"run", std::nullopt, &q});
  for (const NodeRow& row : tables.nodes) {
    for (const Quantity& q : row.quantities)
      rows.push_back({std::string(name_of(row.scaling)), row.nodes, &q});
  }
  return rows;
}

std::string csv_cell(const std::string& text) {
  if (text.find_first_of(",\"\n") == std::string::npos) return text;
  std::string quoted = "\"";
  for (const char c : text) quoted += c == '"' ? std::string("\"\"") : std::string(1, c);
  return quoted + "\"";
}

}  // namespace

std::string to_table(const PlanTables& tables) {
  std::string text = tables.title + "\n";
  for (const std::string& note : tables.notes) text += note + "\n";
  text += fmt::format("\n{}\ntimes: {}\n{}\n", run_table(tables.run), tables.rate, basis_text);
  text +=
      "\nstrong scaling: the same training on more nodes, the fastest layout and micro-batch that fit\n\n" +
      node_table(tables, Scaling::strong);
  text +=
      "\nweak scaling: a micro-batch as configured for every rank and as many tokens in fewer steps, which "
      "is "
      "another training\n\n" +
      node_table(tables, Scaling::weak);
  return text;
}

std::string to_csv(const PlanTables& tables) {
  std::string text = "table,nodes,section,quantity,value,low,high,unit,basis,note\n";
  for (const Row& row : all_rows(tables)) {
    const Quantity& q = *row.quantity;
    text += fmt::format("{},{},{},{},{},{},{},{},{},{}\n", row.table,
                        row.nodes ? fmt::format("{}", *row.nodes) : "", csv_cell(q.section), csv_cell(q.name),
                        q.estimate.value, q.has_range ? fmt::format("{}", q.estimate.low) : "",
                        q.has_range ? fmt::format("{}", q.estimate.high) : "", csv_cell(q.unit),
                        name_of(q.basis), csv_cell(q.note));
  }
  return text;
}

std::string to_json(const PlanTables& tables) {
  nlohmann::ordered_json rows = nlohmann::ordered_json::array();
  for (const Row& row : all_rows(tables)) {
    const Quantity& q = *row.quantity;
    nlohmann::ordered_json object = {{"table", row.table}};
    if (row.nodes) object["nodes"] = *row.nodes;
    object["section"] = q.section;
    object["quantity"] = q.name;
    object["value"] = q.estimate.value;
    if (q.has_range) {
      object["low"] = q.estimate.low;
      object["high"] = q.estimate.high;
    }
    object["unit"] = q.unit;
    object["basis"] = name_of(q.basis);
    if (!q.note.empty()) object["note"] = q.note;
    rows.push_back(object);
  }
  const nlohmann::ordered_json plan = {
      {"title", tables.title}, {"notes", tables.notes}, {"times", tables.rate}, {"quantities", rows}};
  return plan.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

}  // namespace nmoe::train
