// Libraries opened by dlopen, and tables of their functions.
#include "neuronmoe/base/shared_library.hpp"

#include <dlfcn.h>

#include "neuronmoe/base/error.hpp"

namespace nmoe {

SharedLibrary::SharedLibrary(std::span<const std::string> names, std::string_view remedy) : remedy_(remedy) {
  std::string reason = "no name to look for";
  for (const std::string& name : names) {
    name_ = name;
    handle_ = ::dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (handle_ != nullptr) return;
    const char* said = ::dlerror();
    if (&name == names.data()) reason = said != nullptr ? said : name + " cannot be opened";
  }
  throw Error(ErrorCode::config, fmt::format("{}; {}", reason, remedy_));
}

void* SharedLibrary::address_of(const char* symbol) const {
  void* address = ::dlsym(handle_, symbol);
  NMOE_CHECK(address != nullptr, config, "{} has no function {}; {}", name_, symbol, remedy_);
  return address;
}

}  // namespace nmoe
