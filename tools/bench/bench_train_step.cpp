// One optimizer step of the quickstart's model on all ranks, interleaved with a large matrix product, so that
// both rates come from the same run. Usage: mpirun -n 2 bench_train_step [pretrain|stage1|stage2] [sequences
// per rank] [repetitions] [comm.on_node] [expert_parallel_size]
//
// comm.on_node = both: two such models take turns, one for each way to exchange.
//
// Useful FLOPs are those the stream counts (2 per multiply-add, causal attention at half); the share is
// useful FLOP/s of all ranks over the product's FLOP/s of all ranks measured at the same time. Medians over
// the repetitions.
#include <fmt/core.h>
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "neuronmoe/app/run_guarded.hpp"
#include "neuronmoe/base/philox.hpp"
#include "neuronmoe/comm/mpi_communicator.hpp"
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

struct Settings {
  std::string kind = "stage1";
  int sequences = 4, repetitions = 50;
  std::string on_node = "auto";
  int expert_parallel_size = 1;
};

/// Seconds of one 1024 x 1024 x 1024 product per rank, all ranks at once.
double gemm_seconds(comm::ExecutionContext& context, Tensor& y, Tensor& x, Tensor& w) {
  context.world.barrier();
  const double start = now();
  for (int i = 0; i < 4; ++i) ops::linear_forward(y.view(), x.view(), w.view(), {}, context.stream);
  context.world.barrier();
  return (now() - start) / 4;
}

/// A model and its optimizer on some communicator, and what its steps took.
struct Side {
  train::ParallelGroups groups;
  model::Decoder decoder;
  train::ShardedOptimizer optimizer;
  std::vector<double> seconds;
  double flops = 0;

  Side(comm::Communicator& world, Stream& stream, train::RunKind kind, int expert_parallel_size)
      : groups(world, expert_parallel_size),
        decoder(quickstart_model(kind != train::RunKind::pretrain), DType::float32,
                train::trainables_of(kind),
                groups.experts(quickstart_model(kind != train::RunKind::pretrain).num_experts), stream),
        optimizer(decoder, groups.layout, world, *groups.expert_data_parallel, {.bucket_bytes = 32 << 20}) {
    decoder.initialise_dense(1);
    decoder.upcycle(1);
  }

  void step(comm::ExecutionContext& context, const model::Batch& batch, const model::LossScales& scales,
            int number) {
    const std::int64_t before = context.stream.flops();
    context.world.barrier();
    const double start = now();
    optimizer.begin_micro_step(0, context.world.size());
    decoder.forward_backward(batch, scales);
    optimizer.finish_reduction(context.stream);
    optimizer.update({1e-4, 0.9, 0.999, 1e-8, 0.0, number + 1, 1.0}, context.stream);
    optimizer.finish_gather();
    context.world.barrier();
    if (number < 3) return;  // warm-up: memory grows to its high-water mark
    seconds.push_back(now() - start);
    flops = static_cast<double>(context.stream.flops() - before);
  }
};

int run(comm::ExecutionContext& context, const Settings& settings) {
  const auto kind = settings.kind == "pretrain" ? train::RunKind::pretrain
                    : settings.kind == "stage2" ? train::RunKind::stage2
                                                : train::RunKind::stage1;
  const int sequences = settings.sequences;
  std::vector<std::unique_ptr<Side>> sides;
  sides.push_back(std::make_unique<Side>(context.world, context.stream, kind, settings.expert_parallel_size));
  std::unique_ptr<comm::Communicator> shared;
  if (settings.on_node == "both") {  // the world sends messages
    comm::MpiOptions options;
    options.on_node = comm::OnNode::shared;
    shared = comm::make_mpi_communicator(context.world.native(), options);
    sides.push_back(std::make_unique<Side>(*shared, context.stream, kind, settings.expert_parallel_size));
  }
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
  std::vector<double> products;
  for (int i = 0; i < settings.repetitions + 3; ++i) {
    const double product = gemm_seconds(context, y, x, w);
    if (i >= 3) products.push_back(product);
    for (const auto& side : sides) side->step(context, builder.batch(), scales, i);
    context.heartbeat.beat();
  }
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const double gemm_rate = 2.0 * n * n * n / median(products);
  for (const auto& side : sides) {
    if (context.world.rank() != 0) break;
    const double step = median(side->seconds), rate = side->flops / step;
    fmt::print(
        "{}{}: {} ranks x {} sequences of 128: {:.1f} ms a step (min {:.1f}), {:.0f} tokens/s; per rank "
        "{:.1f} "
        "useful "
        "GF/s of {:.1f} GF/s GEMM = {:.0f} %; peak resident {:.0f} MB a rank, activations {:.1f} MB, rows "
        "sent "
        "to and from experts {:.2f} MB\n",
        settings.kind,
        sides.size() == 1       ? ""
        : side == sides.front() ? ", mpi"
                                : ", shared",
        context.world.size(), sequences, step * 1e3,
        *std::min_element(side->seconds.begin(), side->seconds.end()) * 1e3,
        context.world.size() * sequences * 128 / step, rate / 1e9, gemm_rate / 1e9, 100 * rate / gemm_rate,
        static_cast<double>(usage.ru_maxrss) / 1e3,
        static_cast<double>(side->decoder.peak_bytes().total()) / 1e6,
        static_cast<double>(
            side->groups.expert_parallel->counters()[comm::Operation::all_to_all_v].bytes_sent) /
            (settings.repetitions + 3) / 1e6);
  }
  sides.clear();
  if (shared) shared->close();
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  Settings settings;
  if (argc > 1) settings.kind = argv[1];
  if (argc > 2) settings.sequences = std::atoi(argv[2]);
  if (argc > 3) settings.repetitions = std::atoi(argv[3]);
  if (argc > 4) settings.on_node = argv[4];
  if (argc > 5) settings.expert_parallel_size = std::atoi(argv[5]);
  return app::run_guarded(
      &argc, &argv,
      [&](comm::Communicator& world) {
        app::GuardOptions options;
        options.on_node = comm::choose_on_node(world, settings.on_node == "both" ? "mpi" : settings.on_node);
        return options;
      },
      [&](comm::ExecutionContext& context) { return run(context, settings); });
}
