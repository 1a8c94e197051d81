// The documents of one language of a token file as rolling requests, and the perplexity of their answers.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cmath>
#include <numbers>
#include <numeric>

#include "neuronmoe/evaluation/perplexity.hpp"

namespace nmoe::evaluation {
namespace {

/// The prefix and the ids of a document without the EOS at its end.
Request request_of(std::span<const std::uint32_t> document, std::int32_t prefix) {
  Request request;
  request.rolling = true;
  request.ids.push_back(prefix);
  for (const std::uint32_t id : document.first(document.size() - 1))
    request.ids.push_back(static_cast<std::int32_t>(id));
  return request;
}

std::variant<double, std::int64_t, std::nullptr_t> number_or_null(std::optional<std::int64_t> value) {
  if (value) return *value;
  return nullptr;
}

}  // namespace

std::int32_t prefix_of(const data::TokenFileInfo& info) {
  return info.bos_id.value_or(-1) >= 0 ? *info.bos_id : info.eos_id;
}

HeldOutText held_out_text(const data::TokenFile& file, const std::optional<data::TextSizes>& sizes,
                          const std::string& language, std::int64_t max_tokens) {
  const int wanted = file.language_index(language);
  NMOE_CHECK(wanted >= 0, bad_data, "{}: no document in language '{}'; it has: {}", file.path(), language,
             fmt::join(file.info().languages, ", "));
  HeldOutText text;
  if (sizes) text.sizes.emplace();
  std::int64_t tokens = 0;
  for (std::int64_t d = 0; d < file.num_docs() && (max_tokens == 0 || tokens < max_tokens); ++d) {
    if (file.lang(d) != wanted) continue;
    text.numbers.push_back(d);
    text.documents.push_back(request_of(file.document(d), prefix_of(file.info())));
    tokens += text.documents.back().num_scored();
    if (!sizes) continue;
    text.sizes->bytes.push_back(sizes->bytes[static_cast<std::size_t>(d)]);
    text.sizes->words.push_back(sizes->words[static_cast<std::size_t>(d)]);
  }
  NMOE_CHECK(tokens > 0, bad_data, "{}: no token to predict in the {} documents of language '{}'",
             file.path(), text.documents.size(), language);
  return text;
}

double Perplexity::nll() const {
  return -log_likelihood / static_cast<double>(tokens);
}

double Perplexity::ppl() const {
  return std::exp(nll());
}

Scores Perplexity::scores() const {
  Scores scores{{"ppl", ppl()}, {"nll", nll()}, {"tokens", tokens}, {"documents", documents}};
  scores.emplace_back("words", number_or_null(words));
  scores.emplace_back("bytes", number_or_null(bytes));
  const auto add_per = [&](const char* name, std::optional<std::int64_t> count, double (*of)(double)) {
    if (count && *count > 0)
      scores.emplace_back(name, of(-log_likelihood / static_cast<double>(*count)));
    else
      scores.emplace_back(name, nullptr);
  };
  const auto exponential = [](double nats) { return std::exp(nats); };
  add_per("word_perplexity", words, exponential);
  add_per("byte_perplexity", bytes, exponential);
  add_per("bits_per_byte", bytes, [](double nats) { return nats / std::numbers::ln2; });
  return scores;
}

Perplexity perplexity_of(const HeldOutText& text, std::span<const LogLikelihood> answers) {
  Perplexity result;
  result.documents = static_cast<std::int64_t>(text.documents.size());
  for (const LogLikelihood& answer : answers) {
    result.log_likelihood += answer.sum;
    result.tokens += answer.tokens;
  }
  if (!text.sizes) return result;
  const auto sum = [](const std::vector<std::uint64_t>& sizes) {
    return static_cast<std::int64_t>(std::accumulate(sizes.begin(), sizes.end(), std::uint64_t{0}));
  };
  result.bytes = sum(text.sizes->bytes);
  result.words = sum(text.sizes->words);
  return result;
}

}  // namespace nmoe::evaluation
