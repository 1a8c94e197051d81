#pragma once
// What a rank asks for in a collective, and the debug checks that all ranks ask for the same
// (ENGINEERING 3.5). Shared by the transports, mpi/ and nccl/, which say how bytes are gathered.
#include <cstdint>
#include <functional>
#include <span>
#include <string>

#include "neuronmoe/comm/communicator.hpp"

namespace nmoe::comm::detail {

/// What a rank asked for; compared over ranks by the debug checks and printed by the watchdog.
struct Call {
  Operation operation = Operation::barrier;
  ReduceOp reduce_op = ReduceOp::sum;
  DType dtype = DType::uint8;
  int group_size = 0;
  int root = 0;
  std::int64_t count = 0;      ///< elements; bytes per row where counts may differ between ranks
  std::uint64_t hash = 0;      ///< of the counts all ranks must agree on
  std::uint64_t sequence = 0;  ///< number of the call within its group
  std::string to_string() const;
};

/// Returns the hash of counts that all ranks must agree on, for Call::hash.
std::uint64_t hash_of(std::span<const std::int64_t> counts);

/// Writes the `num_bytes` bytes of every rank of the group to `all`, in rank order. Collective over the
/// group.
using GatherBytes = std::function<void(const void* mine, void* all, std::int64_t num_bytes)>;

/// Throws the same Error(internal) on every rank of the group unless all ranks make the same call. `invalid`
/// is what is wrong with this rank's arguments ("" if nothing). Collective, by `gather`.
void compare_calls(const Call& call, const std::string& invalid, const GatherBytes& gather);
/// Throws likewise unless each rank sends the rows that the other side of an all_to_all_v expects.
void compare_row_counts(std::span<const std::int64_t> send_counts, std::span<const std::int64_t> recv_counts,
                        const GatherBytes& gather);

}  // namespace nmoe::comm::detail
