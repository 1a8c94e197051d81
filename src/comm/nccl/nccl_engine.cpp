// NCCL calls followed until they are queued, and the thread that watches them.
#include "nccl_engine.hpp"

#include <algorithm>

#include "nccl_check.hpp"

namespace nmoe::comm::detail {

namespace {

constexpr auto watch_interval = std::chrono::milliseconds(100);
constexpr auto abort_patience = std::chrono::seconds(5);

/// `ncclCommAbort` in a thread of its own: it blocks when the network does.
std::future<void> abort_in_thread(ncclComm_t comm, int device) {
  std::packaged_task<void()> task([comm, device] {
    if (use_cuda_device(device)) static_cast<void>(nccl().comm_abort(comm));
  });
  std::future<void> done = task.get_future();
  std::thread(std::move(task)).detach();
  return done;
}

}  // namespace

NcclEngine::NcclEngine(const NcclOptions& options, std::string who)
    : options_(options), who_(std::move(who)), thread_([this] { watch(); }) {}

NcclEngine::~NcclEngine() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
    for (const auto& handle : handles_) {
      if (handle->comm != nullptr)
        aborts_.push_back(abort_in_thread(std::exchange(handle->comm, nullptr), device_));
    }
  }
  stopped_.notify_all();
  thread_.join();
  const auto deadline = Clock::now() + abort_patience;
  for (const auto& done : aborts_) done.wait_until(deadline);
}

bool NcclEngine::too_late(Clock::time_point since) const {
  return options_.timeout_s > 0 &&
         std::chrono::duration<double>(Clock::now() - since).count() >= options_.timeout_s;
}

void NcclEngine::fail(const std::string& message) {
  if (!failure_.empty()) return;
  failure_ = fmt::format("{}: {}", who_, message);
  for (const auto& handle : handles_) {
    if (handle->comm != nullptr)
      aborts_.push_back(abort_in_thread(std::exchange(handle->comm, nullptr), device_));
  }
}

void NcclEngine::check_failure() const {
  if (!failure_.empty()) throw Error(ErrorCode::watchdog, failure_);
}

void NcclEngine::throw_if_failed() {
  const std::lock_guard lock(mutex_);
  check_failure();
}

std::byte* NcclEngine::scratch(std::int64_t num_bytes) {
  if (num_bytes > scratch_.num_elements()) {
    drain();  // the old memory is in use until then
    scratch_ = {};
    scratch_ = Tensor({num_bytes}, DType::uint8, Device::cuda);
  }
  return static_cast<std::byte*>(scratch_.view().raw());
}

ncclResult_t NcclEngine::state_of(NcclHandle& handle) {
  const std::lock_guard lock(mutex_);
  check_failure();
  ncclResult_t state = ncclSuccess;
  NMOE_NCCL(nccl().comm_get_async_error(handle.comm, &state));
  return state;
}

void NcclEngine::settle(NcclHandle& handle, const std::string& what) {
  const Clock::time_point since = Clock::now();
  while (true) {
    const ncclResult_t state = state_of(handle);
    if (state == ncclSuccess) return;
    if (state != ncclInProgress || too_late(since)) {
      const std::lock_guard lock(mutex_);
      fail(state != ncclInProgress
               ? fmt::format("NCCL {} failed: {}", what, nccl().error_string(state))
               : fmt::format("NCCL {} has not begun after {} s: another rank is not there", what,
                             options_.timeout_s));
      check_failure();
    }
    // Mostly a few microseconds; a long one leaves the core to the communication thread.
    if (Clock::now() - since < std::chrono::milliseconds(1)) {
      std::this_thread::yield();
    } else {
      std::this_thread::sleep_for(std::chrono::microseconds(100));
    }
  }
}

std::shared_ptr<NcclHandle> NcclEngine::connect(const ncclUniqueId& id, int rank, int size) {
  auto handle = std::make_shared<NcclHandle>();
  {
    const std::lock_guard lock(mutex_);
    check_failure();
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    handles_.push_back(handle);
    NMOE_NCCL(nccl().comm_init_rank_config(&handle->comm, size, id, rank, &config));
  }
  settle(*handle, fmt::format("start of a group of {} ranks, this one number {},", size, rank));
  return handle;
}

void NcclEngine::disconnect(NcclHandle& handle) {
  {
    const std::lock_guard lock(mutex_);
    if (!failure_.empty()) return;  // the group is aborted
  }
  drain();
  {
    const std::lock_guard lock(mutex_);
    check_failure();
    NMOE_NCCL(nccl().comm_finalize(handle.comm));
  }
  settle(handle, "end of a group");
  const std::lock_guard lock(mutex_);
  check_failure();
  NMOE_NCCL(nccl().comm_destroy(std::exchange(handle.comm, nullptr)));
  std::erase_if(handles_, [&](const auto& other) { return other.get() == &handle; });
}

void NcclEngine::give_up(NcclHandle& handle) {
  const std::lock_guard lock(mutex_);
  if (handle.comm != nullptr)
    aborts_.push_back(abort_in_thread(std::exchange(handle.comm, nullptr), device_));
  std::erase_if(handles_, [&](const auto& other) { return other.get() == &handle; });
}

void NcclEngine::queue(NcclHandle& handle, const Call& call, const std::function<void(ncclComm_t)>& start) {
  {
    const std::lock_guard lock(mutex_);
    check_failure();
    NMOE_NCCL(nccl().group_start());
    try {
      start(handle.comm);
    } catch (...) {
      static_cast<void>(nccl().group_end());  // else the next group would be part of this one
      throw;
    }
    NMOE_NCCL(nccl().group_end());
  }
  settle(handle, call.to_string());
}

void NcclEngine::follow(Stream& caller) {
  NMOE_CHECK(caller.device() == Device::cuda, internal, "a collective on GPU tensors was given a CPU stream");
  start_.record(caller);
  start_.make_wait(stream());
}

std::shared_ptr<Event> NcclEngine::mark_end(const Call& call) {
  const std::lock_guard lock(mutex_);
  forget_finished();
  auto unused =
      std::find_if(events_.begin(), events_.end(), [](const auto& e) { return e.use_count() == 1; });
  if (unused == events_.end()) {
    events_.push_back(std::make_shared<Event>(Device::cuda));
    unused = std::prev(events_.end());
  }
  (*unused)->record(stream());
  flights_.push_back({*unused, call, Clock::now()});
  return *unused;
}

void NcclEngine::drain() {
  throw_if_failed();
  synchronize(stream(), options_.timeout_s > 0 ? options_.timeout_s : 1e9);
}

void NcclEngine::forget_finished() {
  while (!flights_.empty() && flights_.front().end->reached()) {
    flights_.pop_front();
    if (!flights_.empty()) flights_.front().since = Clock::now();
  }
}

std::string NcclEngine::running() {
  const std::unique_lock lock(mutex_, std::try_to_lock);
  if (!lock)
    return "a call into NCCL";  // that does not come back, perhaps: the watchdog must not wait for it
  if (!failure_.empty()) return failure_;
  if (!use_cuda_device(device_)) return "a collective by NCCL on a GPU that is lost";  // asked by any thread
  forget_finished();
  return flights_.empty() ? "" : "NCCL " + flights_.front().call.to_string() + ", still running";
}

/// One look at everything under way.
void NcclEngine::inspect() {
  forget_finished();
  if (!flights_.empty() && too_late(flights_.front().since)) {
    fail(fmt::format("NCCL {} has not finished {} s after the one before it",
                     flights_.front().call.to_string(), options_.timeout_s));
  }
  for (const auto& handle : handles_) {
    ncclResult_t state = ncclSuccess;
    if (handle->comm == nullptr || nccl().comm_get_async_error(handle->comm, &state) != ncclSuccess) continue;
    if (state == ncclSuccess || state == ncclInProgress) continue;
    const std::string during = flights_.empty() ? "no collective" : flights_.front().call.to_string();
    fail(fmt::format("NCCL reports '{}' with {} under way", nccl().error_string(state), during));
  }
}

void NcclEngine::watch() {
  const bool on_device = use_cuda_device(device_);
  std::unique_lock lock(mutex_);
  if (!on_device) fail(fmt::format("GPU {} cannot be chosen by the thread that watches NCCL", device_));
  while (!stop_) {
    if (failure_.empty()) {
      try {
        inspect();
      } catch (const std::exception& error) {  // of CUDA: its context is gone, so is every collective
        fail(error.what());
      }
    }
    stopped_.wait_for(lock, watch_interval);
  }
}

}  // namespace nmoe::comm::detail
