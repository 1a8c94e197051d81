// Tokenizes sense sentences, forms batches of them, and runs these through the model.
#include "neuronmoe/analysis/sense.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <utility>

namespace nmoe::analysis {
namespace {

/// One rank's batch of a round and the samples of all ranks in it.
struct Round {
  std::vector<std::int64_t> samples;
  model::BatchBuilder builder;
  std::vector<std::int32_t> row_sample;
};

/// @param batches of the round, by rank; the last round may have fewer than there are ranks
void fill_round(Round& round, const SampleSet& samples, std::span<const std::vector<std::int64_t>> batches,
                std::size_t rank, bool skip_bos) {
  round.samples.clear();
  round.builder.clear();
  round.row_sample.clear();
  std::int64_t skipped = 0;  // index that stands for "not pooled": behind the last sample of the round
  for (const auto& batch : batches) skipped += std::ssize(batch);
  for (std::size_t r = 0; r < batches.size(); ++r) {
    for (const std::int64_t s : batches[r]) {
      if (r == rank) {
        const auto& ids = samples.samples[static_cast<std::size_t>(s)].ids;
        const std::size_t begin = round.row_sample.size();
        round.builder.add(ids, {}, {});
        round.row_sample.resize(begin + ids.size(), static_cast<std::int32_t>(round.samples.size()));
        if (skip_bos && samples.has_bos) round.row_sample[begin] = static_cast<std::int32_t>(skipped);
      }
      round.samples.push_back(s);
    }
  }
}

/// Two classes per pool, positives and negatives; a language takes no part in the ranking of another.
SampleRoles roles_of_own_negatives(const SampleSet& set, std::span<const int> analysed) {
  const auto pools = static_cast<int>(set.languages.size());
  SampleRoles roles;
  roles.num_languages = static_cast<int>(analysed.size());
  roles.num_classes = 2 * pools;
  for (const auto& sample : set.samples)
    roles.class_of_sample.push_back(
        static_cast<std::uint16_t>(sample.language + (sample.negative ? pools : 0)));
  for (const int language : analysed) {
    for (int c = 0; c < 2 * pools; ++c)
      roles.roles.push_back(c % pools != language ? Role::absent
                            : c < pools           ? Role::positive
                                                  : Role::negative);
  }
  return roles;
}

/// Ids of a sentence; none if it is dropped: longer than `max_tokens`, or `empty` tokens, BOS or nothing.
std::vector<std::int32_t> ids_of(const std::string& sentence, const data::Tokenizer& tokenizer,
                                 std::int64_t max_tokens, std::size_t empty) {
  std::vector<std::int32_t> ids = tokenizer.encode_sentence(sentence);
  if (ids.size() == empty || static_cast<std::int64_t>(ids.size()) > max_tokens) ids.clear();
  return ids;
}

}  // namespace

std::string describe_shared_sentences(std::span<const SensePool> pools) {
  constexpr int quoted_chars = 60;
  std::map<std::string_view, std::pair<std::size_t, bool>> seen;  // first pool; whether another has it too
  std::int64_t shared = 0;
  std::string first;
  for (std::size_t p = 0; p < pools.size(); ++p) {
    for (const std::string& sentence : pools[p].sentences) {
      const auto [it, fresh] = seen.try_emplace(sentence, p, false);
      if (fresh || it->second.first == p || it->second.second) continue;
      it->second.second = true;
      ++shared;
      if (first.empty())
        first = fmt::format("{} and {}: \"{:.{}}\"", pools[it->second.first].language, pools[p].language,
                            sentence, quoted_chars);
    }
  }
  if (shared == 0) return "";
  return fmt::format(
      "{} sentences stand in more than one language ({}): no neuron can tell them apart, which lowers every "
      "AP; "
      "take them out",
      shared, first);
}

std::int32_t SampleSet::largest_id() const {
  std::int32_t largest = -1;
  for (const Sample& sample : samples)
    for (const std::int32_t id : sample.ids) largest = std::max(largest, id);
  return largest;
}

std::vector<int> SampleSet::language_of_sample() const {
  std::vector<int> result;
  for (const auto& sample : samples) result.push_back(sample.negative ? -1 : sample.language);
  return result;
}

SampleRoles SampleSet::roles(std::span<const int> analysed) const {
  const auto num_languages = static_cast<int>(languages.size());
  const bool own_negatives =
      std::any_of(samples.begin(), samples.end(), [](const Sample& s) { return s.negative; });
  if (own_negatives) return roles_of_own_negatives(*this, analysed);
  if (samples.empty() || samples[0].drawn_for.empty())
    return shared_pool_roles(language_of_sample(), num_languages, analysed);
  // One class for each language and set of languages that drew the sample.
  SampleRoles roles;
  std::map<std::pair<int, std::vector<std::uint8_t>>, std::uint16_t> classes;
  for (const auto& sample : samples) {
    const auto [it, fresh] =
        classes.try_emplace({sample.language, sample.drawn_for}, static_cast<std::uint16_t>(classes.size()));
    NMOE_CHECK(!fresh || classes.size() < 32768, bad_data,
               "the draws fall into more than 32767 classes of samples");
    roles.class_of_sample.push_back(it->second);
  }
  roles.num_languages = static_cast<int>(analysed.size());
  roles.num_classes = static_cast<int>(classes.size());
  roles.roles.resize(analysed.size() * classes.size());
  for (const auto& [key, id] : classes) {
    for (std::size_t g = 0; g < analysed.size(); ++g) {
      const bool drawn = key.second[static_cast<std::size_t>(analysed[g])] != 0;
      roles.roles[g * classes.size() + id] = !drawn                     ? Role::absent
                                             : key.first == analysed[g] ? Role::positive
                                                                        : Role::negative;
    }
  }
  return roles;
}

SampleSet tokenize_pools(std::span<const SensePool> pools, const data::Tokenizer& tokenizer,
                         std::int64_t max_tokens) {
  NMOE_CHECK(max_tokens > 0, config, "analysis.max_tokens = {} must be positive", max_tokens);
  SampleSet set;
  set.has_bos = tokenizer.bos_rule().id >= 0;
  const std::size_t empty = set.has_bos ? 1 : 0;  // a sentence without tokens of its own
  for (std::size_t p = 0; p < pools.size(); ++p) {
    set.languages.push_back(pools[p].language);
    set.paths.push_back(pools[p].path);
    std::int64_t kept = 0, dropped = 0, tokens = 0;
    for (std::size_t i = 0; i < pools[p].sentences.size(); ++i) {
      std::vector<std::int32_t> ids = ids_of(pools[p].sentences[i], tokenizer, max_tokens, empty);
      if (ids.empty()) {
        ++dropped;
        continue;
      }
      ++kept;
      tokens += static_cast<std::int64_t>(ids.size());
      set.samples.push_back({static_cast<int>(p), std::move(ids),
                             pools[p].drawn_for.empty() ? std::vector<std::uint8_t>() : pools[p].drawn_for[i],
                             false, pools[p].position_of(i)});
    }
    std::int64_t negatives = 0;
    for (std::size_t i = 0; i < pools[p].negatives.size(); ++i) {
      std::vector<std::int32_t> ids = ids_of(pools[p].negatives[i], tokenizer, max_tokens, empty);
      if (ids.empty()) continue;
      ++negatives;
      set.samples.push_back({static_cast<int>(p), std::move(ids), {}, true, static_cast<std::int64_t>(i)});
    }
    set.num_negatives.push_back(negatives);
    set.num_dropped_negatives.push_back(std::ssize(pools[p].negatives) - negatives);
    NMOE_CHECK(kept > 0, bad_data,
               "{}: all {} sentences of {} have more than {} tokens or none; raise analysis.max_tokens",
               pools[p].path, dropped, pools[p].language, max_tokens);
    NMOE_CHECK(kept >= 2, bad_data,
               "{}: {} is left with one sentence, {} were dropped for having more than {} tokens or none; a "
               "language needs at least two",
               pools[p].path, pools[p].language, dropped, max_tokens);
    set.num_kept.push_back(kept);
    set.num_dropped.push_back(dropped);
    set.num_tokens.push_back(tokens);
  }
  return set;
}

std::vector<std::vector<std::int64_t>> form_batches(const SampleSet& samples, std::int64_t batch_tokens) {
  std::vector<std::int64_t> order(samples.samples.size());
  std::iota(order.begin(), order.end(), std::int64_t{0});
  const auto length = [&](std::int64_t s) {
    return static_cast<std::int64_t>(samples.samples[static_cast<std::size_t>(s)].ids.size());
  };
  std::stable_sort(order.begin(), order.end(),
                   [&](std::int64_t a, std::int64_t b) { return length(a) > length(b); });
  std::vector<std::vector<std::int64_t>> batches;
  std::int64_t tokens = 0;
  for (const std::int64_t s : order) {
    if (batches.empty() || tokens + length(s) > batch_tokens) {
      batches.emplace_back();
      tokens = 0;
    }
    batches.back().push_back(s);
    tokens += length(s);
  }
  return batches;
}

void run_sense_pass(comm::ExecutionContext& context, const SampleSet& samples, std::int64_t batch_tokens,
                    bool skip_bos, const ObserveFunction& observe, RoundObserver& observer) {
  const auto batches = form_batches(samples, batch_tokens);
  const auto world_size = static_cast<std::size_t>(context.world.size());
  const auto rank = static_cast<std::size_t>(context.world.rank());
  Progress progress(context.log, "sense samples", static_cast<std::uint64_t>(samples.size()), "tokens");
  Round round;
  std::uint64_t done = 0;
  double tokens = 0.0;
  for (std::size_t first = 0; first < batches.size(); first += world_size) {
    const std::size_t count = std::min(world_size, batches.size() - first);
    fill_round(round, samples, std::span(batches).subspan(first, count), rank, skip_bos);
    model::Batch batch = round.builder.batch();
    batch.row_sample = ConstTensorView(round.row_sample.data(), DType::int32,
                                       {static_cast<std::int64_t>(round.row_sample.size())});
    observer.begin_round(round.samples);
    observe(batch, observer);
    observer.end_round();
    done += round.samples.size();
    for (const std::int64_t s : round.samples)
      tokens += static_cast<double>(samples.samples[static_cast<std::size_t>(s)].ids.size());
    context.heartbeat.beat();
    progress.update(done, tokens);
  }
}

}  // namespace nmoe::analysis
