#pragma once
// Sixty random documents of two languages (odd ones marked old) as a token file. Used by tests of whole
// training runs.
#include <string>

#include "neuronmoe/base/philox.hpp"
#include "neuronmoe/comm/communicator.hpp"
#include "neuronmoe/data/token_file.hpp"

namespace nmoe::test {

inline constexpr std::int64_t token_corpus_vocab = 19;

/// Written by rank 0's documents. Collective.
inline void write_token_corpus(comm::Communicator& comm, const std::string& path) {
  data::TokenDocuments documents;
  if (comm.rank() == 0) {
    const Philox random(9, RandomPurpose::test);
    for (std::uint64_t doc = 0; doc < 60; ++doc) {
      const std::uint64_t length = 5 + random.below(1000 + doc, 20);
      for (std::uint64_t i = 0; i + 1 < length; ++i) {
        documents.ids.push_back(
            static_cast<std::uint32_t>(3 + random.below(doc * 64 + i, token_corpus_vocab - 3)));
      }
      documents.ids.push_back(2);
      documents.lengths.push_back(length);
      documents.lang.push_back(static_cast<std::uint16_t>(doc % 2));
      documents.mark.push_back(static_cast<std::uint8_t>(doc % 2));
    }
  }
  data::TokenFileInfo info;
  info.vocab_size = token_corpus_vocab;
  info.eos_id = 2;
  info.languages = {"el", "en"};
  data::write_token_file(comm, path, documents, info);
}

}  // namespace nmoe::test
