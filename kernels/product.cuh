// The product of a tile of rows with a tile of outputs, both operands through shared memory: for prompts, and for many generated rows.
//
// Both classes multiply in steps of 16 inputs in rising order, weights as the left operand. What differs:
//   prompt     one chain of additions over all of k
//   generated  a chain for each of kSlices ranges of k, whose sums are added in their order. That is what stream.cuh does with eight warps, and gives
//              the same bits.
// So the bits of a row depend on its class and on k alone, not on the tile.
//
// Shared memory: a ring of stages of 32 inputs: [row][4 chunks of 16 bytes] and the tiles of the weights as they lie in the matrix. Eight lanes that
// read together read 128 bytes that lie together, two rows or a part of a weight tile: no bank conflicts (path 700, whose lanes read eight rows at
// one place, orders the chunks of a row by its number). From path 800 on copies run beside the warps, stages - 1 ahead; below, the next stage is in
// registers while this one is multiplied.
//
// At the end the sums go through shared memory once more, 16 rows of a warp at a time, so that four outputs of a row lie in one thread and its writes
// are 16 bytes wide.
#pragma once
#include "operands.cuh"

namespace ewe::kernels {

// Row tiles of blocks that follow each other: they share the tiles of the weights, and a group's rows stay in the second-level cache.
constexpr int kRasterRows = 16;

struct TilePlace {
  int row, column;
};
DEVICE TilePlace tilePlace(int index, int rowTiles, int columnTiles) {
  const int group = index / (kRasterRows * columnTiles), within = index % (kRasterRows * columnTiles);
  const int left = rowTiles - group * kRasterRows, height = left < kRasterRows ? left : kRasterRows;
  return {group * kRasterRows + within % height, within / height};
}

// Rows of 16-bit numbers and a matrix, and where in them a block's tile begins.
struct ProductOperands {
  const void* x;
  long long xStride;  // elements
  int rows, firstRow;
  const void* weights;
  int inputs, outputs, firstColumn;
};

template <class T, class W, int kRows, int kColumns, bool kGenerated>
struct Product {
  static constexpr ProductTile kTile = productTile(kPath, kRows, kColumns);
  static constexpr int kThreads = kTile.threads();
  static constexpr int kWarpRows = kRows / kTile.rowWarps, kWarpColumns = kColumns / kTile.columnWarps;
  static constexpr int kRowUnits = kWarpRows / 16, kColumnUnits = kWarpColumns / 16;
  static constexpr int kRowChunks = kRows * 4, kWeightChunks = kColumns / kTileOutputs * kTilePieces<W>;
  static constexpr int kRowCopies = divideUp(kRowChunks, kThreads), kWeightCopies = divideUp(kWeightChunks, kThreads);

  struct Stage {
    Words4 x[kRowChunks], w[kWeightChunks];
  };
  static constexpr int kSumStride = kWarpColumns + 4;  // what lanes write together falls into different banks
  union Shared {
    Stage stage[kTile.stages];
    float sums[kThreads / 32][16 * kSumStride];  // of 16 rows of each warp
  };
  static_assert(sizeof(Shared) <= size_t(productSharedBytes(kTile, int(sizeof(W)))));

  struct Sums {
    Acc unit[kRowUnits][kColumnUnits];  // [16 outputs][16 rows] each
  };

  // ---- Into shared memory

  // This thread's pieces: always the same chunk of rows that lie rowStep apart, and the same piece of tiles weightStep apart.
  struct Source {
    const char *x, *w;
    long long rowStep, weightStep;
    unsigned rowValid, weightValid;
    int inputs;  // from this thread's chunk on
    bool aligned;
  };
  DEVICE Source sourceOf(const ProductOperands& o) {
    constexpr int rowsApart = kThreads / 4, tilesApart = kThreads / kTilePieces<W>;
    const int row = thread() / 4, chunk = thread() % 4, tile = thread() / kTilePieces<W>, tiles = inputTiles(o.inputs);
    const long long tileRow = (long long)tiles * kTilePieces<W> * 16;  // bytes of 16 outputs
    Source s;
    s.x = static_cast<const char*>(o.x) + ((o.firstRow + row) * o.xStride + chunk * 8) * 2;
    s.w = static_cast<const char*>(o.weights) + (o.firstColumn / kTileOutputs + tile) * tileRow + thread() % kTilePieces<W> * 16;
    s.rowStep = rowsApart * o.xStride * 2;
    s.weightStep = tilesApart * tileRow;
    s.rowValid = s.weightValid = 0;
#pragma unroll
    for (int i = 0; i < kRowCopies; i++) s.rowValid |= unsigned(o.firstRow + row + i * rowsApart < o.rows) << i;
#pragma unroll
    for (int i = 0; i < kWeightCopies; i++)
      s.weightValid |= unsigned(o.firstColumn / kTileOutputs + tile + i * tilesApart < outputTiles(o.outputs)) << i;
    s.inputs = o.inputs - chunk * 8;
    s.aligned = o.inputs % 8 == 0 && o.xStride % 8 == 0;
    return s;
  }

  DEVICE int rowPlace(int row, int chunk) {
    if constexpr (kPath >= 750) return row * 4 + chunk;
    return row * 4 + (chunk ^ ((row >> 1 & 1) | (row >> 2 & 2)));
  }
  DEVICE int ownRowPlace(int i) { return rowPlace(thread() / 4 + i * (kThreads / 4), thread() % 4); }
  DEVICE bool owns(int i, int chunks) { return chunks % kThreads == 0 || thread() + i * kThreads < chunks; }

  DEVICE void copy(Stage& stage, const Source& s, int b) {
    const bool inside = b * kTileInputs < s.inputs;
    if (s.aligned) {
#pragma unroll
      for (int i = 0; i < kRowCopies; i++)
        copyAsync16(&stage.x[ownRowPlace(i)], s.x + i * s.rowStep + b * (kTileInputs * 2), inside && (s.rowValid >> i & 1));
    } else {
#pragma unroll 1
      for (int i = 0; i < kRowCopies; i++) {
        const bool valid = inside && (s.rowValid >> i & 1);
        stage.x[ownRowPlace(i)] = valid ? rowPiece(s.x + i * s.rowStep, b * kTileInputs, s.inputs, false) : Words4{};
      }
    }
#pragma unroll
    for (int i = 0; i < kWeightCopies; i++) {
      if (owns(i, kWeightChunks))
        copyAsync16(&stage.w[thread() + i * kThreads], s.w + i * s.weightStep + b * (kTilePieces<W> * 16), s.weightValid >> i & 1);
    }
  }

  // Below path 800: a stage on its way through registers.
  struct Held {
    Words4 x[kRowCopies], w[kWeightCopies];
  };
  DEVICE void fetch(Held& held, const Source& s, int b) {
#pragma unroll
    for (int i = 0; i < kRowCopies; i++) {
      const bool valid = s.rowValid >> i & 1;
      held.x[i] = valid ? rowPiece(s.x + i * s.rowStep, b * kTileInputs, s.inputs, s.aligned) : Words4{};
    }
#pragma unroll
    for (int i = 0; i < kWeightCopies; i++) {
      held.w[i] = {};
      if (owns(i, kWeightChunks) && (s.weightValid >> i & 1))
        held.w[i] = loadConstant(reinterpret_cast<const Words4*>(s.w + i * s.weightStep + b * (kTilePieces<W> * 16)));
    }
  }
  DEVICE void store(Stage& stage, const Held& held) {
#pragma unroll
    for (int i = 0; i < kRowCopies; i++) stage.x[ownRowPlace(i)] = held.x[i];
#pragma unroll
    for (int i = 0; i < kWeightCopies; i++) {
      if (owns(i, kWeightChunks)) stage.w[thread() + i * kThreads] = held.w[i];
    }
  }

  // ---- The sums

  DEVICE int warpRow() { return warp() / kTile.columnWarps * kWarpRows; }
  DEVICE int warpColumn() { return warp() % kTile.columnWarps * kWarpColumns; }

  DEVICE void multiplyStage(Sums& sums, const Stage& stage) {
    RowTile x[kRowUnits];
#pragma unroll
    for (int r = 0; r < kRowUnits; r++) {
#pragma unroll
      for (int i = 0; i < kRowPieces; i++) x[r].piece[i] = load(&stage.x[rowPlace(warpRow() + 16 * r + rowOfPiece(i), chunkOfPiece(i))]);
    }
#pragma unroll
    for (int c = 0; c < kColumnUnits; c++) {
      WeightTile<W> w;
#pragma unroll
      for (int i = 0; i < kWeightPieces<W>; i++)
        w.piece[i] = load(&stage.w[(warpColumn() / kTileOutputs + c) * kTilePieces<W> + weightPlace() + i * kWeightStep]);
#pragma unroll
      for (int step = 0; step < 2; step++) {
        FragmentA a;
        fragmentOf<T>(a, w, step);
#pragma unroll
        for (int r = 0; r < kRowUnits; r++) {
          FragmentB b;
          fragmentOf(b, x[r], step);
          multiply<T>(sums.unit[r][c], a, b);
        }
      }
    }
  }

  DEVICE void clearSums(Sums& sums) {
#pragma unroll
    for (int r = 0; r < kRowUnits; r++) {
#pragma unroll
      for (int c = 0; c < kColumnUnits; c++) clear(sums.unit[r][c]);
    }
  }

  // Adds up the slices of k of generated rows.
  struct Slices {
    Sums total;
    int next, end;  // slices begun, and where the current one ends
  };
  DEVICE void addSlice(Slices& slices, Sums& sums, int tiles) {
#pragma unroll
    for (int r = 0; r < kRowUnits; r++) {
#pragma unroll
      for (int c = 0; c < kColumnUnits; c++) {
#pragma unroll
        for (int i = 0; i < 8; i++) slices.total.unit[r][c].v[i] += sums.unit[r][c].v[i];
      }
    }
    clearSums(sums);
    nextSlice(slices, tiles);
  }
  DEVICE void nextSlice(Slices& slices, int tiles) {
    const int begin = slices.end;
    while (slices.end == begin && slices.next < kSlices) slices.end = sliceBegin(++slices.next, tiles);
  }

  // All threads of the block; at the end nobody reads `shared` any more.
  DEVICE void run(Sums& sums, Shared& shared, const ProductOperands& o) {
    const Source source = sourceOf(o);
    const int tiles = inputTiles(o.inputs);
    clearSums(sums);
    [[maybe_unused]] Slices slices;
    if constexpr (kGenerated) {
      clearSums(slices.total);
      slices.next = slices.end = 0;
      nextSlice(slices, tiles);
    }
    auto multiplyNext = [&](int b, const Stage& stage) {
      multiplyStage(sums, stage);
      if constexpr (kGenerated) {
        if (b + 1 == slices.end) addSlice(slices, sums, tiles);
      }
    };
    if constexpr (kPath >= 800) {
      constexpr int stages = kTile.stages;
#pragma unroll
      for (int b = 0; b < stages - 1; b++) {
        if (b < tiles) copy(shared.stage[b], source, b);
        commitCopies();
      }
      int at = 0, ahead = stages - 1;
      for (int b = 0; b < tiles; b++) {
        waitCopies<stages - 2>();
        syncBlock();
        if (b + stages - 1 < tiles) copy(shared.stage[ahead], source, b + stages - 1);
        commitCopies();
        multiplyNext(b, shared.stage[at]);
        at = at + 1 == stages ? 0 : at + 1;
        ahead = ahead + 1 == stages ? 0 : ahead + 1;
      }
    } else {
      Held held;
      fetch(held, source, 0);
      store(shared.stage[0], held);
      syncBlock();
      for (int b = 0; b < tiles; b++) {
        if (b + 1 < tiles) fetch(held, source, b + 1);
        multiplyNext(b, shared.stage[b % 2]);
        if (b + 1 < tiles) store(shared.stage[(b + 1) % 2], held);
        syncBlock();
      }
    }
    if constexpr (kPath >= 800) syncBlock();
    if constexpr (kGenerated) sums = slices.total;
  }

  // finish(row, column, sums of four outputs) for all of the warp's tile that exists.
  template <class Finish>
  DEVICE void finish(const Sums& sums, Shared& shared, const ProductOperands& o, Finish finish) {
    float* region = shared.sums[warp()];
#pragma unroll 1
    for (int unit = 0; unit < kRowUnits; unit++) {
#pragma unroll
      for (int r = 0; r < kRowUnits; r++) {
        if (r != unit) continue;  // the sums are registers: their index must not be computed
#pragma unroll
        for (int c = 0; c < kColumnUnits; c++) {
#pragma unroll
          for (int i = 0; i < 8; i++) region[columnOf(i) * kSumStride + 16 * c + rowOf(slotOf(i))] = sums.unit[r][c].v[i];
        }
      }
      syncWarp();
#pragma unroll 1
      for (int i = lane(); i < 16 * kWarpColumns / 4; i += 32) {
        const int within = i / (kWarpColumns / 4), four = i % (kWarpColumns / 4) * 4;
        const int row = o.firstRow + warpRow() + 16 * unit + within, column = o.firstColumn + warpColumn() + four;
        if (row < o.rows && column < o.outputs) {
          Floats4 v = load(reinterpret_cast<const Floats4*>(region + within * kSumStride + four));
          finish(row, column, v);
        }
      }
      syncWarp();
    }
  }
};

}  // namespace ewe::kernels
