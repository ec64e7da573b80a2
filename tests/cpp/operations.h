#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "engine/operation.h"
#include "nixl_connect/metadata.h"
#include "wire/notification.h"

namespace nixl_connect::testing {

/// An operation as the connector makes them, of host memory that is not touched.
inline OperationPtr make_operation(OperationKind kind = OperationKind::read, bool passive = true,
                                   bool small = true, std::uint32_t places = 1) {
  Request request;
  request.connector = std::make_shared<const std::string>("test");
  request.number = 1;
  request.kind = kind;
  request.passive = passive;
  request.small = small;
  request.places = places;
  request.began = Clock::now();
  if (passive) request.key = make_notification_key({});
  return std::make_shared<Operation>(std::move(request));
}

/// Is told when it is released.
struct Flag final : Releasable {
  explicit Flag(int& counter) : count(counter) {}
  void release() noexcept override { ++count; }
  int& count;
};

}  // namespace nixl_connect::testing
