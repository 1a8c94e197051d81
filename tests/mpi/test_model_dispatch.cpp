// Tokens on their way to the experts of other ranks: what arrives, where it is read, and what comes back, as
// messages and out of the senders' buffers (comm.on_node).
#include <boost/test/unit_test.hpp>
#include <functional>

#include "neuronmoe/model/step_memory.hpp"
#include "neuronmoe/model/token_dispatcher.hpp"
#include "neuronmoe/ops/moe.hpp"
#include "neuronmoe/ops/transformer.hpp"
#include "support/mpi_fixture.hpp"

using namespace nmoe;
using namespace nmoe::model;

namespace {

constexpr std::int64_t width = 5, top_k = 2;

/// Experts of a token: the base or not, and one or two others; some experts get nothing.
std::vector<std::int32_t> experts_of(int rank, std::int64_t token, int num_experts) {
  const auto first = static_cast<std::int32_t>((rank * 3 + token * token) % num_experts);
  return {first, static_cast<std::int32_t>((first + 1 + token % 2) % num_experts)};
}

float value_of(int rank, std::int64_t token, std::int64_t column) {
  return static_cast<float>(rank * 100'000 + token * 10 + column);
}

/// Values of a source's rows for an expert.
std::vector<float> rows_for(int expert, int source, std::int64_t num_tokens, int num_experts) {
  std::vector<float> rows;
  for (std::int64_t t = 0; t < num_tokens; ++t) {
    for (const std::int32_t e : experts_of(source, t, num_experts)) {
      if (e != expert) continue;
      for (std::int64_t d = 0; d < width; ++d) rows.push_back(value_of(source, t, d));
    }
  }
  return rows;
}

/// Where the rows of this rank and of others are read, if they are not kept.
struct InPlace {
  bool own, others;
};

/// One dispatch and the way back, both through `memory`.
void exchange_rows(const ExpertParallelGroup& group, StepMemory& memory,
                   const std::function<std::int64_t(int)>& num_tokens_of, bool keep, InPlace in_place) {
  const int me = group.comm.rank(), num_experts = 2 * group.comm.size() + 2;
  const std::int64_t num_tokens = num_tokens_of(me);
  Stream stream;
  memory.scratch.reset();
  const std::vector<std::int32_t> places = TokenDispatcher::places_of_experts(group, 0, num_experts);
  Tensor indices({num_tokens, top_k}, DType::int32), x({num_tokens, width}, DType::float32);
  for (std::int64_t t = 0; t < num_tokens; ++t) {
    const std::vector<std::int32_t> chosen = experts_of(me, t, num_experts);
    for (std::int64_t k = 0; k < top_k; ++k)
      indices.data<std::int32_t>()[t * top_k + k] = chosen[static_cast<std::size_t>(k)];
    for (std::int64_t d = 0; d < width; ++d) x.data<float>()[t * width + d] = value_of(me, t, d);
  }
  const RowOrder order{memory.scratch.take({num_tokens * top_k}, DType::int32),
                       memory.scratch.take({num_tokens, top_k}, DType::int32)};
  const TokenDispatcher dispatcher(group, {0, {places.data(), DType::int32, {num_experts}}, indices.view()},
                                   order, {memory.scratch.take({num_experts}, DType::int64)}, stream);
  const TensorView rows = memory.to_experts.take({dispatcher.num_rows(), width}, DType::float32),
                   received = memory.scratch.take({dispatcher.num_received(), width}, DType::float32),
                   results = memory.from_experts.take({dispatcher.num_received(), width}, DType::float32);
  ops::gather_rows(rows, x.view(), dispatcher.token_of_row(), stream);
  Arrivals arriving = dispatcher.dispatch(received, rows, keep, stream);
  arriving.wait();
  if (keep && !dispatcher.is_local()) {  // then nobody reads the senders' rows any more
    ops::fill(rows, -1.0, stream);
    group.comm.barrier();
  }
  for (const ExpertBlock& block : dispatcher.blocks()) {
    const ConstTensorView found = arriving.rows(block);
    const std::vector<float> expected =
        rows_for(block.expert, block.source, num_tokens_of(block.source), num_experts);
    BOOST_TEST(
        std::vector<float>(found.data<float>(), found.data<float>() + found.num_elements()) == expected,
        boost::test_tools::per_element());
    const bool in_received = found.data<float>() >= received.data<float>() &&
                             found.data<float>() < received.data<float>() + received.num_elements();
    if (found.num_elements() > 0 && !dispatcher.is_local())
      BOOST_TEST(in_received == (keep || !(block.source == me ? in_place.own : in_place.others)));
    for (std::int64_t i = 0; i < found.num_elements(); ++i)
      results.data<float>()[block.begin * width + i] = 2 * found.data<float>()[i] + 1;
  }
  arriving.release();
  if (!dispatcher.is_local()) {
    Tensor back({dispatcher.num_rows(), width}, DType::float32);
    dispatcher.combine(back.view(), results, stream).wait();
    const auto* token = dispatcher.token_of_row().data<std::int32_t>();
    for (std::int64_t r = dispatcher.num_local_rows(); r < dispatcher.num_rows(); ++r) {
      for (std::int64_t d = 0; d < width; ++d)
        BOOST_TEST(back.data<float>()[r * width + d] == 2 * value_of(me, token[r], d) + 1);
    }
  }
  arriving.reclaim();
  // Whoever still read them would find this.
  ops::fill(rows, -2.0, stream);
  ops::fill(results, -3.0, stream);
}

void check_dispatch(const comm::MpiOptions& options, InPlace in_place) {
  const auto comm = test::make_world(options);
  const int size = comm->size();
  const std::vector<int> num_experts = {2 * size + 2};
  const ExpertParallelGroup group{*comm, model::ExpertPlacement(num_experts, size, top_k)};
  {
    StepMemory memory{Arena(), Arena(), SendBuffer(*comm, Device::cpu), SendBuffer(*comm, Device::cpu)};
    for (const bool keep : {false, true}) {
      for (const std::int64_t tokens : {40, 0, 7, 300, 1, 301}) {
        for (const int idle : {-1, 0, size - 1}) {
          const auto num_tokens_of = [&](int rank) { return rank == idle ? 0 : tokens + rank; };
          exchange_rows(group, memory, num_tokens_of, keep, in_place);
        }
      }
    }
  }
  comm->close();
}

comm::MpiOptions options_of(comm::OnNode on_node, std::int64_t window_bytes) {
  comm::MpiOptions options;
  options.debug_checks = true;
  options.on_node = on_node;
  options.window_bytes = window_bytes;
  options.in_place_bytes = 1;
  return options;
}

}  // namespace

BOOST_AUTO_TEST_CASE(rows_travel_as_messages) {
  check_dispatch(options_of(comm::OnNode::mpi, 0), {false, false});
}

BOOST_AUTO_TEST_CASE(rows_are_read_in_the_senders_buffers) {
  check_dispatch(options_of(comm::OnNode::shared, 1 << 20), {true, true});
}

BOOST_AUTO_TEST_CASE(rows_for_which_the_window_has_no_room_travel_as_messages) {
  check_dispatch(options_of(comm::OnNode::shared, 0), {true, false});
}

BOOST_AUTO_TEST_CASE(send_buffers_grow_and_stay) {
  const auto comm = test::make_world(options_of(comm::OnNode::shared, 1 << 20));
  {
    SendBuffer buffer(*comm, Device::cpu);
    const void* small = buffer.take({10, 4}, DType::float32).raw();
    BOOST_TEST(buffer.peak_bytes() == 192);  // 160, rounded up to 64
    BOOST_TEST(buffer.take({3}, DType::uint8).raw() == small);
    const void* large = buffer.take({1000, 4}, DType::float32).raw();
    BOOST_TEST(buffer.take({0, 4}, DType::float32).raw() == large);
    buffer.reserve(8000);  // there is as much already
    BOOST_TEST(buffer.take({1000, 4}, DType::float32).raw() == large);
    BOOST_TEST(buffer.peak_bytes() == 16'000);
    // A window of any size has room for a buffer that has grown a hundred times: it does not keep the old
    // ones.
    for (std::int64_t n = 1; n <= 100; ++n) (void)buffer.take({n * 2000, 4}, DType::uint8);
    if (comm->size() > 1) {
      const auto rest = comm->allocate_send(100'000);
      const auto* grown = static_cast<const std::byte*>(buffer.take({1}, DType::uint8).raw());
      BOOST_TEST(std::abs(rest.get() - grown) <= 1 << 20);  // both in the window
    }
  }
  comm->close();
}
