#pragma once
// What several commands do before their own work: find checkpoints and files, make groups and decoder, load
// weights. What is not marked otherwise is collective over the world and fails on every rank alike.
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "neuronmoe/app/config.hpp"
#include "neuronmoe/comm/execution_context.hpp"
#include "neuronmoe/data/token_file.hpp"
#include "neuronmoe/data/tokenizer.hpp"
#include "neuronmoe/model/decoder.hpp"
#include "neuronmoe/train/trainer.hpp"

namespace nmoe::app {

/// @throws Error(config) "COMMAND needs --key: why" if the value is empty.
void require_option(std::string_view value, const char* option, const std::string& why);

/// Step directory behind `path`: itself if it is one (verified), else the newest valid step in it or in its
/// checkpoints/. @throws Error(bad_data) saying what was looked at
std::string resolve_checkpoint(comm::ExecutionContext& context, const std::string& path);

/// Demands that --resume be a word or a step directory: for a run directory names its newest step.
/// @throws Error(bad_data)
void require_step_directory(comm::ExecutionContext& context, const std::string& resume);
/// Compares a --model that `convert` made with its manifest, each byte read by one rank; a Hugging Face
/// directory has none. Of a config.json only that file is compared. Every command that is given a model calls
/// it before it reads anything. Collective. @throws Error(bad_data) naming file and place
void verify_model(comm::ExecutionContext& context, const std::string& path);

/// `value` as rank 0 computed it, on every rank; an error of rank 0 is everybody's.
std::string on_rank_zero(comm::ExecutionContext& context, const std::function<std::string()>& work);

/// Demands that the files of a model, checkpoint or adapter directory be the same on every rank.
/// @throws Error(bad_data) naming file and ranks
void require_same_directory(comm::ExecutionContext& context, const std::string& directory);

/// Returns the architecture of the model directory, compared over the ranks; warns if a head of its own
/// unties it.
model::ModelConfig load_architecture(comm::ExecutionContext& context, const std::string& directory);

/// What a decoder is made of.
struct DecoderParts {
  model::ModelConfig architecture;
  DType dtype;
  model::TrainableSet trainable;
  model::ExpertParallelGroup experts;  ///< its communicator outlives the decoder
};

/// Returns a decoder on the device of `context` with all weights zero. Not collective.
std::unique_ptr<model::Decoder> make_decoder(comm::ExecutionContext& context, const DecoderParts& parts);

/// Returns a decoder with the dense weights of `model_dir` and, unless `checkpoint` is empty, its experts and
/// routers. Not collective. @throws Error(bad_data) before it allocates, if the dense weights do not fit
std::unique_ptr<model::Decoder> load_decoder(comm::ExecutionContext& context, const DecoderParts& parts,
                                             const std::string& model_dir, const std::string& checkpoint);

/// A decoder with what it refers to.
struct LoadedModel {
  std::unique_ptr<train::ParallelGroups> groups;
  std::unique_ptr<model::Decoder> decoder;
  std::string checkpoint;  ///< step directory, empty for the dense model alone
};

/// Demands that `checkpoint` was trained on the weights in `model_dir`. Collective. @throws Error(bad_data)
/// naming both hashes
void require_same_base(comm::ExecutionContext& context, const std::string& checkpoint,
                       const std::string& model_dir);

/// Dense weights from --model in `dtype`; with a `checkpoint` also its experts and
/// routers.
LoadedModel load_for_inference(comm::ExecutionContext& context, const AppConfig& config,
                               const std::string& checkpoint, DType dtype);

/// The dense model, or the checkpoint that --resume names.
LoadedModel load_model_or_checkpoint(comm::ExecutionContext& context, const AppConfig& config, DType dtype);

/// The tokenizer `wanted`, or the one in the model directory.
std::unique_ptr<data::Tokenizer> load_tokenizer_for(comm::ExecutionContext& context,
                                                    const std::string& wanted, const std::string& model_dir);

/// The tokenizers that fit a model: those in its directory, as file and hash. Empty: any will do.
using KnownTokenizers = std::vector<std::pair<std::string, std::string>>;
KnownTokenizers tokenizers_of(comm::ExecutionContext& context, const std::string& model_dir);
/// Demands that the token file `path` be made with one of `known`. Not collective. @throws Error(bad_data)
void require_known_tokenizer(const std::string& path, const data::TokenFileInfo& info,
                             const KnownTokenizers& known);
/// Demands that and that `tokens` hold no id that the model has no embedding for: its
/// tokenizer may have more tokens than the model, as long as none of those occurs. Not collective.
/// @throws Error(bad_data)
void require_fitting_tokens(const data::TokenFile& tokens, const KnownTokenizers& known,
                            const model::ModelConfig& architecture);
/// The same for text that `tokenizer` has encoded, by the largest id that came out. @throws Error(bad_data)
void require_embedding(const data::Tokenizer& tokenizer, std::int32_t largest_id,
                       const model::ModelConfig& architecture);
/// Demands that sequences of `length` tokens, the value of the option `key`, be no longer than the model's
/// positions (times the factor of a linear rope_scaling). @throws Error(config)
void require_positions(std::string_view key, std::int64_t length, const model::ModelConfig& architecture);

/// Returns `length`, the value of the option `key`, or the model's max_position_embeddings if it is 0.
/// @throws Error(config) as require_positions
std::int64_t length_or_positions(std::string_view key, std::int64_t length,
                                 const model::ModelConfig& architecture);

/// [data.<name>] sections, or the one data set of --tokens. @throws Error(config) if there is neither or both
std::vector<data::DataSetConfig> data_sets_of(const AppConfig& config);

/// Returns [machine] with the nodes and ranks per node that this run has. Collective.
train::MachineConfig machine_of_run(comm::ExecutionContext& context, const AppConfig& config);

/// Who made an output and from what, for checkpoints.
/// @param init_from step directory whose experts the run starts from, or ""
train::RunIdentity run_identity(comm::ExecutionContext& context, const AppConfig& config,
                                const std::string& base_model, const std::string& init_from = "");

}  // namespace nmoe::app
