//===- Bytecode.cpp - Can MLIR be given a buffer --------------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// The format is that of mlir/Bytecode/Encoding.h; attributes and types of the
// dialects builtin and quant are encoded as their *DialectBytecode.td say.
//
// A fault is noted once and makes every later read return nothing, so that the
// code below reads like the format; loops end because their counts are bounded
// by the bytes that remain.
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Support/Bytecode.h"

#include "quant-llm/Support/CheckedMath.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <limits>
#include <optional>
#include <unordered_map>
#include <utility>
#include <vector>

using namespace quant_llm;

namespace {

constexpr std::string_view kMagic("ML\xefR", 4);
constexpr int64_t kDynamic = std::numeric_limits<int64_t>::min();
/// Attributes in attributes, and regions in regions. The reader and the parser
/// recurse.
constexpr unsigned kMostNesting = 512;
constexpr uint64_t kMostAlignment = 4096;
constexpr uint64_t kMostIntegerBits = (1 << 24) - 1;

enum Section : uint8_t {
  kString,
  kDialect,
  kAttrType,
  kAttrTypeOffset,
  kIR,
  kResource,
  kResourceOffset,
  kDialectVersions,
  kProperties,
  kNumSections
};

/// Where the first fault lies.
struct Fault {
  const uint8_t *base = nullptr;
  bool found = false;
  size_t offset = 0;
  std::string message;
};

/// Reads a range of bytes.
class Cursor {
public:
  Cursor() = default;
  Cursor(Fault &fault, const uint8_t *begin, size_t size)
      : fault(&fault), it(begin), end(begin + size) {}

  bool ok() const { return !fault->found; }
  size_t remaining() const { return static_cast<size_t>(end - it); }
  bool empty() const { return it == end; }
  const uint8_t *data() const { return it; }

  void fail(std::string message) {
    if (fault->found)
      return;
    fault->found = true;
    fault->offset = static_cast<size_t>(it - fault->base);
    fault->message = std::move(message);
  }
  void require(bool condition, const char *message) {
    if (!condition)
      fail(message);
  }

  uint8_t byte() {
    if (!ok())
      return 0;
    if (empty()) {
      fail("a section ends too early");
      return 0;
    }
    return *it++;
  }

  /// The number of zeros at the low end of the first byte is that of the bytes
  /// that follow.
  uint64_t varint() {
    uint64_t value = byte();
    if (value & 1)
      return value >> 1;
    unsigned more = 8;
    if (value != 0)
      for (more = 1; !(value >> more & 1);)
        ++more;
    uint64_t rest = 0;
    for (unsigned i = 0; i < more; ++i)
      rest |= uint64_t(byte()) << (8 * i);
    if (!ok())
      return 0;
    return more == 8 ? rest : (value | rest << 8) >> (more + 1);
  }
  int64_t signedVarint() {
    uint64_t value = varint();
    return static_cast<int64_t>((value >> 1) ^ (~(value & 1) + 1));
  }
  uint64_t varintWithFlag(bool &flag) {
    uint64_t value = varint();
    flag = value & 1;
    return value >> 1;
  }

  /// `value` if that many things of at least a byte can follow.
  uint64_t bound(uint64_t value) {
    if (value > remaining())
      fail("a count is larger than the number of bytes that follow");
    return ok() ? value : 0;
  }
  uint64_t count() { return bound(varint()); }
  /// A number below `size`.
  uint64_t index(uint64_t size, const char *what) {
    return below(varint(), size, what);
  }
  uint64_t below(uint64_t value, uint64_t size, const char *what) {
    if (ok() && value >= size)
      fail("got number " + std::to_string(value) + " of " +
           std::to_string(size) + " " + what);
    return ok() ? value : 0;
  }

  Cursor take(uint64_t size) {
    if (ok() && size > remaining())
      fail("a length is larger than the number of bytes that follow");
    if (!ok())
      return Cursor(*fault, end, 0);
    Cursor taken(*fault, it, size);
    it += size;
    return taken;
  }

  uint64_t alignment() {
    uint64_t value = varint();
    require(value != 0 && (value & (value - 1)) == 0 && value <= kMostAlignment,
            "an alignment is not a small power of two");
    return ok() ? value : 1;
  }

  Cursor section(uint8_t &id) {
    uint8_t first = byte();
    id = first & 0x7f;
    uint64_t length = varint();
    if (first & 0x80) {
      uint64_t step = alignment();
      while (ok() && static_cast<size_t>(it - fault->base) % step != 0)
        require(byte() == 0xcb, "the padding of a section is wrong");
    }
    require(id < kNumSections, "a section is of unknown kind");
    return take(length);
  }

private:
  Fault *fault = nullptr;
  const uint8_t *it = nullptr, *end = nullptr;
};

enum class Kind : uint8_t {
  /// Anything that needs no further look.
  Other,
  Text,
  StringAttr,
  FlatSymbolRef,
  Location,
  DenseElements,
  // Types.
  Integer,
  Index,
  Float,
  Complex,
  RankedTensor,
  Vector,
  MemRef,
  NotAnElement,
};

/// An attribute or a type.
struct Node {
  Cursor data;
  uint32_t dialect = 0;
  bool isCustom = false;
  Kind kind = Kind::Other;
  /// Of numbers: their width.
  uint64_t bits = 0;
  bool isSignless = false;
  /// Of shaped and complex types: the number of that of the elements.
  size_t element = 0;
  std::vector<int64_t> shape;
  /// Of elements: their bytes.
  std::string_view elements;
};

constexpr std::pair<std::string_view, unsigned> kTextFloats[] = {
    {"f4E2M1FN", 4},      {"f6E2M3FN", 6}, {"f6E3M2FN", 6},   {"f8E5M2", 8},
    {"f8E4M3", 8},        {"f8E4M3FN", 8}, {"f8E5M2FNUZ", 8}, {"f8E4M3FNUZ", 8},
    {"f8E4M3B11FNUZ", 8}, {"f8E3M4", 8},   {"f8E8M0FNU", 8},  {"tf32", 19},
};

/// Looks for text that is nested more deeply than kMostNesting. Strings and
/// comments are skipped. A bracket closes those that were opened in it, so that
/// comparisons (`<`, `>=`) count little.
class NestingFinder {
public:
  explicit NestingFinder(std::string_view text) : text(text) {}

  /// Where it is, or npos.
  size_t run() {
    while (at < text.size())
      if (!step())
        return at;
    return text.npos;
  }

private:
  static bool isWordLetter(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
           (c >= '0' && c <= '9') || c == '_' || c == '$' || c == '.';
  }
  char peek(size_t distance) const {
    return at + distance < text.size() ? text[at + distance] : '\0';
  }
  std::string_view word(size_t begin) const {
    size_t end = begin;
    while (end < text.size() && isWordLetter(text[end]))
      ++end;
    return text.substr(begin, end - begin);
  }

  /// Reads a token. False if it is too deep.
  bool step();
  /// An operator in a list of expressions, each a tree as high as it is long.
  bool countOperator() {
    return open.empty() ||
           (open.back().close != ')' && open.back().close != ']') ||
           ++open.back().operators <= kMostNesting;
  }
  bool readAlias();

  struct Bracket {
    char close;
    unsigned operators = 0;
  };

  std::string_view text;
  size_t at = 0;
  std::vector<Bracket> open;
  /// Signs without anything in between.
  unsigned signs = 0;
  /// `#name = ...` and `!name = ...`: what a mention of them adds.
  std::unordered_map<std::string_view, size_t> aliases;
  std::string_view defined;
  size_t definedDepth = 0;
};

/// At `#` or `!`.
bool NestingFinder::readAlias() {
  std::string_view name = text.substr(at, word(at + 1).size() + 1);
  at += name.size();
  size_t after = text.find_first_not_of(" \t\r\n", at);
  if (open.empty() && after != text.npos && text[after] == '=') {
    if (!defined.empty())
      aliases[defined] = definedDepth;
    defined = name;
    definedDepth = 0;
    return true;
  }
  auto found = aliases.find(name);
  size_t depth = open.size() + 1 + (found == aliases.end() ? 0 : found->second);
  definedDepth = std::max(definedDepth, depth);
  return depth <= kMostNesting;
}

bool NestingFinder::step() {
  char letter = text[at], next = peek(1);
  switch (letter) {
  case ' ':
  case '\t':
  case '\r':
  case '\n':
    ++at;
    return true;
  case '/':
    at = next == '/' ? std::min(text.find('\n', at), text.size()) : at + 1;
    return true;
  case '-':
    if (next == '>') {
      at += 2;
      break;
    }
    if (++signs > kMostNesting || !countOperator())
      return false;
    ++at;
    return true;
  case '"':
    for (++at; at < text.size() && text[at] != '"' && text[at] != '\n'; ++at)
      at += text[at] == '\\';
    ++at;
    break;
  case '+':
  case '*':
    if (!countOperator())
      return false;
    ++at;
    break;
  case ',':
    if (!open.empty())
      open.back().operators = 0;
    ++at;
    break;
  case '#':
  case '!':
    if (!readAlias())
      return false;
    break;
  case '(':
  case '[':
  case '{':
  case '<':
    if (letter != '<' || next != '=') {
      open.push_back({letter == '(' ? ')' : char(letter + 2)});
      definedDepth = std::max(definedDepth, open.size());
      if (open.size() > kMostNesting)
        return false;
    }
    ++at;
    break;
  case '>':
    if (!open.empty() && open.back().close == letter && next != '=')
      open.pop_back();
    ++at;
    break;
  case ')':
  case ']':
  case '}':
    while (!open.empty() && open.back().close == '>')
      open.pop_back();
    if (!open.empty() && open.back().close == letter)
      open.pop_back();
    ++at;
    break;
  default:
    std::string_view name = word(at);
    at += std::max<size_t>(name.size(), 1);
    if (name.empty() || (name.back() != 'd' && name.back() != 'v'))
      break;
    // At its end, for it may follow a number.
    for (std::string_view sign : {"mod", "floordiv", "ceildiv"})
      if (name.size() >= sign.size() &&
          name.substr(name.size() - sign.size()) == sign && !countOperator())
        return false;
    break;
  }
  signs = 0;
  return true;
}

class Checker {
public:
  explicit Checker(std::string_view buffer)
      : file(fault, reinterpret_cast<const uint8_t *>(buffer.data()),
             buffer.size()) {
    fault.base = file.data();
  }

  Status run() {
    checkFile();
    if (!fault.found)
      return Status::success();
    return Status::error("expected valid MLIR bytecode but " + fault.message +
                         " (at byte " + std::to_string(fault.offset) +
                         "); the file is damaged, or not of MLIR 22.1");
  }

private:
  void checkFile();
  void readStrings(Cursor c);
  void readDialects(Cursor c);
  void readProperties(Cursor c);
  void readResources(Cursor data, Cursor offsets);
  void readResourceGroup(Cursor &data, Cursor &offsets, bool countHandles);
  void readOffsets(Cursor data, Cursor offsets);
  void readGroup(Cursor &c, size_t &next, size_t end, Cursor &data);

  // Attributes and types.
  void decodeText(Node &node, Cursor &c);
  void decodeAttribute(Node &node, Cursor &c);
  void decodeType(Node &node, Cursor &c);
  void decodeQuantType(Node &node, Cursor &c);
  void decodeNumber(const Node &type, Cursor &c);
  void decodeElements(Node &node, Cursor &c, bool areStrings);
  void decodeSparse(Cursor &c);
  void decode(size_t index);
  /// @{ Read and decode references.
  size_t attribute(Cursor &c);
  size_t type(Cursor &c);
  void attributes(Cursor &c, Kind kind = Kind::Other);
  void types(Cursor &c);
  /// @}
  void shape(Node &node, Cursor &c);
  void elementType(Node &node, Cursor &c);
  void layout(const Node &node, Cursor &c);
  /// @{ After a fault a node without meaning.
  const Node &attributeNode(size_t index) const {
    return fault.found ? nothing : nodes[index];
  }
  const Node &typeNode(size_t index) const {
    return fault.found ? nothing : nodes[numAttributes + index];
  }
  /// @}

  // The IR.
  struct Value {
    uint64_t uses = 0;
    /// The number of uses that the order of its uses speaks of.
    uint64_t leastUses = 0;
  };
  using Order = std::vector<std::pair<uint64_t, uint64_t>>;
  void checkBlockHeader(Cursor &c, std::vector<Value> &values, size_t &next,
                        uint64_t &numOps);
  void checkOp(Cursor &c, std::vector<Value> &values, size_t &next,
               uint64_t numBlocks, unsigned level);
  void checkRegion(Cursor &c, std::vector<Value> &values, unsigned level);
  Order readUseOrder(Cursor &c, uint64_t numValues);
  void define(Cursor &c, std::vector<Value> &values, size_t &next,
              uint64_t number);
  void setOrder(Cursor &c, std::vector<Value> &values, size_t first,
                const Order &order);

  Fault fault;
  Cursor file;
  std::vector<std::string_view> strings, dialects;
  uint64_t numOpNames = 0, numProperties = 0, numHandles = 0;
  /// Attributes, then types.
  std::vector<Node> nodes;
  size_t numAttributes = 0, numTypes = 0;
  enum class State : uint8_t { New, Active, Done };
  std::vector<State> states;
  const Node nothing;
  unsigned depth = 0;
};

//===----------------------------------------------------------------------===//
// Sections
//===----------------------------------------------------------------------===//

void Checker::checkFile() {
  Cursor &c = file;
  c.take(kMagic.size());
  uint64_t version = c.varint();
  c.require(version == 5 || version == 6, "its version is not 5 or 6");
  while (c.ok() && c.byte() != 0) {
  }
  std::array<Cursor, kNumSections> sections;
  std::array<bool, kNumSections> found = {};
  while (c.ok() && !c.empty()) {
    uint8_t id;
    Cursor section = c.section(id);
    if (!c.ok())
      return;
    c.require(!found[id], "a section is there twice");
    found[id] = true;
    sections[id] = section;
  }
  for (Section id :
       {kString, kDialect, kAttrType, kAttrTypeOffset, kIR, kProperties})
    c.require(found[id], "a section is missing");
  c.require(found[kResource] == found[kResourceOffset],
            "one of the two sections of resources is missing");
  if (c.ok())
    readStrings(sections[kString]);
  if (c.ok())
    readProperties(sections[kProperties]);
  if (c.ok())
    readDialects(sections[kDialect]);
  if (c.ok() && found[kResource])
    readResources(sections[kResource], sections[kResourceOffset]);
  if (c.ok())
    readOffsets(sections[kAttrType], sections[kAttrTypeOffset]);
  for (size_t i = 0; c.ok() && i < nodes.size(); ++i)
    decode(i);
  if (!c.ok())
    return;
  Cursor ir = sections[kIR];
  std::vector<Value> values;
  size_t next = 0;
  uint64_t numOps = 0;
  checkBlockHeader(ir, values, next, numOps);
  for (uint64_t i = 0; ir.ok() && i < numOps; ++i)
    checkOp(ir, values, next, /*numBlocks=*/1, 0);
  ir.require(ir.empty(), "bytes follow the last operation");
}

/// The sizes in reverse order, then the strings, each with a zero.
void Checker::readStrings(Cursor c) {
  uint64_t count = c.count();
  std::vector<uint64_t> sizes(count);
  uint64_t total = 0;
  for (uint64_t &size : sizes) {
    size = c.count();
    c.require(size != 0, "a string has no end");
    total += size; // no overflow: each is less than the file
  }
  c.require(total == c.remaining(), "strings do not fill their section");
  if (!c.ok())
    return;
  std::reverse(sizes.begin(), sizes.end());
  for (uint64_t size : sizes) {
    Cursor text = c.take(size);
    if (!c.ok())
      return;
    strings.emplace_back(reinterpret_cast<const char *>(text.data()), size - 1);
    text.require(text.data()[size - 1] == 0, "a string has no end");
  }
}

void Checker::readDialects(Cursor c) {
  for (uint64_t i = 0, e = c.count(); c.ok() && i < e; ++i) {
    bool hasVersion;
    uint64_t name = c.varintWithFlag(hasVersion);
    name = c.below(name, strings.size(), "strings");
    if (!c.ok())
      return;
    dialects.push_back(strings[name]);
    if (!hasVersion)
      continue;
    uint8_t id;
    c.section(id);
    c.require(id == kDialectVersions, "the version of a dialect is missing");
  }
  uint64_t declared = c.count();
  while (c.ok() && !c.empty()) {
    c.index(dialects.size(), "dialects");
    for (uint64_t i = 0, e = c.count(); c.ok() && i < e; ++i) {
      bool wasRegistered;
      c.below(c.varintWithFlag(wasRegistered), strings.size(), "strings");
      ++numOpNames;
    }
  }
  c.require(numOpNames == declared, "the number of operation names is wrong");
}

void Checker::readProperties(Cursor c) {
  if (c.empty())
    return;
  numProperties = c.count();
  for (uint64_t i = 0; c.ok() && i < numProperties; ++i)
    c.take(c.varint());
  c.require(c.empty(), "bytes follow the last properties");
}

void Checker::readResourceGroup(Cursor &data, Cursor &offsets,
                                bool countHandles) {
  for (uint64_t i = 0, e = offsets.count(); offsets.ok() && i < e; ++i) {
    offsets.index(strings.size(), "strings");
    uint64_t size = offsets.varint();
    uint8_t kind = offsets.byte();
    Cursor entry = data.take(size);
    numHandles += countHandles;
    if (entry.empty())
      continue;
    if (kind == 0) {
      uint64_t step = entry.alignment();
      uint64_t bytes = entry.varint();
      while (entry.ok() &&
             static_cast<size_t>(entry.data() - fault.base) % step != 0)
        entry.require(entry.byte() == 0xcb, "the padding of a blob is wrong");
      entry.take(bytes);
    } else if (kind == 1) {
      entry.require(entry.byte() <= 1, "a truth value is neither 0 nor 1");
    } else if (kind == 2) {
      entry.index(strings.size(), "strings");
    } else {
      entry.fail("a resource is of unknown kind");
    }
    entry.require(entry.empty(), "bytes follow a resource");
  }
}

void Checker::readResources(Cursor data, Cursor offsets) {
  for (uint64_t i = 0, e = offsets.count(); offsets.ok() && i < e; ++i) {
    offsets.index(strings.size(), "strings");
    readResourceGroup(data, offsets, /*countHandles=*/false);
  }
  while (offsets.ok() && !offsets.empty()) {
    offsets.index(dialects.size(), "dialects");
    readResourceGroup(data, offsets, /*countHandles=*/true);
  }
}

void Checker::readGroup(Cursor &c, size_t &next, size_t end, Cursor &data) {
  uint64_t dialect = c.index(dialects.size(), "dialects");
  uint64_t count = c.count();
  c.require(count <= end - next, "there are more attributes than declared");
  for (uint64_t i = 0; c.ok() && i < count; ++i) {
    Node &node = nodes[next++];
    uint64_t size = c.varintWithFlag(node.isCustom);
    node.dialect = static_cast<uint32_t>(dialect);
    node.data = data.take(size);
  }
}

void Checker::readOffsets(Cursor data, Cursor offsets) {
  numAttributes = offsets.count();
  numTypes = offsets.count();
  if (!offsets.ok())
    return;
  nodes.resize(numAttributes + numTypes);
  states.resize(nodes.size(), State::New);
  size_t next = 0;
  while (offsets.ok() && next < numAttributes)
    readGroup(offsets, next, numAttributes, data);
  while (offsets.ok() && next < nodes.size())
    readGroup(offsets, next, nodes.size(), data);
  offsets.require(offsets.empty(), "bytes follow the table of attributes");
}

//===----------------------------------------------------------------------===//
// Attributes and types
//===----------------------------------------------------------------------===//

/// Decodes what it refers to first.
void Checker::decode(size_t index) {
  if (states[index] == State::Done || fault.found)
    return;
  Node &node = nodes[index];
  Cursor c = node.data;
  c.require(states[index] != State::Active,
            "an attribute or type is part of itself");
  c.require(depth < kMostNesting, "attributes are nested too deeply");
  if (!c.ok())
    return;
  states[index] = State::Active;
  ++depth;
  bool isAttribute = index < numAttributes;
  std::string_view dialect = dialects[node.dialect];
  if (!node.isCustom)
    decodeText(node, c);
  else if (dialect == "builtin" && isAttribute)
    decodeAttribute(node, c);
  else if (dialect == "builtin")
    decodeType(node, c);
  else if (dialect == "quant" && !isAttribute)
    decodeQuantType(node, c);
  else
    c.fail("an attribute or type is in an unknown encoding of '" +
           std::string(dialect) + "'");
  c.require(c.empty(), "bytes follow an attribute or type");
  --depth;
  states[index] = State::Done;
}

/// The parser reports errors, but recurses.
void Checker::decodeText(Node &node, Cursor &c) {
  node.kind = Kind::Text;
  const uint8_t *end = c.empty() ? nullptr
                                 : static_cast<const uint8_t *>(
                                       std::memchr(c.data(), 0, c.remaining()));
  if (!end || end + 1 != c.data() + c.remaining())
    return c.fail("the text of an attribute or type has no end");
  std::string_view text(reinterpret_cast<const char *>(c.data()),
                        static_cast<size_t>(end - c.data()));
  c.take(c.remaining());
  if (NestingFinder(text).run() != text.npos)
    return c.fail("attributes are nested too deeply");
  if (dialects[node.dialect] == "builtin")
    for (auto [name, bits] : kTextFloats)
      if (text == name) {
        node.kind = Kind::Float;
        node.bits = bits;
      }
}

size_t Checker::attribute(Cursor &c) {
  size_t index = c.index(numAttributes, "attributes");
  if (c.ok())
    decode(index);
  return index;
}

size_t Checker::type(Cursor &c) {
  size_t index = c.index(numTypes, "types");
  if (c.ok())
    decode(numAttributes + index);
  return index;
}

void Checker::attributes(Cursor &c, Kind kind) {
  for (uint64_t i = 0, e = c.count(); c.ok() && i < e; ++i) {
    const Node &node = attributeNode(attribute(c));
    c.require(kind == Kind::Other || node.kind == kind,
              "an attribute is of a wrong kind");
  }
}

void Checker::types(Cursor &c) {
  for (uint64_t i = 0, e = c.count(); c.ok() && i < e; ++i)
    type(c);
}

void Checker::decodeAttribute(Node &node, Cursor &c) {
  auto expect = [&](Kind kind) {
    c.require(attributeNode(attribute(c)).kind == kind,
              "an attribute is of a wrong kind");
  };
  switch (c.varint()) {
  case 0: // array
    return attributes(c);
  case 1: // dictionary
    for (uint64_t i = 0, e = c.count(); c.ok() && i < e; ++i) {
      expect(Kind::StringAttr);
      attribute(c);
    }
    return;
  case 2: // string
    node.kind = Kind::StringAttr;
    c.index(strings.size(), "strings");
    return;
  case 3: // string with type
    node.kind = Kind::StringAttr;
    c.index(strings.size(), "strings");
    type(c);
    return;
  case 4: // symbol
    node.kind = Kind::FlatSymbolRef;
    return expect(Kind::StringAttr);
  case 5: // nested symbol
    expect(Kind::StringAttr);
    return attributes(c, Kind::FlatSymbolRef);
  case 6: // type
    type(c);
    return;
  case 7: // unit
    return;
  case 8:   // integer
  case 9: { // float
    const Node &number = typeNode(type(c));
    if (c.ok())
      decodeNumber(number, c);
    return;
  }
  case 10: // call site
    node.kind = Kind::Location;
    expect(Kind::Location);
    return expect(Kind::Location);
  case 11: // file, line, column
    node.kind = Kind::Location;
    expect(Kind::StringAttr);
    c.varint();
    c.varint();
    return;
  case 12: // fused
    node.kind = Kind::Location;
    return attributes(c, Kind::Location);
  case 13: // fused with metadata
    node.kind = Kind::Location;
    attributes(c, Kind::Location);
    attribute(c);
    return;
  case 14: // name
    node.kind = Kind::Location;
    expect(Kind::StringAttr);
    return expect(Kind::Location);
  case 15: // unknown location
    node.kind = Kind::Location;
    return;
  case 16: { // resource
    Kind kind = typeNode(type(c)).kind;
    c.require(kind == Kind::RankedTensor || kind == Kind::Vector,
              "a resource is of a type without shape");
    c.index(numHandles, "resources");
    return;
  }
  case 17: { // array of numbers
    const Node &element = typeNode(type(c));
    uint64_t count = c.varint();
    uint64_t bytes = c.varint();
    bool isNumber =
        element.kind == Kind::Integer || element.kind == Kind::Float;
    c.require(isNumber && (element.bits == 1 ||
                           (element.bits != 0 && element.bits % 8 == 0)),
              "an array is of a type without bytes");
    uint64_t width = (element.bits + 7) / 8;
    c.require(width != 0 && bytes % width == 0 && bytes / width == count,
              "an array has a wrong number of bytes");
    c.take(bytes);
    return;
  }
  case 18: // elements
    return decodeElements(node, c, /*areStrings=*/false);
  case 19: // strings as elements
    return decodeElements(node, c, /*areStrings=*/true);
  case 20: // sparse elements
    return decodeSparse(c);
  case 21: // distinct
    attribute(c);
    return;
  case 22: // file and a range of lines and columns
    node.kind = Kind::Location;
    expect(Kind::StringAttr);
    for (uint64_t i = 0, e = c.count(); c.ok() && i < e; ++i)
      c.varint();
    return;
  default:
    return c.fail("an attribute is of unknown kind");
  }
}

/// The value of an integer or float attribute.
void Checker::decodeNumber(const Node &type, Cursor &c) {
  c.require(type.kind == Kind::Integer || type.kind == Kind::Index ||
                type.kind == Kind::Float,
            "a number is of a type without numbers");
  if (type.bits <= 8) {
    c.byte();
  } else if (type.bits <= 64) {
    c.varint();
  } else {
    uint64_t words = c.count();
    c.require(words <= (type.bits + 63) / 64, "a number is too long");
    for (uint64_t i = 0; c.ok() && i < words; ++i)
      c.varint();
  }
}

void Checker::decodeElements(Node &node, Cursor &c, bool areStrings) {
  const Node &shaped = typeNode(type(c));
  if (!areStrings)
    node.kind = Kind::DenseElements;
  node.element = shaped.element;
  node.shape = shaped.shape;
  c.require(shaped.kind == Kind::RankedTensor || shaped.kind == Kind::Vector,
            "elements are of a type without shape");
  uint64_t count = 1;
  for (int64_t extent : shaped.shape) {
    std::optional<uint64_t> product =
        checkedMul(count, static_cast<uint64_t>(extent));
    c.require(extent != kDynamic && product && *product < uint64_t(1) << 48,
              "elements are of a type without a size");
    if (!c.ok())
      return;
    count = *product;
  }
  if (!c.ok())
    return;
  if (areStrings) {
    bool isSplat = c.varint() != 0;
    for (uint64_t i = 0, e = c.bound(isSplat ? 1 : count); c.ok() && i < e; ++i)
      c.index(strings.size(), "strings");
    return;
  }
  const Node *element = &typeNode(shaped.element);
  uint64_t parts = 1;
  if (element->kind == Kind::Complex) {
    parts = 2;
    element = &typeNode(element->element);
  }
  c.require((element->kind == Kind::Integer || element->kind == Kind::Index ||
             element->kind == Kind::Float) &&
                element->bits != 0,
            "elements are of a type without numbers");
  Cursor data = c.take(c.varint());
  if (!c.ok())
    return;
  uint64_t bytes = data.remaining();
  node.elements = {reinterpret_cast<const char *>(data.data()), bytes};
  if (element->bits == 1 && parts == 1) {
    bool isSplat = bytes == 1 && (*data.data() == 0 || *data.data() == 0xff);
    c.require(isSplat || bytes == (count + 7) / 8,
              "elements have a wrong number of bytes");
    return;
  }
  uint64_t width = parts * ((element->bits + 7) / 8);
  c.require(bytes == width || (bytes % width == 0 && bytes / width == count),
            "elements have a wrong number of bytes");
}

/// Indices [n, rank], or [n] of rank 1, and n values. What the verifier of the
/// attribute checks is not checked when it is read.
void Checker::decodeSparse(Cursor &c) {
  size_t type = this->type(c), indices = attribute(c), values = attribute(c);
  const Node &shaped = typeNode(type);
  const Node &where = attributeNode(indices), &what = attributeNode(values);
  c.require(
      (shaped.kind == Kind::RankedTensor || shaped.kind == Kind::Vector) &&
          where.kind == Kind::DenseElements &&
          what.kind == Kind::DenseElements && what.element == shaped.element &&
          what.shape.size() == 1,
      "sparse elements are of a wrong kind");
  if (!c.ok())
    return;
  const Node &number = typeNode(where.element);
  uint64_t rank = shaped.shape.size();
  bool isMatrix = where.shape.size() == 2;
  c.require(number.kind == Kind::Integer && number.bits == 64 &&
                number.isSignless && rank != 0 &&
                (isMatrix ? uint64_t(where.shape[1]) == rank
                          : where.shape.size() == 1 && rank == 1) &&
                where.shape[0] == what.shape[0],
            "the indices of sparse elements do not fit");
  for (int64_t extent : shaped.shape)
    c.require(extent != kDynamic, "elements are of a type without a size");
  if (!c.ok())
    return;
  // One index, if all are the same.
  for (size_t at = 0; at < where.elements.size(); at += sizeof(int64_t)) {
    int64_t index;
    std::memcpy(&index, where.elements.data() + at, sizeof(index));
    bool isSplat = where.elements.size() == sizeof(int64_t);
    for (uint64_t dim = isSplat ? 0 : at / sizeof(int64_t) % rank,
                  last = isSplat ? rank : dim + 1;
         dim < last; ++dim)
      c.require(index >= 0 && index < shaped.shape[dim],
                "an index of sparse elements is out of bounds");
  }
}

void Checker::shape(Node &node, Cursor &c) {
  uint64_t rank = c.count();
  for (uint64_t i = 0; c.ok() && i < rank; ++i) {
    int64_t extent = c.signedVarint();
    bool isValid = node.kind == Kind::Vector
                       ? extent > 0
                       : extent >= 0 || extent == kDynamic;
    c.require(isValid, "an extent is negative");
    node.shape.push_back(extent);
  }
}

void Checker::elementType(Node &node, Cursor &c) {
  node.element = type(c);
  if (!c.ok())
    return;
  Kind kind = typeNode(node.element).kind;
  bool isNumber = kind == Kind::Integer || kind == Kind::Index ||
                  kind == Kind::Float || kind == Kind::Text;
  bool isAggregate =
      kind == Kind::Complex || kind == Kind::Vector || kind == Kind::MemRef;
  c.require(isNumber || (isAggregate && node.kind != Kind::Vector &&
                         node.kind != Kind::Complex),
            "the elements of a type are of a wrong type");
}

/// Layouts are text. They must have as many dimensions as the memref.
void Checker::layout(const Node &node, Cursor &c) {
  const Node &map = attributeNode(attribute(c));
  c.require(map.kind == Kind::Text, "the layout of a memref is of wrong kind");
  if (!c.ok())
    return;
  std::string_view text(reinterpret_cast<const char *>(map.data.data()),
                        map.data.remaining() - 1);
  constexpr std::string_view affine = "affine_map<(", strided = "strided<[";
  std::string_view dims;
  if (text.substr(0, affine.size()) == affine) {
    dims = text.substr(affine.size());
    size_t close = dims.find(')');
    std::string_view rest = close == dims.npos ? "" : dims.substr(close + 1);
    if (rest.substr(0, 1) == "[") // symbols
      rest = rest.substr(std::min(rest.find(']'), rest.size() - 1) + 1);
    c.require(rest.substr(0, 4) == " -> ", "the layout of a memref is no map");
    dims = dims.substr(0, close);
  } else if (text.substr(0, strided.size()) == strided) {
    dims = text.substr(strided.size());
    dims = dims.substr(0, dims.find(']'));
  } else {
    return c.fail("the layout of a memref is of unknown kind");
  }
  bool isEmpty = dims.find_first_not_of(' ') == dims.npos;
  size_t rank =
      isEmpty ? 0 : 1 + size_t(std::count(dims.begin(), dims.end(), ','));
  c.require(rank == node.shape.size(),
            "the layout of a memref is of another rank");
}

void Checker::decodeType(Node &node, Cursor &c) {
  auto makeFloat = [&](unsigned bits) {
    node.kind = Kind::Float;
    node.bits = bits;
  };
  node.kind = Kind::NotAnElement;
  uint64_t code = c.varint();
  switch (code) {
  case 0: { // integer
    uint64_t value = c.varint();
    node.kind = Kind::Integer;
    node.bits = value >> 2;
    node.isSignless = (value & 3) == 0;
    c.require((value & 3) <= 2 && node.bits <= kMostIntegerBits,
              "an integer type is too wide");
    return;
  }
  case 1: // index
    node.kind = Kind::Index;
    node.bits = 64;
    return;
  case 2: // function
    types(c);
    return types(c);
  case 3: // bf16
  case 4: // f16
    return makeFloat(16);
  case 5: // f32
    return makeFloat(32);
  case 6: // f64
    return makeFloat(64);
  case 7: // f80
    return makeFloat(80);
  case 8: // f128
    return makeFloat(128);
  case 9: // complex
    node.kind = Kind::Complex;
    elementType(node, c);
    return;
  case 10: // memref
  case 11: // memref in a memory space
    node.kind = Kind::MemRef;
    if (code == 11)
      attribute(c);
    shape(node, c);
    elementType(node, c);
    return layout(node, c);
  case 12: // none
    return;
  case 13: // tensor
  case 14: // tensor with encoding
    node.kind = Kind::RankedTensor;
    if (code == 14)
      attribute(c);
    shape(node, c);
    return elementType(node, c);
  case 15: // tuple
    return types(c);
  case 16: // unranked memref
  case 17: // unranked memref in a memory space
    node.kind = Kind::MemRef;
    if (code == 17)
      attribute(c);
    return elementType(node, c);
  case 18: // unranked tensor
    return elementType(node, c);
  case 19:   // vector
  case 20: { // vector with scalable dimensions
    node.kind = Kind::Vector;
    uint64_t scalable = code == 20 ? c.count() : 0;
    for (uint64_t i = 0; c.ok() && i < scalable; ++i)
      c.require(c.byte() <= 1, "a truth value is neither 0 nor 1");
    shape(node, c);
    c.require(code == 19 || scalable == node.shape.size(),
              "a vector type has a wrong number of scalable dimensions");
    return elementType(node, c);
  }
  default:
    return c.fail("a type is of unknown kind");
  }
}

void Checker::decodeQuantType(Node &node, Cursor &c) {
  node.kind = Kind::Text; // an element like those of other dialects
  auto storage = [&] {
    size_t index = type(c);
    const Node &storage = typeNode(index);
    c.require(storage.kind == Kind::Integer && storage.bits >= 1 &&
                  storage.bits <= 32,
              "quantized storage is of a wrong type");
    return index;
  };
  auto expressed = [&] {
    size_t index = type(c);
    c.require(typeNode(index).kind == Kind::Float,
              "a quantized type is of a wrong type");
    return index;
  };
  auto list = [&] {
    uint64_t count = c.count();
    for (uint64_t i = 0; c.ok() && i < count; ++i)
      c.varint();
    return count;
  };
  auto numbers = [&](unsigned count) {
    for (unsigned i = 0; i < count; ++i)
      c.varint();
  };
  uint64_t code = c.varint();
  switch (code) {
  case 1: // any
  case 2: // any with expressed type
    numbers(1);
    storage();
    if (code == 2)
      expressed();
    return numbers(2);
  case 3: // calibrated
    expressed();
    return numbers(2);
  case 4: // uniform
    numbers(1);
    storage();
    expressed();
    return numbers(4);
  case 5: { // per axis
    numbers(1);
    storage();
    expressed();
    numbers(3);
    uint64_t scales = list();
    c.require(scales == list(), "a quantized type lacks scales or zero points");
    return;
  }
  case 6: { // sub-channel
    numbers(1);
    size_t storageType = storage(), expressedType = expressed();
    numbers(2);
    uint64_t dimensions = list();
    c.require(dimensions == list(), "a quantized type lacks block sizes");
    const Node &scales = attributeNode(attribute(c));
    const Node &zeros = attributeNode(attribute(c));
    c.require(scales.kind == Kind::DenseElements &&
                  zeros.kind == Kind::DenseElements &&
                  scales.element == expressedType &&
                  zeros.element == storageType && scales.shape == zeros.shape,
              "scales and zero points of a quantized type do not fit");
    return;
  }
  default:
    return c.fail("a type is of unknown kind");
  }
}

//===----------------------------------------------------------------------===//
// The IR
//===----------------------------------------------------------------------===//

/// For each value with an order of its uses as pairs, its number and the number
/// of uses that it must at least have.
Checker::Order Checker::readUseOrder(Cursor &c, uint64_t numValues) {
  Order order;
  uint64_t count = numValues > 1 ? c.count() : 1;
  for (uint64_t i = 0; c.ok() && i < count; ++i) {
    uint64_t value = numValues > 1 ? c.index(numValues, "values") : 0;
    bool arePairs;
    uint64_t length = c.bound(c.varintWithFlag(arePairs));
    uint64_t least = 0;
    for (uint64_t j = 0; c.ok() && j < length; ++j) {
      uint64_t use = c.varint();
      if (arePairs && j % 2 == 0)
        least = std::max(least, use + 1);
      c.require(use < std::numeric_limits<uint32_t>::max(),
                "an order of uses is wrong");
    }
    if (numValues != 0)
      order.emplace_back(value, least);
  }
  return order;
}

/// Gives the next numbers to `number` values.
void Checker::define(Cursor &c, std::vector<Value> &values, size_t &next,
                     uint64_t number) {
  c.require(number <= values.size() - next,
            "a region has more values than declared");
  if (c.ok())
    next += number;
}

void Checker::setOrder(Cursor &c, std::vector<Value> &values, size_t first,
                       const Order &order) {
  if (c.ok())
    for (auto [value, least] : order)
      values[first + value].leastUses =
          std::max(values[first + value].leastUses, least);
}

void Checker::checkBlockHeader(Cursor &c, std::vector<Value> &values,
                               size_t &next, uint64_t &numOps) {
  bool hasArguments;
  numOps = c.bound(c.varintWithFlag(hasArguments));
  if (!hasArguments)
    return;
  uint64_t count = c.count();
  for (uint64_t i = 0; c.ok() && i < count; ++i) {
    bool hasLocation;
    c.below(c.varintWithFlag(hasLocation), numTypes, "types");
    if (hasLocation)
      c.index(numAttributes, "attributes");
  }
  size_t first = next;
  define(c, values, next, count);
  if (c.byte() != 0)
    setOrder(c, values, first, readUseOrder(c, count));
}

void Checker::checkOp(Cursor &c, std::vector<Value> &values, size_t &next,
                      uint64_t numBlocks, unsigned level) {
  enum {
    HasAttributes = 1,
    HasResults = 2,
    HasOperands = 4,
    HasSuccessors = 8,
    HasRegions = 16,
    HasUseOrders = 32,
    HasProperties = 64
  };
  c.index(numOpNames, "operation names");
  uint8_t parts = c.byte();
  c.index(numAttributes, "attributes"); // the location
  if (parts & HasAttributes)
    c.index(numAttributes, "attributes");
  if (parts & HasProperties)
    c.index(numProperties, "properties");
  uint64_t numResults = parts & HasResults ? c.count() : 0;
  for (uint64_t i = 0; c.ok() && i < numResults; ++i)
    c.index(numTypes, "types");
  if (parts & HasOperands)
    for (uint64_t i = 0, e = c.count(); c.ok() && i < e; ++i) {
      uint64_t operand = c.index(values.size(), "values");
      if (c.ok())
        ++values[operand].uses;
    }
  if (parts & HasSuccessors)
    for (uint64_t i = 0, e = c.count(); c.ok() && i < e; ++i)
      c.index(numBlocks, "blocks");
  Order order;
  if (parts & HasUseOrders)
    order = readUseOrder(c, numResults);
  bool isIsolated = false;
  uint64_t numRegions = 0;
  if (parts & HasRegions)
    numRegions = c.bound(c.varintWithFlag(isIsolated));
  size_t first = next;
  define(c, values, next, numResults);
  setOrder(c, values, first, order);
  if (numRegions == 0)
    return;
  c.require(level < kMostNesting, "regions are nested too deeply");
  if (!isIsolated) {
    for (uint64_t i = 0; c.ok() && i < numRegions; ++i)
      checkRegion(c, values, level + 1);
    return;
  }
  uint8_t id;
  Cursor section = c.section(id);
  c.require(id == kIR, "the section of a region is missing");
  std::vector<Value> scope;
  for (uint64_t i = 0; c.ok() && i < numRegions; ++i)
    checkRegion(section, scope, level + 1);
  section.require(section.empty(), "bytes follow the last region");
}

void Checker::checkRegion(Cursor &c, std::vector<Value> &values,
                          unsigned level) {
  uint64_t numBlocks = c.count();
  if (numBlocks == 0)
    return;
  uint64_t numValues = c.count();
  if (!c.ok())
    return;
  size_t first = values.size(), next = first;
  values.resize(first + numValues);
  for (uint64_t i = 0; c.ok() && i < numBlocks; ++i) {
    uint64_t numOps = 0;
    checkBlockHeader(c, values, next, numOps);
    for (uint64_t j = 0; c.ok() && j < numOps; ++j)
      checkOp(c, values, next, numBlocks, level);
  }
  c.require(next == values.size(), "a region has fewer values than declared");
  for (size_t i = first; c.ok() && i < values.size(); ++i)
    c.require(values[i].leastUses <= values[i].uses,
              "an order of uses is wrong");
  values.resize(first);
}

} // namespace

bool quant_llm::isBytecode(std::string_view buffer) {
  return buffer.substr(0, kMagic.size()) == kMagic;
}

Status quant_llm::checkBytecode(std::string_view buffer) {
  if (!isBytecode(buffer))
    return Status::error("expected MLIR bytecode");
  return Checker(buffer).run();
}

Status quant_llm::checkTextNesting(std::string_view text) {
  size_t at = NestingFinder(text).run();
  if (at == text.npos)
    return Status::success();
  auto lines =
      std::count(text.begin(), text.begin() + static_cast<ptrdiff_t>(at), '\n');
  return Status::error("expected brackets, operators and aliases nested at "
                       "most " +
                       std::to_string(kMostNesting) +
                       " levels deep but there are more at line " +
                       std::to_string(lines + 1));
}

/// Text has no zero bytes, but for those that a caller may put behind it.
static Status checkIsText(std::string_view buffer) {
  size_t zero = buffer.find('\0');
  if (zero == std::string_view::npos ||
      buffer.find_first_not_of('\0', zero) == std::string_view::npos)
    return Status::success();
  const char *hint = "";
  if (buffer.substr(0, 4) == "GGUF")
    hint = ", of the format GGUF; quant-import makes a module of it";
  else if (buffer.size() > 10 && buffer.substr(8, 2) == "{\"")
    hint = ", of the format safetensors; give the module that reads it";
  return Status::error("expected a module as text or bytecode but got binary "
                       "data" +
                       std::string(hint));
}

Status quant_llm::checkSource(std::string_view buffer) {
  if (isBytecode(buffer))
    return checkBytecode(buffer);
  if (Status status = checkIsText(buffer); !status.ok())
    return status;
  return checkTextNesting(buffer);
}
