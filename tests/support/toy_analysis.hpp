#pragma once
// Three toy languages and the dense model that is measured on them, for tests of analyze.
#include "neuronmoe/analysis/selection.hpp"
#include "support/fake_analysis.hpp"

namespace nmoe::test {

/// Samples of three toy languages, of uneven number and length; some are dropped for theirs.
inline analysis::SampleSet toy_samples(int per_language = 23, bool bos = true) {
  std::vector<analysis::SensePool> pools;
  const char* names[] = {"en", "el", "tr"};
  for (int g = 0; g < 3; ++g) pools.push_back({names[g], "toy", "none", toy_sentences(g, per_language + g)});
  const ByteTokenizer tokenizer(bos);
  return analysis::tokenize_pools(pools, tokenizer, 29);
}

/// The dense toy model: every module of the table and the MLP input.
inline analysis::ObserveFunction dense_model(const model::ModelConfig& config) {
  return [config](const model::Batch& batch, model::ActivationObserver& observer) {
    const auto rows = rows_of(batch);
    const analysis::ModuleTable table(config);
    for (const auto& module : table.modules())
      offer(observer, {module.layer, module.projection, -1}, module.width, rows);
    for (int l = 0; l < config.num_layers; ++l)
      offer(observer, {l, model::Projection::mlp_input, -1}, config.hidden_size, rows);
  };
}

}  // namespace nmoe::test
