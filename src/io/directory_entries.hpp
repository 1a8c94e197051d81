#pragma once
// Directories read without exceptions of the standard library. Nothing outside src/io sees it.
#include <filesystem>
#include <string>
#include <system_error>

#include "neuronmoe/io/atomic_file.hpp"

namespace nmoe::io {

/// Calls f for each entry of a directory. @throws Error(bad_data) if there is no such directory, Error(io) if
/// it cannot be read now
template <typename F>
void for_each_entry(const std::string& directory, F&& f) {
  std::error_code error;
  for (std::filesystem::directory_iterator entry(directory, error), end; !error && entry != end;
       entry.increment(error))
    f(*entry);
  if (error) fail_read(directory, error.value());
}

}  // namespace nmoe::io
