#pragma once
// A model and a tokenizer that are pure arithmetic, for tests of analysis and evaluation: what a token does
// at a site depends on its id and position alone, so expected values can be computed beside them.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <string>
#include <vector>

#include "neuronmoe/analysis/sense.hpp"
#include "neuronmoe/comm/execution_context.hpp"
#include "neuronmoe/model/config.hpp"

namespace nmoe::test {

/// One token per byte.
class ByteTokenizer : public data::Tokenizer {
 public:
  explicit ByteTokenizer(bool bos = false) : Tokenizer("bytes", "none"), bos_{bos ? 256 : -1, "bytes"} {}
  std::vector<std::int32_t> encode(std::string_view text) const override {
    std::vector<std::int32_t> ids;
    for (const char c : text) ids.push_back(static_cast<unsigned char>(c));
    return ids;
  }
  std::string decode(std::span<const std::int32_t>) const override { return {}; }
  std::int64_t vocab_size() const override { return 258; }
  std::int32_t bos_id() const override { return 256; }
  std::int32_t eos_id() const override { return 257; }
  std::string token(std::int32_t) const override { return {}; }
  const data::BosRule& bos_rule() const override { return bos_; }
  std::string name() const override { return "bytes"; }

 private:
  data::BosRule bos_;
};

/// The shape of the model that fake_value stands for.
inline model::ModelConfig fake_config(std::vector<int> num_experts) {
  model::ModelConfig config;
  config.num_layers = static_cast<int>(num_experts.size());
  config.hidden_size = 6;
  config.intermediate_size = 10;
  config.num_attention_heads = 3;
  config.num_key_value_heads = 1;
  config.head_dim = 3;
  config.vocab_size = 258;
  config.num_experts = std::move(num_experts);
  return config;
}

/// Activation of one unit for one token: smooth, of both signs, with exact ties between some units' tokens.
inline float fake_value(const model::ActivationSite& site, std::int64_t unit, std::int32_t id,
                        std::int64_t position) {
  if (unit == 1) return static_cast<float>(id % 3);  // many ties
  const double phase = 0.37 * static_cast<double>(id) + 1.7 * static_cast<double>(unit) + site.layer +
                       0.9 * static_cast<int>(site.projection) + 0.05 * static_cast<double>(position) +
                       0.61 * site.expert;
  return static_cast<float>(std::sin(phase));
}

/// Reports `rows` of a site as the decoder would. Rows are (id, position, sample).
struct FakeRow {
  std::int32_t id;
  std::int32_t position, sample;
};
inline void offer(model::ActivationObserver& observer, const model::ActivationSite& site, std::int64_t width,
                  const std::vector<FakeRow>& rows) {
  if (!observer.wants(site)) return;
  std::vector<float> values;
  std::vector<std::int32_t> samples;
  for (const auto& row : rows) {
    samples.push_back(row.sample);
    for (std::int64_t u = 0; u < width; ++u) values.push_back(fake_value(site, u, row.id, row.position));
  }
  const auto count = static_cast<std::int64_t>(rows.size());
  observer.observe(site, ConstTensorView(values.data(), DType::float32, {count, width}),
                   ConstTensorView(samples.data(), DType::int32, {count}));
}

inline std::vector<FakeRow> rows_of(const model::Batch& batch) {
  std::vector<FakeRow> rows;
  for (std::size_t b = 0; b + 1 < batch.offsets.size(); ++b)
    for (std::int64_t t = batch.offsets[b]; t < batch.offsets[b + 1]; ++t)
      rows.push_back({batch.ids.data<std::int32_t>()[t], static_cast<std::int32_t>(t - batch.offsets[b]),
                      batch.row_sample.data<std::int32_t>()[t]});
  return rows;
}

/// Everything an ExecutionContext refers to, around a communicator.
struct TestContext {
  explicit TestContext(comm::Communicator& communicator)
      : log(communicator.rank(), true), context{communicator, Device::cpu, stream, log, heartbeat} {}
  Stream stream;
  Logger log;
  comm::Heartbeat heartbeat;
  comm::ExecutionContext context;
};

/// Sentences of a toy language: letters from its own part of the alphabet, mixed with common ones, 1 to 30
/// long.
inline std::vector<std::string> toy_sentences(int language, int count) {
  std::vector<std::string> sentences;
  for (int i = 0; i < count; ++i) {
    std::string text;
    const int length = 1 + (i * 7 + language * 3) % 30;
    for (int t = 0; t < length; ++t) {
      const int x = i * 31 + t * 17 + language * 5;
      text += static_cast<char>(x % 4 == 0 ? 'A' + x % 7 : 'a' + 2 * language + x % 8);
    }
    sentences.push_back(text);
  }
  return sentences;
}

}  // namespace nmoe::test
