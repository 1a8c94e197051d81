// agree() and the debug checks: every rank throws, and the message names who is to blame.
#include <boost/test/unit_test.hpp>

#include "neuronmoe/comm/agree.hpp"
#include "support/mpi_fixture.hpp"

using namespace nmoe;
using namespace nmoe::comm;

namespace {

/// The Error that `body` throws; the test fails if it throws none.
template <typename Body>
Error error_of(Body body) {
  try {
    body();
  } catch (const Error& error) {
    return error;
  }
  BOOST_ERROR("no Error was thrown");
  return {ErrorCode::internal, ""};
}

bool contains(const Error& error, const std::string& text) {
  return std::string(error.what()).find(text) != std::string::npos;
}

/// After an error was agreed the communicator must be usable, with all ranks at the same call.
void check_usable(Communicator& comm) {
  BOOST_TEST(all_reduce_sum(comm, std::int64_t{1}) == comm.size());
}

}  // namespace

BOOST_AUTO_TEST_CASE(agree_is_silent_when_all_ranks_succeed) {
  int calls = 0;
  agree(test::world(), [&] { ++calls; });
  BOOST_TEST(calls == 1);
}

BOOST_AUTO_TEST_CASE(agree_with_one_failing_rank) {
  Communicator& comm = test::world();
  for (int bad = 0; bad < comm.size(); ++bad) {
    const Error error = error_of(
        [&] { agree(comm, [&] { NMOE_CHECK(comm.rank() != bad, bad_data, "file {} is torn", bad); }); });
    BOOST_TEST((error.code() == ErrorCode::bad_data));
    BOOST_TEST(contains(error, "file " + std::to_string(bad) + " is torn"));
    if (comm.size() > 1) BOOST_TEST(contains(error, "rank " + std::to_string(bad) + ": "));
    check_usable(comm);
  }
}

BOOST_AUTO_TEST_CASE(agree_lists_all_failing_ranks_and_takes_the_lowest_ones_code) {
  Communicator& comm = test::world();
  if (comm.size() < 3) return;  // needs a rank that succeeds and two different failures
  const Error error = error_of([&] {
    agree(comm, [&] {
      if (comm.rank() == 1) throw Error(ErrorCode::config, "option x\nis wrong");
      if (comm.rank() == 2) throw std::runtime_error("out of luck");
    });
  });
  BOOST_TEST(error.what() == "rank 1: option x\nis wrong\nrank 2: out of luck");
  BOOST_TEST((error.code() == ErrorCode::config));
  check_usable(comm);
}

BOOST_AUTO_TEST_CASE(agree_keeps_kinds_apart_that_share_an_exit_code) {
  Communicator& comm = test::world();
  for (const ErrorCode kind : {ErrorCode::io, ErrorCode::internal}) {
    const Error error = error_of([&] {
      agree(comm, [&] {
        if (comm.rank() == comm.size() - 1) throw Error(kind, "the last one");
      });
    });
    BOOST_TEST((error.code() == kind));
    BOOST_TEST(exit_code(error.code()) == 70);
  }
}

BOOST_AUTO_TEST_CASE(agree_says_equal_messages_once) {
  Communicator& comm = test::world();
  if (comm.size() < 2) return;
  const Error error = error_of([&] { agree(comm, [] { throw Error(ErrorCode::no_space, "disk full"); }); });
  BOOST_TEST(error.what() == std::string("all ranks: disk full"));
  if (comm.size() < 3) return;
  const Error some =
      error_of([&] { agree(comm, [&] { NMOE_CHECK(comm.rank() > 1, no_space, "disk full"); }); });
  BOOST_TEST(some.what() == std::string("rank 0, 1: disk full"));
  BOOST_TEST((error.code() == ErrorCode::no_space));
}

BOOST_AUTO_TEST_CASE(mismatched_calls_are_found_on_every_rank) {
  Communicator& comm = test::world();
  if (comm.size() < 2) return;  // one rank cannot disagree
  const bool odd = comm.rank() == comm.size() - 1;
  const std::string odd_rank = "rank " + std::to_string(comm.size() - 1);
  Stream stream;
  Tensor f({8}, DType::float32), longer({9}, DType::float32), i({8}, DType::int32);

  const Error operation =
      error_of([&] { odd ? comm.barrier() : comm.all_reduce(f.view(), ReduceOp::sum, stream).wait(); });
  BOOST_TEST((operation.code() == ErrorCode::internal));
  BOOST_TEST(contains(operation, "rank 0 all_reduce sum of 8 float32"));
  BOOST_TEST(contains(operation, odd_rank + " barrier"));
  const Error dtype =
      error_of([&] { comm.all_reduce(odd ? i.view() : f.view(), ReduceOp::sum, stream).wait(); });
  BOOST_TEST(contains(dtype, "8 int32"));
  const Error count =
      error_of([&] { comm.all_reduce(odd ? longer.view() : f.view(), ReduceOp::sum, stream).wait(); });
  BOOST_TEST(contains(count, "9 float32"));
  const Error op =
      error_of([&] { comm.all_reduce(f.view(), odd ? ReduceOp::max : ReduceOp::min, stream).wait(); });
  BOOST_TEST(contains(op, "all_reduce max"));
  const Error root = error_of([&] { comm.broadcast(f.view(), odd ? 1 : 0, stream).wait(); });
  BOOST_TEST(contains(root, "from rank 1"));
  check_usable(comm);
}

BOOST_AUTO_TEST_CASE(mismatched_counts_are_found_on_every_rank) {
  Communicator& comm = test::world();
  if (comm.size() < 2) return;
  const bool odd = comm.rank() == comm.size() - 1;
  const auto n = static_cast<std::size_t>(comm.size());
  Stream stream;
  // The last rank sends 3 rows to rank 0, which expects 2.
  std::vector<std::int64_t> send(n, 2), recv(n, 2);
  if (odd) send[0] = 3;
  Tensor a({2 * comm.size() + (odd ? 1 : 0), 2}, DType::float32), b({2 * comm.size(), 2}, DType::float32);
  const Error rows = error_of([&] { comm.all_to_all_v(b.view(), recv, a.view(), send, stream).wait(); });
  BOOST_TEST(
      contains(rows, "rank " + std::to_string(comm.size() - 1) + " sends 3 rows to rank 0, which expects 2"));
  // Ranks that disagree on who gives what in an all-gather.
  std::vector<std::int64_t> gather(n, 1);
  if (odd) gather[0] = 2;
  Tensor mine({1, 2}, DType::float32), all({comm.size() + (odd ? 1 : 0), 2}, DType::float32);
  const Error counts = error_of([&] { comm.all_gather_v(all.view(), gather, mine.view(), stream).wait(); });
  BOOST_TEST(contains(counts, "differ"));
  check_usable(comm);
}

BOOST_AUTO_TEST_CASE(invalid_arguments_of_one_rank_are_heard_by_all) {
  Communicator& comm = test::world();
  const int bad = comm.size() - 1;
  Stream stream;
  Tensor good({2}, DType::float32);
  const Error error = error_of([&] {
    comm.all_reduce(comm.rank() == bad ? TensorView() : good.view(), ReduceOp::sum, stream).wait();
  });
  BOOST_TEST(contains(error, "rank " + std::to_string(bad) + " of the group"));
  BOOST_TEST(contains(error, "empty view"));
  check_usable(comm);
  const Error root = error_of([&] { comm.broadcast(good.view(), comm.size(), stream).wait(); });
  BOOST_TEST(contains(root, "root " + std::to_string(comm.size())));
  check_usable(comm);
}

BOOST_AUTO_TEST_CASE(without_debug_checks_bad_arguments_throw_at_the_call) {
  const auto comm = test::make_world({});
  Stream stream;
  Tensor a({3, 2}, DType::float32), b({3, 2}, DType::float64);
  const std::vector<std::int64_t> counts(static_cast<std::size_t>(comm->size()), 3);
  BOOST_CHECK_THROW((void)comm->all_gather_v(b.view(), counts, a.view(), stream), Error);
  BOOST_CHECK_THROW((void)comm->all_reduce(TensorView(), ReduceOp::sum, stream), Error);
  comm->close();
}
