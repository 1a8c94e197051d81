#pragma once
// A library that is opened when something needs it instead of with the program. Used by src/ops/cuda.
#include <span>
#include <string>
#include <string_view>

namespace nmoe {

/// Stays open until the process ends: what it gave out remains valid.
class SharedLibrary {
 public:
  /// Opens the first of `names` that can be: a file name is looked for where linked libraries are, a path is
  /// taken as it is.   @throws Error(config) with the loader's words for the first name, and `remedy`
  SharedLibrary(std::span<const std::string> names, std::string_view remedy);
  /// Sets `function` to the library's `symbol`, whose type it must have.   @throws Error(config) naming both
  template <typename Function>
  void find(Function*& function, const char* symbol) const {
    function = reinterpret_cast<Function*>(address_of(symbol));
  }

 private:
  void* address_of(const char* symbol) const;

  std::string name_, remedy_;
  void* handle_ = nullptr;
};

}  // namespace nmoe
