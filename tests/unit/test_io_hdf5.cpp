// H5File on one process: round trips, determinism, atomic commit, and hostile or damaged files.
#include <hdf5.h>
#include <sys/wait.h>
#include <unistd.h>

#include <boost/test/unit_test.hpp>
#include <csignal>
#include <limits>

#include "neuronmoe/base/philox.hpp"
#include "neuronmoe/io/atomic_file.hpp"
#include "neuronmoe/io/hdf5_file.hpp"
#include "support/temp_dir.hpp"

using namespace nmoe;
using io::ElementType;
using io::H5File;
using io::Storage;
using test::expect_error;

namespace {

struct Row {
  std::uint64_t uuid;
  double ap;
  char name[8];
  std::uint64_t shape[4];
};

const std::vector<io::RecordColumn>& row_columns() {
  static const std::vector<io::RecordColumn> columns = {
      {.name = "name", .offset_bytes = offsetof(Row, name), .text_bytes = 8},
      {.name = "uuid", .offset_bytes = offsetof(Row, uuid), .type = ElementType::uint64},
      {.name = "ap", .offset_bytes = offsetof(Row, ap), .type = ElementType::float64},
      {.name = "shape", .offset_bytes = offsetof(Row, shape), .type = ElementType::uint64, .count = 4}};
  return columns;
}

void fill_sample(H5File& file) {
  std::vector<float> values(3000);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i) * 0.5F;
  file.write("/a/deep/values", values, {30, 100});
  file.write("/ids", std::vector<std::uint32_t>{1, 2, 0xFFFFFFFFU});
  file.write_strings("/language", {"en", "ελ", "zh-CN"});
  file.write_attribute("/", "format", "sample");
  file.write_attribute("/a", "answer", 42);
  file.write_attribute("/a/deep/values", "unit", 1.5);
}

void check_sample(H5File& file) {
  const std::vector<std::int64_t> shape = {30, -1};
  const auto values = file.read<float>("/a/deep/values", shape);
  BOOST_TEST(values.size() == 3000U);
  BOOST_TEST(values[2999] == 1499.5F);
  BOOST_TEST(file.read<std::uint32_t>("/ids")[2] == 0xFFFFFFFFU);
  BOOST_TEST(file.read_strings("/language")[1] == "ελ");
  BOOST_TEST(file.read_string_attribute("/", "format") == "sample");
  BOOST_TEST(file.read_int_attribute("/a", "answer") == 42);
  BOOST_TEST(file.read_double_attribute("/a/deep/values", "unit") == 1.5);
}

template <typename T>
void round_trip(std::vector<T> values) {
  const test::TempDir dir;
  for (const Storage storage : {Storage::contiguous, Storage::compressed}) {
    const std::string path = dir / "x.h5";
    io::write_h5_atomically(path, storage, [&](H5File& f) { f.write("/g/x", values); });
    H5File file = H5File::open(path);
    const std::vector<T> back = file.read<T>("/g/x");
    BOOST_REQUIRE(back.size() == values.size());
    BOOST_TEST((values.empty() || std::memcmp(back.data(), values.data(), values.size() * sizeof(T)) == 0));
    BOOST_TEST((file.info("/g/x").type == io::element_of<T>::value));
  }
}

}  // namespace

BOOST_AUTO_TEST_CASE(every_element_type_survives) {
  round_trip<double>({0.0, -0.0, 1e300, std::numeric_limits<double>::infinity()});
  round_trip<float>(
      {0.1F, std::numeric_limits<float>::denorm_min(), std::numeric_limits<float>::quiet_NaN()});
  round_trip<bfloat16>({bfloat16(1.0F), bfloat16(-3.14F), bfloat16(1e-40F)});
  round_trip<std::int32_t>({-1, std::numeric_limits<std::int32_t>::min()});
  round_trip<std::int64_t>({std::numeric_limits<std::int64_t>::min(), 7});
  round_trip<std::uint8_t>({0, 255});
  round_trip<std::uint16_t>({65535, 1});
  round_trip<std::uint32_t>({0xFFFFFFFFU, 1});
  round_trip<std::uint64_t>({~std::uint64_t{0}, 1});
  round_trip<float>({});
}

BOOST_AUTO_TEST_CASE(sample_file_reads_back_and_is_deterministic) {
  const test::TempDir dir;
  for (const Storage storage : {Storage::contiguous, Storage::compressed}) {
    io::write_h5_atomically(dir / "a.h5", storage, fill_sample);
    ::sleep(1);  // time stamps, if any were kept, would differ now
    io::write_h5_atomically(dir / "b.h5", storage, fill_sample);
    BOOST_TEST(test::read_bytes(dir / "a.h5") == test::read_bytes(dir / "b.h5"));
    H5File file = H5File::open(dir / "a.h5", io::FileFormat{"sample"});
    check_sample(file);
    BOOST_TEST(file.list("/") == (std::vector<std::string>{"a", "ids", "language"}),
               boost::test_tools::per_element());
    BOOST_TEST(file.exists("/a/deep"));
    BOOST_TEST(!file.exists("/a/shallow/x"));
    BOOST_TEST(!std::filesystem::exists(dir / "a.h5.tmp"));
  }
}

BOOST_AUTO_TEST_CASE(tensors_and_ranges) {
  const test::TempDir dir;
  const std::vector<std::int64_t> shape = {3, 4, 5};
  std::vector<bfloat16> t;
  for (int i = 0; i < 60; ++i) t.push_back(bfloat16(static_cast<float>(i)));
  // Ranges that begin and end inside rows and planes.
  const std::vector<io::FileRange> ranges = {{1, 2}, {3, 0}, {4, 13}, {17, 3}, {22, 30}, {59, 1}};
  std::vector<float> numbers(60);
  for (int i = 0; i < 60; ++i) numbers[static_cast<std::size_t>(i)] = static_cast<float>(i);
  io::write_h5_atomically(dir / "t.h5", Storage::contiguous, [&](H5File& f) {
    f.write("/t", t, shape);
    f.write("/n", numbers, shape);
    f.write("/scalar", ElementType::float32, {}, numbers.data() + 7);
  });
  H5File file = H5File::open(dir / "t.h5");
  const std::vector<bfloat16> back = file.read<bfloat16>("/t", shape);
  BOOST_TEST(std::memcmp(back.data(), t.data(), 120) == 0);
  BOOST_TEST(file.exists("/types/bfloat16"));
  BOOST_TEST(file.read<float>("/scalar")[0] == 7.0F);
  std::vector<float> packed(49, -1.0F);
  file.read_ranges("/n", ElementType::float32, shape, ranges, packed.data());
  std::size_t at = 0;
  for (const io::FileRange& r : ranges)
    for (std::int64_t i = 0; i < r.count; ++i) BOOST_TEST(packed[at++] == static_cast<float>(r.begin + i));
  const std::vector<io::FileRange> backwards = {{10, 5}, {0, 3}};
  BOOST_TEST(expect_error(ErrorCode::internal, {"/n", "range"}, [&] {
               file.read_ranges("/n", ElementType::float32, shape, backwards, packed.data());
             }) == "");
  const std::vector<std::int64_t> wrong = {4, 3, 5};
  BOOST_TEST(expect_error(ErrorCode::bad_data, {"/t", "[3, 4, 5]", "[4, 3, 5]"},
                          [&] { file.read<bfloat16>("/t", wrong); }) == "");
  BOOST_TEST(expect_error(ErrorCode::bad_data, {"bfloat16", "float32"}, [&] { file.read<float>("/t"); }) ==
             "");
}

BOOST_AUTO_TEST_CASE(all_flat_ranges_of_a_small_array) {
  const test::TempDir dir;
  std::vector<std::int32_t> numbers(24);
  for (int i = 0; i < 24; ++i) numbers[static_cast<std::size_t>(i)] = i;
  io::write_h5_atomically(dir / "n.h5", Storage::contiguous, [&](H5File& f) {
    f.write("/n", numbers, {2, 3, 4});
  });
  H5File file = H5File::open(dir / "n.h5");
  const std::vector<std::int64_t> shape = {2, 3, 4};
  int wrong = 0;
  for (std::int64_t begin = 0; begin <= 24; ++begin)
    for (std::int64_t end = begin; end <= 24; ++end) {
      const std::vector<io::FileRange> range = {{begin, end - begin}};
      std::vector<std::int32_t> out(static_cast<std::size_t>(end - begin), -1);
      file.read_ranges("/n", ElementType::int32, shape, range, out.data());
      for (std::int64_t i = begin; i < end; ++i) wrong += out[static_cast<std::size_t>(i - begin)] != i;
    }
  BOOST_TEST(wrong == 0);
}

BOOST_AUTO_TEST_CASE(records) {
  const test::TempDir dir;
  std::vector<Row> rows(3);
  for (std::size_t i = 0; i < 3; ++i) rows[i] = {i, 0.5 * static_cast<double>(i), "row", {i, 1, 2, 3}};
  io::write_h5_atomically(dir / "r.h5", Storage::compressed, [&](H5File& f) {
    f.write_records("/selected/el", row_columns(), sizeof(Row), rows.data(), 3);
    f.write_records("/selected/none", row_columns(), sizeof(Row), nullptr, 0);
  });
  H5File file = H5File::open(dir / "r.h5");
  BOOST_TEST(file.count_records("/selected/none", row_columns()) == 0);
  std::vector<Row> back(3);
  file.read_records("/selected/el", row_columns(), sizeof(Row), back.data(), 3);
  BOOST_TEST(back[2].uuid == 2U);
  BOOST_TEST(back[2].ap == 1.0);
  BOOST_TEST(std::string(back[2].name) == "row");
  BOOST_TEST(back[2].shape[0] == 2U);
  auto other = row_columns();
  other[2].type = ElementType::float32;
  BOOST_TEST(expect_error(ErrorCode::bad_data, {"/selected/el", "columns"},
                          [&] { file.count_records("/selected/el", other); }) == "");
}

BOOST_AUTO_TEST_CASE(incomplete_and_foreign_formats_are_refused) {
  const test::TempDir dir;
  H5File file = H5File::create(dir / "x.h5");
  fill_sample(file);
  file.close();
  BOOST_TEST(expect_error(ErrorCode::bad_data, {"x.h5", "complete"}, [&] { H5File::open(dir / "x.h5"); }) ==
             "");
  H5File::open_foreign(dir / "x.h5").close();
  io::write_h5_atomically(dir / "y.h5", Storage::contiguous, fill_sample);
  BOOST_TEST(expect_error(ErrorCode::bad_data, {"y.h5", "sample", "tokens"},
                          [&] { H5File::open(dir / "y.h5", io::FileFormat{"tokens"}); }) == "");
  BOOST_TEST(expect_error(ErrorCode::bad_data, {"none.h5"}, [&] { H5File::open(dir / "none.h5"); }) == "");
  test::write_bytes(dir / "z.h5", "this is not HDF5");
  BOOST_TEST(expect_error(ErrorCode::bad_data, {"z.h5"}, [&] { H5File::open(dir / "z.h5"); }) == "");
}

BOOST_AUTO_TEST_CASE(versions_up_to_the_known_one_are_read) {
  const test::TempDir dir;
  const io::FileFormat known{"sample", 2};
  const auto written = [&](std::int64_t version) {
    io::write_h5_atomically(dir / "v.h5", Storage::compressed, [&](H5File& f) {
      f.write_format({"sample", version});
    });
    return expect_error(ErrorCode::bad_data, {"v.h5"}, [&] { H5File::open(dir / "v.h5", known); });
  };
  BOOST_TEST(written(1) == "nothing was thrown");
  BOOST_TEST(written(2) == "nothing was thrown");
  BOOST_TEST(H5File::open(dir / "v.h5").read_int_attribute("/", "format_version") == 2);
  BOOST_TEST(written(0) == "");
  BOOST_TEST(written(-1) == "");
  BOOST_TEST(written(3) == "");
  BOOST_TEST(
      expect_error(ErrorCode::bad_data,
                   {"v.h5 has version 3 of format \"sample\"; the newest that this program reads is 2: use "
                    "a newer neuronmoe"},
                   [&] { H5File::open(dir / "v.h5", known); }) == "");
  BOOST_TEST(expect_error(ErrorCode::bad_data, {"\"sample\"", "\"other\" is needed"}, [&] {
               H5File::open(dir / "v.h5", io::FileFormat{"other", 3});
             }) == "");
  H5File::open(dir / "v.h5").close();  // without a wish it is only looked at
  io::write_h5_atomically(dir / "old.h5", Storage::contiguous, fill_sample);
  H5File::open(dir / "old.h5", known).close();  // no version: the first
}

BOOST_AUTO_TEST_CASE(truncation_is_always_seen) {
  const test::TempDir dir;
  io::write_h5_atomically(dir / "x.h5", Storage::contiguous, fill_sample);
  const std::string whole = test::read_bytes(dir / "x.h5");
  const Philox random(1, RandomPurpose::test);
  int unseen = 0;
  for (std::uint64_t i = 0; i < 50; ++i) {
    const std::uint64_t keep = i == 0 ? whole.size() - 1 : random.below(i, whole.size());
    test::write_bytes(dir / "cut.h5", std::string_view(whole).substr(0, keep));
    unseen += expect_error(ErrorCode::bad_data, {"cut.h5"}, [&] { H5File::open(dir / "cut.h5"); }) != "";
  }
  BOOST_TEST(unseen == 0);
}

BOOST_AUTO_TEST_CASE(compressed_files_notice_flipped_bits_in_data) {
  const test::TempDir dir;
  std::vector<double> noise(20000);
  const Philox random(2, RandomPurpose::test);
  for (std::size_t i = 0; i < noise.size(); ++i) noise[i] = random.normal(i);
  io::write_h5_atomically(dir / "x.h5", Storage::compressed, [&](H5File& f) { f.write("/x", noise); });
  const std::string whole = test::read_bytes(dir / "x.h5");
  int unseen = 0;
  for (std::uint64_t i = 0; i < 50; ++i) {  // the middle of the file is all noise
    std::string damaged = whole;
    damaged[whole.size() / 4 + random.below(i, whole.size() / 2)] ^= static_cast<char>(1U << (i % 8));
    test::write_bytes(dir / "bad.h5", damaged);
    unseen += expect_error(ErrorCode::bad_data, {"bad.h5", "/x"},
                           [&] { H5File::open_foreign(dir / "bad.h5").read<double>("/x"); }) != "";
  }
  BOOST_TEST(unseen == 0);
}

BOOST_AUTO_TEST_CASE(hostile_storage_is_refused) {
  const test::TempDir dir;
  test::write_bytes(dir / "secret", std::string(64, 's'));
  io::write_h5_atomically(dir / "good.h5", Storage::contiguous, fill_sample);
  // Made with plain HDF5 calls, as an attacker would.
  const hid_t file = H5Fcreate((dir / "bad.h5").c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
  const hsize_t n = 64, huge = hsize_t{1} << 61;
  const hid_t space = H5Screate_simple(1, &n, nullptr), big = H5Screate_simple(1, &huge, nullptr);
  const hid_t external = H5Pcreate(H5P_DATASET_CREATE), chunked = H5Pcreate(H5P_DATASET_CREATE),
              virtual_layout = H5Pcreate(H5P_DATASET_CREATE);
  H5Pset_external(external, (dir / "secret").c_str(), 0, 64);
  H5Pset_chunk(chunked, 1, &n);
  H5Pset_virtual(virtual_layout, space, (dir / "good.h5").c_str(), "/ids", space);
  H5Dclose(H5Dcreate2(file, "external", H5T_STD_U8LE, space, H5P_DEFAULT, external, H5P_DEFAULT));
  H5Dclose(H5Dcreate2(file, "virtual", H5T_STD_U8LE, space, H5P_DEFAULT, virtual_layout, H5P_DEFAULT));
  H5Dclose(H5Dcreate2(file, "huge", H5T_STD_U8LE, big, H5P_DEFAULT, chunked, H5P_DEFAULT));
  H5Lcreate_soft("/huge", file, "soft", H5P_DEFAULT, H5P_DEFAULT);
  H5Lcreate_external((dir / "good.h5").c_str(), "/ids", file, "elsewhere", H5P_DEFAULT, H5P_DEFAULT);
  const hid_t text = H5Tcopy(H5T_C_S1);
  H5Tset_size(text, H5T_VARIABLE);
  H5Dclose(H5Dcreate2(file, "variable", text, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
  for (const hid_t p : {external, chunked, virtual_layout}) H5Pclose(p);
  H5Tclose(text), H5Sclose(space), H5Sclose(big), H5Fclose(file);
  H5File bad = H5File::open_foreign(dir / "bad.h5");
  const auto refused = [&](const char* name, std::string_view word) {
    return expect_error(ErrorCode::bad_data, {"bad.h5", name, word}, [&] { bad.read<std::uint8_t>(name); });
  };
  BOOST_TEST(refused("/external", "another file") == "");
  BOOST_TEST(refused("/virtual", "virtual") == "");
  BOOST_TEST(refused("/huge", "more than a file") == "");
  BOOST_TEST(refused("/soft", "link") == "");
  BOOST_TEST(refused("/elsewhere", "no dataset") == "");  // the link class is unregistered
  BOOST_TEST(refused("/variable", "variable length") == "");
  BOOST_TEST(refused("/absent", "no dataset") == "");
}

BOOST_AUTO_TEST_CASE(a_failed_or_killed_write_leaves_the_old_file) {
  const test::TempDir dir;
  const std::string path = dir / "x.h5";
  io::write_h5_atomically(path, Storage::contiguous, fill_sample);
  const std::string before = test::read_bytes(path);
  BOOST_TEST(expect_error(ErrorCode::config, {"stop"}, [&] {
               io::write_h5_atomically(path, Storage::contiguous, [](H5File& f) {
                 f.write("/x", std::vector<float>(1000, 1.0F));
                 NMOE_CHECK(false, config, "stop");
               });
             }) == "");
  BOOST_TEST(!std::filesystem::exists(path + ".tmp"));
  const pid_t child = ::fork();
  if (child == 0) {
    io::write_h5_atomically(path, Storage::contiguous, [](H5File& f) {
      f.write("/x", std::vector<float>(1000, 1.0F));
      ::raise(SIGKILL);
    });
    ::_exit(0);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  BOOST_TEST(WIFSIGNALED(status));
  BOOST_TEST(test::read_bytes(path) == before);
  BOOST_TEST(expect_error(ErrorCode::bad_data, {".tmp"}, [&] { H5File::open(path + ".tmp"); }) == "");
  io::write_h5_atomically(path, Storage::contiguous, fill_sample);  // the leftover is no obstacle
}

BOOST_AUTO_TEST_CASE(storage_that_loses_data_is_noticed_before_the_rename) {
  const test::TempDir dir;
  const std::string path = dir / "x.h5";
  io::write_h5_atomically(path, Storage::contiguous, fill_sample);
  const std::string before = test::read_bytes(path);
  const std::vector<float> values(1 << 18, 1234.5F);  // 1 MiB: goes past HDF5's own buffers
  BOOST_TEST(expect_error(ErrorCode::io, {"x.h5", "/x", "read back"}, [&] {
               io::write_h5_atomically(path, Storage::contiguous, [&](H5File& f) {
                 f.write("/x", values);
                 std::fstream file(path + ".tmp", std::ios::in | std::ios::out | std::ios::binary);
                 file.seekp(1 << 19);  // some element of /x
                 file.put('?');
               });
             }) == "");
  BOOST_TEST(test::read_bytes(path) == before);
}
