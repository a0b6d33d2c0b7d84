#include "model/safetensors.h"

#include "model_files.h"
#include "support.h"

namespace grinqh {
namespace {

using testing::raw_bytes;
using testing::safetensors_bytes;
using testing::SafetensorsWriter;
using testing::TempDir;
using testing::write_file;

std::string braced(const std::string& members) { return fmt::format("{{{}}}", members); }

class Safetensors : public ::testing::Test {
 protected:
  // The path is in every message; `parts` are what else must be.
  void expect_refused(const std::string& bytes, std::vector<std::string> parts) {
    write_file(path_, bytes);
    parts.push_back(path_.string());
    const std::string message = testing::refusal([&] { SafetensorsFile file(path_); });
    for (const std::string& part : parts) EXPECT_THAT(message, ::testing::HasSubstr(part));
  }
  void expect_header_refused(const std::string& header, const std::vector<std::string>& parts) {
    expect_refused(safetensors_bytes(header, std::string(64, '\0')), parts);
  }
  void expect_entry_refused(const std::string& entry, std::vector<std::string> parts) {
    parts.push_back("'some.tensor'");
    expect_header_refused(braced(R"("some.tensor": )" + entry), parts);
  }

  TempDir folder_;
  std::filesystem::path path_ = folder_ / "some.safetensors";
};

TEST_F(Safetensors, ReadsWhatWasWritten) {
  SafetensorsWriter writer;
  writer.header["__metadata__"] = {{"format", "pt"}};
  writer.add("bytes", "I8", {3}, "abc");  // leaves what follows unaligned
  writer.add_floats("floats", {2, 3}, {1, -2, 3.5f, 4, 5, 6});
  writer.add("halves", "F16", {2}, raw_bytes<uint16_t>({0x3c00, 0xc000}));
  writer.add("brains", "BF16", {1, 2}, raw_bytes<uint16_t>({0x3f80, 0xc000}));
  writer.add("long", "I64", {2, 1}, raw_bytes<int64_t>({-1, int64_t{1} << 40}));
  writer.add("short", "I32", {2}, raw_bytes<int32_t>({-7, 8}));
  writer.add_floats("none", {0, 5}, {});
  writer.add("scalar", "F64", {}, raw_bytes<double>({1.0}));
  writer.write(path_);

  const SafetensorsFile file(path_);
  EXPECT_EQ(file.tensors().size(), 4u);
  const TensorView& floats = file.tensors().at("floats");
  EXPECT_EQ(floats.shape, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(to_float_vector(floats), (std::vector<float>{1, -2, 3.5f, 4, 5, 6}));
  EXPECT_EQ(to_float(floats).view()(1, 0), 4.0f);
  EXPECT_EQ(to_float_vector(file.tensors().at("halves")), (std::vector<float>{1, -2}));
  EXPECT_EQ(file.tensors().at("brains").dtype, DType::bf16);
  EXPECT_EQ(to_float_vector(file.tensors().at("brains")), (std::vector<float>{1, -2}));
  EXPECT_TRUE(file.tensors().at("none").empty());
  EXPECT_EQ(file.integers().at("long"), (std::vector<int64_t>{-1, int64_t{1} << 40}));
  EXPECT_EQ(file.integers().at("short"), (std::vector<int64_t>{-7, 8}));
  const std::map<std::string, std::string, std::less<>> others = {
      {"bytes", "I8"}, {"long", "I64"}, {"short", "I32"}, {"scalar", "F64"}};
  EXPECT_EQ(file.other_dtypes(), others);
}

TEST_F(Safetensors, AFileWithoutTensorsIsValid) {
  write_file(path_, safetensors_bytes("{}  ", ""));
  EXPECT_TRUE(SafetensorsFile(path_).tensors().empty());
}

TEST_F(Safetensors, RefusesWhatIsNoFile) {
  EXPECT_REFUSED(SafetensorsFile(path_), path_.string(), "No such file");
  EXPECT_REFUSED(SafetensorsFile(folder_.path()), folder_.path().string(), "not a regular file");
}

TEST_F(Safetensors, RefusesHeaderLengths) {
  expect_refused("", {"0 bytes are too few"});
  expect_refused("1234567", {"7 bytes are too few"});
  const std::string data(100, '\0');
  for (const uint64_t length :
       {uint64_t{0}, uint64_t{1}, uint64_t{101}, uint64_t{1} << 31, uint64_t{1} << 63, ~uint64_t{0}})
    expect_refused(raw_bytes<uint64_t>({length}) + data,
                   {fmt::format("header length {} ", length), "2 to 100"});
}

TEST_F(Safetensors, RefusesAHeaderBeyondTheFormatsLimit) {
  write_file(path_, raw_bytes<uint64_t>({100'000'001}) + "{}");
  std::filesystem::resize_file(path_, 200'000'000);  // sparse
  EXPECT_REFUSED(SafetensorsFile(path_), "header length 100000001", "2 to 100000000");
}

TEST_F(Safetensors, RefusesMalformedHeaders) {
  expect_header_refused("[]", {"does not begin with '{'"});
  expect_header_refused("  {}", {"does not begin with '{'"});
  expect_header_refused("{\"a\": ", {"not valid JSON at byte"});
  expect_header_refused("{\"a\": 1e400}", {"not valid JSON", "1e400"});
  expect_header_refused("{\"\xff\xfe\": 1}", {"not valid JSON", "UTF-8"});
  expect_header_refused("{\"a\": \"\xc3\x28\n\"}", {"not valid JSON", "UTF-8"});
  expect_header_refused("{} {}", {"not valid JSON"});
  expect_header_refused("{\"line\\nbreak\": 5}", {"'line\\x0abreak' is 5, expected an object"});
  expect_header_refused(R"({"__metadata__": []})", {"'__metadata__' is a list"});
  expect_header_refused(R"({"__metadata__": {"format": 1}})", {"'format' is 1, expected a string"});
  const std::string unterminated = "{\"" + std::string(1000, 'x');
  expect_header_refused(unterminated, {"not valid JSON", "..."});
}

TEST_F(Safetensors, RefusesDeepNestingWithoutRecursion) {
  for (const std::string opening : {"[", "{\"a\":"}) {
    std::string header = "{\"a\":";
    for (int i = 0; i < 1'000'000; ++i) header += opening;
    expect_header_refused(header, {"nested deeper than"});
  }
}

TEST_F(Safetensors, RefusesARepeatedName) {
  const std::string entry = R"("some.tensor": {"dtype": "F32", "shape": [16], "data_offsets": [0, 64]})";
  expect_header_refused(braced(entry + "," + entry), {"'some.tensor' occurs twice"});
  expect_header_refused(R"({"some.tensor": {"dtype": "F32", "dtype": "F16"}})", {"'dtype' occurs twice"});
}

TEST_F(Safetensors, RefusesMalformedEntries) {
  expect_entry_refused("7", {"is 7, expected an object"});
  expect_entry_refused("null", {"is null, expected an object"});
  expect_entry_refused(R"({"shape": [16], "data_offsets": [0, 64]})", {"'dtype' is missing"});
  expect_entry_refused(R"({"dtype": 32, "shape": [16], "data_offsets": [0, 64]})", {"'dtype' is 32"});
  expect_entry_refused(R"({"dtype": "F31", "shape": [16], "data_offsets": [0, 64]})",
                       {"'dtype' is 'F31'", "F32"});
  expect_entry_refused(R"({"dtype": "F32", "data_offsets": [0, 64]})", {"'shape' is missing"});
  expect_entry_refused(R"({"dtype": "F32", "shape": 16, "data_offsets": [0, 64]})", {"'shape' is 16"});
  expect_entry_refused(R"({"dtype": "F32", "shape": [4, "4"], "data_offsets": [0, 64]})",
                       {"'shape'[1] is '4'"});
  expect_entry_refused(R"({"dtype": "F32", "shape": [4, 4.0], "data_offsets": [0, 64]})",
                       {"'shape'[1] is 4.0"});
  expect_entry_refused(R"({"dtype": "F32", "shape": [-16], "data_offsets": [0, 64]})", {"'shape'[0] is -16"});
  expect_entry_refused(R"({"dtype": "F32", "shape": [18446744073709551615], "data_offsets": [0, 64]})",
                       {"'shape'[0] is 18446744073709551615"});
  expect_entry_refused(R"({"dtype": "F32", "shape": [16]})", {"'data_offsets' is missing"});
}

TEST_F(Safetensors, RefusesSizesThatOverflow) {
  // 2^64 elements wrap to none, 2^62 bytes of 4 wrap to none.
  expect_entry_refused(R"({"dtype": "F32", "shape": [4294967296, 4294967296], "data_offsets": [0, 0]})",
                       {"overflows"});
  expect_entry_refused(R"({"dtype": "F32", "shape": [4611686018427387904], "data_offsets": [0, 0]})",
                       {"overflows"});
  expect_entry_refused(R"({"dtype": "I8", "shape": [9223372036854775807, 2], "data_offsets": [0, 64]})",
                       {"overflows"});
}

TEST_F(Safetensors, RefusesOffsetsThatDoNotFit) {
  const auto with_offsets = [](const std::string& offsets) {
    return R"({"dtype": "F32", "shape": [16], "data_offsets": )" + offsets + "}";
  };
  expect_entry_refused(with_offsets("[64, 0]"), {"data_offsets are [64, 0]", "in order"});
  expect_entry_refused(with_offsets("[0, 65]"), {"at most 64"});
  expect_entry_refused(with_offsets("[0]"), {"data_offsets are [0]"});
  expect_entry_refused(with_offsets("[0, 32, 64]"), {"data_offsets are [0, 32, 64]"});
  expect_entry_refused(with_offsets("[-64, 0]"), {"'data_offsets'[0] is -64"});
  expect_entry_refused(with_offsets("[0, 9223372036854775807]"), {"at most 64"});
  expect_entry_refused(with_offsets("[0, 99999999999999999999]"), {"'data_offsets'[1]"});
  expect_entry_refused(with_offsets("[0, 60]"), {"span 60 bytes", "shape [16] of F32 takes 512 bits"});
  expect_entry_refused(R"({"dtype": "F4", "shape": [3], "data_offsets": [0, 1]})", {"takes 12 bits"});
}

TEST_F(Safetensors, RefusesOverlapsHolesAndRests) {
  const auto entry = [](const char* name, int begin, int end) {
    return fmt::format(R"("{}": {{"dtype": "I8", "shape": [{}], "data_offsets": [{}, {}]}})", name,
                       end - begin, begin, end);
  };
  const auto two = [&](int end, int begin) {
    return braced(entry("b", 0, end) + "," + entry("a", begin, 64));
  };
  write_file(path_, safetensors_bytes(two(32, 32), std::string(64, '\0')));
  EXPECT_EQ(SafetensorsFile(path_).other_dtypes().size(), 2u);
  expect_header_refused(two(33, 32), {"'a'", "begin at 32, expected 33", "overlap"});
  expect_header_refused(two(31, 32), {"'a'", "begin at 32, expected 31", "holes"});
  expect_header_refused(braced(entry("a", 0, 60)), {"4 bytes after the last tensor"});
  expect_header_refused(braced(entry("a", 4, 64)), {"'a'", "begin at 4, expected 0"});
}

TEST_F(Safetensors, RefusesEveryTruncation) {
  SafetensorsWriter writer;
  writer.add_floats("a", {2}, {1, 2}).add("b", "F16", {1}, "xy");
  const std::string whole = writer.bytes();
  for (size_t size = 0; size < whole.size(); ++size) expect_refused(whole.substr(0, size), {});
  expect_refused(whole + "x", {"1 bytes after the last tensor"});
}

}  // namespace
}  // namespace grinqh
