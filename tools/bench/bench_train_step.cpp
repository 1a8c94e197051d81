// One optimizer step of the quickstart's model on all ranks, interleaved with a large matrix product, so that
// both rates come from the same run. Usage: mpirun -n 2 bench_train_step [pretrain|stage1|stage2] [sequences
// per rank] [repetitions] [comm.on_node, or both] [expert_parallel_size] [micro-steps]
// [train.reduce_every, or both]
//
// Useful FLOPs are those the stream counts (2 per multiply-add, causal attention at half); the share is
// useful FLOP/s of all ranks over the product's FLOP/s of all ranks measured at the same time. Medians over
// the repetitions. `both`: models under both settings take turns. For train.reduce_every that tells what the
// default, which has the same bits on every rank count, costs beside the other; the run then ends with what
// an expert costs that runs once per source instead of once.
//
// Memory: resident at the peak of three steps less resident before model and optimizer were made, beside what
// `plan` predicts for this configuration: for balanced routing, and with what is reserved for any. Of several
// models only the first is a fair measure; the others may get what it freed.
#include <fmt/core.h>
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "neuronmoe/app/run_guarded.hpp"
#include "neuronmoe/base/philox.hpp"
#include "neuronmoe/comm/mpi_communicator.hpp"
#include "neuronmoe/model/feed_forward.hpp"
#include "neuronmoe/ops/linear.hpp"
#include "neuronmoe/train/plan.hpp"
#include "neuronmoe/train/trainer.hpp"

using namespace nmoe;

namespace {

constexpr int warm_up = 3;  // memory grows to its high-water mark
constexpr int length = 128;

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

Tensor random_matrix(std::int64_t rows, std::int64_t columns, std::uint64_t seed) {
  Tensor matrix({rows, columns}, DType::float32);
  const Philox random(seed, RandomPurpose::synthetic);
  for (std::int64_t i = 0; i < rows * columns; ++i)
    matrix.data<float>()[i] = static_cast<float>(random.normal(static_cast<std::uint64_t>(i)));
  return matrix;
}

struct Options {
  std::string kind = "stage1", on_node = "auto", reduce_every = "micro_step";
  int sequences = 4, repetitions = 50, expert_parallel_size = 1, micro_steps = 1;

  train::PlanInput plan_input(int num_ranks) const {
    train::PlanInput input;
    input.kind = kind == "pretrain" ? train::RunKind::pretrain
                 : kind == "stage2" ? train::RunKind::stage2
                                    : train::RunKind::stage1;
    input.num_ranks = num_ranks;
    input.config.seq_length = length;
    input.config.micro_batch_size = sequences;
    input.config.global_batch_size = std::int64_t{sequences} * num_ranks * micro_steps;
    input.config.reduce_every =
        parse_enum<train::ReduceEvery>(reduce_every, ErrorCode::config, "train.reduce_every");
    input.config.expert_parallel_size = expert_parallel_size;
    input.config.expert_placement = model::ExpertHome::owned;
    model::ModelConfig& c = input.model;
    c.vocab_size = 4096;
    c.hidden_size = 128;
    c.intermediate_size = 344;
    c.num_layers = 8;
    c.num_attention_heads = 4;
    c.num_key_value_heads = 2;
    c.head_dim = 32;
    c.num_experts = input.kind == train::RunKind::pretrain ? std::vector<int>(8, 1)
                                                           : std::vector<int>{3, 1, 1, 1, 2, 3, 3, 4};
    return input;
  }
};

model::BatchBuilder random_batch(int sequences, int stream) {
  const Philox random(1, RandomPurpose::synthetic, static_cast<std::uint32_t>(stream));
  model::BatchBuilder builder;
  std::uint64_t draw = 0;
  for (int s = 0; s < sequences; ++s) {
    std::vector<std::int32_t> ids(length);
    for (auto& id : ids) id = static_cast<std::int32_t>(random.below(draw++, 4096));
    builder.add(ids, ids, std::vector<std::uint8_t>(length, s % 2 == 0 ? 1 : 0));
  }
  return builder;
}

/// Resident memory of this process by /proc, bytes: "VmRSS" now, "VmHWM" at most.
std::int64_t resident(const std::string& key) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with(key + ":")) return std::atoll(line.c_str() + key.size() + 1) * 1024;
  }
  return 0;
}
/// From now on VmHWM is the peak since this call.
void restart_peak() {
  std::ofstream("/proc/self/clear_refs") << "5";
}

/// Products of 1024 x 1024 matrices per rank, all ranks at once.
struct Product {
  static constexpr std::int64_t n = 1024;
  Tensor x = random_matrix(n, n, 3), w = random_matrix(n, n, 3), y = Tensor({n, n}, DType::float32);
  double seconds(comm::ExecutionContext& context) {
    context.world.barrier();
    const double start = now();
    for (int i = 0; i < 4; ++i) ops::linear_forward(y.view(), x.view(), w.view(), {}, context.stream);
    context.world.barrier();
    return (now() - start) / 4;
  }
  /// Each kind of product once, so that what the library keeps for itself is there before anything is
  /// counted.
  void load_library(Stream& stream) {
    ops::linear_forward(y.view(), x.view(), w.view(), {}, stream);
    ops::linear_backward_input(y.view(), x.view(), w.view(), true, stream);
    ops::linear_backward_weight(y.view(), x.view(), w.view(), stream);
  }
};

/// Model and optimizer under one setting, and what their steps took.
class Side {
 public:
  /// `the_name` tells it from others; `world` may be another communicator of the same ranks than the
  /// context's.
  Side(comm::ExecutionContext& context, comm::Communicator& world, const Options& options,
       std::string the_name)
      : input(options.plan_input(world.size())),
        name(std::move(the_name)),
        context_(context),
        groups_(world, options.expert_parallel_size),
        decoder_(input.model, DType::float32, train::trainables_of(input.kind),
                 groups_.experts(input.model.num_experts), context.stream) {
    decoder_.initialise_dense(1);
    decoder_.upcycle(1);
    optimizer_ = std::make_unique<train::ShardedOptimizer>(decoder_, groups_.layout, world,
                                                           *groups_.expert_data_parallel,
                                                           train::reduce_options(input.config, world.size()));
    train::reserve_step_memory(decoder_, input, context.world.rank());
    for (int i = 0; i < options.micro_steps; ++i)
      batches_.push_back(random_batch(options.sequences, i * context.world.size() + context.world.rank()));
  }

  void step(bool timed) {
    const model::LossScales scales{.lm = 1e-3,
                                   .balancing = input.kind == train::RunKind::stage1 ? 0.01 : 0.0,
                                   .lpr = input.kind == train::RunKind::stage2 ? 0.1 : 0.0};
    const std::int64_t before = context_.stream.flops();
    context_.world.barrier();
    const double start = now();
    for (std::size_t i = 0; i < batches_.size(); ++i) {
      optimizer_->begin_micro_step(static_cast<std::int64_t>(i), input.num_micro_batches());
      decoder_.forward_backward(batches_[i].batch(), scales);
    }
    optimizer_->finish_reduction(context_.stream);
    optimizer_->update({1e-4, 0.9, 0.999, 1e-8, 0.0, ++num_steps_, 1.0}, context_.stream);
    optimizer_->finish_gather();
    context_.world.barrier();
    flops = static_cast<double>(context_.stream.flops() - before);
    if (timed) seconds.push_back(now() - start);
    context_.heartbeat.beat();
  }

  void set_memory(std::int64_t resident_growth) {
    const train::MemoryPlan plan = train::plan_memory(input, context_.world.rank());
    const std::int64_t reserved = train::plan_reserved_memory(input, context_.world.rank()).total();
    std::int64_t state = 0, sums = 0, buffers = 0;
    for (const train::ShardGroup* group : optimizer_->groups()) {
      state += group->state_bytes();
      sums += group->gradient_bytes();
      buffers += group->buffer_bytes() + group->partial_sum_bytes();
    }
    const std::int64_t counted = decoder_.weight_bytes() + decoder_.gradient_bytes() + sums + state +
                                 decoder_.peak_bytes().total() + buffers;
    const auto mb = [](std::int64_t n) { return static_cast<double>(n) * 1e-6; };
    memory = fmt::format(
        "  memory of rank 0, MB planned/used: weights {:.1f}/{:.1f}, gradients {:.1f}/{:.1f}, "
        "optimizer {:.1f}/{:.1f}, activations {:.1f}/{:.1f}, messages and partial sums {:.1f}/{:.1f}, "
        "all {:.1f}/{:.1f} ({:.3f}); with what is reserved {:.1f}/{:.1f} resident ({:.3f})\n",
        mb(plan.weights), mb(decoder_.weight_bytes()), mb(plan.gradients + plan.gradient_sum),
        mb(decoder_.gradient_bytes() + sums), mb(plan.optimizer), mb(state), mb(plan.activations()),
        mb(decoder_.peak_bytes().total()), mb(plan.buffers + plan.partial_sums), mb(buffers),
        mb(plan.total()), mb(counted), mb(counted) / mb(plan.total()), mb(reserved), mb(resident_growth),
        mb(resident_growth) / mb(reserved));
  }

  /// Rows to and from experts of other ranks, sent in a step.
  double exchanged_bytes() const {
    return static_cast<double>(
               groups_.expert_parallel->counters()[comm::Operation::all_to_all_v].bytes_sent) /
           static_cast<double>(num_steps_);
  }

  train::PlanInput input;
  std::string name, memory;
  std::vector<double> seconds;
  double flops = 0;

 private:
  comm::ExecutionContext& context_;
  train::ParallelGroups groups_;
  model::Decoder decoder_;
  std::unique_ptr<train::ShardedOptimizer> optimizer_;
  std::vector<model::BatchBuilder> batches_;
  std::int64_t num_steps_ = 0;
};

/// An expert of the model, forward and backward over `rows`, at once and in pieces as they come from so many
/// sources; all ranks at once, taking turns.
void time_experts(comm::ExecutionContext& context, const model::ModelConfig& config, std::int64_t rows,
                  int repetitions) {
  const std::int64_t hidden = config.hidden_size, width = config.intermediate_size;
  Tensor gate = random_matrix(width, hidden, 5), up = random_matrix(width, hidden, 6),
         down = random_matrix(hidden, width, 7);
  Tensor dgate({width, hidden}, DType::float32), dup({width, hidden}, DType::float32),
      ddown({hidden, width}, DType::float32);
  const model::FeedForwardWeights weights{
      {gate.view(), dgate.view()}, {up.view(), dup.view()}, {down.view(), ddown.view()}};
  Tensor x = random_matrix(rows, hidden, 8), y({rows, hidden}, DType::float32),
         dx({rows, hidden}, DType::float32);
  std::vector<Tensor> wide;
  for (int i = 0; i < 7; ++i) wide.emplace_back(Shape{rows, width}, DType::float32);
  const auto piece = [&](std::int64_t first, std::int64_t count) {
    const auto of = [&](std::size_t i) { return wide[i].view().rows(first, count); };
    model::FeedForwardSaved saved{x.view().rows(first, count), of(0), of(1)};
    model::feed_forward_forward(y.view().rows(first, count), saved, of(2), weights, {}, context.stream);
    model::feed_forward_backward(dx.view().rows(first, count), y.view().rows(first, count), saved,
                                 {of(3), of(4), of(5), of(6)}, weights, context.stream);
  };
  const std::vector<int> sources = {1, 2, 4};
  std::vector<std::vector<double>> seconds(sources.size());
  for (int i = 0; i < repetitions + warm_up; ++i) {
    for (std::size_t s = 0; s < sources.size(); ++s) {
      context.world.barrier();
      const double start = now();
      for (int p = 0; p < sources[s]; ++p) piece(p * rows / sources[s], rows / sources[s]);
      if (i >= warm_up) seconds[s].push_back(now() - start);
    }
  }
  if (context.world.rank() != 0) return;
  fmt::print(
      "an expert, forward and backward, {} rows at once "
      "{:.3f} ms, from 2 sources {:.3f} x, from 4 {:.3f} x\n",
      rows, median(seconds[0]) * 1e3, median(seconds[1]) / median(seconds[0]),
      median(seconds[2]) / median(seconds[0]));
}

void report(const std::vector<std::unique_ptr<Side>>& sides, const Options& options, double gemm_rate) {
  for (const auto& side : sides) {
    const double seconds = median(side->seconds), rate = side->flops / seconds;
    const int ranks = side->input.num_ranks;
    fmt::print(
        "{}{}: {} ranks x {} micro-steps x {} sequences of {}: {:.1f} ms a "
        "step (min {:.1f}), {:.0f} tokens/s; per rank {:.1f} useful GF/s of "
        "{:.1f} GF/s GEMM = {:.0f} %; rows sent to and from experts {:.2f} MB\n",
        options.kind, side->name, ranks, options.micro_steps, options.sequences, length, seconds * 1e3,
        *std::min_element(side->seconds.begin(), side->seconds.end()) * 1e3,
        ranks * options.micro_steps * options.sequences * length / seconds, rate / 1e9, gemm_rate / 1e9,
        100 * rate / gemm_rate, side->exchanged_bytes() / 1e6);
    fmt::print("{}", side->memory);
    if (side != sides.front())
      fmt::print("time of the first / of this: {:.3f} (medians)\n", median(sides.front()->seconds) / seconds);
  }
}

int run(comm::ExecutionContext& context, Options options) {
  Product product;
  product.load_library(context.stream);
  const bool both_reductions = options.reduce_every == "both", both_ways = options.on_node == "both";
  std::vector<std::string> settings = {options.reduce_every};
  if (both_reductions)
    settings.assign(all_names<train::ReduceEvery>.begin(), all_names<train::ReduceEvery>.end());
  std::unique_ptr<comm::Communicator> shared;
  std::vector<std::pair<comm::Communicator*, std::string>> worlds = {
      {&context.world, both_ways ? ", mpi" : ""}};
  if (both_ways) {  // the world sends messages
    comm::MpiOptions mpi;
    mpi.on_node = comm::OnNode::shared;
    shared = comm::make_mpi_communicator(context.world.native(), mpi);
    worlds.emplace_back(shared.get(), ", shared");
  }
  std::vector<std::unique_ptr<Side>> sides;
  for (const auto& [world, way] : worlds) {
    for (const std::string& setting : settings) {
      options.reduce_every = setting;
      restart_peak();
      const std::int64_t before = resident("VmRSS");
      sides.push_back(std::make_unique<Side>(context, *world, options, way + ", reduce_every " + setting));
      for (int i = 0; i < warm_up; ++i) sides.back()->step(false);
      sides.back()->set_memory(resident("VmHWM") - before);
    }
  }
  std::vector<double> products;
  for (int i = 0; i < options.repetitions; ++i) {
    products.push_back(product.seconds(context));
    for (std::size_t s = 0; s < sides.size(); ++s)  // who goes first alternates
      sides[(s + static_cast<std::size_t>(i)) % sides.size()]->step(true);
  }
  const double cube = static_cast<double>(Product::n * Product::n * Product::n);
  if (context.world.rank() == 0) report(sides, options, 2.0 * cube / median(products));
  if (both_reductions) {
    // What an expert of a layer of three gets of two micro-batches with top-2.
    const std::int64_t rows = std::int64_t{2} * options.sequences * length * 2 / 3 / 4 * 4;
    time_experts(context, sides.front()->input.model, rows, options.repetitions);
  }
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  if (context.world.rank() == 0)
    fmt::print("peak of the process {:.0f} MB resident\n", static_cast<double>(usage.ru_maxrss) / 1e3);
  sides.clear();
  if (shared) shared->close();
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  if (argc > 1) options.kind = argv[1];
  if (argc > 2) options.sequences = std::atoi(argv[2]);
  if (argc > 3) options.repetitions = std::atoi(argv[3]);
  if (argc > 4) options.on_node = argv[4];
  if (argc > 5) options.expert_parallel_size = std::atoi(argv[5]);
  if (argc > 6) options.micro_steps = std::atoi(argv[6]);
  if (argc > 7) options.reduce_every = argv[7];
  return app::run_guarded(
      &argc, &argv,
      [&](comm::Communicator& world) {
        app::GuardOptions guard;
        std::optional<comm::OnNode> wanted;
        if (options.on_node == "both")
          wanted = comm::OnNode::mpi;
        else if (options.on_node != "auto")
          wanted = parse_enum<comm::OnNode>(options.on_node, ErrorCode::config, "comm.on_node");
        guard.on_node = comm::choose_on_node(world, wanted);
        return guard;
      },
      [&](comm::ExecutionContext& context) { return run(context, options); });
}
