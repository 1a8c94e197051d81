#pragma once
// One form of a model into another: Hugging Face directory, checkpoint, PEFT-MoE adapter (METHOD 5). Called
// by `neuronmoe convert`.
#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "neuronmoe/comm/communicator.hpp"

namespace nmoe::model {

enum class ModelForm { huggingface, checkpoint, adapter, transformers, transformers_code };
constexpr auto enum_names(ModelForm) {
  return std::to_array<EnumName<ModelForm>>({{ModelForm::checkpoint, "checkpoint"},
                                             {ModelForm::huggingface, "huggingface"},
                                             {ModelForm::adapter, "adapter"},
                                             {ModelForm::transformers, "transformers"},
                                             {ModelForm::transformers_code, "transformers-code"}});
}
/// Returns whether a form is a whole mixture that transformers loads.
constexpr bool is_for_transformers(ModelForm form) {
  return form == ModelForm::transformers || form == ModelForm::transformers_code;
}

struct Conversion {
  std::string input;  ///< Hugging Face directory, step directory, adapter directory
  ModelForm from, to;
  /// Dense base: of adapters always; of checkpoints without their own config.json it replaces the one they
  /// name.
  std::string base;
  std::string output;          ///< directory to make; absent or empty
  std::optional<DType> dtype;  ///< of the tensors written; nothing = as they are
  std::int64_t max_shard_bytes = 5'000'000'000;
  bool release_router = false;  ///< of adapters that do not say themselves (router.compat = release)
  std::string version;          ///< of the program, for the manifest and the model card
  std::string origin;           ///< for the model card: how a checkpoint came to be, "" if not known
  std::function<void()> beat;   ///< called while bytes move, for the watchdog
};

/// Converts a model. Dense models: Hugging Face ⇄ checkpoint, and Hugging Face → Hugging Face for other
/// shards or element types; tensors keep their bytes unless `dtype` says otherwise, and every other file of
/// the directory (config.json, tokenizer, license) goes along. Mixtures of experts: checkpoint ⇄ adapter, and
/// either → transformers (padded to a class that it has) or transformers-code (in its own size, with the
/// Python that runs it), both with tokenizer, license and a model card. Streamed: a rank holds tens of MiB.
/// `output` appears whole or not at all. Returns one line on what was written. Collective.
/// @throws Error(bad_data|config|io|no_space), the same on every rank
std::string convert_model(comm::Communicator& comm, const Conversion& conversion);

}  // namespace nmoe::model
