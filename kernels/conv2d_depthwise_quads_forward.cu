// 2-D depthwise convolution of 3 x 3, one filter a channel, by quads of channels.
//
//   y[n,p,q,c] = bias[c] + sum over r, s of x[n, p*STRIDE - pad_top + r, q*STRIDE - pad_left + s, c]
//                * weight[c,r,s]
//   then y += addend, y = max(y, 0) with relu, y = 0 where not mask > 0
//
// With dy as x and turned filters this is backward_input of a stride of 1. A row of the input is
// added to all rows of outputs that it is under, and then forgotten.
#include "conv2d_depthwise_quads.cuh"

constexpr int BLOCKS = 3;  // that must fit a multiprocessor: 168 registers a thread
constexpr int ROWS = STRIDE == 1 ? 3 : 2;  // of outputs that are begun at a time

struct Epilogue {
  bool turned, relu;
};

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) conv2d_depthwise_quads_forward(
    const float* __restrict__ x,       // (N, H, W, C)
    const float* __restrict__ weight,  // (C, R, S)
    const float* __restrict__ bias,    // (C) or null
    const float* __restrict__ addend,  // (N, P, Q, C) or null
    const float* __restrict__ mask,    // (N, P, Q, C) or null
    float* __restrict__ y,             // (N, P, Q, C)
    Conv2d g, Walk walk, Epilogue how) {
  const int warp = blockIdx.x * (THREADS / 32) + threadIdx.x / 32;
  const Item at = item_of(walk, g.c, warp / walk.groups, warp % walk.groups, WIDE);
  const int left = at.first * STRIDE - g.pad_left;
  const int next = min(at.lane + walk.lanes, 31);
  const bool take = at.lane + walk.lanes < 32 && at.first + WIDE < g.q;
  x += at.image * ((long long)g.h * g.w * g.c) + at.channel;
  const long long image = (long long)at.image * g.p * g.q;
  const int begin = at.band * walk.band, end = min(begin + walk.band, g.p);

  Quad taps[TAPS], shift = {};
  load_filters(taps, weight + (long long)at.channel * TAPS, at.exists, how.turned);
  if (bias != nullptr) shift = load_quad<false>(bias + at.channel, g.c - at.channel);
  Quad sums[ROWS][WIDE];  // of rows p, p + 1, ...
#pragma unroll
  for (int i = 0; i < ROWS; i++)
#pragma unroll
    for (int j = 0; j < WIDE; j++) sums[i][j] = shift;

  // Row r of the windows of row p; it is row r - STRIDE of those of row p + 1, and so on.
  const auto add_row = [&](int p, int r) {
    const int h = p * STRIDE - g.pad_top + r;
    Quad columns[OWN + BEYOND];
    load_columns(columns, x + (long long)h * g.w * g.c, left, g.w, g.c,
                 at.exists && (unsigned)h < (unsigned)g.h, next, take);
#pragma unroll
    for (int i = 0; i < ROWS; i++)
#pragma unroll
      for (int s = 0; s < FILTER; s++)
#pragma unroll
        for (int j = 0; j < WIDE; j++)
          if (r - i * STRIDE >= 0)
            multiply_add(sums[i][j], columns[j * STRIDE + s], taps[(r - i * STRIDE) * FILTER + s]);
  };
#pragma unroll
  for (int r = 0; r < FILTER - STRIDE; r++) add_row(begin, r);
  for (int p = begin; p < begin + walk.band; p++) {
#pragma unroll
    for (int r = FILTER - STRIDE; r < FILTER; r++) add_row(p, r);
#pragma unroll
    for (int j = 0; j < WIDE; j++) {
      const int q = at.first + j;
      const bool exists = at.exists && p < end && q < g.q;
      const long long place = (image + (long long)p * g.q + q) * g.c + at.channel;
      Quad value = sums[0][j];
      if (addend != nullptr) {
        const Quad more = load_quad<true>(addend + place, exists ? 4 : 0);
#pragma unroll
        for (int k = 0; k < 4; k++) value.v[k] += more.v[k];
      }
      if (how.relu)
#pragma unroll
        for (int k = 0; k < 4; k++) value.v[k] = rectified(value.v[k]);
      if (mask != nullptr) {
        const Quad gate = load_quad<true>(mask + place, exists ? 4 : 0);
#pragma unroll
        for (int k = 0; k < 4; k++)
          if (!(gate.v[k] > 0)) value.v[k] = 0;
      }
      store_quad(y + place, value, exists ? 4 : 0, true);
#pragma unroll
      for (int i = 0; i + 1 < ROWS; i++) sums[i][j] = sums[i + 1][j];
      sums[ROWS - 1][j] = shift;
    }
  }
}
