// The argument struct of every op: what the model fills, the CPU reads and a kernel receives by value. For each op: its formula, its shapes, and what
// it costs. Plain data without a standard header, because device compilers read it too.
//
// Notation in comments: [a, b] is row-major with b contiguous unless a stride is named. "type" and "residualType" are fields of the same struct.
// Matrices, and the blocks of the cache, are stored in an order of the device's own choice (ops.h says how they are filled).
#pragma once

namespace ewe {

enum class DType : int { float32 = 0, bfloat16 = 1, float16 = 2, int8 = 3 };
constexpr int sizeOf(DType type) { return type == DType::float32 ? 4 : type == DType::int8 ? 1 : 2; }

enum class Activation : int { none = 0, gelu = 1, geluTanh = 2, quickGelu = 3, silu = 4, relu = 5, geluClipped = 6 };

// Least traffic with the memory behind the caches, and arithmetic with a multiply-add counted as two.
struct Cost {
  double bytes, flops;
};

// A weight matrix W of y = x W^T + bias. int8: W[i, j] = scale[i] times a whole number from -127 to 127.
struct Matrix {
  const void* data;   // n x k elements of type, in the device's order
  const float* bias;  // [n] or null
  int n, k;           // outputs, inputs
  DType type;
  const float* scale;  // [n], int8 only; else null
};
constexpr double bytesOf(const Matrix& m) { return double(m.n) * m.k * sizeOf(m.type) + (m.bias ? 4.0 * m.n : 0.0) + (m.scale ? 4.0 * m.n : 0.0); }
constexpr double flopsOf(const Matrix& m, int rows) { return 2.0 * rows * m.n * m.k; }

// The rows of a step: one row is one token of one sequence. The rows of a sequence lie together, at positions that follow each other. Sequences with
// prompt rows come first. All pointers are device memory whose addresses stay the same from step to step.
//
// A row's arithmetic depends on its class, prompt or generated, and on nothing else of the step. A step of generated rows may be recorded and
// replayed (ops.h): then `rows` and `sequences` are the most that the recording serves, and *live, here and in the other ops, says how many rows
// there are this time. Rows from *live on are neither read nor written.
struct Rows {
  const int* token;     // [rows]
  const int* position;  // [rows] from 0
  const int* sequence;  // [rows] index of the row's sequence within this step
  const int* start;     // [sequences + 1] first row of each sequence
  const int* pages;     // [sequences, pagesStride] numbers of its pages, in the order of positions
  int rows, sequences, pagesStride;
  int promptRows, promptSequences;  // how many of each are of the prompt class
  const int* live;                  // [1], or null: all rows
};

// The cache of one layer: [page][K, then V][kvHead] blocks of pageSize tokens x headSize elements of type, each block in the device's order.
struct Cache {
  void* data;
  DType type;
  int pageSize, kvHeads, headSize;
  long long blockBytes;  // of one block
};

// Rotation of adjacent pairs (2j, 2j+1), j < size / 2, of each query and key head: (a, b) -> (a cos - b sin, b cos + a sin). Families that pair
// otherwise have their rows reordered at load.
struct Rotary {
  const float* cos;  // [positions, size / 2]
  const float* sin;  // [positions, size / 2]
  int size;          // rotated components of a head; the rest pass unchanged
};

// x[i] = table[token[i]]
struct Embed {
  const void* table;  // [vocab, width] tableType
  void* x;            // [rows, width] residualType
  Rows rows;
  int vocab, width;
  DType tableType, residualType;
};
constexpr Cost cost(const Embed& e) { return {double(e.rows.rows) * e.width * (sizeOf(e.tableType) + sizeOf(e.residualType)), 0}; }

// y = (x - mean) / sqrt(var + eps) * weight + bias per row; biased variance, in two passes; statistics in fp32. With weight2, y2 is a second norm of
// the same x (one read). With select, row i of the output is the norm of row select[i] of x.
struct Norm {
  const void* x;                 // [*, width] residualType
  const int* select;             // [rows] or null
  const float *weight, *bias;    // [width]; bias or null
  void* y;                       // [rows, width] type
  const float *weight2, *bias2;  // [width] or null
  void* y2;                      // [rows, width] type, or null
  const int* live;               // as in Rows
  int rows, width;
  float eps;
  DType residualType, type;
};
constexpr Cost cost(const Norm& n) {
  return {double(n.rows) * n.width * (sizeOf(n.residualType) + sizeOf(n.type) * (n.weight2 ? 2 : 1)) + 8.0 * n.width * (n.weight2 ? 2 : 1),
          double(n.rows) * n.width * (n.weight2 ? 10 : 8)};
}

// What becomes of the fused projection [rows, (heads + 2 kvHeads) headSize] = [queries | keys | values]: clamped if clip > 0, queries and keys
// rotated, queries kept, keys and values written into the cache at the row's position.
struct Qkv {
  void* q;  // [rows, heads * headSize] type; null where a Linear has no such epilogue
  Cache cache;
  Rotary rotary;
  int heads;
  float clip;
};

// y = act(x W^T + bias) + residual, or the Qkv epilogue instead of y.
struct Linear {
  const void* x;  // [rows, k] type, stride xStride
  Matrix matrix;
  void* y;               // [rows, n] outputType, stride yStride; null with qkv
  const void* residual;  // [rows, n] residualType or null; may be y itself
  Qkv qkv;
  Rows step;                   // with qkv only
  const int* live;             // as in Rows
  int rows, promptRows;        // the first promptRows rows are of the prompt class
  long long xStride, yStride;  // elements
  Activation activation;
  DType type, outputType, residualType;
};
constexpr Cost cost(const Linear& l) {
  return {
      bytesOf(l.matrix) + double(l.rows) * l.matrix.k * sizeOf(l.type) + double(l.rows) * l.matrix.n * sizeOf(l.outputType) * (l.residual ? 2 : 1),
      flopsOf(l.matrix, l.rows)};
}

// First third of a parallel-residual layer: a = norm1(x), b = norm2(x) (or a where there is no second norm);
// Qkv epilogue of a Wqkv^T + bias; hidden = act(b Wup^T + bias).
struct BlockIn {
  const void* x;                 // [rows, width] residualType
  const float *weight, *bias;    // [width] norm1
  const float *weight2, *bias2;  // [width] norm2, or null
  Matrix qkvMatrix, up;
  Qkv qkv;
  void* hidden;  // [rows, up.n] type, stride hiddenStride
  Rows step;
  int width;
  void* scratch;           // the device's own
  long long hiddenStride;  // elements
  float eps;
  Activation activation;
  DType residualType, type;
};
constexpr Cost cost(const BlockIn& b) {
  return {bytesOf(b.qkvMatrix) + bytesOf(b.up) +
              double(b.step.rows) * (double(b.width) * sizeOf(b.residualType) + double(b.qkvMatrix.n + b.up.n) * sizeOf(b.type)),
          flopsOf(b.qkvMatrix, b.step.rows) + flopsOf(b.up, b.step.rows)};
}

// o = softmax(q k^T / sqrt(headSize)) v over the positions 0 .. position of each row, from the cache (which holds the row's own key and value).
// Query head i reads key-value head i / (heads / kvHeads). Softmax in fp32.
struct Attend {
  const void* q;  // [rows, heads * headSize] type
  Cache cache;
  void* y;  // [rows, heads * headSize] type, stride yStride
  Rows step;
  void* scratch;  // the device's own
  int* counters;  // the device's own: zero between launches
  int heads;
  long long yStride;  // elements
  float scale;        // 1 / sqrt(headSize)
  int maxPositions;   // no position of this step reaches it
  DType type;
};
// Depends on the positions, which lie on the device: contexts is the sum over rows of position + 1, keys that over sequences of the last one.
constexpr Cost cost(const Attend& a, double contexts, double keys) {
  return {keys * 2 * a.cache.kvHeads * a.cache.headSize * sizeOf(a.cache.type) + 2.0 * a.step.rows * a.heads * a.cache.headSize * sizeOf(a.type),
          contexts * 4 * a.heads * a.cache.headSize};
}

// Last third of a parallel-residual layer: y = residual + x W^T + bias, where x is [attention output | MLP activation] and W is
// [out-projection | MLP-down] over K = h + inner; bias is the sum of both biases.
struct BlockOut {
  const void* x;  // [rows, matrix.k] type
  Matrix matrix;
  void* y;          // [rows, matrix.n] residualType, read as the residual and written
  const int* live;  // as in Rows
  int rows, promptRows;
  DType residualType, type;
};
constexpr Cost cost(const BlockOut& b) {
  return {bytesOf(b.matrix) + double(b.rows) * (double(b.matrix.k) * sizeOf(b.type) + 2.0 * b.matrix.n * sizeOf(b.residualType)),
          flopsOf(b.matrix, b.rows)};
}

// How one row draws its token. Processors apply in this order: adjustments, repetition penalty, temperature, top-k, top-p, min-p (transformers'
// order).
struct Sampling {
  float temperature;        // 0 takes the largest logit, the lowest id among equals
  float topP;               // (0, 1]; 1 keeps all
  float minP;               // [0, 1]; 0 keeps all
  float repetitionPenalty;  // > 0; 1 changes nothing
  int topK;                 // 0 keeps all
  int top;                  // how many of the best log-probabilities are wanted, up to Sample::topStride
  unsigned long long seed;  // with sample and position the key of this draw
  unsigned sample, position;
  const int* history;  // [historyLength] ids that the repetition penalty knows
  int historyLength;
  int adjusted = 0;                   // how many logits something is added to
  const int* adjustedId = nullptr;    // [adjusted] their ids, rising
  const float* adjustment = nullptr;  // [adjusted] what is added
};

// Draws one token per row; log-probabilities are those of the raw logits, before any processor (ops/draw.h defines all arithmetic).
struct Sample {
  const float* logits;       // [rows, vocab], stride
  const Sampling* sampling;  // [rows]
  int* token;                // [rows] out
  float* logprob;            // [rows] out: of the drawn token
  int* topToken;             // [rows, topStride] out, best first, the lower id among equals
  float* topLogprob;         // [rows, topStride] out
  const int* live;           // as in Rows
  long long stride;          // elements
  int rows, vocab, topStride;
};
constexpr Cost cost(const Sample& s) { return {4.0 * s.rows * s.vocab, 20.0 * s.rows * s.vocab}; }

// Log-probability of a given token per row, and the best ones beside it.
struct LogProbs {
  const float* logits;  // [rows, vocab], stride
  const int* target;    // [rows]; negative: none wanted
  float* logprob;       // [rows] out
  int* topToken;        // [rows, top] out, best first, the lower id among equals
  float* topLogprob;    // [rows, top] out
  long long stride;     // elements
  int rows, vocab, top;
};
constexpr Cost cost(const LogProbs& l) { return {4.0 * l.rows * l.vocab, 20.0 * l.rows * l.vocab}; }

}  // namespace ewe
