#pragma once
// A vector whose new elements are left as they are: for large buffers that threads fill next, where zeros
// written first by one thread would take as long as the work. analysis keeps responses in it.
#include <memory>
#include <utility>
#include <vector>

namespace nmoe {

/// std::allocator, but construct(p) without arguments leaves a number uninitialized.
template <typename T>
struct RawAllocator : std::allocator<T> {
  template <typename U>
  struct rebind {
    using other = RawAllocator<U>;
  };
  RawAllocator() = default;
  template <typename U>
  explicit RawAllocator(const RawAllocator<U>&) {}
  template <typename U, typename... Args>
  void construct(U* at, Args&&... args) {
    if constexpr (sizeof...(Args) == 0) {
      ::new (static_cast<void*>(at)) U;
    } else {
      ::new (static_cast<void*>(at)) U(std::forward<Args>(args)...);
    }
  }
};

template <typename T>
using RawVector = std::vector<T, RawAllocator<T>>;

}  // namespace nmoe
