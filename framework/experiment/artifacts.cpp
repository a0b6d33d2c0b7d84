#include "experiment/artifacts.h"

#include <algorithm>
#include <set>
#include <utility>

#include "core/digest.h"
#include "core/progress.h"
#include "core/text.h"
#include "store/hdf5.h"
#include "store/part_file.h"

namespace grinqh {

namespace {

namespace fs = std::filesystem;

// Written beside; to be renamed, so that what is there is whole.
std::unique_ptr<PartFile> write_part(const fs::path& path, const std::function<void(hdf5::Group&)>& fill) {
  auto file = std::make_unique<PartFile>(path);
  hdf5::File h5 = hdf5::File::create(file->part());
  {
    hdf5::Group root = h5.root();
    fill(root);
  }
  h5.close();
  return file;
}

void write_artifact(const fs::path& path, const std::function<void(hdf5::Group&)>& fill) {
  write_part(path, fill)->commit();
}

// Nothing if there is no such file or it cannot be read: it will be made again.
template <class Read>
auto read_artifact(const fs::path& path, const Read& read)
    -> std::optional<decltype(read(std::declval<hdf5::Group&>()))> {
  if (!fs::exists(path)) return std::nullopt;
  try {
    hdf5::Group root = hdf5::File::open(path).root();
    return read(root);
  } catch (const std::exception& error) {  // of HDF5, or of JSON within
    fmt::print(stderr, "grinqh: cached stage is damaged and will be made again: {}\n", error.what());
    return std::nullopt;
  }
}

class StoredFeatures final : public ReferenceFeatures {
 public:
  StoredFeatures(hdf5::Dataset dataset, const Transformer& transformer, int64_t context)
      : dataset_(std::move(dataset)), transformer_(transformer), context_(context) {}
  void read(int64_t first_window, int64_t count, Matrix<float> out) const override {
    dataset_.read_rows<float>(first_window * context_, (first_window + count) * context_,
                              {out.data, static_cast<size_t>(out.rows * out.cols)});
  }
  const Transformer& transformer() const override { return transformer_; }

 private:
  hdf5::Dataset dataset_;
  const Transformer& transformer_;
  int64_t context_;
};

void compute_features(const fs::path& path, const Transformer& transformer, const Windows& windows) {
  write_artifact(path, [&](hdf5::Group& root) {
    const int64_t context = windows.context(), hidden = transformer.hidden();
    hdf5::Dataset dataset =
        root.create_dataset("features", hdf5::ElementType::f32, {windows.count() * context, hidden});
    const auto linears = transformer.float_linears();
    Progress progress("float reference", windows.count() * context, "tokens");
    const int64_t step = std::max<int64_t>(1, transformer.batch_tokens() / context);
    for (int64_t first = 0; first < windows.count(); first += step) {
      const int64_t count = std::min(step, windows.count() - first);
      const Matrix<const int32_t> tokens = windows.tokens.view().rows_between(first, first + count);
      const MatrixBuffer<float> features =
          transformer.to_host(transformer.run(Batch::of_windows(tokens, context), *linears));
      dataset.write_rows<float>(first * context, (first + count) * context,
                                {features.data(), static_cast<size_t>(features.size())});
      progress.advance(count * context);
    }
  });
}

// What is written into a file when HDF5 has closed it.
struct LaterBytes {
  int64_t place;
  std::span<const std::byte> bytes;
};

template <class T>
void write_later(hdf5::Group& to, const std::string& name, std::span<const T> values,
                 std::vector<LaterBytes>& later) {
  const hdf5::Dataset dataset =
      to.create_dataset(name, hdf5::element_type<T>(), {std::ssize(values)}, hdf5::Storage::reserved);
  if (!values.empty()) later.push_back({dataset.offset(), std::as_bytes(values)});
}

// A group a layer: layout, attributes, and a dataset of bytes a buffer.
void write_layers(const QuantizedModel& model, hdf5::Group& to, std::vector<LaterBytes>& later) {
  for (const auto& [id, layer] : model.layers) {
    hdf5::Group group = to.create_group(id);
    group.set("layout", std::string(layer->layout()));
    group.set("attributes", layer->attributes().dump());
    for (const NamedBuffer& buffer : layer->buffers())
      write_later<uint8_t>(group, buffer.name,
                           {reinterpret_cast<const uint8_t*>(buffer.bytes.data()), buffer.bytes.size()},
                           later);
  }
}

QuantizedModel read_layers(const hdf5::Group& from) {
  QuantizedModel model;
  for (const std::string& id : from.children()) {
    const hdf5::Group group = from.group(id);
    Buffers buffers;
    for (const std::string& name : group.children()) {
      const std::vector<uint8_t> bytes = group.dataset(name).read<uint8_t>();
      const auto* begin = reinterpret_cast<const std::byte*>(bytes.data());
      buffers.emplace(name, std::vector<std::byte>(begin, begin + bytes.size()));
    }
    const auto layout = layouts().find(group.text("layout"));
    if (layout == layouts().end()) bad_input("layout '{}' is not known", group.text("layout"));
    model.layers.emplace(id, layout->second.rebuild(buffers, Json::parse(group.text("attributes"))));
  }
  return model;
}

// The objects that hold a layer's statistics, its parts without parts of their own.
void find_holders(const LayerStats& stats, std::vector<const LayerStats*>& holders) {
  if (!stats.values.empty() || stats.parts.empty()) holders.push_back(&stats);
  for (const auto& part : stats.parts) find_holders(*part, holders);
}

// A group an object: one that several layers share is written once, with the names of all.
void write_stats(const CalibrationStats& stats, hdf5::Group& to) {
  std::vector<std::pair<const LayerStats*, std::vector<std::string>>> sites;
  std::map<const LayerStats*, size_t> places;  // in `sites`
  for (const auto& [layer, all] : stats) {
    std::vector<const LayerStats*> holders;
    find_holders(*all, holders);
    for (const LayerStats* holder : holders) {
      const auto [place, added] = places.emplace(holder, sites.size());
      if (added) sites.push_back({holder, {}});
      sites[place->second].second.push_back(layer);
    }
  }
  for (size_t i = 0; i < sites.size(); ++i) {
    const auto& [site, layers] = sites[i];
    hdf5::Group group = to.create_group(fmt::format("{:06}", i));
    group.set("tokens", site->tokens);
    group.set("layers", join(layers, "\n"));
    for (const auto& [name, values] : site->values)
      group.write<float>(name, values, {static_cast<int64_t>(values.size())});
  }
}

CalibrationStats read_stats(const hdf5::Group& from) {
  std::map<std::string, std::vector<std::shared_ptr<const LayerStats>>> parts;  // by layer
  for (const std::string& name : from.children()) {
    const hdf5::Group group = from.group(name);
    auto site = std::make_shared<LayerStats>();
    site->tokens = group.integer("tokens");
    site->derived = std::make_shared<Derived>();
    for (const std::string& statistic : group.children()) {
      const hdf5::Dataset stored = group.dataset(statistic);
      PlainVector<float>& values = site->values[statistic];
      values.resize(static_cast<size_t>(stored.rows() * stored.cols()));
      stored.read_rows<float>(0, stored.rows(), values);
    }
    const std::string layers = group.text("layers");
    for (size_t begin = 0; begin < layers.size();) {
      const size_t end = std::min(layers.find('\n', begin), layers.size());
      parts[layers.substr(begin, end - begin)].push_back(site);
      begin = end + 1;
    }
  }
  CalibrationStats stats;
  for (auto& [layer, all] : parts) {
    auto joined = std::make_shared<LayerStats>();
    joined->tokens = all.front()->tokens;
    joined->parts = std::move(all);
    stats.emplace(layer, joined->parts.size() == 1 ? joined->parts.front() : joined);
  }
  return stats;
}

// A file a block.
class StoredStatistics final : public StatisticsStore {
 public:
  explicit StoredStatistics(std::string stem) : stem_(std::move(stem)) {}

  CalibrationStats load(int64_t block) const override {
    return read_artifact(path(block), [](hdf5::Group& root) { return read_stats(root); })
        .value_or(CalibrationStats{});
  }

  void save(int64_t block, const CalibrationStats& stats) const override {
    CalibrationStats all = load(block);
    add_statistics(stats, all);
    write_artifact(path(block), [&](hdf5::Group& root) { write_stats(all, root); });
  }

 private:
  fs::path path(int64_t block) const { return fmt::format("{}-{}.h5", stem_, block); }
  std::string stem_;
};

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
      return std::make_shared<StoredFeatures>(std::move(dataset), transformer, windows.context());
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

std::unique_ptr<StatisticsStore> ArtifactCache::statistics(const std::string& key) const {
  return std::make_unique<StoredStatistics>((folder_ / ("statistics-" + key)).string());
}

void ArtifactCache::finish() const {
  for (auto& [path, commit] : std::exchange(commits_, {})) commit.get();
}

std::optional<CachedCalibration> ArtifactCache::load_calibration(const std::string& key) const {
  const fs::path file = path("quantized", key);
  if (auto commit = commits_.extract(file)) commit.mapped().get();
  return read_artifact(file, [](hdf5::Group& root) {
    CachedCalibration cached;
    cached.seconds = root.real("seconds");
    cached.calibrated.notes = Json::parse(root.text("notes")).get<LayerNotes>();
    cached.calibrated.model = read_layers(root.group("layers"));
    cached.calibrated.stats = read_stats(root.group("statistics"));
    for (const auto& [id, layer] : cached.calibrated.model.layers)
      cached.calibrated.derived.emplace(id, std::make_shared<Derived>());
    return cached;
  });
}

void ArtifactCache::save_calibration(const std::string& key,
                                     std::shared_ptr<const CachedCalibration> cached) const {
  constexpr size_t kUnderWay = 3;  // each may hold a model in memory
  const fs::path place = path("quantized", key);
  if (auto commit = commits_.extract(place)) commit.mapped().get();
  while (commits_.size() >= kUnderWay) commits_.extract(commits_.begin()).mapped().get();
  std::vector<LaterBytes> later;
  std::unique_ptr<PartFile> file = write_part(place, [&](hdf5::Group& root) {
    root.set("seconds", cached->seconds);
    root.set("notes", Json(cached->calibrated.notes).dump());
    hdf5::Group layers = root.create_group("layers");
    write_layers(cached->calibrated.model, layers, later);
    hdf5::Group statistics = root.create_group("statistics");
    write_stats(cached->calibrated.stats, statistics);
  });
  // Gigabytes: they are written while the weights are evaluated, by a thread that knows nothing of HDF5.
  commits_.emplace(place, std::async(std::launch::async, [file = std::move(file), later = std::move(later),
                                                          cached = std::move(cached)]() mutable {
                     for (const LaterBytes& each : later) file->write_at(each.place, each.bytes);
                     cached.reset();
                     file->commit();
                   }));
}

std::optional<std::vector<double>> ArtifactCache::load_values(const std::string& key) const {
  return read_artifact(path("values", key),
                       [](hdf5::Group& root) { return root.dataset("values").read<double>(); });
}

void ArtifactCache::save_values(const std::string& key, std::span<const double> values) const {
  write_artifact(path("values", key), [&](hdf5::Group& root) {
    root.write<double>("values", values, {static_cast<int64_t>(values.size())});
  });
}

std::string CachedValues::key(std::string_view name) const {
  return digest_of(Json{{"identity", identity_}, {"name", name}}.dump());
}

std::optional<std::vector<double>> CachedValues::load(std::string_view name) {
  return cache_.load_values(key(name));
}

void CachedValues::save(std::string_view name, std::span<const double> values) {
  cache_.save_values(key(name), values);
}

}  // namespace grinqh
