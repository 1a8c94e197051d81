// neuronmoe tokenize: text to tokens.h5.
#include "commands.hpp"
#include "model_setup.hpp"
#include "neuronmoe/comm/agree.hpp"
#include "neuronmoe/data/tokenize.hpp"

namespace nmoe::app {

int run_tokenize(comm::ExecutionContext& context, const AppConfig& config) {
  const auto& options = config.tokenize;
  std::vector<data::TokenizeInput> inputs;
  for (const auto& text : options.inputs) inputs.push_back(data::parse_tokenize_input(text));
  const auto tokenizer = load_tokenizer_for(context, options.tokenizer, "");
  const auto result = data::tokenize_corpus(context, inputs, *tokenizer, config.run.output, options.bad_line);
  for (const auto& line : result.bad_lines) context.log.info("skipped {}", line);
  if (result.num_bad_lines > 0) context.log.info("skipped {} damaged lines in all", result.num_bad_lines);
  context.log.info("{}: {} documents, {} tokens", config.run.output, result.num_docs, result.num_tokens);
  if (result.num_empty_docs > 0 && context.world.rank() == 0)
    context.log.warn("{} of {} documents are empty: nothing is in them but the end of text",
                     result.num_empty_docs, result.num_docs);
  return 0;
}

}  // namespace nmoe::app
