// RMSNorm, forward and backward.

#include "lanes.h"

extern "C" {

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
}
