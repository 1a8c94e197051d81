#include "neuronmoe/analysis/layer_similarity.hpp"

#include <cmath>

namespace nmoe::analysis {
namespace {

constexpr double scale = 0x1.0p38;

template <typename T>
void add_rows(std::int64_t* sums, std::int64_t* counts, const T* values,
              const std::vector<int>& language_of_row, std::int64_t hidden, std::int64_t num_layers,
              std::int64_t layer) {
  for (std::size_t t = 0; t < language_of_row.size(); ++t) {
    if (language_of_row[t] < 0) continue;
    const T* x = values + static_cast<std::int64_t>(t) * hidden;
    double squares = 0.0;
    for (std::int64_t d = 0; d < hidden; ++d) {
      const auto v = static_cast<double>(static_cast<float>(x[d]));
      squares += v * v;
    }
    if (!(squares > 0.0) || !std::isfinite(squares)) continue;
    const double factor = scale / std::sqrt(squares);
    const std::int64_t at = language_of_row[t] * num_layers + layer;
    ++counts[at];
    for (std::int64_t d = 0; d < hidden; ++d)
      sums[at * hidden + d] += std::llrint(static_cast<double>(static_cast<float>(x[d])) * factor);
  }
}

}  // namespace

LayerSimilarity::LayerSimilarity(int num_languages, int num_layers, std::int64_t hidden_size)
    : num_languages_(num_languages),
      num_layers_(num_layers),
      hidden_size_(hidden_size),
      sums_(static_cast<std::size_t>(num_languages * num_layers * hidden_size), 0),
      counts_(static_cast<std::size_t>(num_languages * num_layers), 0) {}

void LayerSimilarity::add(int layer, ConstTensorView values, const std::vector<int>& language_of_row) {
  NMOE_CHECK(layer >= 0 && layer < num_layers_ &&
                 values.num_elements() == static_cast<std::int64_t>(language_of_row.size()) * hidden_size_,
             internal, "layer {}: {} values for {} rows of {}", layer, values.num_elements(),
             language_of_row.size(), hidden_size_);
  const auto add_as = [&](const auto* data) {
    add_rows(sums_.data(), counts_.data(), data, language_of_row, hidden_size_, num_layers_, layer);
  };
  if (values.dtype() == DType::float64)
    add_as(values.data<double>());
  else if (values.dtype() == DType::bfloat16)
    add_as(values.data<bfloat16>());
  else
    add_as(values.data<float>());
}

std::vector<double> LayerSimilarity::finish(comm::Communicator& comm, Stream& stream) {
  const auto reduce = [&](std::vector<std::int64_t>& values) {
    comm.all_reduce(TensorView(values.data(), DType::int64, {static_cast<std::int64_t>(values.size())}),
                    comm::ReduceOp::sum, stream)
        .wait();
  };
  reduce(sums_);
  reduce(counts_);
  std::vector<double> result;
  for (int a = 0; a < num_languages_; ++a) {
    for (int b = a + 1; b < num_languages_; ++b) {
      for (int l = 0; l < num_layers_; ++l) {
        const auto at_a = static_cast<std::size_t>(a * num_layers_ + l),
                   at_b = static_cast<std::size_t>(b * num_layers_ + l);
        const auto width = static_cast<std::size_t>(hidden_size_);
        double dot = 0.0;
        for (std::size_t d = 0; d < width; ++d)
          dot += (static_cast<double>(sums_[at_a * width + d]) / scale) *
                 (static_cast<double>(sums_[at_b * width + d]) / scale);
        const double tokens = static_cast<double>(counts_[at_a]) * static_cast<double>(counts_[at_b]);
        result.push_back(tokens > 0.0 ? dot / tokens : 0.0);
      }
    }
  }
  return result;
}

std::vector<std::pair<std::string, std::string>> LayerSimilarity::pairs(
    const std::vector<std::string>& languages) {
  std::vector<std::pair<std::string, std::string>> result;
  for (std::size_t a = 0; a < languages.size(); ++a)
    for (std::size_t b = a + 1; b < languages.size(); ++b) result.emplace_back(languages[a], languages[b]);
  return result;
}

}  // namespace nmoe::analysis
