#include <exception>
#include <utility>

#include "api/registration_impl.h"
#include "nixl_connect/connector.h"

NIXL_CONNECT_NAMESPACE_BEGIN

Registration::Registration() noexcept = default;
Registration::Registration(Registration&&) noexcept = default;

Registration& Registration::operator=(Registration&& other) noexcept {
  std::swap(impl_, other.impl_);
  return *this;
}

Registration::~Registration() { reset(); }

void Registration::reset() noexcept { reset(nullptr, 0); }

bool Registration::reset(std::shared_ptr<CompletionQueue> queue, std::uint64_t token) noexcept {
  if (impl_ == nullptr) return false;
  const auto leases = std::exchange(impl_, nullptr);
  leases->region->queue = std::move(queue);
  leases->region->token = token;
  leases->region->left = leases->of_engines.size();
  for (auto& [engine, lease] : leases->of_engines) {
    try {
      engine->deregister(leases->region, std::move(lease));
    } catch (const std::exception&) {
      // Out of memory: the region stays registered until the connector closes.
    }
  }
  return true;
}

NIXL_CONNECT_NAMESPACE_END
