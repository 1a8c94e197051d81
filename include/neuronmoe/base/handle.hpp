#pragma once
// Move-only owner of a C handle (hid_t, cudaStream_t, MPI_Datatype...). Every layer that talks to a C library
// uses it.
#include <utility>

namespace nmoe {

/// Owns a `T` and calls `destroy(T)` once, unless the value equals `null`. `release()` gives up ownership,
/// which is how classes with collective closing calls avoid blocking while an exception unwinds.
template <typename T, auto destroy, T null = T{}>
class Handle {
 public:
  Handle() = default;
  explicit Handle(T value) : value_(value) {}
  Handle(Handle&& other) noexcept : value_(std::exchange(other.value_, null)) {}
  Handle& operator=(Handle&& other) noexcept {
    if (this != &other) {
      reset();
      value_ = std::exchange(other.value_, null);
    }
    return *this;
  }
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;
  ~Handle() { reset(); }

  T get() const noexcept { return value_; }
  T release() noexcept { return std::exchange(value_, null); }
  void reset() noexcept {
    if (value_ != null) destroy(std::exchange(value_, null));
  }
  explicit operator bool() const noexcept { return value_ != null; }

 private:
  T value_ = null;
};

}  // namespace nmoe
