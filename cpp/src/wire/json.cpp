#include <algorithm>
#include <charconv>

#include "nixl_connect/error.h"
#include "nixl_connect/metadata.h"

NIXL_CONNECT_NAMESPACE_BEGIN

namespace {

/// Appends a JSON string. All but quotes, backslashes and control characters stays as it is.
void write_string(std::string& json, std::string_view text) {
  constexpr std::string_view kHex = "0123456789abcdef";
  const auto is_plain = [](char c) {
    return c != '"' && c != '\\' && static_cast<unsigned char>(c) >= 0x20;
  };
  json += '"';
  for (auto at = text.begin(); at != text.end();) {
    const auto special = std::find_if_not(at, text.end(), is_plain);
    json.append(at, special);
    if (special == text.end()) break;
    const char c = *special;
    if (c == '"' || c == '\\') {
      json += '\\';
      json += c;
    } else {
      json += "\\u00";
      json += kHex[static_cast<unsigned char>(c) >> 4];
      json += kHex[static_cast<unsigned char>(c) & 15];
    }
    at = special + 1;
  }
  json += '"';
}

/// Reads the one form of JSON that metadata has: objects of known fields.
class JsonReader {
 public:
  explicit JsonReader(std::string_view json) : json_(json) {}

  [[noreturn]] void reject(const std::string& what) const {
    throw Error(ErrorCode::rejected_metadata, "remote_metadata: not its JSON: " + what +
                                                  " at byte " + std::to_string(offset_) + " of " +
                                                  std::to_string(json_.size()));
  }

  /// Calls `field(name)` at each field's value.
  template <typename Field>
  void object(Field field) {
    sequence('{', '}', [&] {
      const std::string name = string();
      expect(':');
      field(name);
    });
  }

  /// Calls `item()` at each item.
  template <typename Item>
  void array(Item item) {
    sequence('[', ']', item);
  }

  std::uint64_t number() {
    skip_space();
    std::uint64_t value = 0;
    const char* begin = json_.data() + offset_;
    const char* end = json_.data() + json_.size();
    const auto [stop, error] = std::from_chars(begin, end, value);
    if (error != std::errc()) reject("expected a number from 0 to 2^64-1");
    if (*begin == '0' && stop - begin > 1) reject("expected a number without leading zeros");
    if (stop != end && (*stop == '.' || *stop == 'e' || *stop == 'E')) {
      reject("expected a whole number");
    }
    offset_ += static_cast<std::size_t>(stop - begin);
    return value;
  }

  std::string string() {
    expect('"');
    std::string text;
    while (true) {
      // What needs no care is taken at once.
      const std::size_t plain = offset_;
      while (offset_ < json_.size() && json_[offset_] != '"' && json_[offset_] != '\\' &&
             static_cast<unsigned char>(json_[offset_]) >= 0x20) {
        ++offset_;
      }
      text.append(json_, plain, offset_ - plain);
      switch (next()) {
        case '"': return text;
        case '\\': escape(text); break;
        default: reject("control character in a string");
      }
    }
  }

  void end() {
    skip_space();
    if (offset_ != json_.size()) reject("something after the end");
  }

 private:
  void skip_space() {
    while (offset_ < json_.size() && (json_[offset_] == ' ' || json_[offset_] == '\t' ||
                                      json_[offset_] == '\n' || json_[offset_] == '\r')) {
      ++offset_;
    }
  }

  char next() {
    if (offset_ == json_.size()) reject("unexpected end");
    return json_[offset_++];
  }

  void expect(char c) {
    skip_space();
    if (offset_ == json_.size() || json_[offset_] != c) {
      reject(std::string("expected '") + c + "'");
    }
    ++offset_;
  }

  template <typename Item>
  void sequence(char open, char close, Item item) {
    expect(open);
    skip_space();
    if (offset_ < json_.size() && json_[offset_] == close) {
      ++offset_;
      return;
    }
    while (true) {
      item();
      skip_space();
      const char c = next();
      if (c == close) return;
      if (c != ',') reject(std::string("expected ',' or '") + close + "'");
    }
  }

  unsigned code_unit() {
    unsigned unit = 0;
    if (json_.size() - offset_ < 4) reject("unexpected end");
    const char* begin = json_.data() + offset_;
    const auto [stop, error] = std::from_chars(begin, begin + 4, unit, 16);
    if (error != std::errc() || stop != begin + 4) reject("expected four hexadecimal digits");
    offset_ += 4;
    return unit;
  }

  void escape(std::string& text) {
    const char c = next();
    switch (c) {
      case '"':
      case '\\':
      case '/': text += c; return;
      case 'b': text += '\b'; return;
      case 'f': text += '\f'; return;
      case 'n': text += '\n'; return;
      case 'r': text += '\r'; return;
      case 't': text += '\t'; return;
      case 'u': break;
      default: reject("unknown escape");
    }
    unsigned code = code_unit();
    if (code >= 0xd800 && code < 0xdc00) {
      if (next() != '\\' || next() != 'u') reject("half a character");
      const unsigned low = code_unit();
      if (low < 0xdc00 || low > 0xdfff) reject("half a character");
      code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
    } else if (code >= 0xdc00 && code < 0xe000) {
      reject("half a character");
    }
    write_utf8(text, code);
  }

  static void write_utf8(std::string& text, unsigned code) {
    if (code < 0x80) {
      text += static_cast<char>(code);
      return;
    }
    const int continuations = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
    const unsigned lead = continuations == 1 ? 0xc0 : continuations == 2 ? 0xe0 : 0xf0;
    text += static_cast<char>(lead | code >> (6 * continuations));
    for (int i = continuations - 1; i >= 0; --i) {
      text += static_cast<char>(0x80 | (code >> (6 * i) & 0x3f));
    }
  }

  std::string_view json_;
  std::size_t offset_ = 0;
};

RemoteDescriptor read_descriptor(JsonReader& reader) {
  RemoteDescriptor descriptor;
  reader.object([&](const std::string& name) {
    if (name == "device") {
      const std::string device = reader.string();
      try {
        descriptor.device = Device::parse(device);
      } catch (const Error& error) {
        reader.reject(error.what());
      }
    } else if (name == "ptr") {
      descriptor.address = reader.number();
    } else if (name == "size") {
      descriptor.size = reader.number();
    } else {
      reader.reject("unknown field 'descriptors[]." + name + "'");
    }
  });
  return descriptor;
}

}  // namespace

std::string to_json(const RdmaMetadata& metadata) {
  std::string json;
  constexpr std::size_t kPerDescriptor = 80;
  json.reserve(128 + metadata.nixl_metadata.size() + metadata.notification_key.size() +
               kPerDescriptor * metadata.descriptors.size());
  json += "{\"descriptors\":[";
  for (const RemoteDescriptor& d : metadata.descriptors) {
    if (json.back() == '}') json += ',';
    json.append("{\"device\":\"").append(d.device.to_string()).append("\",\"ptr\":");
    json.append(std::to_string(d.address)).append(",\"size\":");
    json.append(std::to_string(d.size)).append("}");
  }
  json += "],\"nixl_metadata\":";
  write_string(json, metadata.nixl_metadata);
  json += ",\"notification_key\":";
  write_string(json, metadata.notification_key);
  json += ",\"operation_kind\":";
  json += std::to_string(static_cast<int>(metadata.operation_kind));
  json += '}';
  return json;
}

RdmaMetadata metadata_from_json(std::string_view json) {
  RdmaMetadata metadata;
  JsonReader reader(json);
  reader.object([&](const std::string& name) {
    if (name == "descriptors") {
      metadata.descriptors.clear();
      reader.array([&] { metadata.descriptors.push_back(read_descriptor(reader)); });
    } else if (name == "nixl_metadata") {
      metadata.nixl_metadata = reader.string();
    } else if (name == "notification_key") {
      metadata.notification_key = reader.string();
    } else if (name == "operation_kind") {
      const std::uint64_t kind = reader.number();
      if (kind < 1 || kind > 2) reader.reject("expected 1 (READ) or 2 (WRITE) as operation_kind");
      metadata.operation_kind = static_cast<OperationKind>(kind);
    } else {
      reader.reject("unknown field '" + name + "'");
    }
  });
  reader.end();
  return metadata;
}

NIXL_CONNECT_NAMESPACE_END
