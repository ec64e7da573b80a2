#include "agent/nixl_api.h"

#include <gtest/gtest.h>

#include <cstdlib>

#include "nixl_connect/error.h"

namespace nixl_connect {
namespace {

TEST(NixlApi, LoadsOnce) {
  const NixlApi& api = NixlApi::load("", {});
  EXPECT_NE(api.create_configured_agent, nullptr);
  EXPECT_EQ(&NixlApi::load("", {}), &api);
}

TEST(NixlApi, FindsTheCopyThatIsLoaded) {
  const std::string path = NixlApi::load("", {}).path;
  ::unsetenv("NIXL_CONNECT_NIXL_LIBRARY");
  EXPECT_EQ(NixlApi::load("", {}).path, path);
}

TEST(NixlApi, TakesACandidate) {
  const char* variable = std::getenv("NIXL_CONNECT_NIXL_LIBRARY");
  ASSERT_NE(variable, nullptr) << "name NIXL's library in NIXL_CONNECT_NIXL_LIBRARY";
  const std::string path = variable;
  ::unsetenv("NIXL_CONNECT_NIXL_LIBRARY");
  EXPECT_EQ(NixlApi::load("", {"/nonexistent.so", path}).path, path);
}

TEST(NixlApi, SaysWhatWasTried) {
  try {
    NixlApi::load("/nonexistent/libnixl_capi.so", {});
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::nixl_not_found);
    EXPECT_NE(std::string(error.what()).find("/nonexistent/libnixl_capi.so"), std::string::npos);
  }
  try {
    NixlApi::load("libz.so.1", {});
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("nixl_capi_create_configured_agent"),
              std::string::npos);
  }
}

}  // namespace
}  // namespace nixl_connect
