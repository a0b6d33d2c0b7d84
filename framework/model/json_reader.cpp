#include "model/json_reader.h"

#include <limits>
#include <set>

#include "core/error.h"
#include "core/text.h"

namespace grinqh {

namespace {

// Bytes other than printable ASCII as \\xNN; cut when long.
std::string printable(std::string_view text) {
  constexpr size_t kLongest = 160;
  std::string result;
  for (const char c : text.substr(0, kLongest)) {
    if (c >= 0x20 && c <= 0x7e)
      result += c;
    else
      result += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
  }
  return result + (text.size() > kLongest ? "..." : "");
}

// Real files nest 4 deep. The library parses without recursion, but not everything it does with a tree is so.
constexpr size_t kMaxDepth = 64;

// Walks the text without building anything and notes the first thing that is wrong with it.
class Guard : public nlohmann::json_sax<JsonTree> {
 public:
  const std::string& problem() const { return problem_; }

  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(number_integer_t) override { return true; }
  bool number_unsigned(number_unsigned_t) override { return true; }
  bool number_float(number_float_t, const string_t&) override { return true; }
  bool string(string_t&) override { return true; }
  bool binary(binary_t&) override { return true; }
  bool start_object(size_t) override { return open(); }
  bool start_array(size_t) override { return open(); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }
  bool key(string_t& name) override {
    if (keys_.back().insert(name).second) return true;
    problem_ = fmt::format("key {} occurs twice in one object", in_quotes(name));
    return false;
  }
  bool parse_error(size_t position, const std::string&, const nlohmann::json::exception& error) override {
    std::string_view reason = error.what();
    // Without the library's "[json.exception.parse_error.101] parse error at line 1, column 2: ".
    for (const std::string_view prefix : {"] ", ": "})
      if (const size_t at = reason.find(prefix); at != std::string_view::npos) reason.remove_prefix(at + 2);
    problem_ = fmt::format("not valid JSON at byte {}: {}", position, printable(reason));
    return false;
  }

 private:
  bool open() {
    keys_.emplace_back();
    if (keys_.size() <= kMaxDepth) return true;
    problem_ = fmt::format("JSON nested deeper than {} levels", kMaxDepth);
    return false;
  }
  bool close() {
    keys_.pop_back();
    return true;
  }

  std::vector<std::set<std::string>> keys_;  // of each level that is open; empty for arrays
  std::string problem_;
};

std::string describe(const JsonTree& value) {
  if (value.is_string()) return in_quotes(value.get_ref<const std::string&>());
  if (value.is_array()) return fmt::format("a list of {}", value.size());
  if (value.is_object()) return "an object";
  return value.dump();
}

std::string describe(IntegerRange range) {
  return range.high == std::numeric_limits<int64_t>::max()
             ? fmt::format("at least {}", range.low)
             : fmt::format("from {} to {}", range.low, range.high);
}

bool is_integer_in(const JsonTree& value, IntegerRange range) {
  if (value.is_number_unsigned()) {
    const auto number = value.get<uint64_t>();
    return number <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max()) &&
           static_cast<int64_t>(number) >= range.low && static_cast<int64_t>(number) <= range.high;
  }
  return value.is_number_integer() && value.get<int64_t>() >= range.low && value.get<int64_t>() <= range.high;
}

}  // namespace

std::string in_quotes(std::string_view text) { return fmt::format("'{}'", printable(text)); }

JsonObject::JsonObject(std::string where, std::shared_ptr<const JsonTree> tree)
    : where_(std::move(where)), tree_(std::move(tree)) {}

JsonObject JsonObject::parse(std::string_view text, std::string where) {
  Guard guard;
  if (!JsonTree::sax_parse(text, &guard)) bad_input("{}: {}", where, guard.problem());
  auto tree = std::make_shared<const JsonTree>(JsonTree::parse(text));
  if (!tree->is_object()) bad_input("{}: the JSON text is {}, expected an object", where, describe(*tree));
  return {std::move(where), std::move(tree)};
}

JsonObject JsonObject::read(const std::filesystem::path& file, std::string_view what) {
  return parse(read_file(file.string(), what), file.string());
}

bool JsonObject::has(std::string_view key) const {
  const auto it = tree_->find(key);
  return it != tree_->end() && !it->is_null();
}

bool JsonObject::is_list(std::string_view key) const {
  const auto it = tree_->find(key);
  return it != tree_->end() && it->is_array();
}

std::vector<std::string> JsonObject::keys() const {
  std::vector<std::string> result;
  for (const auto& [key, value] : tree_->items()) result.push_back(key);
  return result;
}

void JsonObject::refuse(std::string_view key, std::string_view expected) const {
  const auto it = tree_->find(key);
  bad_input("{}: {} is {}, expected {}", where_, in_quotes(key),
            it == tree_->end() ? "missing" : describe(*it), expected);
}

const JsonTree& JsonObject::at(std::string_view key, std::string_view expected) const {
  const auto it = tree_->find(key);
  if (it == tree_->end()) refuse(key, expected);
  return *it;
}

int64_t JsonObject::integer(std::string_view key, IntegerRange range) const {
  const std::string expected = "an integer " + describe(range);
  const JsonTree& value = at(key, expected);
  if (!is_integer_in(value, range)) refuse(key, expected);
  return value.get<int64_t>();
}

double JsonObject::real(std::string_view key, RealRange range) const {
  const std::string expected = fmt::format("a number from {} to {}", range.low, range.high);
  const JsonTree& value = at(key, expected);
  if (!value.is_number()) refuse(key, expected);
  const auto number = value.get<double>();
  if (!(number >= range.low && number <= range.high)) refuse(key, expected);
  return number;
}

bool JsonObject::boolean(std::string_view key) const {
  const JsonTree& value = at(key, "true or false");
  if (!value.is_boolean()) refuse(key, "true or false");
  return value.get<bool>();
}

std::string JsonObject::text(std::string_view key) const {
  const JsonTree& value = at(key, "a string");
  if (!value.is_string()) refuse(key, "a string");
  return value.get<std::string>();
}

std::vector<int64_t> JsonObject::integers(std::string_view key, IntegerRange range) const {
  const std::string expected = "a list of integers " + describe(range);
  const JsonTree& list = at(key, expected);
  if (!list.is_array()) refuse(key, expected);
  std::vector<int64_t> result;
  result.reserve(list.size());
  for (const JsonTree& value : list) {
    if (!is_integer_in(value, range))
      bad_input("{}: {}[{}] is {}, expected {}", where_, in_quotes(key), result.size(), describe(value),
                expected);
    result.push_back(value.get<int64_t>());
  }
  return result;
}

std::vector<std::string> JsonObject::texts(std::string_view key) const {
  const JsonTree& list = at(key, "a list of strings");
  if (!list.is_array()) refuse(key, "a list of strings");
  std::vector<std::string> result;
  for (const JsonTree& value : list) {
    if (!value.is_string())
      bad_input("{}: {}[{}] is {}, expected a string", where_, in_quotes(key), result.size(),
                describe(value));
    result.push_back(value.get<std::string>());
  }
  return result;
}

JsonObject JsonObject::object(std::string_view key) const {
  const JsonTree& value = at(key, "an object");
  if (!value.is_object()) refuse(key, "an object");
  return {fmt::format("{}: {}", where_, in_quotes(key)), std::shared_ptr<const JsonTree>(tree_, &value)};
}

int64_t JsonObject::integer_or(int64_t fallback, std::string_view key, IntegerRange range) const {
  return has(key) ? integer(key, range) : fallback;
}

double JsonObject::real_or(double fallback, std::string_view key, RealRange range) const {
  return has(key) ? real(key, range) : fallback;
}

bool JsonObject::boolean_or(bool fallback, std::string_view key) const {
  return has(key) ? boolean(key) : fallback;
}

}  // namespace grinqh
