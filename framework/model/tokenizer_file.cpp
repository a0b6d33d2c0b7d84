#include "model/tokenizer_file.h"

#include <algorithm>

#include "core/error.h"
#include "core/text.h"
#include "model/json_part.h"

namespace grinqh {

namespace {

using nlohmann::json;

// Receives the parser's events (the SAX interface of nlohmann-json).
class Reader {
 public:
  explicit Reader(TokenizerFile& file) : file_(file) {}

  bool null() { return scalar(nullptr); }
  bool boolean(bool value) { return scalar(value); }
  bool number_integer(int64_t value) { return scalar(value); }
  bool number_float(double value, const std::string&) { return scalar(value); }
  bool binary(json::binary_t&) { return false; }  // JSON text has none

  bool number_unsigned(uint64_t value) {
    if (section_ != Section::vocab) return scalar(value);
    if (value > uint64_t{kMaxTokenId})
      bad_input("{}: model.vocab: token {} has id {}; allowed: 0 to {}", file_.name, json_text(token_), value,
                kMaxTokenId);
    file_.vocab.emplace_back(std::move(token_), static_cast<int32_t>(value));
    return true;
  }

  bool string(std::string& value) {
    if (section_ != Section::merges) return scalar(std::move(value));
    if (in_pair_)
      pair_.push_back(std::move(value));
    else
      add_merge(value);
    return true;
  }

  bool start_object(size_t) {
    if (section_ != Section::document) refuse_element();
    if (at_model_key("vocab")) {
      section_ = Section::vocab;
      file_.vocab.clear();
    } else {
      open(json::object());
    }
    return true;
  }

  bool key(std::string& value) {
    if (section_ == Section::vocab) {
      token_ = std::move(value);
      return true;
    }
    if (open_.back()->contains(value)) bad_input("{}: {} occurs twice", file_.name, json_text(value));
    keys_.back() = std::move(value);
    return true;
  }

  bool end_object() { return close(); }

  bool start_array(size_t) {
    if (section_ == Section::merges && !in_pair_) {
      in_pair_ = true;
      return true;
    }
    if (section_ != Section::document) refuse_element();
    if (at_model_key("merges")) {
      section_ = Section::merges;
      file_.has_merges = true;
    } else {
      open(json::array());
    }
    return true;
  }

  bool end_array() {
    if (!in_pair_) return close();
    if (pair_.size() != 2) refuse_element();
    file_.merges.emplace_back(std::move(pair_[0]), std::move(pair_[1]));
    pair_.clear();
    in_pair_ = false;
    return true;
  }

  bool parse_error(size_t, const std::string&, const json::exception& error) {
    const std::string_view what = error.what();
    const size_t tag = what.find("] ");  // "[json.exception.parse_error.101] parse error at line 1, ..."
    bad_input("{}: no valid JSON: {}", file_.name,
              tag == std::string_view::npos ? what : what.substr(tag + 2));
  }

 private:
  enum class Section { document, vocab, merges };

  bool scalar(json value) {
    if (section_ != Section::document) refuse_element();
    place(std::move(value));
    return true;
  }

  json& place(json value) {
    if (open_.empty()) return file_.parts = std::move(value);
    json& parent = *open_.back();
    if (parent.is_array()) return parent.emplace_back(std::move(value));
    return parent[keys_.back()] = std::move(value);
  }

  void open(json container) {
    // The parts are read by recursion; a real file has six levels.
    constexpr size_t kMaxDepth = 64;
    if (open_.size() == kMaxDepth) bad_input("{}: nested deeper than {} levels", file_.name, kMaxDepth);
    open_.push_back(&place(std::move(container)));
    keys_.emplace_back();
  }

  bool close() {
    if (section_ != Section::document) {
      section_ = Section::document;
    } else {
      open_.pop_back();
      keys_.pop_back();
    }
    return true;
  }

  bool at_model_key(std::string_view name) const {
    return keys_.size() == 2 && keys_[0] == "model" && keys_[1] == name;
  }

  // "a b", the style of merges before tokenizers 0.20.
  void add_merge(const std::string& text) {
    if (text.starts_with("#version")) return;
    const size_t space = text.find(' ');
    if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos) refuse_element();
    file_.merges.emplace_back(text.substr(0, space), text.substr(space + 1));
  }

  [[noreturn]] void refuse_element() const {
    if (section_ == Section::vocab)
      bad_input("{}: model.vocab: token {} has a value that is no id; allowed: 0 to {}", file_.name,
                json_text(token_), kMaxTokenId);
    bad_input(R"({}: model.merges[{}] is malformed; supported: ["a", "b"] and "a b")", file_.name,
              file_.merges.size());
  }

  TokenizerFile& file_;
  Section section_ = Section::document;
  std::vector<json*> open_;        // the containers around the current place, outermost first
  std::vector<std::string> keys_;  // the current key in each; empty in arrays
  std::string token_;              // key within model.vocab
  bool in_pair_ = false;           // within one ["a", "b"] of model.merges
  std::vector<std::string> pair_;
};

}  // namespace

TokenizerFile::TokenizerFile(const std::filesystem::path& path) : name(path.string()) {
  const std::string text = read_file(name, "the tokenizer");
  Reader reader(*this);
  json::sax_parse(text, &reader);
}

}  // namespace grinqh
