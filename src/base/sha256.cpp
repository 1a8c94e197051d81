// SHA-256 by OpenSSL.
#include "neuronmoe/base/sha256.hpp"

#include <openssl/evp.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <vector>

#include "neuronmoe/base/error.hpp"

namespace nmoe {

struct Sha256::Impl {
  EVP_MD_CTX* context = EVP_MD_CTX_new();
  ~Impl() { EVP_MD_CTX_free(context); }
};

Sha256::Sha256() : impl_(std::make_unique<Impl>()) {
  NMOE_CHECK(impl_->context != nullptr && EVP_DigestInit_ex(impl_->context, EVP_sha256(), nullptr) == 1,
             internal, "SHA-256 could not be initialized");
}
Sha256::~Sha256() = default;

void Sha256::update(const void* data, std::size_t num_bytes) {
  NMOE_CHECK(EVP_DigestUpdate(impl_->context, data, num_bytes) == 1, internal, "SHA-256 update failed");
}

std::string Sha256::hex() {
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
  unsigned int length = 0;
  NMOE_CHECK(EVP_DigestFinal_ex(impl_->context, digest.data(), &length) == 1, internal, "SHA-256 failed");
  std::string text;
  for (unsigned int i = 0; i < length; ++i) text += fmt::format("{:02x}", digest[i]);
  return text;
}

std::string sha256_file(const std::string& path) {
  std::error_code unknown;  // opening a pipe would wait for its writer
  NMOE_CHECK(!std::filesystem::is_other(path, unknown), bad_data,
             "{} is not a regular file: pipes and devices are not read", path);
  std::ifstream in(path, std::ios::binary);
  NMOE_CHECK(in.good(), bad_data, "{}: cannot be read ({})", path, std::strerror(errno));
  Sha256 sha;
  std::vector<char> block(1U << 20);
  while (in.read(block.data(), static_cast<std::streamsize>(block.size())) || in.gcount() > 0) {
    sha.update(block.data(), static_cast<std::size_t>(in.gcount()));
  }
  return sha.hex();
}

std::string sha256_text(const std::string& text) {
  Sha256 sha;
  sha.update(text.data(), text.size());
  return sha.hex();
}

}  // namespace nmoe
