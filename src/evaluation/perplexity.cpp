// Perplexity over blocks of text, and the mean weight of the base experts.
#include "neuronmoe/evaluation/perplexity.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "gather.hpp"

namespace nmoe::evaluation {
namespace {

constexpr double weight_scale = 0x1.0p30;    // sums of 8e9 tokens fit into 64 bits
constexpr std::int64_t batch_tokens = 2048;  // bounds memory; a constant, so that results never depend on it

template <typename T>
void add_base_weights(std::int64_t& sum, const T* weights, const std::int32_t* indices, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i)
    if (indices[i] == 0) sum += std::llrint(static_cast<double>(weights[i]) * weight_scale);
}

/// Next-token labels inside one block; −100 where nothing is predicted.
std::vector<std::int32_t> labels_of(std::span<const std::int32_t> ids, std::int32_t eos_id) {
  std::vector<std::int32_t> labels(ids.size(), -100);
  for (std::size_t t = 0; t + 1 < ids.size(); ++t)
    if (ids[t + 1] != eos_id) labels[t] = ids[t + 1];
  return labels;
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

double Perplexity::ppl() const {
  return std::exp(nll);
}

Perplexity measure_perplexity(comm::ExecutionContext& context, std::span<const std::int32_t> ids,
                              std::int64_t block, std::int32_t eos_id, const LogProbFunction& log_probs,
                              RouterStatistics* routers) {
  NMOE_CHECK(block >= 2, config, "evaluation.block = {} must be at least 2", block);
  const auto num_tokens = static_cast<std::int64_t>(ids.size());
  const std::int64_t num_blocks = (num_tokens + block - 1) / block;
  const std::int64_t per_batch = std::max<std::int64_t>(1, batch_tokens / block);
  const std::int64_t num_batches = (num_blocks + per_batch - 1) / per_batch;
  const std::int64_t world_size = context.world.size(), rank = context.world.rank();
  std::vector<double> mine;  // per block of mine: block number, sum of log probabilities, labels
  Progress progress(context.log, "perplexity", static_cast<std::uint64_t>(num_blocks), "tokens");
  model::BatchBuilder builder;
  for (std::int64_t first = 0; first < num_batches; first += world_size) {
    builder.clear();
    const std::int64_t begin = std::min(num_blocks, (first + rank) * per_batch);
    const std::int64_t end = std::min(num_blocks, begin + per_batch);
    std::vector<std::vector<std::int32_t>> labels;
    for (std::int64_t b = begin; b < end; ++b) {
      const auto part = ids.subspan(static_cast<std::size_t>(b * block),
                                    static_cast<std::size_t>(std::min(block, num_tokens - b * block)));
      labels.push_back(labels_of(part, eos_id));
      builder.add(part, labels.back(), {});
    }
    const auto result = log_probs(builder.batch(), routers);
    std::size_t t = 0;
    for (std::int64_t b = begin; b < end; ++b) {
      double sum = 0.0, count = 0.0;
      for (const std::int32_t label : labels[static_cast<std::size_t>(b - begin)]) {
        if (label >= 0) {
          sum += result[t];
          count += 1.0;
        }
        ++t;
      }
      mine.insert(mine.end(), {static_cast<double>(b), sum, count});
    }
    context.heartbeat.beat();
    const std::int64_t done = std::min(num_blocks, (first + world_size) * per_batch);
    progress.update(static_cast<std::uint64_t>(done), static_cast<double>(done * block));
  }
  const auto all = gather_records(context.world, context.stream, mine, 3);
  double log_likelihood = 0.0, labels = 0.0;
  for (std::size_t i = 0; i < all.size(); i += 3) {  // ascending block number
    log_likelihood += all[i + 1];
    labels += all[i + 2];
  }
  NMOE_CHECK(labels > 0.0, bad_data, "no token to predict in {} tokens: all of them are EOS", num_tokens);
  return {-log_likelihood / labels, static_cast<std::int64_t>(labels)};
}

}  // namespace nmoe::evaluation
