// 2-D average pooling of channels-last images by quads of channels: windows side by side.
//
//   y[n,p,q,c]  = sum over r < R, s < S of x[n, p*R + r, q*S + s, c] / divisor
//   dx[n,h,w,c] = dy[n, h / R, w / S, c] / divisor, 0 in rows and columns behind the last window
//
// With one window as large as the image it is global pooling. Arrays lie channels-last and dense,
// on 16 bytes; the channels are a multiple of 4. Of a warp, `lanes` neighbours take quads of one
// pixel, `parts` share the pixels of a window (every parts-th in row-major order; their sums are
// added as a tree), and the rest has other windows: every byte is read and written once.
#include "real.cuh"

constexpr int THREADS = 256;
constexpr int BLOCKS = 4;  // that must fit a multiprocessor: 64 registers a thread

struct Windows {
  int c, h, w, r, s, p, q;
  int lanes, parts;  // powers of two, together at most 32
  int groups;        // of `lanes` quads
  int items;         // windows of all images
};

// The window of a thread, its quad of channels, and its part.
struct Item {
  int image, p, q, channel, part;
  bool exists;
};

__device__ __forceinline__ Item item_of(const Windows& g) {
  const int warp = blockIdx.x * (THREADS / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
  const int item = warp / g.groups * (32 / (g.lanes * g.parts)) + lane / (g.lanes * g.parts);
  Item at;
  at.channel = (warp % g.groups * g.lanes + lane % g.lanes) * 4;
  at.part = lane / g.lanes % g.parts;
  at.q = item % g.q;
  at.p = item / g.q % g.p;
  at.image = item / g.q / g.p;
  at.exists = item < g.items && at.channel < g.c;
  return at;
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) avg_pool2d_quads_forward(
    const float* __restrict__ x,  // (N, H, W, C)
    float* __restrict__ y,        // (N, P, Q, C)
    Windows g, int divisor) {
  const Item at = item_of(g);
  x += ((long long)at.image * g.h + at.p * g.r) * g.w * g.c + (long long)at.q * g.s * g.c +
       at.channel;
  Quad sum = {};
  const int pixels = at.exists ? g.r * g.s : 0;
#pragma unroll 4
  for (int i = at.part; i < pixels; i += g.parts) {
    const Quad value = load_quad<true>(x + ((long long)(i / g.s) * g.w + i % g.s) * g.c, 4);
#pragma unroll
    for (int k = 0; k < 4; k++) sum.v[k] += value.v[k];
  }
  for (int step = g.lanes; step < g.lanes * g.parts; step *= 2)
#pragma unroll
    for (int k = 0; k < 4; k++) sum.v[k] += __shfl_xor_sync(0xffffffff, sum.v[k], step);
#pragma unroll
  for (int k = 0; k < 4; k++) sum.v[k] /= divisor;
  const long long place = (((long long)at.image * g.p + at.p) * g.q + at.q) * g.c + at.channel;
  store_quad(y + place, sum, at.exists && at.part == 0 ? 4 : 0, true);
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) avg_pool2d_quads_backward(
    const float* __restrict__ dy,  // (N, P, Q, C)
    float* __restrict__ dx,        // (N, H, W, C)
    Windows g, int divisor) {
  const Item at = item_of(g);
  const long long place = (((long long)at.image * g.p + at.p) * g.q + at.q) * g.c + at.channel;
  Quad share = load_quad<true>(dy + place, at.exists ? 4 : 0);
#pragma unroll
  for (int k = 0; k < 4; k++) share.v[k] /= divisor;
  // The last windows write what lies behind them as well.
  const int top = at.p * g.r, left = at.q * g.s;
  const int rows = at.p + 1 < g.p ? g.r : g.h - top, columns = at.q + 1 < g.q ? g.s : g.w - left;
  dx += ((long long)at.image * g.h + top) * g.w * g.c + (long long)left * g.c + at.channel;
  const int pixels = at.exists ? rows * columns : 0;
#pragma unroll 4
  for (int i = at.part; i < pixels; i += g.parts) {
    const int r = i / columns, s = i % columns;
    const Quad value = r < g.r && s < g.s ? share : Quad{};
    store_quad(dx + ((long long)r * g.w + s) * g.c, value, 4, true);
  }
}
