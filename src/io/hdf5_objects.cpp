// What a name in a HDF5 file leads to.
#include "hdf5_internal.hpp"

namespace nmoe::io {
namespace {

// The struct has another name and members from HDF5 1.12 on; what this function fills is the same in all.
template <typename Info>
Info info_type_of(herr_t (*)(hid_t, const char*, Info*, unsigned, hid_t));
using ObjectInfo = decltype(info_type_of(H5Oget_info_by_name2));

ObjectInfo info_of(hid_t file, const std::string& path, const std::string& name) {
  ObjectInfo info{};
  if (H5Oget_info_by_name2(file, name.c_str(), &info, H5O_INFO_BASIC, H5P_DEFAULT) < 0)
    fail_hdf5(ErrorCode::bad_data, "look up", path, name);
  NMOE_CHECK(info.type != H5O_TYPE_GROUP || info.rc <= 1, bad_data,
             "{}:{} is a group that {} links lead to; a file of ours is a tree", path, name, info.rc);
  return info;
}

}  // namespace

bool H5File::Impl::reachable(const std::string& name) const {
  NMOE_CHECK(name.starts_with('/'), internal, "{}: name \"{}\" is not absolute", path, name);
  info_of(file, path, "/");
  for (std::size_t end = name.find('/', 1);; end = name.find('/', end + 1)) {
    const std::string prefix = name.substr(0, end);
    if (prefix.size() > 1) {
      if (H5Lexists(file, prefix.c_str(), H5P_DEFAULT) <= 0) return false;
      H5L_info_t link;
      if (H5Lget_info(file, prefix.c_str(), &link, H5P_DEFAULT) < 0)
        fail_hdf5(ErrorCode::bad_data, "look up", path, prefix);
      NMOE_CHECK(link.type == H5L_TYPE_HARD, bad_data,
                 "{}:{} is a soft or external link; only data inside the file is read", path, prefix);
    }
    info_of(file, path, prefix);
    if (end == std::string::npos) return true;
  }
}

H5File::ObjectKind H5File::kind(const std::string& name) {
  ObjectKind found = ObjectKind::group;
  impl_->collectively([&] {
    NMOE_CHECK(impl_->reachable(name), bad_data, "{} has no object {}", impl_->path, name);
    const H5O_type_t type = info_of(impl_->file, impl_->path, name).type;
    NMOE_CHECK(type == H5O_TYPE_GROUP || type == H5O_TYPE_DATASET || type == H5O_TYPE_NAMED_DATATYPE,
               bad_data, "{}:{} is an object of unknown kind", impl_->path, name);
    found = type == H5O_TYPE_GROUP     ? ObjectKind::group
            : type == H5O_TYPE_DATASET ? ObjectKind::dataset
                                       : ObjectKind::type;
  });
  return found;
}

}  // namespace nmoe::io
