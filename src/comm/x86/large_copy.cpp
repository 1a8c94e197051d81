// Stores of SSE2, which every x86-64 has, around the caches. Wider ones were no faster: memory is the limit.
#include "../large_copy.hpp"

#include <emmintrin.h>

#include <cstdint>
#include <cstring>

namespace nmoe::comm::detail {
namespace {

constexpr std::size_t line = 64;

/// `to` is aligned to a line.
void copy_line(std::byte* to, const std::byte* from) {
  const auto* source = reinterpret_cast<const __m128i*>(from);
  auto* target = reinterpret_cast<__m128i*>(to);
  const __m128i a = _mm_loadu_si128(source), b = _mm_loadu_si128(source + 1), c = _mm_loadu_si128(source + 2),
                d = _mm_loadu_si128(source + 3);
  _mm_stream_si128(target, a);
  _mm_stream_si128(target + 1, b);
  _mm_stream_si128(target + 2, c);
  _mm_stream_si128(target + 3, d);
}

}  // namespace

void copy_bytes(void* to, const void* from, std::size_t num_bytes) {
  if (num_bytes == 0 || to == from) return;
  if (num_bytes < large_copy_bytes) {
    std::memcpy(to, from, num_bytes);
    return;
  }
  auto* out = static_cast<std::byte*>(to);
  const auto* in = static_cast<const std::byte*>(from);
  const std::size_t head = (line - reinterpret_cast<std::uintptr_t>(out) % line) % line;
  std::memcpy(out, in, head);
  // Two places at a time keep more of memory busy than one.
  const std::size_t half = (num_bytes - head) / 2 / line * line, second = head + half, done = second + half;
  for (std::size_t i = 0; i < half; i += line) {
    copy_line(out + head + i, in + head + i);
    copy_line(out + second + i, in + second + i);
  }
  _mm_sfence();  // such stores are ordered with nothing that follows
  std::memcpy(out + done, in + done, num_bytes - done);
}

}  // namespace nmoe::comm::detail
