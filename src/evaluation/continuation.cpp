// The continuation task: reads items, scores their choices, and counts the right ones.
#include "neuronmoe/evaluation/continuation.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <numeric>
#include <sstream>

#include "gather.hpp"
#include "neuronmoe/io/atomic_file.hpp"
#include "neuronmoe/io/json_file.hpp"

namespace nmoe::evaluation {
namespace {

ContinuationItem parse_item(const std::string& line, const std::string& where) {
  constexpr std::string_view keys[] = {"context", "choices", "gold"};
  const nlohmann::json json = io::parse_json_line(line, where, keys);
  NMOE_CHECK(json.is_object() && json.contains("context") && json["context"].is_string() &&
                 json.contains("choices") && json["choices"].is_array() && json.contains("gold") &&
                 json["gold"].is_number_unsigned(),
             bad_data, "{}: wanted {{\"context\": text, \"choices\": [text, ...], \"gold\": index}}", where);
  ContinuationItem item;
  item.context = json["context"].get<std::string>();
  for (const auto& choice : json["choices"]) {
    NMOE_CHECK(choice.is_string(), bad_data, "{}: choices[{}] is not text", where, item.choices.size());
    item.choices.push_back(choice.get<std::string>());
  }
  item.gold = json["gold"].get<std::size_t>();
  NMOE_CHECK(item.choices.size() >= 2 && item.gold < item.choices.size(), bad_data,
             "{}: gold = {} of {} choices", where, item.gold, item.choices.size());
  return item;
}

/// EOS, given tokens, choice; only the choice is scored.
void add_sequence(model::BatchBuilder& builder, std::int32_t eos_id, std::span<const std::int32_t> given,
                  std::span<const std::int32_t> choice) {
  std::vector<std::int32_t> ids{eos_id};
  ids.insert(ids.end(), given.begin(), given.end());
  std::vector<std::int32_t> labels(ids.size() - 1, -100);
  labels.insert(labels.end(), choice.begin(), choice.end());
  ids.insert(ids.end(), choice.begin(), choice.end() - 1);  // the last token is predicted, never read
  builder.add(ids, labels, {});
}

void add_item(model::BatchBuilder& builder, const TokenizedItem& item, std::int32_t eos_id,
              std::int64_t max_positions) {
  for (const auto& choice : item.choices) {
    const auto room = static_cast<std::size_t>(max_positions) - choice.size();
    const std::size_t skip = item.context.size() > room ? item.context.size() - room : 0;
    add_sequence(builder, eos_id, std::span(item.context).subspan(skip), choice);
    add_sequence(builder, eos_id, {}, choice);
  }
}

std::vector<double> choice_scores(const TokenizedItem& item, const model::Batch& batch,
                                  const std::vector<double>& log_probs) {
  const auto sum = [&](std::size_t sequence) {  // ignored labels contribute 0
    return std::accumulate(log_probs.begin() + batch.offsets[sequence],
                           log_probs.begin() + batch.offsets[sequence + 1], 0.0);
  };
  std::vector<double> scores;
  for (std::size_t c = 0; c < item.choices.size(); ++c)
    scores.push_back((sum(2 * c) - sum(2 * c + 1)) / static_cast<double>(item.choices[c].size()));
  return scores;
}

/// Shares the scores out to the items; `records` are pairs (number of the choice in all items, score),
/// ascending.
ContinuationResult outcome_of(std::span<const TokenizedItem> items, std::span<const double> records) {
  ContinuationResult outcome;
  outcome.n = static_cast<std::int64_t>(items.size());
  double right = 0.0;
  std::size_t next = 0;
  for (const TokenizedItem& item : items) {
    ItemResult& result = outcome.items.emplace_back(ItemResult{item.gold, 0, {}});
    bool finite = true;
    for (std::size_t c = 0; c < item.choices.size(); ++c, ++next) {
      result.scores.push_back(records[2 * next + 1]);
      finite = finite && std::isfinite(result.scores[c]);
      if (result.scores[c] > result.scores[result.chosen]) result.chosen = c;
    }
    right += !finite ? std::numeric_limits<double>::quiet_NaN() : result.chosen == result.gold ? 1.0 : 0.0;
  }
  const auto n = static_cast<double>(outcome.n);
  if (outcome.n > 0) outcome.acc = right / n;
  if (outcome.n > 1) outcome.stderr_ = std::sqrt(outcome.acc * (1.0 - outcome.acc) / (n - 1.0));
  return outcome;
}

}  // namespace

std::vector<ContinuationItem> load_continuation_items(const std::string& path, std::int64_t limit) {
  std::istringstream file(io::read_file(path));
  std::vector<ContinuationItem> all;
  std::string line;
  for (int number = 1; std::getline(file, line); ++number) {
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    all.push_back(parse_item(line, fmt::format("{}:{}", path, number)));
  }
  NMOE_CHECK(!all.empty(), bad_data, "{}: no item in it", path);
  if (limit > 0 && static_cast<std::size_t>(limit) < all.size()) all.resize(static_cast<std::size_t>(limit));
  return all;
}

std::vector<TokenizedItem> tokenize_items(std::span<const ContinuationItem> items,
                                          const data::Tokenizer& tokenizer) {
  std::vector<TokenizedItem> result;
  for (const auto& item : items) {
    TokenizedItem tokenized{tokenizer.encode(item.context), {}, item.gold};
    for (const auto& choice : item.choices) {
      tokenized.choices.push_back(tokenizer.encode(choice));
      NMOE_CHECK(!tokenized.choices.back().empty(), bad_data, "item {}: choice {} has no token",
                 result.size(), tokenized.choices.size() - 1);
    }
    result.push_back(std::move(tokenized));
  }
  return result;
}

std::int32_t largest_id(std::span<const TokenizedItem> items) {
  std::int32_t largest = -1;
  for (const TokenizedItem& item : items) {
    for (const std::int32_t id : item.context) largest = std::max(largest, id);
    for (const auto& choice : item.choices) largest = std::max(largest, std::ranges::max(choice));
  }
  return largest;
}

ContinuationResult measure_continuation(comm::ExecutionContext& context, std::span<const TokenizedItem> items,
                                        std::int32_t eos_id, std::int64_t max_positions,
                                        const LogProbFunction& log_probs) {
  NMOE_CHECK(eos_id >= 0, config,
             "the continuation task starts from EOS, and the model names none (eos_token_id)");
  for (std::size_t i = 0; i < items.size(); ++i) {
    for (const auto& choice : items[i].choices)
      NMOE_CHECK(static_cast<std::int64_t>(choice.size()) <= max_positions, bad_data,
                 "item {}: a choice has {} tokens, the model takes {}", i, choice.size(), max_positions);
  }
  const auto world_size = static_cast<std::size_t>(context.world.size());
  const auto rank = static_cast<std::size_t>(context.world.rank());
  std::vector<std::size_t> first_choice{0};  // of each item, counted through all of them
  for (const TokenizedItem& item : items) first_choice.push_back(first_choice.back() + item.choices.size());
  std::vector<double> mine;
  Progress progress(context.log, "continuation", items.size(), "items");
  model::BatchBuilder builder;
  for (std::size_t first = 0; first < items.size(); first += world_size) {
    builder.clear();
    const std::size_t i = first + rank;
    if (i < items.size()) add_item(builder, items[i], eos_id, max_positions);
    const model::Batch batch = builder.batch();
    const auto result = log_probs(batch, nullptr);
    if (i < items.size()) {
      const std::vector<double> scores = choice_scores(items[i], batch, result);
      for (std::size_t c = 0; c < scores.size(); ++c)
        mine.insert(mine.end(), {static_cast<double>(first_choice[i] + c), scores[c]});
    }
    context.heartbeat.beat();
    const std::size_t done = std::min(items.size(), first + world_size);
    progress.update(done, static_cast<double>(done));
  }
  return outcome_of(items, gather_records(context.world, context.stream, mine, 2));
}

}  // namespace nmoe::evaluation
