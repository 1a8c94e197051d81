// neuronmoe convert DIR: Hugging Face directories, checkpoints and PEFT-MoE adapters into each other.
#include <filesystem>

#include "commands.hpp"
#include "model_setup.hpp"
#include "neuronmoe/app/version.hpp"
#include "neuronmoe/base/error.hpp"
#include "neuronmoe/model/convert.hpp"

namespace nmoe::app {
namespace {

namespace fs = std::filesystem;

/// What the files in `path` say it is. A run directory or a step counts as checkpoint.
std::string detect_form(const std::string& path) {
  NMOE_CHECK(fs::is_directory(path), bad_data, "{}: there is no such directory", path);
  const auto has = [&](const char* name) { return fs::exists(fs::path(path) / name); };
  if (has("manifest.json")) return "checkpoint";
  if (has("adapter_config.json")) return "adapter";
  if (has("model.safetensors") || has("model.safetensors.index.json")) return "huggingface";
  NMOE_CHECK(!has("pytorch_model.bin") && !has("pytorch_model.bin.index.json"), bad_data,
             "{}: its weights are Python pickles (pytorch_model.bin), "
             "which are never read; save them as safetensors in Python",
             path);
  return "checkpoint";  // a run directory, or an error that says what was looked for
}

model::ModelForm form_named(const std::string& name) {
  if (name == "checkpoint") return model::ModelForm::checkpoint;
  return name == "adapter" ? model::ModelForm::adapter : model::ModelForm::huggingface;
}

}  // namespace

int run_convert(comm::ExecutionContext& context, const AppConfig& config) {
  require_option(config.run.input, "run.input", "convert DIR");
  require_option(config.run.output, "output", "the directory to make");
  require_option(config.convert.to, "convert.to", "checkpoint, huggingface or adapter");
  const std::string form = on_rank_zero(context, [&] { return detect_form(config.run.input); });
  model::Conversion conversion;
  conversion.from = form_named(form);
  conversion.to = form_named(config.convert.to);
  conversion.input = form == "checkpoint" ? resolve_checkpoint(context, config.run.input) : config.run.input;
  conversion.base = config.run.model;
  conversion.output = config.run.output;
  while (conversion.output.size() > 1 && conversion.output.ends_with('/')) conversion.output.pop_back();
  conversion.dtype = config.convert.dtype;
  conversion.max_shard_bytes = config.convert.max_shard_bytes;
  conversion.release_router = config.train.router_compat == "release";
  conversion.version = version();
  conversion.beat = [&context] { context.heartbeat.beat(); };
  context.log.info("{} is a {}", conversion.input, form);
  context.log.info("{}", model::convert_model(context.world, conversion));
  return 0;
}

}  // namespace nmoe::app
