// Plug-ins that come and go, with the library in them or beside them.
#include <dlfcn.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <future>
#include <string>
#include <thread>
#include <vector>

namespace {

constexpr std::size_t kSize = 10'000;
using Bytes = std::vector<unsigned char>;

class Plugin {
 public:
  explicit Plugin(const std::string& path) : handle_(::dlopen(path.c_str(), RTLD_NOW)) {
    if (handle_ == nullptr) throw std::runtime_error(::dlerror());
  }
  Plugin(const Plugin&) = delete;
  Plugin& operator=(const Plugin&) = delete;
  ~Plugin() { ::dlclose(handle_); }

  bool checks() { return call<bool()>("plugin_checks")(); }
  std::string offer(const char* library, Bytes& bytes) {
    return call<const char*(const char*, void*, std::size_t)>("plugin_offer")(library, bytes.data(),
                                                                              bytes.size());
  }
  bool read(const char* library, const std::string& json, Bytes& bytes) {
    return call<bool(const char*, const char*, void*, std::size_t)>("plugin_read")(
        library, json.c_str(), bytes.data(), bytes.size());
  }
  void close() { call<void()>("plugin_close")(); }
  void forget() { call<void()>("plugin_forget")(); }
  bool exports(const char* symbol) { return ::dlsym(handle_, symbol) != nullptr; }

 private:
  template <typename Function>
  Function* call(const char* name) {
    auto* function = reinterpret_cast<Function*>(::dlsym(handle_, name));
    if (function == nullptr) throw std::runtime_error(::dlerror());
    return function;
  }

  void* handle_;
};

bool is_loaded(const std::string& path) {
  void* handle = ::dlopen(path.c_str(), RTLD_NOW | RTLD_NOLOAD);
  if (handle != nullptr) ::dlclose(handle);
  return handle != nullptr;
}

/// What was registered to be called at a fork is gone, or still there.
void expect_fork_works() {
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) ::_exit(0);
  int status = -1;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}

void expect_moves(Plugin& owner, Plugin& reader, const char* library) {
  Bytes source(kSize, 7);
  Bytes target(kSize);
  EXPECT_TRUE(reader.read(library, owner.offer(library, source), target));
  EXPECT_EQ(source, target);
}

class Plugins : public testing::TestWithParam<const char*> {
 protected:
  static constexpr int kRounds = 3;
  const std::string path = GetParam();
};
INSTANTIATE_TEST_SUITE_P(, Plugins, testing::Values(STATIC_PLUGIN, SHARED_PLUGIN),
                         [](const auto& parameter) {
                           return std::string(parameter.index == 0 ? "Static" : "Shared");
                         });

TEST_P(Plugins, UnusedIsUnloaded) {
  for (int round = 0; round < kRounds; ++round) {
    {
      Plugin plugin(path);
      EXPECT_TRUE(plugin.checks());
      expect_fork_works();
    }
    EXPECT_FALSE(is_loaded(path));
    expect_fork_works();
  }
}

TEST_P(Plugins, ClosedBeforeItIsUnloaded) {
  for (int round = 0; round < kRounds; ++round) {
    std::promise<void> unloaded;
    std::thread outlives_it;
    {
      Plugin plugin(path);
      std::promise<void> used;
      outlives_it = std::thread([&] {
        expect_moves(plugin, plugin, FAKE_NIXL_LIBRARY);
        used.set_value();
        unloaded.get_future().wait();
      });
      used.get_future().wait();
      plugin.close();
    }
    expect_fork_works();
    unloaded.set_value();
    outlives_it.join();
  }
}

TEST_P(Plugins, UnloadedWithAConnectorInAStaticObject) {
  for (int round = 0; round < kRounds; ++round) {
    {
      Plugin plugin(path);
      expect_moves(plugin, plugin, FAKE_NIXL_LIBRARY);
    }
    expect_fork_works();
  }
}

TEST_P(Plugins, UnloadedWithAConnectorThatNobodyCloses) {
  for (int round = 0; round < kRounds; ++round) {
    {
      Plugin plugin(path);
      expect_moves(plugin, plugin, FAKE_NIXL_LIBRARY);
      plugin.forget();
    }
    // The engine's thread looks around.
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    expect_fork_works();
  }
}

class TwoCopies : public testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(, TwoCopies, testing::Values(FAKE_NIXL_LIBRARY, ""),
                         [](const auto& parameter) {
                           return std::string(parameter.index == 0 ? "Fake" : "Nixl");
                         });

TEST_P(TwoCopies, MoveBytesInOneProcess) {
  Plugin embeds(STATIC_PLUGIN);
  Plugin shares(SHARED_PLUGIN);
  constexpr const char* kOfTheLibrary = "_ZN12nixl_connect2v09Connector5startEv";
  EXPECT_FALSE(embeds.exports(kOfTheLibrary));
  EXPECT_TRUE(shares.exports(kOfTheLibrary));
  expect_moves(embeds, shares, GetParam());
  expect_moves(shares, embeds, GetParam());
  embeds.close();
  expect_moves(shares, shares, GetParam());
  shares.close();
}

}  // namespace
