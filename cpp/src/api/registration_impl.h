#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "engine/engine.h"
#include "nixl_connect/connector.h"

NIXL_CONNECT_NAMESPACE_BEGIN

/// What a `Registration` holds.
struct Registration::Impl {
  std::shared_ptr<ManualRegistration> region;
  std::vector<std::pair<std::shared_ptr<Engine>, MemoryRegistry::Lease>> of_engines;
};

NIXL_CONNECT_NAMESPACE_END
