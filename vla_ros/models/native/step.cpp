// One input through a whole stack of Mamba layers, as the robot runs it.

#include <type_traits>

#include "lanes.h"

#ifdef __AVX512F__
#include <immintrin.h>
#endif

// A stack's step, batch 1. in_proj and out_proj are fp32, bf16, or int8 with a scale for each row.
struct Step {
  int64_t layers, d_model, channels, states, headdim, kernel, rank, weight_bytes;
  float eps;
};

struct Layer {
  const float* norm;
  const void* in_proj;
  const float* in_scale;
  const void* out_proj;
  const float *out_scale, *conv_weight, *conv_bias, *a_log, *d, *dt_bias;
  const float *x_proj, *dt_proj;  // Mamba-1
  const float* gate_norm;         // Mamba-2
  const float *conv, *ssm;
  float *conv_after, *ssm_after;
};

extern "C" void mamba_norm(const float*, const float*, float*, int64_t, int64_t, float);

namespace {

inline V widen(const float* p) { return at(p); }
#ifdef __AVX512F__  // the compiler does not find these by itself
inline V widen(const uint16_t* p) {
  const __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return (V)_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16);
}
inline V widen(const int8_t* p) {
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return (V)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes));
}
#else
inline V widen(const uint16_t* p) {
  I v;
  for (int64_t i = 0; i < W; ++i) v[i] = p[i] << 16;
  return (V)v;
}
inline V widen(const int8_t* p) {
  V v;
  for (int64_t i = 0; i < W; ++i) v[i] = p[i];
  return v;
}
#endif

// y = scale * (w x), w [rows, n] read four rows at a time. Only fp32 rows may end between lanes.
template <class Weight>
void multiply(const void* w, const float* scale, const float* x, float* y, int64_t rows,
              int64_t n) {
  for (int64_t r = 0; r < rows; r += 4) {
    const Weight* row[4];
    for (int64_t j = 0; j < 4; ++j)
      row[j] = static_cast<const Weight*>(w) + std::min(r + j, rows - 1) * n;
    V total[4] = {};
    int64_t i = 0;
    for (; i + W <= n; i += W)
      for (int j = 0; j < 4; ++j) total[j] += widen(row[j] + i) * at(x + i);
    for (int64_t j = 0; j < 4 && r + j < rows; ++j) {
      float rest = 0;
      if (std::is_same_v<Weight, float>)
        for (int64_t k = i; k < n; ++k) rest += row[j][k] * x[k];
      y[r + j] = (sum(total[j]) + rest) * (scale ? scale[r + j] : 1.0f);
    }
  }
}

// x += mixer(norm(x)) of one layer. In Mamba-2 in_proj gives z, x, B, C, dt; in Mamba-1 x, z, and
// what the convolution leaves of x gives dt, B, C.
template <class Weight>
void step(const Step& s, const Layer& l, float* x, float* memory) {
  const int64_t D = s.channels, N = s.states, K = s.kernel, H = D / s.headdim;
  const bool heads = s.headdim > 1;
  const int64_t convolved = heads ? D + 2 * N : D;
  const int64_t width = heads ? 2 * D + 2 * N + H : 2 * D;
  float *u = memory, *projected = u + s.d_model, *v = projected + width, *dt = v + convolved;
  float *low = dt + D, *y = low + s.rank + 2 * N;
  mamba_norm(x, l.norm, u, 1, s.d_model, s.eps);
  multiply<Weight>(l.in_proj, l.in_scale, u, projected, width, s.d_model);
  const float *z = projected + (heads ? 0 : D), *in = projected + (heads ? D : 0);
  for (int64_t c = 0; c < convolved; ++c) {
    const float *past = l.conv + c * (K - 1), *weight = l.conv_weight + c * K;
    float *after = l.conv_after + c * (K - 1), total = l.conv_bias[c] + weight[K - 1] * in[c];
    for (int64_t k = 0; k < K - 1; ++k) {
      total += weight[k] * past[k];
      after[k] = k + 1 < K - 1 ? past[k + 1] : in[c];
    }
    v[c] = total;
  }
  for (int64_t c = 0; c < convolved; c += W) at(v + c) = at(v + c) * sigmoid(at(v + c));
  const float *b = v + D, *c = b + N;
  if (heads) {
    const float* raw = in + convolved;
    for (int64_t h = 0; h < H; ++h) dt[h] = softplus(all(raw[h] + l.dt_bias[h]))[0];
  } else {
    multiply<float>(l.x_proj, nullptr, v, low, s.rank + 2 * N, D);
    multiply<float>(l.dt_proj, nullptr, low, dt, D, s.rank);
    for (int64_t d = 0; d < D; d += W) at(dt + d) = softplus(at(dt + d) + at(l.dt_bias + d));
    b = low + s.rank, c = b + N;
  }
  V decay = {};
  for (int64_t d = 0; d < D; ++d) {
    const int64_t h = d / s.headdim;
    const float *state = l.ssm + d * N, push = dt[h] * v[d];
    float* after = l.ssm_after + d * N;
    if (heads && d % s.headdim == 0) decay = exp(-dt[h] * exp(all(l.a_log[h])));
    V total = {};
    for (int64_t n = 0; n < N; n += W) {
      if (!heads) decay = exp(-dt[h] * exp(at(l.a_log + d * N + n)));
      at(after + n) = at(state + n) * decay + push * at(b + n);
      total += at(after + n) * at(c + n);
    }
    y[d] = sum(total) + l.d[h] * v[d];
  }
  for (int64_t d = 0; d < D; d += W) at(y + d) = at(y + d) * at(z + d) * sigmoid(at(z + d));
  if (heads) mamba_norm(y, l.gate_norm, y, 1, D, s.eps);
  multiply<Weight>(l.out_proj, l.out_scale, y, u, s.d_model, D);
  for (int64_t i = 0; i < s.d_model; ++i) x[i] += u[i];
}

}  // namespace

extern "C" {

// One input x [d_model] through all layers, in place.
void mamba_step(const Step* s, const Layer* layers, float* x) {
  Floats memory(s->d_model + 2 * (4 * s->channels + 4 * s->states) + s->rank);
  for (int64_t i = 0; i < s->layers; ++i) {
    if (s->weight_bytes == 4) step<float>(*s, layers[i], x, memory.data());
    if (s->weight_bytes == 2) step<uint16_t>(*s, layers[i], x, memory.data());
    if (s->weight_bytes == 1) step<int8_t>(*s, layers[i], x, memory.data());
  }
}

}
