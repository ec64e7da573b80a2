#pragma once

#include <clocale>

#include "nixl_connect/api.h"

NIXL_CONNECT_NAMESPACE_BEGIN

/// The "C" locale on the thread that makes it, until it goes. UCX reads its own default settings by
/// the thread's locale, and "0.5" is no number where the decimal sign is a comma.
class CLocale {
 public:
  CLocale() noexcept
      : own_(::newlocale(LC_ALL_MASK, "C", locale_t{})), previous_(::uselocale(own_)) {}
  CLocale(const CLocale&) = delete;
  CLocale& operator=(const CLocale&) = delete;
  ~CLocale() {
    ::uselocale(previous_);
    if (own_ != locale_t{}) ::freelocale(own_);
  }

 private:
  const locale_t own_;
  const locale_t previous_;
};

NIXL_CONNECT_NAMESPACE_END
