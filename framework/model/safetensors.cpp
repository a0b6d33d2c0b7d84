#include "model/safetensors.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>

#include "core/error.h"
#include "core/text.h"
#include "model/json_reader.h"

namespace grinqh {

namespace {

static_assert(std::endian::native == std::endian::little, "tensors are used as the file holds them");

using Bytes = std::span<const std::byte>;

constexpr size_t kLengthBytes = 8;
constexpr uint64_t kMaxHeader = 100'000'000;  // the official library's limit
constexpr std::string_view kMetadata = "__metadata__";

// All types of the format and their bits an element.
const std::map<std::string, int64_t, std::less<>> kStoredTypes = {
    {"BOOL", 8},    {"F4", 4},      {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"U8", 8},   {"I8", 8},    {"F8_E5M2", 8},
    {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"I16", 16},    {"U16", 16},    {"F16", 16}, {"BF16", 16}, {"I32", 32},
    {"U32", 32},    {"F32", 32},    {"C64", 64},    {"F64", 64},    {"I64", 64}, {"U64", 64}};

struct Entry {
  std::string name;
  std::string dtype;
  std::vector<int64_t> shape;
  int64_t begin, end;  // in the data, which starts after the header
};

JsonObject read_header(Bytes file, const std::string& path) {
  if (file.size() < kLengthBytes + 2)
    bad_input("{}: {} bytes are too few for a safetensors file (truncated?)", path, file.size());
  uint64_t length = 0;
  std::memcpy(&length, file.data(), kLengthBytes);
  const uint64_t longest = std::min<uint64_t>(file.size() - kLengthBytes, kMaxHeader);
  if (length < 2 || length > longest)
    bad_input(
        "{}: header length {} of a file of {} bytes, allowed: 2 to {} (truncated, or no safetensors file?)",
        path, length, file.size(), longest);
  const std::string_view text(reinterpret_cast<const char*>(file.data()) + kLengthBytes, length);
  if (text.front() != '{') bad_input("{}: header does not begin with '{{': no safetensors file?", path);
  return JsonObject::parse(text, path);
}

Entry read_entry(const JsonObject& header, const std::string& name, int64_t data_size) {
  constexpr IntegerRange kSizes{0, std::numeric_limits<int64_t>::max()};
  const JsonObject json = header.object(name);
  Entry entry{name, json.text("dtype"), json.integers("shape", kSizes), 0, 0};
  const auto type = kStoredTypes.find(entry.dtype);
  if (type == kStoredTypes.end()) {
    std::vector<std::string> known;
    for (const auto& [known_name, bits] : kStoredTypes) known.push_back(known_name);
    json.refuse("dtype", "one of " + join(known, ", "));
  }
  int64_t bits = type->second;
  int64_t elements = 1;
  for (const int64_t extent : entry.shape)
    if (__builtin_mul_overflow(elements, extent, &elements))
      bad_input("{}: the product of shape [{}] overflows", json.where(), fmt::join(entry.shape, ", "));
  if (__builtin_mul_overflow(bits, elements, &bits))
    bad_input("{}: the size of shape [{}] overflows", json.where(), fmt::join(entry.shape, ", "));

  const std::vector<int64_t> offsets = json.integers("data_offsets", kSizes);
  if (offsets.size() != 2 || offsets[0] > offsets[1] || offsets[1] > data_size)
    bad_input("{}: data_offsets are [{}], expected [begin, end] in order and at most {}, where the file ends",
              json.where(), fmt::join(offsets, ", "), data_size);
  entry.begin = offsets[0];
  entry.end = offsets[1];
  if (bits % 8 != 0 || bits / 8 != entry.end - entry.begin)
    bad_input("{}: data_offsets span {} bytes, but shape [{}] of {} takes {} bits", json.where(),
              entry.end - entry.begin, fmt::join(entry.shape, ", "), entry.dtype, bits);
  return entry;
}

// In the order of their bytes, which follow one another from 0 to data_size.
std::vector<Entry> read_entries(const JsonObject& header, int64_t data_size) {
  std::vector<Entry> entries;
  for (const std::string& name : header.keys())
    if (name != kMetadata) entries.push_back(read_entry(header, name, data_size));
  std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
    return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name);
  });
  int64_t covered = 0;
  for (const Entry& entry : entries) {
    if (entry.begin != covered)
      bad_input("{}: {}: data_offsets begin at {}, expected {}: tensors may not {}", header.where(),
                in_quotes(entry.name), entry.begin, covered,
                entry.begin < covered ? "overlap" : "leave holes");
    covered = entry.end;
  }
  if (covered != data_size)
    bad_input("{}: {} bytes after the last tensor, expected none", header.where(), data_size - covered);
  return entries;
}

void check_metadata(const JsonObject& header) {
  if (!header.has(kMetadata)) return;
  const JsonObject metadata = header.object(kMetadata);
  for (const std::string& key : metadata.keys()) metadata.text(key);
}

template <class T>
std::vector<int64_t> widen(Bytes bytes) {
  std::vector<int64_t> values(bytes.size() / sizeof(T));
  for (size_t i = 0; i < values.size(); ++i) {
    T value;
    std::memcpy(&value, bytes.data() + i * sizeof(T), sizeof(T));
    values[i] = value;
  }
  return values;
}

}  // namespace

SafetensorsFile::SafetensorsFile(const std::filesystem::path& path) : path_(path), file_(path) {
  const Bytes bytes = file_.bytes();
  const JsonObject header = read_header(bytes, path.string());
  uint64_t header_size = 0;
  std::memcpy(&header_size, bytes.data(), kLengthBytes);
  const Bytes data = bytes.subspan(kLengthBytes + header_size);
  check_metadata(header);
  for (Entry& entry : read_entries(header, static_cast<int64_t>(data.size()))) {
    const Bytes content =
        data.subspan(static_cast<size_t>(entry.begin), static_cast<size_t>(entry.end - entry.begin));
    const auto add_float = [&](DType type) {
      tensors_.emplace(std::move(entry.name), TensorView{type, std::move(entry.shape), content});
    };
    if (entry.dtype == to_string(DType::f32)) {
      add_float(DType::f32);
    } else if (entry.dtype == to_string(DType::f16)) {
      add_float(DType::f16);
    } else if (entry.dtype == to_string(DType::bf16)) {
      add_float(DType::bf16);
    } else {
      if (entry.dtype == "I64") integers_.emplace(entry.name, widen<int64_t>(content));
      if (entry.dtype == "I32") integers_.emplace(entry.name, widen<int32_t>(content));
      other_dtypes_.emplace(std::move(entry.name), std::move(entry.dtype));
    }
  }
}

}  // namespace grinqh
