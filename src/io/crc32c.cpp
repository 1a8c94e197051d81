// CRC-32C by tables, eight bytes at a time.
#include "neuronmoe/io/crc32c.hpp"

#include <array>
#include <bit>
#include <cstring>

namespace nmoe::io {
namespace {

constexpr std::uint32_t polynomial = 0x82F63B78U;  // Castagnoli, reflected

using Tables = std::array<std::array<std::uint32_t, 256>, 8>;

constexpr Tables make_tables() {
  Tables t{};
  for (std::uint32_t byte = 0; byte < 256; ++byte) {
    std::uint32_t crc = byte;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1U) ^ ((crc & 1U) != 0 ? polynomial : 0U);
    t[0][byte] = crc;
  }
  for (std::size_t k = 1; k < 8; ++k)  // table k: the byte is followed by k zero bytes
    for (std::size_t byte = 0; byte < 256; ++byte)
      t[k][byte] = (t[k - 1][byte] >> 8U) ^ t[0][t[k - 1][byte] & 0xFFU];
  return t;
}

constexpr Tables table = make_tables();

}  // namespace

std::uint32_t crc32c(const void* data, std::size_t num_bytes, std::uint32_t crc) {
  const auto* p = static_cast<const unsigned char*>(data);
  crc = ~crc;
  if constexpr (std::endian::native == std::endian::little) {
    for (; num_bytes >= 8; num_bytes -= 8, p += 8) {
      std::uint64_t word;
      std::memcpy(&word, p, 8);
      word ^= crc;
      crc = table[7][word & 0xFFU] ^ table[6][(word >> 8U) & 0xFFU] ^ table[5][(word >> 16U) & 0xFFU] ^
            table[4][(word >> 24U) & 0xFFU] ^ table[3][(word >> 32U) & 0xFFU] ^
            table[2][(word >> 40U) & 0xFFU] ^ table[1][(word >> 48U) & 0xFFU] ^ table[0][word >> 56U];
    }
  }
  for (; num_bytes > 0; --num_bytes, ++p) crc = (crc >> 8U) ^ table[0][(crc ^ *p) & 0xFFU];
  return ~crc;
}

}  // namespace nmoe::io
