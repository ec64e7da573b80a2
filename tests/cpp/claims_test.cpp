// The table of offers, between threads and between processes.
#include <gmock/gmock.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <thread>

#include "claims/claim.h"
#include "claims/own_offers.h"
#include "system/mapped_memory.h"
#include "system/process.h"

namespace nixl_connect {
namespace {

using Answer = Claims::Answer;
using ::testing::IsNull;
using ::testing::Not;

class ClaimsTest : public ::testing::Test {
 protected:
  ClaimsTest() { open(1); }

  void open(std::uint32_t places) {
    place_ = OwnOffers::of_this_process()->take();
    slot().open(place_->generation(), places);
    location_ = place_->location(places);
  }
  OfferSlot& slot() { return place_->slot(); }
  Answer claim() {
    claim_ = nullptr;
    return claims_.claim(location_, claim_);
  }
  /// What a child that does this comes to.
  static int in_child(const std::function<int()>& work) {
    const pid_t child = ::fork();
    if (child == 0) ::_exit(work());
    int status = 0;
    ::waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  }

  std::unique_ptr<OwnOffers::Place> place_;
  OfferLocation location_;
  Claims claims_;
  std::unique_ptr<Claim> claim_;
};

TEST_F(ClaimsTest, LocationsAreReadBackFromKeys) {
  location_.places = kUnlimited;
  const auto read = OfferLocation::of_key(location_.appended_to("abc~5") + ".signature");
  ASSERT_TRUE(read);
  EXPECT_EQ(read->appended_to(""), location_.appended_to(""));
  EXPECT_EQ(read->table, location_.table);
  for (const char* key : {"", "abc", "@", "@1-2-3-4-5-6", "@1-2-3-4-5-6-0", "@1-2-3-4-5-6-7-8",
                          "@1-ffffffff-3-4-5-6-7", "@x-2-3-4-5-6-7", "@1-2-3-4-5-6-7@"}) {
    EXPECT_FALSE(OfferLocation::of_key(key)) << key;
  }
}

TEST_F(ClaimsTest, OneIsGrantedAndTheNextRefused) {
  EXPECT_FALSE(slot().has_begun(place_->generation(), 1));
  ASSERT_EQ(claim(), Answer::granted);
  EXPECT_TRUE(slot().is_claimed());
  EXPECT_TRUE(slot().has_begun(place_->generation(), 1));
  const auto first = std::move(claim_);
  EXPECT_EQ(claim(), Answer::refused);
  first->done();
  EXPECT_FALSE(slot().is_claimed());
  EXPECT_EQ(slot().done(), 1u);
  EXPECT_EQ(claim(), Answer::refused) << "a place is taken once";
}

TEST_F(ClaimsTest, WhatHasFailedIsReportedOnceWithItsReason) {
  const auto reports = [] { return OwnOffers::of_this_process()->reports(); };
  for (const ClaimEnd end : {ClaimEnd::unused, ClaimEnd::abandoned}) {
    open(1);
    const auto before = reports();
    ASSERT_EQ(claim(), Answer::granted);
    claim_->failed(end, "no\nway");
    EXPECT_EQ(reports(), before + 1);
    EXPECT_TRUE(slot().is_claimed()) << "until its owner has seen it";
    const ClaimsSeen seen = slot().review(false);
    EXPECT_EQ(seen.live, 0u);
    EXPECT_EQ(seen.failed, 1u);
    EXPECT_EQ(seen.abandoned, end == ClaimEnd::abandoned);
    EXPECT_EQ(slot().reason(), "no\nway");
    EXPECT_EQ(slot().review(true).failed, 0u);
  }
  // One that is dropped without a word is abandoned.
  open(1);
  ASSERT_EQ(claim(), Answer::granted);
  claim_.reset();
  EXPECT_TRUE(slot().review(false).abandoned);
}

TEST_F(ClaimsTest, NobodyBeginsWithWhatIsClosedOrOfAnotherGeneration) {
  slot().close();
  EXPECT_EQ(claim(), Answer::refused);
  const OfferLocation old = location_;
  place_.reset();
  open(1);
  EXPECT_EQ(location_.slot, old.slot) << "the slot is used again";
  std::unique_ptr<Claim> late;
  EXPECT_EQ(claims_.claim(old, late), Answer::refused);
  EXPECT_EQ(claim(), Answer::granted);
}

TEST_F(ClaimsTest, ASlotIsNotUsedAgainWhileSomebodyIsEntered) {
  ASSERT_EQ(claim(), Answer::granted);
  const auto held = std::move(claim_);
  const std::uint32_t slot = location_.slot;
  place_.reset();
  open(1);
  EXPECT_NE(location_.slot, slot);
}

TEST_F(ClaimsTest, OfferForAnyNumberTakesAsManyAtATimeAsItHasEntries) {
  open(kUnlimited);
  std::vector<std::unique_ptr<Claim>> held;
  for (std::size_t i = 0; i < OfferSlot::kClaims; ++i) {
    ASSERT_EQ(claim(), Answer::granted);
    held.push_back(std::move(claim_));
  }
  EXPECT_EQ(claim(), Answer::busy);
  held.front()->done();
  EXPECT_EQ(claim(), Answer::granted);
  EXPECT_EQ(slot().places_left(), kUnlimited);
}

TEST_F(ClaimsTest, AnotherProcessClaimsAndItsDeathIsFound) {
  const auto claims_it = [&] {
    Claims claims;
    std::unique_ptr<Claim> claim;
    const auto answer = claims.claim(location_, claim);
    static_cast<void>(claim.release());  // it dies with it
    return static_cast<int>(answer);
  };
  EXPECT_EQ(in_child(claims_it), static_cast<int>(Answer::granted));
  EXPECT_EQ(slot().review(false).live, 1u) << "nobody has asked whether it lives";
  const ClaimsSeen seen = slot().review(true);
  EXPECT_EQ(seen.failed, 1u);
  EXPECT_TRUE(seen.abandoned);
  EXPECT_EQ(in_child(claims_it), static_cast<int>(Answer::refused));
}

TEST_F(ClaimsTest, AnOwnerThatHasEndedIsGone) {
  int pipe[2];
  ASSERT_EQ(::pipe(pipe), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    // The table is the child's own.
    const auto place = OwnOffers::of_this_process()->take();
    place->slot().open(place->generation(), kUnlimited);
    const std::string text = place->location(kUnlimited).appended_to("");
    static_cast<void>(::write(pipe[1], text.data(), text.size()));
    ::pause();
    ::_exit(0);
  }
  std::array<char, 128> buffer;
  const ssize_t n = ::read(pipe[0], buffer.data(), buffer.size());
  location_ = *OfferLocation::of_key({buffer.data(), static_cast<std::size_t>(n)});
  EXPECT_EQ(location_.process, child);
  ASSERT_EQ(claim(), Answer::granted);
  EXPECT_TRUE(claim_->stands());
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
  EXPECT_FALSE(claim_->stands());
  std::this_thread::sleep_for(std::chrono::milliseconds(5));
  EXPECT_EQ(claim(), Answer::gone);
  EXPECT_EQ(claim(), Answer::gone);
  ::close(pipe[0]);
  ::close(pipe[1]);
}

TEST_F(ClaimsTest, NothingElseIsOpenedWhateverTheNumbersSay) {
  const OfferLocation right = location_;
  int pipe[2];
  ASSERT_EQ(::pipe(pipe), 0);
  const auto with = [&](auto change) {
    location_ = right;
    change(location_);
    return claim();
  };
  EXPECT_EQ(with([&](auto& l) { l.file = pipe[0]; }), Answer::gone) << "no memfd";
  EXPECT_EQ(with([](auto& l) { l.file = 987'654; }), Answer::gone);
  EXPECT_EQ(with([](auto& l) { ++l.table; }), Answer::gone);
  EXPECT_EQ(with([](auto& l) { l.process = 0x7ffffff; }), Answer::gone);
  EXPECT_EQ(with([](auto& l) { ++l.space; }), Answer::elsewhere);
  EXPECT_EQ(with([](auto& l) { l.slot = OfferTable::kSlots; }), Answer::refused);
  // Of this name, but it could shrink under its readers.
  SharedMemory small = SharedMemory::make(OfferTable::kName, 4096);
  EXPECT_EQ(with([&](auto& l) { l.file = small.file(); }), Answer::gone);
  EXPECT_EQ(with([](auto&) {}), Answer::granted);
  ::close(pipe[0]);
  ::close(pipe[1]);
}

TEST_F(ClaimsTest, NobodyIsAtAnOfferThatIsClosedAndEmpty) {
  constexpr int kThreads = 4;
  constexpr std::uint32_t kPlaces = 3;
  for (int round = 0; round < 300; ++round) {
    open(kPlaces);
    std::atomic<bool> reused{false};
    std::atomic<std::uint32_t> granted{0};
    std::atomic<int> trespasses{0};
    std::vector<std::thread> threads;
    for (int i = 0; i < kThreads; ++i) {
      threads.emplace_back([&] {
        Claims claims;
        for (int again = 0; again < 3; ++again) {
          std::unique_ptr<Claim> claim;
          if (claims.claim(location_, claim) != Answer::granted) continue;
          ++granted;
          if (reused) ++trespasses;
          std::this_thread::yield();
          if (reused) ++trespasses;
          claim->done();
        }
      });
    }
    if (round % 3 != 0) std::this_thread::yield();
    slot().close();
    while (slot().review(false).live > 0) std::this_thread::yield();
    reused = true;
    for (auto& thread : threads) thread.join();
    EXPECT_EQ(trespasses, 0);
    EXPECT_LE(granted, kPlaces);
    EXPECT_EQ(slot().done(), granted);
  }
}

TEST(MappedMemory, IsFoundHereAndInOtherProcesses) {
  const std::vector<char> memory(100'000);
  const auto address = reinterpret_cast<std::uintptr_t>(memory.data());
  EXPECT_TRUE(is_mapped(address, memory.size()));
  EXPECT_TRUE(is_mapped_in(this_process(), address, memory.size()));
  EXPECT_FALSE(is_mapped(4096, 10));
  EXPECT_TRUE(is_mapped_in(0x7ffffff, address, 1)) << "nothing is known";
  char byte = 0;
  const ::iovec here{&byte, 1};
  ::iovec there{const_cast<char*>(memory.data()), 1};
  if (::process_vm_readv(this_process(), &here, 1, &there, 1, 0) != 1) {
    GTEST_SKIP() << "this system does not let one process ask for another's memory";
  }
  EXPECT_FALSE(is_mapped_in(this_process(), 4096, 10));
}

}  // namespace
}  // namespace nixl_connect
