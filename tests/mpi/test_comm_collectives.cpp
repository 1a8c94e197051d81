// Every collective with payloads that prove their origin, on 1 to 4 ranks, in one message and in many pieces.
#include <boost/test/data/test_case.hpp>
#include <boost/test/unit_test.hpp>
#include <numeric>

#include "support/mpi_fixture.hpp"

using namespace nmoe;
using namespace nmoe::comm;

namespace {

using Counts = std::vector<std::int64_t>;

/// Element `i` of row `row` that rank `source` sends to rank `target`.
std::int64_t payload(int source, int target, std::int64_t row, std::int64_t i) {
  return ((static_cast<std::int64_t>(source) * 100 + target) * 10000 + row) * 100 + i;
}

/// rows(source, target) -> count
using Rule = std::int64_t (*)(int source, int target, int size);
std::int64_t even(int, int, int) {
  return 3;
}
std::int64_t uneven(int source, int target, int) {
  return (source * 7 + target * 3) % 5;  // zeros included
}
std::int64_t nothing(int, int, int) {
  return 0;
}
std::int64_t all_to_last(int source, int target, int size) {
  return target == size - 1 ? source + 4 : 0;
}
std::int64_t only_rank_0_sends(int source, int, int) {
  return source == 0 ? 5 : 0;
}

constexpr Rule rules[] = {even, uneven, nothing, all_to_last, only_rank_0_sends};

std::int64_t sum(const Counts& counts) {
  return std::accumulate(counts.begin(), counts.end(), std::int64_t{0});
}

void check_all_to_all(Communicator& comm, Rule rule) {
  const int rank = comm.rank(), size = comm.size();
  constexpr std::int64_t width = 3;
  Counts send_counts, recv_counts;
  for (int r = 0; r < size; ++r) {
    send_counts.push_back(rule(rank, r, size));
    recv_counts.push_back(rule(r, rank, size));
  }
  Tensor send({sum(send_counts), width}, DType::int64), recv({sum(recv_counts), width}, DType::int64);
  std::int64_t* p = send.data<std::int64_t>();
  for (int target = 0; target < size; ++target) {
    for (std::int64_t row = 0; row < send_counts[static_cast<std::size_t>(target)]; ++row) {
      for (std::int64_t i = 0; i < width; ++i) *p++ = payload(rank, target, row, i);
    }
  }
  Stream stream;
  comm.all_to_all_v(recv.view(), recv_counts, send.view(), send_counts, stream).wait();
  const std::int64_t* q = recv.data<std::int64_t>();
  for (int source = 0; source < size; ++source) {
    for (std::int64_t row = 0; row < recv_counts[static_cast<std::size_t>(source)]; ++row) {
      for (std::int64_t i = 0; i < width; ++i) BOOST_TEST(*q++ == payload(source, rank, row, i));
    }
  }
}

void check_all_gather(Communicator& comm, Rule rule) {
  const int rank = comm.rank(), size = comm.size();
  constexpr std::int64_t width = 2;
  Counts counts;
  for (int r = 0; r < size; ++r) counts.push_back(rule(r, 1, size));
  Tensor send({counts[static_cast<std::size_t>(rank)], width}, DType::int64);
  Tensor recv({sum(counts), width}, DType::int64);
  for (std::int64_t k = 0; k < send.num_elements(); ++k) {
    send.data<std::int64_t>()[k] = payload(rank, 0, k / width, k % width);
  }
  Stream stream;
  comm.all_gather_v(recv.view(), counts, send.view(), stream).wait();
  const std::int64_t* q = recv.data<std::int64_t>();
  for (int source = 0; source < size; ++source) {
    for (std::int64_t row = 0; row < counts[static_cast<std::size_t>(source)]; ++row) {
      for (std::int64_t i = 0; i < width; ++i) BOOST_TEST(*q++ == payload(source, 0, row, i));
    }
  }
}

/// The world as it is, and with messages cut to 24 bytes and every call handed to the communication thread.
template <typename Body>
void on_both_worlds(Body body) {
  body(test::world());
  MpiOptions options;
  options.debug_checks = true;
  options.max_message_bytes = 24;
  options.small_reduce_bytes = 16;
  options.wake_bytes = 0;
  const auto pieces = test::make_world(options);
  body(*pieces);
  pieces->close();
}

}  // namespace

BOOST_DATA_TEST_CASE(all_to_all_v_delivers_every_row, boost::unit_test::data::xrange(5), which) {
  on_both_worlds([&](Communicator& comm) { check_all_to_all(comm, rules[which]); });
}

BOOST_DATA_TEST_CASE(all_gather_v_keeps_rank_order, boost::unit_test::data::xrange(5), which) {
  on_both_worlds([&](Communicator& comm) { check_all_gather(comm, rules[which]); });
}

BOOST_AUTO_TEST_CASE(broadcast_from_every_root) {
  on_both_worlds([](Communicator& comm) {
    Stream stream;
    for (int root = 0; root < comm.size(); ++root) {
      Tensor buffer({37}, DType::int64);
      if (comm.rank() == root) {
        for (std::int64_t i = 0; i < 37; ++i) buffer.data<std::int64_t>()[i] = payload(root, 0, i, 0);
      }
      comm.broadcast(buffer.view(), root, stream).wait();
      for (std::int64_t i = 0; i < 37; ++i)
        BOOST_TEST(buffer.data<std::int64_t>()[i] == payload(root, 0, i, 0));
    }
    Tensor none({0, 4}, DType::float32);
    comm.broadcast(none.view(), 0, stream).wait();
  });
}

BOOST_AUTO_TEST_CASE(integer_reductions) {
  on_both_worlds([](Communicator& comm) {
    const std::int64_t n = comm.size(), rank = comm.rank();
    Stream stream;
    for (const ReduceOp op : {ReduceOp::sum, ReduceOp::min, ReduceOp::max}) {
      Tensor a({50}, DType::int64), b({11}, DType::int32), c({5}, DType::uint8);
      for (std::int64_t i = 0; i < 50; ++i)
        a.data<std::int64_t>()[i] = (rank + 1) * (std::int64_t{1} << 40) + i;
      for (int i = 0; i < 11; ++i) b.data<std::int32_t>()[i] = static_cast<std::int32_t>(rank) * 10 - i;
      for (int i = 0; i < 5; ++i) c.data<std::uint8_t>()[i] = static_cast<std::uint8_t>(rank + i);
      comm.all_reduce(a.view(), op, stream).wait();
      comm.all_reduce(b.view(), op, stream).wait();
      comm.all_reduce(c.view(), op, stream).wait();
      const auto expect = [&](auto value_of_rank) {
        std::int64_t result = value_of_rank(0);
        for (std::int64_t r = 1; r < n; ++r) {
          const std::int64_t v = value_of_rank(r);
          result = op == ReduceOp::sum   ? result + v
                   : op == ReduceOp::min ? std::min(result, v)
                                         : std::max(result, v);
        }
        return result;
      };
      for (std::int64_t i = 0; i < 50; ++i) {
        BOOST_TEST(a.data<std::int64_t>()[i] ==
                   expect([&](std::int64_t r) { return (r + 1) * (std::int64_t{1} << 40) + i; }));
      }
      for (int i = 0; i < 11; ++i) {
        BOOST_TEST(b.data<std::int32_t>()[i] == expect([&](std::int64_t r) { return r * 10 - i; }));
      }
      for (int i = 0; i < 5; ++i) {
        BOOST_TEST(int{c.data<std::uint8_t>()[i]} == expect([&](std::int64_t r) { return r + i; }));
      }
    }
  });
}

BOOST_AUTO_TEST_CASE(strings_and_scalars) {
  Communicator& comm = test::world();
  const std::string mine(static_cast<std::size_t>(comm.rank()), static_cast<char>('a' + comm.rank()));
  const auto all = all_gather_strings(comm, mine);  // rank 0's is empty
  BOOST_REQUIRE(all.size() == static_cast<std::size_t>(comm.size()));
  for (int r = 0; r < comm.size(); ++r) {
    BOOST_TEST(all[static_cast<std::size_t>(r)] ==
               std::string(static_cast<std::size_t>(r), static_cast<char>('a' + r)));
  }
  const int root = comm.size() - 1;
  BOOST_TEST(broadcast_string(comm, comm.rank() == root ? "from the last" : "ignored", root) ==
             "from the last");
  BOOST_TEST(broadcast_string(comm, "") == "");
  const std::int64_t n = comm.size();
  BOOST_TEST(all_reduce_sum(comm, std::int64_t{1} << 60) == n << 60);
  BOOST_TEST(all_reduce_max(comm, -std::int64_t{comm.rank()}) == 0);
  BOOST_TEST(all_reduce_sum(comm, 0.5) == 0.5 * static_cast<double>(n));
  BOOST_TEST(all_reduce_max(comm, static_cast<double>(comm.rank())) == static_cast<double>(n - 1));
}

BOOST_AUTO_TEST_CASE(counters_are_exact, *boost::unit_test::label("trap_04")) {
  MpiOptions options;
  options.small_reduce_bytes = 16;
  const auto comm = test::make_world(options);
  const std::int64_t peers = comm->size() - 1;
  Stream stream;
  Tensor a({3}, DType::float32);  // 12 bytes: everything to everybody
  comm->all_reduce(a.view(), ReduceOp::sum, stream).wait();
  BOOST_TEST(comm->counters()[Operation::all_reduce].bytes_sent == 12 * peers);
  Tensor b({comm->size() * 10}, DType::float32);  // slices: 10 floats to each peer, twice
  comm->all_reduce(b.view(), ReduceOp::sum, stream).wait();
  BOOST_TEST(comm->counters()[Operation::all_reduce].bytes_sent == 12 * peers + 80 * peers);
  BOOST_TEST(comm->counters()[Operation::all_reduce].calls == 2U);
  const Counts counts(static_cast<std::size_t>(comm->size()), 2);
  Tensor send({2 * comm->size(), 3}, DType::uint8), recv({2 * comm->size(), 3}, DType::uint8);
  comm->all_to_all_v(recv.view(), counts, send.view(), counts, stream).wait();
  BOOST_TEST(comm->counters()[Operation::all_to_all_v].bytes_sent == 6 * peers);
  comm->all_gather_v(recv.view(), counts, send.view().rows(0, 2), stream).wait();
  BOOST_TEST(comm->counters()[Operation::all_gather_v].bytes_sent == 6 * peers);
  for (const Operation other : {Operation::broadcast, Operation::barrier, Operation::split})
    BOOST_TEST(comm->counters()[other].bytes_sent == 0);
  comm->close();
}
