// Updates of parameters, each in one pass over flat arrays.
//
// What changes from step to step (the learning rate and what is made of it) lies in device memory,
// in double as the host computed it: a captured step is replayed with the same arguments. A thread
// moves WIDTH neighbours at a time, 128 bits where the launcher has proved the alignment; the last
// count % WIDTH elements are taken one by one.
#include "pack.cuh"
#include "real.cuh"

#ifndef WIDTH
#define WIDTH 1
#endif

constexpr int BLOCK = 256;

typedef Pack<real, WIDTH> Vector;

// Calls step(i, width) for all elements: with packs of WIDTH, then with single ones.
template <class Packs, class Singles>
__device__ __forceinline__ void for_elements(long long count, Packs packs, Singles singles) {
  const long long thread = (long long)blockIdx.x * BLOCK + threadIdx.x;
  const long long step = (long long)gridDim.x * BLOCK;
  for (long long i = thread; i < count / WIDTH; i += step) packs(i * WIDTH);
  if constexpr (WIDTH > 1)
    if (thread < count % WIDTH) singles(count / WIDTH * WIDTH + thread);
}

// Stochastic gradient descent with momentum (torch.optim.SGD):
//   d = (maximize ? -g : g) + weight_decay * p
//   buffer = first ? d : momentum * buffer + (1 - dampening) * d         when there is momentum
//   p = p - lr * (nesterov ? d + momentum * buffer : buffer)             d without momentum
struct Sgd {
  real momentum, undamped, weight_decay;
  bool nesterov, maximize, first;
};

__device__ __forceinline__ void sgd(const Sgd& o, real lr, real& p, real g, bool moving,
                                    real& speed) {
  real d = o.maximize ? -g : g;
  d += o.weight_decay * p;
  if (moving) {
    speed = o.first ? d : o.momentum * speed + o.undamped * d;
    d = o.nesterov ? d + o.momentum * speed : speed;
  }
  p -= lr * d;
}

extern "C" __global__ void __launch_bounds__(BLOCK) sgd_update(
    real* __restrict__ p,              // (count)
    const real* __restrict__ g,        // (count)
    real* __restrict__ buffer,         // (count) or null: no momentum
    const double* __restrict__ rates,  // (1): lr
    long long count, Sgd options) {
  const real lr = (real)rates[0];
  const bool moving = buffer != nullptr;
  for_elements(
      count,
      [&](long long i) {
        Vector value = load_pack<WIDTH>(p + i), speed = {};
        const Vector gradient = load_pack<WIDTH>(g + i);
        if (moving && !options.first) speed = load_pack<WIDTH>(buffer + i);
#pragma unroll
        for (int j = 0; j < WIDTH; j++)
          sgd(options, lr, value.v[j], gradient.v[j], moving, speed.v[j]);
        if (moving) store_pack(buffer + i, speed);
        store_pack(p + i, value);
      },
      [&](long long i) {
        real speed = moving ? buffer[i] : 0;
        sgd(options, lr, p[i], g[i], moving, speed);
        if (moving) buffer[i] = speed;
      });
}

// Adam (Kingma and Ba 2015) and AdamW (Loshchilov and Hutter 2019), as torch.optim has them:
//   d = maximize ? -g : g;   decoupled: p = p * (1 - lr * weight_decay), else d += weight_decay * p
//   m = m + (1 - beta1) * (d - m);   v = beta2 * v + (1 - beta2) * d^2
//   p = p - lr / (1 - beta1^t) * m / (sqrt(v) / sqrt(1 - beta2^t) + eps)
// The host makes the factors in double: 1 - beta2 has few digits left in float.
struct Adam {
  real rest1, beta2, rest2;  // 1 - beta1, beta2, 1 - beta2
  real eps, weight_decay;    // weight_decay is 0 when decoupled
  bool decoupled, maximize;
};

// What of a step t lies in device memory.
struct AdamRates {
  real step_size, correction, shrink;
};

__device__ __forceinline__ void adam(const Adam& o, const AdamRates& rates, real& p, real g,
                                     real& mean, real& square) {
  const real value = p * rates.shrink;
  real d = o.maximize ? -g : g;
  d += o.weight_decay * value;
  mean += o.rest1 * (d - mean);
  square = o.beta2 * square + o.rest2 * d * d;
  p = value - rates.step_size * mean / (square_root(square) / rates.correction + o.eps);
}

extern "C" __global__ void __launch_bounds__(BLOCK) adam_update(
    real* __restrict__ p,              // (count)
    const real* __restrict__ g,        // (count)
    real* __restrict__ m,              // (count) running mean of the gradient
    real* __restrict__ v,              // (count) running mean of its square
    const double* __restrict__ rates,  // (3): lr / (1 - beta1^t), sqrt(1 - beta2^t),
                                       // 1 - lr * weight_decay
    long long count, Adam options) {
  const AdamRates now = {(real)rates[0], (real)rates[1], options.decoupled ? (real)rates[2] : 1};
  for_elements(
      count,
      [&](long long i) {
        Vector value = load_pack<WIDTH>(p + i), mean = load_pack<WIDTH>(m + i);
        Vector square = load_pack<WIDTH>(v + i);
        const Vector gradient = load_pack<WIDTH>(g + i);
#pragma unroll
        for (int j = 0; j < WIDTH; j++)
          adam(options, now, value.v[j], gradient.v[j], mean.v[j], square.v[j]);
        store_pack(m + i, mean);
        store_pack(v + i, square);
        store_pack(p + i, value);
      },
      [&](long long i) { adam(options, now, p[i], g[i], m[i], v[i]); });
}
