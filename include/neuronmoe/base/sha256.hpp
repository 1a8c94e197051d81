#pragma once
// SHA-256 of buffers and files: provenance of inputs (every output carries the hashes of what made it).
#include <cstddef>
#include <memory>
#include <string>

namespace nmoe {

/// Incremental SHA-256 (libcrypto). Not thread-safe; cheap to construct.
class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(const Sha256&) = delete;
  Sha256& operator=(const Sha256&) = delete;
  void update(const void* data, std::size_t num_bytes);
  /// Returns the lower-case hexadecimal digest; the object may not be updated afterwards.
  std::string hex();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// Returns the digest of a whole file, read in blocks. @throws Error(bad_data) naming the path if it cannot
/// be read.
std::string sha256_file(const std::string& path);
/// Returns the digest of a string's bytes.
std::string sha256_text(const std::string& text);

}  // namespace nmoe
