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
  /// Of the ring's items, the one that is waited for, filled, released or read;
  /// of the places to meet, which.
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

/// Sums that have been sent to a CTA: those on their way, those that have come.
struct Sums {
  uint8_t coming = 0, here = 0;
};

struct State {
  /// By CTA: the producer, then the consumers.
  std::vector<uint8_t> positions;
  std::vector<Slot> slots;
  std::vector<Sums> sums;

  std::string key() const {
    std::string bytes(positions.begin(), positions.end());
    for (const Sums &ofCTA : sums) {
      bytes.push_back(char(ofCTA.coming));
      bytes.push_back(char(ofCTA.here));
    }
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
        const std::vector<unsigned> &tiles, unsigned moreUnits)
      : program(program), consumers(consumers),
        ringsOfPart(program.rings.size()) {
    for (unsigned part = 0; part < program.parts; ++part)
      for (const PipelineProgram::Ring &ring : program.rings) {
        firstSlot.push_back(numSlots);
        numSlots += ring.slots;
      }
    for (unsigned cta = 0; cta < program.ctas; ++cta) {
      std::vector<unsigned> units = tiles;
      for (unsigned &ofTile : units)
        ofTile += cta < moreUnits;
      agents.push_back(listProducer(units));
      for (unsigned part = 0; part < program.parts; ++part) {
        std::vector<Step> steps = listConsumer(units, part);
        agents.insert(agents.end(), consumers, steps);
      }
    }
    for (const std::vector<Step> &steps : agents)
      if (steps.size() > 250)
        fail("the model is too small for so many units");
  }

  PipelineVerdict explore();

private:
  void fail(const std::string &text) {
    if (fault.empty())
      fault = text;
  }
  std::vector<Step> listProducer(const std::vector<unsigned> &tiles);
  std::vector<Step> listConsumer(const std::vector<unsigned> &tiles,
                                 unsigned part);

  /// @{ Of a CTA, and the CTA of an agent.
  unsigned numConsumers() const { return program.parts * consumers; }
  unsigned numAgents() const { return 1 + numConsumers(); }
  unsigned ctaOf(unsigned agent) const { return agent / numAgents(); }
  unsigned producerOf(unsigned agent) const {
    return ctaOf(agent) * numAgents();
  }
  bool isProducer(unsigned agent) const { return agent % numAgents() == 0; }
  /// @}
  /// Whether a step of this kind (of the places to meet: this one) is still to
  /// be taken by an agent.
  bool isAhead(const State &state, unsigned agent, Kind kind,
               unsigned place = 0) const;
  /// Whether an agent has taken a step of this kind.
  bool isBehind(const State &state, unsigned agent, Kind kind) const;
  /// Whether no consumer of the agent's CTA has such a step ahead.
  bool isDoneByAll(const State &state, unsigned agent, Kind kind) const;
  bool hasBarriers(const State &state, unsigned cta) const {
    return !isAhead(state, cta * numAgents(), Kind::Initialize);
  }
  bool hasEnded(const State &state, unsigned cta) const;
  /// Whether copies into rings of the agent's CTA are under way or to come.
  bool hasCopies(const State &state, unsigned agent) const;
  unsigned slotsOf(const Step &step) const {
    return program.rings[step.ring % ringsOfPart].slots;
  }
  unsigned slotIndex(const Step &step, unsigned cta) const {
    return cta * numSlots + firstSlot[step.ring] + step.item % slotsOf(step);
  }
  bool isReady(const State &state, unsigned agent) const;
  bool hasMet(const State &state, unsigned agent, unsigned which) const;
  void performAtEnd(State &state, unsigned agent, Kind kind);
  void perform(State &state, unsigned agent);
  void completePhases(Slot &slot) const;

  const PipelineProgram &program;
  /// Of a part.
  unsigned consumers;
  unsigned ringsOfPart;
  /// Of a CTA.
  unsigned numSlots = 0;
  std::vector<unsigned> firstSlot;
  /// What each agent does.
  std::vector<std::vector<Step>> agents;
  /// (ring, item) without data.
  std::set<std::pair<unsigned, unsigned>> announced;
  std::string fault;
};

} // namespace

std::vector<Step> Model::listProducer(const std::vector<unsigned> &tiles) {
  std::vector<Step> steps;
  std::vector<unsigned> waited(firstSlot.size()), filled(firstSlot.size());
  auto append = [&](const std::vector<PipelineAction> &actions, unsigned unit) {
    for (const PipelineAction &action : actions) {
      switch (action.kind) {
      case Kind::Initialize:
      case Kind::TellReady:
      case Kind::ArriveCluster:
      case Kind::WaitCluster:
        steps.push_back({action.kind, 0, 0, {}});
        continue;
      case Kind::WaitEmpty:
      case Kind::Fill:
      case Kind::Announce:
        break;
      default:
        fail("the producer has an action of a consumer");
      }
      bool isWait = action.kind == Kind::WaitEmpty;
      unsigned ring = unit % program.parts * ringsOfPart + action.ring;
      unsigned item = (isWait ? waited : filled)[ring]++;
      steps.push_back({action.kind, ring, item, {}});
      if (action.kind == Kind::Announce)
        announced.insert({ring, item});
      if (filled[ring] > waited[ring])
        fail("a slot is filled without waiting for it");
    }
  };
  append(program.produceStart, 0);
  for (unsigned units : tiles)
    for (unsigned unit = 0; unit < units; ++unit)
      append(program.produceUnit, unit);
  for (unsigned part = 0; part < program.parts; ++part)
    append(program.produceEnd, (tiles.empty() ? 0 : tiles.back()) + part);
  return steps;
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
  unsigned unitOfAll = 0, meetings = 0;
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
      case Kind::Work:
        if (!isHeld)
          fail("work is done on a slot that is not held");
        break;
      case Kind::AwaitReady:
      case Kind::ArriveCluster:
      case Kind::WaitCluster:
      case Kind::Deposit:
      case Kind::Send:
      case Kind::AwaitSums:
      case Kind::Finish:
        step.item = 0;
        break;
      case Kind::Meet:
        step.item = meetings++;
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

bool Model::isAhead(const State &state, unsigned agent, Kind kind,
                    unsigned place) const {
  const std::vector<Step> &steps = agents[agent];
  return std::any_of(steps.begin() + state.positions[agent], steps.end(),
                     [&](const Step &step) {
                       return step.kind == kind &&
                              (kind != Kind::Meet || step.item == place);
                     });
}

bool Model::isBehind(const State &state, unsigned agent, Kind kind) const {
  const std::vector<Step> &steps = agents[agent];
  return std::any_of(steps.begin(), steps.begin() + state.positions[agent],
                     [&](const Step &step) { return step.kind == kind; });
}

bool Model::isDoneByAll(const State &state, unsigned agent, Kind kind) const {
  unsigned producer = producerOf(agent);
  for (unsigned other = producer + 1; other < producer + numAgents(); ++other)
    if (isAhead(state, other, kind))
      return false;
  return true;
}

bool Model::hasEnded(const State &state, unsigned cta) const {
  for (unsigned i = cta * numAgents(); i < (cta + 1) * numAgents(); ++i)
    if (state.positions[i] < agents[i].size())
      return false;
  return true;
}

bool Model::hasCopies(const State &state, unsigned agent) const {
  const Slot *slots = &state.slots[ctaOf(agent) * numSlots];
  return isAhead(state, producerOf(agent), Kind::Fill) ||
         std::any_of(slots, slots + numSlots,
                     [](const Slot &slot) { return slot.copying != 0; });
}

/// All consumers of the CTA have come to this place to meet.
bool Model::hasMet(const State &state, unsigned agent, unsigned which) const {
  unsigned producer = producerOf(agent);
  for (unsigned other = producer + 1; other < producer + numAgents(); ++other) {
    unsigned at = state.positions[other];
    bool isThere = at < agents[other].size() &&
                   agents[other][at].kind == Kind::Meet &&
                   agents[other][at].item == which;
    if (!isThere && isAhead(state, other, Kind::Meet, which))
      return false;
  }
  return true;
}

bool Model::isReady(const State &state, unsigned agent) const {
  const Step &step = agents[agent][state.positions[agent]];
  const Slot &slot = state.slots[slotIndex(step, ctaOf(agent))];
  unsigned parity = step.item / slotsOf(step) % 2;
  switch (step.kind) {
  case Kind::WaitEmpty:
    return slot.emptyParity != (parity ^ 1);
  case Kind::WaitFull:
    return slot.fullParity != parity;
  case Kind::Meet:
    return hasMet(state, agent, step.item);
  case Kind::AwaitReady:
    return isBehind(state, producerOf(agent), Kind::TellReady);
  case Kind::WaitCluster:
    for (unsigned other = 0; other < agents.size(); ++other)
      if (!isBehind(state, other, Kind::ArriveCluster))
        return false;
    return true;
  case Kind::AwaitSums:
    return state.sums[ctaOf(agent)].here == program.ctas * numConsumers();
  default:
    return true;
  }
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

/// Deposit, Send and Finish.
void Model::performAtEnd(State &state, unsigned agent, Kind kind) {
  unsigned cta = ctaOf(agent);
  if (kind == Kind::Deposit) {
    if (hasCopies(state, agent) || !isDoneByAll(state, agent, Kind::Work))
      fail("sums replace a stage that is still needed");
    return;
  }
  if (!isDoneByAll(state, agent, Kind::Deposit))
    fail("sums are read before all of them are left");
  if (kind == Kind::Finish) {
    if (program.ctas > 1 &&
        state.sums[cta].here != program.ctas * numConsumers())
      fail("sums are read before they have come");
    return;
  }
  for (unsigned target = 0; target < program.ctas; ++target) {
    if (!hasBarriers(state, target))
      fail("sums are sent to a CTA that has no barriers yet");
    ++state.sums[target].coming;
  }
}

void Model::perform(State &state, unsigned agent) {
  unsigned cta = ctaOf(agent);
  const Step &step = agents[agent][state.positions[agent]++];
  Slot &slot = state.slots[slotIndex(step, cta)];
  switch (step.kind) {
  case Kind::Fill:
    for (unsigned reader = cta * numAgents() + 1;
         reader < (cta + 1) * numAgents(); ++reader) {
      unsigned at = state.positions[reader];
      if (at == agents[reader].size())
        continue;
      for (auto [ring, item] : agents[reader][at].reads)
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
  case Kind::Meet:
    if (isAhead(state, producerOf(agent), Kind::Fill))
      fail("the rings are given away before they are filled");
    else if (hasCopies(state, agent))
      fail("the rings are given away while a copy fills them");
    break;
  case Kind::Deposit:
  case Kind::Send:
  case Kind::Finish:
    performAtEnd(state, agent, step.kind);
    break;
  case Kind::Work:
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
  start.positions.assign(agents.size(), 0);
  start.slots.assign(program.ctas * numSlots, Slot());
  start.sums.resize(program.ctas);
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
    for (unsigned agent = 0; agent < agents.size(); ++agent) {
      if (state.positions[agent] == agents[agent].size())
        continue;
      allEnded = false;
      // Consumers of a part are alike: of two at the same place one may move
      // first.
      unsigned inPart = (agent % numAgents() + consumers - 1) % consumers;
      bool isTwin = !isProducer(agent) && inPart != 0 &&
                    state.positions[agent] == state.positions[agent - 1];
      if (isTwin)
        continue;
      Kind kind = agents[agent][state.positions[agent]].kind;
      if ((kind == Kind::WaitEmpty || kind == Kind::WaitFull) &&
          !hasBarriers(state, ctaOf(agent)))
        fail("a barrier is used before it is made");
      if (!isReady(state, agent))
        continue;
      State next = state;
      perform(next, agent);
      if (!isProducer(agent)) {
        auto part = next.positions.begin() + agent - inPart;
        std::sort(part, part + consumers);
      }
      visit(std::move(next));
    }
    for (unsigned index = 0; index < state.slots.size(); ++index) {
      if (!state.slots[index].copying)
        continue;
      State next = state;
      next.slots[index].copying = 0;
      completePhases(next.slots[index]);
      if (allEnded)
        fail("a copy is left over when everybody has ended");
      visit(std::move(next));
    }
    for (unsigned cta = 0; cta < program.ctas; ++cta) {
      if (!state.sums[cta].coming)
        continue;
      State next = state;
      --next.sums[cta].coming;
      ++next.sums[cta].here;
      if (hasEnded(state, cta))
        fail("sums come to a CTA that has ended");
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
                                           const std::vector<unsigned> &tiles,
                                           unsigned moreUnits) {
  return Model(program, consumers, tiles, moreUnits).explore();
}
