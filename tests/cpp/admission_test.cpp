#include "engine/admission.h"

#include <gmock/gmock.h>

#include "fake_agents.h"

namespace nixl_connect {
namespace {

using testing::FakeAgent;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

/// Claims by messages: each side's part, called by hand.
class AdmissionTest : public testing::FakeAgentsTest {
 protected:
  AdmissionTest() {
    offered = owner->offer(source);
    place = OwnOffers::of_this_process()->take();
    place->slot().open(place->generation(), 1);
    OfferLocation elsewhere = place->location(1);
    ++elsewhere.space;
    key = elsewhere.appended_to(offered->request.key);
  }

  OperationPtr reader_of_key() {
    Request request = FakeAgent::reader_of(*offered, target)->request;
    request.key = key;
    auto operation = std::make_shared<Operation>(std::move(request));
    operation->flight.local_regions = {FakeAgent::region_of(target)};
    operation->flight.remote = FakeAgent::reader_of(*offered, target)->flight.remote;
    return operation;
  }
  void answer(std::uint64_t number, ClaimAnswer answer, const std::string& sender) {
    const std::string message = answer_message({{number, answer}});
    reader->admission.take(sender, Notice::read(message));
  }
  std::vector<OperationPtr> passed(Clock::time_point now = Clock::now()) {
    std::vector<OperationPtr> operations;
    reader->admission.poll(now, operations);
    return operations;
  }

  OperationPtr offered;
  std::unique_ptr<OwnOffers::Place> place;
  std::string key;
};

TEST_F(AdmissionTest, OwnersThatKnowNothingOfClaimsAreNotAsked) {
  const auto reading = FakeAgent::reader_of(*offered, target);
  EXPECT_EQ(reader->admission.ask(reading), std::nullopt);
  EXPECT_TRUE(reading->flight.admitted);
  EXPECT_TRUE(reader->admission.empty());
}

TEST_F(AdmissionTest, WaitsForTheAnswer) {
  const auto reading = reader_of_key();
  EXPECT_EQ(reader->admission.ask(reading), std::nullopt);
  EXPECT_EQ(reading->flight.phase, Phase::claiming);
  EXPECT_FALSE(reading->flight.admitted);
  EXPECT_THAT(passed(), IsEmpty());
  answer(reading->flight.claim_number + 1, ClaimAnswer::granted, "owner");
  EXPECT_THAT(passed(), IsEmpty()) << "somebody else's";
  answer(reading->flight.claim_number, ClaimAnswer::granted, "owner");
  answer(reading->flight.claim_number, ClaimAnswer::closed, "owner");
  EXPECT_THAT(passed(), SizeIs(1));
  EXPECT_TRUE(reading->flight.admitted);
  EXPECT_FALSE(reading->progress.ended()) << "it is answered once";
  EXPECT_TRUE(reader->admission.empty());
}

TEST_F(AdmissionTest, RefusalsSayWhy) {
  const auto end = [&](ClaimAnswer with, const std::string& sender) {
    const auto reading = reader_of_key();
    EXPECT_EQ(reader->admission.ask(reading), std::nullopt);
    answer(reading->flight.claim_number, with, sender);
    EXPECT_THAT(passed(), SizeIs(1));
    return reading->progress.failure().value_or(Failure{});
  };
  EXPECT_EQ(end(ClaimAnswer::closed, "owner").code, ErrorCode::offer_closed);
  EXPECT_THAT(end(ClaimAnswer::unmapped, "owner").message, HasSubstr("address"));
  const Failure stale = end(ClaimAnswer::granted, "somebody");
  EXPECT_EQ(stale.code, ErrorCode::peer_unreachable);
  EXPECT_THAT(stale.message, HasSubstr("another agent, 'somebody', answers"));
}

TEST_F(AdmissionTest, ClaimsOfOnePeerGoTogether) {
  const auto first = reader_of_key();
  const auto second = reader_of_key();
  for (const auto& reading : {first, second}) reader->admission.ask(reading);
  reader->admission.send("where to answer", Clock::now());
  std::vector<std::pair<std::string, std::string>> messages;
  owner->agent.take_notifications(messages);
  ASSERT_THAT(messages, SizeIs(1));
  const Notice notice = Notice::read(messages[0].second);
  EXPECT_EQ(notice.kind, Notice::Kind::claim);
  ASSERT_THAT(notice.claims, SizeIs(2));
  EXPECT_EQ(notice.claims[1].number, second->flight.claim_number);
  EXPECT_EQ(notice.claims[1].key, key);
  EXPECT_EQ(notice.connection_information, "where to answer");
}

TEST_F(AdmissionTest, WhatHasEndedWaitsNoMore) {
  const auto reading = reader_of_key();
  reader->admission.ask(reading);
  reading->progress.finish(OperationStatus::cancelled);
  EXPECT_THAT(passed(), SizeIs(1));
  EXPECT_TRUE(reader->admission.empty());
}

TEST_F(AdmissionTest, SaysOnceASecondThatATransferGoesOn) {
  const auto reading = reader_of_key();
  reader->admission.ask(reading);
  answer(reading->flight.claim_number, ClaimAnswer::granted, "owner");
  passed();
  std::vector<OperationPtr> none;
  const auto now = Clock::now();
  std::size_t said = 0;
  for (const int seconds : {0, 2, 2, 3, 5}) {
    reader->admission.poll(now + std::chrono::seconds(seconds), none);
    std::vector<std::pair<std::string, std::string>> messages;
    owner->agent.take_notifications(messages);
    for (const auto& message : messages) {
      EXPECT_EQ(Notice::read(message.second).kind, Notice::Kind::alive);
      EXPECT_THAT(Notice::read(message.second).numbers,
                  ::testing::ElementsAre(reading->flight.claim_number));
      ++said;
    }
  }
  EXPECT_EQ(said, 3u);
  reader->admission.forget(*reading);
  reader->admission.poll(now + std::chrono::seconds(9), none);
  std::vector<std::pair<std::string, std::string>> messages;
  owner->agent.take_notifications(messages);
  EXPECT_THAT(messages, IsEmpty());
}

TEST_F(AdmissionTest, AsksAgainUntilTheOwnerHasBeenSilentForLong) {
  const auto reading = reader_of_key();
  reader->admission.ask(reading);
  const auto now = Clock::now();
  const auto asked = [&](int seconds) {
    passed(now + std::chrono::seconds(seconds));
    reader->admission.send("where to answer", now + std::chrono::seconds(seconds));
    std::vector<std::pair<std::string, std::string>> messages;
    owner->agent.take_notifications(messages);
    for (const auto& message : messages) {
      EXPECT_THAT(Notice::read(message.second).claims, SizeIs(1));
      EXPECT_EQ(Notice::read(message.second).claims[0].number, reading->flight.claim_number);
    }
    return messages.size();
  };
  EXPECT_EQ(asked(0), 1u);
  EXPECT_EQ(asked(0), 0u);
  EXPECT_EQ(asked(2), 1u);
  EXPECT_EQ(asked(29), 1u);
  EXPECT_FALSE(reading->progress.ended());
  EXPECT_EQ(asked(31), 0u);
  EXPECT_EQ(reading->progress.failure().value_or(Failure{}).code, ErrorCode::peer_unreachable);
}

TEST_F(AdmissionTest, AnOwnerWhoseEndpointHasFailedMayBeSilentForLess) {
  const auto reading = reader_of_key();
  reader->admission.ask(reading);
  const auto now = Clock::now();
  const auto has_failed = [&](int seconds) {
    passed(now + std::chrono::seconds(seconds));
    return reading->progress.ended();
  };
  const auto peer = reading->flight.peer;
  reader->peers.failed(*peer);
  EXPECT_FALSE(has_failed(2));
  EXPECT_NE(reading->flight.peer, peer) << "by a fresh endpoint";
  EXPECT_FALSE(has_failed(6));
  EXPECT_TRUE(has_failed(8));
}

}  // namespace
}  // namespace nixl_connect
