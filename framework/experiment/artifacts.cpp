#include "experiment/artifacts.h"

#include <algorithm>
#include <set>

#include "core/progress.h"
#include "core/text.h"
#include "store/hdf5.h"
#include "store/part_file.h"

namespace grinqh {

namespace {

namespace fs = std::filesystem;

// Written beside and renamed, so that what is there is whole.
void write_artifact(const fs::path& path, const std::function<void(hdf5::Group&)>& fill) {
  PartFile file(path);
  hdf5::File h5 = hdf5::File::create(file.part());
  {
    hdf5::Group root = h5.root();
    fill(root);
  }
  h5.close();
  file.commit();
}

// Nothing if there is no such file or it cannot be read: it will be made again.
template <class Read>
auto read_artifact(const fs::path& path, const Read& read)
    -> std::optional<decltype(read(std::declval<hdf5::Group&>()))> {
  if (!fs::exists(path)) return std::nullopt;
  try {
    hdf5::Group root = hdf5::File::open(path).root();
    return read(root);
  } catch (const Error& error) {
    fmt::print(stderr, "grinqh: cached stage is damaged and will be made again: {}\n", error.what());
    return std::nullopt;
  }
}

class StoredFeatures final : public ReferenceFeatures {
 public:
  StoredFeatures(hdf5::Dataset dataset, int64_t context) : dataset_(std::move(dataset)), context_(context) {}
  void read(int64_t first_window, int64_t count, Matrix<float> out) const override {
    dataset_.read_rows<float>(first_window * context_, (first_window + count) * context_,
                              {out.data, static_cast<size_t>(out.rows * out.cols)});
  }

 private:
  hdf5::Dataset dataset_;
  int64_t context_;
};

void compute_features(const fs::path& path, const Transformer& transformer, const Windows& windows) {
  write_artifact(path, [&](hdf5::Group& root) {
    const int64_t context = windows.context(), hidden = transformer.hidden();
    hdf5::Dataset dataset =
        root.create_dataset("features", hdf5::ElementType::f32, {windows.count() * context, hidden});
    FloatLinears linears;
    Progress progress("float reference", windows.count() * context, "tokens");
    const int64_t step = windows_per_batch(context);
    for (int64_t first = 0; first < windows.count(); first += step) {
      const int64_t count = std::min(step, windows.count() - first);
      const Matrix<const int32_t> tokens = windows.tokens.view().rows_between(first, first + count);
      const MatrixBuffer<float> features = transformer.run(Batch::of_windows(tokens, context), linears);
      dataset.write_rows<float>(first * context, (first + count) * context,
                                {features.data(), static_cast<size_t>(features.size())});
      progress.advance(count * context);
    }
  });
}

}  // namespace

fs::path ArtifactCache::path(const std::string& stage, const std::string& key) const {
  return folder_ / fmt::format("{}-{}.h5", stage, key);
}

MatrixBuffer<int32_t> ArtifactCache::windows(const std::string& key,
                                             const std::function<MatrixBuffer<int32_t>()>& compute) const {
  const auto stored = read_artifact(path("windows", key), [](hdf5::Group& root) {
    const hdf5::Dataset dataset = root.dataset("tokens");
    MatrixBuffer<int32_t> tokens(dataset.rows(), dataset.cols());
    dataset.read_rows<int32_t>(0, dataset.rows(), {tokens.data(), static_cast<size_t>(tokens.size())});
    return std::make_shared<MatrixBuffer<int32_t>>(std::move(tokens));
  });
  if (stored) return std::move(**stored);
  MatrixBuffer<int32_t> tokens = compute();
  write_artifact(path("windows", key), [&](hdf5::Group& root) {
    root.write<int32_t>("tokens", {tokens.data(), static_cast<size_t>(tokens.size())},
                        {tokens.rows(), tokens.cols()});
  });
  return tokens;
}

std::unique_ptr<ReferenceFeatures> ArtifactCache::features(const std::string& key,
                                                           const Transformer& transformer,
                                                           const Windows& windows) const {
  const fs::path file = path("features", key);
  const int64_t rows = windows.count() * windows.context();
  const auto open = [&] {
    return read_artifact(file, [&](hdf5::Group& root) {
      hdf5::Dataset dataset = root.dataset("features");
      if (dataset.rows() != rows || dataset.cols() != transformer.hidden())
        bad_input("{}: wrong shape", file.string());
      return std::make_shared<StoredFeatures>(std::move(dataset), windows.context());
    });
  };
  auto stored = open();
  if (!stored) {
    compute_features(file, transformer, windows);
    stored = open();
  }
  if (!stored) fail("{}: cannot be read back", file.string());
  return std::make_unique<StoredFeatures>(std::move(**stored));
}

std::optional<CachedStats> ArtifactCache::load_stats(const std::string& key) const {
  return read_artifact(path("statistics", key), [](hdf5::Group& root) {
    CachedStats cached;
    cached.seconds = root.real("seconds");
    for (const std::string& name : root.children()) {
      const hdf5::Group site = root.group(name);
      auto stats = std::make_shared<LayerStats>();
      stats->tokens = site.integer("tokens");
      for (const std::string& statistic : site.children())
        stats->values.emplace(statistic, site.dataset(statistic).read<float>());
      std::string layers = site.text("layers");
      for (size_t begin = 0; begin < layers.size();) {
        const size_t end = std::min(layers.find('\n', begin), layers.size());
        cached.stats.insert_or_assign(layers.substr(begin, end - begin), stats);
        begin = end + 1;
      }
    }
    return cached;
  });
}

void ArtifactCache::save_stats(const std::string& key, const CachedStats& cached) const {
  // Layers that share an input share one object: it is written once, with the names of all.
  std::map<const LayerStats*, std::vector<std::string>> sites;
  for (const auto& [layer, stats] : cached.stats) sites[stats.get()].push_back(layer);
  write_artifact(path("statistics", key), [&](hdf5::Group& root) {
    root.set("seconds", cached.seconds);
    for (const auto& [stats, layers] : sites) {
      hdf5::Group site = root.create_group(layers.front());
      site.set("tokens", stats->tokens);
      site.set("layers", join(layers, "\n"));
      for (const auto& [name, values] : stats->values)
        site.write<float>(name, values, {static_cast<int64_t>(values.size())});
    }
  });
}

}  // namespace grinqh
