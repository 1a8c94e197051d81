// Writes tokens.h5 in parallel; reads it whole and checks every document.
#include "neuronmoe/data/token_file.hpp"

#include <algorithm>

#include "neuronmoe/base/error.hpp"
#include "neuronmoe/comm/agree.hpp"
#include "neuronmoe/io/atomic_file.hpp"
#include "neuronmoe/io/hdf5_file.hpp"

namespace nmoe::data {
namespace {

/// This rank's place in a dataset of all ranks: elements before it and in total.
struct Place {
  std::int64_t begin, total;
};

Place place_of(comm::Communicator& comm, std::int64_t mine) {
  const std::vector<std::string> counts = comm::all_gather_strings(comm, std::to_string(mine));
  Place place{0, 0};
  for (std::size_t r = 0; r < counts.size(); ++r) {
    if (static_cast<int>(r) == comm.rank()) place.begin = place.total;
    place.total += std::stoll(counts[r]);
  }
  return place;
}

template <typename T>
void write_part(io::H5File& file, const std::string& name, const std::vector<T>& mine, Place place) {
  const std::vector<std::int64_t> shape = {place.total};
  const std::vector<io::FileRange> ranges = {{place.begin, static_cast<std::int64_t>(mine.size())}};
  file.write_ranges(name, io::element_of<T>::value, shape, ranges, mine.data());
}

void require_distinct(const std::string& path, std::vector<std::string> languages) {
  std::sort(languages.begin(), languages.end());
  const auto twice = std::adjacent_find(languages.begin(), languages.end());
  NMOE_CHECK(twice == languages.end(), bad_data, "{}: /languages lists {} twice; tokenize again", path,
             *twice);
}

TokenFileInfo read_info(io::H5File& file, const std::string& path) {
  TokenFileInfo info;
  info.vocab_size = file.read_int_attribute("/", "vocab_size");
  const std::int64_t eos_id = file.read_int_attribute("/", "eos_id");
  NMOE_CHECK(info.vocab_size > 0 && info.vocab_size <= std::int64_t{1} << 31 && eos_id >= 0 &&
                 eos_id < info.vocab_size,
             bad_data, "{}: vocab_size {} and eos_id {} do not go together", path, info.vocab_size, eos_id);
  info.eos_id = static_cast<std::int32_t>(eos_id);
  info.tokenizer_sha256 = file.read_string_attribute("/", "tokenizer_sha256");
  info.inputs_sha256 = file.read_string_attribute("/", "inputs_sha256");
  info.languages = file.read_strings("/languages");
  require_distinct(path, info.languages);
  if (!file.has_attribute("/", "bos_id")) return info;
  const std::int64_t bos_id = file.read_int_attribute("/", "bos_id");
  NMOE_CHECK(bos_id >= -1 && bos_id < info.vocab_size, bad_data,
             "{}: bos_id {} is not one of {} tokens; tokenize again", path, bos_id, info.vocab_size);
  info.bos_id = static_cast<std::int32_t>(bos_id);
  return info;
}

}  // namespace

void write_token_file(comm::Communicator& comm, const std::string& path, const TokenDocuments& mine,
                      const TokenFileInfo& info) {
  const Place ids = place_of(comm, static_cast<std::int64_t>(mine.ids.size()));
  const Place docs = place_of(comm, mine.num_docs()),
              sizes = place_of(comm, static_cast<std::int64_t>(mine.bytes.size()));
  NMOE_CHECK(sizes.total == 0 || sizes.total == docs.total, internal, "sizes of {} texts of {}", sizes.total,
             docs.total);
  comm::agree(comm, [&] {
    constexpr std::int64_t overhead_bytes = 1 << 20;
    io::require_free_space(path, ids.total * 4 + docs.total * 27 + overhead_bytes);
  });
  // Offsets of the ends of my documents follow the leading 0, which rank 0 adds.
  std::vector<std::uint64_t> offset;
  if (comm.rank() == 0) offset.push_back(0);
  auto end = static_cast<std::uint64_t>(ids.begin);
  for (const std::uint64_t length : mine.lengths) offset.push_back(end += length);
  const Place offsets{comm.rank() == 0 ? 0 : docs.begin + 1, docs.total + 1};
  io::write_h5_atomically(path, comm, [&](io::H5File& file) {
    file.write_format(token_file_format);
    file.write_attribute("/", "vocab_size", info.vocab_size);
    file.write_attribute("/", "eos_id", info.eos_id);
    file.write_attribute("/", "tokenizer_sha256", info.tokenizer_sha256);
    file.write_attribute("/", "inputs_sha256", info.inputs_sha256);
    if (info.bos_id) file.write_attribute("/", "bos_id", *info.bos_id);
    file.write_strings("/languages", info.languages);
    write_part(file, "/ids", mine.ids, ids);
    write_part(file, "/doc/offset", offset, offsets);
    write_part(file, "/doc/lang", mine.lang, docs);
    write_part(file, "/doc/mark", mine.mark, docs);
    if (sizes.total == 0) return;
    write_part(file, "/doc/bytes", mine.bytes, sizes);
    write_part(file, "/doc/words", mine.words, sizes);
  });
}

TokenFileInfo read_token_file_info(const std::string& path) {
  io::H5File file = io::H5File::open(path, token_file_format);
  return read_info(file, path);
}

std::optional<TextSizes> read_text_sizes(const std::string& path, std::int64_t num_docs, io::SealCheck seal) {
  io::H5File file = io::H5File::open(path, token_file_format, seal);
  if (!file.exists("/doc/bytes") || !file.exists("/doc/words")) return {};
  const std::vector<std::int64_t> per_doc = {num_docs};
  TextSizes sizes{file.read<std::uint64_t>("/doc/bytes", per_doc),
                  file.read<std::uint64_t>("/doc/words", per_doc)};
  constexpr std::uint64_t most_bytes = std::uint64_t{1} << 40;  // sums of 8e6 documents fit into 64 bits
  for (std::size_t d = 0; d < sizes.bytes.size(); ++d)
    NMOE_CHECK(sizes.bytes[d] < most_bytes && sizes.words[d] >= 1 && sizes.words[d] <= sizes.bytes[d] + 1,
               bad_data, "{}: document {} has {} bytes and {} words; tokenize again", path, d, sizes.bytes[d],
               sizes.words[d]);
  return sizes;
}

TokenFile::TokenFile(const std::string& path, io::SealCheck seal) : path_(path) {
  io::H5File file = io::H5File::open(path, token_file_format, seal);
  info_ = read_info(file, path);
  const std::vector<std::int64_t> any = {-1};
  ids_ = file.read<std::uint32_t>("/ids", any);
  lang_ = file.read<std::uint16_t>("/doc/lang", any);
  const auto docs = static_cast<std::int64_t>(lang_.size());
  const std::vector<std::int64_t> per_doc = {docs}, one_more = {docs + 1};
  mark_ = file.read<std::uint8_t>("/doc/mark", per_doc);
  offset_ = file.read<std::uint64_t>("/doc/offset", one_more);
  NMOE_CHECK(offset_.front() == 0 && offset_.back() == ids_.size(), bad_data,
             "{}: /doc/offset runs from {} to {} but there are {} ids", path, offset_.front(), offset_.back(),
             ids_.size());
  for (std::size_t d = 0; d < lang_.size(); ++d) {
    NMOE_CHECK(offset_[d] < offset_[d + 1] && offset_[d + 1] <= ids_.size(), bad_data,
               "{}: document {} runs from token {} to {} of {}", path, d, offset_[d], offset_[d + 1],
               ids_.size());
    NMOE_CHECK(lang_[d] < info_.languages.size() && mark_[d] <= 1, bad_data,
               "{}: document {} has language {} of {} and mark {}", path, d, lang_[d], info_.languages.size(),
               mark_[d]);
    NMOE_CHECK(ids_[offset_[d + 1] - 1] == static_cast<std::uint32_t>(info_.eos_id), bad_data,
               "{}: document {} does not end with EOS ({})", path, d, info_.eos_id);
  }
  for (std::size_t i = 0; i < ids_.size(); ++i) {
    NMOE_CHECK(ids_[i] < static_cast<std::uint64_t>(info_.vocab_size), bad_data,
               "{}: id {} at token {} is not below vocab_size {}", path, ids_[i], i, info_.vocab_size);
    largest_id_ = std::max(largest_id_, ids_[i]);
  }
}

std::span<const std::uint32_t> TokenFile::document(std::int64_t doc) const {
  const auto d = static_cast<std::size_t>(doc);
  return std::span(ids_).subspan(offset_[d], offset_[d + 1] - offset_[d]);
}

int TokenFile::language_index(const std::string& name) const {
  const auto found = std::find(info_.languages.begin(), info_.languages.end(), name);
  return found == info_.languages.end() ? -1 : static_cast<int>(found - info_.languages.begin());
}

}  // namespace nmoe::data
