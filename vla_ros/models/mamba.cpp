// CPU kernels of mamba.py, called through ctypes by mamba_native.py: the selective scans forward and
// backward, the causal convolution, RMSNorm, and whole layers stepping by one input.
//
// All arithmetic is fp32 on vectors of 16 channels. A recurrence step by step beats the chunked dual
// form here: one pass over a state that stays in the L1 cache, no [Q, Q] matrices per head.
// Row strides are in floats; the last dimension of every tensor is contiguous.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace {

constexpr int64_t W = 16;  // lanes
constexpr int64_t T = 32;  // time steps between checkpoints of the state
typedef float V __attribute__((vector_size(64), aligned(4), may_alias));
typedef int32_t I __attribute__((vector_size(64), aligned(4), may_alias));
typedef std::vector<float> Floats;

inline V& at(float* p) { return *reinterpret_cast<V*>(p); }
inline V at(const float* p) { return *reinterpret_cast<const V*>(p); }
inline V all(float x) { return x - V{}; }

inline float sum(V v) {
  float s[W];
  at(s) = v;
  for (int64_t half = W / 2; half > 0; half /= 2)
    for (int64_t i = 0; i < half; ++i) s[i] += s[i + half];
  return s[0];
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

// [channels, n] to [channels / W, n, W] and back.
void to_lanes(const float* from, float* to, int64_t channels, int64_t n) {
  for (int64_t g = 0; g < channels; g += W)
    for (int64_t i = 0; i < n; ++i)
      for (int64_t l = 0; l < W; ++l) to[g * n + i * W + l] = from[(g + l) * n + i];
}

void from_lanes(const float* from, float* to, int64_t channels, int64_t n) {
  for (int64_t g = 0; g < channels; g += W)
    for (int64_t l = 0; l < W; ++l)
      for (int64_t i = 0; i < n; ++i) to[(g + l) * n + i] = from[g * n + i * W + l];
}

}  // namespace

// A scan and its gate, y = (h C + D x) silu(z). In Mamba-2 a head of `headdim` channels shares dt, a
// and D; in Mamba-1 headdim is 1, `a` [channels, states] and dt belongs to a channel.
struct Scan {
  int64_t batch, length, channels, states, headdim;
  const float *x, *dt, *a, *b, *c, *d, *z, *before;
  int64_t x_row, dt_row, bc_row, z_row;  // strides of a time step
  float *y, *after, *checkpoints;  // contiguous; checkpoints [chunks, B, channels, states] or null
};

struct ScanGradients {  // all contiguous; ddt, da and dd are added to
  const float *dy, *dafter;
  float *dx, *ddt, *da, *db, *dc, *dd, *dz, *dbefore;
};

namespace {

template <bool heads>
void forward(const Scan& s) {
  const int64_t N = s.states, D = s.channels, chunks = (s.length + T - 1) / T;
  Floats h(D * N), a(heads ? 0 : D * N);
  if (!heads) to_lanes(s.a, a.data(), D, N);
  for (int64_t i = 0; i < s.batch; ++i) {
    to_lanes(s.before + i * D * N, h.data(), D, N);
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
      const int64_t end = std::min(s.length, (chunk + 1) * T);
      if (s.checkpoints)
        std::copy(h.begin(), h.end(), s.checkpoints + (chunk * s.batch + i) * D * N);
      for (int64_t g = 0; g < D; g += W) {
        const int64_t head = heads ? g / s.headdim : g;
        const V skip = heads ? all(s.d[head]) : at(s.d + g);
        float* state = h.data() + g * N;
        for (int64_t t = i * s.length + chunk * T; t < i * s.length + end; ++t) {
          const float *b = s.b + t * s.bc_row, *c = s.c + t * s.bc_row;
          const V x = at(s.x + t * s.x_row + g), z = at(s.z + t * s.z_row + g);
          const V dt = heads ? all(s.dt[t * s.dt_row + head]) : at(s.dt + t * s.dt_row + g);
          const V in = dt * x, decay = heads ? exp(dt * s.a[head]) : V{};
          V y[4] = {};
          for (int64_t n = 0; n < N; n += 4)
            for (int j = 0; j < 4; ++j) {
              V& v = at(state + (n + j) * W);
              v = v * (heads ? decay : exp(dt * at(&a[g * N + (n + j) * W]))) + in * b[n + j];
              y[j] += v * c[n + j];
            }
          at(s.y + t * D + g) = (y[0] + y[1] + (y[2] + y[3]) + skip * x) * (z * sigmoid(z));
        }
      }
    }
    from_lanes(h.data(), s.after + i * D * N, D, N);
  }
}

// Chunk by chunk from the end: states are computed again from the checkpoint, then the adjoint
// g_t = C_t dy_t + decay_t+1 g_t+1 runs backwards through them.
template <bool heads>
void backward(const Scan& s, const ScanGradients& r) {
  const int64_t N = s.states, D = s.channels, chunks = (s.length + T - 1) / T;
  Floats a(heads ? 0 : D * N), da(heads ? 0 : D * N), dd(D), carry(D * N);
  Floats h((T + 1) * N * W), decays(T * N * W), gates(T * W), db(T * N * W), dc(T * N * W);
  if (!heads) to_lanes(s.a, a.data(), D, N);
  for (int64_t i = 0; i < s.batch; ++i) {
    to_lanes(r.dafter + i * D * N, carry.data(), D, N);
    for (int64_t chunk = chunks - 1; chunk >= 0; --chunk) {
      const int64_t start = i * s.length + chunk * T;
      const int64_t steps = std::min(T, s.length - chunk * T);
      std::fill(db.begin(), db.end(), 0.0f);
      std::fill(dc.begin(), dc.end(), 0.0f);
      for (int64_t g = 0; g < D; g += W) {
        const int64_t head = heads ? g / s.headdim : g;
        const V skip = heads ? all(s.d[head]) : at(s.d + g);
        const float* a_lanes = heads ? nullptr : a.data() + g * N;
        const float* checkpoint = s.checkpoints + (chunk * s.batch + i) * D * N + g * N;
        std::copy(checkpoint, checkpoint + N * W, h.begin());
        for (int64_t k = 0; k < steps; ++k) {
          const int64_t t = start + k;
          const float *b = s.b + t * s.bc_row, *c = s.c + t * s.bc_row;
          const V x = at(s.x + t * s.x_row + g), z = at(s.z + t * s.z_row + g);
          const V dt = heads ? all(s.dt[t * s.dt_row + head]) : at(s.dt + t * s.dt_row + g);
          const V in = dt * x, decay = heads ? exp(dt * s.a[head]) : V{};
          V y[4] = {};
          if (heads) at(&decays[k * W]) = decay;
          for (int64_t n = 0; n < N; n += 4)
            for (int j = 0; j < 4; ++j) {
              const int64_t m = (k * N + n + j) * W;
              V e = decay;
              if (!heads) at(&decays[m]) = e = exp(dt * at(a_lanes + (n + j) * W));
              const V v = at(&h[m]) * e + in * b[n + j];
              at(&h[m + N * W]) = v;
              y[j] += v * c[n + j];
            }
          const V dy = at(r.dy + t * D + g), open = sigmoid(z), gate = z * open;
          const V out = y[0] + y[1] + (y[2] + y[3]) + skip * x;
          at(r.dz + t * D + g) = dy * out * (open + gate * (1.0f - open));
          at(&gates[k * W]) = dy * gate;
          at(&dd[g]) += dy * gate * x;
        }
        for (int64_t k = steps - 1; k >= 0; --k) {
          const int64_t t = start + k;
          const float *b = s.b + t * s.bc_row, *c = s.c + t * s.bc_row;
          const V x = at(s.x + t * s.x_row + g), dy = at(&gates[k * W]);
          const V dt = heads ? all(s.dt[t * s.dt_row + head]) : at(s.dt + t * s.dt_row + g);
          const V in = dt * x, decay = at(&decays[k * W]);
          V din[2] = {}, dexponent[2] = {};
          for (int64_t n = 0; n < N; n += 2)
            for (int j = 0; j < 2; ++j) {
              const int64_t lane = (n + j) * W, m = k * N * W + lane;
              const V e = heads ? decay : at(&decays[m]);
              V& adjoint = at(&carry[g * N + lane]);
              const V v = adjoint + dy * c[n + j];
              at(&dc[m]) += dy * at(&h[m + N * W]);
              at(&db[m]) += v * in;
              din[j] += v * b[n + j];
              adjoint = v * e;
              const V dlog = adjoint * at(&h[m]);
              if (heads) {
                dexponent[j] += dlog;
              } else {
                dexponent[j] += dlog * at(a_lanes + lane);
                at(&da[g * N + lane]) += dlog * dt;
              }
            }
          const V di = din[0] + din[1], de = dexponent[0] + dexponent[1];
          at(r.dx + t * D + g) = di * dt + skip * dy;
          if (heads) {
            const float total = sum(de);
            r.ddt[t * (D / s.headdim) + head] += sum(di * x) + total * s.a[head];
            r.da[head] += total * s.dt[t * s.dt_row + head];
          } else {
            at(r.ddt + t * D + g) = di * x + de;
          }
        }
      }
      for (int64_t m = 0; m < steps * N; ++m) {
        const int64_t t = start + m / N, n = m % N;
        r.db[t * N + n] = sum(at(&db[m * W]));
        r.dc[t * N + n] = sum(at(&dc[m * W]));
      }
    }
    from_lanes(carry.data(), r.dbefore + i * D * N, D, N);
  }
  if (!heads) from_lanes(da.data(), r.da, D, N);
  for (int64_t channel = 0; channel < D; ++channel) r.dd[channel / s.headdim] += dd[channel];
}

}  // namespace

// silu(causal depthwise convolution), channel-last. past [B, channels, K - 1] is contiguous.
struct Convolution {
  int64_t batch, length, channels, kernel;
  const float *x, *past, *weight, *bias;
  int64_t x_row;
  float *y, *after;  // contiguous
};

struct ConvolutionGradients {
  const float *dy, *dafter;
  float *dx, *dpast, *dweight, *dbias;  // contiguous; dweight and dbias are added to
};

namespace {

// The rows of time -(K - 1) .. length - 1 of one sequence: past ones from the state, made into rows.
struct Rows {
  Rows(const Convolution& s, int64_t i) : k(s.kernel - 1), row(s.x_row), rows(k * s.channels) {
    x = s.x + i * s.length * row;
    const float* past = s.past + i * s.channels * k;
    for (int64_t c = 0; c < s.channels; ++c)
      for (int64_t j = 0; j < k; ++j) rows[j * s.channels + c] = past[c * k + j];
    channels = s.channels;
  }
  const float* operator[](int64_t t) const {
    return t < 0 ? rows.data() + (t + k) * channels : x + t * row;
  }
  int64_t k, row, channels;
  const float* x;
  Floats rows;
};

Floats by_tap(const Convolution& s) {  // [channels, K] to [K, channels]
  Floats weight(s.kernel * s.channels);
  for (int64_t c = 0; c < s.channels; ++c)
    for (int64_t k = 0; k < s.kernel; ++k) weight[k * s.channels + c] = s.weight[c * s.kernel + k];
  return weight;
}

float dot(const float* a, const float* b, int64_t n) {
  V total = {};
  for (int64_t i = 0; i < n; i += W) total += at(a + i) * at(b + i);
  return sum(total);
}

}  // namespace

// A stack's step, batch 1. in_proj and out_proj are fp32, bf16, or int8 with a scale for each row.
struct Step {
  int64_t layers, d_model, channels, states, headdim, kernel, rank, weight_bytes;
  float eps;
};

struct Layer {
  const float* norm;
  const void *in_proj, *out_proj;
  const float *in_scale, *out_scale, *conv_weight, *conv_bias, *a_log, *d, *dt_bias;
  const float *x_proj, *dt_proj;  // Mamba-1
  const float* gate_norm;         // Mamba-2
  const float *conv, *ssm;
  float *conv_after, *ssm_after;
};

extern "C" void mamba_norm(const float*, const float*, float*, int64_t, int64_t, float);

namespace {

inline V widen(const float* p) { return at(p); }
inline V widen(const uint16_t* p) {
  typedef uint16_t H __attribute__((vector_size(32), aligned(2), may_alias));
  return (V)(__builtin_convertvector(*reinterpret_cast<const H*>(p), I) << 16);
}
inline V widen(const int8_t* p) {
  typedef int8_t B __attribute__((vector_size(16), aligned(1), may_alias));
  return __builtin_convertvector(*reinterpret_cast<const B*>(p), V);
}

// y = scale * (w x), w [rows, n] read four rows at a time.
template <class Weight>
void multiply(const void* w, const float* scale, const float* x, float* y, int64_t rows, int64_t n) {
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
      for (int64_t k = i; k < n; ++k) rest += static_cast<float>(row[j][k]) * x[k];
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

int64_t mamba_checkpoint_every() { return T; }

void mamba_scan(const Scan* s) { s->headdim > 1 ? forward<true>(*s) : forward<false>(*s); }

void mamba_scan_backward(const Scan* s, const ScanGradients* r) {
  s->headdim > 1 ? backward<true>(*s, *r) : backward<false>(*s, *r);
}

void mamba_convolve(const Convolution* s) {
  const int64_t C = s->channels, K = s->kernel;
  const Floats weight = by_tap(*s);
  for (int64_t i = 0; i < s->batch; ++i) {
    const Rows x(*s, i);
    for (int64_t t = 0; t < s->length; ++t)
      for (int64_t c = 0; c < C; c += W) {
        V v = at(s->bias + c);
        for (int64_t k = 0; k < K; ++k) v += at(&weight[k * C + c]) * at(x[t - K + 1 + k] + c);
        at(s->y + (i * s->length + t) * C + c) = v * sigmoid(v);
      }
    for (int64_t c = 0; c < C; ++c)
      for (int64_t k = 0; k < K - 1; ++k)
        s->after[(i * C + c) * (K - 1) + k] = x[s->length - K + 1 + k][c];
  }
}

void mamba_convolve_backward(const Convolution* s, const ConvolutionGradients* r) {
  const int64_t C = s->channels, K = s->kernel, L = s->length;
  const Floats weight = by_tap(*s);
  Floats dweight(K * C);
  for (int64_t i = 0; i < s->batch; ++i) {
    const Rows x(*s, i);
    Floats du(K * C), dx(C);  // du: a ring of the last rows
    const auto ring = [&](int64_t t) { return &du[(t + K) % K * C]; };
    for (int64_t t = L - 1; t > -K; --t) {
      for (int64_t c = 0; c < C; c += W) {
        V d = {};
        if (t >= 0) {
          V v = at(s->bias + c);
          for (int64_t k = 0; k < K; ++k) v += at(&weight[k * C + c]) * at(x[t - K + 1 + k] + c);
          const V open = sigmoid(v);
          d = at(r->dy + (i * L + t) * C + c) * (open + v * open * (1.0f - open));
          at(r->dbias + c) += d;
          for (int64_t k = 0; k < K; ++k) at(&dweight[k * C + c]) += d * at(x[t - K + 1 + k] + c);
        }
        at(ring(t) + c) = d;
        V v = {};
        for (int64_t k = 0; k < K; ++k) v += at(&weight[k * C + c]) * at(ring(t + K - 1 - k) + c);
        at(&dx[c]) = v;
      }
      for (int64_t c = 0, past = (i * C) * (K - 1); c < C; ++c, past += K - 1) {
        if (t > L - K) dx[c] += r->dafter[past + t - L + K - 1];
        if (t < 0) r->dpast[past + t + K - 1] = dx[c];
      }
      if (t >= 0) std::copy(dx.begin(), dx.end(), r->dx + (i * L + t) * C);
    }
  }
  for (int64_t c = 0; c < C; ++c)
    for (int64_t k = 0; k < K; ++k) r->dweight[c * K + k] = dweight[k * C + c];
}

// Rows of x / rms(x) * weight.
void mamba_norm(const float* x, const float* weight, float* y, int64_t rows, int64_t n, float eps) {
  for (; rows > 0; --rows, x += n, y += n) {
    const V scale = all(1 / std::sqrt(dot(x, x, n) / n + eps));
    for (int64_t c = 0; c < n; c += W) at(y + c) = at(x + c) * scale * at(weight + c);
  }
}

// dweight is added to.
void mamba_norm_backward(const float* dy, const float* x, const float* weight, float* dx,
                         float* dweight, int64_t rows, int64_t n, float eps) {
  for (; rows > 0; --rows, dy += n, x += n, dx += n) {
    V total = {};
    for (int64_t c = 0; c < n; c += W) total += at(dy + c) * at(weight + c) * at(x + c);
    const float scale = 1 / std::sqrt(dot(x, x, n) / n + eps);
    const float pull = sum(total) * scale * scale / n;
    for (int64_t c = 0; c < n; c += W) {
      at(dx + c) = (at(dy + c) * at(weight + c) - at(x + c) * pull) * scale;
      at(dweight + c) += at(dy + c) * at(x + c) * scale;
    }
  }
}

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
