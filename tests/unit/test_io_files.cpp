// CRC-32C, atomic files, free space, JSON.
#include <sys/mount.h>
#include <sys/stat.h>

#include <boost/test/unit_test.hpp>
#include <nlohmann/json.hpp>

#include "neuronmoe/io/atomic_file.hpp"
#include "neuronmoe/io/crc32c.hpp"
#include "neuronmoe/io/hdf5_file.hpp"
#include "neuronmoe/io/json_file.hpp"
#include "support/temp_dir.hpp"

using namespace nmoe;
using test::expect_error;

BOOST_AUTO_TEST_CASE(crc32c_known_vectors) {
  BOOST_TEST(io::crc32c("123456789", 9) == 0xE3069283U);
  BOOST_TEST(io::crc32c("", 0) == 0U);
  // RFC 3720, B.4
  BOOST_TEST(io::crc32c(std::string(32, '\0').data(), 32) == 0x8A9136AAU);
  BOOST_TEST(io::crc32c(std::string(32, '\xFF').data(), 32) == 0x62A8AB43U);
  std::string ascending(32, '\0');
  for (std::size_t i = 0; i < 32; ++i) ascending[i] = static_cast<char>(i);
  BOOST_TEST(io::crc32c(ascending.data(), 32) == 0x46DD794EU);
  const std::string text = "any split of the same bytes gives the same checksum";
  for (std::size_t cut = 0; cut <= text.size(); ++cut)
    BOOST_TEST(io::crc32c(text.data() + cut, text.size() - cut, io::crc32c(text.data(), cut)) ==
               io::crc32c(text.data(), text.size()));
}

BOOST_AUTO_TEST_CASE(atomic_files) {
  const test::TempDir dir;
  io::write_file_atomically(dir / "a.txt", "first");
  io::write_file_atomically(dir / "a.txt", std::string("sec\0nd", 6));
  BOOST_TEST(io::read_file(dir / "a.txt") == std::string("sec\0nd", 6));
  BOOST_TEST(!std::filesystem::exists(dir / "a.txt.tmp"));
  BOOST_TEST(expect_error(ErrorCode::io, {"no/such/place"},
                          [&] { io::write_file_atomically(dir / "no/such/place", "x"); }) == "");
  BOOST_TEST(
      expect_error(ErrorCode::bad_data, {"a.txt", "6", "3"}, [&] { io::read_file(dir / "a.txt", 3); }) == "");
  BOOST_TEST(expect_error(ErrorCode::bad_data, {"none"}, [&] { io::read_file(dir / "none"); }) == "");
  BOOST_TEST(expect_error(ErrorCode::bad_data, {dir.path()}, [&] { io::read_file(dir.path()); }) == "");
  io::make_directories(dir / "x/y");
  BOOST_TEST(std::filesystem::is_directory(dir / "x/y"));
}

BOOST_AUTO_TEST_CASE(free_space) {
  const test::TempDir dir;
  const std::int64_t free = io::free_space_bytes(dir / "not/yet/there");
  BOOST_TEST(free > 0);
  io::require_free_space(dir.path(), 1);
  const std::int64_t wanted = std::int64_t{1} << 62;
  BOOST_TEST(expect_error(ErrorCode::no_space, {dir.path(), std::to_string(wanted)},
                          [&] { io::require_free_space(dir.path(), wanted); }) == "");
}

namespace {

/// A file system of 4 MiB, where the user may mount one.
class SmallDisk {
 public:
  explicit SmallDisk(const std::string& path) : path_(path) {
    std::filesystem::create_directories(path);
    mounted_ = ::mount("tmpfs", path.c_str(), "tmpfs", 0, "size=4m") == 0;
  }
  ~SmallDisk() {
    if (mounted_) ::umount(path_.c_str());
  }
  SmallDisk(const SmallDisk&) = delete;
  SmallDisk& operator=(const SmallDisk&) = delete;
  bool mounted() const { return mounted_; }

 private:
  std::string path_;
  bool mounted_;
};

}  // namespace

BOOST_AUTO_TEST_CASE(full_disk) {
  const test::TempDir dir;
  const SmallDisk disk(dir / "disk");
  if (!disk.mounted()) {  // without the right to mount: at least the message of a device that is full
    std::filesystem::create_symlink("/dev/full", dir / "a.tmp");
    BOOST_TEST(expect_error(ErrorCode::no_space, {"a.tmp", "No space"},
                            [&] { io::write_file_atomically(dir / "a", "x"); }) == "");
    return;
  }
  const std::string text = dir / "disk/a.txt", numbers = dir / "disk/a.h5";
  io::write_file_atomically(text, "old");
  io::write_h5_atomically(numbers, io::Storage::contiguous,
                          [](io::H5File& f) { f.write("/x", std::vector<float>{1.0F}); });
  const std::string before = test::read_bytes(numbers);
  BOOST_TEST(expect_error(ErrorCode::no_space, {"a.txt"},
                          [&] { io::write_file_atomically(text, std::string(8 << 20, 'x')); }) == "");
  BOOST_TEST(io::read_file(text) == "old");
  for (const io::Storage storage : {io::Storage::contiguous, io::Storage::compressed}) {
    std::vector<std::uint32_t> noise(4 << 20);
    for (std::size_t i = 0; i < noise.size(); ++i)
      noise[i] = static_cast<std::uint32_t>(i * 2654435761U * (i + 7));
    BOOST_TEST(expect_error(ErrorCode::no_space, {"a.h5"}, [&] {
                 io::write_h5_atomically(numbers, storage, [&](io::H5File& f) { f.write("/x", noise); });
               }) == "");
    BOOST_TEST(test::read_bytes(numbers) == before);
    BOOST_TEST(!std::filesystem::exists(numbers + ".tmp"));
  }
}

BOOST_AUTO_TEST_CASE(strict_json) {
  BOOST_TEST(io::parse_json(R"({"a": [1, {"b": 2}], "b": 1})", "x")["a"][1]["b"] == 2);
  const auto refused = [](std::string_view text, std::string_view word) {
    return expect_error(ErrorCode::bad_data, {"file.json", word},
                        [&] { io::parse_json(text, "file.json", 8); });
  };
  BOOST_TEST(refused(R"({"a": 1, "a": 2})", "twice") == "");
  BOOST_TEST(refused(R"({"x": {"a": 1}, "y": {"a": 1, "a": 1}})", "twice") == "");
  BOOST_TEST(refused(std::string(100000, '['), "deeper") == "");
  BOOST_TEST(refused("{\"a\": \"\xC3\x28\"}", "not valid JSON") == "");
  BOOST_TEST(refused("{\"a\": 1} x", "not valid JSON") == "");
  BOOST_TEST(refused("", "not valid JSON") == "");
  const test::TempDir dir;
  io::write_json(dir / "x.json", {{"b", 1}, {"a", {1, 2}}});
  BOOST_TEST(test::read_bytes(dir / "x.json") == "{\n  \"a\": [\n    1,\n    2\n  ],\n  \"b\": 1\n}\n");
  BOOST_TEST(io::read_json(dir / "x.json")["b"] == 1);
}
