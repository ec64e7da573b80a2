#pragma once

/// \file
/// What every header begins with.

/// Marks what the shared library exports; everything else stays hidden. The static library exports
/// nothing, nor does a plug-in that it is linked into, so that copies never mix.
#ifdef NIXL_CONNECT_STATIC
#define NIXL_CONNECT_API
#else
#define NIXL_CONNECT_API __attribute__((visibility("default")))
#endif

/// Every name lives in a version namespace, so that two versions loaded into one process
/// never share a symbol. Users write `nixl_connect::Connector` and see nothing of it.
#define NIXL_CONNECT_NAMESPACE_BEGIN \
  namespace nixl_connect {           \
  inline namespace v0 {
/// Its end.
#define NIXL_CONNECT_NAMESPACE_END \
  }                                \
  }
