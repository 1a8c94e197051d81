// What H5File is made of: types, property lists, selections, and HDF5's errors in words.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <initializer_list>
#include <string_view>

#include "hdf5_internal.hpp"
#include "mpi_io_watch.hpp"
#include "neuronmoe/io/atomic_file.hpp"

namespace nmoe::io {
namespace {

constexpr std::array<ElementType, 10> all_types = {
    ElementType::float64, ElementType::float32, ElementType::bfloat16, ElementType::int32,
    ElementType::int64,   ElementType::uint8,   ElementType::uint16,   ElementType::uint32,
    ElementType::uint64,  ElementType::float16};

herr_t collect(unsigned, const H5E_error2_t* error, void* text) {
  auto& reasons = *static_cast<std::string*>(text);
  if (error->desc != nullptr && *error->desc != '\0') {
    if (!reasons.empty()) reasons += " <- ";
    reasons += error->desc;
  }
  return 0;
}

}  // namespace

std::int64_t size_of(ElementType type) {
  constexpr std::array<std::int64_t, 10> sizes = {8, 4, 2, 4, 8, 1, 2, 4, 8, 2};
  return sizes[static_cast<std::size_t>(type)];
}

ElementType element_type_of(DType dtype) {
  return static_cast<ElementType>(dtype);
}

void initialize_hdf5() {
  static const bool done = [] {
    H5dont_atexit();  // a file leaked on the error path must not be closed after MPI_Finalize
    H5open();
    H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
    H5PLset_loading_state(0);
    H5Lunregister(H5L_TYPE_EXTERNAL);
    return true;
  }();
  (void)done;
}

namespace {

// Before main, that is before MPI_Init: an HDF5 that finds MPI running when it starts makes MPI_Finalize
// flush all files that are still open, and a file leaked on a full disk then crashes inside ROMIO.
const bool initialized_before_mpi = (initialize_hdf5(), true);

}  // namespace

namespace {

/// The system's own words out of HDF5's description "..., errno = 28, error message = '...', buf = ...", or
/// out of MPI's "MPI_ERR_QUOTA: quota exceeded"; all of HDF5's words if there are none.
std::string system_reason(const std::string& reasons) {
  constexpr std::string_view before = "error message = '";
  if (const auto begin = reasons.find(before); begin != std::string::npos) {
    const auto text = begin + before.size();
    return reasons.substr(text, reasons.find('\'', text) - text);
  }
  if (const auto begin = reasons.find("MPI_ERR_"); begin != std::string::npos)
    return reasons.substr(begin, reasons.find(" <- ", begin) - begin);
  return reasons.empty() ? "HDF5 gives no reason" : reasons;
}

bool holds_one_of(const std::string& text, std::initializer_list<const char*> words) {
  return std::any_of(words.begin(), words.end(),
                     [&](const char* word) { return text.find(word) != std::string::npos; });
}

}  // namespace

void fail_hdf5(ErrorCode code, const char* doing, const std::string& path, const std::string& name) {
  std::string reasons;
  H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, collect, &reasons);
  H5Eclear2(H5E_DEFAULT);
  const int number = mpi_io_errno();
  if (number != 0) reasons = fmt::format("error message = '{}'", std::strerror(number));
  const bool quota = holds_one_of(reasons, {"Disk quota exceeded", "MPI_ERR_QUOTA", "quota exceeded"});
  const bool full = !quota && (holds_one_of(reasons, {"No space left", "NO_SPACE"}) ||
                               (code == ErrorCode::io && is_full(path)));
  const std::string reason = quota ? "disk quota exceeded; free some of your quota or choose another --output"
                             : full ? "no space left on device; free space or choose another --output"
                                    : system_reason(reasons);
  throw Error(quota || full ? ErrorCode::no_space : code,
              fmt::format("cannot {} {}{}{}: {}", doing, path, name.empty() ? "" : ":", name, reason));
}

namespace {

/// 16 bits: sign, `exponent` bits, the rest mantissa; made by narrowing a float32.
TypeId make_narrow_float(std::size_t exponent) {
  const std::size_t mantissa = 15 - exponent;
  TypeId t(H5Tcopy(H5T_IEEE_F32LE));
  const bool ok = H5Tset_fields(t.get(), 15, mantissa, exponent, 0, mantissa) >= 0 &&
                  H5Tset_precision(t.get(), 16) >= 0 && H5Tset_size(t.get(), 2) >= 0 &&
                  H5Tset_ebias(t.get(), (std::size_t{1} << (exponent - 1)) - 1) >= 0;
  NMOE_CHECK(ok, internal, "HDF5 cannot make a float of 16 bits");
  return t;
}

}  // namespace

TypeId make_type(ElementType type) {
  switch (type) {
    case ElementType::float64:
      return TypeId(H5Tcopy(H5T_IEEE_F64LE));
    case ElementType::float32:
      return TypeId(H5Tcopy(H5T_IEEE_F32LE));
    case ElementType::int32:
      return TypeId(H5Tcopy(H5T_STD_I32LE));
    case ElementType::int64:
      return TypeId(H5Tcopy(H5T_STD_I64LE));
    case ElementType::uint8:
      return TypeId(H5Tcopy(H5T_STD_U8LE));
    case ElementType::uint16:
      return TypeId(H5Tcopy(H5T_STD_U16LE));
    case ElementType::uint32:
      return TypeId(H5Tcopy(H5T_STD_U32LE));
    case ElementType::uint64:
      return TypeId(H5Tcopy(H5T_STD_U64LE));
    case ElementType::bfloat16:
      return make_narrow_float(8);
    case ElementType::float16:
      return make_narrow_float(5);
  }
  NMOE_CHECK(false, internal, "no such element type");
}

bool find_element_type(hid_t type, ElementType& found) {
  for (const ElementType candidate : all_types)
    if (H5Tequal(type, make_type(candidate).get()) > 0) {
      found = candidate;
      return true;
    }
  return false;
}

PropertyId make_properties(hid_t property_class) {
  PropertyId p(H5Pcreate(property_class));
  NMOE_CHECK(p, internal, "HDF5 cannot make a property list");
  return p;
}

PropertyId make_file_access(comm::Communicator* comm) {
  initialize_hdf5();
  PropertyId access = make_properties(H5P_FILE_ACCESS);
  // No locks: files appear by rename, and parallel file systems often refuse flock.
  bool ok = H5Pset_libver_bounds(access.get(), H5F_LIBVER_V110, H5F_LIBVER_V110) >= 0 &&
            H5Pset_file_locking(access.get(), false, true) >= 0;
  if (comm != nullptr && comm->native() != nullptr) {
    const MPI_Comm native = *static_cast<MPI_Comm*>(comm->native());
    ok = ok && H5Pset_fapl_mpio(access.get(), native, MPI_INFO_NULL) >= 0 &&
         H5Pset_coll_metadata_write(access.get(), true) >= 0 &&
         H5Pset_all_coll_metadata_ops(access.get(), true) >= 0;
  }
  NMOE_CHECK(ok, internal, "HDF5 refuses the file access settings");
  return access;
}

std::int64_t product(std::span<const std::int64_t> shape) {
  std::int64_t n = 1;
  for (const std::int64_t extent : shape) n *= extent;
  return n;
}

std::string to_string(std::span<const std::int64_t> shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

std::int64_t DatasetInfo::num_elements() const {
  return product(shape);
}

namespace {

/// Turns flat ranges into boxes of an n-dimensional space and adds them to its selection.
class RangeSelector {
 public:
  RangeSelector(hid_t space, std::vector<hsize_t> shape)
      : space_(space), shape_(std::move(shape)), start_(shape_.size(), 0) {}
  bool add(std::int64_t begin, std::int64_t end) {
    return cut(0, static_cast<hsize_t>(begin), static_cast<hsize_t>(end));
  }

 private:
  /// Flat elements [begin, end) of the part below `start_[0..axis)`: a ragged head, whole rows, a ragged
  /// tail.
  bool cut(std::size_t axis, hsize_t begin, hsize_t end) {
    if (begin == end) return true;
    hsize_t inner = 1;
    for (std::size_t a = axis + 1; a < shape_.size(); ++a) inner *= shape_[a];
    hsize_t first = begin / inner;
    const hsize_t last = end / inner;
    if (begin % inner != 0) {
      start_[axis] = first;
      const hsize_t head_end = first == last ? end % inner : inner;
      if (!cut(axis + 1, begin % inner, head_end)) return false;
      if (first == last) return true;
      ++first;
    }
    if (last > first && !box(axis, first, last - first)) return false;
    if (end % inner == 0) return true;
    start_[axis] = last;
    return cut(axis + 1, 0, end % inner);
  }

  bool box(std::size_t axis, hsize_t first, hsize_t rows) {
    std::vector<hsize_t> start(start_.begin(), start_.begin() + static_cast<std::ptrdiff_t>(axis));
    std::vector<hsize_t> count(axis, 1);
    start.push_back(first);
    count.push_back(rows);
    for (std::size_t a = axis + 1; a < shape_.size(); ++a) {
      start.push_back(0);
      count.push_back(shape_[a]);
    }
    const H5S_seloper_t how = empty_ ? H5S_SELECT_SET : H5S_SELECT_OR;
    empty_ = false;
    return H5Sselect_hyperslab(space_, how, start.data(), nullptr, count.data(), nullptr) >= 0;
  }

  hid_t space_;
  std::vector<hsize_t> shape_, start_;
  bool empty_ = true;
};

}  // namespace

void select_ranges(hid_t space, std::span<const FileRange> ranges, const std::string& path,
                   const std::string& name) {
  const int rank = H5Sget_simple_extent_ndims(space);
  std::vector<hsize_t> shape(static_cast<std::size_t>(rank < 0 ? 0 : rank));
  H5Sget_simple_extent_dims(space, shape.data(), nullptr);
  std::int64_t total = 1;
  for (const hsize_t extent : shape) total *= static_cast<std::int64_t>(extent);
  std::int64_t end = 0;
  std::vector<FileRange> merged;
  for (const FileRange& r : ranges) {
    NMOE_CHECK(r.begin >= end && r.count >= 0 && r.count <= total - r.begin, internal,
               "{}:{}: range [{}, +{}) does not ascend inside {} elements", path, name, r.begin, r.count,
               total);
    if (r.count == 0) continue;
    if (!merged.empty() && end == r.begin)
      merged.back().count += r.count;
    else
      merged.push_back(r);
    end = r.begin + r.count;
  }
  bool ok = H5Sselect_none(space) >= 0;
  if (shape.empty()) {
    if (!merged.empty()) ok = H5Sselect_all(space) >= 0;
  } else if (merged.size() == 1 && merged.front().count == total) {
    ok = H5Sselect_all(space) >= 0;
  } else {
    RangeSelector selector(space, std::move(shape));
    for (const FileRange& r : merged) ok = ok && selector.add(r.begin, r.begin + r.count);
  }
  if (!ok) fail_hdf5(ErrorCode::io, "select in", path, name);
}

}  // namespace nmoe::io
