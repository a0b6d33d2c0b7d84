// Text, ids and decoded text as the `tokenizers` library computed them.
#include <fstream>

#include "core/json.h"
#include "model/tokenizer.h"
#include "support.h"

namespace grinqh {
namespace {

// Folders with a tokenizer.json and its cases, from the root of the repository.
std::vector<std::string> folders() {
  std::vector<std::string> names = {"../shared/models/llama-tiny", "../shared/models/qwen3-tiny",
                                    "../shared/data/tokenizers/llama3", "../shared/data/tokenizers/qwen2.5"};
  std::error_code absent;
  const std::filesystem::path models = testing::source_dir() / "experiments" / "models";
  for (const auto& entry : std::filesystem::directory_iterator(models, absent))
    if (exists(entry.path() / "golden" / "tokenizer_cases.json"))
      names.push_back("experiments/models/" + entry.path().filename().string());
  return names;
}

class TokenizerGolden : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    const std::string shared = "../shared/";
    if (GetParam().starts_with(shared)) {
      GRINQH_NEED_SHARED(GetParam().substr(shared.size()));
    }
    folder_ = testing::source_dir() / GetParam();
  }
  std::filesystem::path folder_;
};

TEST_P(TokenizerGolden, AgreesExactly) {
  std::filesystem::path file = folder_ / "golden" / "tokenizer_cases.json";
  if (!exists(file)) file = folder_ / "cases.json";
  const Json cases = Json::parse(std::ifstream(file));
  ASSERT_FALSE(cases.empty());
  const Tokenizer tokenizer(folder_ / "tokenizer.json");
  for (const Json& item : cases) {
    const std::string text = item["text"];
    const std::vector<int32_t> ids = item["ids"];
    EXPECT_EQ(tokenizer.encode(text), ids) << text;
    if (item.contains("ids_with_special")) {
      const std::vector<int32_t> with_special = item["ids_with_special"];
      EXPECT_EQ(tokenizer.encode(text, true), with_special) << text;
    }
    if (item.contains("decoded")) {
      EXPECT_EQ(tokenizer.decode(ids), item["decoded"].get<std::string>()) << text;
    }
  }
}

TEST_P(TokenizerGolden, RoundTripsBooks) {
  GRINQH_NEED_SHARED("data/text/books.valid.txt");
  std::ifstream file(testing::shared_dir() / "data/text/books.valid.txt", std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  const Tokenizer tokenizer(folder_ / "tokenizer.json");
  EXPECT_EQ(tokenizer.decode(tokenizer.encode(text)), text);
}

INSTANTIATE_TEST_SUITE_P(Folders, TokenizerGolden, ::testing::ValuesIn(folders()), [](const auto& test) {
  std::string name = test.param;
  for (char& c : name)
    if (!std::isalnum(static_cast<unsigned char>(c))) c = '_';
  return name;
});

}  // namespace
}  // namespace grinqh
