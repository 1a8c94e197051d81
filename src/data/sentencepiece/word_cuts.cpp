// Finds out from a sentencepiece model whether texts may be cut between words, and cuts them.
#include "word_cuts.hpp"

#include <cstdint>

namespace nmoe::data {
namespace {

constexpr std::string_view space_symbol = "\xE2\x96\x81";  // U+2581 stands for a space in pieces

/// One field of a protobuf message.
struct Field {
  std::uint64_t number = 0, value = 0;  // value: of a varint
  std::string_view bytes;               // of a string or message
};

bool take_varint(std::string_view& data, std::uint64_t& value) {
  value = 0;
  for (unsigned shift = 0; shift < 64 && !data.empty(); shift += 7) {
    const auto byte = static_cast<unsigned char>(data[0]);
    data.remove_prefix(1);
    value |= static_cast<std::uint64_t>(byte & 0x7FU) << shift;
    if (byte < 0x80U) return true;
  }
  return false;
}

/// Takes the next field; false at the end of the message or where it is none.
bool take_field(std::string_view& data, Field& field) {
  std::uint64_t tag = 0, length = 0;
  if (!take_varint(data, tag)) return false;
  field = {tag >> 3U, 0, {}};
  const std::uint64_t kind = tag & 7U;
  if (kind == 0) return take_varint(data, field.value);
  if (kind == 1 || kind == 5)
    length = kind == 1 ? 8 : 4;
  else if (kind != 2 || !take_varint(data, length))
    return false;
  if (length > data.size()) return false;
  field.bytes = data.substr(0, length);
  data.remove_prefix(length);
  return true;
}

/// What decides about cuts, with the defaults of sentencepiece_model.proto.
struct ModelFacts {
  std::uint64_t model_type = 1;  // unigram
  bool space_as_suffix = false, has_charsmap = false, dummy_prefix = true, removes_spaces = true,
       escapes_spaces = true, has_space_piece = false;
  std::string piece_over_cut;
};

/// Whether a piece could hold the end of a word and the space behind it.
bool spans_cut(std::string_view piece) {
  if (piece.find(' ') != std::string_view::npos) return true;
  for (std::size_t at = piece.find(space_symbol); at != std::string_view::npos;
       at = piece.find(space_symbol, at + 1))
    if (at > 0 && !piece.substr(0, at).ends_with(space_symbol)) return true;
  return false;
}

void read_piece(std::string_view message, ModelFacts& facts) {
  constexpr std::uint64_t text = 1, type = 3, normal = 1, user_defined = 4;
  std::string_view piece;
  std::uint64_t kind = normal;
  for (Field field; take_field(message, field);) {
    if (field.number == text) piece = field.bytes;
    if (field.number == type) kind = field.value;
  }
  if (spans_cut(piece)) facts.piece_over_cut = piece;
  facts.has_space_piece =
      facts.has_space_piece || (piece == space_symbol && (kind == normal || kind == user_defined));
}

void read_trainer(std::string_view message, ModelFacts& facts) {
  constexpr std::uint64_t model_type = 3, treat_whitespace_as_suffix = 24;
  for (Field field; take_field(message, field);) {
    if (field.number == model_type) facts.model_type = field.value;
    if (field.number == treat_whitespace_as_suffix) facts.space_as_suffix = field.value != 0;
  }
}

void read_normalizer(std::string_view message, ModelFacts& facts) {
  constexpr std::uint64_t charsmap = 2, dummy_prefix = 3, remove_extra_whitespaces = 4, escape = 5;
  for (Field field; take_field(message, field);) {
    if (field.number == charsmap) facts.has_charsmap = !field.bytes.empty();
    if (field.number == dummy_prefix) facts.dummy_prefix = field.value != 0;
    if (field.number == remove_extra_whitespaces) facts.removes_spaces = field.value != 0;
    if (field.number == escape) facts.escapes_spaces = field.value != 0;
  }
}

std::string obstacle_of(const ModelFacts& facts) {
  constexpr std::uint64_t bpe = 2;
  if (facts.model_type != bpe) return "the model is not BPE";
  if (facts.has_charsmap) return "the model normalizes characters";
  if (facts.space_as_suffix || !facts.escapes_spaces || !facts.has_space_piece)
    return "the model has its own way with spaces";
  if (!facts.dummy_prefix && facts.removes_spaces) return "the model removes spaces in front";
  if (!facts.piece_over_cut.empty()) return "pieces go on behind a word";
  return {};
}

}  // namespace

WordCuts::WordCuts(std::string_view model) {
  constexpr std::uint64_t pieces = 1, trainer = 2, normalizer = 3;
  ModelFacts facts;
  for (Field field; take_field(model, field);) {
    if (field.number == pieces) read_piece(field.bytes, facts);
    if (field.number == trainer) read_trainer(field.bytes, facts);
    if (field.number == normalizer) read_normalizer(field.bytes, facts);
  }
  obstacle_ = model.empty() ? obstacle_of(facts) : "the model is not understood";
  drops_space_ = facts.dummy_prefix;
}

WordCuts::Part WordCuts::part(std::string_view text, std::size_t begin, std::size_t min_bytes) const {
  const Part rest{text.size(), text.size()};
  if (!obstacle_.empty() || text.size() - begin <= min_bytes) return rest;
  const auto is_space = [](std::string_view at) {
    return at.starts_with(' ') || at.starts_with(space_symbol);
  };
  for (std::size_t at = text.find(' ', begin + min_bytes); at != std::string_view::npos;
       at = text.find(' ', at + 1)) {
    const std::string_view before = text.substr(begin, at - begin), after = text.substr(at + 1);
    if (before.empty() || before.ends_with(' ') || before.ends_with(space_symbol) || after.empty() ||
        is_space(after))
      continue;
    return {at, drops_space_ ? at + 1 : at};
  }
  return rest;
}

}  // namespace nmoe::data
