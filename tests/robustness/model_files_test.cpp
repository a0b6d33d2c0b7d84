// Damaged model folders: whatever the damage, load_model() returns a model or throws BadInput of one line.
#include <cstdlib>
#include <map>

#include "core/text.h"
#include "model/model.h"
#include "model_files.h"
#include "support.h"

namespace grinqh {
namespace {

using testing::TempDir;
using testing::write_file;

// GRINQH_FUZZ_COUNT=2000 for a thorough run.
int mutation_count() {
  const char* count = std::getenv("GRINQH_FUZZ_COUNT");
  return count ? std::atoi(count) : 300;
}

class Mutator {
 public:
  explicit Mutator(uint64_t seed) : random_(seed) {}

  size_t below(size_t limit) { return limit == 0 ? 0 : random_() % limit; }

  // Damages the part that is structure (a safetensors header, or all of a JSON file), sometimes the data.
  std::string operator()(std::string bytes, bool safetensors) {
    size_t head = bytes.size();
    if (safetensors) {
      uint64_t length = 0;
      std::memcpy(&length, bytes.data(), 8);
      head = 8 + length;
    }
    switch (below(7)) {
      case 0:
        bytes.resize(below(bytes.size()));
        break;
      case 1:
        set_length(bytes);
        break;
      case 2:
        for (size_t n = 1 + below(12); n > 0; --n) bytes[below(head)] = static_cast<char>(below(256));
        break;
      case 3:
        bytes.replace(below(head), 1 + below(40), printable(below(40)));
        break;
      case 4:
        bytes.insert(safetensors ? 8 + below(head - 8) : below(head), token());
        break;
      case 5:
        replace_number(bytes, head);
        break;
      case 6:
        bytes[below(bytes.size())] = static_cast<char>(0xff);
        break;
    }
    return bytes;
  }

 private:
  void set_length(std::string& bytes) {
    const uint64_t size = bytes.size();
    const uint64_t lengths[] = {
        0, 1, 2, size - 8, size - 7, size, size * 7, uint64_t{1} << 31, uint64_t{1} << 63, ~uint64_t{0}};
    std::memcpy(bytes.data(), &lengths[below(std::size(lengths))], std::min<size_t>(8, bytes.size()));
  }
  std::string printable(size_t length) {
    std::string text(length, ' ');
    for (char& c : text) c = static_cast<char>(32 + below(95));
    return text;
  }
  std::string token() {
    static const std::vector<std::string> kTokens = {
        "-1", "99999999999999", "null", "[[[[", "\"", "1e400", "{}", ",", "\xff", "\\u0000", "0"};
    return kTokens[below(kTokens.size())];
  }
  // One digit becomes another: valid JSON with other sizes and offsets.
  void replace_number(std::string& bytes, size_t head) {
    const size_t start = bytes.find_first_of("0123456789", below(head));
    if (start < head) bytes[start] = static_cast<char>('0' + below(10));
  }

  std::mt19937_64 random_;
};

// Damages one of `names` in a copy of `source`, `count` times.
void fuzz(const std::filesystem::path& source, const std::vector<std::string>& names, int count,
          uint64_t seed) {
  const TempDir copy;
  std::map<std::string, std::string> originals;
  for (const auto& entry : std::filesystem::directory_iterator(source)) {
    const std::string name = entry.path().filename().string();
    originals[name] = read_file(entry.path().string(), "file of the model");
    write_file(copy / name, originals[name]);
  }
  Mutator mutate(seed);
  int loaded = 0, refused = 0;
  for (int i = 0; i < count; ++i) {
    const std::string& name = names[static_cast<size_t>(i) % names.size()];
    write_file(copy / name, mutate(originals.at(name), name.ends_with(".safetensors")));
    try {
      load_model(copy.path());
      ++loaded;
    } catch (const BadInput& error) {
      ++refused;
      const std::string message = error.what();
      EXPECT_THAT(message, ::testing::HasSubstr(copy.path().string())) << "mutation " << i << " of " << name;
      EXPECT_LT(message.size(), 2000u) << "mutation " << i << " of " << name;
      for (const char c : message) EXPECT_TRUE(c >= 0x20 && c <= 0x7e) << "mutation " << i << ": " << message;
    } catch (const std::exception& error) {
      ADD_FAILURE() << "mutation " << i << " of " << name << ": not BadInput: " << error.what();
    }
    write_file(copy / name, originals.at(name));
  }
  // A fuzz test that never loads or never refuses anything tests nothing.
  EXPECT_GT(refused, count / 4);
  EXPECT_GT(loaded, 0);
  ::testing::Test::RecordProperty("loaded", loaded);
  ::testing::Test::RecordProperty("refused", refused);
}

TEST(DamagedModels, HandBuilt) {
  const TempDir folder;
  testing::write_tiny_model(folder.path());
  write_file(folder / "generation_config.json", R"({"eos_token_id": [1, 2], "bos_token_id": 0})");
  fuzz(folder.path(), {"model.safetensors", "config.json", "generation_config.json"}, mutation_count(), 1);
}

TEST(DamagedModels, HandBuiltShards) {
  const TempDir folder;
  testing::write_tiny_model(folder.path());
  std::filesystem::remove(folder / "model.safetensors");
  const std::vector<testing::NamedShape> tensors = testing::tiny_tensors();
  Json weight_map;
  for (size_t i = 0; i < tensors.size(); ++i) {
    const std::string shard = fmt::format("shard-{}.safetensors", i);
    testing::SafetensorsWriter file;
    add_tensors(file, {tensors[i]});
    file.write(folder / shard);
    weight_map[tensors[i].name] = shard;
  }
  write_file(folder / "model.safetensors.index.json", Json{{"weight_map", weight_map}}.dump(1));
  fuzz(folder.path(), {"model.safetensors.index.json", "shard-3.safetensors"}, mutation_count(), 2);
}

TEST(DamagedModels, Golden) {
  GRINQH_NEED_SHARED("golden/qwen2_bias");
  fuzz(testing::shared_dir() / "golden/qwen2_bias", {"model.safetensors", "config.json"}, mutation_count(),
       3);
}

}  // namespace
}  // namespace grinqh
