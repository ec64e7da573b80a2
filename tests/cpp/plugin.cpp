// What a runtime loads and unloads: with the static library in it, or with the shared one beside
// it.
#include <cstring>

#include "nixl_connect/nixl_connect.h"

#define PLUGIN_API extern "C" __attribute__((visibility("default")))

namespace nixl_connect {
namespace {

std::unique_ptr<Connector> connector;
std::unique_ptr<Connection> offered;
std::string metadata;

Descriptor descriptor_of(void* data, std::size_t size) {
  return {reinterpret_cast<std::uintptr_t>(data), size, Device{}, nullptr};
}

Connector& connector_on(const char* library) {
  if (connector == nullptr) {
    ConnectorOptions options;
    options.nixl_library = library;
    connector = std::make_unique<Connector>(options);
  }
  return *connector;
}

/// Without an engine.
PLUGIN_API bool plugin_checks() {
  try {
    metadata_from_json("{");
  } catch (const Error& error) {
    return error.code() == ErrorCode::rejected_metadata;
  }
  return false;
}

/// The metadata's JSON.
PLUGIN_API const char* plugin_offer(const char* library, void* data, std::size_t size) {
  offered = std::make_unique<Connection>(
      connector_on(library).create_readable({descriptor_of(data, size)}));
  metadata = to_json(offered->metadata());
  return metadata.c_str();
}

PLUGIN_API bool plugin_read(const char* library, const char* json, void* data, std::size_t size) {
  const auto read =
      connector_on(library).begin_read(metadata_from_json(json), {descriptor_of(data, size)});
  return read.wait(std::chrono::seconds(60));
}

PLUGIN_API void plugin_close() {
  offered.reset();
  connector.reset();
}

/// Nobody closes the connector.
PLUGIN_API void plugin_forget() {
  [[maybe_unused]] auto* operation = offered.release();
  [[maybe_unused]] auto* leaked = connector.release();
}

}  // namespace
}  // namespace nixl_connect
