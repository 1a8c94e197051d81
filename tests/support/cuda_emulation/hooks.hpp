#pragma once
// What a test can see of the calls that its process makes to the emulated CUDA runtime.
#include <atomic>
#include <string>

namespace nmoe::emulation {

/// Gets a letter for every copy (c) and every look at a stream (q) while it points somewhere.
inline std::string* watched_calls = nullptr;
/// Bit d is set once a thread has worked on device d, which makes a context there. A new thread works on
/// device 0 until it chooses another.
inline std::atomic<unsigned> used_devices = 0;

}  // namespace nmoe::emulation
