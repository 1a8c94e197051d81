// Fixed-length strings and tables of records (compound datasets).
#include <algorithm>
#include <cstring>

#include "hdf5_internal.hpp"
#include "neuronmoe/base/error.hpp"

namespace nmoe::io {
namespace {

TypeId make_text(std::size_t num_bytes) {
  TypeId type(H5Tcopy(H5T_C_S1));
  const bool ok = H5Tset_size(type.get(), num_bytes) >= 0 && H5Tset_cset(type.get(), H5T_CSET_UTF8) >= 0 &&
                  H5Tset_strpad(type.get(), H5T_STR_NULLPAD) >= 0;
  NMOE_CHECK(ok, internal, "HDF5 cannot make a text type of {} bytes", num_bytes);
  return type;
}

std::int64_t bytes_of(const RecordColumn& column) {
  return column.text_bytes > 0 ? column.text_bytes : column.count * size_of(column.type);
}

std::int64_t packed_bytes(std::span<const RecordColumn> columns) {
  std::int64_t n = 0;
  for (const RecordColumn& column : columns) n += bytes_of(column);
  return n;
}

/// The compound type in the file: the columns without padding.
TypeId make_record(std::span<const RecordColumn> columns) {
  TypeId record(H5Tcreate(H5T_COMPOUND, static_cast<std::size_t>(packed_bytes(columns))));
  std::size_t offset = 0;
  for (const RecordColumn& column : columns) {
    TypeId member = column.text_bytes > 0 ? make_text(static_cast<std::size_t>(column.text_bytes))
                                          : make_type(column.type);
    if (column.text_bytes == 0 && column.count > 1) {
      const auto count = static_cast<hsize_t>(column.count);
      member = TypeId(H5Tarray_create2(member.get(), 1, &count));
    }
    NMOE_CHECK(H5Tinsert(record.get(), column.name.c_str(), offset, member.get()) >= 0, internal,
               "HDF5 refuses column {}", column.name);
    offset += static_cast<std::size_t>(bytes_of(column));
  }
  return record;
}

/// Copies between the caller's structs and packed records; `to_packed` gives the direction.
void copy_columns(std::span<const RecordColumn> columns, std::int64_t record_bytes, char* structs,
                  char* packed, std::int64_t num_records, bool to_packed) {
  for (std::int64_t i = 0; i < num_records; ++i)
    for (const RecordColumn& column : columns) {
      char* const in_struct = structs + i * record_bytes + column.offset_bytes;
      const std::int64_t n = bytes_of(column);
      if (to_packed)
        std::memcpy(packed, in_struct, static_cast<std::size_t>(n));
      else
        std::memcpy(in_struct, packed, static_cast<std::size_t>(n));
      packed += n;
    }
}

std::vector<FileRange> rank_zero_writes(const comm::Communicator* comm, std::int64_t count) {
  if (comm != nullptr && comm->rank() != 0) return {};
  return {FileRange{0, count}};
}

}  // namespace

void H5File::write_strings(const std::string& name, const std::vector<std::string>& values) {
  std::size_t width = 1;
  for (const std::string& value : values) width = std::max(width, value.size());
  std::string packed(width * values.size(), '\0');
  for (std::size_t i = 0; i < values.size(); ++i) values[i].copy(packed.data() + i * width, width);
  impl_->collectively([&] {
    const std::int64_t count = static_cast<std::int64_t>(values.size());
    const std::vector<std::int64_t> shape = {count};
    impl_->write_raw(name, make_text(width).get(), shape, rank_zero_writes(impl_->comm, count),
                     packed.data());
  });
}

std::vector<std::string> H5File::read_strings(const std::string& name) {
  const DatasetInfo found = info(name);
  NMOE_CHECK(found.kind == DatasetInfo::Kind::text && found.shape.size() == 1, bad_data,
             "{}:{} is not a list of strings", impl_->path, name);
  std::vector<std::string> values;
  impl_->collectively([&] {
    const DatasetId dataset = impl_->open_guarded(name);
    const TypeId type(H5Dget_type(dataset.get()));
    const std::size_t width = H5Tget_size(type.get());
    const auto count = static_cast<std::size_t>(found.shape[0]);
    std::string packed(width * count, '\0');
    const std::vector<FileRange> all = {FileRange{0, found.shape[0]}};
    impl_->read_raw(name, type.get(), all, packed.data());
    for (std::size_t i = 0; i < count; ++i) {
      const std::string_view cell(packed.data() + i * width, width);
      values.emplace_back(cell.substr(0, std::min(cell.size(), cell.find('\0'))));
    }
  });
  return values;
}

void H5File::write_records(const std::string& name, std::span<const RecordColumn> columns,
                           std::int64_t record_bytes, const void* data, std::int64_t num_records) {
  std::vector<char> packed(static_cast<std::size_t>(packed_bytes(columns) * num_records));
  copy_columns(columns, record_bytes, static_cast<char*>(const_cast<void*>(data)), packed.data(), num_records,
               true);
  impl_->collectively([&] {
    const std::vector<std::int64_t> shape = {num_records};
    impl_->write_raw(name, make_record(columns).get(), shape, rank_zero_writes(impl_->comm, num_records),
                     packed.data());
  });
}

std::int64_t H5File::count_records(const std::string& name, std::span<const RecordColumn> columns) {
  const DatasetInfo found = info(name);
  NMOE_CHECK(found.kind == DatasetInfo::Kind::records && found.shape.size() == 1, bad_data,
             "{}:{} is not a table of records", impl_->path, name);
  impl_->collectively([&] {
    const DatasetId dataset = impl_->open_guarded(name);
    const TypeId type(H5Dget_type(dataset.get()));
    NMOE_CHECK(H5Tequal(type.get(), make_record(columns).get()) > 0, bad_data,
               "{}:{} has other columns than the {} that are needed", impl_->path, name, columns.size());
  });
  return found.shape[0];
}

void H5File::read_records(const std::string& name, std::span<const RecordColumn> columns,
                          std::int64_t record_bytes, void* data, std::int64_t num_records) {
  const std::int64_t count = count_records(name, columns);
  NMOE_CHECK(count == num_records, bad_data, "{}:{} has {} records but {} are needed", impl_->path, name,
             count, num_records);
  std::vector<char> packed(static_cast<std::size_t>(packed_bytes(columns) * num_records));
  impl_->collectively([&] {
    const std::vector<FileRange> all = {FileRange{0, num_records}};
    impl_->read_raw(name, make_record(columns).get(), all, packed.data());
  });
  copy_columns(columns, record_bytes, static_cast<char*>(data), packed.data(), num_records, false);
}

}  // namespace nmoe::io
