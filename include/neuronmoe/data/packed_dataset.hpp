#pragma once
// Documents of one data set laid end to end and cut into training blocks (METHOD 7.2). Read by Mixture.
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "neuronmoe/base/fields.hpp"
#include "neuronmoe/data/token_file.hpp"

namespace nmoe::data {

/// A [data.<name>] section.
struct DataSetConfig {
  std::string name{};
  std::string tokens{};         ///< tokens.h5
  std::string lang{};           ///< only documents of this language; "" = all
  std::optional<Mark> mark{};   ///< overrides the file's marks
  std::int64_t max_docs = 0;    ///< first documents only; 0 = all
  std::int64_t max_tokens = 0;  ///< stop after the document that reaches this; 0 = all
  double weight = 0.0;          ///< share of the mixture; 0 in all data sets = by size
};
/// Keys as they stand inside the section.
template <typename F>
void for_each_field(DataSetConfig& c, F&& f) {
  constexpr double many = 9e18;
  f("tokens", c.tokens, FieldInfo{.help = "token file made by `neuronmoe tokenize`"});
  f("lang", c.lang, FieldInfo{.help = "use only documents of this language (empty: all)"});
  f("mark", c.mark, FieldInfo{.help = "override the old/new mark of the documents (empty: keep)"});
  f("max_docs", c.max_docs,
    FieldInfo{.help = "use only the first documents (0: all)", .unit = "documents", .min = 0, .max = many});
  f("max_tokens", c.max_tokens,
    FieldInfo{.help = "stop after the document that reaches this count (0: all)",
              .unit = "tokens",
              .min = 0,
              .max = many});
  f("weight", c.weight,
    FieldInfo{.help = "share of the mixture; 0 in all sections mixes by size", .min = 0, .max = 1e9});
}

/// How documents are laid end to end. The default carries every remainder over; the reference code
/// (METHOD 7.2) packs batches of 1000 documents inside 128 shards and drops what is left of each.
struct Packing {
  std::int64_t batch_docs = 0;  ///< 0 = one batch per shard
  std::int64_t shards = 1;      ///< contiguous, sizes differ by one at most; no more than documents
};

/// One training sequence of exactly seq_length tokens.
struct Sample {
  std::vector<std::int32_t> ids;
  std::vector<std::int32_t> labels;    ///< next id inside the block; −100 = ignored (always the last one)
  std::vector<std::uint8_t> old_mask;  ///< 1 where the token's document is in an old language
};

/// Blocks of one data set. Documents follow each other in file order across block borders (nothing is dropped
/// except the remainder at the end of each batch of documents; by default there is one), without padding or
/// resets. Immutable; token files may be shared.
class PackedDataset {
 public:
  /// @param eos_label whether predicting EOS counts; if not, labels equal to EOS are −100
  /// @throws Error(bad_data) naming data set and file if nothing matches or it holds less than one block
  PackedDataset(const DataSetConfig& config, std::shared_ptr<const TokenFile> file, std::int64_t seq_length,
                bool eos_label = false, const Packing& packing = {});
  const std::string& name() const { return name_; }
  const TokenFile& file() const { return *file_; }
  std::int64_t num_blocks() const { return num_blocks_; }
  std::int64_t num_docs() const { return static_cast<std::int64_t>(docs_.size()); }
  std::int64_t num_tokens() const { return static_cast<std::int64_t>(start_.back()); }
  std::int64_t seq_length() const { return seq_length_; }
  /// Returns the number of documents with `mark`, as the file or the config marks them.
  std::int64_t num_docs(Mark mark) const;
  /// @pre 0 <= index < num_blocks()
  Sample block(std::int64_t index) const;

 private:
  void cut_batches(const Packing& packing);
  Mark mark_of(std::int64_t doc) const { return mark_override_.value_or(file_->mark(doc)); }

  std::string name_;
  std::shared_ptr<const TokenFile> file_;
  std::int64_t seq_length_;
  bool eos_label_;
  std::optional<Mark> mark_override_;
  std::vector<std::int64_t> docs_;    // documents used, file order
  std::vector<std::uint64_t> start_;  // [num_docs + 1] first token of each in the concatenation
  // [num_batches (+ 1)] first block of each batch of documents, first token of each
  std::vector<std::int64_t> batch_block_;
  std::vector<std::uint64_t> batch_token_;
  std::int64_t num_blocks_ = 0;
};

}  // namespace nmoe::data
