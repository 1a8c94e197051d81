// Reads the documents of one language from a token file, end to end.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include "neuronmoe/evaluation/perplexity.hpp"

namespace nmoe::evaluation {

std::vector<std::int32_t> language_stream(const data::TokenFile& file, const std::string& language,
                                          std::int64_t max_tokens) {
  const int wanted = file.language_index(language);
  NMOE_CHECK(wanted >= 0, bad_data, "{}: no document in language '{}'; it has: {}", file.path(), language,
             fmt::join(file.info().languages, ", "));
  std::vector<std::int32_t> ids;
  for (std::int64_t d = 0; d < file.num_docs(); ++d) {
    if (file.lang(d) != wanted) continue;
    for (const std::uint32_t id : file.document(d)) ids.push_back(static_cast<std::int32_t>(id));
    if (max_tokens > 0 && static_cast<std::int64_t>(ids.size()) >= max_tokens) {
      ids.resize(static_cast<std::size_t>(max_tokens));
      break;
    }
  }
  NMOE_CHECK(ids.size() >= 2, bad_data, "{}: {} tokens in language '{}'; perplexity needs at least 2",
             file.path(), ids.size(), language);
  return ids;
}

}  // namespace nmoe::evaluation
