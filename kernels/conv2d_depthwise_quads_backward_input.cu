// Gradient of the input of a 3 x 3 depthwise convolution with a stride of 2, by quads of channels.
//
//   dx[n,h,w,c] = sum over r, s of dy[n,p,q,c] * weight[c,r,s]
//                 where h = 2*p - pad_top + r and w = 2*q - pad_left + s have a p and a q
//   then dx += addend, and dx = 0 where not mask > 0
//
// A thread makes rows 2p - pad_top and 2p - pad_top + 1 of dx and 2 * WIDE such columns: the first
// of each two also gets from the row (column) of dy before, which stays in registers (comes by a
// shuffle). A stride of 1 is left to the forward kernel.
#define STRIDE 2
#include "conv2d_depthwise_quads.cuh"

constexpr int BLOCKS = 3;  // that must fit a multiprocessor: 168 registers a thread

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) conv2d_depthwise_quads_backward_input(
    const float* __restrict__ dy,      // (N, P, Q, C)
    const float* __restrict__ weight,  // (C, R, S)
    const float* __restrict__ addend,  // (N, H, W, C) or null
    const float* __restrict__ mask,    // (N, H, W, C) or null
    float* __restrict__ dx,            // (N, H, W, C)
    Conv2d g, Walk walk) {
  const int warp = blockIdx.x * (THREADS / 32) + threadIdx.x / 32;
  const Item at = item_of(walk, g.c, warp / walk.groups, warp % walk.groups, WIDE);
  const int before = max(at.lane - walk.lanes, 0);
  const bool take = at.lane >= walk.lanes && at.first > 0;
  dy += at.image * ((long long)g.p * g.q * g.c) + at.channel;
  const long long image = (long long)at.image * g.h * g.w;
  const int begin = at.band * walk.band;

  Quad taps[TAPS];
  load_filters(taps, weight + (long long)at.channel * TAPS, at.exists, false);
  // One row of dy: the column before the thread's, then its own.
  const auto load_row = [&](Quad(&row)[WIDE + 1], int p) {
    const bool exists = at.exists && (unsigned)p < (unsigned)g.p;
#pragma unroll
    for (int j = 0; j <= WIDE; j++) {
      const int q = at.first - 1 + j;
      row[j] = load_quad<true>(
          dy + ((long long)p * g.q + q) * g.c,
          exists && (j > 0 || !take) && (unsigned)q < (unsigned)g.q ? 4 : 0);
    }
    const Quad other = shuffled(row[WIDE], before);
    if (take) row[0] = other;
  };

  Quad above[WIDE + 1], row[WIDE + 1];
  load_row(above, begin - 1);
  for (int p = begin; p < begin + walk.band; p++) {
    load_row(row, p);
#pragma unroll
    for (int r = 0; r < 2; r++) {
      const int h = 2 * p - g.pad_top + r;
#pragma unroll
      for (int j = 0; j < 2 * WIDE; j++) {
        const int w = 2 * at.first - g.pad_left + j, s = j % 2;
        const bool exists =
            at.exists && (unsigned)h < (unsigned)g.h && (unsigned)w < (unsigned)g.w;
        const long long place = (image + (long long)h * g.w + w) * g.c + at.channel;
        Quad sum = {};
        if (r == 0) {
          if (s == 0) multiply_add(sum, above[j / 2], taps[2 * FILTER + 2]);
          multiply_add(sum, above[j / 2 + 1], taps[2 * FILTER + s]);
        }
        if (s == 0) multiply_add(sum, row[j / 2], taps[r * FILTER + 2]);
        multiply_add(sum, row[j / 2 + 1], taps[r * FILTER + s]);
        if (addend != nullptr) {
          const Quad more = load_quad<true>(addend + place, exists ? 4 : 0);
#pragma unroll
          for (int k = 0; k < 4; k++) sum.v[k] += more.v[k];
        }
        if (mask != nullptr) {
          const Quad gate = load_quad<true>(mask + place, exists ? 4 : 0);
#pragma unroll
          for (int k = 0; k < 4; k++)
            if (!(gate.v[k] > 0)) sum.v[k] = 0;
        }
        store_quad(dx + place, sum, exists ? 4 : 0, true);
      }
    }
#pragma unroll
    for (int j = 0; j <= WIDE; j++) above[j] = row[j];
  }
}
