//===- PipelineModel.cpp - Every interleaving of a pipeline ---------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "PipelineModel.h"

#include <algorithm>
#include <deque>
#include <map>
#include <set>
#include <unordered_set>

using namespace quant_llm;

using Kind = PipelineAction::Kind;

namespace {

/// An action with everything that follows from its place in the agent's list:
/// an agent's own state is nothing but how far it has come. Rings are counted
/// part by part.
struct Step {
  Kind kind;
  unsigned ring;
  /// Of the ring's items, the one that is waited for, filled, released or read.
  unsigned item;
  /// (ring, item) that incomplete products read until this step is done.
  std::set<std::pair<unsigned, unsigned>> reads;
};

/// The two barriers and the content of a slot.
struct Slot {
  uint8_t fullParity = 0, fullPending = 1, copying = 0;
  uint8_t emptyParity = 0, emptyPending = 0;
  uint8_t item = 255;
};

struct State {
  std::vector<uint8_t> positions;
  std::vector<Slot> slots;

  std::string key() const {
    std::string bytes(positions.begin(), positions.end());
    for (const Slot &slot : slots)
      for (uint8_t byte : {slot.fullParity, slot.fullPending, slot.copying,
                           slot.emptyParity, slot.emptyPending, slot.item})
        bytes.push_back(char(byte));
    return bytes;
  }
};

class Model {
public:
  Model(const PipelineProgram &program, unsigned consumers,
        const std::vector<unsigned> &tiles)
      : program(program), consumers(consumers),
        ringsOfPart(program.rings.size()) {
    for (unsigned part = 0; part < program.parts; ++part)
      for (const PipelineProgram::Ring &ring : program.rings) {
        firstSlot.push_back(numSlots);
        numSlots += ring.slots;
      }
    listProducer(tiles);
    for (unsigned part = 0; part < program.parts; ++part)
      consumer.push_back(listConsumer(tiles, part));
    for (const std::vector<Step> &steps : consumer)
      if (producer.size() > 250 || steps.size() > 250)
        fail("the model is too small for so many units");
  }

  PipelineVerdict explore();

private:
  void fail(const std::string &text) {
    if (fault.empty())
      fault = text;
  }
  void listProducer(const std::vector<unsigned> &tiles);
  std::vector<Step> listConsumer(const std::vector<unsigned> &tiles,
                                 unsigned part);

  unsigned numAgents() const { return 1 + program.parts * consumers; }
  unsigned partOf(unsigned agent) const { return (agent - 1) / consumers; }
  const std::vector<Step> &stepsOf(unsigned agent) const {
    return agent == 0 ? producer : consumer[partOf(agent)];
  }
  unsigned slotsOf(const Step &step) const {
    return program.rings[step.ring % ringsOfPart].slots;
  }
  unsigned slotIndex(const Step &step) const {
    return firstSlot[step.ring] + step.item % slotsOf(step);
  }
  bool isReady(const State &state, unsigned agent) const;
  bool hasMet(const State &state) const;
  void perform(State &state, unsigned agent);
  void completePhases(Slot &slot) const;

  const PipelineProgram &program;
  /// Of a part.
  unsigned consumers;
  unsigned ringsOfPart;
  unsigned numSlots = 0;
  std::vector<unsigned> firstSlot;
  std::vector<Step> producer;
  /// By part.
  std::vector<std::vector<Step>> consumer;
  /// (ring, item) without data.
  std::set<std::pair<unsigned, unsigned>> announced;
  std::string fault;
};

} // namespace

void Model::listProducer(const std::vector<unsigned> &tiles) {
  std::vector<unsigned> waited(firstSlot.size()), filled(firstSlot.size());
  auto append = [&](const std::vector<PipelineAction> &actions, unsigned unit) {
    for (const PipelineAction &action : actions) {
      bool isWait = action.kind == Kind::WaitEmpty;
      if (!isWait && action.kind != Kind::Fill && action.kind != Kind::Announce)
        fail("the producer has an action of a consumer");
      unsigned ring = unit % program.parts * ringsOfPart + action.ring;
      unsigned item = (isWait ? waited : filled)[ring]++;
      producer.push_back({action.kind, ring, item, {}});
      if (action.kind == Kind::Announce)
        announced.insert({ring, item});
      if (filled[ring] > waited[ring])
        fail("a slot is filled without waiting for it");
    }
  };
  for (unsigned units : tiles)
    for (unsigned unit = 0; unit < units; ++unit)
      append(program.produceUnit, unit);
  for (unsigned part = 0; part < program.parts; ++part)
    append(program.produceEnd, (tiles.empty() ? 0 : tiles.back()) + part);
}

/// Also checks what does not depend on other agents: the fragment buffers and
/// the order of releases.
std::vector<Step> Model::listConsumer(const std::vector<unsigned> &tiles,
                                      unsigned part) {
  std::vector<Step> steps;
  struct Group {
    std::pair<unsigned, unsigned> item;
    unsigned buffer;
  };
  std::vector<unsigned> waited(program.rings.size()),
      released(program.rings.size());
  std::deque<Group> groups;
  // Of every buffer the unit and chunk it holds.
  std::map<unsigned, std::pair<unsigned, unsigned>> buffers;
  unsigned unitOfAll = 0;
  auto append = [&](const std::vector<PipelineAction> &actions, bool isFirst) {
    for (const PipelineAction &action : actions) {
      if (action.notInFirstUnit && isFirst)
        continue;
      unsigned newest = waited[action.ring] - 1;
      bool isHeld = waited[action.ring] != 0 && released[action.ring] <= newest;
      unsigned ring = part * ringsOfPart + action.ring;
      Step step{action.kind, ring, newest, {}};
      for (const Group &group : groups)
        step.reads.insert(group.item);
      switch (action.kind) {
      case Kind::WaitFull:
        step.item = waited[action.ring]++;
        break;
      case Kind::Release:
        step.item = released[action.ring]++;
        if (!isHeld)
          fail("a slot is released that is not held");
        if (step.reads.count({ring, step.item}))
          fail("a slot is released while a product reads it");
        break;
      case Kind::Prepare:
        for (const Group &group : groups)
          if (group.buffer == action.buffer)
            fail("fragments are replaced while a product reads them");
        if (!isHeld)
          fail("a chunk is prepared from a slot that is not held");
        buffers[action.buffer] = {newest, action.chunk};
        break;
      case Kind::Multiply: {
        auto found = buffers.find(action.buffer);
        if (found == buffers.end() ||
            found->second != std::make_pair(unitOfAll, action.chunk))
          fail("a product reads fragments of another chunk");
        if (!isHeld)
          fail("a product reads a slot that is not held");
        groups.push_back({{ring, newest}, action.buffer});
        break;
      }
      case Kind::Meet:
        step.item = 0;
        if (!groups.empty())
          fail("the rings are given away while a product reads them");
        break;
      case Kind::WaitGroups:
        step.item = 0;
        while (groups.size() > action.chunk)
          groups.pop_front();
        break;
      default:
        fail("a consumer has an action of the producer");
        return;
      }
      steps.push_back(step);
    }
  };
  append(program.consumeStart, /*isFirst=*/true);
  for (unsigned units : tiles) {
    for (unsigned unit = part; unit < units; unit += program.parts) {
      append(program.consumeUnit, unit == part);
      ++unitOfAll;
    }
    append(program.consumeTileEnd, /*isFirst=*/false);
    if (!groups.empty())
      fail("a tile ends before its products");
  }
  return steps;
}

/// All consumers have come to the place where they meet.
bool Model::hasMet(const State &state) const {
  for (unsigned agent = 1; agent < numAgents(); ++agent) {
    const std::vector<Step> &steps = stepsOf(agent);
    auto isMeeting = [](const Step &step) { return step.kind == Kind::Meet; };
    if (std::find_if(steps.begin(), steps.end(), isMeeting) >
        steps.begin() + state.positions[agent])
      return false;
  }
  return true;
}

bool Model::isReady(const State &state, unsigned agent) const {
  const Step &step = stepsOf(agent)[state.positions[agent]];
  const Slot &slot = state.slots[slotIndex(step)];
  unsigned parity = step.item / slotsOf(step) % 2;
  if (step.kind == Kind::WaitEmpty)
    return slot.emptyParity != (parity ^ 1);
  if (step.kind == Kind::WaitFull)
    return slot.fullParity != parity;
  if (step.kind == Kind::Meet)
    return hasMet(state);
  return true;
}

void Model::completePhases(Slot &slot) const {
  if (slot.fullPending == 0 && !slot.copying) {
    slot.fullParity ^= 1;
    slot.fullPending = 1;
  }
  if (slot.emptyPending == 0) {
    slot.emptyParity ^= 1;
    slot.emptyPending = uint8_t(consumers);
  }
}

void Model::perform(State &state, unsigned agent) {
  const Step &step = stepsOf(agent)[state.positions[agent]++];
  Slot &slot = state.slots[slotIndex(step)];
  switch (step.kind) {
  case Kind::Fill:
    for (unsigned reader = 1; reader < numAgents(); ++reader) {
      unsigned at = state.positions[reader];
      if (at == stepsOf(reader).size())
        continue;
      for (auto [ring, item] : stepsOf(reader)[at].reads)
        if (ring == step.ring &&
            item % slotsOf(step) == step.item % slotsOf(step))
          fail("a copy is started into a slot that a product reads");
    }
    if (slot.copying)
      fail("a copy is started into a slot that a copy fills");
    slot.copying = 1;
    slot.item = uint8_t(step.item);
    [[fallthrough]];
  case Kind::Announce:
    // No phase starts with nothing pending: this is the only arrival.
    --slot.fullPending;
    break;
  case Kind::Release:
    --slot.emptyPending;
    break;
  case Kind::Meet: {
    for (unsigned next = state.positions[0]; next < producer.size(); ++next)
      if (producer[next].kind == Kind::Fill)
        fail("the rings are given away before they are filled");
    for (const Slot &other : state.slots)
      if (other.copying)
        fail("the rings are given away while a copy fills them");
    break;
  }
  case Kind::Prepare:
  case Kind::Multiply:
    // Chunks of a unit without data are prepared, but never multiplied.
    if (announced.count({step.ring, step.item})) {
      if (step.kind == Kind::Multiply)
        fail("a product reads an item without data");
    } else if (slot.item != step.item || slot.copying) {
      fail("a slot is read that does not hold the wanted item");
    }
    break;
  default:
    break;
  }
  completePhases(slot);
}

PipelineVerdict Model::explore() {
  State start;
  start.positions.assign(numAgents(), 0);
  start.slots.assign(numSlots, Slot());
  for (Slot &slot : start.slots)
    slot.emptyPending = uint8_t(consumers);

  std::unordered_set<std::string> seen{start.key()};
  std::vector<State> open{start};
  while (!open.empty() && fault.empty()) {
    State state = std::move(open.back());
    open.pop_back();
    bool canGoOn = false, allEnded = true;
    auto visit = [&](State next) {
      canGoOn = true;
      if (seen.insert(next.key()).second)
        open.push_back(std::move(next));
    };
    for (unsigned agent = 0; agent < numAgents(); ++agent) {
      if (state.positions[agent] == stepsOf(agent).size())
        continue;
      allEnded = false;
      // Consumers of a part are alike: of two at the same place one may move
      // first.
      bool isTwin = agent > 1 && (agent - 1) % consumers != 0 &&
                    state.positions[agent] == state.positions[agent - 1];
      if (isTwin || !isReady(state, agent))
        continue;
      State next = state;
      perform(next, agent);
      for (auto part = next.positions.begin() + 1; part != next.positions.end();
           part += consumers)
        std::sort(part, part + consumers);
      visit(std::move(next));
    }
    for (unsigned index = 0; index < numSlots; ++index) {
      if (!state.slots[index].copying)
        continue;
      State next = state;
      next.slots[index].copying = 0;
      completePhases(next.slots[index]);
      if (allEnded)
        fail("a copy is left over when everybody has ended");
      visit(std::move(next));
    }
    if (!canGoOn && !allEnded)
      fail("nobody can go on: the producer is at step " +
           std::to_string(state.positions[0]) + ", a consumer at step " +
           std::to_string(state.positions[1]));
  }
  return {fault, seen.size()};
}

PipelineVerdict quant_llm::explorePipeline(const PipelineProgram &program,
                                           unsigned consumers,
                                           const std::vector<unsigned> &tiles) {
  return Model(program, consumers, tiles).explore();
}
