#include "eval/conformance.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "core/json.h"
#include "core/text.h"
#include "eval/perplexity_of.h"
#include "model/json_reader.h"
#include "model/safetensors.h"
#include "model/tokenizer.h"
#include "runtime/generate.h"

namespace grinqh {

namespace {

namespace fs = std::filesystem;

std::optional<fs::path> find_beside(const fs::path& folder, const std::string& name) {
  for (const fs::path& path : {folder / name, folder / "golden" / name})
    if (fs::exists(path)) return path;
  return std::nullopt;
}

class GoldenFile {
 public:
  GoldenFile(const fs::path& path, const Model& model, const DeviceChoice& device)
      : file_(path), model_(model), device_(device) {}

  // Golden outputs may come from a model that was cast as a whole (see Transformer): where the exact
  // frequencies disagree the rounded ones are tried, and the figure says so.
  void compare(std::vector<Comparison>& results) const {
    std::vector<Comparison> exact = compare_with(*make_transformer(model_, device_));
    const DType stored = model_.embedding.dtype;
    if (stored != DType::f32 && !std::ranges::all_of(exact, &Comparison::agrees)) {
      std::vector<Comparison> rounded = compare_with(*make_transformer(model_, device_, stored));
      if (std::ranges::all_of(rounded, &Comparison::agrees)) {
        for (size_t i = 0; i < rounded.size(); ++i)
          rounded[i].figure += fmt::format(" with RoPE frequencies rounded to {} (exact ones: {})",
                                           to_string(stored), exact[i].figure);
        exact = std::move(rounded);
      }
    }
    results.insert(results.end(), exact.begin(), exact.end());
  }

 private:
  std::vector<Comparison> compare_with(const Transformer& transformer) const {
    std::vector<Comparison> results;
    if (file_.tensors().contains("logits")) results.push_back(compare_logits(transformer));
    for (const auto& [name, prompt] : file_.integers())
      if (name.starts_with("prompt")) results.push_back(compare_greedy(transformer, name));
    return results;
  }

  std::vector<int32_t> token_ids(const std::string& name) const {
    const auto it = file_.integers().find(name);
    if (it == file_.integers().end()) bad_input("{}: '{}' is missing", file_.path().string(), name);
    for (const int64_t id : it->second)
      if (id < 0 || id >= model_.config.vocab)
        bad_input("{}: '{}': token id {}, allowed is 0 to {}", file_.path().string(), name, id,
                  model_.config.vocab - 1);
    return {it->second.begin(), it->second.end()};
  }

  // logits: [T, vocab] or [batch, T, vocab], input_ids alike.
  Comparison compare_logits(const Transformer& transformer) const {
    const TensorView& golden = file_.tensors().find("logits")->second;
    std::vector<int32_t> ids = token_ids("input_ids");
    const size_t rank = golden.shape.size();
    const int64_t length = rank >= 2 ? golden.shape[rank - 2] : 0;
    if (length <= 0 || golden.shape.back() != model_.config.vocab ||
        golden.elements() != static_cast<int64_t>(ids.size()) * model_.config.vocab)
      bad_input("{}: logits do not fit input_ids and a vocabulary of {}", file_.path().string(),
                model_.config.vocab);
    const Matrix<const int32_t> windows(ids.data(), static_cast<int64_t>(ids.size()) / length, length);
    const auto linears = transformer.float_linears();
    const Tensor features = transformer.run(Batch::of_windows(windows, length), *linears);
    MatrixBuffer<float> logits(features.rows(), model_.config.vocab);
    transformer.head(features, logits);
    const std::vector<float> expected = to_float_vector(golden);
    double difference = 0, norm = 0;
    for (size_t i = 0; i < expected.size(); ++i) {
      difference += std::pow(static_cast<double>(logits.data()[i]) - static_cast<double>(expected[i]), 2);
      norm += std::pow(static_cast<double>(expected[i]), 2);
    }
    const double allowed = allowed_error();
    const double error = std::sqrt(difference / norm);
    return {"logits", error <= allowed, fmt::format("relative error {:.2e}, allowed {:.0e}", error, allowed)};
  }

  Comparison compare_greedy(const Transformer& transformer, const std::string& prompt_name) const {
    const std::string name = "greedy" + prompt_name.substr(std::string_view("prompt").size());
    const std::vector<int32_t> prompt = token_ids(prompt_name), expected = token_ids(name);
    if (prompt.empty()) bad_input("{}: '{}' is empty", file_.path().string(), prompt_name);
    const auto linears = transformer.float_linears();
    const auto generated =
        generate(transformer, *linears, {prompt.data(), 1, static_cast<int64_t>(prompt.size())},
                 static_cast<int64_t>(expected.size()), {});
    size_t same = 0;
    while (same < expected.size() && generated[0][same] == expected[same]) ++same;
    return {name, same == expected.size(), fmt::format("{} of {} tokens", same, expected.size())};
  }

  // Outputs were computed in float32; another order of sums on a GPU costs a little.
  double allowed_error() const {
    if (device_.device == Device::cpu) return 1e-4;
    return device_.arithmetic == Arithmetic::float32 ? 2e-4 : 3e-2;
  }

  SafetensorsFile file_;
  const Model& model_;
  DeviceChoice device_;
};

Comparison compare_tokenizer(const fs::path& folder, const fs::path& cases_path) {
  const Tokenizer tokenizer(folder / "tokenizer.json");
  const Json cases = Json::parse(read_file(cases_path.string(), "tokenizer cases"), nullptr, false);
  if (!cases.is_array()) bad_input("{}: expected a list of cases", cases_path.string());
  size_t index = 0;
  std::string first_difference;
  const auto differs = [&](const char* what) {
    if (first_difference.empty())
      first_difference = fmt::format(", first difference: {} of case {}", what, index);
  };
  size_t agreeing = 0;
  for (const Json& each : cases) {
    try {
      const auto text = each.at("text").get<std::string>();
      const auto ids = each.at("ids").get<std::vector<int32_t>>();
      bool same = true;
      const auto expect = [&](bool equal, const char* what) {
        if (!equal) differs(what);
        same = same && equal;
      };
      expect(tokenizer.encode(text) == ids, "ids");
      if (each.contains("ids_with_special"))
        expect(tokenizer.encode(text, true) == each.at("ids_with_special").get<std::vector<int32_t>>(),
               "ids_with_special");
      if (each.contains("decoded"))
        expect(tokenizer.decode(ids) == each.at("decoded").get<std::string>(), "decoded");
      agreeing += same;
    } catch (const Json::exception&) {
      bad_input("{}: case {} lacks text and ids, or they are of a wrong type", cases_path.string(), index);
    }
    ++index;
  }
  return {"tokenizer", agreeing == cases.size(),
          fmt::format("{} of {} cases{}", agreeing, cases.size(), first_difference)};
}

void compare_perplexities(const Model& model, const fs::path& path, const fs::path& texts,
                          const DeviceChoice& device, std::vector<Comparison>& results) {
  const JsonObject golden = JsonObject::read(path, "perplexities");
  for (const std::string& name : golden.keys()) {
    // "books_test.txt" stands for the text books.test.txt.
    std::string file = name;
    if (const size_t at = file.find('_'); at != std::string::npos) file[at] = '.';
    std::optional<fs::path> text;
    for (const fs::path& place :
         {path.parent_path() / name, path.parent_path() / file, texts / name, texts / file})
      if (!text && !place.parent_path().empty() && fs::is_regular_file(place)) text = place;
    if (!text) continue;
    const double expected = golden.object(name).real("perplexity_fp32", {1, 1e9});
    const double found = perplexity_of(model, *text, "windows", model.config.max_context, device).perplexity;
    constexpr double kAllowed = 1e-3;
    const double error = std::abs(found / expected - 1.0);
    results.push_back(
        {"perplexity " + name, error <= kAllowed,
         fmt::format("{:.4f}, expected {:.4f}, relative difference {:.1e}", found, expected, error)});
  }
}

}  // namespace

std::vector<Comparison> check_conformance(const fs::path& folder, const fs::path& texts,
                                          const DeviceChoice& device) {
  if (!fs::is_directory(folder)) bad_input("{}: not a folder", folder.string());
  std::vector<Comparison> results;
  const auto golden = find_beside(folder, "golden.safetensors");
  const auto perplexities = find_beside(folder, "perplexity.json");
  if (golden || perplexities) {
    const Model model = load_model(folder);
    if (golden) GoldenFile(*golden, model, device).compare(results);
    if (perplexities) compare_perplexities(model, *perplexities, texts, device, results);
  }
  for (const char* name : {"tokenizer_cases.json", "cases.json"})
    if (const auto cases = find_beside(folder, name)) results.push_back(compare_tokenizer(folder, *cases));
  if (results.empty())
    bad_input(
        "{}: nothing to compare with: no golden.safetensors, tokenizer_cases.json or cases.json in it or its "
        "folder golden",
        folder.string());
  return results;
}

}  // namespace grinqh
