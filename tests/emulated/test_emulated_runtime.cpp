// What a GPU does not show: when copies wait, and on which device threads of their own work. The process sees
// two emulated devices and takes the second.
#include <boost/test/unit_test.hpp>
#include <chrono>
#include <cstdlib>
#include <string>
#include <thread>

#include "neuronmoe/comm/device_communicator.hpp"
#include "neuronmoe/tensor/device.hpp"
#include "support/cuda_emulation/hooks.hpp"
#include "support/nccl_emulation/hooks.hpp"

using namespace nmoe;

namespace {

/// Chooses device 1 of two before anything else is asked for, as every test of this file needs.
CudaDevice second_device() {
  ::setenv("NMOE_EMULATED_GPUS", "0000:01:00.0,0000:02:00.0", 1);
  return select_cuda_device(1);
}

/// The calls that `body` makes: c a copy, q a look whether the stream has finished.
template <typename Body>
std::string calls_of(Body body) {
  std::string calls;
  emulation::watched_calls = &calls;
  body();
  emulation::watched_calls = nullptr;
  return calls;
}

}  // namespace

BOOST_AUTO_TEST_CASE(copies_wait_where_memory_is_pageable_and_only_there) {
  second_device();
  OwnedStream owned(Device::cuda);
  Stream& stream = owned.stream();
  Tensor pageable({4}, DType::float32);
  Tensor device({4}, DType::float32, Device::cuda), other({4}, DType::float32, Device::cuda);
  const PinnedMemory memory(64);
  const auto inside = static_cast<char*>(memory.data()) + 32;
  const TensorView pinned(inside, DType::float32, {4});
  // To the device: the source may be overwritten when copy() returns, whenever the driver reads it.
  BOOST_TEST(calls_of([&] { copy(device.view(), pageable.view(), stream); }) == "cq");
  BOOST_TEST(calls_of([&] { copied_to(Device::cuda, pageable.view(), stream); }) == "cq");
  BOOST_TEST(calls_of([&] {
               HostSide side(device.view(), stream);
               side.send();
             }) == "cq");
  // To the host: the wait before the copy is ours, with its time limit.
  BOOST_TEST(calls_of([&] { copy(pageable.view(), device.view(), stream); }) == "qcq");
  BOOST_TEST(calls_of([&] { copied_to(Device::cpu, device.view(), stream); }) == "qcq");
  // Page-locked memory and other device memory are copied in the order of the stream.
  BOOST_TEST(calls_of([&] { copy(device.view(), pinned, stream); }) == "c");
  BOOST_TEST(calls_of([&] { copy(pinned, device.view(), stream); }) == "cq");
  BOOST_TEST(calls_of([&] { copy(other.view(), device.view(), stream); }) == "c");
  BOOST_TEST(calls_of([&] { start_copy(device.view(), pinned, stream); }) == "c");
}

BOOST_AUTO_TEST_CASE(threads_of_nccl_work_on_the_device_of_their_rank) {
  const CudaDevice device = second_device();
  BOOST_TEST(device.index == 1);
  BOOST_TEST(device.bus_id == "0000:02:00.0");
  OwnedStream stream(Device::cuda);
  emulation::used_devices = 0;
  comm::NcclOptions options;
  options.timeout_s = 60;
  const int aborted = emulation::num_aborted_nccl_communicators();
  {
    const auto comm = comm::make_nccl_communicator(comm::make_local_communicator(), options);
    Tensor x({8}, DType::float32, Device::cuda);
    const auto sum = [&] { comm->all_reduce(x.view(), comm::ReduceOp::sum, stream.stream()).wait(); };
    sum();
    std::this_thread::sleep_for(std::chrono::milliseconds(250));  // the watching thread looks for its end
    sum();
    std::thread([&] { static_cast<void>(comm->last_operation()); }).join();  // as the watchdog asks
  }
  BOOST_TEST(emulation::num_aborted_nccl_communicators() == aborted + 1);
  BOOST_TEST(emulation::used_devices == 0b10U);
}

BOOST_AUTO_TEST_CASE(memory_of_the_card_counts_what_we_hold_and_more) {
  second_device();
  const CardMemory before = card_memory();
  const Tensor held({1 << 20}, DType::float32, Device::cuda);
  const CardMemory after = card_memory();
  BOOST_TEST(before.free - after.free >= held.view().num_bytes());
  BOOST_TEST(after.total == before.total);
}
