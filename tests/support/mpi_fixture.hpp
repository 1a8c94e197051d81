#pragma once
// What every test under tests/mpi may use: the world of this run, made by mpi_main.cpp.
#include "neuronmoe/comm/communicator.hpp"
#include "neuronmoe/comm/mpi_communicator.hpp"

namespace nmoe::test {

/// All ranks of the run, debug checks on. Valid while test cases run. A test must leave it with nothing in
/// flight.
comm::Communicator& world();

/// Another communicator over all ranks with options of the test's choice; close() it at the end.
std::unique_ptr<comm::Communicator> make_world(const comm::MpiOptions& options);

/// A directory every rank of the run can see, empty at the start, removed at the end by rank 0.
/// Collective: yes. `name` keeps the directories of one run apart.
class SharedDirectory {
 public:
  explicit SharedDirectory(std::string_view name);
  ~SharedDirectory();
  SharedDirectory(const SharedDirectory&) = delete;
  SharedDirectory& operator=(const SharedDirectory&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

}  // namespace nmoe::test
