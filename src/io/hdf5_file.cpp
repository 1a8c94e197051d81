// H5File: files made and opened, groups and attributes.
#include "neuronmoe/io/hdf5_file.hpp"

#include <algorithm>
#include <exception>

#include "hdf5_internal.hpp"
#include "mpi_io_watch.hpp"
#include "neuronmoe/comm/agree.hpp"
#include "neuronmoe/io/atomic_file.hpp"

namespace nmoe::io {
namespace {

constexpr std::int64_t max_attribute_bytes = std::int64_t{16} << 20;

void agree_on_hdf5(comm::Communicator& comm, const std::string& path, const std::function<void()>& work) {
  comm::agree_on_library_calls(comm, [&] {
    const MpiIoScope scope(path);
    work();
  });
}

}  // namespace

H5File::Impl::~Impl() {
  // Closing a collective file may block on other ranks while an exception unwinds here: leak it instead.
  bfloat16.reset();
  if (file != no_id && (comm == nullptr || comm->native() == nullptr)) H5Fclose(file);
}

void H5File::Impl::collectively(const std::function<void()>& work) const {
  NMOE_CHECK(file != no_id, internal, "{} was closed already", path);
  if (comm == nullptr) return work();
  comm->drain();
  agree_on_hdf5(*comm, path, work);
}

void H5File::Impl::close_file() {
  collectively([&] {
    bfloat16.reset();
    if (H5Fclose(std::exchange(file, no_id)) < 0) fail_hdf5(ErrorCode::io, "close", path, "");
  });
}

H5File::H5File(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
H5File::H5File(H5File&&) noexcept = default;
H5File& H5File::operator=(H5File&&) noexcept = default;
H5File::~H5File() = default;
const std::string& H5File::path() const {
  return impl_->path;
}

namespace {

hid_t create_file(const std::string& path, comm::Communicator* comm, std::int64_t user_block_bytes) {
  const PropertyId access = make_file_access(comm);
  const PropertyId creation = make_properties(H5P_FILE_CREATE);
  H5Pset_obj_track_times(creation.get(), false);
  H5Pset_userblock(creation.get(), static_cast<hsize_t>(user_block_bytes));
  const hid_t file = H5Fcreate(path.c_str(), H5F_ACC_TRUNC, creation.get(), access.get());
  if (file < 0) fail_hdf5(ErrorCode::io, "create", path, "");
  return file;
}

hid_t open_file(const std::string& path, comm::Communicator* comm) {
  const PropertyId access = make_file_access(comm);
  const hid_t file = H5Fopen(path.c_str(), H5F_ACC_RDONLY, access.get());
  if (file < 0) fail_hdf5(ErrorCode::bad_data, "open HDF5 file", path, "");
  return file;
}

}  // namespace

H5File H5File::create(const std::string& path, Storage storage, std::int64_t user_block_bytes) {
  auto impl = std::make_unique<Impl>();
  impl->path = path;
  impl->storage = storage;
  impl->writable = true;
  create_empty_file(path);
  impl->sync = FileSync(path);
  impl->file = create_file(path, nullptr, user_block_bytes);
  return H5File(std::move(impl));
}

H5File H5File::create(const std::string& path, comm::Communicator& comm, std::int64_t user_block_bytes) {
  auto impl = std::make_unique<Impl>();
  impl->path = path;
  impl->comm = &comm;
  impl->writable = true;
  comm::agree(comm, [&] {  // not by MPI-IO: see MPI_File_open in mpi_io_watch.cpp
    if (comm.rank() == 0) create_empty_file(path);
  });
  comm::agree(comm, [&] { impl->sync = FileSync(path); });
  comm.drain();
  agree_on_hdf5(comm, path, [&] { impl->file = create_file(path, &comm, user_block_bytes); });
  return H5File(std::move(impl));
}

namespace {

/// @throws Error(bad_data) unless the root says that writing came to its end, in the wanted format.
void demand_complete(H5File& file, const std::optional<FileFormat>& format) {
  NMOE_CHECK(file.has_attribute("/", "complete") && file.read_int_attribute("/", "complete") == 1, bad_data,
             "{} is not complete: its writer did not finish (no attribute complete=1); make it again",
             file.path());
  if (!format) return;
  const std::string name =
      file.has_attribute("/", "format") ? file.read_string_attribute("/", "format") : "none";
  FileFormat found{name};
  if (file.has_attribute("/", "format_version"))
    found.version = file.read_int_attribute("/", "format_version");
  require_readable(file.path(), found, *format);
}

}  // namespace

H5File H5File::open_foreign(const std::string& path) {
  auto impl = std::make_unique<Impl>();
  impl->path = path;
  impl->file_bytes = file_size_bytes(path);
  impl->file = open_file(path, nullptr);
  return H5File(std::move(impl));
}

H5File H5File::open(const std::string& path, std::optional<FileFormat> format, SealCheck seal) {
  if (seal == SealCheck::wanted) verify_seal(path);
  H5File file = open_foreign(path);
  demand_complete(file, format);
  return file;
}

H5File H5File::open(const std::string& path, comm::Communicator& comm, std::optional<FileFormat> format) {
  auto impl = std::make_unique<Impl>();
  impl->path = path;
  impl->comm = &comm;
  comm::agree(comm, [&] { impl->file_bytes = file_size_bytes(path); });
  comm.drain();
  agree_on_hdf5(comm, path, [&] { impl->file = open_file(path, &comm); });
  H5File file(std::move(impl));
  try {
    demand_complete(file, format);
  } catch (const comm::LoneError&) {
    throw;
  } catch (...) {  // agreed: every rank is here
    file.close();
    throw;
  }
  return file;
}

void H5File::close() {
  impl_->close_file();
}

// ---- groups ----------------------------------------------------------------------------------------------

void H5File::Impl::make_groups(const std::string& name) const {
  const PropertyId creation = make_properties(H5P_GROUP_CREATE);
  H5Pset_obj_track_times(creation.get(), false);
  for (std::size_t end = name.find('/', 1); end != std::string::npos; end = name.find('/', end + 1)) {
    const std::string prefix = name.substr(0, end);
    if (H5Lexists(file, prefix.c_str(), H5P_DEFAULT) > 0) continue;
    const GroupId group(H5Gcreate2(file, prefix.c_str(), H5P_DEFAULT, creation.get(), H5P_DEFAULT));
    if (!group) fail_hdf5(ErrorCode::io, "make group", path, prefix);
  }
}

void H5File::make_group(const std::string& name) {
  impl_->collectively([&] { impl_->make_groups(name + "/"); });
}

bool H5File::exists(const std::string& name) {
  bool found = false;
  impl_->collectively([&] { found = name == "/" || impl_->reachable(name); });
  return found;
}

std::vector<std::string> H5File::list(const std::string& group) {
  std::vector<std::string> names;
  impl_->collectively([&] {
    NMOE_CHECK(group == "/" || impl_->reachable(group), bad_data, "{} has no group {}", impl_->path, group);
    const GroupId id(H5Gopen2(impl_->file, group.c_str(), H5P_DEFAULT));
    if (!id) fail_hdf5(ErrorCode::bad_data, "open group", impl_->path, group);
    const auto visit = [](hid_t, const char* name, const H5L_info_t*, void* out) -> herr_t {
      static_cast<std::vector<std::string>*>(out)->emplace_back(name);
      return 0;
    };
    if (H5Literate(id.get(), H5_INDEX_NAME, H5_ITER_INC, nullptr, visit, &names) < 0)
      fail_hdf5(ErrorCode::bad_data, "list group", impl_->path, group);
  });
  std::sort(names.begin(), names.end());
  return names;
}

// ---- attributes ------------------------------------------------------------------------------------------

namespace {

void put_attribute(hid_t file, const std::string& path, const std::string& object, const std::string& name,
                   hid_t type, const void* value) {
  const ObjectId target(H5Oopen(file, object.c_str(), H5P_DEFAULT));
  const SpaceId scalar(H5Screate(H5S_SCALAR));
  AttributeId attribute;
  if (target)
    attribute =
        AttributeId(H5Acreate2(target.get(), name.c_str(), type, scalar.get(), H5P_DEFAULT, H5P_DEFAULT));
  if (!attribute || H5Awrite(attribute.get(), type, value) < 0)
    fail_hdf5(ErrorCode::io, "write attribute", path, object + "@" + name);
}

/// Opens a scalar attribute of the wanted class and reasonable size.
AttributeId get_attribute(hid_t file, const std::string& path, const std::string& object,
                          const std::string& name, H5T_class_t wanted, TypeId& type) {
  const std::string place = object + "@" + name;
  AttributeId attribute(H5Aopen_by_name(file, object.c_str(), name.c_str(), H5P_DEFAULT, H5P_DEFAULT));
  if (!attribute) fail_hdf5(ErrorCode::bad_data, "read attribute", path, place);
  type = TypeId(H5Aget_type(attribute.get()));
  const SpaceId space(H5Aget_space(attribute.get()));
  NMOE_CHECK(H5Tget_class(type.get()) == wanted && H5Tis_variable_str(type.get()) <= 0 &&
                 H5Sget_simple_extent_npoints(space.get()) == 1 &&
                 static_cast<std::int64_t>(H5Tget_size(type.get())) <= max_attribute_bytes,
             bad_data, "{}:{} is not a single value of the expected kind", path, place);
  return attribute;
}

}  // namespace

void H5File::write_format(const FileFormat& format) {
  write_attribute("/", "format", format.name);
  write_attribute("/", "format_version", format.version);
}

void H5File::write_attribute(const std::string& object, const std::string& name, std::string_view value) {
  impl_->collectively([&] {
    const TypeId type(H5Tcopy(H5T_C_S1));
    const std::string bytes = value.empty() ? std::string(1, '\0') : std::string(value);
    H5Tset_size(type.get(), bytes.size());
    H5Tset_cset(type.get(), H5T_CSET_UTF8);
    H5Tset_strpad(type.get(), H5T_STR_NULLPAD);
    put_attribute(impl_->file, impl_->path, object, name, type.get(), bytes.data());
  });
}

void H5File::write_attribute(const std::string& object, const std::string& name, std::int64_t value) {
  impl_->collectively([&] {
    put_attribute(impl_->file, impl_->path, object, name, make_type(ElementType::int64).get(), &value);
  });
}

void H5File::write_attribute(const std::string& object, const std::string& name, double value) {
  impl_->collectively([&] {
    put_attribute(impl_->file, impl_->path, object, name, make_type(ElementType::float64).get(), &value);
  });
}

bool H5File::has_attribute(const std::string& object, const std::string& name) {
  bool found = false;
  impl_->collectively([&] {
    found = (object == "/" || impl_->reachable(object)) &&
            H5Aexists_by_name(impl_->file, object.c_str(), name.c_str(), H5P_DEFAULT) > 0;
  });
  return found;
}

std::vector<std::string> H5File::list_attributes(const std::string& object) {
  std::vector<std::string> names;
  impl_->collectively([&] {
    NMOE_CHECK(object == "/" || impl_->reachable(object), bad_data, "{} has no object {}", impl_->path,
               object);
    const auto visit = [](hid_t, const char* name, const H5A_info_t*, void* out) -> herr_t {
      static_cast<std::vector<std::string>*>(out)->emplace_back(name);
      return 0;
    };
    if (H5Aiterate_by_name(impl_->file, object.c_str(), H5_INDEX_NAME, H5_ITER_INC, nullptr, visit, &names,
                           H5P_DEFAULT) < 0)
      fail_hdf5(ErrorCode::bad_data, "list attributes of", impl_->path, object);
  });
  std::sort(names.begin(), names.end());
  return names;
}

std::string H5File::read_string_attribute(const std::string& object, const std::string& name) {
  std::string value;
  impl_->collectively([&] {
    TypeId type;
    const AttributeId a = get_attribute(impl_->file, impl_->path, object, name, H5T_STRING, type);
    value.resize(H5Tget_size(type.get()));
    if (H5Aread(a.get(), type.get(), value.data()) < 0)
      fail_hdf5(ErrorCode::bad_data, "read attribute", impl_->path, object + "@" + name);
    value.resize(std::min(value.size(), value.find('\0')));
  });
  return value;
}

std::int64_t H5File::read_int_attribute(const std::string& object, const std::string& name) {
  std::int64_t value = 0;
  impl_->collectively([&] {
    TypeId type;
    const AttributeId a = get_attribute(impl_->file, impl_->path, object, name, H5T_INTEGER, type);
    if (H5Aread(a.get(), H5T_NATIVE_INT64, &value) < 0)
      fail_hdf5(ErrorCode::bad_data, "read attribute", impl_->path, object + "@" + name);
  });
  return value;
}

double H5File::read_double_attribute(const std::string& object, const std::string& name) {
  double value = 0.0;
  impl_->collectively([&] {
    TypeId type;
    const AttributeId a = get_attribute(impl_->file, impl_->path, object, name, H5T_FLOAT, type);
    if (H5Aread(a.get(), H5T_NATIVE_DOUBLE, &value) < 0)
      fail_hdf5(ErrorCode::bad_data, "read attribute", impl_->path, object + "@" + name);
  });
  return value;
}

}  // namespace nmoe::io
