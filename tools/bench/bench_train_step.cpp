// One optimizer step of the quickstart's model on all ranks, interleaved with a large matrix product, so that
// both rates come from the same run. Usage: mpirun -n 2 bench_train_step [pretrain|stage1|stage2] [sequences
// per rank] [repetitions] [comm.on_node]
//
// Useful FLOPs are those the stream counts (2 per multiply-add, causal attention at half); the share is
// useful FLOP/s of all ranks over the product's FLOP/s of all ranks measured at the same time. Medians over
// the repetitions.
#include <fmt/core.h>
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <string>
#include <vector>

#include "neuronmoe/app/run_guarded.hpp"
#include "neuronmoe/base/philox.hpp"
#include "neuronmoe/ops/linear.hpp"
#include "neuronmoe/train/trainer.hpp"

using namespace nmoe;

namespace {

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

model::ModelConfig quickstart_model(bool moe) {
  model::ModelConfig c;
  c.vocab_size = 4096;
  c.hidden_size = 128;
  c.intermediate_size = 344;
  c.num_layers = 8;
  c.num_attention_heads = 4;
  c.num_key_value_heads = 2;
  c.head_dim = 32;
  c.num_experts = moe ? std::vector<int>{3, 1, 1, 1, 2, 3, 3, 4} : std::vector<int>(8, 1);
  return c;
}

model::BatchBuilder random_batch(int sequences, int rank) {
  constexpr int length = 128;
  const Philox random(1, RandomPurpose::synthetic, static_cast<std::uint32_t>(rank));
  model::BatchBuilder builder;
  std::uint64_t draw = 0;
  for (int s = 0; s < sequences; ++s) {
    std::vector<std::int32_t> ids(length);
    for (auto& id : ids) id = static_cast<std::int32_t>(random.below(draw++, 4096));
    builder.add(ids, ids, std::vector<std::uint8_t>(length, s % 2 == 0 ? 1 : 0));
  }
  return builder;
}

/// Seconds of one 1024 x 1024 x 1024 product per rank, all ranks at once.
double gemm_seconds(comm::ExecutionContext& context, Tensor& y, Tensor& x, Tensor& w) {
  context.world.barrier();
  const double start = now();
  for (int i = 0; i < 4; ++i) ops::linear_forward(y.view(), x.view(), w.view(), {}, context.stream);
  context.world.barrier();
  return (now() - start) / 4;
}

int run(comm::ExecutionContext& context, const std::string& kind_name, int sequences, int repetitions) {
  const auto kind = kind_name == "pretrain" ? train::RunKind::pretrain
                    : kind_name == "stage2" ? train::RunKind::stage2
                                            : train::RunKind::stage1;
  const train::ParallelGroups groups(context.world, 1);
  const model::ModelConfig config = quickstart_model(kind != train::RunKind::pretrain);
  model::Decoder decoder(config, DType::float32, train::trainables_of(kind),
                         groups.experts(config.num_experts), context.stream);
  decoder.initialise_dense(1);
  decoder.upcycle(1);
  train::ShardedOptimizer optimizer(decoder, groups.layout, context.world, *groups.expert_data_parallel,
                                    {.bucket_bytes = 32 << 20});
  const model::BatchBuilder builder = random_batch(sequences, context.world.rank());
  const model::LossScales scales{.lm = 1e-3,
                                 .balancing = kind == train::RunKind::stage1 ? 0.01 : 0.0,
                                 .lpr = kind == train::RunKind::stage2 ? 0.1 : 0.0};
  constexpr std::int64_t n = 1024;
  Tensor x({n, n}, DType::float32), w({n, n}, DType::float32), y({n, n}, DType::float32);
  const Philox random(3, RandomPurpose::synthetic);
  for (std::int64_t i = 0; i < n * n; ++i) {
    x.data<float>()[i] = w.data<float>()[i] =
        static_cast<float>(random.normal(static_cast<std::uint64_t>(i)));
  }
  std::vector<double> steps, products;
  double flops = 0;
  for (int i = 0; i < repetitions + 3; ++i) {
    const double product = gemm_seconds(context, y, x, w);
    const std::int64_t before = context.stream.flops();
    context.world.barrier();
    const double start = now();
    optimizer.begin_micro_step(0, context.world.size());
    decoder.forward_backward(builder.batch(), scales);
    optimizer.finish_reduction(context.stream);
    optimizer.update({1e-4, 0.9, 0.999, 1e-8, 0.0, i + 1, 1.0}, context.stream);
    optimizer.finish_gather();
    context.world.barrier();
    if (i < 3) continue;  // warm-up: memory grows to its high-water mark
    steps.push_back(now() - start);
    products.push_back(product);
    flops = static_cast<double>(context.stream.flops() - before);
    context.heartbeat.beat();
  }
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const double gemm_rate = 2.0 * n * n * n / median(products), step_rate = flops / median(steps);
  if (context.world.rank() == 0) {
    fmt::print(
        "{}: {} ranks x {} sequences of 128: {:.1f} ms a step (min {:.1f}), {:.0f} tokens/s; per rank {:.1f} "
        "useful "
        "GF/s of {:.1f} GF/s GEMM = {:.0f} %; peak resident {:.0f} MB a rank, activations {:.1f} MB\n",
        kind_name, context.world.size(), sequences, median(steps) * 1e3,
        *std::min_element(steps.begin(), steps.end()) * 1e3,
        context.world.size() * sequences * 128 / median(steps), step_rate / 1e9, gemm_rate / 1e9,
        100 * step_rate / gemm_rate, static_cast<double>(usage.ru_maxrss) / 1e3,
        static_cast<double>(decoder.peak_activation_bytes()) / 1e6);
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  const std::string kind = argc > 1 ? argv[1] : "stage1";
  const int sequences = argc > 2 ? std::atoi(argv[2]) : 4, repetitions = argc > 3 ? std::atoi(argv[3]) : 50;
  return app::run_guarded(
      &argc, &argv,
      [&](comm::Communicator& world) {
        app::GuardOptions options;
        options.on_node = comm::choose_on_node(world, argc > 4 ? argv[4] : "auto");
        return options;
      },
      [&](comm::ExecutionContext& context) { return run(context, kind, sequences, repetitions); });
}
