// `tokenize`: reads pieces of the inputs on every rank, encodes their lines, and writes the token file.
#include "neuronmoe/data/tokenize.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <exception>
#include <nlohmann/json.hpp>

#include "neuronmoe/base/error.hpp"
#include "neuronmoe/base/sha256.hpp"
#include "neuronmoe/comm/agree.hpp"
#include "neuronmoe/io/atomic_file.hpp"
#include "neuronmoe/io/mapped_file.hpp"
#include "neuronmoe/io/same_file.hpp"
#include "utf8.hpp"

namespace nmoe::data {
namespace {

using nlohmann::json;

constexpr std::size_t max_reported = 10;
constexpr std::size_t batch_bytes = std::size_t{1} << 20;  // work for many threads between two heartbeats

/// Index of each input's language in `languages`, which lists them in order of appearance.
std::vector<std::uint16_t> index_languages(const std::vector<TokenizeInput>& inputs,
                                           std::vector<std::string>& languages) {
  std::vector<std::uint16_t> index;
  for (const TokenizeInput& input : inputs) {
    auto found = std::find(languages.begin(), languages.end(), input.language);
    if (found == languages.end()) found = languages.insert(found, input.language);
    index.push_back(static_cast<std::uint16_t>(found - languages.begin()));
  }
  return index;
}

/// One hash for all inputs; files are dealt over the ranks. Collective.
std::string hash_inputs(comm::Communicator& comm, const std::vector<TokenizeInput>& inputs) {
  std::string mine;
  comm::agree(comm, [&] {
    for (std::size_t i = 0; i < inputs.size(); ++i)
      if (static_cast<int>(i % static_cast<std::size_t>(comm.size())) == comm.rank())
        mine += sha256_file(inputs[i].path);
  });
  const std::vector<std::string> all = comm::all_gather_strings(comm, mine);
  constexpr std::size_t digest_chars = 64;
  std::string list;
  for (std::size_t i = 0; i < inputs.size(); ++i)
    list += fmt::format("{} {} {}\n", inputs[i].language, name_of(inputs[i].mark),
                        all[i % all.size()].substr(i / all.size() * digest_chars, digest_chars));
  return sha256_text(list);
}

/// What became of a line: ids, or the reason why it is no document.
struct EncodedLine {
  std::vector<std::int32_t> ids;
  std::uint64_t bytes = 0, words = 0;  ///< of the text
  std::string bad;
  std::exception_ptr fault;
};

EncodedLine encode_line(const Tokenizer& tokenizer, TextFormat format, std::string_view line) {
  EncodedLine encoded;
  try {
    std::string text;
    try {
      text = document_of(line, format);
    } catch (const Error& e) {
      encoded.bad = e.what();
      return encoded;
    }
    encoded.bytes = text.size();
    encoded.words = count_words(text);
    try {
      encoded.ids = tokenizer.encode(text);
    } catch (const Error& e) {
      if (e.code() != ErrorCode::bad_data) throw;
      encoded.bad = e.what();
    }
  } catch (...) {  // must not leave the parallel region
    encoded.fault = std::current_exception();
  }
  return encoded;
}

/// Encodes lines on all threads; the result does not depend on how many there are.
std::vector<EncodedLine> encode_lines(const Tokenizer& tokenizer, TextFormat format,
                                      const std::vector<Line>& lines) {
  std::vector<EncodedLine> encoded(lines.size());
#pragma omp parallel for schedule(dynamic, 4)
  for (std::size_t i = 0; i < lines.size(); ++i) encoded[i] = encode_line(tokenizer, format, lines[i].text);
  for (const EncodedLine& e : encoded)
    if (e.fault) std::rethrow_exception(e.fault);
  return encoded;
}

/// The next lines of a piece, about batch_bytes of them; false at its end.
bool next_batch(LineReader& reader, std::vector<Line>& lines) {
  lines.clear();
  std::size_t num_bytes = 0;
  for (Line line; num_bytes < batch_bytes && reader.next(line); num_bytes += line.text.size())
    lines.push_back(line);
  return !lines.empty();
}

/// Tokenizes this rank's pieces into `documents`; returns one report per piece.
std::vector<PieceReport> tokenize_pieces(comm::ExecutionContext& context,
                                         const std::vector<TokenizeInput>& inputs,
                                         const std::vector<InputPiece>& pieces, const Tokenizer& tokenizer,
                                         const std::vector<std::uint16_t>& languages,
                                         TokenDocuments& documents) {
  std::int64_t total_bytes = 0, done_bytes = 0;
  for (const InputPiece& piece : pieces) total_bytes += piece.end - piece.begin;
  Progress progress(context.log, "tokenize (bytes of rank 0)", static_cast<std::uint64_t>(total_bytes),
                    "tokens");
  std::vector<PieceReport> reports;
  for (const InputPiece& piece : pieces) {
    const auto input = static_cast<std::size_t>(piece.input);
    const TextFormat format = text_format_of(inputs[input].path);
    const io::MappedFile file(inputs[input].path);
    require_line_ends(file.bytes(), inputs[input].path);
    LineReader reader(file.bytes(), piece.begin, piece.end);
    PieceReport& report = reports.emplace_back();
    for (std::vector<Line> lines; next_batch(reader, lines);) {
      const std::vector<EncodedLine> encoded = encode_lines(tokenizer, format, lines);
      for (std::size_t i = 0; i < lines.size(); ++i) {
        if (!encoded[i].bad.empty()) {
          report_bad_line(report, lines[i].number, encoded[i].bad);
          continue;
        }
        ++report.num_docs;
        const auto& ids = encoded[i].ids;
        if (ids.empty()) ++report.num_empty;
        documents.ids.insert(documents.ids.end(), ids.begin(), ids.end());
        documents.ids.push_back(static_cast<std::uint32_t>(tokenizer.eos_id()));
        documents.lengths.push_back(ids.size() + 1);
        documents.lang.push_back(languages[input]);
        documents.mark.push_back(static_cast<std::uint8_t>(inputs[input].mark));
        documents.bytes.push_back(encoded[i].bytes);
        documents.words.push_back(encoded[i].words);
      }
      context.heartbeat.beat();
      const std::int64_t done = done_bytes + std::min(lines.back().end, piece.end) - piece.begin;
      progress.update(static_cast<std::uint64_t>(done), static_cast<double>(documents.ids.size()));
    }
    report.num_lines = reader.num_lines();
    done_bytes += piece.end - piece.begin;
  }
  return reports;
}

/// Puts the reports of all ranks together: counts, and bad lines with their line numbers in the file.
TokenizeResult merge_reports(comm::Communicator& comm, const std::vector<TokenizeInput>& inputs,
                             const std::vector<InputPiece>& pieces, const std::vector<PieceReport>& reports) {
  json mine = json::array();
  for (std::size_t i = 0; i < pieces.size(); ++i) {
    json bad = json::array();
    for (const BadLine& b : reports[i].first_bad) bad.push_back({b.line, b.reason});
    mine.push_back({pieces[i].input, reports[i].num_lines, reports[i].num_docs, reports[i].num_bad, bad,
                    reports[i].num_empty});
  }
  const auto replace = json::error_handler_t::replace;
  TokenizeResult result;
  std::vector<std::int64_t> lines_before(inputs.size(), 0);  // ranks come in file order
  for (const std::string& text : comm::all_gather_strings(comm, mine.dump(-1, ' ', false, replace)))
    for (const json& piece : json::parse(text)) {
      const auto input = piece[0].get<std::size_t>();
      for (const json& bad : piece[4])
        if (result.bad_lines.size() < max_reported)
          result.bad_lines.push_back(fmt::format("{}:{}: {}", inputs[input].path,
                                                 lines_before[input] + bad[0].get<std::int64_t>(),
                                                 bad[1].get<std::string>()));
      lines_before[input] += piece[1].get<std::int64_t>();
      result.num_docs += piece[2].get<std::int64_t>();
      result.num_bad_lines += piece[3].get<std::int64_t>();
      result.num_empty_docs += piece[5].get<std::int64_t>();
    }
  return result;
}

}  // namespace

TokenizeInput parse_tokenize_input(const std::string& text) {
  const std::size_t first = text.find(':'),
                    second = first == std::string::npos ? first : text.find(':', first + 1);
  NMOE_CHECK(second != std::string::npos && first > 0 && second + 1 < text.size(), config,
             "tokenize.input is \"{}\"; it must be LANG:MARK:PATH, e.g. el:new:corpus/el.jsonl", text);
  const auto mark = parse_enum<Mark>(text.substr(first + 1, second - first - 1), ErrorCode::config,
                                     fmt::format("tokenize.input \"{}\": MARK", text));
  return {text.substr(0, first), mark, text.substr(second + 1)};
}

TokenizeResult tokenize_corpus(comm::ExecutionContext& context, const std::vector<TokenizeInput>& inputs,
                               const Tokenizer& tokenizer, const std::string& output, BadLinePolicy policy) {
  comm::Communicator& comm = context.world;
  NMOE_CHECK(!inputs.empty(), config, "there is nothing to tokenize: give tokenize.input=LANG:MARK:PATH");
  NMOE_CHECK(tokenizer.eos_id() >= 0, bad_data, "{} has no EOS token", tokenizer.name());
  TokenFileInfo info{tokenizer.vocab_size(), tokenizer.eos_id(), tokenizer.sha256(), "", {},
                     tokenizer.bos_id()};
  const std::vector<std::uint16_t> languages = index_languages(inputs, info.languages);
  std::vector<std::string> paths;
  for (const TokenizeInput& input : inputs) paths.push_back(input.path);
  io::require_same_files(comm, paths);
  info.inputs_sha256 = hash_inputs(comm, inputs);
  std::vector<InputPiece> pieces;
  std::vector<PieceReport> reports;
  TokenDocuments documents;
  comm::agree(comm, [&] {
    std::vector<std::int64_t> input_bytes;
    for (const TokenizeInput& input : inputs) input_bytes.push_back(io::file_size_bytes(input.path));
    pieces = pieces_of(input_bytes, comm.rank(), comm.size());
    reports = tokenize_pieces(context, inputs, pieces, tokenizer, languages, documents);
  });
  TokenizeResult result = merge_reports(comm, inputs, pieces, reports);
  result.num_tokens = comm::all_reduce_sum(comm, static_cast<std::int64_t>(documents.ids.size()));
  NMOE_CHECK(policy == BadLinePolicy::skip || result.num_bad_lines == 0, bad_data,
             "{} ({} bad lines in all); mend them or set tokenize.bad_line=skip", result.bad_lines.front(),
             result.num_bad_lines);
  NMOE_CHECK(result.num_docs > 0, bad_data, "{} holds no document{}{}", inputs.front().path,
             result.bad_lines.empty() ? "" : ": ", result.bad_lines.empty() ? "" : result.bad_lines.front());
  write_token_file(comm, output, documents, info);
  return result;
}

}  // namespace nmoe::data
