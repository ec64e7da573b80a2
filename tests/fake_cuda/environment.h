#pragma once

#include <cstdlib>

/// The number that a variable of the environment has.
inline int from_environment(const char* name, int otherwise) {
  const char* value = std::getenv(name);
  return value != nullptr && *value != '\0' ? std::atoi(value) : otherwise;
}
