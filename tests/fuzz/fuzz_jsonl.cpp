// Fuzz target: a text file in both formats. Cut into pieces anywhere, it gives the documents and bad lines of
// the whole, and every document is text.
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "../support/documents.hpp"
#include "fuzz.hpp"
#include "neuronmoe/data/jsonl.hpp"

namespace {

using namespace nmoe::data;

struct Found {
  std::vector<std::string> documents;
  std::int64_t num_bad = 0, num_lines = 0;
  bool operator==(const Found&) const = default;
};

void collect(std::string_view file, TextFormat format, std::int64_t begin, std::int64_t end, Found& found) {
  const auto [documents, report] = nmoe::test::documents_of(file, format, begin, end);
  for (const std::string& text : documents) {
    nmoe::fuzz::require(is_valid_utf8(text));
    found.documents.push_back(text);
  }
  for (const BadLine& bad : report.first_bad)
    nmoe::fuzz::require(is_valid_utf8(bad.reason) && bad.line >= 1 && bad.line <= report.num_lines);
  found.num_bad += report.num_bad;
  found.num_lines += report.num_lines;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view file(reinterpret_cast<const char*>(data), size);
  const auto end = static_cast<std::int64_t>(size);
  const std::int64_t cut = size == 0 ? 0 : data[0] % (end + 1);
  for (const TextFormat format : {TextFormat::jsonl, TextFormat::plain}) {
    Found whole, parts;
    collect(file, format, 0, end, whole);
    collect(file, format, 0, cut, parts);
    collect(file, format, cut, end, parts);
    nmoe::fuzz::require(whole == parts);
  }
  return 0;
}
