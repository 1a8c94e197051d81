// The checksum of HDF5 files that stand alone, and chunks decoded without the library's filters.
#include <hdf5.h>

#include <boost/test/unit_test.hpp>
#include <numeric>

#include "neuronmoe/base/philox.hpp"
#include "neuronmoe/io/file_seal.hpp"
#include "neuronmoe/io/hdf5_file.hpp"
#include "support/temp_dir.hpp"

using namespace nmoe;
using io::H5File;
using io::Storage;
using test::expect_error;

BOOST_AUTO_TEST_CASE(no_flipped_bit_passes) {
  const test::TempDir dir;
  std::vector<float> values(600);
  std::iota(values.begin(), values.end(), 0.0F);
  const std::string bad = dir / "bad.h5";
  for (const Storage storage : {Storage::contiguous, Storage::compressed}) {
    io::write_h5_atomically(dir / "x.h5", storage, [&](H5File& f) { f.write("/x", values); });
    BOOST_TEST(io::verify_seal(dir / "x.h5"));
    BOOST_TEST(io::has_seal(dir / "x.h5"));
    const std::string whole = test::read_bytes(dir / "x.h5");
    const Philox random(7, RandomPurpose::test);
    std::vector<std::uint64_t> bits;
    for (std::uint64_t byte = 0; byte < 520; ++byte)  // the seal, and where HDF5 begins
      for (std::uint64_t bit = 0; bit < 8; ++bit)
        if (byte < 64 || bit == byte % 8) bits.push_back(byte * 8 + bit);
    for (std::uint64_t i = 0; i < 500; ++i) bits.push_back(random.below(i, whole.size() * 8));
    int unseen = 0;
    for (const std::uint64_t bit : bits) {
      std::string damaged = whole;
      damaged[bit / 8] = static_cast<char>(damaged[bit / 8] ^ (1 << bit % 8));
      test::write_bytes(bad, damaged);
      unseen += expect_error(ErrorCode::bad_data, {"bad.h5"}, [&] { H5File::open(bad); }) != "";
    }
    BOOST_TEST(unseen == 0);
    test::write_bytes(bad, whole + "x");
    BOOST_TEST(expect_error(ErrorCode::bad_data, {"bad.h5", "bytes"}, [&] { H5File::open(bad); }) == "");
  }
}

BOOST_AUTO_TEST_CASE(files_without_a_seal_are_read) {
  const test::TempDir dir;
  H5File file = H5File::create(dir / "old.h5");
  file.write("/x", std::vector<float>{1.0F});
  file.finish();
  BOOST_TEST(!io::verify_seal(dir / "old.h5"));
  BOOST_TEST(!io::has_seal(dir / "old.h5"));
  BOOST_TEST(H5File::open(dir / "old.h5").read<float>("/x")[0] == 1.0F);
  test::write_bytes(dir / "text.h5", "neuronmoe-seal 2\nof some later version");
  BOOST_TEST(expect_error(ErrorCode::bad_data, {"text.h5", "newer"},
                          [&] { io::verify_seal(dir / "text.h5"); }) == "");
}

namespace {

struct Filters {
  bool shuffle, deflate, fletcher32;
};

/// A chunked file as another program makes it.
void write_chunked(const std::string& path, const std::vector<hsize_t>& shape,
                   const std::vector<hsize_t>& chunk, const Filters& filters,
                   const std::vector<std::int32_t>& values) {
  const hid_t file = H5Fcreate(path.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
  const hid_t creation = H5Pcreate(H5P_DATASET_CREATE);
  const int rank = static_cast<int>(shape.size());
  H5Pset_chunk(creation, rank, chunk.data());
  if (filters.shuffle) H5Pset_shuffle(creation);
  if (filters.deflate) H5Pset_deflate(creation, 6);
  if (filters.fletcher32) H5Pset_fletcher32(creation);
  const hid_t space = H5Screate_simple(rank, shape.data(), nullptr);
  const hid_t dataset = H5Dcreate2(file, "x", H5T_STD_I32LE, space, H5P_DEFAULT, creation, H5P_DEFAULT);
  H5Dwrite(dataset, H5T_NATIVE_INT32, H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data());
  H5Dclose(dataset), H5Sclose(space), H5Pclose(creation), H5Fclose(file);
}

}  // namespace

BOOST_AUTO_TEST_CASE(chunks_are_decoded_as_hdf5_encodes_them) {
  const test::TempDir dir;
  const std::vector<std::pair<std::vector<hsize_t>, std::vector<hsize_t>>> layouts = {
      {{1000}, {64}},        {{1000}, {1000}},         {{10, 100}, {3, 7}},     {{10, 100}, {10, 1}},
      {{10, 100}, {4, 100}}, {{5, 8, 25}, {2, 8, 25}}, {{5, 8, 25}, {5, 3, 4}}, {{5, 8, 25}, {1, 1, 25}}};
  std::vector<std::int32_t> values(1000);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<std::int32_t>(i * i % 977);
  const Philox random(8, RandomPurpose::test);
  std::uint64_t draw = 0;
  for (const auto& [shape, chunk] : layouts)
    for (const Filters filters : {Filters{false, false, false}, Filters{false, true, false},
                                  Filters{true, true, true}, Filters{true, false, true}}) {
      write_chunked(dir / "x.h5", shape, chunk, filters, values);
      H5File file = H5File::open_foreign(dir / "x.h5");
      file.check_storage("/x");
      BOOST_TEST((file.read<std::int32_t>("/x") == values));
      const std::vector<std::int64_t> extents(shape.begin(), shape.end());
      for (int trial = 0; trial < 20; ++trial) {
        std::vector<io::FileRange> ranges;
        std::vector<std::int32_t> wanted;
        for (std::int64_t at = 0; at < 1000;) {
          const auto begin = at + static_cast<std::int64_t>(random.below(draw++, 300));
          const auto count = std::min<std::int64_t>(static_cast<std::int64_t>(random.below(draw++, 200)),
                                                    std::max<std::int64_t>(0, 1000 - begin));
          if (begin > 1000) break;
          ranges.push_back({begin, count});
          wanted.insert(wanted.end(), values.begin() + begin, values.begin() + begin + count);
          at = begin + count + 1;
        }
        std::vector<std::int32_t> found(wanted.size());
        file.read_ranges("/x", io::ElementType::int32, extents, ranges, found.data());
        BOOST_TEST((found == wanted));
      }
    }
}

BOOST_AUTO_TEST_CASE(groups_that_lead_to_themselves_are_refused) {
  const test::TempDir dir;
  const hid_t file = H5Fcreate((dir / "x.h5").c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
  const hid_t group = H5Gcreate2(file, "a", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
  H5Lcreate_hard(file, "/a", group, "again", H5P_DEFAULT, H5P_DEFAULT);
  H5Gclose(group), H5Fclose(file);
  H5File bad = H5File::open_foreign(dir / "x.h5");
  BOOST_TEST(expect_error(ErrorCode::bad_data, {"/a", "2 links"}, [&] { bad.list("/a"); }) == "");
  BOOST_TEST((bad.kind("/") == H5File::ObjectKind::group));
}
