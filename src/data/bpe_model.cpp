// Merges the bytes of a piece by rank, with a scan if it is short, else with a heap; the cache of pieces.
#include "bpe_model.hpp"

#include <algorithm>
#include <bit>

#include "neuronmoe/base/error.hpp"

namespace nmoe::data {
namespace {

constexpr std::size_t max_short = 48;  // above it a heap is faster than looking at every pair for each merge
constexpr std::uint64_t mix_a = 0x9E3779B97F4A7C15U, mix_b = 0xD6E8FEB86659FD93U;

template <class T>
std::uint64_t load(const char* p) {
  T value;
  std::memcpy(&value, p, sizeof(T));
  return value;
}

std::uint64_t mix(std::uint64_t h, std::uint64_t value) {
  h = (h ^ value) * mix_a;
  return h ^ h >> 32U;
}

std::size_t capacity_for(std::size_t count) {
  return std::bit_ceil(std::max<std::size_t>(16, count * 2));
}

std::uint64_t hash_pair(std::int32_t left, std::int32_t right) {
  const auto key =
      static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32U | static_cast<std::uint32_t>(right);
  const std::uint64_t h = key * mix_a;
  return (h ^ h >> 29U) * mix_b >> 20U;
}

bool equal_bytes(const char* a, const char* b, std::size_t n) {
  if (n >= 8) {
    for (std::size_t i = 0; i + 8 < n; i += 8)
      if (load<std::uint64_t>(a + i) != load<std::uint64_t>(b + i)) return false;
    return load<std::uint64_t>(a + n - 8) == load<std::uint64_t>(b + n - 8);
  }
  if (n >= 4)
    return load<std::uint32_t>(a) == load<std::uint32_t>(b) &&
           load<std::uint32_t>(a + n - 4) == load<std::uint32_t>(b + n - 4);
  for (std::size_t i = 0; i < n; ++i)
    if (a[i] != b[i]) return false;
  return true;
}

}  // namespace

std::uint64_t hash_bytes(std::string_view bytes) {
  const char* p = bytes.data();
  const std::size_t n = bytes.size();
  std::uint64_t h = n * mix_b;
  if (n >= 8) {
    for (std::size_t i = 0; i + 8 < n; i += 8) h = mix(h, load<std::uint64_t>(p + i));
    h = mix(h, load<std::uint64_t>(p + n - 8));
  } else if (n >= 4) {
    h = mix(h, load<std::uint32_t>(p) << 32U | load<std::uint32_t>(p + n - 4));
  } else if (n > 0) {
    h = mix(h, load<std::uint8_t>(p) << 16U | load<std::uint8_t>(p + n / 2) << 8U |
                   load<std::uint8_t>(p + n - 1));
  }
  h *= mix_b;
  return h ^ h >> 32U;
}

BpeModel::BpeModel(const std::vector<std::string>& tokens, const std::vector<BpeMerge>& merges,
                   bool whole_pieces) {
  id_of_byte_.fill(-1);
  for (std::size_t id = 0; id < tokens.size(); ++id)
    if (tokens[id].size() == 1)
      id_of_byte_[static_cast<unsigned char>(tokens[id][0])] = static_cast<std::int32_t>(id);
  pairs_.resize(capacity_for(merges.size()));
  for (const BpeMerge& merge : merges) {
    std::size_t slot = hash_pair(merge.left, merge.right) & (pairs_.size() - 1);
    const auto taken = [&](const Pair& p) {
      return p.left >= 0 && (p.left != merge.left || p.right != merge.right);
    };
    while (taken(pairs_[slot])) slot = (slot + 1) & (pairs_.size() - 1);
    pairs_[slot] = {merge.left, merge.right, merge.rank,
                    merge.result};  // the last of equals, as in references
  }
  byte_pairs_.resize(256 * 256);
  for (std::size_t left = 0; left < 256; ++left)
    for (std::size_t right = 0; right < 256; ++right)
      byte_pairs_[left * 256 + right] = find_pair(id_of_byte_[left], id_of_byte_[right]);
  if (!whole_pieces) return;
  whole_.assign(capacity_for(tokens.size()), -1);
  for (std::size_t id = 0; id < tokens.size(); ++id) {
    token_begin_.push_back(static_cast<std::uint32_t>(token_bytes_.size()));
    token_bytes_ += tokens[id];
    if (tokens[id].empty()) continue;
    std::size_t slot = hash_bytes(tokens[id]) & (whole_.size() - 1);
    while (whole_[slot] >= 0) slot = (slot + 1) & (whole_.size() - 1);
    whole_[slot] = static_cast<std::int32_t>(id);
  }
  token_begin_.push_back(static_cast<std::uint32_t>(token_bytes_.size()));
}

const BpeModel::Pair* BpeModel::find_pair(std::int32_t left, std::int32_t right) const {
  std::size_t slot = hash_pair(left, right) & (pairs_.size() - 1);
  for (; pairs_[slot].left >= 0; slot = (slot + 1) & (pairs_.size() - 1))
    if (pairs_[slot].left == left && pairs_[slot].right == right) return &pairs_[slot];
  return nullptr;
}

std::int32_t BpeModel::find_whole(std::string_view piece) const {
  if (whole_.empty()) return -1;
  std::size_t slot = hash_bytes(piece) & (whole_.size() - 1);
  for (; whole_[slot] >= 0; slot = (slot + 1) & (whole_.size() - 1)) {
    const auto id = static_cast<std::size_t>(whole_[slot]);
    const std::size_t begin = token_begin_[id], length = token_begin_[id + 1] - begin;
    if (length == piece.size() && equal_bytes(token_bytes_.data() + begin, piece.data(), length))
      return whole_[slot];
  }
  return -1;
}

void BpeModel::encode(std::string_view piece, Scratch& scratch, std::vector<std::int32_t>& ids) const {
  const std::int32_t whole = find_whole(piece);
  if (whole >= 0)
    ids.push_back(whole);
  else if (piece.size() <= max_short)
    merge_short(piece, ids);
  else
    merge_long(piece, scratch, ids);
}

void BpeModel::merge_short(std::string_view piece, std::vector<std::int32_t>& ids) const {
  constexpr std::int32_t none = INT32_MAX;
  std::array<std::int32_t, max_short> id{}, rank{}, result{};  // rank[i]: of id[i] with id[i + 1]
  std::size_t n = piece.size();
  const auto note = [&](std::size_t i, const Pair* pair) {
    rank[i] = pair != nullptr ? pair->rank : none;
    result[i] = pair != nullptr ? pair->result : -1;
  };
  const auto rate = [&](std::size_t i) { note(i, i + 1 < n ? find_pair(id[i], id[i + 1]) : nullptr); };
  for (std::size_t i = 0; i < n; ++i) {
    id[i] = id_of_byte_[static_cast<unsigned char>(piece[i])];
    note(i, i + 1 < n ? find_byte_pair(piece[i], piece[i + 1]) : nullptr);
  }
  while (n > 1) {
    std::size_t best = 0;
    for (std::size_t i = 1; i + 1 < n; ++i)
      if (rank[i] < rank[best]) best = i;
    if (rank[best] == none) break;
    id[best] = result[best];
    --n;
    for (std::size_t i = best + 1; i < n; ++i) {
      id[i] = id[i + 1];
      rank[i] = rank[i + 1];
      result[i] = result[i + 1];
    }
    rate(best);
    if (best > 0) rate(best - 1);
  }
  ids.insert(ids.end(), id.begin(), id.begin() + static_cast<std::ptrdiff_t>(n));
}

void BpeModel::merge_long(std::string_view piece, Scratch& scratch, std::vector<std::int32_t>& ids) const {
  using Candidate = Scratch::Candidate;
  auto& symbols = scratch.symbols;
  auto& heap = scratch.heap;
  const auto n = static_cast<std::int32_t>(piece.size());
  const auto later = [](const Candidate& a, const Candidate& b) {
    return a.rank != b.rank ? a.rank > b.rank : a.at > b.at;
  };
  const auto symbol = [&](std::int32_t i) -> Scratch::Symbol& {
    return symbols[static_cast<std::size_t>(i)];
  };
  const auto push = [&](std::int32_t at) {  // the pair that begins there, if it merges; order is the caller's
    const std::int32_t right = symbol(at).next < n ? symbol(symbol(at).next).id : -1;
    const Pair* pair = right >= 0 ? find_pair(symbol(at).id, right) : nullptr;
    if (pair != nullptr) heap.push_back({pair->rank, at, symbol(at).id, right});
    return pair != nullptr;
  };
  symbols.resize(piece.size());
  heap.clear();
  for (std::int32_t i = 0; i < n; ++i)
    symbol(i) = {id_of_byte_[static_cast<unsigned char>(piece[static_cast<std::size_t>(i)])], i + 1, i - 1};
  for (std::int32_t i = 0; i < n; ++i) push(i);
  std::make_heap(heap.begin(), heap.end(), later);
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), later);
    const Candidate c = heap.back();
    heap.pop_back();
    Scratch::Symbol& left = symbol(c.at);
    if (left.id != c.left || left.next >= n || symbol(left.next).id != c.right) continue;  // out of date
    Scratch::Symbol& right = symbol(left.next);
    left.id = find_pair(c.left, c.right)->result;
    right.id = -1;  // gone
    left.next = right.next;
    if (left.next < n) symbol(left.next).previous = c.at;
    if (push(c.at)) std::push_heap(heap.begin(), heap.end(), later);
    if (left.previous >= 0 && push(left.previous)) std::push_heap(heap.begin(), heap.end(), later);
  }
  for (std::int32_t i = 0; i < n; i = symbol(i).next) ids.push_back(symbol(i).id);
}

bool PieceCache::append(std::string_view piece, std::uint64_t hash, std::vector<std::int32_t>& ids) const {
  const std::size_t slot = hash & (num_entries - 1);
  for (const std::size_t at : {slot, slot ^ 1U}) {
    const Entry& entry = entries_[at];
    if (entry.num_bytes != piece.size()) continue;
    const auto* bytes = reinterpret_cast<const char*>(entry.bytes.data());
    if (!equal_bytes(bytes, piece.data(), piece.size())) continue;
    const std::size_t count = entry.num_ids, old = ids.size();
    ids.resize(old + count);
    std::memcpy(ids.data() + old, bytes + payload - 4 * count, 4 * count);
    return true;
  }
  return false;
}

void PieceCache::insert(std::string_view piece, std::uint64_t hash, const std::int32_t* ids,
                        std::size_t num_ids) {
  if (piece.size() + 4 * num_ids > payload) return;
  const std::size_t slot = hash & (num_entries - 1);
  entries_[slot ^ 1U] = entries_[slot];  // the older of two goes
  Entry& entry = entries_[slot];
  entry.num_bytes = static_cast<std::uint8_t>(piece.size());
  entry.num_ids = static_cast<std::uint8_t>(num_ids);
  std::memcpy(entry.bytes.data(), piece.data(), piece.size());
  std::memcpy(entry.bytes.data() + payload - 4 * num_ids, ids, 4 * num_ids);
}

}  // namespace nmoe::data
