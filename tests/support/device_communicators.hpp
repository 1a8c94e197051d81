#pragma once
// The communicators that take tensors on GPUs, and tensors to hand them, for tests/mpi_device.
#include <cstdlib>
#include <string>
#include <vector>

#include "neuronmoe/comm/device_communicator.hpp"
#include "neuronmoe/tensor/device.hpp"
#include "support/mpi_fixture.hpp"

namespace nmoe::test {

/// NMOE_TEST_TRANSPORT names the only one where the other cannot be had: ranks that share a real GPU.
inline const std::vector<std::string> transports = [] {
  const char* only = std::getenv("NMOE_TEST_TRANSPORT");
  return only != nullptr ? std::vector<std::string>{only} : std::vector<std::string>{"host copies", "nccl"};
}();

/// A communicator over all ranks; close() it at the end.
inline std::unique_ptr<comm::Communicator> make_device_world(const std::string& transport,
                                                             const comm::MpiOptions& options) {
  if (transport != "nccl") return comm::make_host_copy_communicator(make_world(options));
  comm::NcclOptions nccl;
  nccl.debug_checks = options.debug_checks;
  nccl.small_reduce_bytes = options.small_reduce_bytes;
  nccl.timeout_s = 60;
  return comm::make_nccl_communicator(make_world(options), nccl);
}

/// Runs `body(world)` with and without small messages, checks and the communication thread at work.
template <typename Body>
void on_device_worlds(const std::string& transport, Body body) {
  for (const bool pieces : {false, true}) {
    comm::MpiOptions options;
    if (pieces) {
      options.debug_checks = true;
      options.max_message_bytes = 24;
      options.small_reduce_bytes = 16;
      options.wake_bytes = 0;
    }
    const auto comm = make_device_world(transport, options);
    body(*comm);
    comm->close();
  }
}

inline Stream& device_stream() {
  static OwnedStream stream(Device::cuda);
  return stream.stream();
}
inline Tensor to_device(const Tensor& host) {
  return copied_to(Device::cuda, host.view(), device_stream());
}
inline Tensor to_host(const Tensor& device) {
  return copied_to(Device::cpu, device.view(), device_stream());
}

}  // namespace nmoe::test
