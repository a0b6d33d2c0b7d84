#include "store/result_file.h"

#include <algorithm>

#include "core/error.h"
#include "core/text.h"
#include "store/columns.h"
#include "store/seal.h"

namespace grinqh {

namespace {

void check_kind(std::string_view name, ColumnKind kind) {
  const Column* column = find_column(name);
  check(column == nullptr || column->kind == kind, "a column of the report is written with its own kind");
}

hdf5::File open_result(const std::filesystem::path& path) {
  const std::string bytes = read_file(path.string(), "result");
  hdf5::File file = hdf5::File::open_image(path, check_seal(std::as_bytes(std::span(bytes)), path));
  if (const int64_t schema = file.root().integer("schema"); schema != kResultSchema)
    bad_input("{}: schema {}, this program reads {}", path.string(), schema, kResultSchema);
  return file;
}

}  // namespace

ResultWriter::ResultWriter(const std::filesystem::path& path, std::string_view digest)
    : path_(path), file_(path), image_(hdf5::File::create_image(path)) {
  hdf5::Group root = image_.root();
  root.set("schema", kResultSchema);
  root.set("digest", std::string(digest));
  for (const char* group : {"row", "units", "provenance", "series"}) root.create_group(group);
}

std::string ResultWriter::claim(std::string_view group, std::string_view name) {
  std::string path = fmt::format("/{}/{}", group, name);
  if (name.empty() || name.find('/') != std::string_view::npos)
    fail("{}: '{}' cannot be a name in a result: it is empty or has a '/'", path_.string(), path);
  if (!written_.insert(path).second) fail("{}: {} is written twice", path_.string(), path);
  return std::string(name);
}

void ResultWriter::text(std::string_view column, std::string_view value) {
  check_kind(column, ColumnKind::text);
  image_.root().group("row").set(claim("row", column), std::string(value));
}

void ResultWriter::integer(std::string_view column, int64_t value) {
  check_kind(column, ColumnKind::integer);
  image_.root().group("row").set(claim("row", column), value);
}

void ResultWriter::scalar(std::string_view column, double value, std::string_view unit) {
  check_kind(column, ColumnKind::real);
  const std::string name = claim("row", column);
  image_.root().group("row").set(name, value);
  image_.root().group("units").set(name, std::string(unit));
}

void ResultWriter::series(std::string_view name, std::span<const double> values, std::string_view unit) {
  hdf5::Dataset dataset = image_.root().group("series").write<double>(
      claim("series", name), values, {static_cast<int64_t>(values.size())}, hdf5::Storage::deflated);
  dataset.set("unit", std::string(unit));
}

void ResultWriter::provenance(std::string_view key, std::string_view value) {
  image_.root().group("provenance").set(claim("provenance", key), std::string(value));
}

void ResultWriter::commit() {
  file_.write(seal(image_.image()));
  file_.commit();
}

Result read_result(const std::filesystem::path& path) {
  const hdf5::File file = open_result(path);
  const hdf5::Group root = file.root();
  Result result;
  result.path = path;
  result.digest = root.text("digest");
  const hdf5::Group row = root.group("row"), units = root.group("units"),
                    provenance = root.group("provenance");
  for (const std::string& name : row.attributes()) {
    const hdf5::Attribute value = row.get(name);
    if (const auto* text = std::get_if<std::string>(&value)) {
      result.texts[name] = *text;
    } else if (const auto* integer = std::get_if<int64_t>(&value)) {
      result.integers[name] = *integer;
    } else {
      result.scalars[name] = {row.real(name), units.text(name)};
    }
  }
  for (const std::string& name : provenance.attributes()) result.provenance[name] = provenance.text(name);
  result.series = root.group("series").children();
  return result;
}

Series read_series(const std::filesystem::path& path, std::string_view name) {
  const hdf5::File file = open_result(path);
  const hdf5::Group series = file.root().group("series");
  if (const std::vector<std::string> names = series.children();
      std::find(names.begin(), names.end(), name) == names.end())
    bad_input("{}: {}", path.string(), unknown_name("series", name, names));
  const hdf5::Dataset dataset = series.dataset(std::string(name));
  return {dataset.read<double>(), dataset.text("unit")};
}

}  // namespace grinqh
