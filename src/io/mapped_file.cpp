// Files mapped by mmap.
#include "neuronmoe/io/mapped_file.hpp"

#include <sys/mman.h>

#include <cerrno>
#include <cstring>

#include "neuronmoe/base/error.hpp"
#include "neuronmoe/io/atomic_file.hpp"
#include "neuronmoe/io/regular_file.hpp"

namespace nmoe::io {

MappedFile::MappedFile(const std::string& path) {
  const Descriptor fd = open_regular(path);
  num_bytes_ = static_cast<std::size_t>(file_size_bytes(path));
  if (num_bytes_ == 0) return;
  void* const p = ::mmap(nullptr, num_bytes_, PROT_READ, MAP_PRIVATE, fd.get(), 0);
  NMOE_CHECK(p != MAP_FAILED, io, "cannot map {}: {}", path, std::strerror(errno));
  data_ = static_cast<const char*>(p);
  require_no_lfs_pointer(path, {data_, num_bytes_});
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), num_bytes_(std::exchange(other.num_bytes_, 0)) {}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<char*>(data_), num_bytes_);
}

}  // namespace nmoe::io
