// Collective HDF5 and checkpoints: the same bytes for any number of ranks, read back by any other.
#include <sys/mount.h>

#include <boost/test/unit_test.hpp>
#include <filesystem>
#include <fstream>

#include "neuronmoe/base/philox.hpp"
#include "neuronmoe/base/sha256.hpp"
#include "neuronmoe/comm/agree.hpp"
#include "neuronmoe/io/atomic_file.hpp"
#include "neuronmoe/io/hdf5_file.hpp"
#include "neuronmoe/io/manifest.hpp"
#include "support/mpi_fixture.hpp"
#include "support/temp_dir.hpp"

using namespace nmoe;
using io::ElementType;
using io::FileRange;

namespace {

const std::vector<std::int64_t> shape = {7, 11, 13};
constexpr std::int64_t total = 7 * 11 * 13;

/// Uneven shares with holes between them, tiling the array over the ranks; the last of many ranks has none.
std::vector<FileRange> ranges_of(int rank, int size) {
  std::vector<FileRange> ranges;
  const int owners = size > 2 ? size - 1 : size;
  constexpr std::int64_t piece = 17;
  for (std::int64_t begin = 0, i = 0; begin < total; begin += piece, ++i)
    if (i % owners == rank) ranges.push_back({begin, std::min(piece, total - begin)});
  return ranges;
}

template <typename T, typename Make>
std::vector<T> packed_of(const std::vector<FileRange>& ranges, Make make) {
  std::vector<T> packed;
  for (const FileRange& r : ranges)
    for (std::int64_t i = r.begin; i < r.begin + r.count; ++i) packed.push_back(make(i));
  return packed;
}

/// What `comm` writes must not depend on its size.
void write_sample(comm::Communicator& comm, const std::string& path) {
  io::write_h5_atomically(path, comm, [&](io::H5File& f) {
    const auto ranges = ranges_of(comm.rank(), comm.size());
    const auto floats = packed_of<float>(ranges, [](std::int64_t i) { return static_cast<float>(i); });
    const auto halves =
        packed_of<bfloat16>(ranges, [](std::int64_t i) { return bfloat16(static_cast<float>(i % 100)); });
    f.write_attribute("/", "format", "sample");
    f.write_ranges("/a/x", ElementType::float32, shape, ranges, floats.data());
    f.write_ranges("/a/h", ElementType::bfloat16, shape, ranges, halves.data());
    f.write("/whole", std::vector<std::uint64_t>(3, comm.rank() == 0 ? 3U : 9U));  // rank 0's counts
    f.write("/none", std::vector<std::uint64_t>{});
    f.write_strings("/names", {"en", "el"});
  });
}

}  // namespace

/// 40 MB of float16 and a few elements, fewer than there are ranks: pieces end in the middle of a rank's
/// share.
BOOST_AUTO_TEST_CASE(streamed_datasets) {
  comm::Communicator& comm = test::world();
  const test::SharedDirectory dir("streamed");
  constexpr std::int64_t rows = 1250, columns = 16001;
  const auto value = [](std::int64_t i) { return static_cast<std::uint16_t>(i * 40503 >> 7); };
  const auto fill = [&](std::int64_t begin, std::span<char> bytes) {
    for (std::size_t i = 0; i < bytes.size() / 2; ++i) {
      const std::uint16_t v = value(begin + static_cast<std::int64_t>(i));
      std::memcpy(bytes.data() + 2 * i, &v, 2);
    }
  };
  const std::int64_t large[] = {rows, columns}, small[] = {3}, none[] = {0, 4};
  io::write_h5_atomically(dir.path() + "/a.h5", comm, [&](io::H5File& f) {
    f.write_streamed("/large", ElementType::float16, large, fill);
    f.write_streamed("/small", ElementType::float16, small, fill);
    f.write_streamed("/none", ElementType::float16, none, fill);
  });
  io::H5File f = io::H5File::open(dir.path() + "/a.h5");
  BOOST_TEST((f.info("/large").type == ElementType::float16 && f.info("/none").num_elements() == 0));
  std::vector<std::uint16_t> back(static_cast<std::size_t>(rows * columns));
  const FileRange all{0, rows * columns};
  f.read_ranges("/large", ElementType::float16, large, {&all, 1}, back.data());
  std::int64_t wrong = 0;
  for (std::int64_t i = 0; i < rows * columns; ++i) wrong += back[static_cast<std::size_t>(i)] != value(i);
  BOOST_TEST(wrong == 0);
  comm.barrier();
  const int bad_rank = comm.size() - 1;
  const auto refuse = [&] {
    io::write_h5_atomically(dir.path() + "/b.h5", comm, [&](io::H5File& file) {
      file.write_streamed("/large", ElementType::float16, large,
                          [&](std::int64_t begin, std::span<char> bytes) {
                            NMOE_CHECK(comm.rank() != bad_rank, bad_data, "no source");
                            fill(begin, bytes);
                          });
    });
  };
  BOOST_TEST(test::expect_error(ErrorCode::bad_data, {"no source"}, refuse) == "");
  BOOST_TEST(!std::filesystem::exists(dir.path() + "/b.h5"));
}

BOOST_AUTO_TEST_CASE(bytes_do_not_depend_on_ranks) {
  comm::Communicator& comm = test::world();
  const test::SharedDirectory dir("bytes");
  write_sample(comm, dir.path() + "/parallel.h5");
  // A group of one rank: files are the same for any number of MPI ranks (HDF5's serial driver lays them out
  // differently).
  const auto local = comm.split(comm.rank(), 0);
  const std::string mine = dir.path() + "/serial" + std::to_string(comm.rank()) + ".h5";
  write_sample(*local, mine);
  BOOST_TEST(sha256_file(dir.path() + "/parallel.h5") == sha256_file(mine));
  comm.barrier();
}

BOOST_AUTO_TEST_CASE(any_layout_reads_what_another_wrote) {
  comm::Communicator& comm = test::world();
  const test::SharedDirectory dir("layouts");
  const std::string path = dir.path() + "/x.h5";
  write_sample(comm, path);
  io::H5File file = io::H5File::open(path, comm, io::FileFormat{"sample"});
  for (int shift = 0; shift < comm.size(); ++shift) {
    const auto ranges = ranges_of((comm.rank() + shift) % comm.size(), comm.size());
    const auto expected = packed_of<float>(ranges, [](std::int64_t i) { return static_cast<float>(i); });
    std::vector<float> packed(expected.size(), -1.0F);
    file.read_ranges("/a/x", ElementType::float32, shape, ranges, packed.data());
    BOOST_TEST((packed == expected));
  }
  BOOST_TEST(file.read<std::uint64_t>("/whole")[2] == 3U);
  BOOST_TEST(file.read_strings("/names")[1] == "el");
  // An error on one rank only is everybody's error.
  std::vector<FileRange> ranges = {{0, comm.rank() == comm.size() - 1 ? total + 1 : 1}};
  std::vector<float> buffer(2);
  BOOST_TEST(test::expect_error(ErrorCode::internal, {"/a/x", "range"}, [&] {
               file.read_ranges("/a/x", ElementType::float32, shape, ranges, buffer.data());
             }) == "");
  file.close();
}

BOOST_AUTO_TEST_CASE(errors_are_agreed) {
  comm::Communicator& comm = test::world();
  const test::SharedDirectory dir("errors");
  const std::string path = dir.path() + "/x.h5";
  BOOST_TEST(test::expect_error(ErrorCode::bad_data, {"x.h5"}, [&] { io::H5File::open(path, comm); }) == "");
  BOOST_TEST(test::expect_error(ErrorCode::io, {"nowhere"},
                                [&] { write_sample(comm, dir.path() + "/nowhere/x.h5"); }) == "");
  write_sample(comm, path);
  BOOST_TEST(test::expect_error(ErrorCode::bad_data, {"x.h5", "other"},
                                [&] { io::H5File::open(path, comm, io::FileFormat{"other"}); }) == "");
  const std::string later = dir.path() + "/later.h5";
  io::write_h5_atomically(later, comm, [](io::H5File& f) { f.write_format({"sample", 2}); });
  BOOST_TEST(test::expect_error(ErrorCode::bad_data, {"later.h5", "version 2", "use a newer neuronmoe"},
                                [&] { io::H5File::open(later, comm, io::FileFormat{"sample"}); }) == "");
  comm.barrier();
}

BOOST_AUTO_TEST_CASE(seals_are_written_and_compared_together) {
  comm::Communicator& comm = test::world();
  const test::SharedDirectory dir("seal");
  const std::string path = dir.path() + "/x.h5";
  constexpr std::int64_t num_bytes = (std::int64_t{150} << 20) + 5;  // three blocks, the last of them ragged
  const auto on_rank_zero = [&](const std::function<void()>& work) {
    comm::agree(comm, [&] {
      if (comm.rank() == 0) work();
    });
  };
  const auto write_at = [&](std::int64_t at, char value) {
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(at);
    file.put(value);
  };
  on_rank_zero([&] {
    test::write_bytes(path, "");
    std::filesystem::resize_file(path, num_bytes);
    for (std::int64_t at = 1000; at < num_bytes; at += 7'000'003) write_at(at, static_cast<char>(at % 101));
  });
  io::seal_file(comm, path);
  std::string together;
  on_rank_zero([&] {
    together = test::read_bytes(path).substr(0, io::seal_bytes);
    io::seal_file(path);
    BOOST_TEST((together == test::read_bytes(path).substr(0, io::seal_bytes)));
  });
  BOOST_TEST(io::verify_seal(comm, path));
  for (const std::int64_t at : {std::int64_t{512}, std::int64_t{100} << 20, num_bytes - 1}) {
    on_rank_zero([&] { write_at(at, 'x'); });
    BOOST_TEST(test::expect_error(ErrorCode::bad_data, {"x.h5", "damaged"},
                                  [&] { io::verify_seal(comm, path); }) == "");
    on_rank_zero([&] { write_at(at, '\0'); });
    BOOST_TEST(io::verify_seal(comm, path));
  }
}

BOOST_AUTO_TEST_CASE(steps_commit_verify_and_fall_back) {
  comm::Communicator& comm = test::world();
  const test::SharedDirectory dir("steps");
  const std::string run = dir.path() + "/run";
  for (const std::int64_t step : {10, 20}) {
    const std::string tmp = io::begin_step(comm, run, step);
    write_sample(comm, tmp + "/model.h5");
    BOOST_TEST(io::commit_step(comm, run, step, {{"parent", "0"}}) ==
               run + "/" + io::step_directory_name(step));
  }
  BOOST_TEST(io::newest_valid_step(comm, run).step == 20);
  const std::string newest = run + "/" + io::step_directory_name(20) + "/model.h5";
  const std::string whole = test::read_bytes(newest);
  const Philox random(9, RandomPurpose::test);
  int unseen = 0;
  for (std::uint64_t i = 0; i < 20; ++i) {
    comm.barrier();
    if (comm.rank() == 0) {
      std::string damaged = whole;
      damaged[random.below(i, whole.size())] ^= static_cast<char>(1U << (i % 8));
      test::write_bytes(newest, damaged);
    }
    comm.barrier();
    const io::ValidStep valid = io::newest_valid_step(comm, run);
    unseen += valid.step != 10 || valid.skipped.size() != 1;
  }
  BOOST_TEST(unseen == 0);
  BOOST_TEST(io::prune_steps(comm, run, 1).empty());  // the older one is the last valid one
  BOOST_TEST(io::newest_valid_step(comm, run).step == 10);
}

BOOST_AUTO_TEST_CASE(a_full_disk_keeps_the_old_file_and_hangs_nobody) {
  comm::Communicator& comm = test::world();
  const test::SharedDirectory dir("full");
  const std::string disk = dir.path() + "/disk", path = disk + "/x.h5";
  bool mounted = false;
  comm::agree(comm, [&] {
    if (comm.rank() != 0) return;
    std::filesystem::create_directories(disk);
    mounted = ::mount("tmpfs", disk.c_str(), "tmpfs", 0, "size=3m") == 0;
  });
  mounted = comm::all_reduce_max(comm, std::int64_t{mounted}) > 0;
  BOOST_TEST_MESSAGE("small disk mounted: " << mounted);
  if (!mounted) return;  // only root may; unit.test_io_files covers the message
  write_sample(comm, path);
  const std::string before = sha256_file(path);
  const std::int64_t part = 1 << 20;  // floats per rank: 4 MiB
  const std::vector<std::int64_t> large = {part * comm.size()};
  const std::vector<float> values(static_cast<std::size_t>(part), 1.0F);
  const std::vector<FileRange> ranges = {{part * comm.rank(), part}};
  BOOST_TEST(test::expect_error(ErrorCode::no_space, {"x.h5"}, [&] {
               io::write_h5_atomically(path, comm, [&](io::H5File& f) {
                 f.write_ranges("/large", ElementType::float32, large, ranges, values.data());
               });
             }) == "");
  comm.barrier();
  BOOST_TEST(sha256_file(path) == before);
  comm.barrier();
  if (comm.rank() == 0) ::umount2(disk.c_str(), MNT_DETACH);
  comm.barrier();
}
