// Linked instead of x86/large_copy.cpp on other processors: the copy of the C library.
#include "../large_copy.hpp"

#include <cstring>

namespace nmoe::comm::detail {

void copy_bytes(void* to, const void* from, std::size_t num_bytes) {
  if (num_bytes > 0 && to != from) std::memcpy(to, from, num_bytes);
}

}  // namespace nmoe::comm::detail
