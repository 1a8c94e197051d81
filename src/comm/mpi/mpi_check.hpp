#pragma once
// MPI return codes as errors. Communicators of ours return codes instead of aborting (MPI_ERRORS_RETURN).
#include <mpi.h>

#include <array>
#include <string>

#include "neuronmoe/base/error.hpp"

namespace nmoe::comm::detail {

inline std::string mpi_message(int code) {
  std::array<char, MPI_MAX_ERROR_STRING> text{};
  int length = 0;
  if (MPI_Error_string(code, text.data(), &length) != MPI_SUCCESS) return "unknown MPI error";
  return {text.data(), static_cast<std::size_t>(length)};
}

}  // namespace nmoe::comm::detail

/// NMOE_MPI(call): throws Error(internal) with MPI's own text unless the call succeeds.
#define NMOE_MPI(call)                                                                        \
  do {                                                                                        \
    const int nmoe_mpi_code = (call);                                                         \
    if (nmoe_mpi_code != MPI_SUCCESS) [[unlikely]]                                            \
      ::nmoe::throw_error(::nmoe::ErrorCode::internal, __FILE__, __LINE__, #call,             \
                          "MPI failed: " + ::nmoe::comm::detail::mpi_message(nmoe_mpi_code)); \
  } while (false)
