// Waits of the program that one rank can show, while streams run in unlucky orders.
#include <algorithm>
#include <boost/test/unit_test.hpp>
#include <cstdlib>
#include <string>
#include <vector>

#include "neuronmoe/comm/device_communicator.hpp"
#include "neuronmoe/ops/transformer.hpp"
#include "neuronmoe/tensor/device.hpp"
#include "neuronmoe/tensor/read_back.hpp"
#include "support/cuda_emulation/streams.hpp"

using namespace nmoe;

namespace {

template <typename Body>
void in_every_order(Body body) {
  const char* text = std::getenv("NMOE_TEST_ORDERS");
  const int num_orders = text == nullptr ? 20 : std::atoi(text);
  for (int order = 0; order < num_orders; ++order) {
    emulation::use_order(std::to_string(order));
    BOOST_TEST_CONTEXT("order " << order) {
      body();
    }
    emulation::finish_everything();
  }
}

}  // namespace

BOOST_AUTO_TEST_CASE(what_is_read_back_is_what_was_computed) {
  in_every_order([] {
    OwnedStream owned(Device::cuda);
    ReadBack read_back(owned.stream(), 600);
    std::vector<float> seen, wanted;
    for (int round = 0; round < 2; ++round) {
      for (int i = 0; i < 9; ++i) {
        const auto value = static_cast<float>(10 * round + i);
        const std::int64_t count = 1 + i * 37 % 100;
        const TensorView there = read_back.take({count}, DType::float32, [&](ConstTensorView host) {
          seen.insert(seen.end(), host.data<float>(), host.data<float>() + host.num_elements());
        });
        ops::fill(there, value, owned.stream());
        wanted.insert(wanted.end(), static_cast<std::size_t>(count), value);
      }
      read_back.drain();
    }
    BOOST_TEST(seen == wanted);
  });
}

BOOST_AUTO_TEST_CASE(new_memory_is_zero_before_any_stream_uses_it) {
  in_every_order([] {
    OwnedStream owned(Device::cuda);
    Tensor used({500}, DType::float32, Device::cuda);
    ops::fill(used.view(), 3.0, owned.stream());
    Tensor x({500}, DType::float32, Device::cuda);
    ops::add_inplace(x.view(), used.view(), owned.stream());
    const Tensor host = copied_to(Device::cpu, x.view(), owned.stream());
    BOOST_TEST(std::all_of(host.data<float>(), host.data<float>() + 500, [](float v) { return v == 3.0F; }));
  });
}

BOOST_AUTO_TEST_CASE(host_memory_may_be_touched_after_a_copy) {
  in_every_order([] {
    OwnedStream owned(Device::cuda);
    Tensor there({500}, DType::float32, Device::cuda);
    {
      std::vector<float> source(500, 7.0F);
      copy(there.view(), {source.data(), DType::float32, {500}}, owned.stream());
      std::fill(source.begin(), source.end(), 8.0F);
    }
    std::vector<float> result(500, 0.0F);
    copy({result.data(), DType::float32, {500}}, there.view(), owned.stream());
    BOOST_TEST(std::all_of(result.begin(), result.end(), [](float v) { return v == 7.0F; }));
  });
}

BOOST_AUTO_TEST_CASE(after_drain_collectives_have_finished_for_every_stream) {
  comm::NcclOptions options;
  options.timeout_s = 60;
  const auto comm = comm::make_nccl_communicator(comm::make_local_communicator(), options);
  const std::vector<std::int64_t> counts = {500};
  in_every_order([&] {
    OwnedStream owned(Device::cuda), other(Device::cuda);
    Tensor sent({500}, DType::float32, Device::cuda), received({500}, DType::float32, Device::cuda);
    ops::fill(sent.view(), 5.0, owned.stream());
    comm::Work work = comm->all_to_all_v(received.view(), counts, sent.view(), counts, owned.stream());
    comm->drain();
    const Tensor host = copied_to(Device::cpu, received.view(), other.stream());
    BOOST_TEST(std::all_of(host.data<float>(), host.data<float>() + 500, [](float v) { return v == 5.0F; }));
    work.wait();
  });
  comm->close();
}
