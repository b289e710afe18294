// 16 channels at a time: what all kernels build on. The compiler makes AVX-512, AVX2 or NEON of it.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

constexpr int64_t W = 16;  // lanes
typedef float V __attribute__((vector_size(64), aligned(4), may_alias));
typedef int32_t I __attribute__((vector_size(64), aligned(4), may_alias));

// Zeros that begin at a cache line: a load that crosses one takes twice as long.
class Floats {
 public:
  explicit Floats(int64_t n) : lines((n + W - 1) / W) {}
  float* data() { return lines.data()->lanes; }
  const float* data() const { return lines.data()->lanes; }
  float& operator[](int64_t i) { return data()[i]; }
  const float& operator[](int64_t i) const { return data()[i]; }

 private:
  struct alignas(64) Line {
    float lanes[W];
  };
  std::vector<Line> lines;
};

inline V& at(float* p) { return *reinterpret_cast<V*>(p); }
inline V at(const float* p) { return *reinterpret_cast<const V*>(p); }
inline V all(float x) { return x - V{}; }

inline float sum(V v) {
  v += __builtin_shuffle(v, I{8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7});
  v += __builtin_shuffle(v, I{4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11});
  v += __builtin_shuffle(v, I{2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13});
  return v[0] + v[1];
}

// 2^k e^r with |r| <= ln(2) / 2 and the series of e^r; k comes rounded out of an addition that
// pushes all fractional bits away.
inline V exp(V x) {
  x = x < -87.0f ? all(-87.0f) : x;
  x = x > 88.0f ? all(88.0f) : x;
  const float shift = 12582912.0f;  // 1.5 * 2^23
  const V k = x * 1.44269504f + shift;
  const V r = (x - (k - shift) * 0.693359375f) + (k - shift) * 2.12194440e-4f;
  V e = all(1 / 5040.0f);
  for (float c : {1 / 720.0f, 1 / 120.0f, 1 / 24.0f, 1 / 6.0f, 0.5f, 1.0f, 1.0f}) e = e * r + c;
  return (V)((I)e + ((I)k << 23));
}

// ln(1 + e^x), beyond 20 simply x. With w = 1 + e^x = 2^k m, ln m = 2 artanh((m - 1) / (m + 1));
// what rounding took from e^x in w is given back as a factor.
inline V softplus(V x) {
  const V e = exp(x), w = 1.0f + e;
  const I k = ((I)w - 0x3f3504f3) >> 23;  // m in [sqrt(1/2), sqrt(2))
  const V m = (V)((I)w - (k << 23)), s = (m - 1.0f) / (m + 1.0f), q = s * s;
  V series = all(1 / 9.0f);
  for (float c : {1 / 7.0f, 1 / 5.0f, 1 / 3.0f, 1.0f}) series = series * q + c;
  const V log = __builtin_convertvector(k, V) * 0.693147181f + 2.0f * s * series;
  const V exact = w == 1.0f ? e : log * e / (w - 1.0f);
  return x > 20.0f ? x : exact;
}

inline V sigmoid(V x) { return 1.0f / (1.0f + exp(-x)); }

inline float dot(const float* a, const float* b, int64_t n) {
  V total = {};
  for (int64_t i = 0; i < n; i += W) total += at(a + i) * at(b + i);
  return sum(total);
}
