// One writer per output: who may take a lock, and who may not.
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <boost/test/unit_test.hpp>
#include <csignal>
#include <nlohmann/json.hpp>

#include "neuronmoe/base/error.hpp"
#include "neuronmoe/io/output_lock.hpp"
#include "support/temp_dir.hpp"

using namespace nmoe;
using test::expect_error;

namespace {

using Seconds = std::chrono::duration<double>;
constexpr io::LockTimes quick{Seconds(0.05), Seconds(0.6)};

io::LockOwner me(const std::string& job = "", const std::string& restart = "") {
  return io::lock_owner_of_this_process("here", job, restart);
}
/// A process of another machine.
io::LockOwner stranger(const std::string& job = "", const std::string& restart = "") {
  io::LockOwner owner = me(job, restart);
  owner.host = "there";
  owner.process = "other-boot pid:[1] 5";
  return owner;
}

/// Takes the lock and drops it again. Returns what was warned of.
std::string take(const std::string& path, const io::LockOwner& owner) {
  std::string warned;
  const io::OutputLock lock(
      path, "the output", owner, quick, [&](const std::string& m) { warned += m; }, [] {});
  BOOST_TEST(std::filesystem::exists(path));
  return warned;
}

void write_lock(const std::string& path, const io::LockOwner& o) {
  const nlohmann::json json = {
      {"host", o.host}, {"pid", o.pid}, {"job", o.job}, {"restart", o.restart}, {"process", o.process}};
  test::write_bytes(path, json.dump());
}

}  // namespace

BOOST_AUTO_TEST_CASE(a_lock_is_there_while_it_is_held) {
  const test::TempDir dir;
  BOOST_TEST(take(dir / "lock", me()) == "");
  BOOST_TEST(!std::filesystem::exists(dir / "lock"));
}

BOOST_AUTO_TEST_CASE(a_living_process_of_this_machine_is_respected) {
  const test::TempDir dir;
  const io::OutputLock held(
      dir / "lock", "the output", me("17"), quick, [](const std::string&) {}, [] {});
  BOOST_TEST(expect_error(ErrorCode::config, {"the output is being written by process", "here", "job 17"},
                          [&] { take(dir / "lock", me()); }) == "");
  std::this_thread::sleep_for(Seconds(1.0));  // however old the file is
  BOOST_TEST(expect_error(ErrorCode::config, {"the output"}, [&] { take(dir / "lock", me("17")); }) == "");
  BOOST_TEST(std::filesystem::exists(dir / "lock"));
}

BOOST_AUTO_TEST_CASE(a_process_that_was_killed_leaves_it_to_the_next) {
  const test::TempDir dir;
  const pid_t child = fork();
  if (child == 0) {
    const io::OutputLock held(
        dir / "lock", "the output", me(), quick, [](const std::string&) {}, [] {});
    kill(getpid(), SIGKILL);
  }
  int status = 0;
  waitpid(child, &status, 0);
  BOOST_REQUIRE(WIFSIGNALED(status));
  BOOST_REQUIRE(std::filesystem::exists(dir / "lock"));
  BOOST_TEST(take(dir / "lock", me()).find("which has ended") != std::string::npos);
}

BOOST_AUTO_TEST_CASE(another_machine_that_shows_signs_of_life_is_respected) {
  const test::TempDir dir;
  const io::OutputLock held(
      dir / "lock", "the output", stranger("17", "0"), quick, [](const std::string&) {}, [] {});
  std::this_thread::sleep_for(Seconds(0.8));
  BOOST_TEST(expect_error(ErrorCode::config, {"the output", "there", "last sign of life"},
                          [&] { take(dir / "lock", me()); }) == "");
  BOOST_TEST(expect_error(ErrorCode::config, {"there"}, [&] { take(dir / "lock", me("17", "0")); }) == "");
}

BOOST_AUTO_TEST_CASE(the_same_batch_job_started_again_takes_it_at_once) {
  const test::TempDir dir;
  write_lock(dir / "lock", stranger("17", ""));
  BOOST_TEST(take(dir / "lock", me("17", "1")).find("job 17, which has ended") != std::string::npos);
}

BOOST_AUTO_TEST_CASE(silence_for_the_stated_time_is_waited_for) {
  const test::TempDir dir;
  for (const std::string& left :
       {nlohmann::json({{"host", "there"}}).dump(), std::string(), std::string("rubbish")}) {
    test::write_bytes(dir / "lock", left);
    BOOST_TEST(expect_error(ErrorCode::config, {"last sign of life"}, [&] { take(dir / "lock", me()); }) ==
               "");
    std::this_thread::sleep_for(Seconds(0.2));  // in doubt: no beat for more than three intervals
    const auto begin = std::chrono::steady_clock::now();
    BOOST_TEST(take(dir / "lock", me()).find("no sign of life") != std::string::npos);
    BOOST_TEST(Seconds(std::chrono::steady_clock::now() - begin).count() > 0.3);
  }
}

BOOST_AUTO_TEST_CASE(who_was_taken_over_hears_of_it) {
  const test::TempDir dir;
  std::atomic<bool> lost{false};
  {
    const io::OutputLock held(
        dir / "lock", "the output", me(), quick, [](const std::string&) {}, [&] { lost = true; });
    std::filesystem::remove(dir / "lock");  // by hand: nobody else writes
    std::this_thread::sleep_for(Seconds(0.2));
    BOOST_TEST(!lost.load());
    BOOST_TEST(std::filesystem::exists(dir / "lock"));
    write_lock(dir / "lock", stranger());
    std::this_thread::sleep_for(Seconds(0.3));
    BOOST_TEST(lost.load());
  }
  BOOST_TEST(std::filesystem::exists(dir / "lock"));  // it is not ours to remove
}
