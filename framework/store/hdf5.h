// A thin layer over the C API of HDF5: ids that close themselves, failures as exceptions. Everything opened
// from a file keeps the file open, so objects may go out of scope in any order. One thread at a time.
//
// Failures on a file that is being read are BadInput (the file is what the user gave), on one that is being
// written Error; either names the file, the object in it and HDF5's reason.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "store/hdf5_object.h"

namespace grinqh::hdf5 {

enum class ElementType : uint8_t { f64, f32, i64, i32, u8 };
template <class T>
concept Element = std::same_as<T, double> || std::same_as<T, float> || std::same_as<T, int64_t> ||
    std::same_as<T, int32_t> || std::same_as<T, uint8_t>;
template <Element T>
constexpr ElementType element_type() {
  if constexpr (std::same_as<T, double>)
    return ElementType::f64;
  else if constexpr (std::same_as<T, float>)
    return ElementType::f32;
  else if constexpr (std::same_as<T, int64_t>)
    return ElementType::i64;
  else if constexpr (std::same_as<T, int32_t>)
    return ElementType::i32;
  else
    return ElementType::u8;
}

enum class Storage : uint8_t {
  contiguous,
  deflated,
  reserved  // contiguous, and has its place in the file at once: see Dataset::offset()
};

class Dataset : public Object {
 public:
  const std::vector<int64_t>& shape() const { return shape_; }  // one or two dimensions
  int64_t rows() const { return shape_[0]; }
  int64_t cols() const { return shape_.size() < 2 ? 1 : shape_[1]; }
  ElementType type() const { return type_; }

  // The type asked for must be the stored one: nothing is converted silently.
  template <Element T>
  std::vector<T> read() const {
    std::vector<T> values(static_cast<size_t>(rows() * cols()));
    read_rows<T>(0, rows(), values);
    return values;
  }
  // Rows [begin, end), row-major: [end - begin, cols].
  template <Element T>
  void read_rows(int64_t begin, int64_t end, std::span<T> out) const {
    transfer(element_type<T>(), begin, end, out.data(), out.size(), false);
  }
  template <Element T>
  void write_rows(int64_t begin, int64_t end, std::span<const T> values) {
    transfer(element_type<T>(), begin, end, const_cast<T*>(values.data()), values.size(), true);
  }
  // Where the values lie in the file, as they lie in memory: whoever writes them there, once the file is
  // closed, needs no HDF5. Of a reserved dataset that is not empty.
  int64_t offset() const;

 private:
  friend class Group;
  Dataset(std::shared_ptr<FileState> file, Handle id, std::string name);
  void transfer(ElementType type, int64_t begin, int64_t end, void* data, size_t count, bool write) const;

  std::vector<int64_t> shape_;
  ElementType type_ = ElementType::f64;
};

class Group : public Object {
 public:
  // Paths are relative to the group; groups on the way are created.
  Group create_group(const std::string& path);
  Group group(const std::string& path) const;
  Dataset dataset(const std::string& path) const;
  bool exists(const std::string& path) const;
  std::vector<std::string> children() const;  // names, sorted

  // The shape is final. `deflated` is for series: shuffled, compressed, best written whole.
  Dataset create_dataset(const std::string& name, ElementType type, const std::vector<int64_t>& shape,
                         Storage storage = Storage::contiguous);
  template <Element T>
  Dataset write(const std::string& name, std::span<const T> values, const std::vector<int64_t>& shape,
                Storage storage = Storage::contiguous) {
    Dataset dataset = create_dataset(name, element_type<T>(), shape, storage);
    dataset.write_rows<T>(0, dataset.rows(), values);
    return dataset;
  }

 private:
  friend class File;
  using Object::Object;
  std::string absolute(const std::string& path) const;
};

class File {
 public:
  static File create(const std::filesystem::path& path);  // replaces what was there
  static File open(const std::filesystem::path& path);    // for reading
  // A file in memory only; `path` serves messages.
  static File create_image(const std::filesystem::path& path);
  static File open_image(const std::filesystem::path& path, std::span<const std::byte> image);

  Group root() const;
  // Everything written so far, as the bytes of a file.
  std::vector<std::byte> image() const;
  // Flushes and closes; says what failed, which the destructor cannot. Nothing opened from it may be left.
  void close();

 private:
  explicit File(std::shared_ptr<FileState> state) : state_(std::move(state)) {}
  std::shared_ptr<FileState> state_;
};

}  // namespace grinqh::hdf5
