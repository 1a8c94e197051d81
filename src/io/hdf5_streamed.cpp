// Ranges of datasets written and read piece by piece.
#include <algorithm>

#include "hdf5_internal.hpp"

namespace nmoe::io {

namespace {

constexpr std::int64_t piece_bytes = std::int64_t{64} << 20;

std::int64_t count_of(std::span<const FileRange> ranges) {
  std::int64_t n = 0;
  for (const FileRange& range : ranges) n += range.count;
  return n;
}

/// Calls f(first element, count) for the pieces of `total` elements, as often as the rank with most of them.
template <typename F>
void for_each_piece(comm::Communicator* comm, std::int64_t total, std::int64_t piece, F&& f) {
  std::int64_t rounds = (total + piece - 1) / piece;
  if (comm != nullptr) rounds = comm::all_reduce_max(*comm, rounds);
  for (std::int64_t round = 0; round < rounds; ++round) {
    const std::int64_t first = std::min(total, round * piece);
    f(first, std::min(piece, total - first));
  }
}

}  // namespace

std::vector<FileRange> part_of(std::span<const FileRange> ranges, std::int64_t first, std::int64_t count) {
  std::vector<FileRange> part;
  std::int64_t at = 0;
  for (const FileRange& range : ranges) {
    const std::int64_t from = std::max(first, at), to = std::min(first + count, at + range.count);
    if (from < to) part.push_back({range.begin + (from - at), to - from});
    at += range.count;
  }
  return part;
}

void H5File::write_ranges(const std::string& name, ElementType type, std::span<const std::int64_t> shape,
                          std::span<const FileRange> ranges,
                          const std::function<void(std::int64_t, std::span<char>)>& fill) {
  TypeId holder;
  hid_t element = no_id;
  DatasetId dataset;
  impl_->collectively([&] {
    NMOE_CHECK(impl_->writable, internal, "{} is open for reading", impl_->path);
    element = impl_->file_type(type, holder);
    dataset = impl_->create_dataset(name, element, shape);
    const SpaceId space(H5Dget_space(dataset.get()));
    select_ranges(space.get(), ranges, impl_->path, name);  // refused on one rank, refused on all
  });
  std::vector<char> buffer;
  for_each_piece(impl_->comm, count_of(ranges), piece_bytes / size_of(type),
                 [&](std::int64_t first, std::int64_t count) {
                   impl_->collectively([&] {
                     buffer.resize(static_cast<std::size_t>(count * size_of(type)));
                     if (count > 0) fill(first, buffer);
                   });
                   impl_->collectively([&] {
                     impl_->write_piece(dataset, name, element, part_of(ranges, first, count), buffer.data());
                   });
                 });
}

void H5File::make_dataset(const std::string& name, ElementType type, std::span<const std::int64_t> shape) {
  impl_->collectively([&] {
    NMOE_CHECK(impl_->writable, internal, "{} is open for reading", impl_->path);
    TypeId holder;
    impl_->create_dataset(name, impl_->file_type(type, holder), shape);
  });
}

void H5File::write_into(const std::string& name, ElementType type, std::span<const FileRange> ranges,
                        const void* packed) {
  TypeId holder;
  hid_t element = no_id;
  DatasetId dataset;
  impl_->collectively([&] {
    NMOE_CHECK(impl_->writable, internal, "{} is open for reading", impl_->path);
    element = impl_->file_type(type, holder);
    dataset = DatasetId(H5Dopen2(impl_->file, name.c_str(), H5P_DEFAULT));
    if (!dataset) fail_hdf5(ErrorCode::internal, "open", impl_->path, name);
    const SpaceId space(H5Dget_space(dataset.get()));
    select_ranges(space.get(), ranges, impl_->path, name);  // refused on one rank, refused on all
  });
  for_each_piece(impl_->comm, count_of(ranges), piece_bytes / size_of(type),
                 [&](std::int64_t first, std::int64_t count) {
                   impl_->collectively([&] {
                     impl_->write_piece(dataset, name, element, part_of(ranges, first, count),
                                        static_cast<const char*>(packed) + first * size_of(type));
                   });
                 });
}

void H5File::read_ranges(const std::string& name, ElementType type, std::span<const std::int64_t> shape,
                         std::span<const FileRange> ranges,
                         const std::function<void(std::int64_t, std::span<const char>)>& take) {
  std::vector<char> buffer;
  for_each_piece(impl_->comm, count_of(ranges), piece_bytes / size_of(type),
                 [&](std::int64_t first, std::int64_t count) {
                   buffer.resize(static_cast<std::size_t>(count * size_of(type)));
                   read_ranges(name, type, shape, part_of(ranges, first, count), buffer.data());
                   impl_->collectively([&] {
                     if (count > 0) take(first, buffer);
                   });
                 });
}

}  // namespace nmoe::io
