// The product of a few rows with a matrix that is read once: for generated rows. Weights are the left operand, rows the right one.
//
// Each of a block's eight warps takes one slice of k (linear.plan.h) of all the block's outputs, in steps of 16 inputs in rising order, and meets the
// others only to add up their sums, in the order of the slices. A warp's weights lie in memory as its lanes want them: 512 bytes a load, `ahead`
// tiles of them on their way to registers all the time, over the ends of the tiles of outputs too. Rows come the same way, 16 bytes a lane, from the
// first- or second-level cache. product.cuh gives many rows the same sums.
//
// Shared memory: the eight warps' sums, [row][output]; four numbers of padding a row, so that what lanes write together falls into different banks.
#pragma once
#include "linear_decode.plan.h"
#include "operands.cuh"

namespace ewe::kernels {

// Rows whose product is one instruction's columns, a lane's 16-byte pieces of them for 32 inputs, and its sums.
#if EWE_PATH >= 750
constexpr int kUnitRows = 8, kUnitPieces = 1, kUnitSums = 4;
#else
constexpr int kUnitRows = 16, kUnitPieces = kRowPieces, kUnitSums = 8;
#endif

template <class T>
DEVICE void multiplyUnit(float (&sums)[kUnitSums], const FragmentA& a, const Words4* x, int step) {
#if EWE_PATH >= 750
  multiply16816<T>(sums, a.r, x[0].w + 2 * step);
#else
#pragma unroll
  for (int k = 0; k < 4; k++) multiply884<false>(sums, a.r + 2 * k, x[2 * step + k / 2].w + k % 2 * 2);
#endif
}

// Rows in device memory, streamsRows() of them. Rows that are not there are read as the last one: their columns are nobody's.
template <int kUnits>
struct RowsInMemory {
  static constexpr bool kHeld = true;  // they come through registers ahead of their use
  const Words4* row[kUnits];

  DEVICE RowsInMemory of(const void* x, long long stride, int rows) {
    RowsInMemory r;
#pragma unroll
    for (int u = 0; u < kUnits; u++) {
      const int row = u * kUnitRows + rowOfPiece(0), last = rows > 0 ? rows - 1 : 0;
      r.row[u] = static_cast<const Words4*>(x) + (row < last ? row : last) * (stride / 8) + chunkOfPiece(0);
    }
    return r;
  }
  // Piece i of this lane in 32 inputs that begin `chunks` chunks from the start of the row.
  DEVICE Words4 piece(const RowsInMemory& r, int unit, int i, int chunks) { return loadConstant(r.row[unit] + chunks + i); }
};

template <class T, class W, int kRows>
struct Stream {
  static constexpr StreamTile kTile = streamTile(kPath, kRows, int(sizeof(W)));
  static constexpr int kOutputs = kTile.outputs, kAhead = kTile.ahead;
  static constexpr int kGroups = kOutputs / kTileOutputs, kUnits = kRows / kUnitRows, kPieces = kUnits * kUnitPieces;
  static constexpr int kStride = kOutputs + 4;

  struct Shared {
    float sums[kSlices][kRows * kStride];
  };
  static_assert(sizeof(Shared) == size_t(streamSharedBytes(kTile)));

  // A tile of inputs on its way.
  struct Weights {
    WeightTile<W> group[kGroups];
  };
  struct Inputs {
    Words4 piece[kUnits][kUnitPieces];
  };

  // From the tile of the first group; those of the next lie `apart` pieces on.
  DEVICE void loadWeights(Weights& w, const Words4* from, long long apart) {
#pragma unroll
    for (int g = 0; g < kGroups; g++) {
#pragma unroll
      for (int i = 0; i < kWeightPieces<W>; i++) w.group[g].piece[i] = loadStreaming(from + g * apart + i * kWeightStep);
    }
  }
  template <class Source>
  DEVICE void loadInputs(Inputs& x, const Source& source, int chunks) {
#pragma unroll
    for (int u = 0; u < kUnits; u++) {
#pragma unroll
      for (int i = 0; i < kUnitPieces; i++) x.piece[u][i] = Source::piece(source, u, i, chunks);
    }
  }

  // The way of a warp through its slices of the weights, `kAhead` tiles of inputs at a time.
  struct Way {
    const Words4* from;  // this lane's first piece of the tiles to come
    long long apart;     // of groups, in pieces
    int column, left;    // column of outputs, and its tiles that nobody asked for yet
    int chunks;          // of the tiles to come, in a row
  };
  DEVICE void beginColumn(Way& way, const Matrix& m, int column, int begin, int count) {
    const int tiles = inputTiles(m.k), groups = outputTiles(m.n);
    way.from = static_cast<const Words4*>(m.data) + ((long long)column * kGroups * tiles + begin) * kTilePieces<W> + weightPlace();
    way.apart = column * kGroups + kGroups <= groups ? (long long)tiles * kTilePieces<W> : 0;  // groups that are not there are read as the first
    way.column = column;
    way.left = column < divideUp(m.n, kOutputs) ? count : 0;
    way.chunks = begin * 4;
  }
  DEVICE void goOn(Way& way) {
    way.from += kAhead * kTilePieces<W>;
    way.left -= kAhead;
    way.chunks += kAhead * 4;
  }

  // Outputs from kOutputs * column on, for column = first, first + apart, ... prepare() gives the rows: it is called once, when the first weights are
  // on their way, and may use the block's barriers. finish(row, column, sums of four outputs) is called for all that exist and some rows that do not.
  template <class Prepare, class Finish>
  DEVICE void run(Shared& shared, const Matrix& m, int first, int apart, Prepare prepare, Finish finish) {
    // Said by one lane, so that the compiler knows it is the same for all.
    const int tiles = inputTiles(m.k), slice = shuffle(warp(), 0), begin = sliceBegin(slice, tiles), count = sliceBegin(slice + 1, tiles) - begin;
    Way way;
    beginColumn(way, m, first, begin, count);
    Weights w[kAhead];
#pragma unroll
    for (int u = 0; u < kAhead; u++) {
      if (u < way.left) loadWeights(w[u], way.from + u * kTilePieces<W>, way.apart);
    }
    const auto source = prepare();
    constexpr bool held = decltype(prepare())::kHeld;
    Inputs x[held ? kAhead : 1];
    if constexpr (held) {
#pragma unroll
      for (int u = 0; u < kAhead; u++) {
        if (u < way.left) loadInputs(x[u], source, way.chunks + 4 * u);
      }
    }
    goOn(way);

    for (int column = first; column * kOutputs < m.n; column += apart) {
      float sums[kGroups][kUnits][kUnitSums] = {};
#pragma unroll 1
      for (int at = 0; at < count; at += kAhead) {
        if (way.left <= 0) beginColumn(way, m, way.column + apart, begin, count);
#pragma unroll
        for (int u = 0; u < kAhead; u++) {
          if (at + u < count) {
            if constexpr (!held) loadInputs(x[0], source, (begin + at + u) * 4);
            multiplyTile(sums, w[u], x[held ? u : 0]);
          }
          if (u < way.left) {
            loadWeights(w[u], way.from + u * kTilePieces<W>, way.apart);
            if constexpr (held) loadInputs(x[u], source, way.chunks + 4 * u);
          }
        }
        goOn(way);
      }
      syncBlock();  // the sums before these are read
      writeSums(shared.sums[warp()], sums);
      syncBlock();
      for (int i = thread(); i < kRows * kOutputs / 4; i += kStreamThreads) {
        const int row = i / (kOutputs / 4), four = i % (kOutputs / 4) * 4;
        if (column * kOutputs + four >= m.n) continue;
        Floats4 v = {};
#pragma unroll
        for (int s = 0; s < kSlices; s++) {
          const Floats4 slice = load(reinterpret_cast<const Floats4*>(&shared.sums[s][row * kStride + four]));
#pragma unroll
          for (int j = 0; j < 4; j++) v.v[j] += slice.v[j];
        }
        finish(row, column * kOutputs + four, v);
      }
    }
  }

 private:
  DEVICE void multiplyTile(float (&sums)[kGroups][kUnits][kUnitSums], const Weights& w, const Inputs& x) {
#pragma unroll
    for (int step = 0; step < 2; step++) {
#pragma unroll
      for (int g = 0; g < kGroups; g++) {
        FragmentA a;
        fragmentOf<T>(a, w.group[g], step);
#pragma unroll
        for (int u = 0; u < kUnits; u++) multiplyUnit<T>(sums[g][u], a, x.piece[u], step);
      }
    }
  }
  DEVICE void writeSums(float (&out)[kRows * kStride], const float (&sums)[kGroups][kUnits][kUnitSums]) {
#pragma unroll
    for (int g = 0; g < kGroups; g++) {
#pragma unroll
      for (int u = 0; u < kUnits; u++) {
#pragma unroll
        for (int i = 0; i < kUnitSums; i++) out[(u * kUnitRows + columnOf(i)) * kStride + 16 * g + rowOf(slotOf(i))] = sums[g][u][i];
      }
    }
  }
};

}  // namespace ewe::kernels
