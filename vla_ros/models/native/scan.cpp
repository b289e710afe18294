// The selective scans of Mamba-1 and Mamba-2, forward and backward.
//
// Step by step beats the chunked dual form on a CPU: one pass over a state that stays in the cache,
// no [Q, Q] matrix per head. Row strides are in floats; last dimensions are contiguous.

#include "lanes.h"

// A scan and its gate, y = (h C + D x) silu(z). In Mamba-2 a head of `headdim` channels shares dt,
// a and D; in Mamba-1 headdim is 1, `a` [channels, states] and dt belongs to a channel.
struct Scan {
  int64_t batch, length, channels, states, headdim;
  const float *x, *dt, *a, *b, *c, *d, *z, *before;  // before: null is zeros
  int64_t x_row, dt_row, bc_row, z_row;  // strides of a time step
  float *y, *after, *checkpoints;        // contiguous; see kept()
};

struct ScanGradients {  // all contiguous; ddt, da and dd are added to
  const float *dy, *dafter;  // dafter and dbefore may be null
  float *dx, *ddt, *da, *db, *dc, *dd, *dz, *dbefore;
};

namespace {

constexpr int64_t T = 32;  // time steps between checkpoints of the state

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

// The state before a chunk other than the first, [channels / W, states, W]. Kept for backward.
float* kept(const Scan& s, int64_t i, int64_t chunk) {
  return s.checkpoints + ((chunk - 1) * s.batch + i) * s.channels * s.states;
}

// One time step of 16 channels: next = exp(dt a) state + in b; returns next c. With heads exp(dt a)
// comes as `decay`; without, it is computed, and left in `decays` unless that is null.
template <bool heads>
inline V advance(const float* state, float* next, V decay, const float* a, float* decays, V dt,
                 V in, const float* b, const float* c, int64_t N) {
  const auto one = [&](int64_t n) {
    const V e = heads ? decay : exp(dt * at(a + n * W));
    if (!heads && decays) at(decays + n * W) = e;
    const V v = at(state + n * W) * e + in * b[n];
    at(next + n * W) = v;
    return v * c[n];
  };
  V y0 = {}, y1 = {}, y2 = {}, y3 = {};  // short chains of additions
  for (int64_t n = 0; n < N; n += 4) {
    y0 += one(n);
    y1 += one(n + 1);
    y2 += one(n + 2);
    y3 += one(n + 3);
  }
  return y0 + y1 + (y2 + y3);
}

template <bool heads>
void forward(const Scan& s) {
  const int64_t N = s.states, D = s.channels, chunks = (s.length + T - 1) / T;
  Floats h(D * N), a(heads ? 0 : D * N);
  if (!heads) to_lanes(s.a, a.data(), D, N);
  for (int64_t i = 0; i < s.batch; ++i) {
    std::fill_n(h.data(), D * N, 0.0f);
    if (s.before) to_lanes(s.before + i * D * N, h.data(), D, N);
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
      const int64_t end = std::min(s.length, (chunk + 1) * T);
      if (s.checkpoints && chunk > 0) std::copy_n(h.data(), D * N, kept(s, i, chunk));
      for (int64_t g = 0; g < D; g += W) {
        const int64_t head = heads ? g / s.headdim : g;
        const V skip = heads ? all(s.d[head]) : at(s.d + g);
        const float* a_lanes = heads ? nullptr : a.data() + g * N;
        float* state = h.data() + g * N;
        for (int64_t t = i * s.length + chunk * T; t < i * s.length + end; ++t) {
          const float *b = s.b + t * s.bc_row, *c = s.c + t * s.bc_row;
          const V x = at(s.x + t * s.x_row + g), z = at(s.z + t * s.z_row + g);
          const V dt = heads ? all(s.dt[t * s.dt_row + head]) : at(s.dt + t * s.dt_row + g);
          const V in = dt * x, decay = heads ? exp(dt * s.a[head]) : V{};
          const V y = advance<heads>(state, state, decay, a_lanes, nullptr, dt, in, b, c, N);
          at(s.y + t * D + g) = (y + skip * x) * (z * sigmoid(z));
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
    std::fill_n(carry.data(), D * N, 0.0f);
    if (r.dafter) to_lanes(r.dafter + i * D * N, carry.data(), D, N);
    for (int64_t chunk = chunks - 1; chunk >= 0; --chunk) {
      const int64_t start = i * s.length + chunk * T;
      const int64_t steps = std::min(T, s.length - chunk * T);
      std::fill_n(db.data(), steps * N * W, 0.0f);
      std::fill_n(dc.data(), steps * N * W, 0.0f);
      for (int64_t g = 0; g < D; g += W) {
        const int64_t head = heads ? g / s.headdim : g;
        const V skip = heads ? all(s.d[head]) : at(s.d + g);
        const float* a_lanes = heads ? nullptr : a.data() + g * N;
        if (chunk > 0)
          std::copy_n(kept(s, i, chunk) + g * N, N * W, h.data());
        else if (s.before)
          to_lanes(s.before + (i * D + g) * N, h.data(), W, N);
        else
          std::fill_n(h.data(), N * W, 0.0f);
        for (int64_t k = 0; k < steps; ++k) {
          const int64_t t = start + k;
          const float *b = s.b + t * s.bc_row, *c = s.c + t * s.bc_row;
          const V x = at(s.x + t * s.x_row + g), z = at(s.z + t * s.z_row + g);
          const V dt = heads ? all(s.dt[t * s.dt_row + head]) : at(s.dt + t * s.dt_row + g);
          const V in = dt * x, decay = heads ? exp(dt * s.a[head]) : V{};
          if (heads) at(&decays[k * W]) = decay;
          float *state = &h[k * N * W], *es = heads ? nullptr : &decays[k * N * W];
          const V y = advance<heads>(state, state + N * W, decay, a_lanes, es, dt, in, b, c, N);
          const V dy = at(r.dy + t * D + g), open = sigmoid(z), gate = z * open;
          const V out = y + skip * x;
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
          const float *state = &h[k * N * W], *next = state + N * W;
          const float* es = &decays[heads ? 0 : k * N * W];
          float *adjoints = &carry[g * N], *dbs = &db[k * N * W], *dcs = &dc[k * N * W];
          V di = {}, de = {};
          for (int64_t n = 0; n < N; ++n) {
            const V v = at(adjoints + n * W) + dy * c[n];
            at(dcs + n * W) += dy * at(next + n * W);
            at(dbs + n * W) += v * in;
            di += v * b[n];
            const V carried = v * (heads ? decay : at(es + n * W));
            at(adjoints + n * W) = carried;
            const V dlog = carried * at(state + n * W);
            if (heads) {
              de += dlog;
            } else {
              de += dlog * at(a_lanes + n * W);
              at(&da[g * N + n * W]) += dlog * dt;
            }
          }
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
    if (r.dbefore) from_lanes(carry.data(), r.dbefore + i * D * N, D, N);
  }
  if (!heads) from_lanes(da.data(), r.da, D, N);
  for (int64_t channel = 0; channel < D; ++channel) r.dd[channel / s.headdim] += dd[channel];
}

}  // namespace

extern "C" {

int64_t mamba_checkpoint_every() { return T; }

void mamba_scan(const Scan* s) { s->headdim > 1 ? forward<true>(*s) : forward<false>(*s); }

void mamba_scan_backward(const Scan* s, const ScanGradients* r) {
  s->headdim > 1 ? backward<true>(*s, *r) : backward<false>(*s, *r);
}
}
