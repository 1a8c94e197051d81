// Reading and writing the numbers of datasets, with the guards that stand before every allocation.
#include <algorithm>
#include <limits>

#include "hdf5_internal.hpp"
#include "neuronmoe/io/crc32c.hpp"

namespace nmoe::io {
namespace {

constexpr std::int64_t chunk_bytes = std::int64_t{1} << 20;
constexpr std::int64_t max_chunk_bytes = std::int64_t{64} << 20;
// A file that inflates to more than this times its size and this many bytes is an attack (deflate can do
// 1032) or nothing but fill values.
constexpr std::int64_t max_deflate_ratio = 100;
constexpr std::int64_t max_inflated_bytes = std::int64_t{64} << 20;

/// Whole trailing axes in one chunk as far as they fit.
std::vector<hsize_t> chunk_of(std::span<const std::int64_t> shape, std::int64_t element_bytes) {
  std::vector<hsize_t> chunk(shape.size(), 1);
  std::int64_t budget = std::max<std::int64_t>(1, chunk_bytes / element_bytes);
  for (std::size_t axis = shape.size(); axis-- > 0;) {
    const std::int64_t extent = std::clamp<std::int64_t>(shape[axis], 1, budget);
    chunk[axis] = static_cast<hsize_t>(extent);
    budget = std::max<std::int64_t>(1, budget / extent);
  }
  return chunk;
}

PropertyId creation_of(Storage storage, std::span<const std::int64_t> shape, std::int64_t element_bytes) {
  PropertyId p = make_properties(H5P_DATASET_CREATE);
  bool ok =
      H5Pset_obj_track_times(p.get(), false) >= 0 && H5Pset_fill_time(p.get(), H5D_FILL_TIME_NEVER) >= 0;
  if (storage == Storage::compressed && !shape.empty() && product(shape) > 0) {
    const std::vector<hsize_t> chunk = chunk_of(shape, element_bytes);
    ok = ok && H5Pset_chunk(p.get(), static_cast<int>(chunk.size()), chunk.data()) >= 0 &&
         H5Pset_shuffle(p.get()) >= 0 && H5Pset_deflate(p.get(), 4) >= 0 && H5Pset_fletcher32(p.get()) >= 0;
  } else {
    ok = ok && H5Pset_alloc_time(p.get(), H5D_ALLOC_TIME_EARLY) >= 0;
  }
  NMOE_CHECK(ok, internal, "HDF5 refuses the dataset settings");
  return p;
}

PropertyId transfer_of(const comm::Communicator* comm) {
  PropertyId p = make_properties(H5P_DATASET_XFER);
  if (comm != nullptr && comm->native() != nullptr) H5Pset_dxpl_mpio(p.get(), H5FD_MPIO_COLLECTIVE);
  return p;
}

SpaceId make_space(std::span<const std::int64_t> shape) {
  if (shape.empty()) return SpaceId(H5Screate(H5S_SCALAR));
  std::vector<hsize_t> extents;
  for (const std::int64_t extent : shape) {
    NMOE_CHECK(extent >= 0, internal, "a dataset of shape {} cannot be made", to_string(shape));
    extents.push_back(static_cast<hsize_t>(extent));
  }
  return SpaceId(H5Screate_simple(static_cast<int>(extents.size()), extents.data(), nullptr));
}

/// A one-dimensional memory space as large as the selection of `file_space`.
SpaceId memory_of(const SpaceId& file_space) {
  const auto n = static_cast<hsize_t>(std::max<hssize_t>(0, H5Sget_select_npoints(file_space.get())));
  SpaceId memory(H5Screate_simple(1, &n, nullptr));
  if (n == 0) H5Sselect_none(memory.get());
  return memory;
}

std::int64_t count_of(std::span<const FileRange> ranges) {
  std::int64_t n = 0;
  for (const FileRange& r : ranges) n += r.count;
  return n;
}

std::vector<FileRange> whole(std::span<const std::int64_t> shape) {
  return {FileRange{0, product(shape)}};
}

/// Only deflate, shuffle and fletcher32; no external files, no virtual layout; chunks of reasonable size.
void guard_storage(const DatasetId& dataset, std::int64_t element_bytes, std::int64_t num_elements,
                   std::int64_t file_bytes, const std::string& path, const std::string& name) {
  const PropertyId p(H5Dget_create_plist(dataset.get()));
  NMOE_CHECK(p && H5Pget_external_count(p.get()) == 0, bad_data,
             "{}:{} keeps its data in another file; refused", path, name);
  const H5D_layout_t layout = H5Pget_layout(p.get());
  NMOE_CHECK(layout == H5D_CONTIGUOUS || layout == H5D_CHUNKED || layout == H5D_COMPACT, bad_data,
             "{}:{} has a virtual layout; refused", path, name);
  const int num_filters = H5Pget_nfilters(p.get());
  for (int i = 0; i < num_filters; ++i) {
    unsigned flags = 0, config = 0;
    std::size_t num_values = 0;
    const H5Z_filter_t filter =
        H5Pget_filter2(p.get(), static_cast<unsigned>(i), &flags, &num_values, nullptr, 0, nullptr, &config);
    NMOE_CHECK(
        filter == H5Z_FILTER_DEFLATE || filter == H5Z_FILTER_SHUFFLE || filter == H5Z_FILTER_FLETCHER32,
        bad_data, "{}:{} uses filter {}; only gzip, shuffle and fletcher32 are read", path, name,
        static_cast<int>(filter));
  }
  std::int64_t limit = file_bytes / element_bytes;
  if (layout == H5D_CHUNKED) {
    std::array<hsize_t, H5S_MAX_RANK> chunk{};
    const int rank = H5Pget_chunk(p.get(), H5S_MAX_RANK, chunk.data());
    double bytes = static_cast<double>(element_bytes);
    for (int axis = 0; axis < rank; ++axis)
      bytes *= static_cast<double>(chunk[static_cast<std::size_t>(axis)]);
    NMOE_CHECK(bytes <= static_cast<double>(max_chunk_bytes), bad_data,
               "{}:{} has chunks of {} bytes; at most {} are read", path, name, bytes, max_chunk_bytes);
    limit = std::max(limit * max_deflate_ratio, max_inflated_bytes / element_bytes);
  }
  NMOE_CHECK(
      num_elements <= limit, bad_data,
      "{}:{} declares {} elements of {} bytes, more than a file of {} bytes can hold (or a compressed one "
      "may: {} times its size)",
      path, name, num_elements, element_bytes, file_bytes, max_deflate_ratio);
}

}  // namespace

std::vector<std::int64_t> shape_of(hid_t dataset, const std::string& path, const std::string& name) {
  const SpaceId space(H5Dget_space(dataset));
  const int rank = space ? H5Sget_simple_extent_ndims(space.get()) : -1;
  NMOE_CHECK(rank >= 0 && H5Sget_simple_extent_type(space.get()) != H5S_NULL, bad_data, "{}:{} has no shape",
             path, name);
  std::vector<hsize_t> extents(static_cast<std::size_t>(rank));
  H5Sget_simple_extent_dims(space.get(), extents.data(), nullptr);
  std::vector<std::int64_t> shape;
  double total = 1.0;
  for (const hsize_t extent : extents) {
    total *= static_cast<double>(extent);
    shape.push_back(static_cast<std::int64_t>(extent));
    NMOE_CHECK(extent <= hsize_t{1} << 62, bad_data, "{}:{} has an extent of {}", path, name, extent);
  }
  double nonzero = 1.0;  // [2^40, 2^40, 0] must not overflow later either
  for (const hsize_t extent : extents) nonzero *= static_cast<double>(std::max<hsize_t>(1, extent));
  NMOE_CHECK(nonzero < 0x1p62, bad_data, "{}:{} declares {} elements", path, name, total);
  return shape;
}

hid_t H5File::Impl::file_type(ElementType type, TypeId& holder) {
  if (type != ElementType::bfloat16) {
    holder = make_type(type);
    return holder.get();
  }
  if (!bfloat16) {
    const PropertyId creation = make_properties(H5P_DATATYPE_CREATE);
    H5Pset_obj_track_times(creation.get(), false);
    make_groups("/types/bfloat16");
    TypeId committed = make_type(type);
    if (H5Tcommit2(file, "/types/bfloat16", committed.get(), H5P_DEFAULT, creation.get(), H5P_DEFAULT) < 0)
      fail_hdf5(ErrorCode::io, "write", path, "/types/bfloat16");
    bfloat16 = std::move(committed);
  }
  return bfloat16.get();
}

DatasetId H5File::Impl::create_dataset(const std::string& name, hid_t type,
                                       std::span<const std::int64_t> shape) const {
  make_groups(name);
  const PropertyId creation = creation_of(storage, shape, static_cast<std::int64_t>(H5Tget_size(type)));
  const SpaceId space = make_space(shape);
  DatasetId dataset(
      H5Dcreate2(file, name.c_str(), type, space.get(), H5P_DEFAULT, creation.get(), H5P_DEFAULT));
  if (!dataset) fail_hdf5(ErrorCode::io, "create", path, name);
  return dataset;
}

void H5File::Impl::write_piece(const DatasetId& dataset, const std::string& name, hid_t type,
                               std::span<const FileRange> ranges, const void* packed) {
  const SpaceId space(H5Dget_space(dataset.get()));
  select_ranges(space.get(), ranges, path, name);
  const SpaceId memory = memory_of(space);
  const PropertyId transfer = transfer_of(comm);
  // A dataset without elements has no storage; a collective H5Dwrite to it fails in HDF5 1.10. All ranks skip
  // it alike.
  const bool has_elements = H5Sget_simple_extent_npoints(space.get()) > 0;
  if (has_elements && H5Dwrite(dataset.get(), type, memory.get(), space.get(), transfer.get(), packed) < 0)
    fail_hdf5(ErrorCode::io, "write", path, name);
  const auto element_bytes = static_cast<std::int64_t>(H5Tget_size(type));
  const auto num_bytes = static_cast<std::size_t>(count_of(ranges) * element_bytes);
  written.push_back({name, {ranges.begin(), ranges.end()}, element_bytes, crc32c(packed, num_bytes)});
}

void H5File::Impl::write_raw(const std::string& name, hid_t type, std::span<const std::int64_t> shape,
                             std::span<const FileRange> ranges, const void* packed) {
  const DatasetId dataset = create_dataset(name, type, shape);
  write_piece(dataset, name, type, ranges, packed);
}

void H5File::Impl::read_raw(const std::string& name, hid_t expected_type, std::span<const FileRange> ranges,
                            void* packed) const {
  const DatasetId dataset = open_guarded(name);
  const SpaceId space(H5Dget_space(dataset.get()));
  select_ranges(space.get(), ranges, path, name);
  const SpaceId memory = memory_of(space);
  const PropertyId transfer = transfer_of(comm);
  if (H5Sget_simple_extent_npoints(space.get()) == 0) return;  // no storage to read: see write_raw
  const PropertyId creation(H5Dget_create_plist(dataset.get()));
  if (H5Pget_layout(creation.get()) == H5D_CHUNKED) return read_chunked(dataset, name, ranges, packed);
  if (H5Dread(dataset.get(), expected_type, memory.get(), space.get(), transfer.get(), packed) < 0)
    fail_hdf5(ErrorCode::bad_data, "read", path, name);
}

DatasetId H5File::Impl::open_guarded(const std::string& name) const {
  NMOE_CHECK(reachable(name), bad_data, "{} has no dataset {}", path, name);
  DatasetId dataset(H5Dopen2(file, name.c_str(), H5P_DEFAULT));
  if (!dataset) fail_hdf5(ErrorCode::bad_data, "open", path, name);
  const TypeId type(H5Dget_type(dataset.get()));
  NMOE_CHECK(type && H5Tdetect_class(type.get(), H5T_VLEN) <= 0 && H5Tis_variable_str(type.get()) <= 0,
             bad_data, "{}:{} has elements of variable length; not supported", path, name);
  const auto element_bytes = static_cast<std::int64_t>(H5Tget_size(type.get()));
  const std::vector<std::int64_t> shape = shape_of(dataset.get(), path, name);
  guard_storage(dataset, std::max<std::int64_t>(1, element_bytes), product(shape), file_bytes, path, name);
  return dataset;
}

void H5File::check_count(const std::string& name, std::span<const std::int64_t> shape,
                         std::int64_t count) const {
  NMOE_CHECK(product(shape) == count, internal, "{}:{}: {} values given for shape {}", impl_->path, name,
             count, to_string(shape));
}

void H5File::write(const std::string& name, ElementType type, std::span<const std::int64_t> shape,
                   const void* data) {
  const bool mine = impl_->comm == nullptr || impl_->comm->rank() == 0;
  const std::vector<FileRange> ranges = mine ? whole(shape) : std::vector<FileRange>();
  write_ranges(name, type, shape, ranges, data);
}

void H5File::write_ranges(const std::string& name, ElementType type, std::span<const std::int64_t> shape,
                          std::span<const FileRange> ranges, const void* packed) {
  impl_->collectively([&] {  // before the collective call, so that a bad range on one rank hangs nobody
    NMOE_CHECK(impl_->writable, internal, "{} is open for reading", impl_->path);
    const SpaceId space = make_space(shape);
    select_ranges(space.get(), ranges, impl_->path, name);
  });
  impl_->collectively([&] {
    TypeId holder;
    impl_->write_raw(name, impl_->file_type(type, holder), shape, ranges, packed);
  });
}

void H5File::write_streamed(const std::string& name, ElementType type, std::span<const std::int64_t> shape,
                            const std::function<void(std::int64_t, std::span<char>)>& fill) {
  constexpr std::int64_t piece_bytes = std::int64_t{16} << 20;
  const std::int64_t total = product(shape), piece = piece_bytes / size_of(type);
  const std::int64_t num_ranks = impl_->comm == nullptr ? 1 : impl_->comm->size();
  const std::int64_t rank = impl_->comm == nullptr ? 0 : impl_->comm->rank();
  const std::int64_t share =
      (total + num_ranks - 1) / num_ranks;  // the same on every rank, and so the rounds
  const std::int64_t end = std::min(total, (rank + 1) * share);
  TypeId holder;
  hid_t element = no_id;
  DatasetId dataset;
  impl_->collectively([&] {
    NMOE_CHECK(impl_->writable, internal, "{} is open for reading", impl_->path);
    element = impl_->file_type(type, holder);
    dataset = impl_->create_dataset(name, element, shape);
  });
  std::vector<char> buffer;
  for (std::int64_t done = 0; done < share; done += piece) {
    const std::int64_t begin = std::min(total, rank * share + done);
    const FileRange range{begin, std::max<std::int64_t>(0, std::min({piece, share - done, end - begin}))};
    impl_->collectively([&] {  // before the collective call, so that a source that fails hangs nobody
      buffer.resize(static_cast<std::size_t>(range.count * size_of(type)));
      if (range.count > 0) fill(range.begin, buffer);
    });
    impl_->collectively([&] { impl_->write_piece(dataset, name, element, {&range, 1}, buffer.data()); });
  }
}

DatasetInfo H5File::info(const std::string& name) {
  DatasetInfo info{};
  impl_->collectively([&] {
    const DatasetId dataset = impl_->open_guarded(name);
    const TypeId type(H5Dget_type(dataset.get()));
    info.shape = shape_of(dataset.get(), impl_->path, name);
    const H5T_class_t kind = H5Tget_class(type.get());
    info.kind = kind == H5T_STRING     ? DatasetInfo::Kind::text
                : kind == H5T_COMPOUND ? DatasetInfo::Kind::records
                                       : DatasetInfo::Kind::numbers;
    NMOE_CHECK(info.kind != DatasetInfo::Kind::numbers || find_element_type(type.get(), info.type), bad_data,
               "{}:{} has an element type that is not supported", impl_->path, name);
  });
  return info;
}

std::int64_t H5File::expect(const std::string& name, ElementType type, std::span<const std::int64_t> shape) {
  const DatasetInfo found = info(name);
  NMOE_CHECK(found.kind == DatasetInfo::Kind::numbers && found.type == type, bad_data,
             "{}:{} holds {} but {} is needed", impl_->path, name,
             found.kind == DatasetInfo::Kind::numbers ? name_of(found.type) : "no plain numbers",
             name_of(type));
  bool same = shape.empty() || shape.size() == found.shape.size();
  for (std::size_t axis = 0; same && axis < shape.size(); ++axis)
    same = shape[axis] == -1 || shape[axis] == found.shape[axis];
  NMOE_CHECK(same, bad_data, "{}:{} has shape {} but {} is needed", impl_->path, name, to_string(found.shape),
             to_string(shape));
  return product(found.shape);
}

void H5File::read_all(const std::string& name, ElementType type, void* data) {
  impl_->collectively([&] {
    const DatasetId dataset = impl_->open_guarded(name);
    const std::vector<FileRange> all = whole(shape_of(dataset.get(), impl_->path, name));
    impl_->read_raw(name, make_type(type).get(), all, data);
  });
}

void H5File::read_ranges(const std::string& name, ElementType type, std::span<const std::int64_t> shape,
                         std::span<const FileRange> ranges, void* packed) {
  const std::int64_t count = expect(name, type, shape);
  impl_->collectively([&] {
    NMOE_CHECK(shape.size() == 0 || product(shape) == count, internal, "{}:{}: shape {} is not definite",
               impl_->path, name, to_string(shape));
    const SpaceId space = make_space(shape);
    select_ranges(space.get(), ranges, impl_->path, name);
  });
  impl_->collectively([&] { impl_->read_raw(name, make_type(type).get(), ranges, packed); });
}

}  // namespace nmoe::io
