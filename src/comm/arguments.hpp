#pragma once
// What both communicators demand of the arguments of a collective, and how many bytes it sends.
#include <cstdint>
#include <span>
#include <string>

#include "neuronmoe/comm/communicator.hpp"

namespace nmoe::comm::detail {

/// Bytes of one row of the leading axis, also for a view without rows. A scalar is one row.
std::int64_t row_bytes(ConstTensorView view);
std::int64_t num_rows(ConstTensorView view);

/// Each returns what is wrong with the arguments, or "" (then the collective may start). Not thrown here,
/// because with debug checks on every rank must learn of it. Tensors must be on `device`.
std::string check_buffer(ConstTensorView view, Device device = Device::cpu);
std::string check_all_gather_v(int rank, int size, ConstTensorView recv, std::span<const std::int64_t> counts,
                               ConstTensorView send, Device device = Device::cpu);
std::string check_all_to_all_v(int size, ConstTensorView recv, std::span<const std::int64_t> recv_counts,
                               ConstTensorView send, std::span<const std::int64_t> send_counts,
                               Device device = Device::cpu);
std::string check_root(int root, int size);

}  // namespace nmoe::comm::detail
