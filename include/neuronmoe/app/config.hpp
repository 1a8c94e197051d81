#pragma once
// Everything a user can set, one struct per section of the config file, and the one list of fields that the
// command line, the files, --help and --print-config share. The commands of src/app read it.
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "neuronmoe/analysis/allocation.hpp"
#include "neuronmoe/analysis/neuron_analysis.hpp"
#include "neuronmoe/analysis/neuron_sets.hpp"
#include "neuronmoe/base/fields.hpp"
#include "neuronmoe/comm/device_communicator.hpp"
#include "neuronmoe/comm/mpi_communicator.hpp"
#include "neuronmoe/data/jsonl.hpp"
#include "neuronmoe/data/packed_dataset.hpp"
#include "neuronmoe/model/convert.hpp"
#include "neuronmoe/train/config.hpp"
#include "neuronmoe/train/machine.hpp"
#include "neuronmoe/train/plan_config.hpp"

namespace nmoe::app {

/// Most threads of a rank.
inline constexpr int max_threads = 4096;

/// [run]: files a command works on and where it runs. The keys that everybody types have short aliases.
struct RunConfig {
  std::string model, experts, tokens, output, input;
  std::string resume{train::resume_auto};
  std::optional<Device> device;
  int threads = 0;
  double watchdog_s = 600.0;
  bool check_collectives = false;
  bool quiet = false;
};

/// [comm]: how tensors travel between ranks.
struct CommConfig {
  std::optional<comm::OnNode> on_node;  ///< what it became replaces it before a command runs
  std::optional<comm::GpuTransport> gpu_transport;
  bool share_gpu = false;
};

/// [tokenize]
struct TokenizeConfig {
  std::string tokenizer;
  std::vector<std::string> inputs;  ///< LANG:MARK:PATH
  data::BadLinePolicy bad_line = data::BadLinePolicy::error;
};

/// [pretrain]
struct PretrainConfig {
  std::string model_config, tokenizer;
};

/// [score]
struct ScoreConfig {
  std::string input, synthetic;
  std::int64_t memory_mb = 1024;
};

/// [convert]
struct ConvertConfig {
  std::optional<model::ModelForm> to;
  std::optional<DType> dtype;
  std::int64_t max_shard_bytes = 5'000'000'000;
};

/// [evaluation]
struct EvaluationConfig {
  std::vector<std::string> texts;          ///< LANG:tokens.h5
  std::vector<std::string> continuations;  ///< LANG:PATH.jsonl
  std::int64_t max_tokens = 0;
  std::int64_t block = 0;
  std::int64_t limit = 0;
  std::uint64_t seed = 42;
};

/// [intervention], of evaluate and generate: neurons whose outputs are replaced (METHOD 1.9).
struct InterventionConfig {
  std::string neurons, languages;
  analysis::Replacement replace = analysis::Replacement::zero;
  std::int64_t controls = 1;
};

/// [loglikelihood]
struct LogLikelihoodConfig {
  std::string requests;
  std::int64_t max_length = 0;
};

/// [generate]
struct GenerateConfig {
  std::vector<std::string> prompts;
  std::string prompt_file, tokenizer;
  bool chat = false;
  std::int64_t max_tokens = 128;
  double temperature = 0.0, top_p = 1.0;
  std::uint64_t seed = 42;
};

struct AppConfig {
  RunConfig run;
  CommConfig comm;
  TokenizeConfig tokenize;
  PretrainConfig pretrain;
  analysis::AnalysisConfig analysis;
  ScoreConfig score;
  analysis::AllocationConfig allocation;
  train::TrainConfig train;
  EvaluationConfig evaluation;
  InterventionConfig intervention;
  LogLikelihoodConfig loglikelihood;
  GenerateConfig generate;
  ConvertConfig convert;
  train::MachineConfig machine;
  train::PlanConfig plan;
  std::vector<data::DataSetConfig> data;  ///< [data.<name>], in the order in which they are first named
};

/// Calls f("section.key", member, FieldInfo) for every field but those of the [data.<name>] sections, which
/// data::for_each_field lists.
template <class Config, class F>
requires std::same_as<std::remove_const_t<Config>, AppConfig>
void for_each_field(Config& c, F&& f) {
  constexpr double many = 1e15;
  f("run.model", c.run.model, FieldInfo{.help = "Hugging Face model directory"});
  f("run.experts", c.run.experts, FieldInfo{.help = "experts per layer, made by `allocate`"});
  f("run.tokens", c.run.tokens, FieldInfo{.help = "token file, used whole as the only data set"});
  f("run.output", c.run.output, FieldInfo{.help = "output file or directory", .layout = true});
  f("run.input", c.run.input,
    FieldInfo{.help = "inspect, convert: the file or directory to read", .layout = true});
  f("run.resume", c.run.resume,
    FieldInfo{.help = "pretrain, train: auto (newest in the output), none or a step directory; analyze, "
                      "specialize, evaluate, loglikelihood, generate: a checkpoint or run directory",
              .layout = true});
  f("run.device", c.run.device, FieldInfo{.help = "device to compute on", .unset = "auto", .layout = true});
  f("run.threads", c.run.threads,
    FieldInfo{.help = "per rank; 0 = OMP_NUM_THREADS, or the cores divided by the ranks",
              .unit = "threads",
              .min = 0,
              .max = max_threads,
              .layout = true});
  f("run.watchdog_s", c.run.watchdog_s,
    FieldInfo{.help = "end with 86 after this long without progress; 0 = never",
              .unit = "s",
              .min = 0,
              .max = 1e7,
              .layout = true});
  f("run.check_collectives", c.run.check_collectives,
    FieldInfo{.help = "compare every collective call over the ranks (slow)", .layout = true});
  f("run.quiet", c.run.quiet, FieldInfo{.help = "no progress lines", .layout = true});

  f("comm.on_node", c.comm.on_node,
    FieldInfo{.help = "how ranks on one node exchange data: MPI messages, or reads from shared send buffers "
                      "(same bits); auto: shared where the ranks can",
              .unset = "auto",
              .layout = true});
  f("comm.gpu_transport", c.comm.gpu_transport,
    FieldInfo{.help = "between GPUs: nccl, host (copies through host memory and MPI), auto = nccl where it "
                      "is available",
              .unset = "auto",
              .layout = true});
  f("comm.share_gpu", c.comm.share_gpu,
    FieldInfo{.help = "let several ranks compute on one GPU (for tests; not with nccl)", .layout = true});

  f("tokenize.tokenizer", c.tokenize.tokenizer,
    FieldInfo{.help = "sentencepiece .model, tokenizer.json or tiktoken file"});
  f("tokenize.input", c.tokenize.inputs,
    FieldInfo{.help = "LANG:MARK:PATH with MARK old or new; PATH "
                      ".jsonl (field \"text\") or .txt; repeatable"});
  f("tokenize.bad_line", c.tokenize.bad_line, FieldInfo{.help = "what to do about a damaged line"});

  f("pretrain.model_config", c.pretrain.model_config, FieldInfo{.help = "config.json of the model to make"});
  f("pretrain.tokenizer", c.pretrain.tokenizer,
    FieldInfo{.help = "tokenizer to copy into the model directory"});

  for_each_field(c.analysis, f);

  f("score.input", c.score.input,
    FieldInfo{.help = "HDF5 file with responses[neuron, sample] and labels[sample]"});
  f("score.synthetic", c.score.synthetic,
    FieldInfo{
        .help =
            "NEURONSxSAMPLESxLANGUAGES of synthetic responses instead of a file, to benchmark the scorer"});
  f("score.memory_mb", c.score.memory_mb,
    FieldInfo{.help = "responses that a rank holds at a time; more are scored slab by slab. On a GPU also "
                      "its memory there",
              .unit = "MB",
              .min = 1,
              .max = 1e9,
              .layout = true});

  for_each_field(c.allocation, f);
  for_each_field(c.train, f);

  for_each_field(c.machine, f);
  for_each_field(c.plan, f);

  f("evaluation.text", c.evaluation.texts,
    FieldInfo{.help = "LANG:tokens.h5 for the perplexity; repeatable"});
  f("evaluation.max_tokens", c.evaluation.max_tokens,
    FieldInfo{.help = "use the first documents of a language with this many tokens in total; 0 = all",
              .unit = "tokens",
              .min = 0,
              .max = many});
  f("evaluation.block", c.evaluation.block,
    FieldInfo{.help = "maximum tokens per forward pass; longer documents are cut into windows; 0 = its "
                      "max_position_embeddings",
              .unit = "tokens",
              .min = 0,
              .max = 1 << 20});
  f("evaluation.continuation", c.evaluation.continuations,
    FieldInfo{.help = "LANG:PATH.jsonl of items; repeatable"});
  f("evaluation.limit", c.evaluation.limit,
    FieldInfo{.help = "use the first items of a language; 0 = all", .unit = "items", .min = 0, .max = many});
  f("evaluation.seed", c.evaluation.seed,
    FieldInfo{.help = "seed of the random sets of intervention.controls"});

  f("intervention.neurons", c.intervention.neurons,
    FieldInfo{.help = "neurons.h5 of this model: the outputs of its selected neurons are replaced"});
  f("intervention.languages", c.intervention.languages,
    FieldInfo{.help = "languages whose neurons are replaced, comma-separated (empty: all of the file, one at "
                      "a time); generate: one language"});
  f("intervention.replace", c.intervention.replace,
    FieldInfo{
        .help =
            "value that replaces their outputs: 0, or the median of the neuron's responses to sentences of "
            "other languages (off_p50) or of its own (on_p50)"});
  f("intervention.controls", c.intervention.controls,
    FieldInfo{.help = "evaluate: random control sets per language, of the same size in every module and "
                      "disjoint from all selected neurons",
              .min = 0,
              .max = 100});

  f("loglikelihood.requests", c.loglikelihood.requests,
    FieldInfo{.help = "JSON lines of token ids: {\"context\": [..], \"continuation\": [..]} or {\"rolling\": "
                      "[..], \"prefix\": id}"});
  f("loglikelihood.max_length", c.loglikelihood.max_length,
    FieldInfo{.help = "maximum tokens per forward pass; 0 = its max_position_embeddings",
              .unit = "tokens",
              .min = 0,
              .max = 1 << 20});

  f("generate.prompt", c.generate.prompts, FieldInfo{.help = "text to continue; repeatable"});
  f("generate.prompt_file", c.generate.prompt_file,
    FieldInfo{.help = "file of prompts: .txt, one per line, or .jsonl, {\"prompt\": \"...\"} on a line"});
  f("generate.tokenizer", c.generate.tokenizer,
    FieldInfo{.help = "tokenizer file or directory", .unset = "the model's"});
  f("generate.chat", c.generate.chat,
    FieldInfo{.help = "prompts are messages of a user, put into the tokenizer's chat template"});
  f("generate.max_tokens", c.generate.max_tokens,
    FieldInfo{.help = "maximum tokens of a continuation", .unit = "tokens", .min = 1, .max = 1 << 20});
  f("generate.temperature", c.generate.temperature,
    FieldInfo{.help = "0 = always the most probable token; else tokens are drawn", .min = 0, .max = 100});
  f("generate.top_p", c.generate.top_p,
    FieldInfo{.help = "draw from the most probable tokens that together have this probability",
              .min = 1e-6,
              .max = 1});
  f("generate.seed", c.generate.seed, FieldInfo{.help = "seed of the draws"});

  f("convert.to", c.convert.to, FieldInfo{.help = "format of the output; that of the input is detected"});
  f("convert.dtype", c.convert.dtype,
    FieldInfo{.help = "element type of the tensors written", .choices = weight_dtypes, .unset = "keep"});
  f("convert.max_shard_bytes", c.convert.max_shard_bytes,
    FieldInfo{.help = "largest .safetensors file of a model", .unit = "bytes", .min = 1, .max = many});
}

}  // namespace nmoe::app
