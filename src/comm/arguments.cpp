// What is wrong with the arguments of a collective, in words.
#include "arguments.hpp"

namespace nmoe::comm::detail {

std::int64_t row_bytes(ConstTensorView view) {
  std::int64_t bytes = view ? size_of(view.dtype()) : 0;
  for (int axis = 1; axis < view.shape().rank(); ++axis) bytes *= view.dim(axis);
  return bytes;
}

std::int64_t num_rows(ConstTensorView view) {
  if (!view) return 0;
  return view.shape().rank() == 0 ? 1 : view.dim(0);
}

std::string check_buffer(ConstTensorView view, Device device) {
  if (!view) return "an empty view was passed as buffer";
  if (view.device() != device) {
    return fmt::format("a {} tensor was passed to a communicator for {} tensors", name_of(view.device()),
                       device == Device::cpu ? "host" : name_of(device));
  }
  if (view.raw() == nullptr && view.num_elements() > 0) return "a null buffer with elements was passed";
  return "";
}

namespace {

std::string check_counts(const char* what, ConstTensorView view, std::span<const std::int64_t> counts,
                         int size, Device device) {
  if (std::string error = check_buffer(view, device); !error.empty())
    return fmt::format("{}: {}", what, error);
  if (counts.size() != static_cast<std::size_t>(size)) {
    return fmt::format("{}: {} counts for {} ranks", what, counts.size(), size);
  }
  std::int64_t total = 0;
  for (const std::int64_t count : counts) {
    if (count < 0) return fmt::format("{}: negative count {}", what, count);
    total += count;
  }
  if (total != num_rows(view)) {
    return fmt::format("{}: counts add up to {} rows, the buffer {} has {}", what, total,
                       view.shape().to_string(), num_rows(view));
  }
  return "";
}

std::string check_same_rows(ConstTensorView recv, ConstTensorView send) {
  if (recv.dtype() != send.dtype() || row_bytes(recv) != row_bytes(send)) {
    return fmt::format("send holds {} {}, recv {} {}: rows differ", name_of(send.dtype()),
                       send.shape().to_string(), name_of(recv.dtype()), recv.shape().to_string());
  }
  return "";
}

}  // namespace

std::string check_all_gather_v(int rank, int size, ConstTensorView recv, std::span<const std::int64_t> counts,
                               ConstTensorView send, Device device) {
  if (std::string error = check_counts("recv", recv, counts, size, device); !error.empty()) return error;
  if (std::string error = check_buffer(send, device); !error.empty()) return "send: " + error;
  if (num_rows(send) != counts[static_cast<std::size_t>(rank)]) {
    return fmt::format("send has {} rows, counts[{}] is {}", num_rows(send), rank,
                       counts[static_cast<std::size_t>(rank)]);
  }
  return check_same_rows(recv, send);
}

std::string check_all_to_all_v(int size, ConstTensorView recv, std::span<const std::int64_t> recv_counts,
                               ConstTensorView send, std::span<const std::int64_t> send_counts,
                               Device device) {
  if (std::string error = check_counts("recv", recv, recv_counts, size, device); !error.empty()) return error;
  if (std::string error = check_counts("send", send, send_counts, size, device); !error.empty()) return error;
  return check_same_rows(recv, send);
}

std::string check_root(int root, int size) {
  return root >= 0 && root < size ? "" : fmt::format("root {} of {} ranks", root, size);
}

}  // namespace nmoe::comm::detail
