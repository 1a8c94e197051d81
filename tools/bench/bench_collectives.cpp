// All-to-all and reduce-scatter of this program, through shared memory and through messages, beside Open
// MPI's own. "read once": each received number is then read once, as a consumer would, where it lies: through
// shared memory that is the sender's buffer. "copy": what all ranks at once can copy, without any exchange,
// by memcpy and by the copy that exchanges use.
//   mpirun -n 2 bench_collectives [ROUNDS]
// Sides take turns within every round; a time is that of the slowest rank, from a barrier on; medians over
// rounds. A message of N bytes is what one rank hands in: N/ranks for each rank, its own part included.
#include <mpi.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "comm/large_copy.hpp"
#include "neuronmoe/comm/mpi_communicator.hpp"
#include "neuronmoe/ops/transformer.hpp"

namespace {

using namespace nmoe;

struct Side {
  std::string name;
  std::function<void()> run;
  std::vector<double> seconds;
};

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

/// Times all sides in turn. Collective.
void time_sides(std::vector<Side>& sides, int rounds) {
  for (int round = -2; round < rounds; ++round) {  // two to warm up
    for (Side& side : sides) {
      MPI_Barrier(MPI_COMM_WORLD);
      const auto start = std::chrono::steady_clock::now();
      side.run();
      double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
      MPI_Allreduce(MPI_IN_PLACE, &seconds, 1, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
      if (round >= 0) side.seconds.push_back(seconds);
    }
  }
}

/// GB/s a rank hands in: median and best round.
void print_sides(const char* what, std::int64_t bytes, const std::vector<Side>& sides) {
  std::printf("%-14s %6lld KiB", what, static_cast<long long>(bytes >> 10));
  for (const Side& side : sides) {
    const double best = *std::min_element(side.seconds.begin(), side.seconds.end());
    std::printf("  %s %.2f (%.2f)", side.name.c_str(),
                static_cast<double>(bytes) / median(side.seconds) / 1e9,
                static_cast<double>(bytes) / best / 1e9);
  }
  std::printf("\n");
  std::fflush(stdout);
}

struct Bench {
  int rank = 0, size = 1;
  std::unique_ptr<comm::Communicator> shared, messages;
  Stream stream;
  std::shared_ptr<std::byte> shared_send;
  Tensor send, receive, result;
  float checksum = 0;

  explicit Bench(std::int64_t most_bytes) {
    MPI_Comm world = MPI_COMM_WORLD;
    MPI_Comm_rank(world, &rank);
    MPI_Comm_size(world, &size);
    comm::MpiOptions options;
    messages = comm::make_mpi_communicator(&world, options);
    options.on_node = comm::OnNode::shared;
    shared = comm::make_mpi_communicator(&world, options);
    for (Tensor* t : {&send, &receive, &result}) *t = Tensor({most_bytes / 4}, DType::float32);
    for (std::int64_t i = 0; i < most_bytes / 4; ++i)
      send.data<float>()[i] = static_cast<float>((i * 7 + rank) % 1000);
    shared_send = shared->allocate_send(most_bytes);
    std::memcpy(shared_send.get(), send.data<float>(), static_cast<std::size_t>(most_bytes));
  }

  std::vector<std::int64_t> counts(std::int64_t part) const {
    return std::vector<std::int64_t>(static_cast<std::size_t>(size), part);
  }
  TensorView received(std::int64_t part) { return receive.view().rows(0, part * size); }
  ConstTensorView to_send(bool in_place, std::int64_t part) {
    if (!in_place) return send.view().rows(0, part * size);
    return {shared_send.get(), DType::float32, {part * size}};
  }

  void all_to_all(comm::Communicator& group, bool in_place, std::int64_t part) {
    group.all_to_all_v(received(part), counts(part), to_send(in_place, part), counts(part), stream).wait();
  }
  void mpi_all_to_all(std::int64_t part) {
    std::vector<int> sizes(static_cast<std::size_t>(size), static_cast<int>(part * 4)), offsets;
    for (int r = 0; r < size; ++r) offsets.push_back(r * static_cast<int>(part * 4));
    MPI_Alltoallv(send.view().raw(), sizes.data(), offsets.data(), MPI_BYTE, receive.view().raw(),
                  sizes.data(), offsets.data(), MPI_BYTE, MPI_COMM_WORLD);
  }
  /// The parts of all ranks in ascending order, in one pass.
  void sum(std::span<const void* const> parts, std::int64_t part) {
    float* out = result.data<float>();
    const auto* first = static_cast<const float*>(parts[0]);
    const auto* second = static_cast<const float*>(parts[1]);
    for (std::int64_t i = 0; i < part; ++i) out[i] = first[i] + second[i];
    for (std::size_t r = 2; r < parts.size(); ++r)
      ops::add_inplace(result.view().rows(0, part), {parts[r], DType::float32, {part}}, stream);
  }
  void sum_received(std::int64_t part) {
    std::vector<const void*> parts;
    for (int r = 0; r < size; ++r) parts.push_back(receive.data<float>() + r * part);
    sum(parts, part);
  }
  /// Reads every number once.
  void read(const void* numbers, std::int64_t count) {
    constexpr std::int64_t lanes = 64;  // so that it is vector code without reordering sums
    std::array<float, lanes> sums{};
    const auto* x = static_cast<const float*>(numbers);
    for (std::int64_t i = 0; i + lanes <= count; i += lanes) {
      for (std::int64_t j = 0; j < lanes; ++j) sums[static_cast<std::size_t>(j)] += x[i + j];
    }
    for (const float s : sums) checksum += s;
  }
  /// As the backward of experts reads the gradients of its rows.
  void exchange_and_read(std::int64_t part) {
    comm::InPlaceExchange exchange =
        shared->all_to_all_in_place(received(part), counts(part), to_send(true, part), counts(part), stream);
    exchange.wait();
    for (int r = 0; r < size; ++r) read(exchange.rows_of(r), part);
    exchange.release();
    exchange.reclaim();
  }
  /// As the trainer reduces a bucket.
  void reduce_scatter(comm::Communicator& group, bool in_place, std::int64_t part) {
    comm::InPlaceExchange exchange = group.all_to_all_in_place(received(part), counts(part),
                                                               to_send(in_place, part), counts(part), stream);
    exchange.wait();
    std::vector<const void*> parts;
    for (int r = 0; r < size; ++r) parts.push_back(exchange.rows_of(r));
    sum(parts, part);
    exchange.release();
    exchange.reclaim();
  }

  std::vector<Side> exchanges(std::int64_t part) {
    std::vector<Side> sides;
    sides.push_back({"shared", [=, this] { all_to_all(*shared, true, part); }, {}});
    sides.push_back({"messages", [=, this] { all_to_all(*messages, false, part); }, {}});
    sides.push_back({"MPI_Alltoallv", [=, this] { mpi_all_to_all(part); }, {}});
    return sides;
  }
  std::vector<Side> exchanges_read_once(std::int64_t part) {
    const auto then_read = [=, this](auto exchange) {
      return [=, this] {
        exchange();
        read(receive.data<float>(), part * size);
      };
    };
    std::vector<Side> sides;
    sides.push_back({"shared", [=, this] { exchange_and_read(part); }, {}});
    sides.push_back({"messages", then_read([=, this] { all_to_all(*messages, false, part); }), {}});
    sides.push_back({"MPI_Alltoallv", then_read([=, this] { mpi_all_to_all(part); }), {}});
    return sides;
  }
  std::vector<Side> copies(std::int64_t part) {
    const auto num_bytes = static_cast<std::size_t>(part * size * 4);
    std::vector<Side> sides;
    const auto plain = [=, this] { std::memcpy(receive.data<float>(), send.data<float>(), num_bytes); };
    sides.push_back({"memcpy", plain, {}});
    const auto ours = [=, this] {
      comm::detail::copy_bytes(receive.data<float>(), send.data<float>(), num_bytes);
    };
    sides.push_back({"ours", ours, {}});
    return sides;
  }
  std::vector<Side> reductions(std::int64_t part) {
    std::vector<Side> sides;
    sides.push_back({"shared", [=, this] { reduce_scatter(*shared, true, part); }, {}});
    sides.push_back({"messages", [=, this] { reduce_scatter(*messages, false, part); }, {}});
    const auto mpi_exchange_and_sum = [=, this] {
      mpi_all_to_all(part);
      sum_received(part);
    };
    sides.push_back({"MPI_Alltoallv+sum", mpi_exchange_and_sum, {}});
    const auto library = [=, this] {
      MPI_Reduce_scatter_block(send.view().raw(), result.view().raw(), static_cast<int>(part), MPI_FLOAT,
                               MPI_SUM, MPI_COMM_WORLD);
    };
    sides.push_back({"MPI_Reduce_scatter_block", library, {}});
    return sides;
  }

  void run(std::int64_t bytes, int rounds) {
    const std::int64_t part = bytes / 4 / size;
    const std::pair<const char*, std::vector<Side>> rows[] = {{"all-to-all", exchanges(part)},
                                                              {"read once", exchanges_read_once(part)},
                                                              {"copy", copies(part)},
                                                              {"reduce-scatter", reductions(part)}};
    for (auto [what, sides] : rows) {
      time_sides(sides, rounds);
      if (rank == 0) print_sides(what, bytes, sides);
    }
  }
};

}  // namespace

int main(int argc, char** argv) {
  int provided = 0;
  MPI_Init_thread(&argc, &argv, MPI_THREAD_SERIALIZED, &provided);
  const int rounds = argc > 1 ? std::atoi(argv[1]) : 21;
  {
    constexpr std::int64_t most = std::int64_t{64} << 20;
    Bench bench(most);
    std::array<char, MPI_MAX_LIBRARY_VERSION_STRING> version{};
    int length = 0;
    MPI_Get_library_version(version.data(), &length);
    if (bench.rank == 0) std::printf("%d ranks, %d rounds, %s\n", bench.size, rounds, version.data());
    for (std::int64_t bytes = 64 << 10; bytes <= most; bytes *= 4) bench.run(bytes, rounds);
    if (bench.rank == 0) std::printf("sum of all that was read: %g\n", static_cast<double>(bench.checksum));
    bench.shared_send.reset();
    bench.shared->close();
    bench.messages->close();
  }
  MPI_Finalize();
}
