// Chunked datasets, decoded here: the HDF5 library (1.10) writes past its buffers where the size of a chunk
// in the file is not what the dataset says, so it only hands over the stored bytes, whose number is checked
// before.
#include <zlib.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <numeric>

#include "hdf5_internal.hpp"

namespace nmoe::io {
namespace {

struct Filter {
  H5Z_filter_t id;
  std::size_t element_bytes;  // of shuffle
};

std::uint32_t folded(std::uint32_t sum) {
  return (sum & 0xFFFFU) + (sum >> 16U);
}

/// HDF5's variant of Fletcher's checksum: big-endian words of 16 bits.
std::uint32_t fletcher32(std::span<const char> bytes) {
  constexpr std::size_t words_before_overflow = 360;
  const auto* p = reinterpret_cast<const unsigned char*>(bytes.data());
  std::uint32_t low = 0, high = 0;
  for (std::size_t left = bytes.size() / 2; left > 0;) {
    const std::size_t count = std::min(left, words_before_overflow);
    for (std::size_t i = 0; i < count; ++i, p += 2) high += low += std::uint32_t{p[0]} << 8U | p[1];
    low = folded(low), high = folded(high);
    left -= count;
  }
  if (bytes.size() % 2 == 1) {
    high += low += std::uint32_t{*p} << 8U;
    low = folded(low), high = folded(high);
  }
  return folded(high) << 16U | folded(low);
}

std::vector<char> unshuffled(const std::vector<char>& bytes, std::size_t element_bytes) {
  if (element_bytes <= 1 || bytes.size() < element_bytes) return bytes;
  std::vector<char> out(bytes.size());
  const std::size_t count = bytes.size() / element_bytes;
  for (std::size_t b = 0; b < element_bytes; ++b)
    for (std::size_t i = 0; i < count; ++i) out[i * element_bytes + b] = bytes[b * count + i];
  std::copy(bytes.begin() + static_cast<std::ptrdiff_t>(count * element_bytes), bytes.end(),
            out.begin() + static_cast<std::ptrdiff_t>(count * element_bytes));
  return out;
}

/// What `bytes` inflate to; nothing if that is damaged or more than `most` bytes.
std::optional<std::vector<char>> inflated(std::vector<char>& bytes, std::size_t most) {
  std::vector<char> out(most);
  z_stream stream{};
  if (inflateInit(&stream) != Z_OK) return std::nullopt;
  stream.next_in = reinterpret_cast<Bytef*>(bytes.data());
  stream.avail_in = static_cast<uInt>(bytes.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  const int result = inflate(&stream, Z_FINISH);
  const std::size_t found = out.size() - stream.avail_out;
  inflateEnd(&stream);
  if (result != Z_STREAM_END) return std::nullopt;
  out.resize(found);
  return out;
}

/// Chunks of one dataset: where each lies among the elements, and its bytes after all filters.
class ChunkReader {
 public:
  ChunkReader(const DatasetId& dataset, const std::string& path, const std::string& name)
      : dataset_(dataset), path_(path), name_(name), shape_(shape_of(dataset.get(), path, name)) {
    const PropertyId p(H5Dget_create_plist(dataset.get()));
    const TypeId type(H5Dget_type(dataset.get()));
    element_bytes_ = H5Tget_size(type.get());
    std::array<hsize_t, H5S_MAX_RANK> chunk{};
    const int rank = p ? H5Pget_chunk(p.get(), H5S_MAX_RANK, chunk.data()) : -1;
    NMOE_CHECK(rank >= 1 && static_cast<std::size_t>(rank) == shape_.size(), bad_data,
               "{}:{} has chunks of {} axes and a shape of {}", path, name, rank, shape_.size());
    chunk_.assign(chunk.begin(), chunk.begin() + rank);
    chunk_bytes_ = element_bytes_;  // open_guarded looked at the product
    for (const std::int64_t extent : chunk_) chunk_bytes_ *= static_cast<std::size_t>(extent);
    NMOE_CHECK(chunk_bytes_ > 0, bad_data, "{}:{} has empty chunks", path, name);
    list_filters(p);
    fill_.resize(element_bytes_);
    H5D_fill_value_t defined = H5D_FILL_VALUE_UNDEFINED;
    if (H5Pfill_value_defined(p.get(), &defined) >= 0 && defined == H5D_FILL_VALUE_USER_DEFINED &&
        H5Pget_fill_value(p.get(), type.get(), fill_.data()) < 0)
      fail_hdf5(ErrorCode::bad_data, "read the fill value of", path, name);
  }

  /// Calls f(grid position) for all chunks that may hold elements [begin, end).
  template <typename F>
  void for_each_chunk(std::int64_t begin, std::int64_t end, F&& f) const {
    if (begin >= end) return;
    std::int64_t inner = 1;
    for (std::size_t a = 1; a < shape_.size(); ++a) inner *= shape_[a];
    std::vector<std::int64_t> first(shape_.size(), 0), last;
    for (std::size_t a = 0; a < shape_.size(); ++a) last.push_back((shape_[a] - 1) / chunk_[a]);
    first[0] = begin / inner / chunk_[0];
    last[0] = (end - 1) / inner / chunk_[0];
    for (std::vector<std::int64_t> at = first;;) {
      f(at);
      std::size_t axis = at.size();
      while (axis > 0 && at[axis - 1] == last[axis - 1]) --axis;
      if (axis == 0) return;
      ++at[axis - 1];
      std::copy(first.begin() + static_cast<std::ptrdiff_t>(axis), first.end(),
                at.begin() + static_cast<std::ptrdiff_t>(axis));
    }
  }

  /// Calls f(first element of the dataset, first element of the chunk, count) for what lies without a gap in
  /// both.
  template <typename F>
  void for_each_run(const std::vector<std::int64_t>& grid, F&& f) const {
    std::size_t axis = shape_.size() - 1;
    while (axis > 0 && chunk_[axis] == shape_[axis]) --axis;  // whole rows go together
    std::int64_t inner = 1;
    for (std::size_t a = axis + 1; a < shape_.size(); ++a) inner *= shape_[a];
    const auto inside = [&](std::size_t a) { return std::min(chunk_[a], shape_[a] - grid[a] * chunk_[a]); };
    std::vector<std::int64_t> at(axis, 0);  // position in the chunk on the axes before the run
    for (;;) {
      std::int64_t in_dataset = 0, in_chunk = 0;
      for (std::size_t a = 0; a <= axis; ++a) {
        const std::int64_t here = a < axis ? at[a] : 0;
        in_dataset = in_dataset * shape_[a] + grid[a] * chunk_[a] + here;
        in_chunk = in_chunk * chunk_[a] + here;
      }
      f(in_dataset * inner, in_chunk * inner, inside(axis) * inner);
      std::size_t a = axis;
      while (a > 0 && at[a - 1] + 1 == inside(a - 1)) at[--a] = 0;
      if (a == 0) return;
      ++at[a - 1];
    }
  }

  /// Bytes that the file has of a chunk, 0 if none was written. @throws Error(bad_data) for impossible ones
  std::size_t stored_bytes(const std::vector<std::int64_t>& grid) const {
    hsize_t stored = 0;
    unsigned skipped = 0;
    haddr_t address = HADDR_UNDEF;
    if (H5Dget_chunk_info_by_coord(dataset_.get(), offset_of(grid).data(), &skipped, &address, &stored) < 0)
      fail_hdf5(ErrorCode::bad_data, "find a chunk of", path_, name_);
    if (address == HADDR_UNDEF) return 0;
    NMOE_CHECK(stored <= most_bytes() + most_bytes() / 256 + 1024, bad_data,
               "{}:{}: a chunk takes {} bytes in the file, {} when read", path_, name_, stored, chunk_bytes_);
    return static_cast<std::size_t>(stored);
  }

  /// A chunk after all filters, chunk_bytes() long.
  std::vector<char> decoded(const std::vector<std::int64_t>& grid) const {
    std::vector<char> bytes(stored_bytes(grid));
    if (bytes.empty()) {
      bytes.resize(chunk_bytes_);
      for (std::size_t at = 0; at < bytes.size(); at += element_bytes_)
        std::copy(fill_.begin(), fill_.end(), bytes.begin() + static_cast<std::ptrdiff_t>(at));
      return bytes;
    }
    std::uint32_t skipped = 0;
    if (H5Dread_chunk(dataset_.get(), H5P_DEFAULT, offset_of(grid).data(), &skipped, bytes.data()) < 0)
      fail_hdf5(ErrorCode::bad_data, "read a chunk of", path_, name_);
    for (std::size_t i = filters_.size(); i-- > 0;)
      if ((skipped >> i & 1U) == 0) undo(filters_[i], bytes);
    NMOE_CHECK(bytes.size() == chunk_bytes_, bad_data, "{}:{}: a chunk has {} bytes instead of {}", path_,
               name_, bytes.size(), chunk_bytes_);
    return bytes;
  }

  std::int64_t num_elements() const { return product(shape_); }
  std::size_t element_bytes() const { return element_bytes_; }

 private:
  void list_filters(const PropertyId& p) {
    for (int i = 0; i < H5Pget_nfilters(p.get()); ++i) {
      unsigned flags = 0, config = 0;
      std::array<unsigned, 8> values{};
      std::size_t num_values = values.size();
      const H5Z_filter_t id = H5Pget_filter2(p.get(), static_cast<unsigned>(i), &flags, &num_values,
                                             values.data(), 0, nullptr, &config);
      filters_.push_back({id, num_values > 0 ? values[0] : element_bytes_});
    }
  }

  /// No filter makes more of a chunk than this.
  std::size_t most_bytes() const { return chunk_bytes_ + 4 * filters_.size(); }

  std::vector<hsize_t> offset_of(const std::vector<std::int64_t>& grid) const {
    std::vector<hsize_t> offset;
    for (std::size_t a = 0; a < grid.size(); ++a) offset.push_back(static_cast<hsize_t>(grid[a] * chunk_[a]));
    return offset;
  }

  void undo(const Filter& filter, std::vector<char>& bytes) const {
    if (filter.id == H5Z_FILTER_SHUFFLE) {
      bytes = unshuffled(bytes, filter.element_bytes);
    } else if (filter.id == H5Z_FILTER_DEFLATE) {
      auto plain = inflated(bytes, most_bytes());
      NMOE_CHECK(plain, bad_data, "{}:{}: a compressed chunk is damaged or larger than {} bytes", path_,
                 name_, most_bytes());
      bytes = std::move(*plain);
    } else {  // fletcher32: open_guarded lets no other filter pass
      std::array<unsigned char, 4> stored{};
      NMOE_CHECK(bytes.size() > stored.size(), bad_data, "{}:{}: a chunk has {} bytes", path_, name_,
                 bytes.size());
      std::memcpy(stored.data(), bytes.data() + bytes.size() - stored.size(), stored.size());
      bytes.resize(bytes.size() - stored.size());
      const std::uint32_t expected = stored[0] | std::uint32_t{stored[1]} << 8U |
                                     std::uint32_t{stored[2]} << 16U | std::uint32_t{stored[3]} << 24U;
      NMOE_CHECK(fletcher32(bytes) == expected, bad_data, "{}:{}: a chunk does not match its checksum", path_,
                 name_);
    }
  }

  const DatasetId& dataset_;
  const std::string &path_, &name_;
  std::vector<std::int64_t> shape_, chunk_;
  std::size_t element_bytes_ = 0, chunk_bytes_ = 0;
  std::vector<Filter> filters_;
  std::vector<char> fill_;
};

/// Ranges of elements, to which the elements of a chunk are dealt.
class Destination {
 public:
  Destination(std::span<const FileRange> ranges, std::size_t element_bytes, char* packed)
      : ranges_(ranges), element_bytes_(static_cast<std::int64_t>(element_bytes)), packed_(packed) {
    for (const FileRange& range : ranges) {
      first_.push_back(total_);
      total_ += range.count;
    }
  }

  /// Calls f(range, from, to) for the parts of elements [begin, end) that are wanted.
  template <typename F>
  void for_each_part(std::int64_t begin, std::int64_t end, F&& f) const {
    auto range = std::partition_point(ranges_.begin(), ranges_.end(),
                                      [&](const FileRange& r) { return r.begin + r.count <= begin; });
    for (; range != ranges_.end() && range->begin < end; ++range)
      f(static_cast<std::size_t>(range - ranges_.begin()), std::max(begin, range->begin),
        std::min(end, range->begin + range->count));
  }

  bool wants(std::int64_t begin, std::int64_t end) const {
    bool any = false;
    for_each_part(begin, end, [&](std::size_t, std::int64_t from, std::int64_t to) { any |= from < to; });
    return any;
  }

  /// Takes elements [begin, begin + count), which lie at `bytes`.
  void take(std::int64_t begin, std::int64_t count, const char* bytes) const {
    for_each_part(begin, begin + count, [&](std::size_t i, std::int64_t from, std::int64_t to) {
      if (from >= to) return;
      std::memcpy(packed_ + (first_[i] + from - ranges_[i].begin) * element_bytes_,
                  bytes + (from - begin) * element_bytes_,
                  static_cast<std::size_t>((to - from) * element_bytes_));
    });
  }

 private:
  std::span<const FileRange> ranges_;
  std::vector<std::int64_t> first_;  // place of each range among what is packed
  std::int64_t total_ = 0, element_bytes_;
  char* packed_;
};

}  // namespace

void H5File::Impl::read_chunked(const DatasetId& dataset, const std::string& name,
                                std::span<const FileRange> ranges, void* packed) const {
  NMOE_CHECK(comm == nullptr, bad_data, "{}:{} is chunked; files read by all ranks together never are", path,
             name);
  if (ranges.empty()) return;
  const ChunkReader reader(dataset, path, name);
  const Destination destination(ranges, reader.element_bytes(), static_cast<char*>(packed));
  reader.for_each_chunk(ranges.front().begin, ranges.back().begin + ranges.back().count, [&](const auto& at) {
    bool wanted = false;
    reader.for_each_run(at, [&](std::int64_t begin, std::int64_t, std::int64_t count) {
      wanted = wanted || destination.wants(begin, begin + count);
    });
    if (!wanted) return;
    const std::vector<char> bytes = reader.decoded(at);
    reader.for_each_run(at, [&](std::int64_t begin, std::int64_t in_chunk, std::int64_t count) {
      destination.take(begin, count,
                       bytes.data() + in_chunk * static_cast<std::int64_t>(reader.element_bytes()));
    });
  });
}

void H5File::check_storage(const std::string& name) {
  impl_->collectively([&] {
    const DatasetId dataset = impl_->open_guarded(name);
    const PropertyId p(H5Dget_create_plist(dataset.get()));
    if (H5Pget_layout(p.get()) != H5D_CHUNKED) return;
    const ChunkReader reader(dataset, impl_->path, name);
    reader.for_each_chunk(0, reader.num_elements(), [&](const auto& at) { reader.stored_bytes(at); });
  });
}

}  // namespace nmoe::io
