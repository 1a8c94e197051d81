// The one check of format and version of a file of ours.
#include "neuronmoe/io/file_format.hpp"

#include "neuronmoe/base/error.hpp"

namespace nmoe::io {

void require_readable(const std::string& path, const FileFormat& found, const FileFormat& known) {
  NMOE_CHECK(found.name == known.name, bad_data, "{} has format \"{}\" but \"{}\" is needed", path,
             found.name, known.name);
  NMOE_CHECK(found.version >= 1, bad_data, "{}: format_version is {}; the first version is 1", path,
             found.version);
  NMOE_CHECK(found.version <= known.version, bad_data,
             "{} has version {} of format \"{}\"; the newest that "
             "this program reads is {}: use a newer neuronmoe",
             path, found.version, known.name, known.version);
}

}  // namespace nmoe::io
