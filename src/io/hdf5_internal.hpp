#pragma once
// What the HDF5 sources share: owned handles, error capture, types, guards. Nothing outside src/io sees it.
#include <hdf5.h>

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "neuronmoe/base/handle.hpp"
#include "neuronmoe/io/atomic_file.hpp"
#include "neuronmoe/io/hdf5_file.hpp"

namespace nmoe::io {

inline constexpr hid_t no_id = -1;
using FileId = Handle<hid_t, H5Fclose, no_id>;
using GroupId = Handle<hid_t, H5Gclose, no_id>;
using DatasetId = Handle<hid_t, H5Dclose, no_id>;
using SpaceId = Handle<hid_t, H5Sclose, no_id>;
using TypeId = Handle<hid_t, H5Tclose, no_id>;
using AttributeId = Handle<hid_t, H5Aclose, no_id>;
using PropertyId = Handle<hid_t, H5Pclose, no_id>;
using ObjectId = Handle<hid_t, H5Oclose, no_id>;

/// Once per process: HDF5 prints nothing, loads no plugins, follows no external links, runs nothing at exit.
void initialize_hdf5();
/// Throws for a failed HDF5 call, with HDF5's own reason; `code` becomes no_space where that is the cause.
[[noreturn]] void fail_hdf5(ErrorCode code, const char* doing, const std::string& path,
                            const std::string& name);

/// A new transient type for elements of `type`.
TypeId make_type(ElementType type);
/// Owned property list. @throws Error(internal)
PropertyId make_properties(hid_t property_class);
PropertyId make_file_access(comm::Communicator* comm);

struct H5File::Impl {
  std::string path;
  comm::Communicator* comm = nullptr;  // null for a serial file
  Storage storage = Storage::contiguous;
  hid_t file = no_id;
  std::int64_t file_bytes = 0;  // of a file opened for reading
  bool writable = false;
  FileSync sync;    // of a file that is written, through this rank's own descriptor
  TypeId bfloat16;  // committed type, once used

  /// What this rank wrote, to compare with the file after closing.
  struct Written {
    std::string name;
    std::vector<FileRange> ranges;
    std::int64_t element_bytes;
    std::uint32_t crc;
  };
  std::vector<Written> written;

  ~Impl();
  /// Runs the same HDF5 calls on all ranks and agrees on the outcome.
  void collectively(const std::function<void()>& work) const;
  void close_file();
  void make_groups(const std::string& name) const;
  /// Opens a dataset to read, after the guards.
  DatasetId open_guarded(const std::string& name) const;
  /// Refuses anything but hard links on the way to `name`, and groups that more than one link leads to: a
  /// walk through them need not end.
  bool reachable(const std::string& name) const;
  /// Makes an empty dataset of elements of `type`.
  DatasetId create_dataset(const std::string& name, hid_t type, std::span<const std::int64_t> shape) const;
  /// Writes ranges of a dataset that was just made; every rank calls it equally often.
  void write_piece(const DatasetId& dataset, const std::string& name, hid_t type,
                   std::span<const FileRange> ranges, const void* packed);
  void write_raw(const std::string& name, hid_t type, std::span<const std::int64_t> shape,
                 std::span<const FileRange> ranges, const void* packed);
  void read_raw(const std::string& name, hid_t expected_type, std::span<const FileRange> ranges,
                void* packed) const;
  /// What read_raw does for a chunked dataset of a serial file, without the library's filters.
  void read_chunked(const DatasetId& dataset, const std::string& name, std::span<const FileRange> ranges,
                    void* packed) const;
  /// Opens the closed file again and compares what this rank wrote. @throws Error naming the dataset
  void compare_with_file() const;
  /// Type of elements in the file; bfloat16 is committed on first use.
  hid_t file_type(ElementType type, TypeId& holder);
};

/// Selects flat ranges of an n-dimensional space.
void select_ranges(hid_t space, std::span<const FileRange> ranges, const std::string& path,
                   const std::string& name);
std::vector<std::int64_t> shape_of(hid_t dataset, const std::string& path, const std::string& name);
std::int64_t product(std::span<const std::int64_t> shape);
std::string to_string(std::span<const std::int64_t> shape);
/// The element type that equals `type`, or nothing.
bool find_element_type(hid_t type, ElementType& found);

}  // namespace nmoe::io
