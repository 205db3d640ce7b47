// Updates of parameters, each in one pass over flat arrays.
#include "real.cuh"

// Stochastic gradient descent with momentum (torch.optim.SGD):
//   d = (maximize ? -g : g) + weight_decay * p
//   buffer = first ? d : momentum * buffer + (1 - dampening) * d         when there is momentum
//   p = p - lr * (nesterov ? d + momentum * buffer : buffer)             d without momentum
extern "C" __global__ void __launch_bounds__(256) sgd_update(
    real* __restrict__ p,        // (count)
    const real* __restrict__ g,  // (count)
    real* __restrict__ buffer,   // (count) or null: no momentum
    long long count, real lr, real momentum, real undamped, real weight_decay, bool nesterov,
    bool maximize, bool first) {
  const long long step = (long long)gridDim.x * blockDim.x;
  for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += step) {
    const real value = p[i];
    real d = maximize ? -g[i] : g[i];
    d += weight_decay * value;
    if (buffer != nullptr) {
      const real speed = first ? d : momentum * buffer[i] + undamped * d;
      buffer[i] = speed;
      d = nesterov ? d + momentum * speed : speed;
    }
    p[i] = value - lr * d;
  }
}

// Adam (Kingma and Ba 2015) and AdamW (Loshchilov and Hutter 2019), as torch.optim has them:
//   d = maximize ? -g : g;   decoupled: p = p * (1 - lr * weight_decay), else d += weight_decay * p
//   m = m + (1 - beta1) * (d - m);   v = beta2 * v + (1 - beta2) * d^2
//   p = p - lr / (1 - beta1^step) * m / (sqrt(v) / sqrt(1 - beta2^step) + eps)
// The host makes the factors from step, lr and the betas in double: 1 - beta2 has few digits left
// in float.
extern "C" __global__ void __launch_bounds__(256) adam_update(
    real* __restrict__ p,        // (count)
    const real* __restrict__ g,  // (count)
    real* __restrict__ m,        // (count) running mean of the gradient
    real* __restrict__ v,        // (count) running mean of its square
    long long count,
    real step_size,              // lr / (1 - beta1^step)
    real root_correction,        // sqrt(1 - beta2^step)
    real rest1, real beta2, real rest2,  // 1 - beta1, beta2, 1 - beta2
    real eps, real weight_decay,         // 0 when decoupled
    real shrink,                         // 1 - lr * weight_decay when decoupled, else 1
    bool maximize) {
  const long long step = (long long)gridDim.x * blockDim.x;
  for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += step) {
    const real value = p[i] * shrink;
    real d = maximize ? -g[i] : g[i];
    d += weight_decay * value;
    const real mean = m[i] + rest1 * (d - m[i]);
    const real square = beta2 * v[i] + rest2 * d * d;
    m[i] = mean;
    v[i] = square;
    p[i] = value - step_size * mean / (square_root(square) / root_correction + eps);
  }
}
