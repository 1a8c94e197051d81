#pragma once
// The one door to HDF5: every file with numbers in it (tokens, statistics, checkpoints) is written and read
// through H5File. Files are byte-identical for any number of ranks and hostile files are refused before
// memory is allocated. Called by data, analysis, train, evaluation and app.
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "neuronmoe/comm/communicator.hpp"
#include "neuronmoe/io/file_format.hpp"
#include "neuronmoe/io/file_seal.hpp"
#include "neuronmoe/tensor/tensor.hpp"

namespace nmoe::io {

/// Element types in files; little-endian. bfloat16 is the committed type /types/bfloat16 that h5py widens;
/// float16 is IEEE's, which only weights on their way from and to Hugging Face have.
enum class ElementType : std::uint8_t {
  float64,
  float32,
  bfloat16,
  int32,
  int64,
  uint8,
  uint16,
  uint32,
  uint64,
  float16
};
constexpr auto enum_names(ElementType) {
  return std::to_array<EnumName<ElementType>>({{ElementType::float64, name_of(DType::float64)},
                                               {ElementType::float32, name_of(DType::float32)},
                                               {ElementType::bfloat16, name_of(DType::bfloat16)},
                                               {ElementType::int32, name_of(DType::int32)},
                                               {ElementType::int64, name_of(DType::int64)},
                                               {ElementType::uint8, name_of(DType::uint8)},
                                               {ElementType::uint16, "uint16"},
                                               {ElementType::uint32, "uint32"},
                                               {ElementType::uint64, "uint64"},
                                               {ElementType::float16, "float16"}});
}
std::int64_t size_of(ElementType type);
ElementType element_type_of(DType dtype);

template <typename T>
struct element_of {
  static constexpr ElementType value = static_cast<ElementType>(dtype_of<T>::value);  // same order as DType
};
template <>
struct element_of<std::uint16_t> {
  static constexpr ElementType value = ElementType::uint16;
};
template <>
struct element_of<std::uint32_t> {
  static constexpr ElementType value = ElementType::uint32;
};
template <>
struct element_of<std::uint64_t> {
  static constexpr ElementType value = ElementType::uint64;
};

/// Elements [begin, begin + count) of a dataset seen as one flat row-major array.
struct FileRange {
  std::int64_t begin, count;
};
/// Returns the ranges of elements [first, first + count) of what `ranges` hold one after another.
std::vector<FileRange> part_of(std::span<const FileRange> ranges, std::int64_t first, std::int64_t count);

/// One column of a table of records (a compound dataset). `count` > 1 is a fixed array; a text column has
/// `text_bytes` > 0 (zero-padded UTF-8) and ignores `type`.
struct RecordColumn {
  std::string name;
  std::int64_t offset_bytes;  ///< in the caller's struct
  ElementType type = ElementType::uint64;
  std::int64_t count = 1;
  std::int64_t text_bytes = 0;
};

struct DatasetInfo {
  enum class Kind { numbers, text, records } kind;
  ElementType type;  ///< of numbers
  std::vector<std::int64_t> shape;
  std::int64_t num_elements() const;
};

/// How datasets of a file are stored. `compressed` = gzip-4 + shuffle + fletcher32, for serial files only.
enum class Storage { contiguous, compressed };

/// An open HDF5 file, serial or collective. On a collective file every member function is a collective call:
/// all ranks, same order, same arguments except the ranges and buffers of *_ranges; errors are agreed, so
/// every rank throws. Names are absolute ("/flat/master"); missing groups are made. Errors are
/// Error(bad_data) for what a file contains, Error(io) or Error(no_space) for what the system refused; each
/// names file and dataset. The destructor closes a serial file and leaks a collective one: call finish() or
/// close().
class H5File {
 public:
  /// Creates a file. `user_block_bytes` (0, or a power of two from 512 on) stay free before the HDF5 part.
  static H5File create(const std::string& path, Storage storage = Storage::contiguous,
                       std::int64_t user_block_bytes = 0);
  static H5File create(const std::string& path, comm::Communicator& comm, std::int64_t user_block_bytes = 0);
  /// @throws Error(bad_data) unless the file is HDF5, carries complete=1 and, if `format` is given, says that
  /// it has that format in a version that is not newer (require_readable).
  /// A file with a seal (file_seal.hpp) is compared with it first, unless somebody did. The second form, for
  /// files of a checkpoint, whose manifest says more, looks for none.
  static H5File open(const std::string& path, std::optional<FileFormat> format = {},
                     SealCheck seal = SealCheck::wanted);
  static H5File open(const std::string& path, comm::Communicator& comm,
                     std::optional<FileFormat> format = {});
  /// Opens files made by others (h5py...): complete=1 and a seal are not demanded, all other guards hold.
  static H5File open_foreign(const std::string& path);
  H5File(H5File&&) noexcept;
  H5File& operator=(H5File&&) noexcept;
  ~H5File();

  // ---- writing -------------------------------------------------------------------------------------------
  /// Writes a whole dataset; on a collective file every rank passes the same data and rank 0's is written.
  void write(const std::string& name, ElementType type, std::span<const std::int64_t> shape,
             const void* data);
  template <typename T>
  void write(const std::string& name, const std::vector<T>& values, std::vector<std::int64_t> shape = {}) {
    if (shape.empty()) shape.push_back(static_cast<std::int64_t>(values.size()));
    check_count(name, shape, static_cast<std::int64_t>(values.size()));
    write(name, element_of<T>::value, shape, values.data());
  }
  /// Writes this rank's part of a dataset of `shape` elements; `packed` holds the ranges one after another.
  /// Ranges ascend and do not overlap; none at all is fine. Elements no rank writes are undefined.
  void write_ranges(const std::string& name, ElementType type, std::span<const std::int64_t> shape,
                    std::span<const FileRange> ranges, const void* packed);
  /// Writes without ever holding more than 64 MiB of it: `fill(first, bytes)` gives the bytes of elements
  /// [first, first + bytes.size() / element size) of this rank's ranges one after another.
  void write_ranges(const std::string& name, ElementType type, std::span<const std::int64_t> shape,
                    std::span<const FileRange> ranges,
                    const std::function<void(std::int64_t first, std::span<char> bytes)>& fill);
  /// Writes a dataset without ever holding more than a piece of it: the elements are dealt evenly over the
  /// ranks, and `fill(begin, bytes)` gives the bytes of elements [begin, begin + bytes.size() / element
  /// size).
  void write_streamed(const std::string& name, ElementType type, std::span<const std::int64_t> shape,
                      const std::function<void(std::int64_t begin, std::span<char> bytes)>& fill);
  /// Makes a dataset whose elements write_into gives, in any number of calls; those it never gives are
  /// undefined.
  void make_dataset(const std::string& name, ElementType type, std::span<const std::int64_t> shape);
  /// Writes this rank's ranges of a dataset that make_dataset made: `packed`, as in write_ranges, at most 64
  /// MiB at a time.
  void write_into(const std::string& name, ElementType type, std::span<const FileRange> ranges,
                  const void* packed);
  /// Writes a one-dimensional array of fixed-length UTF-8 strings.
  void write_strings(const std::string& name, const std::vector<std::string>& values);
  /// Writes a table of records; `data` points at `num_records` structs of `record_bytes` bytes. Packed in the
  /// file.
  void write_records(const std::string& name, std::span<const RecordColumn> columns,
                     std::int64_t record_bytes, const void* data, std::int64_t num_records);
  /// Says what the file is, in root attributes that open() compares.
  void write_format(const FileFormat& format);
  /// Attributes of a group or dataset; "/" is the file.
  void write_attribute(const std::string& object, const std::string& name, std::string_view value);
  void write_attribute(const std::string& object, const std::string& name, std::int64_t value);
  void write_attribute(const std::string& object, const std::string& name, double value);
  template <typename T>
  requires std::is_integral_v<T>
  void write_attribute(const std::string& object, const std::string& name, T value) {
    write_attribute(object, name, static_cast<std::int64_t>(value));
  }
  void make_group(const std::string& name);
  /// Marks the file complete, closes it, fsyncs on every rank, then reads everything back that this object
  /// wrote and compares checksums. @throws Error(io) naming the dataset that did not arrive.
  void finish();
  /// Closes without marking the file complete; also the way to close a file opened for reading. Collective
  /// files must be closed by finish() or close().
  void close();

  // ---- reading -------------------------------------------------------------------------------------------
  bool exists(const std::string& name);
  enum class ObjectKind { group, dataset, type };
  ObjectKind kind(const std::string& name);
  /// Returns the names inside a group, ascending.
  std::vector<std::string> list(const std::string& group);
  /// Returns type and shape, after the guards against external, virtual and oversized storage.
  DatasetInfo info(const std::string& name);
  /// Reads a whole dataset; `shape` (if not empty) must match, −1 accepts any extent.
  template <typename T>
  std::vector<T> read(const std::string& name, std::span<const std::int64_t> shape = {}) {
    std::vector<T> values(static_cast<std::size_t>(expect(name, element_of<T>::value, shape)));
    read_all(name, element_of<T>::value, values.data());
    return values;
  }
  /// Reads this rank's ranges (ascending, may be none, may overlap those of other ranks) into `packed`.
  void read_ranges(const std::string& name, ElementType type, std::span<const std::int64_t> shape,
                   std::span<const FileRange> ranges, void* packed);
  /// Reads without ever holding more than 64 MiB of it: `take(first, bytes)` is handed the elements that
  /// `fill` of write_ranges would have given.
  void read_ranges(const std::string& name, ElementType type, std::span<const std::int64_t> shape,
                   std::span<const FileRange> ranges,
                   const std::function<void(std::int64_t first, std::span<const char> bytes)>& take);
  /// Looks at the place and size of every chunk of a dataset, without reading them.
  void check_storage(const std::string& name);
  std::vector<std::string> read_strings(const std::string& name);
  /// Returns the number of records after checking that the columns are exactly those expected.
  std::int64_t count_records(const std::string& name, std::span<const RecordColumn> columns);
  void read_records(const std::string& name, std::span<const RecordColumn> columns, std::int64_t record_bytes,
                    void* data, std::int64_t num_records);
  bool has_attribute(const std::string& object, const std::string& name);
  /// Returns the names of an object's attributes, ascending.
  std::vector<std::string> list_attributes(const std::string& object);
  std::string read_string_attribute(const std::string& object, const std::string& name);
  std::int64_t read_int_attribute(const std::string& object, const std::string& name);
  double read_double_attribute(const std::string& object, const std::string& name);
  const std::string& path() const;

 private:
  struct Impl;
  explicit H5File(std::unique_ptr<Impl> impl);
  void check_count(const std::string& name, std::span<const std::int64_t> shape, std::int64_t count) const;
  std::int64_t expect(const std::string& name, ElementType type, std::span<const std::int64_t> shape);
  void read_all(const std::string& name, ElementType type, void* data);
  std::unique_ptr<Impl> impl_;
};

/// Writes PATH.tmp through `fill`, finishes it, seals it (file_seal.hpp) and renames it over PATH: readers
/// see the old file or the new one, never a half. On failure PATH.tmp is removed. The second form is
/// collective.
void write_h5_atomically(const std::string& path, Storage storage, const std::function<void(H5File&)>& fill);
void write_h5_atomically(const std::string& path, comm::Communicator& comm,
                         const std::function<void(H5File&)>& fill);

/// Where the bytes of one dataset lie in the file; contiguous datasets only.
struct DatasetExtent {
  std::string name;
  std::int64_t offset_bytes, num_bytes;
};
/// Extents of all contiguous datasets, ascending by offset. Does not demand complete=1. Not collective.
std::vector<DatasetExtent> dataset_extents(const std::string& path);

}  // namespace nmoe::io
