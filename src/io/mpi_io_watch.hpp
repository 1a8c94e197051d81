#pragma once
// Failures inside MPI-IO, seen where they happen. A collective HDF5 call in which one rank cannot write does
// not always return: HDF5 goes on to the next collective step on some ranks and not on others, and all wait
// for ever. The functions of MPI-IO that HDF5 calls are wrapped (MPI's profiling interface); a rank on which
// one fails and that does not come back from HDF5 ends the job with the reason. Nothing outside src/io and
// run_guarded sees it.
#include <string>

#include "neuronmoe/io/mpi_io_failure.hpp"

namespace nmoe::io {

/// Marks the time that this rank spends in a collective HDF5 call on `path`. Made by the thread that calls
/// HDF5; one at a time.
class MpiIoScope {
 public:
  explicit MpiIoScope(const std::string& path);
  ~MpiIoScope();
  MpiIoScope(const MpiIoScope&) = delete;
  MpiIoScope& operator=(const MpiIoScope&) = delete;
};

/// Returns the errno with which MPI-IO failed in the scope that is open, 0 if it did not fail or gave none.
int mpi_io_errno();

}  // namespace nmoe::io
