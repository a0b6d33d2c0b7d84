#include "store/hdf5.h"

#include <hdf5.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cerrno>
#include <cstring>

#include "core/error.h"

namespace grinqh::hdf5 {

static_assert(std::is_same_v<hid_t, int64_t>, "ids of HDF5 are 64-bit since 1.10");

struct FileState {
  Handle id;
  std::string path;
  bool writing = false;
};

Handle::~Handle() {
  if (id_ >= 0) H5Idec_ref(id_);
}

namespace {

// The library would print every failure; the setting is one of a thread.
void silence() { H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr); }

// The innermost entry of the error stack is the most telling one.
std::string reason() {
  std::string text;
  const auto visit = [](unsigned, const H5E_error2_t* entry, void* out) -> herr_t {
    if (entry->desc != nullptr) *static_cast<std::string*>(out) = entry->desc;
    return 1;  // stop
  };
  H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, visit, &text);
  H5Eclear2(H5E_DEFAULT);
  return text.empty() ? "HDF5 gives no reason" : text;
}

[[noreturn]] void raise(const FileState& file, const std::string& message) {
  if (file.writing) throw Error(message);
  throw BadInput(message);
}

[[noreturn]] void raise(const FileState& file, const std::string& object, std::string_view action) {
  raise(file, fmt::format("{}: {}: cannot {}: {}", file.path, object, action, reason()));
}

Handle open_handle(hid_t id, const FileState& file, const std::string& object, std::string_view action) {
  if (id < 0) raise(file, object, action);
  return Handle(id);
}

void require(herr_t status, const FileState& file, const std::string& object, std::string_view action) {
  if (status < 0) raise(file, object, action);
}

hid_t native(ElementType type) {
  switch (type) {
    case ElementType::f64:
      return H5T_NATIVE_DOUBLE;
    case ElementType::f32:
      return H5T_NATIVE_FLOAT;
    case ElementType::i64:
      return H5T_NATIVE_INT64;
    case ElementType::i32:
      return H5T_NATIVE_INT32;
    case ElementType::u8:
      break;
  }
  return H5T_NATIVE_UINT8;
}

// Files are little-endian on every machine.
hid_t stored(ElementType type) {
  switch (type) {
    case ElementType::f64:
      return H5T_IEEE_F64LE;
    case ElementType::f32:
      return H5T_IEEE_F32LE;
    case ElementType::i64:
      return H5T_STD_I64LE;
    case ElementType::i32:
      return H5T_STD_I32LE;
    case ElementType::u8:
      break;
  }
  return H5T_STD_U8LE;
}

std::string_view to_string(ElementType type) {
  switch (type) {
    case ElementType::f64:
      return "float64";
    case ElementType::f32:
      return "float32";
    case ElementType::i64:
      return "int64";
    case ElementType::i32:
      return "int32";
    case ElementType::u8:
      break;
  }
  return "uint8";
}

Handle text_type(bool ascii = false) {
  Handle type(H5Tcopy(H5T_C_S1));
  H5Tset_size(type.id(), H5T_VARIABLE);
  H5Tset_cset(type.id(), ascii ? H5T_CSET_ASCII : H5T_CSET_UTF8);
  return type;
}

// h5py's bool: an enumeration of one byte, FALSE = 0 and TRUE = 1.
Handle bool_type() {
  Handle type(H5Tenum_create(H5T_STD_I8LE));
  const int8_t no = 0, yes = 1;
  H5Tenum_insert(type.id(), "FALSE", &no);
  H5Tenum_insert(type.id(), "TRUE", &yes);
  return type;
}

std::string read_text(const FileState& file, const std::string& name, const Handle& attribute,
                      const Handle& type) {
  if (H5Tis_variable_str(type.id()) > 0) {
    char* text = nullptr;
    const Handle memory = text_type(H5Tget_cset(type.id()) == H5T_CSET_ASCII);
    require(H5Aread(attribute.id(), memory.id(), &text), file, name, "read the text");
    const std::string result = text == nullptr ? "" : text;
    H5free_memory(text);
    return result;
  }
  std::string result(H5Tget_size(type.id()), '\0');
  require(H5Aread(attribute.id(), type.id(), result.data()), file, name, "read the text");
  if (H5Tget_strpad(type.id()) == H5T_STR_SPACEPAD)
    result.erase(result.find_last_not_of(' ') + 1);
  else
    result.resize(std::strlen(result.c_str()));
  return result;
}

template <class T>
T read_number(const FileState& file, const std::string& name, const Handle& attribute, hid_t memory) {
  T value{};
  require(H5Aread(attribute.id(), memory, &value), file, name, "read the value");
  return value;
}

// Sorted, because the index by name is.
template <class NameAt>
std::vector<std::string> list_names(hsize_t count, const FileState& file, const std::string& object,
                                    NameAt name_at) {
  std::vector<std::string> names;
  for (hsize_t i = 0; i < count; ++i) {
    const ssize_t length = name_at(i, nullptr, 0);
    if (length < 0) raise(file, object, "list the names");
    std::string name(static_cast<size_t>(length), '\0');
    if (name_at(i, name.data(), name.size() + 1) < 0) raise(file, object, "list the names");
    names.push_back(std::move(name));
  }
  std::sort(names.begin(), names.end());
  return names;
}

// Formats of 1.8 and later: their metadata has checksums, and attributes have no limit of 64 KiB.
Handle disk_access() {
  Handle properties(H5Pcreate(H5P_FILE_ACCESS));
  H5Pset_libver_bounds(properties.id(), H5F_LIBVER_V18, H5F_LIBVER_LATEST);
  return properties;
}

// The oldest formats here: H5Fget_file_image of 1.10 clears the superblock's flags but leaves the checksum
// that the later ones keep over them.
Handle memory_access() {
  Handle properties(H5Pcreate(H5P_FILE_ACCESS));
  constexpr size_t kGrowth = 1 << 20;
  H5Pset_fapl_core(properties.id(), kGrowth, false);
  return properties;
}

// HDF5 takes two open images of one name for the same file, and a file on disk of that name for a conflict.
std::string image_name() {
  static std::atomic<int64_t> count = 0;
  return fmt::format("image {} in memory", ++count);
}

}  // namespace

// ---- objects and their attributes

void Object::raise_kind(const std::string& attribute, const char* expected) const {
  raise(*file_, fmt::format("{}: {}: attribute '{}' is not {}", file_->path, name_, attribute, expected));
}

void Object::set(const std::string& attribute, const Attribute& value) {
  const std::string object = fmt::format("{}: attribute '{}'", name_, attribute);
  if (has(attribute)) raise(*file_, fmt::format("{}: {} is set already", file_->path, object));
  const Handle space(H5Screate(H5S_SCALAR));
  const auto write = [&](hid_t in_file, hid_t in_memory, const void* data) {
    const Handle id =
        open_handle(H5Acreate2(id_.id(), attribute.c_str(), in_file, space.id(), H5P_DEFAULT, H5P_DEFAULT),
                    *file_, object, "create");
    require(H5Awrite(id.id(), in_memory, data), *file_, object, "write");
  };
  if (const auto* text = std::get_if<std::string>(&value)) {
    if (text->find('\0') != std::string::npos)
      raise(*file_, fmt::format("{}: {}: text with a null character cannot be stored", file_->path, object));
    const Handle type = text_type();
    const char* data = text->c_str();
    write(type.id(), type.id(), &data);
  } else if (const auto* integer = std::get_if<int64_t>(&value)) {
    write(H5T_STD_I64LE, H5T_NATIVE_INT64, integer);
  } else if (const auto* real = std::get_if<double>(&value)) {
    write(H5T_IEEE_F64LE, H5T_NATIVE_DOUBLE, real);
  } else {
    const Handle type = bool_type();
    const int8_t data = std::get<bool>(value);
    write(type.id(), type.id(), &data);
  }
}

bool Object::has(const std::string& attribute) const {
  silence();
  const htri_t found = H5Aexists(id_.id(), attribute.c_str());
  require(found, *file_, name_, "look up attribute '" + attribute + "'");
  return found > 0;
}

Attribute Object::get(const std::string& attribute) const {
  if (!has(attribute)) raise(*file_, fmt::format("{}: {}: no attribute '{}'", file_->path, name_, attribute));
  const std::string object = fmt::format("{}: attribute '{}'", name_, attribute);
  const Handle id = open_handle(H5Aopen(id_.id(), attribute.c_str(), H5P_DEFAULT), *file_, object, "open");
  const Handle space = open_handle(H5Aget_space(id.id()), *file_, object, "open");
  const Handle type = open_handle(H5Aget_type(id.id()), *file_, object, "open");
  if (H5Sget_simple_extent_npoints(space.id()) == 1) {
    switch (H5Tget_class(type.id())) {
      case H5T_STRING:
        return read_text(*file_, object, id, type);
      case H5T_INTEGER:
        return read_number<int64_t>(*file_, object, id, H5T_NATIVE_INT64);
      case H5T_FLOAT:
        return read_number<double>(*file_, object, id, H5T_NATIVE_DOUBLE);
      case H5T_ENUM:
        if (H5Tget_size(type.id()) == 1) return read_number<int8_t>(*file_, object, id, type.id()) != 0;
        break;
      default:
        break;
    }
  }
  raise(*file_, fmt::format("{}: {} is not one text, integer, real number or boolean", file_->path, object));
}

std::vector<std::string> Object::attributes() const {
  silence();
  H5O_info_t info;
  require(H5Oget_info2(id_.id(), &info, H5O_INFO_NUM_ATTRS), *file_, name_, "list the attributes");
  return list_names(info.num_attrs, *file_, name_, [this](hsize_t i, char* name, size_t size) {
    return H5Aget_name_by_idx(id_.id(), ".", H5_INDEX_NAME, H5_ITER_INC, i, name, size, H5P_DEFAULT);
  });
}

// ---- datasets

Dataset::Dataset(std::shared_ptr<FileState> file, Handle id, std::string name)
    : Object(std::move(file), std::move(id), std::move(name)) {
  const Handle space = open_handle(H5Dget_space(id_.id()), *file_, name_, "open");
  const int rank = H5Sget_simple_extent_ndims(space.id());
  if (rank != 1 && rank != 2)
    raise(*file_, fmt::format("{}: {}: {} dimensions, expected 1 or 2", file_->path, name_, rank));
  hsize_t extent[2];
  H5Sget_simple_extent_dims(space.id(), extent, nullptr);
  shape_.assign(extent, extent + rank);
  const Handle type = open_handle(H5Dget_type(id_.id()), *file_, name_, "open");
  for (const ElementType known :
       {ElementType::f64, ElementType::f32, ElementType::i64, ElementType::i32, ElementType::u8})
    if (H5Tequal(type.id(), stored(known)) > 0) {
      type_ = known;
      return;
    }
  raise(*file_, fmt::format("{}: {}: elements of a type other than float64, float32, int64, int32, uint8",
                            file_->path, name_));
}

int64_t Dataset::offset() const {
  static_assert(std::endian::native == std::endian::little, "values are stored as they lie in memory");
  const haddr_t place = H5Dget_offset(id_.id());
  check(place != HADDR_UNDEF, "a dataset that has its place in the file");
  return static_cast<int64_t>(place);
}

void Dataset::transfer(ElementType type, int64_t begin, int64_t end, void* data, size_t count,
                       bool write) const {
  if (type != type_)
    raise(*file_, fmt::format("{}: {}: elements are {}, expected {}", file_->path, name_, to_string(type_),
                              to_string(type)));
  check(0 <= begin && begin <= end && end <= rows(), "rows within the dataset");
  check(count == static_cast<size_t>((end - begin) * cols()), "a buffer of the size of the rows");
  if (count == 0) return;
  silence();
  const hsize_t start[2] = {static_cast<hsize_t>(begin), 0};
  const hsize_t extent[2] = {static_cast<hsize_t>(end - begin), static_cast<hsize_t>(cols())};
  const Handle in_file = open_handle(H5Dget_space(id_.id()), *file_, name_, "open");
  const Handle in_memory(H5Screate_simple(static_cast<int>(shape_.size()), extent, nullptr));
  H5Sselect_hyperslab(in_file.id(), H5S_SELECT_SET, start, nullptr, extent, nullptr);
  const std::string rows_text = fmt::format("{} rows {} to {}", write ? "write" : "read", begin, end);
  require(write ? H5Dwrite(id_.id(), native(type), in_memory.id(), in_file.id(), H5P_DEFAULT, data)
                : H5Dread(id_.id(), native(type), in_memory.id(), in_file.id(), H5P_DEFAULT, data),
          *file_, name_, rows_text);
}

// ---- groups

std::string Group::absolute(const std::string& path) const {
  return name_ == "/" ? "/" + path : name_ + "/" + path;
}

Group Group::create_group(const std::string& path) {
  silence();
  const Handle links(H5Pcreate(H5P_LINK_CREATE));
  H5Pset_create_intermediate_group(links.id(), 1);
  Handle id = open_handle(H5Gcreate2(id_.id(), path.c_str(), links.id(), H5P_DEFAULT, H5P_DEFAULT), *file_,
                          absolute(path), "create the group");
  return Group(file_, std::move(id), absolute(path));
}

Group Group::group(const std::string& path) const {
  if (!exists(path)) raise(*file_, fmt::format("{}: no group '{}'", file_->path, absolute(path)));
  Handle id =
      open_handle(H5Gopen2(id_.id(), path.c_str(), H5P_DEFAULT), *file_, absolute(path), "open the group");
  return Group(file_, std::move(id), absolute(path));
}

Dataset Group::dataset(const std::string& path) const {
  if (!exists(path)) raise(*file_, fmt::format("{}: no dataset '{}'", file_->path, absolute(path)));
  Handle id =
      open_handle(H5Dopen2(id_.id(), path.c_str(), H5P_DEFAULT), *file_, absolute(path), "open the dataset");
  return Dataset(file_, std::move(id), absolute(path));
}

// H5Lexists fails where a group on the way is missing, so the way is walked.
bool Group::exists(const std::string& path) const {
  silence();
  for (size_t end = 0; end != std::string::npos;) {
    end = path.find('/', end + 1);
    const htri_t found = H5Lexists(id_.id(), path.substr(0, end).c_str(), H5P_DEFAULT);
    require(found, *file_, absolute(path), "look up");
    if (found == 0) return false;
  }
  return true;
}

std::vector<std::string> Group::children() const {
  silence();
  H5G_info_t info;
  require(H5Gget_info(id_.id(), &info), *file_, name_, "list the group");
  return list_names(info.nlinks, *file_, name_, [this](hsize_t i, char* name, size_t size) {
    return H5Lget_name_by_idx(id_.id(), ".", H5_INDEX_NAME, H5_ITER_INC, i, name, size, H5P_DEFAULT);
  });
}

Dataset Group::create_dataset(const std::string& name, ElementType type, const std::vector<int64_t>& shape,
                              Storage storage) {
  check(shape.size() == 1 || shape.size() == 2, "a dataset of one or two dimensions");
  silence();
  const std::vector<hsize_t> extent(shape.begin(), shape.end());
  const int rank = static_cast<int>(shape.size());
  const Handle space = open_handle(H5Screate_simple(rank, extent.data(), nullptr), *file_, absolute(name),
                                   "shape the dataset");
  const Handle properties(H5Pcreate(H5P_DATASET_CREATE));
  const bool empty = std::count(extent.begin(), extent.end(), 0) > 0;
  if (storage == Storage::deflated && !empty) {  // a chunk must not be empty
    constexpr hsize_t kChunkElements = 1 << 16;
    std::vector<hsize_t> chunk = extent;
    if (rank == 2) chunk[1] = std::min(chunk[1], kChunkElements);
    chunk[0] = std::min(chunk[0], std::max<hsize_t>(1, kChunkElements / (rank == 2 ? chunk[1] : 1)));
    H5Pset_chunk(properties.id(), rank, chunk.data());
    H5Pset_shuffle(properties.id());
    H5Pset_deflate(properties.id(), 6);
  } else if (storage == Storage::reserved) {
    H5Pset_alloc_time(properties.id(), H5D_ALLOC_TIME_EARLY);
    H5Pset_fill_time(properties.id(), H5D_FILL_TIME_NEVER);
  }
  const Handle links(H5Pcreate(H5P_LINK_CREATE));
  H5Pset_create_intermediate_group(links.id(), 1);
  Handle id = open_handle(
      H5Dcreate2(id_.id(), name.c_str(), stored(type), space.id(), links.id(), properties.id(), H5P_DEFAULT),
      *file_, absolute(name), "create the dataset");
  return Dataset(file_, std::move(id), absolute(name));
}

// ---- files

File File::create(const std::filesystem::path& path) {
  silence();
  auto state = std::make_shared<FileState>(FileState{Handle(), path.string(), true});
  const Handle access = disk_access();
  const hid_t id = H5Fcreate(path.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, access.id());
  if (id < 0) bad_input("{}: cannot create the file: {}", path.string(), reason());
  state->id = Handle(id);
  return File(std::move(state));
}

File File::open(const std::filesystem::path& path) {
  silence();
  auto state = std::make_shared<FileState>(FileState{Handle(), path.string(), false});
  std::error_code code;
  const auto kind = std::filesystem::status(path, code);
  if (code || !std::filesystem::exists(kind))
    bad_input("{}: cannot open: {}", path.string(), std::strerror(code ? code.value() : ENOENT));
  if (std::filesystem::is_directory(kind))
    bad_input("{}: is a directory, expected an HDF5 file", path.string());
  const Handle access = disk_access();
  if (H5Fis_hdf5(path.c_str()) == 0) bad_input("{}: not an HDF5 file", path.string());
  const hid_t id = H5Fopen(path.c_str(), H5F_ACC_RDONLY, access.id());
  if (id < 0) bad_input("{}: cannot open the HDF5 file: {}", path.string(), reason());
  state->id = Handle(id);
  return File(std::move(state));
}

File File::create_image(const std::filesystem::path& path) {
  silence();
  auto state = std::make_shared<FileState>(FileState{Handle(), path.string(), true});
  const Handle access = memory_access();
  const hid_t id = H5Fcreate(image_name().c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, access.id());
  if (id < 0) fail("{}: cannot create the file in memory: {}", path.string(), reason());
  state->id = Handle(id);
  return File(std::move(state));
}

File File::open_image(const std::filesystem::path& path, std::span<const std::byte> image) {
  silence();
  auto state = std::make_shared<FileState>(FileState{Handle(), path.string(), false});
  const Handle access = memory_access();
  H5Pset_file_image(access.id(), const_cast<std::byte*>(image.data()), image.size());  // copies it
  const hid_t id = H5Fopen(image_name().c_str(), H5F_ACC_RDONLY, access.id());
  if (id < 0) bad_input("{}: cannot read it as an HDF5 file: {}", path.string(), reason());
  state->id = Handle(id);
  return File(std::move(state));
}

Group File::root() const {
  Handle id = open_handle(H5Gopen2(state_->id.id(), "/", H5P_DEFAULT), *state_, "/", "open the group");
  return Group(state_, std::move(id), "/");
}

std::vector<std::byte> File::image() const {
  silence();
  require(H5Fflush(state_->id.id(), H5F_SCOPE_LOCAL), *state_, "/", "flush the file");
  const ssize_t size = H5Fget_file_image(state_->id.id(), nullptr, 0);
  if (size < 0) raise(*state_, "/", "take the image of the file");
  std::vector<std::byte> bytes(static_cast<size_t>(size));
  if (H5Fget_file_image(state_->id.id(), bytes.data(), bytes.size()) != size)
    raise(*state_, "/", "take the image of the file");
  return bytes;
}

void File::close() {
  check(state_.use_count() == 1, "groups and datasets are gone when their file is closed");
  silence();
  require(H5Fflush(state_->id.id(), H5F_SCOPE_GLOBAL), *state_, "/", "flush the file");
  state_.reset();
}

}  // namespace grinqh::hdf5
