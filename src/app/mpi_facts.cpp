// Version, thread level and MPI-IO of the MPI library.
#include "mpi_facts.hpp"

#include <fmt/core.h>
#include <mpi.h>

#include <array>
#include <cstdlib>
#include <fstream>
#include <string>
#include <string_view>

namespace nmoe::app {

std::string mpi_library_text() {
  std::array<char, MPI_MAX_LIBRARY_VERSION_STRING> text{};
  int length = 0, version = 0, subversion = 0;
  MPI_Get_library_version(text.data(), &length);
  MPI_Get_version(&version, &subversion);
  const std::string_view all(text.data(), static_cast<std::size_t>(length));
  return fmt::format("{} (MPI {}.{})", all.substr(0, all.find_first_of(",\n")), version, subversion);
}

std::string mpi_version_text() {
  int level = 0;
  MPI_Query_thread(&level);
  std::string text = mpi_library_text();
  text.pop_back();
  return fmt::format("{}, thread level {})", text, level);
}

NodeRank rank_on_node() {
  MPI_Comm node = MPI_COMM_NULL;
  MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &node);
  NodeRank result;
  MPI_Comm_rank(node, &result.rank);
  MPI_Comm_size(node, &result.size);
  MPI_Comm_free(&node);
  return result;
}

std::string mpi_io_text(const std::string& path) {
  MPI_File file = MPI_FILE_NULL;
  const int mode = MPI_MODE_CREATE | MPI_MODE_RDWR | MPI_MODE_DELETE_ON_CLOSE;
  if (MPI_File_open(MPI_COMM_WORLD, path.c_str(), mode, MPI_INFO_NULL, &file) != MPI_SUCCESS) {
    return fmt::format("{} cannot be opened through MPI-IO", path);
  }
  // Open MPI has no call for the component behind a file, but the open has loaded it, and only it.
  std::string component;
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    const auto at = line.find("mca_io_");
    if (at != std::string::npos) component = line.substr(at + 7, line.find('.', at) - at - 7);
  }
  MPI_File_close(&file);
  if (component == "ompio") return "ompio: NOT SAFE, it reports success on a full disk; unset OMPI_MCA_io";
  if (!component.empty()) return component;
  const char* chosen = std::getenv("OMPI_MCA_io");
  return fmt::format("built into the MPI library (OMPI_MCA_io={})", chosen == nullptr ? "" : chosen);
}

}  // namespace nmoe::app
