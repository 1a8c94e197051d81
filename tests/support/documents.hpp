#pragma once
// The documents of a piece of a text file, line by line as `tokenize` reads it.
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "neuronmoe/base/error.hpp"
#include "neuronmoe/data/jsonl.hpp"

namespace nmoe::test {

struct Documents {
  std::vector<std::string> texts;
  data::PieceReport report;
};

/// Returns what begins in bytes [begin, end) of a file in memory.
inline Documents documents_of(std::string_view file, data::TextFormat format, std::int64_t begin,
                              std::int64_t end) {
  Documents found;
  data::LineReader reader(file, begin, end);
  for (data::Line line; reader.next(line);) {
    try {
      found.texts.push_back(data::document_of(line.text, format));
      ++found.report.num_docs;
    } catch (const Error& error) {
      data::report_bad_line(found.report, line.number, error.what());
    }
  }
  found.report.num_lines = reader.num_lines();
  return found;
}

}  // namespace nmoe::test
