// Log-probability and greedy continuation of token ids under a model, by the decoder alone: what stories.py
// compares with the golden numbers of a real model and tools/check_adapter.py with PyTorch. Usage:
// greedy_tokens MODEL_DIR CHECKPOINT_DIR|none NUM_IDS ID ID ...
#include <fmt/format.h>

#include <algorithm>
#include <string>
#include <vector>

#include "neuronmoe/model/checkpoint_weights.hpp"
#include "neuronmoe/model/hf_model.hpp"

using namespace nmoe;

namespace {

Tensor logits_of(model::Decoder& decoder, const std::vector<std::int32_t>& ids,
                 const std::vector<std::int32_t>& labels) {
  model::BatchBuilder builder;
  builder.add(ids, labels, std::vector<std::uint8_t>(ids.size(), 0));
  return decoder.logits(builder.batch());
}

void print_first(const char* name, const Tensor& logits, std::int64_t row) {
  constexpr int num_shown = 8;
  const float* const first = logits.data<float>() + row * logits.shape()[1];
  fmt::print("{} {:.9g}\n", name, fmt::join(first, first + num_shown, " "));
}

}  // namespace

int main(int argc, char** argv) {
  try {
    NMOE_CHECK(argc >= 5, config, "usage: greedy_tokens MODEL_DIR CHECKPOINT_DIR|none NUM_IDS ID ID ...");
    const std::string directory = argv[1], checkpoint = argv[2];
    const bool mixture = checkpoint != "none";
    const auto num_ids = static_cast<std::size_t>(std::stoul(argv[3]));
    std::vector<std::int32_t> ids;
    for (int i = 4; i < argc; ++i) ids.push_back(std::stoi(argv[i]));
    model::ModelConfig config = model::load_model_config(directory + "/config.json");
    model::require_dense_weights(config, directory);
    if (mixture) config = model::apply_checkpoint_config(config, checkpoint);
    const auto comm = comm::make_local_communicator();
    Stream stream;
    model::Decoder decoder(config, DType::float32, model::TrainableSet::none,
                           {*comm, model::ExpertPlacement(config.num_experts, 1)}, stream);
    model::load_dense_weights(decoder, directory);
    if (mixture) model::load_checkpoint_weights(decoder, checkpoint);

    std::vector<std::int32_t> labels(ids.begin() + 1, ids.end());
    labels.push_back(-100);
    model::BatchBuilder builder;
    builder.add(ids, labels, std::vector<std::uint8_t>(ids.size(), 0));
    double sum = 0.0;
    for (const double log_prob : decoder.token_log_probs(builder.batch())) sum += log_prob;
    fmt::print("sum_logprob {:.12g}\n", sum);
    const Tensor prompt = logits_of(decoder, ids, labels);
    print_first("first", prompt, 0);
    print_first("last", prompt, static_cast<std::int64_t>(ids.size()) - 1);
    while (ids.size() < num_ids) {
      const Tensor logits = logits_of(decoder, ids, std::vector<std::int32_t>(ids.size(), -100));
      const std::int64_t vocab = logits.shape()[1];
      const float* const row = logits.data<float>() + (logits.shape()[0] - 1) * vocab;
      ids.push_back(static_cast<std::int32_t>(std::max_element(row, row + vocab) - row));
    }
    fmt::print("greedy {}\n", fmt::join(ids, " "));
  } catch (const std::exception& e) {
    fmt::print(stderr, "greedy_tokens: {}\n", e.what());
    return 1;
  }
  return 0;
}
