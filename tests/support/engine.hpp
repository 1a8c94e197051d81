#pragma once
// A few optimizer steps of the distributed engine on a tiny model, without files. Used by the
// layout-invariance tests.
#include <functional>
#include <vector>

#include "neuronmoe/tensor/device.hpp"
#include "neuronmoe/train/parallel_groups.hpp"
#include "neuronmoe/train/sharded_optimizer.hpp"
#include "support/tiny_model.hpp"

namespace nmoe::test {

/// What must not depend on the layout.
struct EngineResult {
  std::vector<double> losses, norms;
  std::vector<std::vector<float>>
      parameters;  ///< name order; gathered from whoever holds them; empty on other ranks' experts
};

struct EngineOptions {
  std::vector<int> num_experts;
  model::TrainableSet trainable;
  int expert_parallel_size = 1;
  model::ExpertHome home = model::ExpertHome::owned;
  std::int64_t num_micro_batches = 5;
  int num_steps = 3;
  train::ReduceOptions reduce = {.bucket_bytes = 1 << 20};
  std::function<void(model::Decoder&)> prepare = {};  ///< changes the initial weights
  model::LossScales scales;
  Device device = Device::cpu;
  std::vector<int> num_old_experts = {};  ///< of an extended mixture
};

/// Micro-batch m of step s has its own uneven lengths: the same on every layout.
inline model::BatchBuilder engine_batch(int step, std::int64_t m, std::int64_t vocab) {
  const auto seed = static_cast<std::uint64_t>(1000 * step + m);
  return random_batch({3 + static_cast<int>((m * 7 + step) % 11), 6}, vocab, seed);
}

inline EngineResult run_engine(comm::Communicator& world, const EngineOptions& options) {
  const train::ParallelGroups groups(world, options.expert_parallel_size);
  model::ModelConfig config = tiny_config(options.num_experts);
  config.num_old_experts = options.num_old_experts;
  OwnedStream owned(options.device);
  Stream& stream = owned.stream();
  model::Decoder decoder(config, DType::float32, options.trainable,
                         groups.experts(config.num_experts, config.top_k, options.home), stream);
  decoder.initialise_dense(4);
  decoder.upcycle(4);
  if (options.prepare) options.prepare(decoder);
  train::ShardedOptimizer optimizer(decoder, groups.layout, world, *groups.expert_data_parallel,
                                    options.reduce);
  EngineResult result;
  const std::int64_t num_micro_batches = options.num_micro_batches;
  for (int step = 0; step < options.num_steps; ++step) {
    std::vector<double> losses(static_cast<std::size_t>(num_micro_batches), 0.0);
    for (std::int64_t micro_step = 0; micro_step < comm::num_micro_steps(num_micro_batches, world.size());
         ++micro_step) {
      const std::int64_t m = comm::micro_batch_of(micro_step, world.rank(), world.size(), num_micro_batches);
      const model::BatchBuilder builder =
          m >= 0 ? engine_batch(step, m, config.vocab_size) : model::BatchBuilder();
      optimizer.begin_micro_step(micro_step, num_micro_batches);
      const model::Losses l = decoder.forward_backward(builder.batch(), options.scales);
      if (m >= 0) losses[static_cast<std::size_t>(m)] = l.lm_sum + l.balancing + l.lpr;
    }
    world.all_reduce({losses.data(), DType::float64, {num_micro_batches}}, comm::ReduceOp::sum, stream)
        .wait();
    result.losses.insert(result.losses.end(), losses.begin(), losses.end());
    result.norms.push_back(optimizer.finish_reduction(stream));
    optimizer.update({1e-2, 0.9, 0.999, 1e-8, 0.01, step + 1, 1.0}, stream);
  }
  optimizer.finish_gather();
  for (const model::Parameter& p : decoder.parameters()) {
    std::vector<float> values;
    if (p.held()) {
      const Tensor host = copied_to(Device::cpu, p.value.view(), stream);
      values.assign(host.data<float>(), host.data<float>() + p.shape.num_elements());
    }
    result.parameters.push_back(std::move(values));
  }
  return result;
}

}  // namespace nmoe::test
