// Shared memory of the ranks of one node, and the board where they say what lies in it.
#include "node_window.hpp"

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <functional>
#include <new>

#include "mpi_check.hpp"
#include "neuronmoe/base/error.hpp"
#include "neuronmoe/comm/agree.hpp"

namespace nmoe::comm::detail {

namespace {

constexpr std::int64_t alignment = 4096;
constexpr std::int64_t header_bytes = 64;  // before each send buffer: its readers

static_assert(std::atomic<std::uint64_t>::is_always_lock_free, "processes share these");

/// A named piece of shared memory; the name goes away with the object, what is mapped stays.
class SharedName {
 public:
  explicit SharedName(std::string name) : name_(std::move(name)) {}
  SharedName(const SharedName&) = delete;
  SharedName& operator=(const SharedName&) = delete;
  ~SharedName() {
    if (created_) shm_unlink(name_.c_str());
  }
  void created() { created_ = true; }

 private:
  std::string name_;
  bool created_ = false;
};

struct File {
  int fd;
  ~File() {
    if (fd >= 0) close(fd);
  }
};

void check_system(bool good, int error, const char* what, std::int64_t num_bytes) {
  NMOE_CHECK(good, config,
             "comm.on_node = shared: {} of {} bytes of shared memory in /dev/shm: {}; make it larger "
             "(containers: --shm-size) or set comm.on_node = mpi",
             what, num_bytes, std::strerror(error));
}

std::byte* map(int fd, std::int64_t num_bytes) {
  void* at = mmap(nullptr, static_cast<std::size_t>(num_bytes), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  check_system(at != MAP_FAILED, errno, "cannot map", num_bytes);
  return static_cast<std::byte*>(at);
}

}  // namespace

NodeWindow::NodeWindow(int rank, int size, std::int64_t num_bytes)
    : rank_(rank),
      size_(size),
      heap_bytes_((num_bytes + alignment - 1) / alignment * alignment),
      parts_(static_cast<std::size_t>(size), nullptr),
      num_posted_(static_cast<std::size_t>(size), 0),
      num_taken_(static_cast<std::size_t>(size), 0) {
  if (heap_bytes_ > 0) free_[0] = heap_bytes_;
}

NodeWindow::~NodeWindow() {
  for (std::byte* part : parts_) {
    if (part != nullptr) munmap(part, static_cast<std::size_t>(part_bytes()));
  }
  if (file_ >= 0) close(file_);
}

std::int64_t NodeWindow::boards_bytes() const {
  const std::int64_t num_bytes = static_cast<std::int64_t>(sizeof(Board)) * size_;
  return (num_bytes + alignment - 1) / alignment * alignment;
}

void NodeWindow::create_part(const std::string& name) {
  file_ = shm_open(name.c_str(), O_RDWR | O_CREAT | O_EXCL, S_IRUSR | S_IWUSR);
  check_system(file_ >= 0, errno, "cannot make a file", part_bytes());
  check_system(ftruncate(file_, part_bytes()) == 0, errno, "cannot make a file", part_bytes());
  // Not just a size: a page that is missing later would be a SIGBUS.
  const int error = posix_fallocate(file_, 0, boards_bytes());
  check_system(error == 0, error, "no room for a file", boards_bytes());
  parts_[static_cast<std::size_t>(rank_)] = map(file_, part_bytes());
  for (int to = 0; to < size_; ++to)
    new (parts_[static_cast<std::size_t>(rank_)] + static_cast<std::int64_t>(sizeof(Board)) * to) Board;
}

void NodeWindow::attach_part(int rank, const std::string& name) {
  const File file{shm_open(name.c_str(), O_RDWR, 0)};
  check_system(file.fd >= 0, errno, "cannot open another rank's file", part_bytes());
  parts_[static_cast<std::size_t>(rank)] = map(file.fd, part_bytes());
}

std::shared_ptr<NodeWindow> NodeWindow::make(Communicator& world, MPI_Comm comm, std::int64_t num_bytes) {
  MPI_Comm node = MPI_COMM_NULL;
  NMOE_MPI(MPI_Comm_split_type(comm, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &node));
  int rank = 0, size = 1;
  NMOE_MPI(MPI_Comm_rank(node, &rank));
  NMOE_MPI(MPI_Comm_size(node, &size));
  std::array<std::int64_t, 2> number = {getpid(),
                                        std::chrono::steady_clock::now().time_since_epoch().count()};
  NMOE_MPI(MPI_Bcast(number.data(), 2, MPI_INT64_T, 0, node));
  MPI_Group members = MPI_GROUP_NULL, all = MPI_GROUP_NULL;
  NMOE_MPI(MPI_Comm_group(node, &members));
  NMOE_MPI(MPI_Comm_group(comm, &all));
  std::vector<int> ranks, node_ranks(static_cast<std::size_t>(world.size()));
  for (int r = 0; r < world.size(); ++r) ranks.push_back(r);
  NMOE_MPI(MPI_Group_translate_ranks(all, world.size(), ranks.data(), members, node_ranks.data()));
  for (int& r : node_ranks) r = r == MPI_UNDEFINED ? -1 : r;
  NMOE_MPI(MPI_Group_free(&members));
  NMOE_MPI(MPI_Group_free(&all));
  NMOE_MPI(MPI_Comm_free(&node));

  const auto name = [&](int r) { return fmt::format("/neuronmoe_{}_{}_{}", number[0], number[1], r); };
  std::shared_ptr<NodeWindow> window;
  SharedName mine(name(rank));
  agree(world, [&] {
    if (size == 1) return;
    window.reset(new NodeWindow(rank, size, num_bytes));
    window->node_ranks_ = std::move(node_ranks);
    mine.created();
    window->create_part(name(rank));
  });
  agree(world, [&] {
    for (int r = 0; r < size; ++r) {
      if (r != rank) window->attach_part(r, name(r));
    }
  });
  return window;
}

std::shared_ptr<std::byte> NodeWindow::allocate(std::int64_t num_bytes) {
  const std::int64_t size = (num_bytes + header_bytes + alignment - 1) / alignment * alignment;
  const std::lock_guard lock(mutex_);
  const auto room = std::find_if(free_.begin(), free_.end(), [&](const auto& f) { return f.second >= size; });
  if (room == free_.end()) return nullptr;
  const auto [offset, available] = *room;
  if (offset + size > committed_) {
    if (posix_fallocate(file_, boards_bytes() + committed_, offset + size - committed_) != 0) return nullptr;
    committed_ = offset + size;
  }
  free_.erase(room);
  if (available > size) free_[offset + size] = available - size;
  used_[offset] = size;
  new (heap(rank_) + offset) Readers{0};
  return {heap(rank_) + offset + header_bytes,
          [self = shared_from_this(), at = offset](std::byte*) { self->give_back(at); }};
}

void NodeWindow::give_back(std::int64_t offset) {
  const std::lock_guard lock(mutex_);
  auto it = free_.emplace(offset, used_.at(offset)).first;
  used_.erase(offset);
  if (const auto next = std::next(it); next != free_.end() && it->first + it->second == next->first) {
    it->second += next->second;
    free_.erase(next);
  }
  if (it == free_.begin()) return;
  const auto before = std::prev(it);
  if (before->first + before->second != it->first) return;
  before->second += it->second;
  free_.erase(it);
}

NodeWindow::Entry& NodeWindow::entry(int from, int to, std::uint64_t number) const {
  auto* boards = std::launder(reinterpret_cast<Board*>(parts_[static_cast<std::size_t>(from)]));
  return boards[to][number % board_length];
}

NodeWindow::Readers& NodeWindow::readers(int rank, std::int64_t buffer) const {
  return *std::launder(reinterpret_cast<Readers*>(heap(rank) + buffer));
}

std::int64_t NodeWindow::buffer_of(const std::byte* data) {
  const std::byte* begin = heap(rank_);
  if (std::less<>()(data, begin) || !std::less<>()(data, begin + heap_bytes_)) return -1;
  const std::lock_guard lock(mutex_);
  const auto after = used_.upper_bound(data - begin);
  return after == used_.begin() ? -1 : std::prev(after)->first;
}

NodeWindow::Posted NodeWindow::post(int to, std::uint64_t exchange, const std::byte* data,
                                    std::int64_t num_bytes, std::int64_t short_bytes) {
  std::uint64_t& count = num_posted_[static_cast<std::size_t>(to)];
  Entry& e = entry(rank_, to, count);
  const std::uint64_t uses = count / board_length;
  if (e.taken.load(std::memory_order_acquire) != uses) return {};
  Posted posted{true, nullptr};
  e.exchange = exchange;
  e.num_bytes = num_bytes;
  e.buffer = num_bytes >= short_bytes ? buffer_of(data) : -1;
  if (e.buffer >= 0) {
    e.offset = data - heap(rank_);
    posted.readers = &readers(rank_, e.buffer);
    posted.readers->fetch_add(1, std::memory_order_relaxed);
  }
  e.posted.store(uses + 1, std::memory_order_release);
  ++count;
  return posted;
}

bool NodeWindow::take(int from, std::uint64_t exchange, std::int64_t num_bytes, Note& note) {
  std::uint64_t& count = num_taken_[static_cast<std::size_t>(from)];
  Entry& e = entry(from, rank_, count);
  const std::uint64_t uses = count / board_length;
  if (e.posted.load(std::memory_order_acquire) != uses + 1 || e.exchange != exchange) return false;
  NMOE_CHECK(e.num_bytes == num_bytes, internal,
             "rank {} of this node sends rank {} a piece of {} bytes where {} are expected", from, rank_,
             e.num_bytes, num_bytes);
  note = {};
  if (e.buffer >= 0) note = {heap(from) + e.offset, &readers(from, e.buffer)};
  ++count;
  e.taken.store(uses + 1, std::memory_order_release);
  return true;
}

}  // namespace nmoe::comm::detail
