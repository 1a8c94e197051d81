#include "neuronmoe/analysis/sense.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <numeric>

#include "neuronmoe/base/philox.hpp"
#include "neuronmoe/base/sha256.hpp"
#include "neuronmoe/io/json_file.hpp"

namespace nmoe::analysis {
namespace {

// Stream of a language's draw: the same whatever the other languages are (FNV-1a of the code).
std::uint32_t stream_of(const std::string& language) {
  std::uint32_t hash = 2166136261U;
  for (const char c : language) hash = (hash ^ static_cast<unsigned char>(c)) * 16777619U;
  return hash;
}

std::vector<std::string> draw(std::vector<std::string> all, std::int64_t wanted, std::uint64_t seed,
                              const std::string& language) {
  if (static_cast<std::int64_t>(all.size()) <= wanted) return all;
  const Philox random(seed, RandomPurpose::sense, stream_of(language));
  std::vector<std::size_t> order(all.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  for (std::size_t i = 0; i < static_cast<std::size_t>(wanted); ++i)  // the first steps of Fisher and Yates
    std::swap(order[i], order[i + random.below(i, all.size() - i)]);
  order.resize(static_cast<std::size_t>(wanted));
  std::sort(order.begin(), order.end());
  std::vector<std::string> drawn;
  for (const std::size_t i : order) drawn.push_back(std::move(all[i]));
  return drawn;
}

std::vector<std::string> read_positives(const std::string& path, const std::string& language) {
  const nlohmann::json file = io::read_json(path);
  NMOE_CHECK(file.is_object() && file.contains("sentences") && file["sentences"].is_object() &&
                 file["sentences"].contains("positive") && file["sentences"]["positive"].is_array(),
             bad_data, "{}: not a sense file; wanted an object with sentences.positive = [text, ...]", path);
  if (file.contains("concept"))
    NMOE_CHECK(file["concept"] == language, bad_data,
               "{}: its concept is {}, but it was given as language {}", path, file["concept"].dump(),
               language);
  std::vector<std::string> sentences;
  for (const auto& sentence : file["sentences"]["positive"]) {
    NMOE_CHECK(sentence.is_string(), bad_data, "{}: sentences.positive[{}] is not text", path,
               sentences.size());
    sentences.push_back(sentence.get<std::string>());
  }
  NMOE_CHECK(!sentences.empty(), bad_data, "{}: sentences.positive is empty", path);
  return sentences;
}

// One rank's batch of a round and the samples of all ranks in it.
struct Round {
  std::vector<std::int64_t> samples;
  model::BatchBuilder builder;
  std::vector<std::int32_t> row_sample;
};

void fill_round(Round& round, const SampleSet& samples, std::span<const std::vector<std::int64_t>> batches,
                std::size_t first, int world_size, int rank, bool skip_bos) {
  round.samples.clear();
  round.builder.clear();
  round.row_sample.clear();
  std::int64_t skipped = 0;  // index that stands for "not pooled": behind the last sample of the round
  for (int r = 0; r < world_size && first + static_cast<std::size_t>(r) < batches.size(); ++r)
    skipped += static_cast<std::int64_t>(batches[first + static_cast<std::size_t>(r)].size());
  for (int r = 0; r < world_size && first + static_cast<std::size_t>(r) < batches.size(); ++r) {
    for (const std::int64_t s : batches[first + static_cast<std::size_t>(r)]) {
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

}  // namespace

std::vector<SensePool> load_sense_pools(std::span<const std::string> specs, std::int64_t max_sentences,
                                        std::uint64_t seed) {
  NMOE_CHECK(
      specs.size() >= 2, config,
      "{} sense files given; at least two languages are needed (analysis.sense = LANG:PATH.json, repeated)",
      specs.size());
  NMOE_CHECK(max_sentences > 0, config, "analysis.sentences = {} must be positive", max_sentences);
  std::vector<SensePool> pools;
  for (const auto& spec : specs) {
    const std::size_t colon = spec.find(':');
    NMOE_CHECK(colon != std::string::npos && colon > 0 && colon + 1 < spec.size(), config,
               "analysis.sense = '{}' is not LANG:PATH.json", spec);
    SensePool pool{spec.substr(0, colon), spec.substr(colon + 1), {}, {}};
    NMOE_CHECK(pool.language.find_first_of("/,. \t") == std::string::npos, config,
               "analysis.sense = '{}': '{}' is not a language code", spec, pool.language);
    for (const auto& other : pools)
      NMOE_CHECK(other.language != pool.language, config, "analysis.sense names language {} twice: {} and {}",
                 pool.language, other.path, pool.path);
    pool.sentences = draw(read_positives(pool.path, pool.language), max_sentences, seed, pool.language);
    pool.sha256 = sha256_file(pool.path);
    pools.push_back(std::move(pool));
  }
  return pools;
}

std::vector<int> SampleSet::language_of_sample() const {
  std::vector<int> result;
  for (const auto& sample : samples) result.push_back(sample.language);
  return result;
}

std::int32_t sense_bos(const data::Tokenizer& tokenizer, const model::ModelConfig& config) {
  if (tokenizer.add_bos()) return tokenizer.bos_id();
  return config.model_type == "llama" ? static_cast<std::int32_t>(config.bos_token_id) : -1;
}

SampleSet tokenize_pools(std::span<const SensePool> pools, const data::Tokenizer& tokenizer,
                         std::int32_t bos_id, std::int64_t max_tokens) {
  NMOE_CHECK(max_tokens > 0, config, "analysis.max_tokens = {} must be positive", max_tokens);
  SampleSet set;
  set.has_bos = bos_id >= 0;
  for (std::size_t p = 0; p < pools.size(); ++p) {
    set.languages.push_back(pools[p].language);
    std::int64_t kept = 0, dropped = 0, tokens = 0;
    for (const auto& sentence : pools[p].sentences) {
      std::vector<std::int32_t> ids;
      if (set.has_bos) ids.push_back(bos_id);
      const auto encoded = tokenizer.encode(sentence);
      ids.insert(ids.end(), encoded.begin(), encoded.end());
      if (encoded.empty() || static_cast<std::int64_t>(ids.size()) > max_tokens) {
        ++dropped;
        continue;
      }
      ++kept;
      tokens += static_cast<std::int64_t>(ids.size());
      set.samples.push_back({static_cast<int>(p), std::move(ids)});
    }
    NMOE_CHECK(kept > 0, bad_data,
               "{}: all {} sentences have more than {} tokens or none; raise analysis.max_tokens",
               pools[p].path, dropped, max_tokens);
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
  const int world_size = context.world.size(), rank = context.world.rank();
  Progress progress(context.log, "sense samples", static_cast<std::uint64_t>(samples.size()), "tokens");
  Round round;
  std::uint64_t done = 0;
  double tokens = 0.0;
  for (std::size_t first = 0; first < batches.size(); first += static_cast<std::size_t>(world_size)) {
    fill_round(round, samples, batches, first, world_size, rank, skip_bos);
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
