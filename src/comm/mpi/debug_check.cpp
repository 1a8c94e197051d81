// Debug checks: do all ranks make the same call? (ENGINEERING 3.5)
#include <array>
#include <cstring>
#include <vector>

#include "group.hpp"
#include "mpi_check.hpp"

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

void compare_calls(Group& group, const Call& call, const std::string& invalid) {
  Record mine{};
  mine.call = call;
  std::memcpy(mine.invalid.data(), invalid.data(), std::min(invalid.size(), mine.invalid.size() - 1));
  std::vector<Record> all(static_cast<std::size_t>(group.size));
  NMOE_MPI(MPI_Allgather(&mine, sizeof(Record), MPI_BYTE, all.data(), sizeof(Record), MPI_BYTE, group.comm));
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

void compare_row_counts(Group& group, std::span<const std::int64_t> send_counts,
                        std::span<const std::int64_t> recv_counts) {
  const auto n = static_cast<std::size_t>(group.size);
  std::vector<std::int64_t> sent(n * n), expected(n * n);  // [rank][peer]
  NMOE_MPI(MPI_Allgather(send_counts.data(), group.size, MPI_INT64_T, sent.data(), group.size, MPI_INT64_T,
                         group.comm));
  NMOE_MPI(MPI_Allgather(recv_counts.data(), group.size, MPI_INT64_T, expected.data(), group.size,
                         MPI_INT64_T, group.comm));
  for (std::size_t from = 0; from < n; ++from) {
    for (std::size_t to = 0; to < n; ++to) {
      NMOE_CHECK(sent[from * n + to] == expected[to * n + from], internal,
                 "all_to_all_v: rank {} sends {} rows to rank {}, which expects {}", from,
                 sent[from * n + to], to, expected[to * n + from]);
    }
  }
}

}  // namespace nmoe::comm::detail
