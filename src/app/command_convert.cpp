// neuronmoe convert DIR: Hugging Face directories, checkpoints and PEFT-MoE adapters into each other.
#include <filesystem>

#include "commands.hpp"
#include "model_setup.hpp"
#include "neuronmoe/app/ini.hpp"
#include "neuronmoe/app/version.hpp"
#include "neuronmoe/base/error.hpp"
#include "neuronmoe/model/convert.hpp"
#include "neuronmoe/train/checkpoint.hpp"
#include "value.hpp"

namespace nmoe::app {
namespace {

namespace fs = std::filesystem;

/// What the files in `path` say it is. A run directory or a step counts as checkpoint.
model::ModelForm detect_form(const std::string& path) {
  NMOE_CHECK(fs::is_directory(path), bad_data, "{}: there is no such directory", path);
  const auto has = [&](const char* name) { return fs::exists(fs::path(path) / name); };
  if (has("manifest.json")) return model::ModelForm::checkpoint;
  if (has("adapter_config.json")) return model::ModelForm::adapter;
  if (has("model.safetensors") || has("model.safetensors.index.json")) return model::ModelForm::huggingface;
  NMOE_CHECK(!has("pytorch_model.bin") && !has("pytorch_model.bin.index.json"), bad_data,
             "{}: its weights are Python pickles (pytorch_model.bin), "
             "which are never read; save them as safetensors in Python",
             path);
  return model::ModelForm::checkpoint;  // a run directory, or an error that says what was looked for
}

/// For a model card: stage, data sets and step of the run that a step directory belongs to; "" for a
/// checkpoint that convert made, which no run has.
std::string origin_of(const std::string& step_dir) {
  if (!fs::exists(fs::path(step_dir) / "state.h5")) return "";
  std::string stage, marks;
  for (const Assignment& a : parse_ini(train::stored_config(step_dir), step_dir)) {
    if (a.key == "train.stage") stage = a.value;
    if (a.key.starts_with("data.") && a.key.ends_with(".mark"))
      marks += (marks.empty() ? "" : ", ") + a.key.substr(5, a.key.size() - 10) + " (" + a.value + ")";
  }
  return "Trained in stage " + stage +
         (marks.empty() ? "" : "; languages, as its data sets are named: " + marks) + "; checkpoint " +
         fs::path(step_dir).filename().string() + ".";
}

}  // namespace

int run_convert(comm::ExecutionContext& context, const AppConfig& config) {
  const std::string form =
      on_rank_zero(context, [&] { return std::string(name_of(detect_form(config.run.input))); });
  model::Conversion conversion;
  conversion.from = find_enum<model::ModelForm>(form).value();
  conversion.to = *config.convert.to;
  conversion.input = conversion.from == model::ModelForm::checkpoint
                         ? resolve_checkpoint(context, config.run.input)
                         : config.run.input;
  conversion.base = config.run.model;
  require_same_directory(context, conversion.input);
  if (!conversion.base.empty()) require_same_directory(context, conversion.base);
  conversion.output = config.run.output;
  while (conversion.output.size() > 1 && conversion.output.ends_with('/')) conversion.output.pop_back();
  conversion.dtype = config.convert.dtype;
  conversion.max_shard_bytes = config.convert.max_shard_bytes;
  conversion.release_router = config.train.router_compat == model::RouterCompat::release;
  conversion.version = version();
  if (conversion.from == model::ModelForm::checkpoint && is_for_transformers(conversion.to))
    conversion.origin = on_rank_zero(context, [&] { return origin_of(conversion.input); });
  conversion.beat = [&context] { context.heartbeat.beat(); };
  context.log.info("{} is a {}", conversion.input, form);
  context.log.info("{}", model::convert_model(context.world, conversion));
  return 0;
}

}  // namespace nmoe::app
