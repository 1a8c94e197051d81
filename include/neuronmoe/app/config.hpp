#pragma once
// Everything a user can set, one struct per section of the config file, and the one list of fields that the
// command line, the files, --help and --print-config share. The commands of src/app read it.
#include <cstdint>
#include <string>
#include <vector>

#include "neuronmoe/analysis/allocation.hpp"
#include "neuronmoe/analysis/neuron_analysis.hpp"
#include "neuronmoe/base/fields.hpp"
#include "neuronmoe/data/packed_dataset.hpp"
#include "neuronmoe/train/config.hpp"
#include "neuronmoe/train/machine.hpp"

namespace nmoe::app {

/// [run]: files a command works on and where it runs. The keys that everybody types have short aliases.
struct RunConfig {
  std::string model, experts, tokens, output, input;
  std::string resume = "auto";
  std::string device = "auto";
  int threads = 0;
  double watchdog_s = 600.0;
  bool check_collectives = false;
  bool quiet = false;
};

/// [comm]: how tensors travel between ranks.
struct CommConfig {
  std::string on_node = "auto";  ///< what it became replaces it before a command runs
  std::string gpu_transport = "auto";
  bool share_gpu = false;
};

/// [tokenize]
struct TokenizeConfig {
  std::string tokenizer;
  std::vector<std::string> inputs;  ///< LANG:MARK:PATH
  std::string bad_line = "error";
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
  std::string to;
  std::string dtype = "keep";
  std::int64_t max_shard_bytes = 5'000'000'000;
};

/// [evaluation]
struct EvaluationConfig {
  std::vector<std::string> texts;          ///< LANG:tokens.h5
  std::vector<std::string> continuations;  ///< LANG:PATH.jsonl
  std::int64_t max_tokens = 10240;
  std::int64_t block = 128;
  std::int64_t limit = 200;
  std::uint64_t seed = 42;
};

/// [plan]
struct PlanConfig {
  bool explain = false;
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
  ConvertConfig convert;
  train::MachineConfig machine;
  PlanConfig plan;
  std::vector<data::DataSetConfig> data;  ///< [data.<name>], in the order in which they are first named
};

/// Calls f("section.key", member, FieldInfo) for every field but those of the [data.<name>] sections, which
/// data::for_each_field lists.
template <class Config, class F>
requires std::same_as<std::remove_const_t<Config>, AppConfig>
void for_each_field(Config& c, F&& f) {
  constexpr double many = 1e15;
  f("run.model", c.run.model, FieldInfo{"Hugging Face model directory"});
  f("run.experts", c.run.experts, FieldInfo{"experts per layer, made by `allocate`"});
  f("run.tokens", c.run.tokens, FieldInfo{"token file: the whole of it as the only data set"});
  f("run.output", c.run.output, FieldInfo{"what the command writes", "", 0, 0, "", true});
  f("run.input", c.run.input,
    FieldInfo{"inspect, convert: the file or directory to read", "", 0, 0, "", true});
  f("run.resume", c.run.resume,
    FieldInfo{
        "pretrain, train: auto (newest in the output), none or a step directory; specialize, evaluate: a "
        "checkpoint or run directory",
        "", 0, 0, "", true});
  f("run.device", c.run.device, FieldInfo{"where the numbers are made", "", 0, 0, "auto|cpu|cuda", true});
  f("run.threads", c.run.threads,
    FieldInfo{"per rank; 0 = OMP_NUM_THREADS, or the cores divided by the ranks", "threads", 0, 4096, "",
              true});
  f("run.watchdog_s", c.run.watchdog_s,
    FieldInfo{"end with 86 after so long without progress; 0 = never", "s", 0, 1e7, "", true});
  f("run.check_collectives", c.run.check_collectives,
    FieldInfo{"compare every collective call over the ranks (slow)", "", 0, 0, "", true});
  f("run.quiet", c.run.quiet, FieldInfo{"no progress lines", "", 0, 0, "", true});

  f("comm.on_node", c.comm.on_node,
    FieldInfo{
        "how ranks of a node exchange: MPI's messages, or out of send buffers that they share (same bits); "
        "auto: shared where ranks share a node and its memory",
        "", 0, 0, "auto|mpi|shared", true});
  f("comm.gpu_transport", c.comm.gpu_transport,
    FieldInfo{"between GPUs: nccl, host (copies through host memory and MPI), auto = nccl where it can be",
              "", 0, 0, "auto|nccl|host", true});
  f("comm.share_gpu", c.comm.share_gpu,
    FieldInfo{"let several ranks compute on one GPU (for tests; not with nccl)", "", 0, 0, "", true});

  f("tokenize.tokenizer", c.tokenize.tokenizer,
    FieldInfo{"sentencepiece .model, tokenizer.json or tiktoken file"});
  f("tokenize.input", c.tokenize.inputs,
    FieldInfo{"LANG:MARK:PATH with MARK old or new; PATH .jsonl (field \"text\") or .txt; repeatable"});
  f("tokenize.bad_line", c.tokenize.bad_line,
    FieldInfo{"what to do about a damaged line", "", 0, 0, "error|skip"});

  f("pretrain.model_config", c.pretrain.model_config, FieldInfo{"config.json of the model to make"});
  f("pretrain.tokenizer", c.pretrain.tokenizer, FieldInfo{"tokenizer that is copied beside the model"});

  for_each_field(c.analysis, f);

  f("score.input", c.score.input, FieldInfo{"HDF5 file with responses[neuron, sample] and labels[sample]"});
  f("score.synthetic", c.score.synthetic,
    FieldInfo{"NEURONSxSAMPLESxLANGUAGES made on the fly instead of a file, to measure the scorer"});
  f("score.memory_mb", c.score.memory_mb,
    FieldInfo{
        "responses a rank holds at a time; the rest follows slab by slab. On a GPU also its memory there",
        "MB", 1, 1e9, "", true});

  for_each_field(c.allocation, f);
  for_each_field(c.train, f);

  for_each_field(c.machine, f);
  f("plan.explain", c.plan.explain,
    FieldInfo{"print what backward computes and what forward keeps, layer by layer (short: --explain)", "", 0,
              0, "", true});

  f("evaluation.text", c.evaluation.texts, FieldInfo{"LANG:tokens.h5 for the perplexity; repeatable"});
  f("evaluation.max_tokens", c.evaluation.max_tokens,
    FieldInfo{"tokens per language; 0 = all", "tokens", 0, many});
  f("evaluation.block", c.evaluation.block, FieldInfo{"length of a scored sequence", "tokens", 2, 1 << 20});
  f("evaluation.continuation", c.evaluation.continuations, FieldInfo{"LANG:PATH.jsonl of items; repeatable"});
  f("evaluation.limit", c.evaluation.limit, FieldInfo{"items per language; 0 = all", "items", 0, many});
  f("evaluation.seed", c.evaluation.seed, FieldInfo{"seed of the choice of items"});

  f("convert.to", c.convert.to,
    FieldInfo{"form of the output; that of the input is detected", "", 0, 0,
              "checkpoint|huggingface|adapter"});
  f("convert.dtype", c.convert.dtype,
    FieldInfo{"element type of the tensors written", "", 0, 0, "keep|float32|bfloat16"});
  f("convert.max_shard_bytes", c.convert.max_shard_bytes,
    FieldInfo{"largest .safetensors file of a model", "bytes", 1, many});
}

}  // namespace nmoe::app
