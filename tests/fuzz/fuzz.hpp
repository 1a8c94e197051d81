#pragma once
// What the fuzz targets share: bad input ends in Error(bad_data) with a message of one line, nothing else.
#include <cstdlib>
#include <string>

#include "neuronmoe/base/error.hpp"

namespace nmoe::fuzz {

/// Stops the fuzzer with a core if `holds` is false.
inline void require(bool holds) {
  if (!holds) std::abort();
}

/// Runs `f`; true if it came through, false if it threw Error(bad_data). Anything else is a find.
template <class F>
bool only_bad_data(F&& f) {
  try {
    f();
    return true;
  } catch (const Error& e) {
    require(e.code() == ErrorCode::bad_data);
    require(std::string(e.what()).find('\n') == std::string::npos);
    return false;
  }
}

}  // namespace nmoe::fuzz
