// What becomes of the sums of a product, four outputs of one row at a time: scale and bias, activation, residual, rounding; or rotation and the write
// into the cache. Every matrix kernel leaves its sums in shared memory and calls these, so each is compiled once a kernel and written once here.
//
// Sums and products that a compiler could contract are written as fma or as addOf: the same numbers in every kernel.
#pragma once
#include "seam.cuh"

namespace ewe::kernels {

// Four numbers of a row of n from `column` on; rows lie n apart.
DEVICE Floats4 loadFour(const float* x, long long at, int column, int n) {
  if (n % 4 == 0) return load(reinterpret_cast<const Floats4*>(x + at));
  Floats4 v = {};
#pragma unroll
  for (int i = 0; i < 4; i++) {
    if (column + i < n) v.v[i] = x[at + i];
  }
  return v;
}

template <class T>
DEVICE void storeFour(void* y, long long at, const Floats4& v, DType type, int column, int n, bool aligned) {
  if (aligned) {
    if (type == DType::float32) {
      *reinterpret_cast<Floats4*>(static_cast<float*>(y) + at) = v;
    } else {
      *reinterpret_cast<Words2*>(static_cast<T*>(y) + at) = {{roundPair<T>(v.v[0], v.v[1]), roundPair<T>(v.v[2], v.v[3])}};
    }
    return;
  }
#pragma unroll
  for (int i = 0; i < 4; i++) {
    if (column + i >= n) return;
    if (type == DType::float32) {
      static_cast<float*>(y)[at + i] = v.v[i];
    } else {
      static_cast<T*>(y)[at + i] = round<T>(v.v[i]);
    }
  }
}

// The scale of int8 weights meets the fp32 sum: 16-bit numbers hold whole weights and activations only, and nothing overflows.
DEVICE void scaleAndBias(Floats4& v, const float* scale, const float* bias, int column, int n) {
  Floats4 s = {{1, 1, 1, 1}}, b = {};
  if (scale) s = loadFour(scale, column, column, n);
  if (bias) b = loadFour(bias, column, column, n);
#pragma unroll
  for (int i = 0; i < 4; i++) v.v[i] = fmaOf(v.v[i], s.v[i], b.v[i]);
}

DEVICE float gelu(float x) { return 0.5f * x * (1.0f + erfOf(x * 0.70710678118654752f)); }
DEVICE float clamped(float x, float most) { return x > most ? most : x < -most ? -most : x; }  // a NaN stays one

template <class F>
DEVICE void each(Floats4& v, F f) {
#pragma unroll
  for (int i = 0; i < 4; i++) v.v[i] = f(v.v[i]);
}

DEVICE void activate(Floats4& v, Activation activation) {
  switch (activation) {
    case Activation::none: break;
    case Activation::gelu: each(v, [](float x) { return gelu(x); }); break;
    case Activation::geluTanh:
      each(v, [](float x) { return 0.5f * x * (1.0f + tanhOf(0.79788456080286536f * fmaOf(0.044715f * x, x * x, x))); });
      break;
    case Activation::quickGelu: each(v, [](float x) { return x / (1.0f + expOf(-1.702f * x)); }); break;
    case Activation::silu: each(v, [](float x) { return x / (1.0f + expOf(-x)); }); break;
    case Activation::relu: each(v, [](float x) { return x < 0 ? 0 : x; }); break;
    case Activation::geluClipped: each(v, [](float x) { return clamped(gelu(x), 10); }); break;
  }
}

// Four numbers of the fused projection, of one head: heads are multiples of four wide.
template <class T>
DEVICE void writeQkv(const Qkv& qkv, const Rows& step, int row, int column, Floats4& v) {
  const Cache& cache = qkv.cache;
  const int head = column / cache.headSize, component = column % cache.headSize, position = step.position[row];
  if (qkv.clip > 0) {
#pragma unroll
    for (int i = 0; i < 4; i++) v.v[i] = clamped(v.v[i], qkv.clip);
  }
  if (head < qkv.heads + cache.kvHeads) {
#pragma unroll
    for (int i = 0; i < 4; i += 2) {
      if (component + i >= qkv.rotary.size) break;
      const long long at = (long long)position * (qkv.rotary.size / 2) + (component + i) / 2;
      const float cosine = qkv.rotary.cos[at], sine = qkv.rotary.sin[at], a = v.v[i], b = v.v[i + 1];
      v.v[i] = fmaOf(-b, sine, a * cosine);
      v.v[i + 1] = fmaOf(a, sine, b * cosine);
    }
  }
  const int which = head - qkv.heads;  // of the keys' heads, then the values'
  T* out;
  if (which < 0) {
    out = static_cast<T*>(qkv.q) + ((long long)row * qkv.heads + head) * cache.headSize;
  } else {
    const int page = step.pages[(long long)step.sequence[row] * step.pagesStride + position / cache.pageSize];
    char* block = static_cast<char*>(cache.data) + ((long long)page * 2 * cache.kvHeads + which) * cache.blockBytes;
    out = reinterpret_cast<T*>(block) + (long long)(position % cache.pageSize) * cache.headSize;
  }
  *reinterpret_cast<Words2*>(out + component) = {{roundPair<T>(v.v[0], v.v[1]), roundPair<T>(v.v[2], v.v[3])}};
}

// Sums of a fused projection.
template <class T>
DEVICE void finishProjection(const Matrix& m, const Qkv& qkv, const Rows& step, int row, int column, Floats4& v) {
  scaleAndBias(v, m.scale, m.bias, column, m.n);
  writeQkv<T>(qkv, step, row, column, v);
}

// Sums of a Linear.
template <class T>
DEVICE void finishLinear(const Linear& l, int row, int column, Floats4& v) {
  if (l.qkv.q) {
    finishProjection<T>(l.matrix, l.qkv, l.step, row, column, v);
    return;
  }
  const int n = l.matrix.n;
  scaleAndBias(v, l.matrix.scale, l.matrix.bias, column, n);
  activate(v, l.activation);
  if (l.residual) {
    const Floats4 r = loadFour(static_cast<const float*>(l.residual), (long long)row * n + column, column, n);
#pragma unroll
    for (int i = 0; i < 4; i++) v.v[i] = addOf(v.v[i], r.v[i]);
  }
  storeFour<T>(l.y, row * l.yStride + column, v, l.outputType, column, n, n % 4 == 0 && l.yStride % 4 == 0);
}

// Sums of one of a BlockIn's products.
template <class T>
DEVICE void finishBlockIn(const BlockIn& b, bool up, int row, int column, Floats4& v) {
  if (!up) {
    finishProjection<T>(b.qkvMatrix, b.qkv, b.step, row, column, v);
    return;
  }
  const int n = b.up.n;
  scaleAndBias(v, b.up.scale, b.up.bias, column, n);
  activate(v, b.activation);
  storeFour<T>(b.hidden, row * b.hiddenStride + column, v, b.type, column, n, n % 4 == 0 && b.hiddenStride % 4 == 0);
}

// The norm that a product of a BlockIn reads: both lie in its scratch memory, where there are two.
DEVICE const void* normOf(const BlockIn& b, bool up) {
  const long long second = up && b.weight2 ? (long long)b.step.rows * b.width : 0;
  return static_cast<const char*>(b.scratch) + second * 2;
}

}  // namespace ewe::kernels
