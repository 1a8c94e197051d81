// Sense sentences and documents from files, and the draws from them (METHOD 1.1 and 4.1).
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>
#include <utility>

#include "neuronmoe/analysis/sense.hpp"
#include "neuronmoe/base/hash.hpp"
#include "neuronmoe/base/philox.hpp"
#include "neuronmoe/base/sha256.hpp"
#include "neuronmoe/io/json_file.hpp"

namespace nmoe::analysis {
namespace {

/// Numbers of the drawn, ascending. `name` makes the stream of random numbers, so that a draw is the same
/// whatever the other languages are.
std::vector<std::size_t> draw(std::size_t available, std::int64_t wanted, std::uint64_t seed,
                              const std::string& name) {
  std::vector<std::size_t> order(available);
  std::iota(order.begin(), order.end(), std::size_t{0});
  if (static_cast<std::int64_t>(available) <= wanted) return order;
  const Philox random(seed, RandomPurpose::sense, fnv1a(name));
  for (std::size_t i = 0; i < static_cast<std::size_t>(wanted); ++i)  // the first steps of Fisher and Yates
    std::swap(order[i], order[i + random.below(i, available - i)]);
  order.resize(static_cast<std::size_t>(wanted));
  std::sort(order.begin(), order.end());
  return order;
}

/// Returns the texts of an array of the file.
std::vector<std::string> texts_of(const nlohmann::json& array, const std::string& path, const char* name) {
  std::vector<std::string> texts;
  for (const auto& sentence : array) {
    NMOE_CHECK(sentence.is_string(), bad_data, "{}: sentences.{}[{}] is not text", path, name, texts.size());
    texts.push_back(sentence.get<std::string>());
  }
  return texts;
}

void read_sense_object(SensePool& pool, Negatives negatives) {
  const nlohmann::json file = io::read_json(pool.path);
  NMOE_CHECK(file.is_object() && file.contains("sentences") && file["sentences"].is_object() &&
                 file["sentences"].contains("positive") && file["sentences"]["positive"].is_array(),
             bad_data, "{}: not a sense file; wanted an object with sentences.positive = [text, ...]",
             pool.path);
  if (file.contains("concept"))
    NMOE_CHECK(file["concept"] == pool.language, bad_data,
               "{}: its concept is {}, but it was given as language {}", pool.path, file["concept"].dump(),
               pool.language);
  pool.sentences = texts_of(file["sentences"]["positive"], pool.path, "positive");
  const auto list = file["sentences"].value("negative", nlohmann::json());
  const bool has_list = list.is_array() && !list.empty();
  NMOE_CHECK(negatives == Negatives::pool || has_list, bad_data,
             "{}: no sentences.negative = [text, ...]; sense.negatives = file needs it, pool does not",
             pool.path);
  if (negatives == Negatives::file)
    pool.negatives = texts_of(list, pool.path, "negative");
  else if (has_list)
    pool.num_unused_negatives = std::ssize(list);
}

struct JsonLine {
  std::string text, language, place;  // language: empty if the line has none
  std::int64_t position;              // of the line, from 0
};

/// Lines with text; blank ones are passed over. Ids, as text or numbers, may not come twice.
std::vector<JsonLine> read_json_lines(const std::string& path) {
  constexpr std::string_view keys[] = {"text", "lang", "id"};
  std::error_code unknown;  // opening a pipe would wait for its writer
  NMOE_CHECK(!std::filesystem::is_other(path, unknown), bad_data,
             "{} is not a regular file: pipes and devices are not read", path);
  std::ifstream file(path, std::ios::binary);
  NMOE_CHECK(file.good(), bad_data, "{}: cannot be opened", path);
  std::vector<JsonLine> lines;
  std::map<std::string, std::string> place_of_id;
  std::string text;
  for (std::int64_t number = 1; std::getline(file, text); ++number) {
    if (text.find_first_not_of(" \t\r") == std::string::npos) continue;
    const std::string place = fmt::format("{}:{}", path, number);
    const nlohmann::json line = io::parse_json_line(text, place, keys);
    NMOE_CHECK(line.is_object() && line.contains("text") && line["text"].is_string(), bad_data,
               "{}: wanted an object with \"text\"", place);
    JsonLine& entry = lines.emplace_back();
    entry.text = line["text"].get<std::string>();
    entry.place = place;
    entry.position = number - 1;
    if (line.contains("lang")) {
      NMOE_CHECK(line["lang"].is_string() && !line["lang"].get<std::string>().empty(), bad_data,
                 "{}: \"lang\" is {}, wanted a language code", place, line["lang"].dump());
      entry.language = line["lang"].get<std::string>();
    }
    if (!line.contains("id")) continue;
    const auto [earlier, fresh] = place_of_id.emplace(line["id"].dump(), place);
    NMOE_CHECK(fresh, bad_data, "{}: id {} was used before, at {}", place, earlier->first, earlier->second);
  }
  NMOE_CHECK(!file.bad(), io, "{}: read error", path);
  return lines;
}

void check_code(const std::string& language, const std::string& where, ErrorCode code) {
  if (language.empty() || language.find_first_of("/,.: \t") != std::string::npos)
    throw Error(code, fmt::format("{}: '{}' is not a language code", where, language));
}

SensePool& add_pool(std::vector<SensePool>& pools, const std::string& language, const std::string& path) {
  for (const auto& other : pools)
    NMOE_CHECK(other.language != language, config, "analysis.sense names language {} twice: {} and {}",
               language, other.path, path);
  return pools.emplace_back(SensePool{language, path, sha256_file(path), {}});
}

/// PATH.jsonl: every line says its language.
void read_labeled_lines(std::vector<SensePool>& pools, const std::string& path) {
  const std::size_t first = pools.size();
  for (auto& line : read_json_lines(path)) {
    NMOE_CHECK(!line.language.empty(), bad_data,
               "{}: no \"lang\"; give the file as LANG:{} if all of it is in one language", line.place, path);
    check_code(line.language, line.place, ErrorCode::bad_data);
    const auto begin = pools.begin() + static_cast<std::ptrdiff_t>(first);
    const auto known =
        std::find_if(begin, pools.end(), [&](const auto& p) { return p.language == line.language; });
    SensePool& pool = known != pools.end() ? *known : add_pool(pools, line.language, path);
    pool.sentences.push_back(std::move(line.text));
    pool.positions.push_back(line.position);
  }
  NMOE_CHECK(pools.size() > first, bad_data, "{}: no sentence in it", path);
}

/// LANG:PATH as its parts.
std::pair<std::string, std::string> split_spec(const std::string& spec, const char* key, const char* form) {
  const std::size_t colon = spec.find(':');
  NMOE_CHECK(colon != std::string::npos && colon > 0 && colon + 1 < spec.size(), config,
             "{} = '{}' is not {}", key, spec, form);
  check_code(spec.substr(0, colon), fmt::format("{} = '{}'", key, spec), ErrorCode::config);
  return {spec.substr(0, colon), spec.substr(colon + 1)};
}

/// The lines of a file whose language is known; a label that says otherwise is an error.
std::vector<JsonLine> read_lines_of(const std::string& language, const std::string& path) {
  auto lines = read_json_lines(path);
  for (const auto& line : lines)
    NMOE_CHECK(line.language.empty() || line.language == language, bad_data,
               "{}: \"lang\" is {}, but the file was given as language {}", line.place, line.language,
               language);
  return lines;
}

}  // namespace

std::vector<SensePool> read_sense_pools(std::span<const std::string> specs, Negatives negatives) {
  std::vector<SensePool> pools;
  for (const auto& spec : specs) {
    NMOE_CHECK(negatives == Negatives::pool || !spec.ends_with(".jsonl"), config,
               "analysis.sense = '{}' has no negatives of its own, which sense.negatives = file takes: give "
               "LANG:PATH.json with sentences.negative, or use sense.negatives = pool",
               spec);
    if (spec.ends_with(".jsonl") && spec.find(':') == std::string::npos) {
      read_labeled_lines(pools, spec);
      continue;
    }
    const auto [language, path] = split_spec(spec, "analysis.sense", "LANG:PATH.json or PATH.jsonl");
    SensePool pool{language, path, {}, {}};
    if (path.ends_with(".jsonl"))
      for (auto& line : read_lines_of(language, path)) {
        pool.sentences.push_back(std::move(line.text));
        pool.positions.push_back(line.position);
      }
    else
      read_sense_object(pool, negatives);
    SensePool& added = add_pool(pools, language, path);
    added.sentences = std::move(pool.sentences);
    added.positions = std::move(pool.positions);
    added.negatives = std::move(pool.negatives);
    added.num_unused_negatives = pool.num_unused_negatives;
  }
  NMOE_CHECK(pools.size() >= (negatives == Negatives::file ? 1U : 2U), config,
             "{} languages given; at least two are needed (analysis.sense = LANG:PATH.json, repeated), or "
             "sense.negatives = file",
             pools.size());
  for (const auto& pool : pools)
    NMOE_CHECK(pool.sentences.size() >= 2, bad_data,
               "{}: language {} has {} sentences; at least two are needed", pool.path, pool.language,
               pool.sentences.size());
  return pools;
}

void draw_shared(std::vector<SensePool>& pools, std::int64_t max_sentences, std::uint64_t seed) {
  NMOE_CHECK(max_sentences > 0, config, "analysis.sentences = {} must be positive", max_sentences);
  for (auto& pool : pools) {
    std::vector<std::string> kept;
    std::vector<std::int64_t> positions;
    for (const std::size_t i : draw(pool.sentences.size(), max_sentences, seed, pool.language)) {
      kept.push_back(std::move(pool.sentences[i]));
      positions.push_back(pool.position_of(i));
    }
    pool.sentences = std::move(kept);
    pool.positions = std::move(positions);
  }
}

void redraw_pools(std::vector<SensePool>& pools, std::span<const int> analysed, std::int64_t max_sentences,
                  std::uint64_t seed) {
  NMOE_CHECK(max_sentences > 0, config, "analysis.sentences = {} must be positive", max_sentences);
  for (auto& pool : pools) {
    std::vector<std::vector<std::uint8_t>> drawn(pool.sentences.size(),
                                                 std::vector<std::uint8_t>(pools.size(), 0));
    for (const int g : analysed) {
      const std::string name = pools[static_cast<std::size_t>(g)].language + ">" + pool.language;
      for (const std::size_t i : draw(pool.sentences.size(), max_sentences, seed, name))
        drawn[i][static_cast<std::size_t>(g)] = 1;
    }
    std::vector<std::string> kept;
    std::vector<std::int64_t> positions;
    pool.drawn_for.clear();
    for (std::size_t i = 0; i < drawn.size(); ++i) {
      if (std::find(drawn[i].begin(), drawn[i].end(), 1) == drawn[i].end()) continue;
      kept.push_back(std::move(pool.sentences[i]));
      positions.push_back(pool.position_of(i));
      pool.drawn_for.push_back(std::move(drawn[i]));
    }
    pool.sentences = std::move(kept);
    pool.positions = std::move(positions);
  }
}

SampleSet tokenize_documents(std::span<const std::string> specs, const data::Tokenizer& tokenizer,
                             std::int64_t num_tokens, std::int64_t max_length) {
  constexpr std::size_t longest = 32000;  // METHOD 4.1
  SampleSet set;
  set.has_bos = tokenizer.bos_rule().id >= 0;
  const std::size_t empty = set.has_bos ? 1 : 0;  // a text without tokens of its own
  for (const auto& spec : specs) {
    const auto [language, path] = split_spec(spec, "analysis.similarity_text", "LANG:PATH.jsonl");
    NMOE_CHECK(std::find(set.languages.begin(), set.languages.end(), language) == set.languages.end(), config,
               "analysis.similarity_text names language {} twice", language);
    const int index = static_cast<int>(set.languages.size());
    set.languages.push_back(language);
    std::int64_t kept = 0, dropped = 0, tokens = 0;
    for (const auto& line : read_lines_of(language, path)) {
      if (tokens >= num_tokens) break;
      std::vector<std::int32_t> ids = tokenizer.encode_sentence(line.text);
      if (ids.size() == empty || ids.size() > longest) {
        ++dropped;
        continue;
      }
      // Attention looks back only: the first tokens of a text are the same whether the rest is there or not.
      ids.resize(static_cast<std::size_t>(
          std::min({static_cast<std::int64_t>(ids.size()), max_length, num_tokens - tokens})));
      tokens += static_cast<std::int64_t>(ids.size());
      ++kept;
      set.samples.push_back({index, std::move(ids)});
    }
    NMOE_CHECK(tokens > 0, bad_data, "{}: no text of at most {} tokens in it", path, longest);
    set.num_kept.push_back(kept);
    set.num_dropped.push_back(dropped);
    set.num_tokens.push_back(tokens);
  }
  NMOE_CHECK(set.languages.size() >= 2, config,
             "analysis.similarity_text has {} languages; similarity needs at least two",
             set.languages.size());
  return set;
}

}  // namespace nmoe::analysis
