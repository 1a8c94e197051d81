// Every collective on tensors in (emulated) GPU memory, which the host cannot touch, by every transport:
// payloads prove their origin, sums their order, and host tensors go on to work.
#include <boost/test/data/test_case.hpp>
#include <boost/test/unit_test.hpp>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

#include "neuronmoe/base/philox.hpp"
#include "support/device_communicators.hpp"

using namespace nmoe;
using namespace nmoe::comm;
using namespace nmoe::test;

namespace {

using Counts = std::vector<std::int64_t>;

/// Element `i` of row `row` that rank `source` sends to rank `target`.
std::int64_t payload(int source, int target, std::int64_t row, std::int64_t i) {
  return ((static_cast<std::int64_t>(source) * 100 + target) * 10000 + row) * 100 + i;
}

/// rows(source, target, size) -> count
using Rule = std::int64_t (*)(int source, int target, int size);
constexpr Rule rules[] = {
    [](int, int, int) -> std::int64_t { return 3; },
    [](int source, int target, int) -> std::int64_t { return (source * 7 + target * 3) % 5; },
    [](int, int, int) -> std::int64_t { return 0; },
    [](int source, int target, int size) -> std::int64_t { return target == size - 1 ? source + 4 : 0; },
    [](int source, int, int) -> std::int64_t { return source == 0 ? 5 : 0; },
};

std::int64_t sum(const Counts& counts) {
  return std::accumulate(counts.begin(), counts.end(), std::int64_t{0});
}

/// Rows of `width` elements, `counts[peer]` for each peer, filled by payload(source, target, row, i).
template <typename Ends>
Tensor rows_of(const Counts& counts, std::int64_t width, Ends ends) {
  Tensor tensor({sum(counts), width}, DType::int64);
  auto* p = tensor.data<std::int64_t>();
  for (int peer = 0; peer < static_cast<int>(counts.size()); ++peer) {
    const auto [source, target] = ends(peer);
    for (std::int64_t row = 0; row < counts[static_cast<std::size_t>(peer)]; ++row) {
      for (std::int64_t i = 0; i < width; ++i) *p++ = payload(source, target, row, i);
    }
  }
  return tensor;
}

std::int64_t num_different_bytes(const Tensor& a, const Tensor& b) {
  if (a.view().num_bytes() != b.view().num_bytes()) return -1;
  const auto *x = static_cast<const unsigned char*>(a.view().raw()),
             *y = static_cast<const unsigned char*>(b.view().raw());
  std::int64_t different = 0;
  for (std::int64_t i = 0; i < a.view().num_bytes(); ++i) different += x[i] != y[i] ? 1 : 0;
  return different;
}

void check_all_to_all(Communicator& comm, Rule rule) {
  const int rank = comm.rank(), size = comm.size();
  constexpr std::int64_t width = 3;
  Counts send_counts, recv_counts;
  for (int r = 0; r < size; ++r) {
    send_counts.push_back(rule(rank, r, size));
    recv_counts.push_back(rule(r, rank, size));
  }
  const Tensor sent = rows_of(send_counts, width, [&](int peer) { return std::pair(rank, peer); });
  const Tensor expected = rows_of(recv_counts, width, [&](int peer) { return std::pair(peer, rank); });
  const Tensor send = to_device(sent);
  Tensor recv({sum(recv_counts), width}, DType::int64, Device::cuda);
  comm.all_to_all_v(recv.view(), recv_counts, send.view(), send_counts, device_stream()).wait();
  BOOST_TEST(num_different_bytes(to_host(recv), expected) == 0);
  BOOST_TEST(num_different_bytes(to_host(send), sent) == 0);
}

void check_all_gather(Communicator& comm, Rule rule) {
  const int rank = comm.rank(), size = comm.size();
  constexpr std::int64_t width = 2;
  Counts counts;
  for (int r = 0; r < size; ++r) counts.push_back(rule(r, 1, size));
  const Counts mine(1, counts[static_cast<std::size_t>(rank)]);
  const Tensor sent = rows_of(mine, width, [&](int) { return std::pair(rank, 0); });
  const Tensor expected = rows_of(counts, width, [&](int peer) { return std::pair(peer, 0); });
  const Tensor send = to_device(sent);
  Tensor recv({sum(counts), width}, DType::int64, Device::cuda);
  comm.all_gather_v(recv.view(), counts, send.view(), device_stream()).wait();
  BOOST_TEST(num_different_bytes(to_host(recv), expected) == 0);
}

template <typename T>
void check_integer_reduction(Communicator& comm, ReduceOp op, std::int64_t n) {
  const auto value = [](std::int64_t rank, std::int64_t i) {
    return static_cast<T>(rank * 11 + (i * 7) % 13 + (sizeof(T) == 8 ? std::int64_t{1} << 40 : 0));
  };
  Tensor host({n}, dtype_of<T>::value), expected({n}, dtype_of<T>::value);
  for (std::int64_t i = 0; i < n; ++i) {
    host.data<T>()[i] = value(comm.rank(), i);
    T result = value(0, i);
    for (int r = 1; r < comm.size(); ++r) {
      const T v = value(r, i);
      result = op == ReduceOp::sum   ? static_cast<T>(result + v)
               : op == ReduceOp::min ? std::min(result, v)
                                     : std::max(result, v);
    }
    expected.data<T>()[i] = result;
  }
  Tensor device = to_device(host);
  comm.all_reduce(device.view(), op, device_stream()).wait();
  BOOST_TEST(num_different_bytes(to_host(device), expected) == 0);
}

/// Magnitudes over 2^±20, mixed signs: more than two of them do not commute in floating point.
double value(int rank, std::int64_t i) {
  const Philox random(11, RandomPurpose::test, static_cast<std::uint32_t>(rank));
  const auto index = static_cast<std::uint64_t>(i);
  return std::ldexp(random.uniform(2 * index) - 0.5, static_cast<int>(random.below(2 * index + 1, 40)) - 20);
}

template <typename T, typename A>
void check_float_sum(Communicator& comm, std::int64_t n) {
  constexpr std::int64_t guard = 8;  // elements behind the buffer that nobody may touch
  Tensor host({n + guard}, dtype_of<T>::value), expected({n + guard}, dtype_of<T>::value);
  for (std::int64_t i = 0; i < n + guard; ++i) {
    host.data<T>()[i] = expected.data<T>()[i] = T(static_cast<A>(i < n ? value(comm.rank(), i) : 7.0));
    if (i >= n) continue;
    A total = static_cast<A>(T(static_cast<A>(value(0, i))));
    for (int r = 1; r < comm.size(); ++r) total += static_cast<A>(T(static_cast<A>(value(r, i))));
    expected.data<T>()[i] = T(total);
  }
  Tensor device = to_device(host);
  comm.all_reduce(device.view().rows(0, n), ReduceOp::sum, device_stream()).wait();
  BOOST_TEST(num_different_bytes(to_host(device), expected) == 0, n << " elements");
}

const auto transport_cases = boost::unit_test::data::make(transports);

}  // namespace

BOOST_DATA_TEST_CASE(rows_arrive_where_they_are_sent, transport_cases* boost::unit_test::data::xrange(5),
                     transport, which) {
  on_device_worlds(transport, [&](Communicator& comm) {
    check_all_to_all(comm, rules[which]);
    check_all_gather(comm, rules[which]);
  });
}

BOOST_DATA_TEST_CASE(broadcast_from_every_root, transport_cases, transport) {
  on_device_worlds(transport, [](Communicator& comm) {
    for (int root = 0; root < comm.size(); ++root) {
      Tensor host({37}, DType::int64), expected({37}, DType::int64);
      for (std::int64_t i = 0; i < 37; ++i) {
        expected.data<std::int64_t>()[i] = payload(root, 0, i, 0);
        host.data<std::int64_t>()[i] = comm.rank() == root ? payload(root, 0, i, 0) : -1;
      }
      Tensor device = to_device(host);
      comm.broadcast(device.view(), root, device_stream()).wait();
      BOOST_TEST(num_different_bytes(to_host(device), expected) == 0);
    }
    Tensor none({0, 4}, DType::float32, Device::cuda);
    comm.broadcast(none.view(), 0, device_stream()).wait();
    comm.all_reduce(none.view(), ReduceOp::sum, device_stream()).wait();
  });
}

BOOST_DATA_TEST_CASE(integer_reductions, transport_cases, transport) {
  on_device_worlds(transport, [](Communicator& comm) {
    for (const ReduceOp op : {ReduceOp::sum, ReduceOp::min, ReduceOp::max}) {
      check_integer_reduction<std::int64_t>(comm, op, 50);
      check_integer_reduction<std::int32_t>(comm, op, 11);
      check_integer_reduction<std::uint8_t>(comm, op, 5);
    }
  });
}

BOOST_DATA_TEST_CASE(float_sums_ascend_over_ranks_bitwise, transport_cases, transport) {
  on_device_worlds(transport, [](Communicator& comm) {
    // 1 and 3: fewer elements than ranks; 100: one gather; 5000: slices of unequal length.
    for (const std::int64_t n : {1, 3, 100, 5000}) {
      check_float_sum<float, float>(comm, n);
      check_float_sum<double, double>(comm, n);
      check_float_sum<bfloat16, float>(comm, n);
    }
  });
}

BOOST_DATA_TEST_CASE(float_min_and_max_pass_nan_on, transport_cases, transport) {
  on_device_worlds(transport, [](Communicator& comm) {
    for (const std::int64_t n : {4, 6000}) {
      Tensor host({n}, DType::float32);
      for (std::int64_t i = 0; i < n; ++i)
        host.data<float>()[i] = static_cast<float>(comm.rank() * 10) - static_cast<float>(i);
      if (comm.rank() == comm.size() / 2) host.data<float>()[1] = std::numeric_limits<float>::quiet_NaN();
      for (const ReduceOp op : {ReduceOp::min, ReduceOp::max}) {
        Tensor device = to_device(host);
        comm.all_reduce(device.view(), op, device_stream()).wait();
        const Tensor result = to_host(device);
        const auto of_rank = static_cast<float>(op == ReduceOp::min ? 0 : (comm.size() - 1) * 10);
        BOOST_TEST(result.data<float>()[0] == of_rank);
        BOOST_TEST(std::isnan(result.data<float>()[1]));
        BOOST_TEST(result.data<float>()[n - 1] == of_rank - static_cast<float>(n - 1));
      }
    }
  });
}

BOOST_DATA_TEST_CASE(counters_are_those_of_the_host_communicator, transport_cases, transport) {
  MpiOptions options;
  options.small_reduce_bytes = 16;
  const auto comm = make_device_world(transport, options);
  const std::int64_t peers = comm->size() - 1;
  Tensor a({3}, DType::float32, Device::cuda), b({comm->size() * 10}, DType::float32, Device::cuda);
  comm->all_reduce(a.view(), ReduceOp::sum, device_stream()).wait();
  comm->all_reduce(b.view(), ReduceOp::sum, device_stream()).wait();
  BOOST_TEST(comm->counters()[Operation::all_reduce].bytes_sent == (12 + 80) * peers);
  BOOST_TEST(comm->counters()[Operation::all_reduce].calls == 2U);
  const Counts counts(static_cast<std::size_t>(comm->size()), 2);
  Tensor send({2 * comm->size(), 3}, DType::uint8, Device::cuda);
  Tensor recv({2 * comm->size(), 3}, DType::uint8, Device::cuda);
  comm->all_to_all_v(recv.view(), counts, send.view(), counts, device_stream()).wait();
  BOOST_TEST(comm->counters()[Operation::all_to_all_v].bytes_sent == 6 * peers);
  comm->all_gather_v(recv.view(), counts, send.view().rows(0, 2), device_stream()).wait();
  BOOST_TEST(comm->counters()[Operation::all_gather_v].bytes_sent == 6 * peers);
  comm->broadcast(send.view(), 0, device_stream()).wait();
  BOOST_TEST(comm->counters()[Operation::broadcast].bytes_sent ==
             (comm->rank() == 0 ? 6 * comm->size() * peers : 0));
  Stream cpu;
  Tensor host({4}, DType::int64);
  comm->all_reduce(host.view(), ReduceOp::sum, cpu).wait();  // host tensors count as well
  BOOST_TEST(comm->counters()[Operation::all_reduce].bytes_sent == (12 + 80 + 32) * peers);
  BOOST_TEST(comm->counters()[Operation::all_reduce].calls == 3U);
  comm->close();
}

BOOST_DATA_TEST_CASE(groups_take_device_tensors_too, transport_cases, transport) {
  on_device_worlds(transport, [](Communicator& comm) {
    const int color = comm.rank() % 2;
    const auto group = comm.split(color, -comm.rank());
    BOOST_TEST(group->size() == (comm.size() + 1 - color) / 2);
    check_float_sum<float, float>(*group, 33);
    check_all_to_all(*group, rules[1]);
    const auto alone = group->split(group->rank(), 0);  // a group of a group
    BOOST_TEST(alone->size() == 1);
    check_float_sum<bfloat16, float>(*alone, 9);
    check_all_gather(*alone, rules[0]);
    alone->close();
    group->close();
  });
}

BOOST_DATA_TEST_CASE(many_in_flight_on_world_and_group_waited_from_the_back, transport_cases, transport) {
  on_device_worlds(transport, [](Communicator& comm) {
    const auto group = comm.split(comm.rank() / 2, comm.rank());
    const int size = comm.size(), rank = comm.rank();
    const Counts ones(static_cast<std::size_t>(group->size()), 1);
    std::vector<Tensor> sums, sent, received;
    std::vector<Work> works;
    for (int k = 0; k < 20; ++k) {
      const std::int64_t width = 1 + (k * 37) % 90;
      Tensor x({width}, DType::float32), y({group->size(), width}, DType::int32);
      for (std::int64_t i = 0; i < width; ++i) x.data<float>()[i] = static_cast<float>(rank + k);
      for (std::int64_t i = 0; i < y.num_elements(); ++i) y.data<std::int32_t>()[i] = rank * 1000 + k;
      sums.push_back(to_device(x));
      sent.push_back(to_device(y));
      received.emplace_back(y.shape(), DType::int32, Device::cuda);
      works.push_back(comm.all_reduce(sums.back().view(), ReduceOp::sum, device_stream()));
      works.push_back(
          group->all_to_all_v(received.back().view(), ones, sent.back().view(), ones, device_stream()));
    }
    for (auto work = works.rbegin(); work != works.rend(); ++work) work->wait();
    for (int k = 0; k < 20; ++k) {
      const Tensor x = to_host(sums[static_cast<std::size_t>(k)]);
      const Tensor y = to_host(received[static_cast<std::size_t>(k)]);
      const std::int64_t width = x.num_elements();
      BOOST_TEST(x.data<float>()[width - 1] == static_cast<float>(size * (size - 1) / 2 + size * k));
      for (int peer = 0; peer < group->size(); ++peer) {
        BOOST_TEST(y.data<std::int32_t>()[(peer + 1) * width - 1] == (rank / 2 * 2 + peer) * 1000 + k);
      }
    }
    group->close();
  });
}

BOOST_DATA_TEST_CASE(host_tensors_and_the_conveniences_work_beside, transport_cases, transport) {
  on_device_worlds(transport, [](Communicator& comm) {
    BOOST_TEST(all_reduce_sum(comm, std::int64_t{comm.rank() + 1}) == comm.size() * (comm.size() + 1) / 2);
    BOOST_TEST(broadcast_string(comm, comm.rank() == 0 ? "hello" : "") == "hello");
    BOOST_TEST(comm.native() != nullptr);
    comm.drain();
    comm.barrier();
    BOOST_TEST(comm.last_operation().find("barrier") == 0U);
  });
}

BOOST_DATA_TEST_CASE(a_device_tensor_with_a_cpu_stream_is_refused, transport_cases, transport) {
  const auto comm = make_device_world(transport, {});
  Stream cpu;
  Tensor x({4}, DType::float32, Device::cuda);
  BOOST_CHECK_THROW((void)comm->all_reduce(x.view(), ReduceOp::sum, cpu), Error);
  comm->close();
}
