// Calls of collectives in words, and their comparison over ranks.
#include "call.hpp"

#include <algorithm>
#include <array>
#include <cstring>
#include <vector>

namespace nmoe::comm::detail {

namespace {

/// What travels; plain bytes, zeroed before use so that padding never differs.
struct Record {
  Call call;
  std::array<char, 240> invalid;
};
static_assert(std::is_trivially_copyable_v<Record>);

bool same(const Call& a, const Call& b) {
  return a.operation == b.operation && a.reduce_op == b.reduce_op && a.dtype == b.dtype && a.root == b.root &&
         a.count == b.count && a.hash == b.hash && a.sequence == b.sequence;
}

}  // namespace

std::string Call::to_string() const {
  std::string what(name_of(operation));
  switch (operation) {
    case Operation::all_reduce:
      what += fmt::format(" {} of {} {}", name_of(reduce_op), count, name_of(dtype));
      break;
    case Operation::broadcast:
      what += fmt::format(" of {} {} from rank {}", count, name_of(dtype), root);
      break;
    case Operation::all_gather_v:
    case Operation::all_to_all_v:
      what += fmt::format(" of {} rows of {} bytes", name_of(dtype), count);
      break;
    default:
      break;
  }
  return fmt::format("{} (call {} of a group of {} ranks)", what, sequence, group_size);
}

std::uint64_t hash_of(std::span<const std::int64_t> counts) {
  std::uint64_t hash = 0xCBF29CE484222325U;  // FNV-1a over whole counts
  for (const std::int64_t count : counts) hash = (hash ^ static_cast<std::uint64_t>(count)) * 0x100000001B3U;
  return hash;
}

void compare_calls(const Call& call, const std::string& invalid, const GatherBytes& gather) {
  Record mine{};
  mine.call = call;
  std::memcpy(mine.invalid.data(), invalid.data(), std::min(invalid.size(), mine.invalid.size() - 1));
  std::vector<Record> all(static_cast<std::size_t>(call.group_size));
  gather(&mine, all.data(), sizeof(Record));
  for (std::size_t r = 0; r < all.size(); ++r) {
    const Record& other = all[r];
    NMOE_CHECK(other.invalid[0] == '\0', internal, "rank {} of the group, {}: {}", r, other.call.to_string(),
               other.invalid.data());
  }
  for (std::size_t r = 1; r < all.size(); ++r) {
    const Call &first = all[0].call, &other = all[r].call;
    NMOE_CHECK(same(first, other), internal, "ranks make different collective calls: rank 0 {}, rank {} {}{}",
               first.to_string(), r, other.to_string(),
               first.to_string() == other.to_string() ? " (their lists of counts differ)" : "");
  }
}

void compare_row_counts(std::span<const std::int64_t> send_counts, std::span<const std::int64_t> recv_counts,
                        const GatherBytes& gather) {
  const std::size_t n = send_counts.size();
  std::vector<std::int64_t> mine(send_counts.begin(), send_counts.end()), all(2 * n * n);
  mine.insert(mine.end(), recv_counts.begin(), recv_counts.end());
  gather(mine.data(), all.data(), static_cast<std::int64_t>(mine.size() * sizeof(std::int64_t)));
  for (std::size_t from = 0; from < n; ++from) {
    for (std::size_t to = 0; to < n; ++to) {
      const std::int64_t sent = all[from * 2 * n + to], expected = all[to * 2 * n + n + from];
      NMOE_CHECK(sent == expected, internal,
                 "all_to_all_v: rank {} sends {} rows to rank {}, which expects {}", from, sent, to,
                 expected);
    }
  }
}

}  // namespace nmoe::comm::detail
