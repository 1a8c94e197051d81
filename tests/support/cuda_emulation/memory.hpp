#pragma once
// Emulated device memory: one region, closed to the host except while a DeviceAccess lives.

namespace nmoe::emulation {

class DeviceAccess {
 public:
  DeviceAccess();
  ~DeviceAccess();
  DeviceAccess(const DeviceAccess&) = delete;
  DeviceAccess& operator=(const DeviceAccess&) = delete;
};

}  // namespace nmoe::emulation
