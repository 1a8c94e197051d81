// The mean weight of the base experts.
#include <algorithm>
#include <cmath>

#include "neuronmoe/evaluation/perplexity.hpp"

namespace nmoe::evaluation {
namespace {

constexpr double weight_scale = 0x1.0p30;  // sums of 8e9 tokens fit into 64 bits

template <typename T>
void add_base_weights(std::int64_t& sum, const T* weights, const std::int32_t* indices, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i)
    if (indices[i] == 0) sum += std::llrint(static_cast<double>(weights[i]) * weight_scale);
}

}  // namespace

RouterStatistics::RouterStatistics(const model::ModelConfig& config)
    : slot_of_layer_(static_cast<std::size_t>(config.num_layers), -1) {
  for (int l = 0; l < config.num_layers; ++l) {
    if (!config.is_moe(l)) continue;
    slot_of_layer_[static_cast<std::size_t>(l)] = static_cast<int>(layers_.size());
    layers_.push_back(l);
  }
  sums_.assign(layers_.size(), 0);
  counts_.assign(layers_.size(), 0);
}

void RouterStatistics::observe_router(int layer, ConstTensorView, ConstTensorView weights,
                                      ConstTensorView indices, ConstTensorView) {
  const auto slot = static_cast<std::size_t>(slot_of_layer_[static_cast<std::size_t>(layer)]);
  counts_[slot] += indices.dim(0);
  const auto* chosen = indices.data<std::int32_t>();
  if (weights.dtype() == DType::float64)
    add_base_weights(sums_[slot], weights.data<double>(), chosen, indices.num_elements());
  else
    add_base_weights(sums_[slot], weights.data<float>(), chosen, indices.num_elements());
}

std::vector<RouterStatistics::LayerMean> RouterStatistics::finish(comm::Communicator& comm, Stream& stream) {
  const auto reduce = [&](std::vector<std::int64_t>& values) {
    comm.all_reduce(TensorView(values.data(), DType::int64, {static_cast<std::int64_t>(values.size())}),
                    comm::ReduceOp::sum, stream)
        .wait();
  };
  reduce(sums_);
  reduce(counts_);
  std::vector<LayerMean> means;
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    const double tokens = std::max(1.0, static_cast<double>(counts_[i]));
    means.push_back({layers_[i], static_cast<double>(sums_[i]) / weight_scale / tokens});
  }
  return means;
}

}  // namespace nmoe::evaluation
