#pragma once
// What is done when MPI-IO fails on a rank and HDF5 does not return there. app sets it before the work.
#include <functional>

#include "neuronmoe/base/error.hpp"

namespace nmoe::io {

/// Called on a thread of its own with the error; expected to end the job.
using MpiIoFailureHandler = std::function<void(const Error& error)>;
/// Replaces the handler; without one the rank waits on. Process-wide, because MPI hands no argument to its
/// wrappers. Not collective.
void on_mpi_io_failure(MpiIoFailureHandler handler);

}  // namespace nmoe::io
