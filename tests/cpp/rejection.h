#pragma once

#include <gtest/gtest.h>

#include <string>

#include "nixl_connect/error.h"

namespace nixl_connect {

/// What a function says that refuses the metadata it reads, or "accepted".
template <class Read>
std::string rejection(const Read& read) {
  try {
    read();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::rejected_metadata);
    return error.what();
  }
  return "accepted";
}

}  // namespace nixl_connect
