#pragma once
// Models of a few hundred parameters and the batches to go with them. Used by the model, train and evaluation
// tests.
#include <cstdint>
#include <vector>

#include "neuronmoe/base/philox.hpp"
#include "neuronmoe/comm/communicator.hpp"
#include "neuronmoe/model/decoder.hpp"

namespace nmoe::test {

inline model::ModelConfig tiny_config(std::vector<int> num_experts) {
  model::ModelConfig config;
  config.vocab_size = 19;
  config.hidden_size = 8;
  config.intermediate_size = 12;
  config.num_layers = static_cast<int>(num_experts.size());
  config.num_attention_heads = 4;
  config.num_key_value_heads = 2;
  config.head_dim = 4;
  config.max_position_embeddings = 64;
  config.eos_token_id = 2;
  config.num_experts = std::move(num_experts);
  return config;
}

/// A decoder on one rank; owns what it refers to.
struct LocalDecoder {
  std::unique_ptr<comm::Communicator> comm = comm::make_local_communicator();
  Stream stream;
  model::Decoder decoder;

  LocalDecoder(const model::ModelConfig& config, DType dtype, model::TrainableSet trainable,
               std::uint64_t seed = 1)
      : decoder(config, dtype, trainable, {*comm, model::ExpertPlacement(config.num_experts, 1)}, stream) {
    decoder.initialise_dense(seed);
    decoder.upcycle(seed);
  }
};

/// Adds normal noise to every parameter, a function of (seed, name order), so that experts differ and nothing
/// is symmetric.
inline void perturb(model::Decoder& decoder, std::uint64_t seed, double scale) {
  std::uint32_t stream = 0;
  for (model::Parameter& p : decoder.parameters()) {
    const Philox random(seed, RandomPurpose::test, ++stream);
    if (!p.held()) continue;
    for (std::int64_t i = 0; i < p.shape.num_elements(); ++i) {
      const double noise = scale * random.normal(static_cast<std::uint64_t>(i));
      if (p.value.dtype() == DType::float64) {
        p.value.data<double>()[i] += noise;
      } else {
        p.value.data<float>()[i] += static_cast<float>(noise);
      }
    }
  }
}

/// Sequences of the given lengths with random ids; the last label of each and every fifth one are ignored;
/// every second sequence is in an old language.
inline model::BatchBuilder random_batch(const std::vector<int>& lengths, std::int64_t vocab,
                                        std::uint64_t seed) {
  model::BatchBuilder builder;
  const Philox random(seed, RandomPurpose::test, 77);
  std::uint64_t draw = 0;
  for (std::size_t s = 0; s < lengths.size(); ++s) {
    const auto length = static_cast<std::size_t>(lengths[s]);
    std::vector<std::int32_t> ids(length), labels(length, -100);
    for (auto& id : ids)
      id = static_cast<std::int32_t>(random.below(draw++, static_cast<std::uint64_t>(vocab)));
    for (std::size_t i = 0; i + 1 < length; ++i) labels[i] = i % 5 == 4 ? -100 : ids[i + 1];
    builder.add(ids, labels, std::vector<std::uint8_t>(length, s % 2 == 0 ? 1 : 0),
                static_cast<std::int32_t>(s));
  }
  return builder;
}

}  // namespace nmoe::test
