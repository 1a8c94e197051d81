// tiktoken rank files: lines "base64 rank". The expression, special tokens and normalization are not in the
// file; they follow from which model it is of.
#include <algorithm>
#include <array>
#include <charconv>
#include <filesystem>
#include <unordered_map>

#include "bpe_tokenizer.hpp"
#include "neuronmoe/base/error.hpp"
#include "neuronmoe/base/sha256.hpp"
#include "neuronmoe/io/atomic_file.hpp"

namespace nmoe::data {
namespace {

constexpr std::int64_t max_file_bytes = std::int64_t{16} << 20;
constexpr std::size_t max_token_bytes = 256;
constexpr std::int32_t llama3_ranks = 128000, qwen_ranks = 151643, gpt2_ranks = 50256;
constexpr int llama3_specials = 256;

std::array<std::int8_t, 256> make_base64_values() {
  std::array<std::int8_t, 256> values{};
  values.fill(-1);
  std::int8_t next = 0;
  for (const char c : std::string_view("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"))
    values[static_cast<unsigned char>(c)] = next++;
  return values;
}

/// @throws Error(bad_data) with the bare reason
std::string decode_base64(std::string_view text) {
  static const std::array<std::int8_t, 256> values = make_base64_values();
  NMOE_CHECK(!text.empty() && text.size() % 4 == 0, bad_data, "base64 of {} characters", text.size());
  std::size_t padding = 0;
  while (padding < 2 && text[text.size() - 1 - padding] == '=') ++padding;
  std::string bytes;
  unsigned bits = 0;
  int num_bits = 0;
  for (const char c : text.substr(0, text.size() - padding)) {
    const int value = values[static_cast<unsigned char>(c)];
    NMOE_CHECK(value >= 0, bad_data, "a character that is not base64");
    bits = bits << 6U | static_cast<unsigned>(value);
    num_bits += 6;
    if (num_bits < 8) continue;
    num_bits -= 8;
    bytes += static_cast<char>(bits >> static_cast<unsigned>(num_bits) & 0xFFU);
  }
  NMOE_CHECK((bits & ((1U << static_cast<unsigned>(num_bits)) - 1U)) == 0, bad_data,
             "base64 with stray bits at its end");
  return bytes;
}

/// Rank and token of one line. @throws Error(bad_data) with the bare reason
std::pair<std::int32_t, std::string> parse_line(std::string_view line) {
  const std::size_t space = line.find(' ');
  NMOE_CHECK(space != std::string_view::npos, bad_data, "no space between token and rank");
  std::string token = decode_base64(line.substr(0, space));
  NMOE_CHECK(token.size() <= max_token_bytes, bad_data, "token of {} bytes; at most {} are read",
             token.size(), max_token_bytes);
  const std::string_view digits = line.substr(space + 1);
  std::int32_t rank = -1;
  const auto [end, fault] = std::from_chars(digits.data(), digits.data() + digits.size(), rank);
  NMOE_CHECK(fault == std::errc{} && end == digits.data() + digits.size() && rank >= 0, bad_data,
             "the rank is not a number from 0 up");
  return {rank, std::move(token)};
}

/// Token bytes by rank: ranks 0 to n − 1, each once, no token twice.
std::vector<std::string> parse_ranks(std::string_view bytes, const std::string& path) {
  std::vector<std::pair<std::int32_t, std::string>> lines;
  std::int64_t number = 0;
  while (!bytes.empty()) {
    ++number;
    const std::size_t newline = bytes.find('\n');
    std::string_view line = bytes.substr(0, newline);
    bytes.remove_prefix(newline == std::string_view::npos ? bytes.size() : newline + 1);
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.empty()) continue;
    try {
      lines.push_back(parse_line(line));
    } catch (const Error& e) {
      throw Error(ErrorCode::bad_data,
                  fmt::format("{}:{}: {}; a rank file has lines of \"base64 rank\"", path, number, e.what()));
    }
  }
  std::vector<std::string> tokens(lines.size());
  for (auto& [rank, token] : lines) {
    const auto at = static_cast<std::size_t>(rank);
    NMOE_CHECK(at < tokens.size(), bad_data,
               "{}: rank {} in a file of {} tokens; ranks run from 0 without gaps", path, rank,
               tokens.size());
    NMOE_CHECK(tokens[at].empty(), bad_data, "{}: rank {} is given twice", path, rank);
    tokens[at] = std::move(token);
  }
  return tokens;
}

/// A rank file without some byte is damaged: merging begins with all 256.
void require_all_bytes(const std::vector<std::string>& tokens, const std::string& path) {
  std::array<bool, 256> present{};
  for (const std::string& token : tokens)
    if (token.size() == 1) present[static_cast<unsigned char>(token[0])] = true;
  const auto missing = std::find(present.begin(), present.end(), false);
  NMOE_CHECK(missing == present.end(), bad_data, "{}: byte 0x{:02X} has no token; a rank file has all 256",
             path, missing - present.begin());
}

/// Every pair of tokens that spells a token merges into it, in the order of the ranks.
std::vector<BpeMerge> merges_of(const std::vector<std::string>& tokens, const std::string& path) {
  std::unordered_map<std::string_view, std::int32_t> rank_of;
  rank_of.reserve(tokens.size());
  for (std::size_t i = 0; i < tokens.size(); ++i)
    NMOE_CHECK(rank_of.emplace(tokens[i], static_cast<std::int32_t>(i)).second, bad_data,
               "{}: ranks {} and {} are the same token", path, rank_of.at(tokens[i]), i);
  std::vector<BpeMerge> merges;
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    const std::string_view token = tokens[i];
    const auto rank = static_cast<std::int32_t>(i);
    for (std::size_t cut = 1; cut < token.size(); ++cut) {
      const auto left = rank_of.find(token.substr(0, cut));
      if (left == rank_of.end()) continue;
      const auto right = rank_of.find(token.substr(cut));
      if (right != rank_of.end()) merges.push_back({left->second, right->second, rank, rank});
    }
  }
  return merges;
}

RankFamily family_of(std::size_t num_ranks, const std::string& path) {
  if (num_ranks == llama3_ranks) return RankFamily::llama3;
  if (num_ranks == qwen_ranks) return RankFamily::qwen;
  NMOE_CHECK(
      num_ranks == gpt2_ranks, bad_data,
      "{}: {} ranks; a rank file does not say how text is split, and only those of Llama 3 ({} ranks), "
      "Qwen ({}) and GPT-2 ({}) are known; bring the model's tokenizer.json",
      path, num_ranks, llama3_ranks, qwen_ranks, gpt2_ranks);
  return RankFamily::gpt2;
}

/// The 256 special tokens of Llama 3.1 and later, in id order.
std::vector<std::string> llama3_special_tokens() {
  std::vector<std::string> names = {"<|begin_of_text|>",
                                    "<|end_of_text|>",
                                    "<|reserved_special_token_0|>",
                                    "<|reserved_special_token_1|>",
                                    "<|finetune_right_pad_id|>",
                                    "<|reserved_special_token_2|>",
                                    "<|start_header_id|>",
                                    "<|end_header_id|>",
                                    "<|eom_id|>",
                                    "<|eot_id|>",
                                    "<|python_tag|>"};
  for (int i = 3; names.size() < llama3_specials; ++i)
    names.push_back(fmt::format("<|reserved_special_token_{}|>", i));
  return names;
}

void apply_family(BpeParts& parts, RankFamily family) {
  const auto first = static_cast<std::int32_t>(parts.tokens.size());
  std::vector<std::string> specials = {"<|endoftext|>"};
  parts.splits.emplace_back(family == RankFamily::llama3 ? llama3_split
                            : family == RankFamily::qwen ? qwen_split
                                                         : gpt2_split);
  parts.eos_id = first;
  if (family == RankFamily::llama3) {
    specials = llama3_special_tokens();
    parts.bos_id = parts.bos_rule.id = first;
    parts.eos_id = first + 1;
  } else if (family == RankFamily::qwen) {
    specials = {"<|endoftext|>", "<|im_start|>", "<|im_end|>"};
    parts.nfc = true;
  }
  for (std::string& content : specials)
    parts.added.push_back(
        {.id = static_cast<std::int32_t>(first + static_cast<std::int32_t>(parts.added.size())),
         .content = std::move(content)});
}

}  // namespace

std::unique_ptr<Tokenizer> parse_rank_file(const std::string& bytes, const std::string& path,
                                           RankFamily family) {
  BpeParts parts;
  parts.kind = "tiktoken";
  parts.path = path;
  parts.sha256 = sha256_text(bytes);
  parts.tokens = parse_ranks(bytes, path);
  if (family == RankFamily::by_size) family = family_of(parts.tokens.size(), path);
  parts.merges = merges_of(parts.tokens, path);
  require_all_bytes(parts.tokens, path);
  parts.whole_pieces = true;
  parts.bos_rule.source = std::filesystem::path(path).filename().string();
  apply_family(parts, family);
  return make_bpe_tokenizer(std::move(parts));
}

std::unique_ptr<Tokenizer> load_rank_file(const std::string& path, RankFamily family) {
  return parse_rank_file(io::read_file(path, max_file_bytes), path, family);
}

}  // namespace nmoe::data
