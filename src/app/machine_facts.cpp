// NUMA nodes from /sys, file systems by statfs, stripes by the attribute that Lustre gives a file.
#include "machine_facts.hpp"

#include <fmt/format.h>
#include <sys/statfs.h>
#include <sys/xattr.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>

#include "launcher.hpp"

namespace nmoe::app {
namespace {

namespace fs = std::filesystem;

std::string first_line(const std::string& path) {
  std::ifstream in(path);
  std::string line;
  std::getline(in, line);
  return line;
}

/// Cores of each NUMA node that has any.
std::map<int, std::vector<int>> cores_of_nodes() {
  std::map<int, std::vector<int>> nodes;
  std::error_code none;  // a kernel without NUMA
  for (const auto& entry : fs::directory_iterator("/sys/devices/system/node", none)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with("node")) continue;
    const std::vector<int> number = numbers_in(name.substr(4));
    std::vector<int> cores = numbers_in(first_line(entry.path().string() + "/cpulist"));
    if (number.size() == 1 && !cores.empty()) nodes[number[0]] = std::move(cores);
  }
  return nodes;
}

template <typename T>
T number_at(const std::string& bytes, std::size_t offset) {
  T value{};
  if (offset + sizeof(T) <= bytes.size()) std::memcpy(&value, bytes.data() + offset, sizeof(T));
  return value;
}

struct KnownType {
  long magic;
  std::string_view name;
  bool of_one_host;
};
// linux/magic.h, and the file systems of clusters that are not in it.
constexpr KnownType known_types[] = {
    {0xEF53, "ext4", true},      {0x58465342, "xfs", true},       {0x9123683E, "btrfs", true},
    {0x01021994, "tmpfs", true}, {0x794C7630, "overlayfs", true}, {0x858458F6, "ramfs", true},
    {0x6969, "NFS", false},      {0xFF534D42, "CIFS", false},     {0x0BD00BD0, "Lustre", false},
    {0x47504653, "GPFS", false}, {0x19830326, "BeeGFS", false},   {0x00C36400, "CephFS", false},
    {0x65735546, "FUSE", false}, {0xAAD7AAEA, "PanFS", false},    {0x2FC12FC1, "ZFS", false},
};

}  // namespace

std::vector<int> numbers_in(const std::string& list) {
  std::vector<int> numbers;
  const char* at = list.data();
  const char* const end = at + list.size();
  while (at < end) {
    int first = 0;
    auto [stop, error] = std::from_chars(at, end, first);
    if (error != std::errc()) break;
    int last = first;
    if (stop < end && *stop == '-') {
      const auto range = std::from_chars(stop + 1, end, last);
      if (range.ec != std::errc()) break;
      stop = range.ptr;
    }
    for (int number = first; number <= last; ++number) numbers.push_back(number);
    at = stop < end && *stop == ',' ? stop + 1 : end;
  }
  return numbers;
}

std::string ranges_text(const std::vector<int>& numbers) {
  std::string text;
  for (std::size_t i = 0; i < numbers.size();) {
    std::size_t last = i;
    while (last + 1 < numbers.size() && numbers[last + 1] == numbers[last] + 1) ++last;
    text += fmt::format("{}{}", text.empty() ? "" : ",", numbers[i]);
    if (last > i) text += fmt::format("-{}", numbers[last]);
    i = last + 1;
  }
  return text;
}

std::vector<int> numa_nodes_of_cores() {
  const std::vector<int> mine = numbers_in(cores_text());
  std::vector<int> nodes;
  for (const auto& [node, cores] : cores_of_nodes()) {
    const bool shared = std::any_of(cores.begin(), cores.end(), [&](int core) {
      return std::find(mine.begin(), mine.end(), core) != mine.end();
    });
    if (shared) nodes.push_back(node);
  }
  return nodes;
}

int num_numa_nodes() {
  return static_cast<int>(cores_of_nodes().size());
}

int numa_node_of_device(const std::string& bus_id) {
  std::string id = bus_id;  // CUDA writes letters in capitals, /sys in small ones
  std::transform(id.begin(), id.end(), id.begin(), [](unsigned char c) { return std::tolower(c); });
  int node = -1;
  const std::string text = first_line("/sys/bus/pci/devices/" + id + "/numa_node");
  std::from_chars(text.data(), text.data() + text.size(), node);
  return node;
}

FileSystem file_system_of(const std::string& path) {
  struct statfs found {};
  if (statfs(path.c_str(), &found) != 0) return {"unknown"};
  for (const KnownType& known : known_types) {
    if (found.f_type == known.magic) return {std::string(known.name), known.of_one_host};
  }
  return {fmt::format("file system {:#x}", found.f_type)};
}

Stripe stripe_in(const std::string& layout) {
  constexpr std::uint32_t plain = 0x0BD10BD0, with_pool = 0x0BD30BD0, composite = 0x0BD60BD0;
  const auto magic = number_at<std::uint32_t>(layout, 0);
  if (magic == composite) return {0, 0, number_at<std::uint16_t>(layout, 14)};
  if (magic != plain && magic != with_pool) return {};
  return {number_at<std::uint16_t>(layout, 28), number_at<std::uint32_t>(layout, 24), 0};
}

Stripe stripe_of(const std::string& path) {
  std::array<char, 65536> layout{};
  const ssize_t length = getxattr(path.c_str(), "lustre.lov", layout.data(), layout.size());
  return length > 0 ? stripe_in(std::string(layout.data(), static_cast<std::size_t>(length))) : Stripe{};
}

}  // namespace nmoe::app
