// A byte-level BPE tokenizer: added tokens, normalization, splitting, then the merges of each piece.
#include "bpe_tokenizer.hpp"

#include <array>
#include <mutex>

#include "byte_alphabet.hpp"
#include "neuronmoe/base/error.hpp"
#include "neuronmoe/data/jsonl.hpp"
#include "nfc.hpp"
#include "split_regex.hpp"
#include "utf8.hpp"

namespace nmoe::data {

const char* const gpt2_split = R"('(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
const char* const llama3_split =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
const char* const qwen_split =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

namespace {

constexpr std::size_t max_text_bytes = std::size_t{1} << 30U;
constexpr std::size_t bytes_per_token_guess = 3;
constexpr std::size_t max_piece_bytes = std::size_t{8} << 20;  // merging takes 43 bytes for each

std::string normal(const std::string& text, bool nfc) {
  std::string buffer;
  return nfc ? std::string(to_nfc(text, buffer)) : text;
}

/// Added tokens that are looked for in the text as it is, or in the normalized text.
AddedTokens select(const std::vector<AddedToken>& added, bool normalized, bool nfc) {
  std::vector<AddedToken> chosen;
  for (const AddedToken& token : added)
    if (token.normalized == normalized) {
      chosen.push_back(token);
      if (normalized) chosen.back().content = normal(token.content, nfc);
    }
  return AddedTokens(std::move(chosen));
}

/// Buffers of one encode() at a time.
struct Workspace {
  explicit Workspace(const std::vector<SplitRegex>& splits) {
    for (const SplitRegex& split : splits) matchers.emplace_back(split);
  }
  std::vector<SplitRegex::Matcher> matchers;
  BpeModel::Scratch scratch;
  PieceCache cache;
  std::string normalised, prefixed;
};

class BpeTokenizer final : public Tokenizer {
 public:
  explicit BpeTokenizer(BpeParts parts)
      : Tokenizer(parts.path, parts.sha256),
        kind_(std::move(parts.kind)),
        model_(parts.tokens, parts.merges, parts.whole_pieces),
        raw_added_(select(parts.added, false, false)),
        normalized_added_(select(parts.added, true, parts.nfc)),
        nfc_(parts.nfc),
        add_prefix_space_(parts.add_prefix_space),
        bos_id_(parts.bos_id),
        eos_id_(parts.eos_id),
        bos_rule_(std::move(parts.bos_rule)),
        text_of_(std::move(parts.tokens)) {
    for (const std::string& split : parts.splits) splits_.emplace_back(split, path());
    for (const std::string& token : text_of_)
      if (token.size() == 1) has_byte_[static_cast<unsigned char>(token[0])] = true;
    for (const AddedToken& token : parts.added) {
      const auto id = static_cast<std::size_t>(token.id);
      if (id >= text_of_.size()) text_of_.resize(id + 1);
      text_of_[id] = token.normalized ? normal(token.content, nfc_) : token.content;
    }
  }

  std::vector<std::int32_t> encode(std::string_view text) const override {
    NMOE_CHECK(text.size() <= max_text_bytes, bad_data, "{}: text of {} bytes; at most {} are encoded",
               path(), text.size(), max_text_bytes);
    NMOE_CHECK(is_valid_utf8(text), bad_data, "{}: a text of {} bytes is not valid UTF-8", path(),
               text.size());
    std::unique_ptr<Workspace> workspace = borrow();
    std::vector<std::int32_t> ids;
    ids.reserve(text.size() / bytes_per_token_guess + 1);
    const auto push = [&](std::int32_t id) { ids.push_back(id); };
    raw_added_.split(
        text,
        [&](std::string_view part) {
          if (nfc_) part = to_nfc(part, workspace->normalised);
          normalized_added_.split(
              part, [&](std::string_view plain) { encode_plain(plain, *workspace, ids); }, push);
        },
        push);
    give_back(std::move(workspace));
    return ids;
  }

  std::string decode(std::span<const std::int32_t> ids) const override {
    std::string bytes;
    for (const std::int32_t id : ids) bytes += token(id);
    return replace_ill_formed(std::move(bytes));
  }

  std::int64_t vocab_size() const override { return static_cast<std::int64_t>(text_of_.size()); }
  std::int32_t bos_id() const override { return bos_id_; }
  std::int32_t eos_id() const override { return eos_id_; }
  std::string token(std::int32_t id) const override {
    NMOE_CHECK(id >= 0 && id < vocab_size(), bad_data, "{}: id {} is not in a vocabulary of {}", path(), id,
               vocab_size());
    return text_of_[static_cast<std::size_t>(id)];
  }
  const BosRule& bos_rule() const override { return bos_rule_; }
  std::string name() const override { return kind_ + " " + path(); }

 private:
  /// Text without added tokens, normalized.
  void encode_plain(std::string_view text, Workspace& workspace, std::vector<std::int32_t>& ids) const {
    // One space in front of the whole text: a ByteLevel behind a Split would put one before every piece, and
    // the loader refuses that.
    if (add_prefix_space_ && !text.starts_with(' ')) {
      workspace.prefixed = ' ';
      workspace.prefixed += text;
      text = workspace.prefixed;
    }
    encode_split(text, 0, workspace, ids);
  }

  /// Splits by the expressions from `level` on, each on the pieces of the one before it.
  void encode_split(std::string_view text, std::size_t level, Workspace& workspace,
                    std::vector<std::int32_t>& ids) const {
    if (level == workspace.matchers.size()) return encode_piece(text, workspace, ids);
    std::size_t done = 0, begin = 0, end = 0;
    while (done < text.size() && workspace.matchers[level].next(text, done, begin, end)) {
      if (done < begin) encode_split(text.substr(done, begin - done), level + 1, workspace, ids);
      encode_split(text.substr(begin, end - begin), level + 1, workspace, ids);
      done = end;
    }
    if (done < text.size()) encode_split(text.substr(done), level + 1, workspace, ids);
  }

  /// Real vocabularies lack bytes that their training text never held; Hugging Face tokenizers drops them.
  void require_bytes(std::string_view piece) const {
    for (const char c : piece) {
      const auto byte = static_cast<unsigned char>(c);
      NMOE_CHECK(has_byte_[byte], bad_data,
                 "{}: byte 0x{:02X} (\"{}\") has no token, so it would be lost; leave the text out, or use a "
                 "tokenizer that has all 256",
                 path(), byte, spelling_of_byte(byte));
    }
  }

  void encode_piece(std::string_view piece, Workspace& workspace, std::vector<std::int32_t>& ids) const {
    NMOE_CHECK(piece.size() <= max_piece_bytes, bad_data,
               "{} bytes in one piece of the Split expression (a word, or spaces); at most {} are merged at "
               "once: split the document",
               piece.size(), max_piece_bytes);
    const std::uint64_t hash = hash_bytes(piece);
    if (workspace.cache.append(piece, hash, ids)) return;
    require_bytes(piece);
    const std::size_t first = ids.size();
    model_.encode(piece, workspace.scratch, ids);
    workspace.cache.insert(piece, hash, ids.data() + first, ids.size() - first);
  }

  /// A workspace that no other thread uses; after an exception it is not returned, which is right too.
  std::unique_ptr<Workspace> borrow() const {
    const std::lock_guard lock(mutex_);
    if (idle_.empty()) return std::make_unique<Workspace>(splits_);
    std::unique_ptr<Workspace> workspace = std::move(idle_.back());
    idle_.pop_back();
    return workspace;
  }
  void give_back(std::unique_ptr<Workspace> workspace) const {
    const std::lock_guard lock(mutex_);
    idle_.push_back(std::move(workspace));
  }

  std::string kind_;
  BpeModel model_;
  std::vector<SplitRegex> splits_;
  AddedTokens raw_added_, normalized_added_;
  bool nfc_, add_prefix_space_;
  std::int32_t bos_id_, eos_id_;
  BosRule bos_rule_;
  std::vector<std::string> text_of_;
  std::array<bool, 256> has_byte_{};
  mutable std::mutex mutex_;
  mutable std::vector<std::unique_ptr<Workspace>> idle_;
};

}  // namespace

std::unique_ptr<Tokenizer> make_bpe_tokenizer(BpeParts parts) {
  return std::make_unique<BpeTokenizer>(std::move(parts));
}

}  // namespace nmoe::data
