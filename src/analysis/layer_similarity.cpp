// Sums of unit vectors per language and layer, and the similarities made of them.
#include "neuronmoe/analysis/layer_similarity.hpp"

#include "neuronmoe/ops/pooling.hpp"
#include "neuronmoe/tensor/device.hpp"

namespace nmoe::analysis {
namespace {

constexpr double scale = 0x1.0p38;

}  // namespace

LayerSimilarity::LayerSimilarity(int num_languages, int num_layers, std::int64_t hidden_size, Stream& stream)
    : num_languages_(num_languages),
      num_layers_(num_layers),
      hidden_size_(hidden_size),
      stream_(stream),
      grouping_(stream, RowGrouping::Empty::kept),
      sums_({num_layers, num_languages, hidden_size}, DType::int64, stream.device()),
      counts_({num_layers, num_languages}, DType::int64, stream.device()) {}

void LayerSimilarity::add(int layer, ConstTensorView values, const std::vector<int>& language_of_row) {
  const auto rows = static_cast<std::int64_t>(language_of_row.size());
  NMOE_CHECK(layer >= 0 && layer < num_layers_ && values.num_elements() == rows * hidden_size_, internal,
             "layer {}: {} values for {} rows of {}", layer, values.num_elements(), rows, hidden_size_);
  grouping_.group(language_of_row, num_languages_);
  ops::add_directions(sums_.view().rows(layer, 1).reshape({num_languages_, hidden_size_}),
                      counts_.view().rows(layer, 1).reshape({num_languages_}),
                      values.reshape({rows, hidden_size_}), grouping_.groups(), scale, stream_);
}

std::vector<double> LayerSimilarity::finish(comm::Communicator& comm, Stream& stream) {
  const auto total = [&](const Tensor& mine) {
    Tensor all = copied_to(Device::cpu, mine.view(), stream_);
    comm.all_reduce(all.view(), comm::ReduceOp::sum, stream).wait();
    return all;
  };
  const Tensor all_sums = total(sums_), all_counts = total(counts_);
  const auto *sums = all_sums.data<std::int64_t>(), *counts = all_counts.data<std::int64_t>();
  std::vector<double> result;
  for (int a = 0; a < num_languages_; ++a) {
    for (int b = a + 1; b < num_languages_; ++b) {
      for (int l = 0; l < num_layers_; ++l) {
        const std::int64_t at_a = l * num_languages_ + a, at_b = l * num_languages_ + b;
        double dot = 0.0;
        for (std::int64_t d = 0; d < hidden_size_; ++d)
          dot += (static_cast<double>(sums[at_a * hidden_size_ + d]) / scale) *
                 (static_cast<double>(sums[at_b * hidden_size_ + d]) / scale);
        const double tokens = static_cast<double>(counts[at_a]) * static_cast<double>(counts[at_b]);
        result.push_back(tokens > 0.0 ? dot / tokens : 0.0);
      }
    }
  }
  return result;
}

std::vector<std::pair<std::string, std::string>> LayerSimilarity::pairs(
    const std::vector<std::string>& languages) {
  std::vector<std::pair<std::string, std::string>> result;
  for (std::size_t a = 0; a < languages.size(); ++a) {
    for (std::size_t b = a + 1; b < languages.size(); ++b) result.emplace_back(languages[a], languages[b]);
  }
  return result;
}

}  // namespace nmoe::analysis
