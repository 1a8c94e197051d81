// Checkpoints found, models loaded, data sets named: what several commands begin with.
#include "model_setup.hpp"

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "launcher.hpp"
#include "mpi_facts.hpp"
#include "neuronmoe/app/run_guarded.hpp"
#include "neuronmoe/app/schema.hpp"
#include "neuronmoe/app/version.hpp"
#include "neuronmoe/base/error.hpp"
#include "neuronmoe/base/sha256.hpp"
#include "neuronmoe/comm/agree.hpp"
#include "neuronmoe/io/file_hash.hpp"
#include "neuronmoe/io/manifest.hpp"
#include "neuronmoe/io/same_file.hpp"
#include "neuronmoe/model/checkpoint_weights.hpp"
#include "neuronmoe/model/hf_model.hpp"
#include "neuronmoe/train/base_files.hpp"

namespace nmoe::app {

namespace fs = std::filesystem;

void require_option(std::string_view value, const char* option, const std::string& why) {
  NMOE_CHECK(!value.empty(), config, "--{} is not set: {}", option, why);
}

std::string resolve_checkpoint(comm::ExecutionContext& context, const std::string& path) {
  auto& world = context.world;
  const std::string kind = on_rank_zero(context, [&]() -> std::string {
    NMOE_CHECK(fs::is_directory(path), bad_data, "checkpoint {}: there is no such directory", path);
    if (fs::exists(fs::path(path) / "manifest.json")) return "step";
    return fs::is_directory(fs::path(path) / "checkpoints") ? "model" : "run";
  });
  if (kind == "step") {
    io::require_same_file(context.world, path + "/manifest.json");
    const std::string fault = io::verify_manifest(world, path);
    NMOE_CHECK(fault.empty(), bad_data, "checkpoint {} is damaged: {}", path, fault);
    return path;
  }
  const std::string run_dir = kind == "model" ? path + "/checkpoints" : path;
  const io::ValidStep newest = io::newest_valid_step(world, run_dir);
  std::string skipped;
  for (const auto& reason : newest.skipped) skipped += "; " + reason;
  NMOE_CHECK(newest, bad_data, "{} holds no intact checkpoint (step_*/manifest.json){}", run_dir, skipped);
  if (!skipped.empty() && world.rank() == 0)
    context.log.warn("using {}; ignored{}", newest.directory, skipped.substr(1));
  return newest.directory;
}

void require_step_directory(comm::ExecutionContext& context, const std::string& resume) {
  if (resume == train::resume_auto || resume == train::resume_none) return;
  comm::agree(context.world, [&] {
    if (context.world.rank() != 0 || fs::exists(fs::path(resume) / "manifest.json")) return;
    std::string newest;
    for (const fs::path& directory : {fs::path(resume), fs::path(resume) / "checkpoints"}) {
      std::error_code ignored;  // the trainer says why it cannot be read
      for (const auto& entry : fs::directory_iterator(directory, ignored)) {
        if (io::step_of_directory_name(entry.path().filename().string()))
          newest = std::max(newest, entry.path().string());
      }
    }
    NMOE_CHECK(newest.empty(), bad_data, "--resume {} is a run directory; name a step of it, e.g. {}", resume,
               newest);
  });
}

void verify_model(comm::ExecutionContext& context, const std::string& path) {
  const std::string kind = on_rank_zero(context, [&]() -> std::string {
    std::error_code unreadable;  // then the reader of the model says why
    if (path.empty()) return "";
    if (fs::exists(fs::path(path) / "manifest.json", unreadable)) return "directory";
    const fs::path beside = fs::path(path).parent_path();
    if (!fs::is_regular_file(path, unreadable) || !fs::exists(beside / "manifest.json", unreadable))
      return "";
    const std::string fault =
        io::verify_file(beside.empty() ? "." : beside.string(), fs::path(path).filename().string());
    NMOE_CHECK(fault.empty(), bad_data, "--model {} is damaged: {}", path, fault);
    return "";
  });
  if (kind.empty()) return;
  const std::string fault = io::verify_manifest(context.world, path);
  NMOE_CHECK(fault.empty(), bad_data, "--model {} is damaged: {}; copy or convert it again", path, fault);
  context.heartbeat.beat();
}

std::string on_rank_zero(comm::ExecutionContext& context, const std::function<std::string()>& work) {
  std::string text;
  comm::agree(context.world, [&] {
    if (context.world.rank() == 0) text = work();
  });
  return comm::broadcast_string(context.world, text);
}

void require_same_base(comm::ExecutionContext& context, const std::string& checkpoint,
                       const std::string& model_dir) {
  comm::agree(context.world, [&] {
    if (context.world.rank() != 0) return;
    const std::string stored = io::read_manifest_facts(checkpoint)["base_model_sha256"];
    const std::string found = model::model_directory_hash(model_dir);
    NMOE_CHECK(stored.empty() || stored == found, bad_data,
               "{}: was trained on a base with hash {}, --model {} has {}; pass the base it was trained on",
               checkpoint, stored, model_dir, found);
  });
}

void require_same_directory(comm::ExecutionContext& context, const std::string& directory) {
  const std::string list = on_rank_zero(context, [&] {
    std::string names;
    for (const std::string& file : model::list_model_files(directory)) names += file + '\n';
    return names;
  });
  std::vector<std::string> files;
  for (std::size_t begin = 0, end = 0; (end = list.find('\n', begin)) != std::string::npos; begin = end + 1)
    files.push_back(list.substr(begin, end - begin));
  io::require_same_files(context.world, files);
}

model::ModelConfig load_architecture(comm::ExecutionContext& context, const std::string& directory) {
  require_same_directory(context, directory);
  model::ModelConfig architecture;
  bool untied = false;
  comm::agree(context.world, [&] {
    architecture = model::load_directory_config(directory);
    untied = model::load_model_config(directory + "/config.json").tie_word_embeddings &&
             !architecture.tie_word_embeddings;
  });
  if (untied)
    context.log.warn(
        "{}: tie_word_embeddings is true, but its lm_head.weight is not the embedding: the head is used and "
        "the two are not tied, as transformers 5 does",
        directory);
  return architecture;
}

std::unique_ptr<model::Decoder> make_decoder(comm::ExecutionContext& context, const DecoderParts& parts) {
  return std::make_unique<model::Decoder>(parts.architecture, parts.dtype, parts.trainable, parts.experts,
                                          context.stream);
}

std::unique_ptr<model::Decoder> load_decoder(comm::ExecutionContext& context, const DecoderParts& parts,
                                             const std::string& model_dir, const std::string& checkpoint) {
  model::require_dense_weights(parts.architecture, model_dir);
  auto decoder = make_decoder(context, parts);
  model::load_dense_weights(*decoder, model_dir);
  const bool trains = parts.trainable != model::TrainableSet::none;
  if (!checkpoint.empty()) model::load_checkpoint_weights(*decoder, checkpoint, !trains);
  return decoder;
}

LoadedModel load_for_inference(comm::ExecutionContext& context, const AppConfig& config,
                               const std::string& checkpoint, DType dtype) {
  const std::string& directory = config.run.model;
  LoadedModel loaded;
  loaded.checkpoint = checkpoint;
  model::ModelConfig architecture = load_architecture(context, directory);
  comm::agree(context.world, [&] {
    if (!checkpoint.empty()) architecture = model::apply_checkpoint_config(architecture, checkpoint);
  });
  const int expert_parallel_size = checkpoint.empty() ? 1 : config.train.expert_parallel_size;
  if (!checkpoint.empty()) require_same_base(context, checkpoint, directory);
  loaded.groups = std::make_unique<train::ParallelGroups>(context.world, expert_parallel_size);
  comm::agree(context.world, [&] {
    loaded.decoder = load_decoder(
        context,
        {architecture, dtype, model::TrainableSet::none, loaded.groups->experts(architecture.num_experts)},
        directory, checkpoint);
  });
  context.log.info("model: {}{}{}", directory, checkpoint.empty() ? "" : " with the experts of ", checkpoint);
  context.heartbeat.beat();
  return loaded;
}

LoadedModel load_model_or_checkpoint(comm::ExecutionContext& context, const AppConfig& config, DType dtype) {
  const std::string& resume = config.run.resume;
  const bool dense = resume == train::resume_auto || resume == train::resume_none;
  return load_for_inference(context, config, dense ? "" : resolve_checkpoint(context, resume), dtype);
}

std::unique_ptr<data::Tokenizer> load_tokenizer_for(comm::ExecutionContext& context,
                                                    const std::string& wanted, const std::string& model_dir) {
  std::unique_ptr<data::Tokenizer> tokenizer;
  comm::agree(context.world, [&] { tokenizer = data::load_tokenizer(wanted.empty() ? model_dir : wanted); });
  const std::vector<std::string> file{tokenizer->path()};
  io::require_same_files(context.world, file, data::settings_files(tokenizer->path()));
  return tokenizer;
}

KnownTokenizers tokenizers_of(comm::ExecutionContext& context, const std::string& model_dir) {
  const auto list = nlohmann::json::parse(on_rank_zero(context, [&] {
    nlohmann::json files = nlohmann::json::array();
    for (const std::string& file : data::list_tokenizer_files(model_dir))
      files.push_back({file, sha256_file(file)});
    return files.dump();
  }));
  return list.get<KnownTokenizers>();
}

void require_known_tokenizer(const std::string& path, const data::TokenFileInfo& info,
                             const KnownTokenizers& known) {
  const bool fits = std::any_of(known.begin(), known.end(), [&](const auto& tokenizer) {
    return tokenizer.second == info.tokenizer_sha256;
  });
  NMOE_CHECK(
      known.empty() || fits, bad_data,
      "{}: made with a tokenizer of hash {}, the model's has {} ({}); tokenize with the model's tokenizer",
      path, info.tokenizer_sha256, known.front().second, known.front().first);
}

void require_fitting_tokens(const data::TokenFile& tokens, const KnownTokenizers& known,
                            const model::ModelConfig& architecture) {
  require_known_tokenizer(tokens.path(), tokens.info(), known);
  NMOE_CHECK(
      tokens.largest_id() < architecture.vocab_size, bad_data,
      "{}: made with a vocabulary of {} tokens, of which {} occurs, but the model has {}; tokenize with "
      "the model's tokenizer",
      tokens.path(), tokens.info().vocab_size, tokens.largest_id(), architecture.vocab_size);
}

void require_embedding(const data::Tokenizer& tokenizer, std::int32_t largest_id,
                       const model::ModelConfig& architecture) {
  NMOE_CHECK(
      largest_id < architecture.vocab_size, bad_data,
      "{}: vocabulary of {} tokens, of which {} (\"{}\") occurs, but the model has embeddings for {}; use "
      "the tokenizer the model was made with, or take that token out of the text",
      tokenizer.name(), tokenizer.vocab_size(), largest_id, tokenizer.token(largest_id),
      architecture.vocab_size);
}

void require_positions(std::string_view key, std::int64_t length, const model::ModelConfig& architecture) {
  const auto& scaling = architecture.rope_scaling;
  const double stretch = scaling.type == "linear" ? std::max(1.0, scaling.factor) : 1.0;
  const auto longest =
      static_cast<std::int64_t>(stretch * static_cast<double>(architecture.max_position_embeddings));
  NMOE_CHECK(
      length <= longest, config,
      "{} = {} is more than the {} positions of the model (max_position_embeddings of its config.json{}); "
      "lower it",
      key, length, longest, stretch > 1.0 ? " times the factor of rope_scaling" : "");
}

std::int64_t length_or_positions(std::string_view key, std::int64_t length,
                                 const model::ModelConfig& architecture) {
  if (length == 0) return architecture.max_position_embeddings;
  require_positions(key, length, architecture);
  return length;
}

std::vector<data::DataSetConfig> data_sets_of(const AppConfig& config) {
  NMOE_CHECK(config.data.empty() || config.run.tokens.empty(), config,
             "--tokens {} and [data.{}] are both given; put the file into a [data.<name>] section",
             config.run.tokens, config.data.front().name);
  if (!config.data.empty()) return config.data;
  data::DataSetConfig only;
  only.name = "tokens";
  only.tokens = config.run.tokens;
  return {only};
}

train::MachineConfig machine_of_run(comm::ExecutionContext& context, const AppConfig& config) {
  train::MachineConfig machine = config.machine;
  context.world.drain();  // the MPI library is asked directly
  std::int64_t ranks[1] = {rank_on_node().size};
  context.world.all_reduce({ranks, DType::int64, {1}}, comm::ReduceOp::max, context.stream).wait();
  machine.gpus_per_node = static_cast<int>(ranks[0]);
  machine.nodes = (context.world.size() + machine.gpus_per_node - 1) / machine.gpus_per_node;
  return machine;
}

train::RunIdentity run_identity(comm::ExecutionContext& context, const AppConfig& config,
                                const std::string& base_model, const std::string& init_from) {
  train::RunIdentity identity;
  if (!init_from.empty())
    identity.origin = {init_from, on_rank_zero(context, [&] { return train::origin_of(init_from).hash; })};
  AppConfig recorded = config;
  recorded.machine = {};  // what times are modeled on changes nothing that is computed
  identity.resolved_config = config_to_ini(recorded, false);
  identity.base_model = base_model;
  if (!base_model.empty()) {
    const std::string known = on_rank_zero(context, [&] {
      const auto files = model::model_file_digests(base_model);
      return model::model_directory_hash(base_model, files) + train::base_files(base_model, files);
    });
    constexpr std::size_t hash_chars = 64;
    identity.base_model_hash = known.substr(0, hash_chars);
    identity.base_model_files = known.substr(hash_chars);
  }
  std::string token_files;
  for (const auto& d : data_sets_of(config))
    token_files += d.name + " " + io::file_hash(context.world, d.tokens) + "\n";
  identity.tokens_hash = sha256_text(token_files);
  context.heartbeat.beat();
  identity.version = version();
  context.world.drain();  // the MPI library is asked directly
  nlohmann::json provenance;
  provenance["config"] = config_to_ini(config, true);
  provenance["placement"] = placement_table(context);
  provenance["mpi"] = mpi_version_text();
  provenance["environment"] = relevant_environment();
  identity.provenance_json = provenance.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
  return identity;
}

}  // namespace nmoe::app
