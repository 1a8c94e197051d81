// comm.on_node: the same bytes whether ranks of a node send messages or read each other's send buffers, with
// room for all buffers, for some and for none.
#include <algorithm>
#include <boost/test/unit_test.hpp>
#include <cstring>
#include <numeric>
#include <thread>

#include "support/mpi_fixture.hpp"

using namespace nmoe;
using namespace nmoe::comm;

namespace {

using Counts = std::vector<std::int64_t>;
using Bytes = std::vector<unsigned char>;

unsigned char payload(int source, int target, std::int64_t i) {
  return static_cast<unsigned char>((source * 131 + target * 31 + i * 7 + i / 251) % 256);
}

std::int64_t sum(const Counts& counts) {
  return std::accumulate(counts.begin(), counts.end(), std::int64_t{0});
}

/// A send buffer with this rank's rows for every rank, and what should come back.
struct Exchange {
  Counts send_counts, recv_counts;
  std::shared_ptr<std::byte> send;
  Bytes recv, expected;

  Exchange(Communicator& comm, const std::function<std::int64_t(int, int)>& rows) {
    for (int r = 0; r < comm.size(); ++r) {
      send_counts.push_back(rows(comm.rank(), r));
      recv_counts.push_back(rows(r, comm.rank()));
    }
    send = comm.allocate_send(sum(send_counts));
    std::byte* out = send.get();
    for (int r = 0; r < comm.size(); ++r) {
      for (std::int64_t i = 0; i < send_counts[static_cast<std::size_t>(r)]; ++i)
        *out++ = std::byte{payload(comm.rank(), r, i)};
      for (std::int64_t i = 0; i < recv_counts[static_cast<std::size_t>(r)]; ++i)
        expected.push_back(payload(r, comm.rank(), i));
    }
    recv.resize(expected.size() + 1, 0xEE);
  }
  TensorView recv_view() { return {recv.data(), DType::uint8, {sum(recv_counts)}}; }
  ConstTensorView send_view() const { return {send.get(), DType::uint8, {sum(send_counts)}}; }
  void check_received() {
    BOOST_TEST(recv.back() == 0xEE);
    BOOST_TEST(std::equal(expected.begin(), expected.end(), recv.begin()));
  }
};

constexpr std::int64_t longest = 300'001;
/// Sizes of nothing, one byte, odd ones, more than a page, uneven ones.
std::vector<std::function<std::int64_t(int, int)>> rules(int size) {
  return {[](int, int) { return 0; },
          [](int, int) { return 1; },
          [](int, int) { return 4097; },
          [](int source, int target) { return (source * 7919 + target * 104'729) % 70'001; },
          [=](int source, int target) { return target == size - 1 ? longest + source : 0; },
          [](int source, int target) { return source == 0 ? 37 + target : 0; },
          [](int source, int target) { return source == target ? 5 : 0; }};
}

void check_exchanges(Communicator& comm) {
  Stream stream;
  for (const auto& rule : rules(comm.size())) {
    Exchange e(comm, rule);
    comm.all_to_all_v(e.recv_view(), e.recv_counts, e.send_view(), e.send_counts, stream).wait();
    e.check_received();
    // Done means done: the others have read it.
    std::memset(e.send.get(), 0, static_cast<std::size_t>(sum(e.send_counts)));
    comm.barrier();
    e.check_received();
  }
  for (const auto& rule : rules(comm.size())) {
    const Exchange e(comm, [&](int source, int) { return rule(source, 0); });
    const ConstTensorView mine(e.send.get(), DType::uint8, {e.send_counts[0]});
    Bytes all, expected;
    for (int r = 0; r < comm.size(); ++r) {
      for (std::int64_t i = 0; i < rule(r, 0); ++i) expected.push_back(payload(r, 0, i));
    }
    all.resize(expected.size() + 1, 0xEE);
    comm.all_gather_v({all.data(), DType::uint8, {static_cast<std::int64_t>(expected.size())}}, e.recv_counts,
                      mine, stream)
        .wait();
    BOOST_TEST(all.back() == 0xEE);
    BOOST_TEST(std::equal(expected.begin(), expected.end(), all.begin()));
  }
}

/// Two exchanges are read at the same time, as by the trainer; buffers are used again and again.
void check_in_place(Communicator& comm) {
  Stream stream;
  for (const auto& rule : rules(comm.size())) {
    Exchange a(comm, rule), b(comm, [&](int source, int target) { return rule(source, target) / 2; });
    for (int round = 0; round < 6; ++round) {
      InPlaceExchange first, second;
      for (auto [exchange, e] : {std::pair(&first, &a), std::pair(&second, &b)}) {
        std::fill_n(e->recv.begin(), e->expected.size(), static_cast<unsigned char>(round));
        *exchange =
            comm.all_to_all_in_place(e->recv_view(), e->recv_counts, e->send_view(), e->send_counts, stream);
      }
      for (auto [exchange, e] : {std::pair(&first, &a), std::pair(&second, &b)}) {
        exchange->wait();
        std::size_t at = 0;
        for (int r = 0; r < comm.size(); ++r) {
          const auto count = static_cast<std::size_t>(e->recv_counts[static_cast<std::size_t>(r)]);
          if (count == 0) continue;
          BOOST_TEST(std::memcmp(exchange->rows_of(r), e->expected.data() + at, count) == 0);
          at += count;
        }
        exchange->release();
      }
      // Whoever reads a buffer that is not released yet would see this.
      first.reclaim();
      std::memset(a.send.get(), 0xAA, static_cast<std::size_t>(sum(a.send_counts)));
      second.reclaim();
      std::byte* out = a.send.get();
      for (int r = 0; r < comm.size(); ++r) {
        for (std::int64_t i = 0; i < a.send_counts[static_cast<std::size_t>(r)]; ++i)
          *out++ = std::byte{payload(comm.rank(), r, i)};
      }
    }
  }
}

MpiOptions options_of(OnNode on_node, std::int64_t window_bytes) {
  MpiOptions options;
  options.debug_checks = true;
  options.max_message_bytes = 10'000;
  options.wake_bytes = 4096;
  options.on_node = on_node;
  options.window_bytes = window_bytes;
  options.in_place_bytes = 1;
  return options;
}

/// Messages; shared with room for every buffer, for the smaller ones, for none.
template <typename Body>
void on_every_setting(Body body) {
  for (const MpiOptions& options : {options_of(OnNode::mpi, 0), options_of(OnNode::shared, 1 << 24),
                                    options_of(OnNode::shared, 64 << 10), options_of(OnNode::shared, 0)}) {
    const auto comm = test::make_world(options);
    body(*comm);
    comm->close();
  }
}

}  // namespace

BOOST_AUTO_TEST_CASE(exchanges_deliver_the_same_bytes_on_every_setting) {
  on_every_setting([](Communicator& comm) { check_exchanges(comm); });
}

// Large pieces are copied around the caches, in another loop; here from and to odd addresses.
BOOST_AUTO_TEST_CASE(a_large_piece_arrives_whole) {
  const auto comm = test::make_world(options_of(OnNode::shared, 1 << 24));
  Stream stream;
  const int size = comm->size();
  Exchange e(*comm, [=](int source, int target) {
    return target == (source + 1) % size ? (std::int64_t{4} << 20) + 77 : 3;
  });
  comm->all_to_all_v(e.recv_view(), e.recv_counts, e.send_view(), e.send_counts, stream).wait();
  e.check_received();
  comm->close();
}

BOOST_AUTO_TEST_CASE(rows_read_in_place_are_those_of_an_exchange) {
  on_every_setting([](Communicator& comm) { check_in_place(comm); });
}

BOOST_AUTO_TEST_CASE(groups_share_the_window_of_the_world) {
  on_every_setting([](Communicator& comm) {
    const auto reversed = comm.split(0, -comm.rank());
    const auto parity = reversed->split(comm.rank() % 2, comm.rank());
    for (Communicator* group : {reversed.get(), parity.get(), &comm, parity.get()}) {
      check_exchanges(*group);
      check_in_place(*group);
    }
    parity->close();
    reversed->close();
  });
}

BOOST_AUTO_TEST_CASE(an_exchange_in_place_is_counted_like_any_other) {
  on_every_setting([](Communicator& comm) {
    Stream stream;
    Exchange e(comm, [](int source, int target) { return 10 * source + target; });
    InPlaceExchange exchange =
        comm.all_to_all_in_place(e.recv_view(), e.recv_counts, e.send_view(), e.send_counts, stream);
    exchange.wait();
    exchange.release();
    exchange.reclaim();
    const auto& counted = comm.counters()[Operation::all_to_all_v];
    BOOST_TEST(counted.calls == 1U);
    BOOST_TEST(counted.bytes_sent ==
               sum(e.send_counts) - e.send_counts[static_cast<std::size_t>(comm.rank())]);
  });
}

// A rank may keep what it received for as long as it likes: other exchanges, any number of them, go on.
BOOST_AUTO_TEST_CASE(a_held_piece_keeps_nothing_else_waiting) {
  on_every_setting([](Communicator& comm) {
    Stream stream;
    const auto rule = [](int source, int target) { return 100 + 10 * source + target; };
    Exchange kept(comm, rule), other(comm, rule);
    const auto start = [&](Exchange& e) {
      return comm.all_to_all_in_place(e.recv_view(), e.recv_counts, e.send_view(), e.send_counts, stream);
    };
    InPlaceExchange held = start(kept);
    held.wait();
    for (int round = 0; round < 50; ++round) {
      InPlaceExchange passing = start(other);
      passing.wait();
      passing.release();
      passing.reclaim();
    }
    std::size_t at = 0;
    for (int r = 0; r < comm.size(); ++r) {
      const auto count = static_cast<std::size_t>(kept.recv_counts[static_cast<std::size_t>(r)]);
      if (count == 0) continue;
      BOOST_TEST(std::memcmp(held.rows_of(r), kept.expected.data() + at, count) == 0);
      at += count;
    }
    held.release();
    held.reclaim();
  });
}

BOOST_AUTO_TEST_CASE(send_buffers_of_a_window_are_given_back) {
  const auto comm = test::make_world(options_of(OnNode::shared, 3 * 4096));
  const auto near = [](const std::byte* a, const std::byte* b) { return std::abs(a - b) < 3 * 4096; };
  auto a = comm->allocate_send(4000), b = comm->allocate_send(1), c = comm->allocate_send(4000);
  std::memset(b.get(), 1, 1);
  const std::byte* begin = a.get();
  const bool shares = comm->size() > 1;  // alone there is nobody to share with
  if (shares) BOOST_TEST((near(begin, b.get()) && near(begin, c.get())));
  const auto none = comm->allocate_send(1);  // ordinary memory
  std::memset(none.get(), 1, 1);
  if (shares) BOOST_TEST(!near(begin, none.get()));
  b.reset();
  a.reset();
  a = comm->allocate_send(8000);  // two that were side by side are one
  if (shares) BOOST_TEST(a.get() == begin);
  std::memset(a.get(), 1, 8000);
  comm->close();  // what is left stays valid
  std::memset(c.get(), 1, 4000);
}

BOOST_AUTO_TEST_CASE(a_piece_of_the_wrong_size_is_an_error) {
  if (test::world().size() != 2) return;  // one receiver who hears of it, one sender who does not wait
  MpiOptions options = options_of(OnNode::shared, 1 << 20);
  options.debug_checks = false;
  const auto comm = test::make_world(options);
  Stream stream;
  const bool sender = comm->rank() == 0;
  Exchange e(*comm, [](int source, int target) { return source == 0 && target == 1 ? 8 : 0; });
  const Counts fewer = {7, 0};
  if (sender) {
    InPlaceExchange sent =
        comm->all_to_all_in_place(e.recv_view(), e.recv_counts, e.send_view(), e.send_counts, stream);
    sent.wait();
  } else {
    InPlaceExchange received = comm->all_to_all_in_place({e.recv.data(), DType::uint8, {7}}, fewer,
                                                         e.send_view(), e.send_counts, stream);
    BOOST_CHECK_EXCEPTION(received.wait(), Error, [](const Error& error) {
      return std::string(error.what()).find("8 bytes where 7 are expected") != std::string::npos;
    });
  }
  comm->close();
}

BOOST_AUTO_TEST_CASE(a_window_that_cannot_be_made_is_an_error_of_the_configuration_on_every_rank) {
  if (test::world().size() == 1) return;
  const MpiOptions options =
      options_of(OnNode::shared, std::int64_t{1} << 62);  // longer than any file may be
  BOOST_CHECK_EXCEPTION((void)test::make_world(options), Error, [](const Error& error) {
    return error.code() == ErrorCode::config &&
           std::string(error.what()).find("set comm.on_node = mpi") != std::string::npos;
  });
}

BOOST_AUTO_TEST_CASE(auto_is_shared_where_ranks_share_a_node) {
  Communicator& comm = test::world();
  BOOST_TEST((choose_on_node(comm, OnNode::mpi).on_node == OnNode::mpi));
  BOOST_TEST((choose_on_node(comm, OnNode::shared).on_node == OnNode::shared));
  const OnNodeChoice choice = choose_on_node(comm, std::nullopt);
  BOOST_TEST((choice.on_node == (comm.size() > 1 ? OnNode::shared : OnNode::mpi)));
  BOOST_TEST(!choice.reason.empty());
  if (comm.size() == 1) return;
  const OnNodeChoice without_room =
      choose_on_node(comm, std::nullopt, options_of(OnNode::mpi, std::int64_t{1} << 62));
  BOOST_TEST((without_room.on_node == OnNode::mpi));
  BOOST_TEST(without_room.reason.find("/dev/shm") != std::string::npos);
}
