// Version, thread level and MPI-IO of the MPI library.
#include "mpi_facts.hpp"

#include <fmt/core.h>
#include <mpi.h>

#include <array>
#include <chrono>
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

std::vector<ClockOffset> clock_offsets() {
  constexpr int rounds = 8;
  const auto now = [] {
    return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
  };
  int rank = 0, size = 1;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  std::vector<ClockOffset> offsets(rank == 0 ? static_cast<std::size_t>(size) : 0);
  for (int peer = 1; peer < size; ++peer) {
    for (int round = 0; round < rounds && (rank == 0 || rank == peer); ++round) {
      double there = now();
      if (rank == peer) {
        MPI_Recv(nullptr, 0, MPI_BYTE, 0, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
        there = now();
        MPI_Send(&there, 1, MPI_DOUBLE, 0, 0, MPI_COMM_WORLD);
        continue;
      }
      const double begin = now();
      MPI_Send(nullptr, 0, MPI_BYTE, peer, 0, MPI_COMM_WORLD);
      MPI_Recv(&there, 1, MPI_DOUBLE, peer, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
      const double end = now();
      ClockOffset& best = offsets[static_cast<std::size_t>(peer)];
      if (round == 0 || end - begin < best.round_trip_s) best = {there - (begin + end) / 2, end - begin};
    }
  }
  return offsets;
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

MpiIo mpi_io_of(const std::string& path) {
  MPI_File file = MPI_FILE_NULL;
  const int mode = MPI_MODE_CREATE | MPI_MODE_RDWR | MPI_MODE_DELETE_ON_CLOSE;
  if (MPI_File_open(MPI_COMM_WORLD, path.c_str(), mode, MPI_INFO_NULL, &file) != MPI_SUCCESS)
    return {false, path + " cannot be opened through MPI-IO"};
  // Open MPI has no call for the component behind a file, but the open has loaded it, and only it.
  std::string component;
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    const auto at = line.find("mca_io_");
    if (at != std::string::npos) component = line.substr(at + 7, line.find('.', at) - at - 7);
  }
  MPI_File_close(&file);
  if (!component.empty()) return {true, component};
  const char* chosen = std::getenv("OMPI_MCA_io");
  return {true, fmt::format("built into the MPI library (OMPI_MCA_io={})", chosen == nullptr ? "" : chosen)};
}

}  // namespace nmoe::app
