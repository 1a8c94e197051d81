#pragma once
// A directory that vanishes with the test, and checks for errors with a code and a telling message.
#include <stdlib.h>  // mkdtemp

#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>

#include "neuronmoe/base/error.hpp"

namespace nmoe::test {

class TempDir {
 public:
  explicit TempDir(const std::string& parent = std::filesystem::temp_directory_path().string()) {
    std::string name = parent + "/nmoe_test_XXXXXX";
    if (::mkdtemp(name.data()) == nullptr) throw std::runtime_error("cannot make " + name);
    path_ = name;
  }
  ~TempDir() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  const std::string& path() const { return path_; }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

inline std::string read_bytes(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

inline void write_bytes(const std::string& path, std::string_view bytes) {
  std::ofstream(path, std::ios::binary | std::ios::trunc)
      .write(bytes.data(), static_cast<long>(bytes.size()));
}

/// Runs `f`; "" if it threw Error(code) with every one of `words` in its message, else what happened instead.
template <typename F>
std::string expect_error(ErrorCode code, std::initializer_list<std::string_view> words, F&& f) {
  try {
    f();
  } catch (const Error& e) {
    const std::string message = e.what();
    if (e.code() != code) return "code " + std::string(name_of(e.code())) + ": " + message;
    for (const std::string_view word : words)
      if (message.find(word) == std::string::npos) return "no \"" + std::string(word) + "\" in: " + message;
    return "";
  } catch (const std::exception& e) {
    return std::string("another exception: ") + e.what();
  }
  return "nothing was thrown";
}

}  // namespace nmoe::test
