#pragma once
// A bounded wait for something collective that may never return. Used by agree_on_library_calls and, at the
// end of a job, by run_guarded.
#include <chrono>
#include <future>
#include <memory>
#include <optional>
#include <thread>
#include <utility>

namespace nmoe::comm {

/// Calls `work` in a thread and returns what it returns, or nothing if it does not in `patience_s`: the
/// thread is left behind then, and the job must end under its feet. Rethrows what `work` throws. What `work`
/// refers to must live until the process ends.
template <typename Work>
auto finish_within(double patience_s, Work work) -> std::optional<decltype(work())> {
  auto promise = std::make_shared<std::promise<decltype(work())>>();
  auto result = promise->get_future();
  std::thread([promise, work = std::move(work)] {
    try {
      promise->set_value(work());
    } catch (...) {
      promise->set_exception(std::current_exception());
    }
  }).detach();
  if (result.wait_for(std::chrono::duration<double>(patience_s)) != std::future_status::ready)
    return std::nullopt;
  return result.get();
}

}  // namespace nmoe::comm
