// 2-D convolution, gradient of the input, as an implicit matrix product in gather form.
//
//   dx[n,h,w,c] = sum over r, s, k of dy[n,p,q,k] * weight[k,r,s,c]
//                 where h = p*stride_h - pad_top + r*dilation_h, w likewise, has a p and q
//   then dx += addend, and dx = 0 where not mask > 0
//
//   D[i][j]: i = input pixel (n,h,w), j = channel of the group, depth = (r,s,k)
//   A[i][(r,s,k)] = dy gathered       B[j][(r,s,k)] = weight[k,r,s,j]
//
// Every input pixel looks for the outputs it went into, so nothing is added twice and no atomics
// are needed. With a stride, a tap whose h + pad_top - r*dilation_h it does not divide contributes
// nothing. A is contiguous in k along the depth, B in the channels across it. VECTOR: C/groups and
// K/groups are multiples of 4 and dy, weight lie on 16 bytes.
#include "conv2d.cuh"
#include "gemm_tile.cuh"

#ifndef VECTOR
#define VECTOR false
#endif

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) conv2d_implicit_gemm_backward_input(
    const real* __restrict__ dy,      // (N, P, Q, K)
    const real* __restrict__ weight,  // (K, R, S, C/groups)
    const real* addend,               // (N, H, W, C) or null
    const real* mask,                 // (N, H, W, C) or null
    real* dx,                         // (N, H, W, C)
    Conv2d g,
    bool vector_store) {  // C/groups is a multiple of 4 and dx lies on 16 bytes
  typedef Share<true> ShareA;
  typedef Share<false> ShareB;
  const int channels = g.c / g.groups, filters = g.k / g.groups;
  const int pixels = g.n * g.h * g.w, depth = g.r * g.s * filters;
  const int tile_pixel = blockIdx.x * TILE, tile_channel = blockIdx.y * TILE;
  dy += blockIdx.z * filters;
  weight += (long long)blockIdx.z * filters * g.r * g.s * channels;

  const int own_pixel = tile_pixel + ShareA::row();
  const Pixel at = pixel_of(own_pixel, g.h, g.w);
  const int bottom = at.row + g.pad_top, right = at.column + g.pad_left;
  const real* image = dy + (long long)at.image * g.p * g.q * g.k;
  auto fetch_a = [&](int k) {
    k += ShareA::depth();
    Tap tap = tap_of(k, g.s, filters);
    Quad quad = {};
#pragma unroll
    for (int j = 0; j < (VECTOR ? 1 : 4); j++) {
      const int h = bottom - tap.r * g.dilation_h, w = right - tap.s * g.dilation_w;
      const int p = h / g.stride_h, q = w / g.stride_w;
      if (own_pixel < pixels && k + j < depth && h == p * g.stride_h && w == q * g.stride_w &&
          inside(p, g.p) && inside(q, g.q)) {
        const real* source = image + (p * g.q + q) * g.k + tap.channel;
        if (VECTOR)
          quad = load_quad<true>(source, 4);
        else
          quad.v[j] = *source;
      }
      if (!VECTOR) advance(tap, g.s, filters);
    }
    return quad;
  };

  const int own_channel = tile_channel + ShareB::row();
  auto fetch_b = [&](int k) {
    k += ShareB::depth();
    const int rs = k / filters;
    const long long row = (long long)(k % filters) * g.r * g.s + rs;
    return load_quad<VECTOR>(weight + row * channels + own_channel,
                             k < depth ? channels - own_channel : 0);
  };
  real sum[4][4] = {};
  accumulate_tile<true, false>(0, depth, fetch_a, fetch_b, sum);

  const int c = tile_channel + patch_column();
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const int pixel = tile_pixel + patch_row() + i;
    if (pixel >= pixels) break;
    const long long place = (long long)pixel * g.c + blockIdx.z * channels + c;
    Quad row, other = {}, sign = {};
    if (addend != nullptr) other = load_quad<false>(addend + place, channels - c);
    if (mask != nullptr) sign = load_quad<false>(mask + place, channels - c);
#pragma unroll
    for (int j = 0; j < 4; j++) {
      row.v[j] = addend == nullptr ? sum[i][j] : sum[i][j] + other.v[j];
      if (mask != nullptr && !(sign.v[j] > 0)) row.v[j] = 0;
    }
    store_quad(dx + place, row, channels - c, vector_store);
  }
}
