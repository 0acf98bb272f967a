// Which kernel and which grid the plans choose on both sides of each border, on every card family: properties of the choice, not its numbers.
#include <cstring>

#include "kernels/attention_decode.plan.h"
#include "kernels/block_decode.plan.h"
#include "launches.h"

namespace ewe::test {

using kernels::CardLimits;
using kernels::Launch;
using kernels::ProductTile;
using kernels::StreamTile;

static CardLimits limitsOf(const cuda::Card& c) {
  return {kernels::pathOf(c.computeCapability), c.sms, c.sharedPerBlock, c.sharedPerSm, c.registersPerSm, c.threadsPerSm, c.blocksPerSm};
}

static char somewhere[16];
template <class T>
static T* anywhere() {
  return reinterpret_cast<T*>(somewhere);
}

// The types of weights and activations that a card multiplies, and how kernels are named for them.
struct Types {
  DType weights, activations;
  std::string name;
};
static std::vector<Types> typesOf(int path) {
  std::vector<Types> types = {{DType::float16, DType::float16, "f16"}};
  if (path >= 800) types.push_back({DType::bfloat16, DType::bfloat16, "bf16"});
  types.push_back(path >= 800 ? Types{DType::int8, DType::bfloat16, "i8_bf16"} : Types{DType::int8, DType::float16, "i8_f16"});
  return types;
}

static Matrix matrixOf(int n, int k, DType type) {
  return {anywhere<void>(), nullptr, n, k, type, type == DType::int8 ? anywhere<float>() : nullptr};
}
static Linear linearOf(int rows, int n, int k, const Types& types) {
  Linear l{};
  l.matrix = matrixOf(n, k, types.weights);
  l.rows = rows;
  l.xStride = k;
  l.yStride = n;
  l.type = l.outputType = types.activations;
  return l;
}
static BlockIn blockInOf(int rows, int width, const Types& types) {
  BlockIn b{};
  b.qkvMatrix = matrixOf(3 * width, width, types.weights);
  b.up = matrixOf(4 * width, width, types.weights);
  b.qkv.cache = {anywhere<void>(), types.activations, 64, width / 64, 64, 64 * 64 * 2};
  b.qkv.heads = width / 64;
  b.step.rows = rows;
  b.width = width;
  b.type = types.activations;
  b.residualType = DType::float32;
  return b;
}
static Attend attendOf(int promptRows, int rows, int heads, int kvHeads, int headSize, int maxPositions, DType type) {
  Attend a{};
  a.cache = {anywhere<void>(), type, 64, kvHeads, headSize, 64LL * headSize * 2};
  a.step.rows = rows;
  a.step.promptRows = promptRows;
  a.step.promptSequences = promptRows > 0;
  a.step.sequences = rows - promptRows + (promptRows > 0);
  a.scratch = anywhere<void>();
  a.counters = anywhere<int>();
  a.heads = heads;
  a.yStride = heads * headSize;
  a.maxPositions = maxPositions;
  a.type = type;
  return a;
}

// The end of the name of a matrix kernel: "16" streams past up to 16 rows, "64x128" is a tile of a product.
struct Shape {
  std::string stem;
  int rows = 0, columns = 0;
  bool streams() const { return rows && !columns; }
};
static Shape shapeOf(const Launch& l) {
  const std::string name = l.name;
  const size_t end = name.rfind('_');
  if (end == std::string::npos) return {};
  Shape s{name.substr(0, end)};
  std::sscanf(name.c_str() + end, "_%dx%d", &s.rows, &s.columns);
  return s;
}

struct Borders {
  Run& run;
  std::string card;
  CardLimits limits;

  void expect(bool condition, const std::string& what, const Launch& l) {
    run.expect(condition, card + ", " + what + ": " + (l.name[0] ? l.name : l.refusal));
  }

  // The kernel for so few rows: the narrowest that takes them. Every block has a tile, all are there at once, and none has a tile more than it must.
  void streams(const Launch& l, const std::string& stem, int rows, int tilesOfOutputs(int outputs), DType weights, const std::string& what) {
    const Shape s = shapeOf(l);
    const int least = limits.path >= 750 ? 8 : 16;
    expect(s.streams() && s.stem == stem, what + " streams", l);
    expect(s.rows >= rows && (s.rows == least || s.rows < 2 * rows), what + " takes the narrowest", l);
    const StreamTile t = kernels::streamTile(limits.path, s.rows, sizeOf(weights));
    const int tiles = tilesOfOutputs(t.outputs), blocks = int(l.gridX), slots = limits.sms * t.blocks;
    const auto turns = [&](int among) { return kernels::divideUp(tiles, among); };
    expect(blocks >= 1 && blocks <= tiles && blocks <= slots, what + ": a tile for each block and a place for each", l);
    expect(turns(blocks) == turns(slots), what + ": as few turns as the card can do", l);
  }
};

static int tilesOf2560(int outputs) { return kernels::divideUp(2560, outputs); }
static int tilesOfVocabulary(int outputs) { return kernels::divideUp(50280, outputs); }

static void generatedLinears(Borders& b) {
  for (const Types& types : typesOf(b.limits.path)) {
    for (const auto& [n, tiles] : {std::pair{2560, tilesOf2560}, std::pair{50280, tilesOfVocabulary}}) {
      for (int rows : {1, 2, 7, 8, 9, 15, 16, 17, 31, 32}) {
        const std::string what = types.name + ", " + std::to_string(rows) + " generated rows, " + std::to_string(n) + " outputs";
        b.streams(planLinearDecode(linearOf(rows, n, 2560, types), b.limits), "linear_decode_" + types.name, rows, tiles, types.weights, what);
      }
      for (int rows : {33, 63, 64, 65, 128, 129, 256}) {
        const Launch l = planLinearDecode(linearOf(rows, n, 2560, types), b.limits);
        const Shape s = shapeOf(l);
        const std::string what = types.name + ", " + std::to_string(rows) + " generated rows, " + std::to_string(n) + " outputs";
        b.expect(s.columns > 0 && s.rows == 64 && s.stem == "linear_decode_" + types.name, what + " take 64 rows of a product", l);
        b.expect(int(l.gridX) == kernels::divideUp(rows, 64) * kernels::divideUp(n, std::max(s.columns, 1)), what + " are covered once", l);
      }
    }
    // Rows that don't come in whole tiles, or don't begin on 16 bytes.
    for (int k : {2560, 2560 - 8, 31}) {
      Linear one = linearOf(1, 2560, k, types), shifted = one;
      shifted.xStride = k + 1;
      b.expect(shapeOf(planLinearDecode(one, b.limits)).streams() == (k == 2560), "a row of " + std::to_string(k), planLinearDecode(one, b.limits));
      b.expect(shapeOf(planLinearDecode(shifted, b.limits)).columns > 0, "rows that are not aligned", planLinearDecode(shifted, b.limits));
    }
  }
}

static void promptLinears(Borders& b) {
  for (const Types& types : typesOf(b.limits.path)) {
    const std::string stem = "linear_" + types.name;
    for (int rows : {1, 8, 9, 16, 17, 32, 33, 64}) {
      // As many outputs as the multiprocessors take in one turn, with tiles of each width: the widest that all of them have one of. (Of 64 rows the
      // narrowest read too much from the second-level cache.)
      for (int columns : {32, 64, 128}) {
        if (rows == 64 && columns == 32) continue;
        for (int n : {columns * b.limits.sms, columns * b.limits.sms - 31}) {
          const Launch l = planLinear(linearOf(rows, n, 2560, types), b.limits);
          const Shape s = shapeOf(l);
          const std::string what = types.name + ", a prompt of " + std::to_string(rows) + ", " + std::to_string(n) + " outputs";
          b.expect(s.stem == stem && s.rows == 64 && s.columns == columns, what + " takes 64 rows of " + std::to_string(columns), l);
          b.expect(int(l.gridX) == b.limits.sms, what + ": a block for each multiprocessor", l);
        }
      }
    }
    // From some point on a block has 128 rows, and where there is room for it 256 outputs; more rows never go back to narrower blocks of all three.
    for (int rows : {65, 128, 129, 2048, 4096}) {
      const Launch l = planLinear(linearOf(rows, 16384, 4096, types), b.limits);
      const Shape s = shapeOf(l);
      const std::string what = types.name + ", a prompt of " + std::to_string(rows);
      b.expect(s.stem == stem && int(l.gridX) == kernels::divideUp(rows, std::max(s.rows, 1)) * kernels::divideUp(16384, std::max(s.columns, 1)),
               what + " is covered once", l);
      if (rows == 4096) b.expect(s.rows == 128 && s.columns >= 128, what + " takes the large tiles", l);
      b.expect(s.columns <= (b.limits.path >= 800 ? 256 : 128), what + ": 256 outputs only where copies run beside the threads", l);
      const ProductTile t = kernels::productTile(b.limits.path, s.rows, s.columns);
      b.expect(l.sharedBytes == kernels::productSharedBytes(t, sizeOf(types.weights)) && l.sharedBytes <= b.limits.sharedPerBlock, what + " fits", l);
    }
  }
}

static void blocksIn(Borders& b) {
  for (const Types& types : typesOf(b.limits.path)) {
    for (int width : {2560, 4096, 5120, 8192, 8256}) {
      for (int rows : {1, 3, 4, 5, 8, 9, 16, 17, 32, 33, 64}) {
        const BlockIn op = blockInOf(rows, width, types);
        const Launch l = planBlockInDecode(op, b.limits);
        const Shape s = shapeOf(l);
        const std::string what = types.name + ", width " + std::to_string(width) + ", " + std::to_string(rows) + " generated rows";
        const bool norms = s.stem == "block_in_norm_" + types.name;
        b.expect(norms == normalisesItself(op, b.limits), what + ": the norms are taken by who the backend thinks takes them", l);
        b.expect(s.streams() == (rows <= 32), what + " stream up to 32 rows", l);
        b.expect(norms || s.stem == "block_in_decode_" + types.name, what + " is for generated rows", l);
        // Up to four rows of a width that a block can hold twice on a multiprocessor: with 100 KB or more those of every Dolly.
        if (rows > 4 || width > 8192) b.expect(!norms, what + " have their norms from a launch before", l);
        if (rows <= 4 && width <= 5120 && b.limits.sharedPerSm >= 100 * 1024) b.expect(norms, what + " are normalised by each block", l);
        if (rows == 1 && width <= 5120) b.expect(norms, what + " is normalised by each block", l);
        if (norms) b.expect(l.sharedBytes <= b.limits.sharedPerBlock && 2 * l.sharedBytes <= b.limits.sharedPerSm, what + " fit twice", l);
        if (s.streams()) {
          // Blocks of the projection and of the MLP: each has a tile of its matrix, all are there at once, none has a tile more than it must.
          const StreamTile t = kernels::streamTile(b.limits.path, s.rows, sizeOf(types.weights));
          const int projection = kernels::divideUp(3 * width, t.outputs), up = kernels::divideUp(4 * width, t.outputs), blocks = int(l.gridX);
          const int first = kernels::blocksOfProjection(projection, up, blocks), slots = b.limits.sms * t.blocks;
          b.expect(first >= 1 && first <= projection && blocks - first >= 1 && blocks - first <= up && blocks <= slots, what + ": blocks", l);
          const auto turns = [&](int share, int all) {
            return std::max(kernels::divideUp(projection, std::max(share, 1)), kernels::divideUp(up, std::max(all - share, 1)));
          };
          for (int share = 1; share < slots; share++)
            if (turns(share, slots) < turns(first, blocks)) b.expect(false, what + " take less time with " + std::to_string(share) + " blocks", l);
        } else {
          const int columns = std::max(s.columns, 1), tiles = kernels::divideUp(3 * width, columns) + kernels::divideUp(4 * width, columns);
          b.expect(s.rows == 64 && int(l.gridX) == kernels::divideUp(rows, 64) * tiles, what + " are covered once", l);
        }
      }
      for (int rows : {1, 64, 65, 512}) {
        const Launch l = planBlockIn(blockInOf(rows, width, types), b.limits);
        const Shape s = shapeOf(l);
        const int columns = std::max(s.columns, 1), tiles = kernels::divideUp(3 * width, columns) + kernels::divideUp(4 * width, columns);
        const std::string what = types.name + ", width " + std::to_string(width) + ", a prompt of " + std::to_string(rows);
        b.expect(s.stem == "block_in_" + types.name && s.columns > 0, what + " is a product", l);
        b.expect(int(l.gridX) == kernels::divideUp(rows, std::max(s.rows, 1)) * tiles, what + " is covered once", l);
      }
    }
  }
}

static void attentions(Borders& b) {
  for (int headSize : {16, 32, 64, 80, 96, 128, 256}) {
    const std::string head = "heads of " + std::to_string(headSize) + ", ";
    const int rows = kernels::attendTile(b.limits.path, headSize).rows();
    const std::string name = "attend_prefill_d" + std::to_string(headSize) + "_f16";
    const auto prompt = [&](int promptRows) { return planAttend(attendOf(promptRows, promptRows, 8, 8, headSize, 2048, DType::float16), b.limits); };
    for (int whole : {1, 2, 5}) {
      const Launch full = prompt(whole * rows), more = prompt(whole * rows + 1);
      b.expect(full.name == name && full.gridX == 8 && int(full.gridY) == whole, head + "whole tiles of rows", full);
      b.expect(more.name == name && int(more.gridY) == whole + 1, head + "a row more than whole tiles", more);
    }
    b.expect(prompt(1).gridY == 1, head + "a prompt of one row", prompt(1));
    b.expect(prompt(rows).sharedBytes <= b.limits.sharedPerBlock, head + "what fits", prompt(rows));
    b.expect(!prompt(0).name[0], head + "no prompt rows are refused", prompt(0));

    const auto decode = [&](int generated, int heads, int kvHeads, int positions) {
      return planAttendDecode(attendOf(0, generated, heads, kvHeads, headSize, positions, DType::float16), b.limits);
    };
    for (int splits : {1, 2, 8}) {
      const Launch full = decode(3, 8, 8, splits * 256), more = decode(3, 8, 8, splits * 256 + 1);
      b.expect(int(full.gridX) == splits && full.gridY == 8 && full.gridZ == 3, head + "whole splits of positions", full);
      b.expect(int(more.gridX) == splits + 1, head + "a position more than whole splits", more);
    }
    b.expect(decode(64, 8, 8, 256).gridZ == 64, head + "64 generated rows", decode(64, 8, 8, 256));
    b.expect(!decode(65, 8, 8, 256).name[0], head + "65 generated rows are refused", decode(65, 8, 8, 256));
    // A block takes the queries of one key-value head, up to six of them.
    const std::string size = std::to_string(headSize) + "_f16";
    b.expect(decode(1, 8, 8, 256).name == "attend_decode_d" + size, head + "a query a key", decode(1, 8, 8, 256));
    for (int group : {2, 6, 7, 12, 13}) {
      const Launch l = decode(1, 2 * group, 2, 256);
      b.expect(l.name == "attend_decode_grouped_d" + size && int(l.gridY) == 2 * kernels::divideUp(group, 6),
               head + std::to_string(group) + " queries a key", l);
    }
    const bool brain = kernels::multiplies(b.limits.path, DType::bfloat16);
    const Launch bfloat16 = planAttend(attendOf(8, 8, 8, 8, headSize, 2048, DType::bfloat16), b.limits);
    b.expect(bool(bfloat16.name[0]) == brain && (b.limits.path >= 800) == brain, head + "bfloat16", bfloat16);
  }
  for (int headSize : {8, 48, 112, 144, 257}) {
    const Launch l = planAttend(attendOf(8, 8, 8, 8, headSize, 2048, DType::float16), b.limits);
    b.expect(!l.name[0] && l.refusal && l.refusal[0], "heads of " + std::to_string(headSize) + " are refused", l);
  }
}

static Suite suite([](Cases& cases) {
  const std::pair<const char*, void (*)(Borders&)> all[] = {
      {"generated rows", generatedLinears}, {"prompt rows", promptLinears}, {"a layer's first third", blocksIn}, {"attention", attentions}};
  for (const auto& [what, body] : all) {
    cases.once("plans/borders of " + std::string(what), [body = body](Run& run) {
      for (const Family& family : kFamilies) {
        Borders borders{run, family.card.name, limitsOf(family.card)};
        body(borders);
      }
    });
  }
});

}  // namespace ewe::test
