#pragma once
// Byte-pair encoding of one piece of text: vocabulary, merges, and a cache of pieces already seen.
#include <array>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

namespace nmoe::data {

/// 64-bit hash of a short byte string; the same on every little-endian machine.
std::uint64_t hash_bytes(std::string_view bytes);

/// `left` and `right` side by side become `result`; lower rank first, leftmost first among equals.
struct BpeMerge {
  std::int32_t left, right, result, rank;
};

/// Immutable after construction.
class BpeModel {
 public:
  /// @param tokens bytes of each id, empty where an id has none; every single byte is among them
  /// @param whole_pieces a piece that is a token is not merged (ignore_merges, and tiktoken)
  BpeModel(const std::vector<std::string>& tokens, const std::vector<BpeMerge>& merges, bool whole_pieces);
  BpeModel(const BpeModel&) = delete;  // points into itself
  BpeModel& operator=(const BpeModel&) = delete;

  /// Buffers of one thread.
  struct Scratch {
    struct Symbol {
      std::int32_t id, next, previous;
    };
    struct Candidate {
      std::int32_t rank, at, left, right;
    };
    std::vector<Symbol> symbols;
    std::vector<Candidate> heap;
  };
  /// Appends the ids of `piece` (not empty).
  void encode(std::string_view piece, Scratch& scratch, std::vector<std::int32_t>& ids) const;

 private:
  struct Pair {
    std::int32_t left = -1, right = -1, rank = 0, result = 0;
  };
  const Pair* find_pair(std::int32_t left, std::int32_t right) const;
  const Pair* find_byte_pair(char left, char right) const {
    return byte_pairs_[static_cast<unsigned char>(left) * 256U + static_cast<unsigned char>(right)];
  }
  std::int32_t find_whole(std::string_view piece) const;
  void merge_short(std::string_view piece, std::vector<std::int32_t>& ids) const;
  void merge_long(std::string_view piece, Scratch& scratch, std::vector<std::int32_t>& ids) const;

  std::array<std::int32_t, 256> id_of_byte_{};
  std::vector<const Pair*> byte_pairs_;  // [left byte][right byte]: where every piece starts, so kept apart
  std::vector<Pair> pairs_;              // open addressing, power of two, left = −1 where empty
  std::vector<std::int32_t> whole_;
  std::vector<std::uint32_t> token_begin_;
  std::string token_bytes_;
};

/// Ids of pieces already encoded, two ways, one cache line each; pieces that do not fit are not kept.
/// Belongs to one thread.
class PieceCache {
 public:
  PieceCache() : entries_(num_entries) {}

  /// Appends the ids of `piece` and returns true, or returns false.
  bool append(std::string_view piece, std::uint64_t hash, std::vector<std::int32_t>& ids) const;
  void insert(std::string_view piece, std::uint64_t hash, const std::int32_t* ids, std::size_t num_ids);

 private:
  static constexpr std::size_t num_entries = std::size_t{1} << 16U, payload = 62;
  struct alignas(64) Entry {
    std::uint8_t num_bytes = 0, num_ids = 0;
    std::array<unsigned char, payload> bytes;  // the piece from the front, its ids up to the end
  };
  std::vector<Entry> entries_;
};

}  // namespace nmoe::data
