// The table of subcommands with what --help says about them.
#include "commands.hpp"

namespace nmoe::app {

const std::vector<Command>& commands() {
  static const std::vector<Command> table = {
      {"tokenize", "text to tokens.h5", {"run", "comm", "tokenize"}, run_tokenize, OutputKind::file},
      {"pretrain",
       "a dense model from config.json and token files",
       {"run", "comm", "pretrain", "train", "pack", "data", "plan"},
       run_pretrain,
       OutputKind::run,
       true},
      {"analyze",
       "neurons of a model by language, to neurons.h5",
       {"run", "comm", "analysis", "sense"},
       run_analyze,
       OutputKind::file},
      {"score",
       "the same scores for a matrix from anywhere",
       {"run", "comm", "score"},
       run_score,
       OutputKind::file},
      {"allocate",
       "experts per layer, to experts.cfg",
       {"run", "allocation", "neurons"},
       run_allocate,
       OutputKind::file},
      {"train",
       "stage 1 or 2 of the mixture of experts",
       {"run", "comm", "train", "lbl", "router", "pack", "data", "analysis", "sense", "expert_ap", "plan"},
       run_train,
       OutputKind::run,
       true},
      {"specialize",
       "neurons of the experts by language, to expert_neurons.h5",
       {"run", "comm", "analysis", "sense", "expert_ap"},
       run_specialize,
       OutputKind::file},
      {"evaluate",
       "perplexity and continuation, to eval.json",
       {"run", "comm", "evaluation", "intervention"},
       run_evaluate,
       OutputKind::file},
      {"loglikelihood",
       "log-probabilities of requests given as token ids, to JSON lines",
       {"run", "comm", "loglikelihood"},
       run_loglikelihood,
       OutputKind::file},
      {"generate",
       "continuations of prompts, to the terminal and to JSON lines",
       {"run", "comm", "generate", "intervention"},
       run_generate,
       OutputKind::file},
      {"convert",
       "Hugging Face directory, checkpoint and PEFT-MoE adapter into each other: convert DIR",
       {"run", "convert", "router"},
       run_convert,
       OutputKind::directory,
       false,
       true},
      {"plan",
       "work, bytes, memory and modelled time of a training run, from configuration alone",
       {"run", "train", "machine", "plan"},
       run_plan},
      {"check",
       "the machine it stands on; --output DIR is where it tries to write",
       {"run", "comm"},
       run_check},
      {"inspect",
       "what is in a file or directory we wrote, and whether it is intact: inspect FILE",
       {"run"},
       run_inspect,
       OutputKind::none,
       false,
       true},
  };
  return table;
}

const Command* find_command(std::string_view name) {
  for (const Command& command : commands()) {
    if (command.name == name) return &command;
  }
  return nullptr;
}

}  // namespace nmoe::app
