// Checkpoint directories on one process: what is damaged is seen, what is unfinished is invisible.
#include <sys/wait.h>
#include <unistd.h>

#include <boost/test/unit_test.hpp>
#include <cerrno>
#include <csignal>

#include "neuronmoe/base/philox.hpp"
#include "neuronmoe/io/atomic_file.hpp"
#include "neuronmoe/io/crc32c.hpp"
#include "neuronmoe/io/hdf5_file.hpp"
#include "neuronmoe/io/manifest.hpp"
#include "support/temp_dir.hpp"

using namespace nmoe;
using test::expect_error;

namespace {

/// Writes the files of a small step into its .tmp directory, without committing it.
void fill_step(comm::Communicator& comm, const std::string& run, std::int64_t step) {
  const std::string tmp = io::begin_step(comm, run, step);
  io::H5File file = io::H5File::create(tmp + "/optim.h5", comm);
  file.write("/flat/master", std::vector<float>(5000, static_cast<float>(step)));
  file.write("/flat/exp_avg", std::vector<bfloat16>(300, bfloat16(0.5F)));
  file.finish();
  io::write_file_atomically(tmp + "/provenance.json", "{}\n");
}

std::string save_step(comm::Communicator& comm, const std::string& run, std::int64_t step) {
  fill_step(comm, run, step);
  return io::commit_step(comm, run, step, {{"step", std::to_string(step)}});
}

}  // namespace

BOOST_AUTO_TEST_CASE(names) {
  BOOST_TEST(io::step_directory_name(1200) == "step_0000001200");
  BOOST_TEST(*io::step_of_directory_name("step_0000001200") == 1200);
  for (const char* name : {"step_0000001200.tmp", "step_1200", "step_00000012x0", "stop_0000001200", ""})
    BOOST_TEST(!io::step_of_directory_name(name).has_value());
}

BOOST_AUTO_TEST_CASE(every_flipped_bit_is_detected) {
  const test::TempDir run;
  const auto comm = comm::make_local_communicator();
  const std::string step = save_step(*comm, run.path(), 7);
  BOOST_TEST(io::verify_manifest(*comm, step) == "");
  BOOST_TEST(io::read_manifest_facts(step).at("step") == "7");
  const Philox random(4, RandomPurpose::test);
  int unseen = 0, misjudged = 0;
  for (std::uint64_t i = 0; i < 200; ++i) {
    const std::string path = step + (i % 4 == 0   ? "/manifest.json"
                                     : i % 4 == 1 ? "/provenance.json"
                                                  : "/optim.h5");
    const std::string whole = test::read_bytes(path);
    std::string damaged = whole;
    damaged[random.below(i, whole.size())] ^= static_cast<char>(1U << (i % 8));
    test::write_bytes(path, damaged);
    unseen += io::verify_manifest(*comm, step).empty();
    misjudged += io::verify_file(step, "optim.h5").empty() != path.ends_with("provenance.json");
    test::write_bytes(path, whole);
  }
  BOOST_TEST(unseen == 0);
  BOOST_TEST(misjudged == 0);  // one file is asked about: damage to another does not matter
  BOOST_TEST(io::verify_manifest(*comm, step) == "");
}

BOOST_AUTO_TEST_CASE(a_manifest_of_a_later_version_is_no_damage) {
  const test::TempDir run;
  const auto comm = comm::make_local_communicator();
  save_step(*comm, run.path(), 6);
  const std::string step = save_step(*comm, run.path(), 7), path = step + "/manifest.json";
  constexpr std::size_t seal_bytes = 10;
  const auto with = [&](const std::string& version) {
    std::string text = test::read_bytes(path);
    text.resize(text.size() - seal_bytes);
    const std::string key = "\"format_version\": ";
    const auto at = text.find(key) + key.size();
    text.replace(at, text.find_first_of(",\n", at) - at, version);
    test::write_bytes(path, text + fmt::format("\n{:08x}\n", io::crc32c(text.data(), text.size())));
  };
  const auto refused = [&](auto&& work) {
    return expect_error(ErrorCode::bad_data,
                        {path, "version 2 of format \"neuronmoe-manifest\"", "use a newer neuronmoe"}, work);
  };
  with("2");
  BOOST_TEST(refused([&] { io::verify_manifest(*comm, step); }) == "");
  BOOST_TEST(refused([&] { io::verify_file(step, "optim.h5"); }) == "");
  BOOST_TEST(refused([&] { io::read_manifest_facts(step); }) == "");
  BOOST_TEST(refused([&] { io::newest_valid_step(*comm, run.path()); }) ==
             "");  // step 6 is not taken instead
  with("\"new\"");
  BOOST_TEST(expect_error(ErrorCode::bad_data, {path}, [&] { io::read_manifest_facts(step); }) == "");
  with("1");
  BOOST_TEST(io::verify_manifest(*comm, step) == "");
  BOOST_TEST(io::newest_valid_step(*comm, run.path()).step == 7);
}

BOOST_AUTO_TEST_CASE(damage_is_named) {
  const test::TempDir run;
  const auto comm = comm::make_local_communicator();
  const std::string step = save_step(*comm, run.path(), 7), optim = step + "/optim.h5";
  const std::string whole = test::read_bytes(optim);
  for (const io::DatasetExtent& extent : io::dataset_extents(optim)) {
    std::string damaged = whole;
    damaged[static_cast<std::size_t>(extent.offset_bytes + extent.num_bytes / 2)] ^= 1;
    test::write_bytes(optim, damaged);
    BOOST_TEST(io::verify_manifest(*comm, step).find("optim.h5: " + extent.name) == 0U);
  }
  const Philox random(5, RandomPurpose::test);
  int unseen = 0;
  for (std::uint64_t i = 0; i < 50; ++i) {
    test::write_bytes(optim, std::string_view(whole).substr(0, random.below(i, whole.size())));
    unseen += io::verify_manifest(*comm, step).find("optim.h5") == std::string::npos;
  }
  BOOST_TEST(unseen == 0);
  test::write_bytes(optim, whole);
  std::filesystem::remove(step + "/provenance.json");
  BOOST_TEST(io::verify_manifest(*comm, step).find("provenance.json is missing") != std::string::npos);
  std::filesystem::remove(step + "/manifest.json");
  BOOST_TEST(io::verify_manifest(*comm, step).find("manifest.json") != std::string::npos);
}

BOOST_AUTO_TEST_CASE(strays_and_links_are_no_damage) {
  const test::TempDir run;
  const auto comm = comm::make_local_communicator();
  const std::string step = save_step(*comm, run.path(), 7);
  for (const char* name : {"alien", ".DS_Store"}) test::write_bytes(step + "/" + name, "x");
  std::filesystem::create_directory(step + "/folder");
  BOOST_TEST(io::verify_manifest(*comm, step) == "");
  BOOST_TEST(io::stray_files(step) == (std::vector<std::string>{".DS_Store", "alien", "folder"}),
             boost::test_tools::per_element());
  std::filesystem::rename(step + "/optim.h5", run / "elsewhere.h5");
  std::filesystem::create_symlink(run / "elsewhere.h5", step + "/optim.h5");
  BOOST_TEST(io::verify_manifest(*comm, step) == "");
  std::filesystem::remove(run / "elsewhere.h5");
  BOOST_TEST(io::verify_manifest(*comm, step).find("optim.h5 is missing") != std::string::npos);
}

BOOST_AUTO_TEST_CASE(a_step_under_another_number_is_refused) {
  const test::TempDir run;
  const auto comm = comm::make_local_communicator();
  for (const std::int64_t step : {3, 4}) save_step(*comm, run.path(), step);
  std::filesystem::rename(run / "step_0000000004", run / "step_0000000099");
  const io::ValidStep valid = io::newest_valid_step(*comm, run.path());
  BOOST_TEST(valid.step == 3);
  BOOST_REQUIRE(valid.skipped.size() == 1U);
  BOOST_TEST(valid.skipped[0].find("it holds step 4") != std::string::npos);
}

/// A directory that cannot be opened in place of a file is "wrong", one without permission or with an I/O
/// error is "not now": /proc/self/mem opens and cannot be read at offset 0.
BOOST_AUTO_TEST_CASE(what_cannot_be_read_for_now_is_no_damage) {
  const test::TempDir run;
  const auto comm = comm::make_local_communicator();
  const std::string step = save_step(*comm, run.path(), 7);
  BOOST_TEST(expect_error(ErrorCode::io, {"/proc/self/mem"}, [] { io::fail_read("/proc/self/mem", EIO); }) ==
             "");
  for (const int error : {EIO, EACCES, ESTALE, ETIMEDOUT})
    BOOST_TEST(expect_error(ErrorCode::io, {"x"}, [&] { io::fail_read("x", error); }) == "");
  for (const int error : {ENOENT, ENOTDIR, ELOOP})
    BOOST_TEST(expect_error(ErrorCode::bad_data, {"x"}, [&] { io::fail_read("x", error); }) == "");
  if (geteuid() == 0) return;  // root may read everything
  std::filesystem::permissions(step + "/optim.h5", std::filesystem::perms::none);
  BOOST_TEST(expect_error(ErrorCode::io, {"optim.h5", "Permission denied"},
                          [&] { io::newest_valid_step(*comm, run.path()); }) == "");
}

BOOST_AUTO_TEST_CASE(bytes_behind_the_last_dataset_count_too) {
  const test::TempDir run;
  const auto comm = comm::make_local_communicator();
  fill_step(*comm, run.path(), 1);
  const std::string tail = "bytes that HDF5 does not know of";
  std::ofstream(run / "step_0000000001.tmp/optim.h5", std::ios::app | std::ios::binary) << tail;
  const std::string optim = io::commit_step(*comm, run.path(), 1, {}) + "/optim.h5";
  BOOST_TEST(io::newest_valid_step(*comm, run.path()).step == 1);
  std::string damaged = test::read_bytes(optim);
  damaged.back() ^= 1;
  test::write_bytes(optim, damaged);
  BOOST_TEST(!io::newest_valid_step(*comm, run.path()));
}

BOOST_AUTO_TEST_CASE(fallback_and_pruning) {
  const test::TempDir run;
  const auto comm = comm::make_local_communicator();
  BOOST_TEST(!io::newest_valid_step(*comm, run / "not/there"));
  BOOST_TEST(!io::newest_valid_step(*comm, run.path()));
  for (const std::int64_t step : {1, 2, 3, 4}) save_step(*comm, run.path(), step);
  fill_step(*comm, run.path(), 5);  // killed before the commit
  BOOST_TEST(io::newest_valid_step(*comm, run.path()).step == 4);
  for (const char* step : {"3", "4"})
    test::write_bytes(run / ("step_000000000" + std::string(step)) + "/optim.h5", "rubbish");
  const io::ValidStep valid = io::newest_valid_step(*comm, run.path());
  BOOST_TEST(valid.step == 2);
  BOOST_TEST(valid.directory == run / "step_0000000002");
  BOOST_REQUIRE(valid.skipped.size() == 2U);
  BOOST_TEST(valid.skipped[0].find("step_0000000004: optim.h5") != std::string::npos);
  BOOST_TEST(valid.skipped[1].find("step_0000000003: optim.h5") != std::string::npos);
  BOOST_TEST(io::prune_steps(*comm, run.path(), 0).empty());
  const auto removed = io::prune_steps(*comm, run.path(), 1);  // 2 is the last valid one and stays
  BOOST_TEST(removed == (std::vector<std::string>{run / "step_0000000003", run / "step_0000000001"}),
             boost::test_tools::per_element());
  BOOST_TEST(io::newest_valid_step(*comm, run.path()).step == 2);
  save_step(*comm, run.path(), 4);  // replaces the damaged one, and clears what step 5 left
  BOOST_TEST(!std::filesystem::exists(run / "step_0000000005.tmp"));
  BOOST_TEST(io::newest_valid_step(*comm, run.path()).step == 4);
  io::prune_steps(*comm, run.path(), 1);
  BOOST_TEST(!std::filesystem::exists(run / "step_0000000002"));
}

BOOST_AUTO_TEST_CASE(kills_at_random_times_lose_nothing) {
  const test::TempDir run;
  const auto comm = comm::make_local_communicator();
  save_step(*comm, run.path(), 1);
  const Philox random(6, RandomPurpose::test);
  std::int64_t newest = 1;
  int went_back = 0;
  std::uint64_t longest_us = 40000;
  // On a busy machine no step may be saved in that time: then the child is given longer.
  for (std::uint64_t i = 0; i < 30 || (newest == 1 && i < 90); ++i) {
    const pid_t child = ::fork();
    if (child == 0) {
      const auto mine = comm::make_local_communicator();
      for (std::int64_t step = newest + 1;; ++step) {
        save_step(*mine, run.path(), step);
        io::prune_steps(*mine, run.path(), 2);
      }
    }
    if (i % 10 == 9 && newest == 1) longest_us *= 2;
    ::usleep(static_cast<useconds_t>(1000 + random.below(i, longest_us)));
    ::kill(child, SIGKILL);
    int status = 0;
    ::waitpid(child, &status, 0);
    const io::ValidStep valid = io::newest_valid_step(*comm, run.path());
    went_back += valid.step < newest || !valid.skipped.empty();
    newest = valid.step;
  }
  BOOST_TEST(went_back == 0);
  BOOST_TEST(newest > 1);
}
