#pragma once
// A hash of text that is the same on every machine, for random streams that belong to a name. For checksums
// of files see sha256.hpp.
#include <cstdint>
#include <string_view>

namespace nmoe {

/// Returns the 32-bit FNV-1a hash of the bytes (Fowler, Noll, Vo).
constexpr std::uint32_t fnv1a(std::string_view text) {
  std::uint32_t hash = 2166136261U;
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 16777619U;
  return hash;
}

}  // namespace nmoe
