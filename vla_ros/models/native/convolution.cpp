// The causal depthwise convolution with its SiLU, forward and backward.

#include "lanes.h"

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

// The rows of time -(K - 1) .. length - 1 of one sequence; those before 0 come from the state.
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

}  // namespace

extern "C" {

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
      if (t >= 0) std::copy_n(dx.data(), C, r->dx + (i * L + t) * C);
    }
  }
  for (int64_t c = 0; c < C; ++c)
    for (int64_t k = 0; k < K; ++k) r->dweight[c * K + k] = dweight[k * C + c];
}
}
