#pragma once
// Emulated device memory: one region, closed to the host except while a DeviceAccess lives.

namespace nmoe::emulation {

inline constexpr int poison = 0xFF;  // NaN in every floating type, -1 in every integer

/// Made with the lock() of streams.hpp held.
class DeviceAccess {
 public:
  DeviceAccess();
  ~DeviceAccess();
  DeviceAccess(const DeviceAccess&) = delete;
  DeviceAccess& operator=(const DeviceAccess&) = delete;
};

bool is_device_memory(const void* pointer);

/// Notes a call that works on the device of this thread, for hooks.hpp.
void note_work(char letter = 0);

}  // namespace nmoe::emulation
