#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>

#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "module.h"

namespace nixl_connect::python {

namespace {

/// A name of an attribute, made once.
class Name {
 public:
  explicit Name(const char* name) : text_(name), object_(PyUnicode_InternFromString(name)) {}

  /// That field of a model, which may have been made without validation.
  template <typename T>
  T of(nb::handle model) const {
    T value;
    const auto field = nb::steal(PyObject_GetAttr(model.ptr(), object_));
    if (!field.is_valid()) PyErr_Clear();
    if (!field.is_valid() || !nb::try_cast(field, value)) {
      throw Error(ErrorCode::rejected_metadata,
                  std::string("remote_metadata: impossible value of '") + text_ + "'");
    }
    return value;
  }

 private:
  const char* text_;
  PyObject* object_;
};

struct Fields {
  Name nixl_metadata{"nixl_metadata"};
  Name notification_key{"notification_key"};
  Name operation_kind{"operation_kind"};
  Name descriptors{"descriptors"};
  Name ptr{"ptr"};
  Name size{"size"};
  Name device{"device"};
};

/// Made with the module: without a GIL, a thread that waits for another one to make a static keeps
/// Python's collector from stopping it.
const Fields& fields() {
  static const Fields made;
  return made;
}

/// What `json.dumps` makes of the list of each one's device, address and size: signatures are of
/// it.
std::string signed_text(const std::vector<RemoteDescriptor>& descriptors) {
  constexpr std::size_t kPerDescriptor = 48;
  std::string text = "[";
  text.reserve(kPerDescriptor * descriptors.size());
  for (const RemoteDescriptor& d : descriptors) {
    if (text.size() > 1) text += ", ";
    text.append("[\"").append(d.device.to_string()).append("\", ");
    text.append(std::to_string(d.address)).append(", ");
    text.append(std::to_string(d.size)).append("]");
  }
  return text += ']';
}

bool is_long_list(const RdmaMetadata& metadata) {
  return metadata.descriptors.size() >= kManyDescriptors;
}

nb::bytes to_python(const std::string& bytes) { return nb::bytes(bytes.data(), bytes.size()); }

}  // namespace

RdmaMetadata metadata_of(nb::handle model) {
  const Fields& field = fields();
  RdmaMetadata metadata;
  metadata.nixl_metadata = field.nixl_metadata.of<std::string>(model);
  metadata.notification_key = field.notification_key.of<std::string>(model);
  metadata.operation_kind =
      static_cast<OperationKind>(field.operation_kind.of<std::uint8_t>(model));
  const auto list = field.descriptors.of<nb::list>(model);
  metadata.descriptors.reserve(list.size());
  for_each_item(list, [&](nb::handle d, std::size_t) {
    metadata.descriptors.push_back({field.ptr.of<std::uintptr_t>(d), field.size.of<std::size_t>(d),
                                    Device::parse(field.device.of<std::string>(d))});
  });
  return metadata;
}

RdmaMetadata metadata_of_bytes(const nb::bytes& bytes) {
  const UnlockedWhen unlocked(bytes.size() >= kManyBytes);
  return metadata_from_bytes({bytes.c_str(), bytes.size()});
}

void init_metadata(nb::module_& m) {
  fields();
  m.attr("MANY_DESCRIPTORS") = kManyDescriptors;

  nb::class_<RdmaMetadata>(m, "RdmaMetadata", "Metadata without a Python object for each piece.")
      .def_static("from_bytes", &metadata_of_bytes, nb::arg("bytes"),
                  "Raises RejectedMetadataError for what is no metadata.")
      .def_static("from_model", &metadata_of, nb::arg("model"), "Of nixl_connect.RdmaMetadata.")
      .def("__len__", [](const RdmaMetadata& metadata) { return metadata.descriptors.size(); })
      .def_rw("notification_key", &RdmaMetadata::notification_key)
      .def_rw("nixl_metadata", &RdmaMetadata::nixl_metadata)
      .def_prop_ro(
          "operation_kind",
          [](const RdmaMetadata& metadata) { return static_cast<int>(metadata.operation_kind); })
      .def(
          "descriptor",
          [](const RdmaMetadata& metadata, std::size_t index) {
            const RemoteDescriptor& d = metadata.descriptors.at(index);
            return std::tuple(d.device.to_string(), d.address, d.size);
          },
          nb::arg("index"), "(device, address, size) of one of them.")
      .def(
          "signed_descriptors",
          [](const RdmaMetadata& metadata) {
            const std::string text = [&] {
              const UnlockedWhen unlocked(is_long_list(metadata));
              return signed_text(metadata.descriptors);
            }();
            return to_python(text);
          },
          "What is signed of the descriptors.")
      .def("to_bytes", [](const RdmaMetadata& metadata) {
        const std::string bytes = [&] {
          const UnlockedWhen unlocked(is_long_list(metadata));
          return to_bytes(metadata);
        }();
        return to_python(bytes);
      });

  m.def(
      "encode_nixl_metadata",
      [](nb::bytes blob, bool hex) {
        return encode_nixl_metadata({blob.c_str(), blob.size()},
                                    hex ? MetadataEncoding::hex : MetadataEncoding::base64);
      },
      nb::arg("blob"), nb::arg("hex"), "The text of a NIXL blob, as it travels.");
  m.def(
      "decode_nixl_metadata",
      [](const std::string& text) {
        const std::string blob = decode_nixl_metadata(text);
        return nb::bytes(blob.data(), blob.size());
      },
      nb::arg("text"), "The NIXL blob in a text, bounded in size.");
  m.def(
      "join_nixl_metadata",
      [](nb::bytes connection, nb::bytes buffer) {
        return to_python(join_nixl_metadata({connection.c_str(), connection.size()},
                                            {buffer.c_str(), buffer.size()}));
      },
      nb::arg("connection"), nb::arg("buffer"),
      "How to reach an agent, of one NIXL blob, with the regions in another.");
  m.def(
      "agent_name_of", [](nb::bytes blob) { return agent_name_of({blob.c_str(), blob.size()}); },
      nb::arg("blob"), "The agent's name in a NIXL blob, which is checked from end to end.");
}

}  // namespace nixl_connect::python
