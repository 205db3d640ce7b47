// 2-D convolution, forward, as an implicit matrix product.
//
//   y[n,p,q,k] = bias[k] + sum over r, s, c of
//                x[n, p*stride_h - pad_top + r*dilation_h, q*stride_w - pad_left + s*dilation_w, c]
//                * weight[k,r,s,c]                                        x is 0 outside the image
//   then y += addend, and y = max(y, 0) with relu
//
//   D[i][j]: i = output pixel (n,p,q), j = filter of the group, depth = (r,s,c)
//   A[i][(r,s,c)] = x gathered        B[j][(r,s,c)] = weight, as it lies
//
// One 64 x 64 tile of D a block, groups on grid.z. Both operands are contiguous in c, the fastest
// part of the depth. VECTOR: C/groups is a multiple of 4 and x, weight lie on 16 bytes.
#include "conv2d.cuh"
#include "gemm_tile.cuh"

#ifndef VECTOR
#define VECTOR false
#endif

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) conv2d_implicit_gemm_forward(
    const real* __restrict__ x,       // (N, H, W, C)
    const real* __restrict__ weight,  // (K, R, S, C/groups)
    const real* __restrict__ bias,    // (K) or null
    const real* addend,               // (N, P, Q, K) or null
    real* y,                          // (N, P, Q, K)
    Conv2d g, bool relu,
    bool vector_store) {  // K/groups is a multiple of 4 and y, addend lie on 16 bytes
  typedef Share<true> Along;
  const int channels = g.c / g.groups, filters = g.k / g.groups;
  const int pixels = g.n * g.p * g.q, depth = g.r * g.s * channels;
  const int tile_pixel = blockIdx.x * TILE, tile_filter = blockIdx.y * TILE;
  x += blockIdx.z * channels;
  weight += (long long)blockIdx.z * filters * depth;

  const int own_pixel = tile_pixel + Along::row();
  const Pixel at = pixel_of(own_pixel, g.p, g.q);
  const int top = at.row * g.stride_h - g.pad_top, left = at.column * g.stride_w - g.pad_left;
  const real* image = x + (long long)at.image * g.h * g.w * g.c;
  auto fetch_a = [&](int k) {
    k += Along::depth();
    Tap tap = tap_of(k, g.s, channels);
    Quad quad = {};
#pragma unroll
    for (int j = 0; j < (VECTOR ? 1 : 4); j++) {
      const int h = top + tap.r * g.dilation_h, w = left + tap.s * g.dilation_w;
      if (own_pixel < pixels && k + j < depth && inside(h, g.h) && inside(w, g.w)) {
        // 64 bits only from image to image: one image has less than 2^31 elements.
        const real* source = image + (h * g.w + w) * g.c + tap.channel;
        if (VECTOR)
          quad = load_quad<true>(source, 4);
        else
          quad.v[j] = *source;
      }
      if (!VECTOR) advance(tap, g.s, channels);
    }
    return quad;
  };

  const int own_filter = tile_filter + Along::row();
  const real* filter = weight + (long long)own_filter * depth;
  auto fetch_b = [&](int k) {
    k += Along::depth();
    return load_quad<VECTOR>(filter + k, own_filter < filters ? depth - k : 0);
  };
  real sum[4][4] = {};
  accumulate_tile<true, true>(0, depth, fetch_a, fetch_b, sum);

  const int k = tile_filter + patch_column();
  const int column = blockIdx.z * filters + k;
  const Quad shift = bias == nullptr ? Quad{} : load_quad<false>(bias + column, filters - k);
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const int pixel = tile_pixel + patch_row() + i;
    if (pixel >= pixels) break;
    const long long place = (long long)pixel * g.k + column;
    Quad row, other = {};
    if (addend != nullptr) other = load_quad<false>(addend + place, filters - k);
#pragma unroll
    for (int j = 0; j < 4; j++) {
      row.v[j] = sum[i][j] + shift.v[j];
      if (addend != nullptr) row.v[j] += other.v[j];
      if (relu) row.v[j] = rectified(row.v[j]);
    }
    store_quad(y + place, row, filters - k, vector_store);
  }
}
