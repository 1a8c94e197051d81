#pragma once
// Files opened to read after a look at what they are. Used by every reader that opens a descriptor of its
// own.
#include <unistd.h>

#include <string>

#include "neuronmoe/base/handle.hpp"

namespace nmoe::io {

using Descriptor = Handle<int, ::close, -1>;

/// Opens a file to read. Opening a pipe would wait for its writer, and a device has no end.
/// @throws Error(bad_data) if it is missing, unreadable, a directory, pipe or device
Descriptor open_regular(const std::string& path);

}  // namespace nmoe::io
