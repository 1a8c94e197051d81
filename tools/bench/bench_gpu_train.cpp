// Optimizer steps of a randomly initialised model on one GPU, interleaved with a large matrix product, so
// that both rates come from the same run (docs/performance.md). Usage: bench_gpu_train model=config.json
// experts=experts.cfg [stage=1|2] [routing=balanced|skewed]
//   [sequences=32] [length=1024] [steps=10] [warm_up=3] [gemm=8192] [device=cuda|cpu]
//
// Useful FLOPs are those the stream counts (2 per multiply-add, causal attention at half, nothing computed
// twice). One micro-batch is one step, so each pays for clipping and AdamW. Medians over the steps.
#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <map>
#include <string>
#include <vector>

#include "neuronmoe/app/run_guarded.hpp"
#include "neuronmoe/base/philox.hpp"
#include "neuronmoe/ops/linear.hpp"
#include "neuronmoe/ops/transformer.hpp"
#include "neuronmoe/tensor/device.hpp"
#include "neuronmoe/train/run_accounts.hpp"
#include "neuronmoe/train/trainer.hpp"

using namespace nmoe;

namespace {

constexpr double tokens_of_the_run = 1.966e9;  // 15,000 steps of 4 x 32 x 1024 tokens

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

struct Options {
  std::map<std::string, std::string> given;
  std::string text(const std::string& key, const std::string& otherwise) const {
    const auto found = given.find(key);
    return found == given.end() ? otherwise : found->second;
  }
  std::int64_t number(const std::string& key, std::int64_t otherwise) const {
    return std::atoll(text(key, std::to_string(otherwise)).c_str());
  }
};

/// Normal noise of deviation 0.02, handed out piece after piece from one block, so that billions of weights
/// need seconds.
class Noise {
 public:
  Noise() : block_({size}, DType::bfloat16) {
    const Philox random(1, RandomPurpose::synthetic);
    for (std::int64_t i = 0; i < size; ++i)
      block_.data<bfloat16>()[i] =
          bfloat16(static_cast<float>(0.02 * random.normal(static_cast<std::uint64_t>(i))));
  }
  void fill(TensorView values, Stream& stream) {
    const TensorView all = values.reshape({values.num_elements()});
    for (std::int64_t done = 0; done < all.num_elements();) {
      const std::int64_t count = std::min(size - at_, all.num_elements() - done);
      copy(all.rows(done, count), block_.view().rows(at_, count), stream);
      done += count;
      at_ = (at_ + count + 12347) % size;  // no two tensors alike
    }
  }

 private:
  static constexpr std::int64_t size = std::int64_t{1} << 22;
  Tensor block_;
  std::int64_t at_ = 0;
};

/// The first `common` columns of a matrix on the device become `value(row)`.
template <typename F>
void set_columns(TensorView matrix, std::int64_t common, Stream& stream, F&& value) {
  Tensor host = copied_to(Device::cpu, matrix, stream);
  for (std::int64_t row = 0; row < matrix.dim(0); ++row) {
    for (std::int64_t i = 0; i < common; ++i)
      host.data<bfloat16>()[row * matrix.dim(1) + i] = bfloat16(static_cast<float>(value(row)));
  }
  copy(matrix, host.view(), stream);
}

/// Random weights. `skewed`: all embeddings share a direction along which routers prefer experts like
/// 1 / rank, the base last.
void initialise(model::Decoder& decoder, bool skewed) {
  Noise noise;
  Stream& stream = decoder.stream();
  for (model::Parameter& p : decoder.parameters()) {
    if (p.name.ends_with("norm.weight")) {
      ops::fill(p.value.view(), 1.0, stream);
    } else {
      noise.fill(p.value.view(), stream);
    }
  }
  if (!skewed) return;
  const std::int64_t common = std::min<std::int64_t>(16, decoder.config().hidden_size / 4);
  for (model::Parameter& p : decoder.parameters()) {
    if (p.name == "model.embed_tokens.weight")
      set_columns(p.value.view(), common, stream, [](std::int64_t) { return 8.0; });
    if (!p.is_router()) continue;
    const std::int64_t experts = p.shape[0];
    set_columns(p.value.view(), common, stream, [&](std::int64_t e) {
      const double rank = static_cast<double>(e == 0 ? experts : e);
      return -0.5 * std::log(rank) / static_cast<double>(common);
    });
  }
}

model::BatchBuilder random_batch(std::int64_t sequences, std::int64_t length, std::int64_t vocab) {
  const Philox random(2, RandomPurpose::synthetic);
  model::BatchBuilder builder;
  std::uint64_t draw = 0;
  for (std::int64_t s = 0; s < sequences; ++s) {
    std::vector<std::int32_t> ids(static_cast<std::size_t>(length));
    for (auto& id : ids)
      id = static_cast<std::int32_t>(random.below(draw++, static_cast<std::uint64_t>(vocab)));
    builder.add(ids, ids, std::vector<std::uint8_t>(ids.size(), s % 2 == 0 ? 1 : 0));
  }
  return builder;
}

/// Random square matrices in bfloat16 and the seconds of their product.
struct Product {
  Tensor x, w, y;
  Product(std::int64_t n, Stream& stream)
      : x({n, n}, DType::bfloat16, stream.device()),
        w({n, n}, DType::bfloat16, stream.device()),
        y({n, n}, DType::bfloat16, stream.device()) {
    Noise noise;
    noise.fill(x.view(), stream);
    noise.fill(w.view(), stream);
  }
  double seconds(Stream& stream) {
    constexpr int times = 20;
    synchronize(stream);
    const double start = now();
    for (int i = 0; i < times; ++i) ops::linear_forward(y.view(), x.view(), w.view(), {}, stream);
    synchronize(stream);
    return (now() - start) / times;
  }
};

/// Largest load of an expert over the mean of its layer, over all layers where routing has a choice.
double largest_load(const model::Decoder& decoder) {
  double largest = 1.0;
  for (const auto& slots : decoder.routed_slots()) {
    std::int64_t total = 0, most = 0;
    for (const std::int64_t n : slots) {
      total += n;
      most = std::max(most, n);
    }
    if (static_cast<int>(slots.size()) > decoder.config().top_k && total > 0)
      largest = std::max(largest, static_cast<double>(most) * static_cast<double>(slots.size()) /
                                      static_cast<double>(total));
  }
  return largest;
}

/// `libraries`: bytes of the GPU in use that are none of our allocations.
void print_memory(const train::MemoryPlan& plan, const DeviceMemory& memory, std::int64_t libraries) {
  fmt::print(
      "  memory: planned {:.2f} GB, allocated at most {:.2f} "
      "GB = {:.3f} x plan; {} allocations after warm-up\n",
      static_cast<double>(plan.total()) / 1e9, static_cast<double>(memory.peak) / 1e9,
      static_cast<double>(memory.peak) / static_cast<double>(plan.total()), memory.num_allocations);
  fmt::print(
      "  by cudaMemGetInfo: {:.2f} GB beside what was allocated (context, libraries, other processes), "
      "{:.2f} GB in all = {:.3f} x plan\n",
      static_cast<double>(libraries) / 1e9, static_cast<double>(memory.peak + libraries) / 1e9,
      static_cast<double>(memory.peak + libraries) / static_cast<double>(plan.total()));
}

int run(comm::ExecutionContext& context, const Options& options) {
  const bool stage1 = options.number("stage", 1) == 1;
  const std::string routing = options.text("routing", "balanced");
  Stream& stream = context.stream;
  train::PlanInput input;
  input.model = model::load_model_config(options.text("model", "configs/models/llama3.2-3b.json"));
  input.model.num_experts = model::load_expert_counts(
      options.text("experts", "configs/experts/llama3.2-3b-el.cfg"), input.model.num_layers);
  input.kind = stage1 ? train::RunKind::stage1 : train::RunKind::stage2;
  input.config.dtype = DType::bfloat16;
  input.config.seq_length = options.number("length", 1024);
  input.config.micro_batch_size = input.config.global_batch_size = options.number("sequences", 32);
  input.model.top_k = input.config.top_k;
  const train::ParallelGroups groups(context.world, 1);
  model::Decoder decoder(input.model, DType::bfloat16, train::trainables_of(input.kind),
                         groups.experts(input.model.num_experts), stream);
  initialise(decoder, routing == "skewed");
  train::reserve_step_memory(decoder, input, 0);
  train::ShardedOptimizer optimizer(decoder, groups.layout, context.world, *groups.expert_data_parallel,
                                    train::reduce_options(input.config, 1));
  const std::int64_t tokens = input.tokens_per_micro_batch();
  const model::BatchBuilder builder =
      random_batch(input.config.micro_batch_size, input.config.seq_length, input.model.vocab_size);
  const model::LossScales scales{
      .lm = 1.0 / static_cast<double>(tokens), .balancing = stage1 ? 0.01 : 0.0, .lpr = stage1 ? 0.0 : 0.1};
  const std::int64_t n = options.number("gemm", 8192), num_steps = options.number("steps", 10),
                     warm_up = options.number("warm_up", 3);
  std::vector<double> steps, products;
  double flops = 0, loss = 0;
  std::int64_t allocations = 0, libraries = 0;
  DeviceMemory memory;
  {
    Product product(n, stream);
    const std::int64_t beside = 3 * product.x.view().num_bytes();
    for (std::int64_t i = 0; i < num_steps + warm_up; ++i) {
      const double gemm_seconds = product.seconds(stream);
      const std::int64_t before = stream.flops();
      const double start = now();
      optimizer.begin_micro_step(0, 1);
      const model::Losses losses = decoder.forward_backward(builder.batch(), scales);
      const double norm = optimizer.finish_reduction(stream);
      optimizer.update({1e-4, 0.9, 0.999, 1e-8, 0.0, i + 1, std::min(1.0, 1.0 / norm)}, stream);
      optimizer.finish_gather();
      synchronize(stream);
      const double seconds = now() - start;
      context.heartbeat.beat();
      NMOE_CHECK(std::isfinite(norm) && std::isfinite(losses.lm_sum), nan_limit, "loss {}, norm {}",
                 losses.lm_sum, norm);
      if (i + 1 == warm_up) allocations = device_memory().num_allocations;
      if (i < warm_up) continue;
      steps.push_back(seconds);
      products.push_back(gemm_seconds);
      flops = static_cast<double>(stream.flops() - before);
      loss = losses.lm_sum / static_cast<double>(losses.num_labels);
    }
    memory = device_memory();
    if (memory.num_allocations > 0) {
      const CardMemory card = card_memory();
      libraries = card.total - card.free - memory.in_use;
    }
    memory.peak -= beside;
    memory.num_allocations -= allocations;
  }
  const double cube = static_cast<double>(n) * static_cast<double>(n) * static_cast<double>(n);
  const double gemm_rate = 2.0 * cube / median(products), rate = flops / median(steps);
  const double tokens_per_s = static_cast<double>(tokens) / median(steps);
  fmt::print(
      "{} stage {} {}: {} x {} tokens: {:.1f} ms a step (min {:.1f}), "
      "{:.0f} tokens/s, {:.1f} GPU-hours for 1.966 G tokens\n",
      options.text("model", "llama3.2-3b"), stage1 ? 1 : 2, routing, input.config.micro_batch_size,
      input.config.seq_length, median(steps) * 1e3, *std::min_element(steps.begin(), steps.end()) * 1e3,
      tokens_per_s, tokens_of_the_run / tokens_per_s / 3600.0);
  fmt::print(
      "  useful {:.1f} TFLOP/s of {:.1f} TFLOP/s of a {}^3 product "
      "= {:.1f} %; largest load {:.2f} x mean; loss {:.3f}\n",
      rate / 1e12, gemm_rate / 1e12, n, 100.0 * rate / gemm_rate, largest_load(decoder), loss);
  print_memory(train::plan_memory(input, 0), memory, libraries);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    const auto at = argument.find('=');
    if (at != std::string::npos) options.given[argument.substr(0, at)] = argument.substr(at + 1);
  }
  return app::run_guarded(
      &argc, &argv, app::GuardOptions{}.watchdog_s,
      [&](comm::Communicator&) {
        app::GuardOptions guard;
        guard.device = parse_enum<Device>(options.text("device", "cuda"), ErrorCode::config, "device");
        return guard;
      },
      [&](comm::ExecutionContext& context) { return run(context, options); });
}
