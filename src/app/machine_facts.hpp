#pragma once
// What Linux says about this process's cores, GPUs and file systems, for `check`: from /sys and system calls.
#include <cstdint>
#include <string>
#include <vector>

namespace nmoe::app {

/// Returns the numbers that a list of the kernel names: "0-2,8" -> 0, 1, 2, 8; what is no number ends it.
std::vector<int> numbers_in(const std::string& list);
/// Returns ascending numbers in that form.
std::string ranges_text(const std::vector<int>& numbers);

/// Returns the NUMA nodes that hold cores which this process may run on, ascending; none if Linux does not
/// say.
std::vector<int> numa_nodes_of_cores();
/// Number of NUMA nodes of this machine that have cores; 0 if Linux does not say.
int num_numa_nodes();
/// Returns the NUMA node of a PCI device ("0000:01:00.0", in any case); -1 if Linux knows none.
int numa_node_of_device(const std::string& bus_id);

/// Where a path lies.
struct FileSystem {
  std::string type;          ///< "ext4", "Lustre", or the number that the kernel gives it
  bool of_one_host = false;  ///< other hosts cannot see it, whatever is mounted there
};
FileSystem file_system_of(const std::string& path);

/// How Lustre lays a file out.
struct Stripe {
  int count = 0;  ///< of servers (OSTs); 0 if it is not on Lustre or a layout of several parts
  std::int64_t bytes = 0;
  int parts = 0;  ///< of a progressive layout
};
Stripe stripe_of(const std::string& path);
/// The same from the bytes of the attribute lustre.lov.
Stripe stripe_in(const std::string& layout);

}  // namespace nmoe::app
