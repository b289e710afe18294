// The selective scans of Mamba-1 and Mamba-2, forward and backward.
//
// Step by step beats the chunked dual form on a CPU: one pass over a state that stays in the cache,
// no [Q, Q] matrix per head. Row strides are in floats; last dimensions are contiguous.

#include "lanes.h"

// A scan and its gate, y = (h C + D x) silu(z). In Mamba-2 a head of `headdim` channels shares dt, a
// and D; in Mamba-1 headdim is 1, `a` [channels, states] and dt belongs to a channel.
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

template <bool heads>
void forward(const Scan& s) {
  const int64_t N = s.states, D = s.channels, chunks = (s.length + T - 1) / T;
  Floats h(D * N), a(heads ? 0 : D * N);
  if (!heads) to_lanes(s.a, a.data(), D, N);
  for (int64_t i = 0; i < s.batch; ++i) {
    std::fill(h.begin(), h.end(), 0.0f);
    if (s.before) to_lanes(s.before + i * D * N, h.data(), D, N);
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
      const int64_t end = std::min(s.length, (chunk + 1) * T);
      if (s.checkpoints && chunk > 0) std::copy(h.begin(), h.end(), kept(s, i, chunk));
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
    std::fill(carry.begin(), carry.end(), 0.0f);
    if (r.dafter) to_lanes(r.dafter + i * D * N, carry.data(), D, N);
    for (int64_t chunk = chunks - 1; chunk >= 0; --chunk) {
      const int64_t start = i * s.length + chunk * T;
      const int64_t steps = std::min(T, s.length - chunk * T);
      std::fill_n(db.begin(), steps * N * W, 0.0f);
      std::fill_n(dc.begin(), steps * N * W, 0.0f);
      for (int64_t g = 0; g < D; g += W) {
        const int64_t head = heads ? g / s.headdim : g;
        const V skip = heads ? all(s.d[head]) : at(s.d + g);
        const float* a_lanes = heads ? nullptr : a.data() + g * N;
        if (chunk > 0)
          std::copy_n(kept(s, i, chunk) + g * N, N * W, h.begin());
        else if (s.before)
          to_lanes(s.before + (i * D + g) * N, h.data(), W, N);
        else
          std::fill_n(h.begin(), N * W, 0.0f);
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
