// The table of subcommands with what --help says about them and what each of them reads.
#include "commands.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "neuronmoe/app/schema.hpp"
#include "neuronmoe/base/error.hpp"

namespace nmoe::app {
namespace {

const Needed base_model{{"run.model"}, "the Hugging Face directory of the dense base"};
const Needed sense{{"analysis.sense"}, "LANG:PATH.json, once per language"};
const Needed training_text{{"run.tokens", "data"}, "the token files to train on"};

std::vector<Command> table_of_commands() {
  return {
      {.name = "tokenize",
       .summary = "text to tokens.h5",
       .example = "neuronmoe tokenize --tokenize.tokenizer base/tokenizer.json \\\n"
                  "  --tokenize.input en:old:en.jsonl --tokenize.input el:new:el.jsonl --output tokens.h5",
       .needs = {{{"tokenize.tokenizer"}, "a sentencepiece .model, tokenizer.json or tiktoken file"},
                 {{"tokenize.input"}, "LANG:MARK:PATH, once per file"},
                 {{"run.output"}, "the token file to write"}},
       .reads = {"tokenize"},
       .function = run_tokenize,
       .output = OutputKind::file},
      {.name = "pretrain",
       .summary = "a dense model from config.json and token files",
       .example = "mpirun -n 2 neuronmoe pretrain --pretrain.model_config config.json \\\n"
                  "  --pretrain.tokenizer tokenizer.model --tokens tokens.h5 --output base",
       .needs = {{{"pretrain.model_config"}, "the config.json of the model to make"},
                 {{"pretrain.tokenizer"}, "the tokenizer that goes beside the model"},
                 training_text,
                 {{"run.output"}, "the model directory to write"}},
       .reads = {"run.resume", "train", "-train.init_from", "-train.extend_router",
                 "-train.expert_parallel_size", "-train.expert_placement", "-train.placement_tokens",
                 "-train.placement_tokens_from", "-train.top_k", "-train.router_aux_loss_coef",
                 "-train.lpr_loss_coef", "-train.lpr_form", "-train.lpr_layer_mean", "pack", "plan.explain",
                 "machine"},
       .function = run_pretrain,
       .output = OutputKind::run,
       .computes = true,
       .saves_on_signal = true},
      {.name = "analyze",
       .summary = "neurons of a model by language, to neurons.h5",
       .example = "mpirun -n 4 neuronmoe analyze --model base --analysis.sense en:sense/en.json \\\n"
                  "  --analysis.sense el:sense/el.json --output neurons.h5",
       .needs = {base_model, sense, {{"run.output"}, "the neurons.h5 to write"}},
       .reads = {"run.resume", "analysis", "-analysis.ap_high", "sense", "train.expert_parallel_size"},
       .function = run_analyze,
       .output = OutputKind::file,
       .computes = true},
      {.name = "score",
       .summary = "the same scores for a matrix from anywhere",
       .example = "mpirun -n 4 neuronmoe score --score.input responses.h5 --output ap.h5",
       .needs = {{{"score.input", "score.synthetic"},
                  "an HDF5 file with responses[neuron, sample] and labels[sample], or a size"},
                 {{"run.output"}, "the HDF5 file to write"}},
       .reads = {"score"},
       .function = run_score,
       .output = OutputKind::file,
       .computes = true},
      {.name = "allocate",
       .summary = "experts per layer, to experts.cfg",
       .example = "neuronmoe allocate --allocation.neurons neurons.h5 --allocation.languages en,el \\\n"
                  "  --output experts.cfg",
       .needs = {{{"run.output"}, "the experts.cfg to write, or the CSV of allocation.sweep"}},
       .reads = {"run.model", "allocation", "neurons"},
       .function = run_allocate,
       .output = OutputKind::file},
      {.name = "train",
       .summary = "stage 1 or 2 of the mixture of experts",
       .example = "mpirun -n 4 neuronmoe train --model base --experts experts.cfg --tokens el.h5 \\\n"
                  "  --output stage1\n"
                  "mpirun -n 4 neuronmoe train --stage 2 --model base --train.init_from stage1 \\\n"
                  "  --data.el.tokens el.h5 --data.en.tokens en.h5 --output stage2",
       .needs = {base_model,
                 {{"run.experts", "train.init_from"},
                  "the experts.cfg made by `allocate`; stage 2 starts from a checkpoint of stage 1"},
                 training_text,
                 {{"run.output"}, "the run directory to write"}},
       .reads = {"run.resume", "train", "lbl", "router", "pack", "analysis.tokenizer", "analysis.sense",
                 "analysis.languages", "analysis.skip_bos", "analysis.max_tokens", "analysis.sentences",
                 "analysis.seed", "analysis.batch_tokens", "analysis.memory_mb", "analysis.ap_high", "sense",
                 "expert_ap", "plan.explain", "machine"},
       .function = run_train,
       .output = OutputKind::run,
       .computes = true,
       .saves_on_signal = true},
      {.name = "specialize",
       .summary = "neurons of the experts by language, to expert_neurons.h5",
       .example = "mpirun -n 4 neuronmoe specialize --model base --resume stage2 \\\n"
                  "  --analysis.sense en:sense/en.json --analysis.sense el:sense/el.json \\\n"
                  "  --output expert_neurons.h5",
       .needs =
           {base_model,
            {{"run.resume"},
             "the checkpoint (step or run directory) whose experts are measured, or none for the MLPs of "
             "the dense model"},
            sense,
            {{"run.output"}, "the expert_neurons.h5 to write"}},
       .reads = {"analysis.tokenizer", "analysis.languages", "analysis.skip_bos", "analysis.max_tokens",
                 "analysis.sentences", "analysis.seed", "analysis.batch_tokens", "analysis.memory_mb",
                 "analysis.ap_high", "sense", "expert_ap.empty", "train.dtype", "train.expert_parallel_size"},
       .function = run_specialize,
       .output = OutputKind::file,
       .computes = true},
      {.name = "evaluate",
       .summary = "perplexity and continuation, to eval.json",
       .example = "mpirun -n 4 neuronmoe evaluate --model base --resume stage2 \\\n"
                  "  --evaluation.text el:heldout.h5 --evaluation.continuation el:items.jsonl \\\n"
                  "  --output eval.json",
       .needs = {base_model,
                 {{"evaluation.text", "evaluation.continuation"},
                  "LANG:tokens.h5 for the perplexity, or LANG:items.jsonl for the continuation task"},
                 {{"run.output"}, "the eval.json to write"}},
       .reads = {"run.resume", "evaluation", "intervention", "train.dtype", "train.expert_parallel_size"},
       .function = run_evaluate,
       .output = OutputKind::file,
       .computes = true},
      {.name = "loglikelihood",
       .summary = "log-probabilities of requests given as token ids, to JSON lines",
       .example = "neuronmoe loglikelihood --model base --loglikelihood.requests requests.jsonl \\\n"
                  "  --output answers.jsonl",
       .needs = {base_model,
                 {{"loglikelihood.requests"}, "JSON lines of requests in token ids"},
                 {{"run.output"}, "the JSON lines of answers to write"}},
       .reads = {"run.resume", "loglikelihood", "train.dtype", "train.expert_parallel_size"},
       .function = run_loglikelihood,
       .output = OutputKind::file,
       .computes = true},
      {.name = "generate",
       .summary = "continuations of prompts, to the terminal and to JSON lines",
       .example = "neuronmoe generate --model base --resume stage2 --generate.prompt Once",
       .needs = {base_model,
                 {{"generate.prompt", "generate.prompt_file"}, "the text to continue, or a file of prompts"}},
       .reads = {"run.output", "run.resume", "generate", "intervention", "-intervention.controls",
                 "train.dtype", "train.expert_parallel_size"},
       .function = run_generate,
       .output = OutputKind::file,
       .computes = true},
      {.name = "convert",
       .summary = "Hugging Face directory, checkpoint and PEFT-MoE adapter into each other",
       .example = "neuronmoe convert stage2 --model base --convert.to adapter --output adapter",
       .needs = {{{"run.input"}, "the directory to convert"},
                 {{"convert.to"}, "the form of the directory to make"},
                 {{"run.output"}, "the directory to make"}},
       .reads = {"run.model", "convert", "router"},
       .function = run_convert,
       .output = OutputKind::directory,
       .takes_file = true},
      {.name = "plan",
       .summary = "work, bytes, memory and modelled time of a training run, from configuration alone",
       .example = "neuronmoe plan --model base/config.json --experts experts.cfg \\\n"
                  "  --machine.nodes 4 --machine.gpus_per_node 4",
       .needs = {{{"run.model"}, "a Hugging Face directory or its config.json"}},
       .reads = {"run.experts",
                 "run.tokens",
                 "run.output",
                 "run.resume",
                 "train",
                 "-train.learning_rate",
                 "-train.min_lr_ratio",
                 "-train.warmup_steps",
                 "-train.beta1",
                 "-train.beta2",
                 "-train.eps",
                 "-train.weight_decay",
                 "-train.seed",
                 "-train.lpr_layer_mean",
                 "-train.loss_norm",
                 "-train.eos_label",
                 "-train.log_every",
                 "-train.max_nan_steps",
                 "lbl",
                 "router",
                 "data",
                 "machine",
                 "plan"},
       .function = run_plan},
      {.name = "check",
       .summary = "the machine it stands on; --output DIR is where it tries to write",
       .example = "mpirun -n 4 neuronmoe check --output runs",
       .needs = {},
       .reads = {"run.output"},
       .function = run_check,
       .computes = true,
       .reads_nccl_log = true},
      {.name = "inspect",
       .summary = "what is in a file or directory we wrote, and whether it is intact",
       .example = "neuronmoe inspect tokens.h5",
       .needs = {{{"run.input"}, "the file or directory to read"}},
       .reads = {},
       .function = run_inspect,
       .takes_file = true},
  };
}

/// Whether an entry of Command::reads names the key, or its section.
bool names(std::string_view entry, std::string_view key) {
  return key == entry || (key.starts_with(entry) && key[entry.size()] == '.');
}

bool any_names(const std::vector<std::string>& entries, std::string_view key) {
  bool found = false;
  for (const std::string_view entry : entries) {
    if (entry.starts_with('-') && names(entry.substr(1), key)) found = false;
    if (names(entry, key)) found = true;
  }
  return found;
}

}  // namespace

const std::vector<Command>& commands() {
  static const std::vector<Command> table = table_of_commands();
  return table;
}

const Command* find_command(std::string_view name) {
  for (const Command& command : commands()) {
    if (command.name == name) return &command;
  }
  return nullptr;
}

const Command& require_command(const std::string& name) {
  std::vector<std::string> names;
  for (const Command& command : commands()) names.push_back(command.name);
  const std::string list = fmt::format("{}", fmt::join(names, " "));
  NMOE_CHECK(!name.empty(), config, "command line: no command given; one of: {} (or --help)", list);
  const Command* const found = find_command(name);
  const std::string near = nearest_name(name, names, (name.size() + 1) / 2);
  NMOE_CHECK(found != nullptr, config, "command line: unknown command '{}'{}: {}", name,
             near.empty() ? "; one of" : fmt::format("; did you mean '{}'? One of", near), list);
  return *found;
}

std::vector<std::string> common_keys(bool computes) {
  std::vector<std::string> keys{"run.threads", "run.watchdog_s", "run.check_collectives", "run.quiet",
                                "comm.on_node"};
  if (computes) keys.insert(keys.end(), {"run.device", "comm.gpu_transport", "comm.share_gpu"});
  return keys;
}

bool reads_key(const Command& command, std::string_view key) {
  for (const Needed& needed : command.needs) {
    if (any_names(needed.keys, key)) return true;
  }
  return any_names(command.reads, key) || any_names(common_keys(command.computes), key);
}

std::vector<std::string> sections_of(const Command& command) {
  std::vector<std::string> sections;
  const auto add = [&](const std::vector<std::string>& entries) {
    for (const std::string& entry : entries) {
      if (!entry.starts_with('-')) sections.push_back(entry.substr(0, entry.find('.')));
    }
  };
  for (const Needed& needed : command.needs) add(needed.keys);
  add(command.reads);
  add(common_keys(command.computes));
  std::sort(sections.begin(), sections.end());
  sections.erase(std::unique(sections.begin(), sections.end()), sections.end());
  return sections;
}

void require_needs(const Command& command, const AppConfig& config) {
  for (const Needed& needed : command.needs) {
    bool given = false;
    std::string others;
    for (const std::string& key : needed.keys) {
      given = given || is_set(config, key);
      if (key != needed.keys.front())
        others += key == "data" ? ", and there is no [data.<name>] section" : ", nor --" + short_form(key);
    }
    const bool positional = command.takes_file && needed.keys.front() == "run.input";
    NMOE_CHECK(given, config, "{} is not set{}: {}",
               positional ? "FILE" : "--" + short_form(needed.keys.front()), others, needed.what);
  }
}

}  // namespace nmoe::app
