#pragma once
// `neuronmoe tokenize`: text files to tokens.h5, in parallel over ranks.
#include <cstdint>
#include <string>
#include <vector>

#include "neuronmoe/comm/execution_context.hpp"
#include "neuronmoe/data/jsonl.hpp"
#include "neuronmoe/data/token_file.hpp"
#include "neuronmoe/data/tokenizer.hpp"

namespace nmoe::data {

/// One corpus file.
struct TokenizeInput {
  std::string language;
  Mark mark = Mark::new_language;
  std::string path;
};
/// Parses "LANG:MARK:PATH" (MARK old or new; PATH may hold colons). @throws Error(config)
TokenizeInput parse_tokenize_input(const std::string& text);

/// Totals over all ranks.
struct TokenizeResult {
  std::int64_t num_docs = 0, num_tokens = 0, num_bad_lines = 0;
  std::int64_t num_empty_docs = 0;     ///< without a token of their own: EOS alone
  std::vector<std::string> bad_lines;  ///< first 10, "PATH:LINE: reason"
};

/// Tokenizes the inputs in order (no BOS, EOS after each document) and writes `output` atomically. The file
/// is byte-identical for any number of ranks. Under BadLinePolicy::error the first bad line of the corpus is
/// an Error(bad_data) on every rank and nothing is written. Collective.
TokenizeResult tokenize_corpus(comm::ExecutionContext& context, const std::vector<TokenizeInput>& inputs,
                               const Tokenizer& tokenizer, const std::string& output, BadLinePolicy policy);

}  // namespace nmoe::data
