#pragma once
// The checksum of a HDF5 file that stands alone (tokens, neurons, scores; a checkpoint has its manifest): 512
// bytes of text before the HDF5 part, which HDF5, h5py and cp know as its user block. It is compared before
// the HDF5 library opens the file, because version 1.10 may crash on damaged structure. Written by
// write_h5_atomically, compared by H5File::open and, dealt over the ranks, by app.
#include <cstdint>
#include <string>

#include "neuronmoe/comm/communicator.hpp"

namespace nmoe::io {

/// Length of the user block; HDF5 wants a power of two from 512 on.
inline constexpr std::int64_t seal_bytes = 512;

/// Whether somebody compared a file with its seal already.
enum class SealCheck : std::uint8_t { wanted, done };

/// Writes the seal of a finished file into its empty user block and fsyncs: length, and CRC-32C over the
/// CRC-32C of every 64 MiB block after the user block. The bytes do not depend on the number of ranks. The
/// second form is collective. @throws Error(io|no_space|bad_data)
void seal_file(const std::string& path);
void seal_file(comm::Communicator& comm, const std::string& path);

/// Compares a file with its seal. Returns false for a file without one, which begins as HDF5 does: an earlier
/// version or another program made it. The second form reads each block on one rank only and answers alike on
/// all; collective. @throws Error(bad_data) naming both checksums, or if the file begins as neither does;
/// Error(io) if it cannot be read for now
bool verify_seal(const std::string& path);
bool verify_seal(comm::Communicator& comm, const std::string& path);

/// Returns whether a file begins with a seal, damaged or not. @throws Error(bad_data) if it cannot be read
bool has_seal(const std::string& path);

}  // namespace nmoe::io
