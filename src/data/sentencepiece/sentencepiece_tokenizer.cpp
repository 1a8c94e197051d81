// Tokenizer over a sentencepiece model.
#include <sentencepiece_processor.h>

#include <filesystem>

#include "../tokenizer_settings.hpp"
#include "neuronmoe/base/error.hpp"
#include "neuronmoe/base/sha256.hpp"
#include "neuronmoe/data/tokenizer.hpp"
#include "neuronmoe/io/atomic_file.hpp"
#include "word_cuts.hpp"

namespace nmoe::data {
namespace {

constexpr std::int64_t max_model_bytes = std::int64_t{256} << 20;
/// Texts are encoded in parts from this length on, if the model allows it. What is encoded at once is
/// limited: it takes more than a hundred times its length in memory.
constexpr std::size_t part_bytes = std::size_t{64} << 10, max_part_bytes = std::size_t{2} << 20;

class SentencepieceTokenizer final : public Tokenizer {
 public:
  SentencepieceTokenizer(const std::string& path, const std::string& model)
      : Tokenizer(path, sha256_text(model)), cuts_(model) {
    const auto status = processor_.LoadFromSerializedProto(model);
    NMOE_CHECK(status.ok() && processor_.GetPieceSize() > 0, bad_data, "{} is not a sentencepiece model: {}",
               path, status.ToString());
    const std::string file = std::filesystem::path(path).filename().string();
    const int own = processor_.bos_id();
    bos_rule_ = bos_rule_of_model(path, {own, file, own >= 0}, [&](const std::string& token) {
      const int id = processor_.PieceToId(token);  // of an unknown one: that of <unk>
      return processor_.IdToPiece(id) == token ? id : -1;
    });
  }
  std::vector<std::int32_t> encode(std::string_view text) const override {
    std::vector<std::int32_t> ids;
    std::size_t begin = 0;
    do {
      const WordCuts::Part part = cuts_.part(text, begin, part_bytes);
      append_ids(text.substr(begin, part.end - begin), ids);
      begin = part.next;
    } while (begin < text.size());
    return ids;
  }
  std::string decode(std::span<const std::int32_t> ids) const override {
    for (const std::int32_t id : ids) check_id(id);
    std::string text;
    const auto status = processor_.Decode(std::vector<int>(ids.begin(), ids.end()), &text);
    NMOE_CHECK(status.ok(), bad_data, "{} cannot decode {} ids: {}", path(), ids.size(), status.ToString());
    return text;
  }
  std::int64_t vocab_size() const override { return processor_.GetPieceSize(); }
  std::int32_t bos_id() const override { return bos_rule_.id >= 0 ? bos_rule_.id : processor_.bos_id(); }
  std::int32_t eos_id() const override { return processor_.eos_id(); }
  std::string token(std::int32_t id) const override {
    check_id(id);
    return processor_.IdToPiece(id);
  }
  const BosRule& bos_rule() const override { return bos_rule_; }
  std::string name() const override { return "sentencepiece " + path(); }

 private:
  void append_ids(std::string_view text, std::vector<std::int32_t>& all) const {
    NMOE_CHECK(text.size() <= max_part_bytes, bad_data,
               "{} bytes without a place to cut ({}); at most {} are encoded at once: split the document",
               text.size(), cuts_.obstacle().empty() ? "a space between two words" : cuts_.obstacle(),
               max_part_bytes);
    std::vector<int> ids;
    const auto status = processor_.Encode({text.data(), text.size()}, &ids);
    NMOE_CHECK(status.ok(), bad_data, "{} cannot encode a text of {} bytes: {}", path(), text.size(),
               status.ToString());
    all.insert(all.end(), ids.begin(), ids.end());
  }
  void check_id(std::int32_t id) const {
    NMOE_CHECK(id >= 0 && id < vocab_size(), bad_data, "{}: id {} is not in a vocabulary of {}", path(), id,
               vocab_size());
  }

  WordCuts cuts_;
  sentencepiece::SentencePieceProcessor processor_;
  BosRule bos_rule_;
};

}  // namespace

std::unique_ptr<Tokenizer> load_sentencepiece(const std::string& path) {
  return std::make_unique<SentencepieceTokenizer>(path, io::read_file(path, max_model_bytes));
}

}  // namespace nmoe::data
