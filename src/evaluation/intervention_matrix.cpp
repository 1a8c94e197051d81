// The change of each cell, and the files that hold the matrix.
#include "neuronmoe/evaluation/intervention_matrix.hpp"

#include <fmt/format.h>

#include <cmath>
#include <iterator>
#include <nlohmann/json.hpp>

#include "neuronmoe/base/error.hpp"
#include "neuronmoe/evaluation/eval_file.hpp"
#include "neuronmoe/io/atomic_file.hpp"
#include "neuronmoe/io/hdf5_file.hpp"

namespace nmoe::evaluation {
namespace {

constexpr io::FileFormat matrix_format{"neuronmoe-interventions", 1};

/// Returns the values of a member of every element.
template <typename T, typename Element, typename Get>
std::vector<T> each(const std::vector<Element>& elements, const Get& get) {
  std::vector<T> values;
  for (const Element& element : elements) values.push_back(static_cast<T>(get(element)));
  return values;
}

/// [rows, columns], row-major.
std::vector<double> cells(const InterventionMatrix& matrix, double PairedChange::*member) {
  std::vector<double> values;
  for (std::size_t r = 0; r < matrix.rows.size(); ++r)
    for (const InterventionColumn& column : matrix.columns) values.push_back(column.changes[r].*member);
  return values;
}

void write_rows(io::H5File& file, const std::vector<InterventionRow>& rows) {
  const auto size = [](const InterventionRow& row) { return row.uuids.size(); };
  file.write_strings("/row/language",
                     each<std::string>(rows, [](const InterventionRow& row) { return row.language; }));
  file.write("/row/control", each<std::int64_t>(rows, [](const auto& row) { return row.control; }));
  file.write("/row/neurons", each<std::int64_t>(rows, size));
  file.write("/row/first_layer", each<std::int64_t>(rows, [](const auto& row) { return row.first_layer; }));
  std::vector<std::uint64_t> uuids;
  for (const InterventionRow& row : rows) uuids.insert(uuids.end(), row.uuids.begin(), row.uuids.end());
  file.write("/neuron/uuid", uuids);
}

void write_columns(io::H5File& file, const std::vector<InterventionColumn>& columns) {
  file.write_strings("/column/language",
                     each<std::string>(columns, [](const auto& column) { return column.language; }));
  file.write("/column/tokens", each<std::int64_t>(columns, [](const auto& column) { return column.tokens; }));
  file.write("/column/documents",
             each<std::int64_t>(columns, [](const auto& column) { return column.documents; }));
  file.write("/column/nll", each<double>(columns, [](const auto& column) { return column.nll; }));
}

}  // namespace

PairedChange paired_change(std::span<const LogLikelihood> untouched, std::span<const LogLikelihood> touched) {
  NMOE_CHECK(untouched.size() == touched.size(), internal, "{} answers without and {} with an intervention",
             untouched.size(), touched.size());
  double sum = 0.0, tokens = 0.0;
  for (std::size_t i = 0; i < untouched.size(); ++i) {
    sum += untouched[i].sum - touched[i].sum;
    tokens += static_cast<double>(untouched[i].tokens);
  }
  PairedChange change{sum / tokens, 0.0};
  const auto count = static_cast<double>(untouched.size());
  if (count < 2.0) return change;
  double squares = 0.0;
  for (std::size_t i = 0; i < untouched.size(); ++i) {
    const double expected = change.nll * static_cast<double>(untouched[i].tokens);
    const double residual = untouched[i].sum - touched[i].sum - expected;
    squares += residual * residual;
  }
  change.stderr_ = std::sqrt(count / (count - 1.0) * squares) / tokens;
  return change;
}

void add_column(InterventionMatrix& matrix, const std::string& language,
                std::span<const std::vector<LogLikelihood>> answers) {
  NMOE_CHECK(answers.size() == 1 + matrix.rows.size(), internal, "{} variants for {} rows", answers.size(),
             matrix.rows.size());
  InterventionColumn column{language, 0, std::ssize(answers.front()), 0.0, {}};
  double log_likelihood = 0.0;
  for (const LogLikelihood& answer : answers.front()) {
    log_likelihood += answer.sum;
    column.tokens += answer.tokens;
  }
  column.nll = -log_likelihood / static_cast<double>(column.tokens);
  for (const std::vector<LogLikelihood>& touched : answers.subspan(1))
    column.changes.push_back(paired_change(answers.front(), touched));
  matrix.columns.push_back(std::move(column));
}

std::string intervention_lines(const InterventionRow& row, const std::string& set,
                               std::span<const std::int64_t> documents,
                               std::span<const LogLikelihood> answers) {
  std::string lines;
  for (std::size_t d = 0; d < answers.size(); ++d)
    lines += nlohmann::ordered_json{{"task", "intervention"},         {"neurons", row.language},
                                    {"control", row.control},         {"set", set},
                                    {"document", documents[d]},       {"tokens", answers[d].tokens},
                                    {"loglikelihood", answers[d].sum}}
                 .dump() +
             "\n";
  return lines;
}

std::string intervention_csv(const InterventionMatrix& matrix) {
  std::string text = "neurons,control,size,first_layer,text,documents,tokens,nll,change,stderr\n";
  for (std::size_t r = 0; r < matrix.rows.size(); ++r) {
    const InterventionRow& row = matrix.rows[r];
    for (const InterventionColumn& column : matrix.columns)
      fmt::format_to(std::back_inserter(text), "{},{},{},{},{},{},{},{},{},{}\n", row.language, row.control,
                     row.uuids.size(), row.first_layer, column.language, column.documents, column.tokens,
                     column.nll, column.changes[r].nll, column.changes[r].stderr_);
  }
  return text;
}

void write_intervention_files(const std::string& eval_path, const InterventionMatrix& matrix,
                              const MatrixOrigin& origin) {
  const std::vector<std::int64_t> shape = {std::ssize(matrix.rows), std::ssize(matrix.columns)};
  std::string config;
  for (const auto& [key, value] : origin.config) config += fmt::format("{} = {}\n", key, value);
  io::write_file_atomically(path_beside(eval_path, ".interventions.csv"), intervention_csv(matrix));
  io::write_h5_atomically(
      path_beside(eval_path, ".interventions.h5"), io::Storage::contiguous, [&](io::H5File& file) {
        file.write_format(matrix_format);
        file.write_attribute("/", "version", std::string_view(origin.version));
        file.write_attribute("/", "model", std::string_view(origin.model));
        file.write_attribute("/", "checkpoint", std::string_view(origin.checkpoint));
        file.write_attribute("/", "config", std::string_view(config));
        file.write_attribute("/", "replace", std::string_view(matrix.replace));
        file.write_attribute("/", "neurons", std::string_view(matrix.neurons_path));
        file.write_attribute("/", "neurons_sha256", std::string_view(matrix.neurons_sha256));
        file.write_attribute("/", "seed", matrix.seed);
        write_rows(file, matrix.rows);
        write_columns(file, matrix.columns);
        file.write("/change", cells(matrix, &PairedChange::nll), shape);
        file.write("/stderr", cells(matrix, &PairedChange::stderr_), shape);
      });
}

}  // namespace nmoe::evaluation
