// Replays the fuzzer's corpus, and damages each entry in every byte.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace {

void feed(const std::string& input) {
  LLVMFuzzerTestOneInput(reinterpret_cast<const std::uint8_t*>(input.data()), input.size());
}

TEST(Corpus, IsReadOrRefusedWhateverIsDoneToIt) {
  int entries = 0;
  for (const auto& file : std::filesystem::directory_iterator(FUZZ_CORPUS)) {
    std::ifstream stream(file.path(), std::ios::binary);
    const std::string input(std::istreambuf_iterator<char>(stream), {});
    feed(input);
    ++entries;
    if (input.size() > 2000) continue;
    for (std::size_t at = 0; at < input.size(); ++at) {
      for (const char flip : {'\x01', '\x40', '\x80', '\xff'}) {
        std::string damaged = input;
        damaged[at] = static_cast<char>(damaged[at] ^ flip);
        feed(damaged);
      }
      feed(input.substr(0, at));
      feed(input.substr(at));
    }
  }
  EXPECT_GT(entries, 5);
}

}  // namespace
