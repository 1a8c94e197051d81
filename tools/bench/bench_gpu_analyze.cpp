// Neuron analysis of many languages on one GPU: random-initialised weights, synthetic sentences, everything
// `analyze` does between loading the model and writing neurons.h5.
//   bench_gpu_analyze MODEL [float32|bfloat16] [languages] [sentences per language] [batch tokens]
// MODEL is a config.json (configs/models/llama3.2-3b.json) or "toy". Sentences have 20 to 80 tokens. Prints
// the time of the forward passes alone, of the ranking alone on as many random neurons as an MLP is wide, and
// of the whole, beside the goal of 30 s.
#include <fmt/core.h>

#include <chrono>
#include <cmath>
#include <cstdlib>
#include <string>

#include "neuronmoe/analysis/neuron_analysis.hpp"
#include "neuronmoe/base/philox.hpp"
#include "neuronmoe/comm/communicator.hpp"
#include "neuronmoe/model/decoder.hpp"
#include "neuronmoe/tensor/device.hpp"

using namespace nmoe;

namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

struct Options {
  std::string model = "toy";
  DType dtype = DType::float32;
  int languages = 9;
  std::int64_t sentences = 500, batch_tokens = 16384;
};

model::ModelConfig model_of(const std::string& name) {
  if (name != "toy") return model::load_model_config(name);
  model::ModelConfig toy;
  toy.vocab_size = 96;
  toy.hidden_size = 32;
  toy.intermediate_size = 48;
  toy.num_layers = 2;
  toy.num_attention_heads = 2;
  toy.num_key_value_heads = 1;
  toy.head_dim = 16;
  toy.num_experts = {1, 1};
  return toy;
}

/// Norms 1; the rest a million normal numbers over and over, divided by the square root of the row length.
void fill_weights(model::Decoder& decoder) {
  constexpr std::int64_t period = 1 << 20;
  const Philox random(5, RandomPurpose::synthetic);
  std::vector<float> normal(static_cast<std::size_t>(period));
  for (std::size_t i = 0; i < normal.size(); ++i) normal[i] = static_cast<float>(random.normal(i));
  for (model::Parameter& p : decoder.parameters()) {
    const TensorView all = p.value.view().reshape({p.value.num_elements()});
    const bool is_norm = p.value.shape().rank() == 1;
    const float scale = is_norm ? 1.0F : 1.0F / std::sqrt(static_cast<float>(p.value.shape()[1]));
    const std::int64_t size = std::min(period, all.num_elements());
    Tensor piece({size}, all.dtype());
    for (std::int64_t i = 0; i < size; ++i) {
      const float value = is_norm ? 1.0F : scale * normal[static_cast<std::size_t>(i)];
      if (all.dtype() == DType::bfloat16)
        piece.data<bfloat16>()[i] = bfloat16(value);
      else
        piece.data<float>()[i] = value;
    }
    for (std::int64_t at = 0; at < all.num_elements(); at += size) {
      const std::int64_t count = std::min(size, all.num_elements() - at);
      copy(all.rows(at, count), piece.view().rows(0, count), decoder.stream());
    }
  }
  synchronize(decoder.stream());
}

/// Each language prefers its own tenth of the vocabulary, so that some neurons tell languages apart.
analysis::SampleSet sentences_of(const Options& options, std::int64_t vocab) {
  const Philox random(7, RandomPurpose::synthetic);
  analysis::SampleSet set;
  std::uint64_t draw = 0;
  const auto below = [&](std::int64_t bound) {
    return static_cast<std::int64_t>(random.below(draw++, static_cast<std::uint64_t>(bound)));
  };
  for (int g = 0; g < options.languages; ++g) {
    set.languages.push_back(fmt::format("l{}", g));
    std::int64_t tokens = 0;
    for (std::int64_t s = 0; s < options.sentences; ++s) {
      analysis::SampleSet::Sample sample{g, {}};
      const std::int64_t length = 20 + below(61), own = vocab / (options.languages + 1);
      for (std::int64_t t = 0; t < length; ++t)
        sample.ids.push_back(static_cast<std::int32_t>(below(2) == 0 ? g * own + below(own) : below(vocab)));
      tokens += length;
      set.samples.push_back(std::move(sample));
    }
    set.num_kept.push_back(options.sentences);
    set.num_dropped.push_back(0);
    set.num_tokens.push_back(tokens);
  }
  return set;
}

/// Wants nothing: the forward alone.
struct Nobody final : analysis::RoundObserver {
  bool wants(const model::ActivationSite&) const override { return false; }
  bool takes_device_values() const override { return true; }
  void observe(const model::ActivationSite&, ConstTensorView, ConstTensorView) override {}
  void begin_round(std::span<const std::int64_t>) override {}
  void end_round() override {}
};

double rank_seconds(const analysis::SampleSet& samples, std::int64_t rows, Stream& stream,
                    std::int64_t memory_bytes) {
  const Philox random(9, RandomPurpose::synthetic);
  std::vector<int> all;
  for (std::size_t g = 0; g < samples.languages.size(); ++g) all.push_back(static_cast<int>(g));
  const analysis::SampleRoles roles = samples.roles(all);
  std::vector<float> responses(static_cast<std::size_t>(rows * samples.size()));
#pragma omp parallel for schedule(static)
  for (std::size_t i = 0; i < responses.size(); ++i) responses[i] = static_cast<float>(random.normal(i));
  std::vector<analysis::NeuronScore> scores(static_cast<std::size_t>(rows) * samples.languages.size());
  double last = 0.0;
  for (int round = 0; round < 2; ++round) {  // the first one allocates
    const auto start = Clock::now();
    analysis::score_rows({stream, memory_bytes}, responses, roles, scores);
    last = seconds_since(start);
  }
  return last;
}

void run(const Options& options) {
  const CudaDevice device = select_cuda_device(0);
  OwnedStream owned(Device::cuda);
  Stream& stream = owned.stream();
  const auto world = comm::make_local_communicator();
  const Logger log(0, true);
  comm::Heartbeat heartbeat;
  comm::ExecutionContext context{*world, Device::cuda, stream, log, heartbeat};
  const model::ModelConfig config = model_of(options.model);
  model::Decoder decoder(config, options.dtype, model::TrainableSet::none,
                         {*world, model::ExpertPlacement(config.num_experts, 1)}, stream);
  fill_weights(decoder);
  const analysis::SampleSet samples = sentences_of(options, config.vocab_size);
  const analysis::ObserveFunction forward = [&](const model::Batch& batch,
                                                model::ActivationObserver& observer) {
    decoder.observe(batch, observer);
  };
  std::int64_t tokens = 0;
  for (const std::int64_t count : samples.num_tokens) tokens += count;
  analysis::AnalysisConfig analysis_config;
  analysis_config.batch_tokens = options.batch_tokens;
  const analysis::ModuleTable modules(config);
  const std::int64_t response_bytes = modules.num_neurons() * samples.size() * 4;
  analysis_config.memory_mb = response_bytes / 1'000'000 + 1;  // one pass over the sentences

  Nobody nobody;
  double forward_s = 0.0;
  for (int round = 0; round < 2; ++round) {  // the first one makes cuBLASLt choose and memory grow
    const auto start = Clock::now();
    analysis::run_sense_pass(context, samples, options.batch_tokens, false, forward, nobody);
    synchronize(stream);
    forward_s = seconds_since(start);
  }
  const double rank_s =
      rank_seconds(samples, config.intermediate_size, stream, analysis_config.memory_mb * 1'000'000);
  const auto start = Clock::now();
  const auto statistics = analysis::analyse_neurons(context, analysis_config, config, samples, forward);
  const double whole_s = seconds_since(start);
  fmt::print("{}: {} {}, {} neurons, {} samples in {} languages, {} tokens, batches of {} tokens\n",
             device.name, options.model, name_of(options.dtype), statistics.modules.num_neurons(),
             samples.size(), samples.languages.size(), tokens, options.batch_tokens);
  fmt::print("forward alone               {:>8.2f} s {:>10.0f} tokens/s\n", forward_s,
             static_cast<double>(tokens) / forward_s);
  fmt::print(
      "ranking of {:>6} neurons   {:>8.3f} s {:>10.0f} neurons/s, {:.2f} s for all\n",
      config.intermediate_size, rank_s, static_cast<double>(config.intermediate_size) / rank_s,
      rank_s * static_cast<double>(modules.num_neurons()) / static_cast<double>(config.intermediate_size));
  fmt::print("analysis, load and write apart {:>5.2f} s (goal 30)\n", whole_s);
  double best = 0.0;
  for (const double ap : statistics.ap[0]) best = std::max(best, ap);
  fmt::print("best AP of the first language {:.4f}\n", best);
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  if (argc > 1) options.model = argv[1];
  if (argc > 3) options.languages = std::atoi(argv[3]);
  if (argc > 4) options.sentences = std::atoll(argv[4]);
  if (argc > 5) options.batch_tokens = std::atoll(argv[5]);
  try {
    if (argc > 2) options.dtype = parse_enum<DType>(argv[2], ErrorCode::config, "dtype");
    run(options);
  } catch (const Error& error) {
    fmt::print(stderr, "bench_gpu_analyze: {}\n", error.what());
    return exit_code(error.code());
  }
  return 0;
}
