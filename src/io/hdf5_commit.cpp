// How a HDF5 file becomes trusted: complete=1, close, fsync on every rank, read back, compare, rename
// (PLATFORM 2.4).
#include <fmt/core.h>
#include <unistd.h>

#include <algorithm>

#include "hdf5_internal.hpp"
#include "neuronmoe/comm/agree.hpp"
#include "neuronmoe/io/atomic_file.hpp"
#include "neuronmoe/io/crc32c.hpp"

namespace nmoe::io {

namespace {

/// Bytes of the file as the rank that sees most of it does: the same on every rank. Collective.
std::int64_t size_on_all_ranks(comm::Communicator* comm, const std::string& path) {
  std::int64_t size = 0;
  const auto look = [&] { size = file_size_bytes(path); };
  if (comm == nullptr) {
    look();
    return size;
  }
  comm::agree(*comm, look);
  return comm::all_reduce_max(*comm, size);
}

}  // namespace

void H5File::finish() {
  write_attribute("/", "complete", std::int64_t{1});
  close();
  // Each rank syncs its own descriptor: another node's fsync does not flush this one's cache. In pieces that
  // all ranks wait for, so that a slow disk shows progress.
  comm::Communicator* const comm = impl_->comm;
  const auto on_all_ranks = [&](const std::function<void()>& work) {
    if (comm != nullptr)
      comm::agree(*comm, work);
    else
      work();
  };
  constexpr std::int64_t sync_bytes = std::int64_t{64} << 20;
  for (std::int64_t begin = 0, end = size_on_all_ranks(comm, impl_->path); begin < end; begin += sync_bytes)
    on_all_ranks([&] { impl_->sync.start(begin, std::min(sync_bytes, end - begin)); });
  on_all_ranks([&] { impl_->sync.finish(); });
  const auto fail = [&](const Error& e) {  // whatever is wrong with a file just written is a fault of storage
    const bool full = is_full(impl_->path);
    throw Error(full || e.code() == ErrorCode::no_space ? ErrorCode::no_space : ErrorCode::io,
                fmt::format("{} does not read back as it was written{}: {}", impl_->path,
                            full ? " (no space left on device)" : "", e.what()));
  };
  try {
    impl_->compare_with_file();
  } catch (const comm::LoneError&) {
    throw;
  } catch (const Error& e) {  // agreed, so every rank is here
    if (comm != nullptr) comm::agree(*comm, [&] { fail(e); });
    fail(e);
  }
}

void H5File::Impl::compare_with_file() const {
  H5File back = comm != nullptr ? open(path, *comm) : open(path, {}, SealCheck::done);  // not sealed yet
  for (const Written& w : written) {
    back.impl_->collectively([&] {
      std::int64_t count = 0;
      for (const FileRange& r : w.ranges) count += r.count;
      std::vector<char> bytes(static_cast<std::size_t>(count * w.element_bytes));
      const DatasetId dataset = back.impl_->open_guarded(w.name);
      const TypeId type(H5Dget_type(dataset.get()));
      back.impl_->read_raw(w.name, type.get(), w.ranges, bytes.data());
      NMOE_CHECK(crc32c(bytes.data(), bytes.size()) == w.crc, io, "{} differs", w.name);
    });
  }
  back.close();
}

void write_h5_atomically(const std::string& path, Storage storage, const std::function<void(H5File&)>& fill) {
  const std::string tmp = path + ".tmp";
  try {
    H5File file = H5File::create(tmp, storage, seal_bytes);
    fill(file);
    file.finish();
    seal_file(tmp);
    rename_durably(tmp, path);
  } catch (...) {
    ::unlink(tmp.c_str());
    throw;
  }
}

void write_h5_atomically(const std::string& path, comm::Communicator& comm,
                         const std::function<void(H5File&)>& fill) {
  const std::string tmp = path + ".tmp";
  try {
    H5File file = H5File::create(tmp, comm, seal_bytes);
    fill(file);
    file.finish();
    seal_file(comm, tmp);
    comm::agree(comm, [&] {
      if (comm.rank() == 0) rename_durably(tmp, path);
    });
  } catch (...) {
    if (comm.rank() == 0) ::unlink(tmp.c_str());
    throw;
  }
}

namespace {

struct ExtentVisit {
  std::vector<DatasetExtent> extents;
};

herr_t visit_object(hid_t root, const char* name, const H5O_info_t* info, void* out) {
  if (info->type != H5O_TYPE_DATASET) return 0;
  const DatasetId dataset(H5Dopen2(root, name, H5P_DEFAULT));
  if (!dataset) return 0;
  const PropertyId p(H5Dget_create_plist(dataset.get()));
  if (!p || H5Pget_layout(p.get()) != H5D_CONTIGUOUS || H5Pget_external_count(p.get()) != 0) return 0;
  const haddr_t offset = H5Dget_offset(dataset.get());
  const auto num_bytes = static_cast<std::int64_t>(H5Dget_storage_size(dataset.get()));
  if (offset == HADDR_UNDEF || num_bytes == 0) return 0;
  static_cast<ExtentVisit*>(out)->extents.push_back(
      {std::string("/") + name, static_cast<std::int64_t>(offset), num_bytes});
  return 0;
}

}  // namespace

std::vector<DatasetExtent> dataset_extents(const std::string& path) {
  const PropertyId access = make_file_access(nullptr);
  const FileId file(H5Fopen(path.c_str(), H5F_ACC_RDONLY, access.get()));
  if (!file) fail_hdf5(ErrorCode::bad_data, "open HDF5 file", path, "");
  ExtentVisit visit;
  if (H5Ovisit(file.get(), H5_INDEX_NAME, H5_ITER_INC, visit_object, &visit) < 0)
    fail_hdf5(ErrorCode::bad_data, "walk", path, "");
  std::sort(visit.extents.begin(), visit.extents.end(),
            [](const auto& a, const auto& b) { return a.offset_bytes < b.offset_bytes; });
  return std::move(visit.extents);
}

}  // namespace nmoe::io
