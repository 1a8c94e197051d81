// Entry point of every test under tests/mpi: runs the same test cases on all ranks. Prints rank 0's report
// and those of failing ranks, returns the largest exit code of all ranks, and ends a run that hangs.
#define BOOST_TEST_NO_MAIN
#include <mpi.h>
#include <unistd.h>

#include <atomic>
#include <boost/test/results_reporter.hpp>
#include <boost/test/unit_test.hpp>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <sstream>
#include <thread>

#include "support/mpi_fixture.hpp"

namespace nmoe::test {

namespace {

comm::Communicator* the_world = nullptr;
std::ostringstream* the_log = nullptr;

/// Boost chooses its streams while it starts and calls this afterwards.
bool redirect_log() {
  boost::unit_test::unit_test_log.set_stream(*the_log);
  boost::unit_test::results_reporter::set_stream(*the_log);
  return true;
}

std::string current_test_case() {
  const auto id = boost::unit_test::framework::current_test_case_id();
  if (id == boost::unit_test::INV_TEST_UNIT_ID) return "no test case (another rank's still runs?)";
  return "test case " + boost::unit_test::framework::get(id, boost::unit_test::TUT_ANY).full_name();
}

/// Ends the process when the run takes longer than NMOE_TEST_TIMEOUT_S (180 s): a rank waits for a
/// collective that another one never enters, and ctest alone would not say where.
class Watchdog {
 public:
  Watchdog(int rank, const std::ostringstream& log)
      : thread_([this, rank, &log] {
          const char* text = std::getenv("NMOE_TEST_TIMEOUT_S");
          const auto end =
              std::chrono::steady_clock::now() + std::chrono::seconds(text ? std::atoi(text) : 180);
          while (!done_) {
            std::this_thread::sleep_for(std::chrono::milliseconds(50));
            if (std::chrono::steady_clock::now() < end) continue;
            std::fprintf(stderr, "%s[rank %d] watchdog: hangs in %s, last collective: %s\n",
                         log.str().c_str(), rank, current_test_case().c_str(),
                         the_world->last_operation().c_str());
            ::_exit(86);
          }
        }) {}
  ~Watchdog() {
    done_ = true;
    thread_.join();
  }
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

 private:
  std::atomic<bool> done_{false};
  std::thread thread_;
};

int run_on_all_ranks(int argc, char** argv) {
  comm::MpiOptions options;
  options.debug_checks = true;
  const auto communicator = make_world(options);
  the_world = communicator.get();
  const int rank = communicator->rank();

  std::ostringstream log;
  the_log = &log;
  std::int64_t code = 0;
  {
    const Watchdog watchdog(rank, log);
    code = boost::unit_test::unit_test_main(redirect_log, argc, argv);
    boost::unit_test::unit_test_log.set_stream(std::cout);
    boost::unit_test::results_reporter::set_stream(std::cerr);
    if (rank == 0 || code != 0) {
      std::istringstream lines(log.str());
      std::string text;
      for (std::string line; std::getline(lines, line);) text += fmt::format("[rank {}] {}\n", rank, line);
      std::cerr << text << std::flush;
    }
    // Inside the watchdog's scope: a rank that left a collective half-way would wait here for ever.
    code = comm::all_reduce_max(*communicator, code);
    communicator->close();
  }
  return static_cast<int>(code);
}

}  // namespace

comm::Communicator& world() {
  return *the_world;
}

std::unique_ptr<comm::Communicator> make_world(const comm::MpiOptions& options) {
  MPI_Comm all = MPI_COMM_WORLD;
  return comm::make_mpi_communicator(&all, options);
}

SharedDirectory::SharedDirectory(std::string_view name) {
  std::string path;
  if (world().rank() == 0) {
    path = std::filesystem::temp_directory_path() / ("neuronmoe_test_" + std::to_string(::getpid()));
    path += "_" + std::string(name);
    std::filesystem::remove_all(path);
    std::filesystem::create_directories(path);
  }
  path_ = comm::broadcast_string(world(), path);
}

SharedDirectory::~SharedDirectory() {
  // No collective in a destructor: tests close their files, on all ranks, before rank 0 gets here.
  std::error_code ignored;
  if (world().rank() == 0) std::filesystem::remove_all(path_, ignored);
}

}  // namespace nmoe::test

int main(int argc, char** argv) {
  int provided = 0;
  MPI_Init_thread(&argc, &argv, MPI_THREAD_SERIALIZED, &provided);
  int code = 0;
  try {
    code = nmoe::test::run_on_all_ranks(argc, argv);
  } catch (const std::exception& error) {
    std::cerr << "test run failed outside of any test case: " << error.what() << "\n";
    MPI_Abort(MPI_COMM_WORLD, 1);
  }
  MPI_Finalize();
  return code;
}
