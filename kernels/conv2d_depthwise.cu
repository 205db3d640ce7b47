// 2-D depthwise convolution: groups == C, each channel c has its own K/C filters.
//
//   y[n,p,q,k] = bias[k] + sum over r, s of x[n, h(p,r), w(q,s), k / (K/C)] * weight[k,r,s]
//   then y += addend, and y = max(y, 0) with relu
//
// The implicit matrix product would have a depth of R*S and K/C columns: no tile to fill. Here
// threadIdx.x runs over the channels (contiguous in memory), threadIdx.y over pixels, and each
// thread sums its taps; what neighbouring pixels share comes from the cache.
#include "block_reduce.cuh"
#include "conv2d.cuh"
#include "real.cuh"

constexpr int THREADS = 256;

// Blocks that must fit a multiprocessor: 64 registers a thread. Without it the compiler aims lower
// and spills.
constexpr int DEPTHWISE_BLOCKS = 4;

extern "C" __global__ void __launch_bounds__(THREADS, DEPTHWISE_BLOCKS)
    conv2d_depthwise_forward(
    const real* __restrict__ x,       // (N, H, W, C)
    const real* __restrict__ weight,  // (K, R, S)
    const real* __restrict__ bias,    // (K) or null
    const real* __restrict__ addend,  // (N, P, Q, K) or null
    real* __restrict__ y,             // (N, P, Q, K)
    Conv2d g, bool relu) {
  const int pixel = blockIdx.x * blockDim.y + threadIdx.y;
  const int k = blockIdx.y * blockDim.x + threadIdx.x;
  if (pixel >= g.n * g.p * g.q || k >= g.k) return;
  const Pixel at = pixel_of(pixel, g.p, g.q);
  const int top = at.row * g.stride_h - g.pad_top, left = at.column * g.stride_w - g.pad_left;
  const real* image = x + (long long)at.image * g.h * g.w * g.c + k / (g.k / g.c);
  const real* filter = weight + (long long)k * g.r * g.s;
  real sum = 0;
  for (int r = 0; r < g.r; r++) {
    const int h = top + r * g.dilation_h;
    if (!inside(h, g.h)) continue;
    for (int s = 0; s < g.s; s++) {
      const int w = left + s * g.dilation_w;
      if (inside(w, g.w)) sum += image[(h * g.w + w) * g.c] * filter[r * g.s + s];
    }
  }
  const long long place = (long long)pixel * g.k + k;
  if (bias != nullptr) sum += bias[k];
  if (addend != nullptr) sum += addend[place];
  y[place] = relu ? rectified(sum) : sum;
}

//   dx[n,h,w,c] = sum over r, s and the filters k of c of dy[n,p,q,k] * weight[k,r,s]
//                 where h = p*stride_h - pad_top + r*dilation_h, w likewise, has a p and q
//   then dx += addend, and dx = 0 where not mask > 0
extern "C" __global__ void __launch_bounds__(THREADS, DEPTHWISE_BLOCKS)
    conv2d_depthwise_backward_input(
    const real* __restrict__ dy,      // (N, P, Q, K)
    const real* __restrict__ weight,  // (K, R, S)
    const real* __restrict__ addend,  // (N, H, W, C) or null
    const real* __restrict__ mask,    // (N, H, W, C) or null
    real* __restrict__ dx,            // (N, H, W, C)
    Conv2d g) {
  const int pixel = blockIdx.x * blockDim.y + threadIdx.y;
  const int c = blockIdx.y * blockDim.x + threadIdx.x;
  if (pixel >= g.n * g.h * g.w || c >= g.c) return;
  const Pixel at = pixel_of(pixel, g.h, g.w);
  const int filters = g.k / g.c;  // filters of one channel
  const real* image = dy + (long long)at.image * g.p * g.q * g.k + c * filters;
  const real* filter = weight + (long long)c * filters * g.r * g.s;
  real sum = 0;
  for (int r = 0; r < g.r; r++) {
    const int h = at.row + g.pad_top - r * g.dilation_h;
    const int p = h / g.stride_h;
    if (h != p * g.stride_h || !inside(p, g.p)) continue;
    for (int s = 0; s < g.s; s++) {
      const int w = at.column + g.pad_left - s * g.dilation_w;
      const int q = w / g.stride_w;
      if (w != q * g.stride_w || !inside(q, g.q)) continue;
      for (int k = 0; k < filters; k++)
        sum += image[(p * g.q + q) * g.k + k] * filter[(k * g.r + r) * g.s + s];
    }
  }
  const long long place = (long long)pixel * g.c + c;
  if (addend != nullptr) sum += addend[place];
  dx[place] = mask == nullptr || mask[place] > 0 ? sum : 0;
}

//   dweight[k,r,s] = sum over n, p, q of dy[n,p,q,k] * x[n, h(p,r), w(q,s), k / (K/C)]
//
// One tap (r,s) on grid.y, a range of pixels on grid.z. The threads with one threadIdx.x share a
// filter: each sums every blockDim.y-th pixel, a tree in shared memory adds them in fixed order.
// With more than one range, split_k.cu sums the workspace.
extern "C" __global__ void __launch_bounds__(THREADS, DEPTHWISE_BLOCKS)
    conv2d_depthwise_backward_weight(
    const real* __restrict__ x,   // (N, H, W, C)
    const real* __restrict__ dy,  // (N, P, Q, K)
    real* __restrict__ dweight,   // (splits, K, R, S)
    Conv2d g, int pixels_per_split) {
  __shared__ real shared[THREADS];
  const int k = blockIdx.x * blockDim.x + threadIdx.x;
  const int r = blockIdx.y / g.s, s = blockIdx.y % g.s;
  const int begin = blockIdx.z * pixels_per_split;
  const int end = min(g.n * g.p * g.q - begin, pixels_per_split) + begin;
  const real* channel = x + k / (g.k / g.c);
  real sum = 0;
  if (k < g.k)
    for (int pixel = begin + threadIdx.y; pixel < end; pixel += blockDim.y) {
      const Pixel at = pixel_of(pixel, g.p, g.q);
      const int h = at.row * g.stride_h - g.pad_top + r * g.dilation_h;
      const int w = at.column * g.stride_w - g.pad_left + s * g.dilation_w;
      if (inside(h, g.h) && inside(w, g.w))
        sum += dy[(long long)pixel * g.k + k] *
               channel[((long long)at.image * g.h * g.w + h * g.w + w) * g.c];
    }
  shared[threadIdx.y * blockDim.x + threadIdx.x] = sum;
  reduce_rows([&](int to, int from) { shared[to] += shared[from]; });
  if (threadIdx.y == 0 && k < g.k)
    dweight[(((long long)blockIdx.z * g.k + k) * g.r + r) * g.s + s] = shared[threadIdx.x];
}
