// The communicators for device tensors on one rank: that NCCL starts, moves every kind of call to itself and
// ends, and that collectives keep their place among the work on the caller's stream. (What needs several
// ranks is in tests/mpi_device, on emulated GPUs.)
#include <boost/test/data/test_case.hpp>
#include <boost/test/unit_test.hpp>
#include <cstring>

#include "neuronmoe/comm/device_communicator.hpp"
#include "neuronmoe/tensor/device.hpp"

using namespace nmoe;
using namespace nmoe::comm;

namespace {

std::vector<std::string> transports() {
  std::vector<std::string> names = {"host copies"};
  if (why_no_nccl().empty()) names.emplace_back("nccl");
  return names;
}
const auto transport_cases = boost::unit_test::data::make(transports());

std::unique_ptr<Communicator> make_world(const std::string& transport) {
  select_cuda_device(0);
  if (transport != "nccl") return make_host_copy_communicator(make_local_communicator());
  NcclOptions options;
  options.timeout_s = 60;
  return make_nccl_communicator(make_local_communicator(), options);
}

template <typename T>
Tensor counted(std::int64_t rows, std::int64_t width) {
  Tensor tensor({rows, width}, dtype_of<T>::value);
  for (std::int64_t i = 0; i < rows * width; ++i) tensor.data<T>()[i] = static_cast<T>(i % 251);
  return tensor;
}

bool same_bytes(const Tensor& device, const Tensor& host, Stream& stream) {
  const Tensor copy = copied_to(Device::cpu, device.view(), stream);
  return std::memcmp(copy.view().raw(), host.view().raw(),
                     static_cast<std::size_t>(host.view().num_bytes())) == 0;
}

std::int32_t* numbers(const PinnedMemory& memory) {
  return static_cast<std::int32_t*>(memory.data());
}

}  // namespace

BOOST_DATA_TEST_CASE(every_call_gives_one_rank_its_own_rows, transport_cases, transport) {
  const auto comm = make_world(transport);
  OwnedStream owned(Device::cuda);
  Stream& stream = owned.stream();
  for (const std::int64_t rows : {1, 1013}) {
    const Tensor host = counted<float>(rows, 7), whole = counted<std::int64_t>(rows, 3);
    const Tensor sent = copied_to(Device::cuda, host.view(), stream);
    const std::vector<std::int64_t> counts = {rows};
    Tensor a(host.shape(), DType::float32, Device::cuda), b(host.shape(), DType::float32, Device::cuda);
    comm->all_to_all_v(a.view(), counts, sent.view(), counts, stream).wait();
    BOOST_TEST(same_bytes(a, host, stream));
    comm->all_gather_v(b.view(), counts, sent.view(), stream).wait();
    BOOST_TEST(same_bytes(b, host, stream));
    comm->broadcast(b.view(), 0, stream).wait();
    for (const ReduceOp op : {ReduceOp::sum, ReduceOp::min, ReduceOp::max}) {
      comm->all_reduce(b.view(), op, stream).wait();
      Tensor integers = copied_to(Device::cuda, whole.view(), stream);
      comm->all_reduce(integers.view(), op, stream).wait();
      BOOST_TEST(same_bytes(integers, whole, stream));
    }
    BOOST_TEST(same_bytes(b, host, stream));
  }
  const auto group = comm->split(0, 0);
  const Tensor host = counted<double>(5000, 1);
  Tensor x = copied_to(Device::cuda, host.view(), stream);
  group->all_reduce(x.view(), ReduceOp::sum, stream).wait();
  BOOST_TEST(same_bytes(x, host, stream));
  BOOST_TEST(all_reduce_sum(*group, 2.5) == 2.5);  // host values beside
  group->close();
  comm->close();
}

BOOST_DATA_TEST_CASE(collectives_keep_their_place_among_copies_on_the_stream, transport_cases, transport) {
  const auto comm = make_world(transport);
  OwnedStream owned(Device::cuda);
  Stream& stream = owned.stream();
  constexpr std::int64_t rows = 1 << 20;  // 4 MiB: copies take long enough to be overtaken
  constexpr int rounds = 12;
  const std::vector<std::int64_t> counts = {rows};
  PinnedMemory in(rows * 4 * rounds), out(rows * 4 * rounds);
  const auto part = [](const PinnedMemory& memory, int k) {
    return TensorView(numbers(memory) + k * rows, DType::int32, {rows});
  };
  for (int k = 0; k < rounds; ++k)
    for (std::int64_t i = 0; i < rows; ++i) numbers(in)[k * rows + i] = k + 1;
  Tensor a({rows}, DType::int32, Device::cuda), b({rows}, DType::int32, Device::cuda);
  for (int k = 0; k < rounds; ++k) {  // the host never waits: only the order on the streams is right or wrong
    start_copy(a.view(), part(in, k), stream);
    Work work = comm->all_to_all_v(b.view(), counts, a.view(), counts, stream);
    work.wait();
    zero(a.view(), stream);  // may not overtake the send
    start_copy(part(out, k), b.view(), stream);
  }
  synchronize(stream);
  int num_wrong = 0;
  for (int k = 0; k < rounds; ++k)
    for (std::int64_t i = 0; i < rows; ++i) num_wrong += numbers(out)[k * rows + i] != k + 1 ? 1 : 0;
  BOOST_TEST(num_wrong == 0);
  comm->close();
}
