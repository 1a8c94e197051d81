#pragma once
// Formats of the files that this program makes: each declares its name and its newest version once, beside
// its reader and writer; whoever opens a file of ours has both compared here (H5File::open, the manifest).
#include <cstdint>
#include <string>
#include <string_view>

namespace nmoe::io {

/// The attributes (HDF5) or members (JSON) `format` and `format_version` of a file. A file without version
/// has version 1.
struct FileFormat {
  std::string_view name;
  std::int64_t version = 1;
};

/// Checks that a file which says that it is `found` can be read by code that knows `known` and what came
/// before it. @throws Error(bad_data) for another name, a newer version or one below 1, naming file and both
void require_readable(const std::string& path, const FileFormat& found, const FileFormat& known);

}  // namespace nmoe::io
