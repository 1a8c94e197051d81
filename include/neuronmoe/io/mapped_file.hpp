#pragma once
// A whole file as read-only memory: how weights and corpora are read without copying them. Used by
// SafetensorsReader and by data's document reader.
#include <cstddef>
#include <string>
#include <string_view>

namespace nmoe::io {

/// Maps `path`; move-only. A file that another process truncates meanwhile ends this one with SIGBUS.
class MappedFile {
 public:
  /// @throws Error(bad_data) if it is missing or not a regular file, Error(io) if it cannot be mapped
  explicit MappedFile(const std::string& path);
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&&) = delete;
  ~MappedFile();
  std::string_view bytes() const { return {data_, num_bytes_}; }

 private:
  const char* data_ = nullptr;
  std::size_t num_bytes_ = 0;
};

}  // namespace nmoe::io
