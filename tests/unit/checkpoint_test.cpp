#include "model/checkpoint.h"

#include <cmath>

#include "model_files.h"
#include "support.h"

namespace grinqh {
namespace {

using testing::SafetensorsWriter;
using testing::TempDir;
using testing::write_file;

constexpr const char* kSingle = "model.safetensors";
constexpr const char* kIndex = "model.safetensors.index.json";

void write_index(const std::filesystem::path& folder, const Json& weight_map) {
  write_file(folder / kIndex, Json{{"metadata", Json::object()}, {"weight_map", weight_map}}.dump());
}

// "a" in one shard, "b" in another.
void write_shards(const std::filesystem::path& folder) {
  SafetensorsWriter().add_floats("a", {2}, {1, 2}).write(folder / "one.safetensors");
  SafetensorsWriter().add_floats("b", {1, 2}, {3, 4}).write(folder / "two.safetensors");
  write_index(folder, {{"b", "two.safetensors"}, {"a", "one.safetensors"}});
}

TEST(Checkpoint, RefusesFoldersWithoutWeights) {
  const TempDir folder;
  EXPECT_REFUSED(Checkpoint(folder / "nothing"), (folder / "nothing").string(), "no such model folder");
  EXPECT_REFUSED(Checkpoint(folder.path()), folder.path().string(), kSingle, kIndex);
}

TEST(Checkpoint, ReadsASingleFileAndShardsAlike) {
  const TempDir single, sharded;
  SafetensorsWriter().add_floats("b", {1, 2}, {3, 4}).add_floats("a", {2}, {1, 2}).write(single / kSingle);
  write_shards(sharded.path());
  const Checkpoint one(single.path()), many(sharded.path());
  for (const Checkpoint* checkpoint : {&one, &many}) {
    EXPECT_TRUE(checkpoint->contains("a"));
    EXPECT_FALSE(checkpoint->contains("c"));
    EXPECT_EQ(to_float_vector(checkpoint->at("a", {2})), (std::vector<float>{1, 2}));
    EXPECT_EQ(to_float_vector(checkpoint->at("b", {1, 2})), (std::vector<float>{3, 4}));
  }
  EXPECT_EQ(one.digest(), many.digest());
}

TEST(Checkpoint, DigestCoversNamesTypesShapesAndContents) {
  const auto digest_of_file = [](const SafetensorsWriter& writer) {
    const TempDir folder;
    writer.write(folder / kSingle);
    return Checkpoint(folder.path()).digest();
  };
  const std::string bytes = "12345678";
  const std::vector<std::string> digests = {
      digest_of_file(SafetensorsWriter().add("a", "F16", {4}, bytes)),
      digest_of_file(SafetensorsWriter().add("b", "F16", {4}, bytes)),
      digest_of_file(SafetensorsWriter().add("a", "BF16", {4}, bytes)),
      digest_of_file(SafetensorsWriter().add("a", "F16", {2, 2}, bytes)),
      digest_of_file(SafetensorsWriter().add("a", "F16", {4}, "12345679")),
      digest_of_file(SafetensorsWriter().add("a", "F16", {4}, bytes).add("c", "F16", {4}, bytes))};
  for (size_t i = 0; i < digests.size(); ++i)
    for (size_t j = 0; j < i; ++j) EXPECT_NE(digests[i], digests[j]) << i << " " << j;
  EXPECT_EQ(digests[0], digest_of_file(SafetensorsWriter().add("a", "F16", {4}, bytes)));
}

TEST(Checkpoint, RefusesTensorsThatAreNotAsExpected) {
  const TempDir folder;
  const std::string file = (folder / kSingle).string();
  SafetensorsWriter writer;
  writer.add_floats("model.norm.weight", {3}, {1, 2, 3});
  writer.add("model.embed.weight", "F64", {1}, "12345678");
  writer.add("model.ids", "I64", {1}, "12345678");
  writer.add_floats("nan", {4}, {1, 2, NAN, INFINITY});
  writer.add("infinite", "F16", {1, 2}, testing::raw_bytes<uint16_t>({0x7bff, 0xfc00}));
  writer.write(folder / kSingle);
  const Checkpoint checkpoint(folder.path());
  EXPECT_REFUSED(checkpoint.at("model.norm.weigth", {3}), file, "'model.norm.weigth' is missing",
                 "'model.norm.weight'");
  EXPECT_REFUSED(checkpoint.at("lm_head.weight", {3}), file, "'lm_head.weight' is missing");
  EXPECT_REFUSED(checkpoint.at("model.norm.weight", {3, 1}), file, "'model.norm.weight'", "[3]",
                 "expected [3, 1]");
  EXPECT_REFUSED(checkpoint.at("model.embed.weight", {1}), file, "'model.embed.weight'", "F64", "BF16");
  EXPECT_REFUSED(checkpoint.at("model.ids", {1}), file, "'model.ids'", "I64");
  EXPECT_REFUSED(checkpoint.at("nan", {4}), file, "'nan' holds nan at element 2");
  EXPECT_REFUSED(checkpoint.at("infinite", {1, 2}), file, "'infinite' holds -inf at element 1");
}

TEST(Checkpoint, RefusesMalformedIndexes) {
  const TempDir folder;
  write_shards(folder.path());
  const std::string file = (folder / kIndex).string();
  const auto expect_refused = [&](const Json& weight_map, const std::vector<std::string>& parts) {
    write_index(folder.path(), weight_map);
    const std::string message = testing::refusal([&] { Checkpoint checkpoint(folder.path()); });
    for (const std::string& part : parts) EXPECT_THAT(message, ::testing::HasSubstr(part));
    EXPECT_THAT(message, ::testing::HasSubstr(file));
  };
  expect_refused({{"a", "three.safetensors"}}, {"'a'", "'three.safetensors'", "not in the folder"});
  expect_refused({{"a", "two.safetensors"}}, {"'a'", "'two.safetensors'", "not in its shard"});
  expect_refused({{"a", 1}}, {"'a' is 1, expected a string"});
  expect_refused(Json::array(), {"'weight_map' is a list"});
  const std::string outside = (folder / "one.safetensors").string();
  for (const std::string& shard :
       {std::string("../one.safetensors"), outside, std::string("./one.safetensors"), std::string(".."),
        std::string("."), std::string(""), std::string("one.safetensors\0", 16)})
    expect_refused({{"a", shard}}, {"'a'", "not the name of a file"});
  write_file(folder / kIndex, "{");
  EXPECT_REFUSED(Checkpoint(folder.path()), file, "not valid JSON");
  write_file(folder / kIndex, "{}");
  EXPECT_REFUSED(Checkpoint(folder.path()), file, "'weight_map' is missing");
}

}  // namespace
}  // namespace grinqh
