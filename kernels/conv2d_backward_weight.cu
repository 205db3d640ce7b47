// 2-D convolution, gradient of the filters, as an implicit matrix product.
//
//   dweight[k,r,s,c] = sum over n, p, q of dy[n,p,q,k] * x[n,h,w,c]
//                      h = p*stride_h - pad_top + r*dilation_h, w likewise; x is 0 outside
//
//   D[i][j]: i = filter of the group, j = (r,s,c), depth = output pixel (n,p,q)
//   A[i][(n,p,q)] = dy, as it lies    B[(r,s,c)][(n,p,q)] = x gathered
//
// D is small and the depth is long: the pixels are split over the blocks (grid.z = groups x
// splits), each writes its share to a workspace, and split_k.cu sums the shares in fixed order.
// Both operands are contiguous across the depth. VECTOR: C/groups and K/groups are multiples of 4
// and dy, x lie on 16 bytes.
#include "conv2d.cuh"
#include "gemm_tile.cuh"

#ifndef VECTOR
#define VECTOR false
#endif

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) conv2d_implicit_gemm_backward_weight(
    const real* __restrict__ x,   // (N, H, W, C)
    const real* __restrict__ dy,  // (N, P, Q, K)
    real* __restrict__ dweight,   // (splits, K, R, S, C/groups)
    Conv2d g,
    int pixels_per_split,  // a multiple of DEPTH
    bool vector_store) {   // C/groups is a multiple of 4 and dweight lies on 16 bytes
  typedef Share<false> Across;
  const int channels = g.c / g.groups, filters = g.k / g.groups;
  const int columns = g.r * g.s * channels, pixels = g.n * g.p * g.q;
  const int tile_filter = blockIdx.y * TILE, tile_column = blockIdx.x * TILE;
  const int group = blockIdx.z % g.groups, split = blockIdx.z / g.groups;
  const int begin = split * pixels_per_split;
  const int end = min(pixels - begin, pixels_per_split) + begin;
  x += group * channels;
  dy += group * filters;

  const int own_filter = tile_filter + Across::row();
  auto fetch_a = [&](int k) {
    k += Across::depth();
    return load_quad<VECTOR>(dy + (long long)k * g.k + own_filter,
                             k < end ? filters - own_filter : 0);
  };

  // The columns of a thread stay the same along the depth: their taps are found once.
  const int own_column = tile_column + Across::row();
  Tap taps[VECTOR ? 1 : 4];
  taps[0] = tap_of(own_column, g.s, channels);
#pragma unroll
  for (int j = 1; j < (VECTOR ? 1 : 4); j++) {
    taps[j] = taps[j - 1];
    advance(taps[j], g.s, channels);
  }
  auto fetch_b = [&](int k) {
    k += Across::depth();
    const Pixel at = pixel_of(k, g.p, g.q);
    const int top = at.row * g.stride_h - g.pad_top, left = at.column * g.stride_w - g.pad_left;
    const real* image = x + (long long)at.image * g.h * g.w * g.c;
    Quad quad = {};
#pragma unroll
    for (int j = 0; j < (VECTOR ? 1 : 4); j++) {
      const int h = top + taps[j].r * g.dilation_h, w = left + taps[j].s * g.dilation_w;
      if (k < end && own_column + j < columns && inside(h, g.h) && inside(w, g.w)) {
        const real* source = image + (h * g.w + w) * g.c + taps[j].channel;
        if (VECTOR)
          quad = load_quad<true>(source, 4);
        else
          quad.v[j] = *source;
      }
    }
    return quad;
  };
  real sum[4][4] = {};
  accumulate_tile<false, false>(begin, end, fetch_a, fetch_b, sum);

  const int column = tile_column + patch_column();
  dweight += (long long)split * g.k * columns;
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const int filter = tile_filter + patch_row() + i;
    Quad row;
#pragma unroll
    for (int j = 0; j < 4; j++) row.v[j] = sum[i][j];
    if (filter < filters)
      store_quad(dweight + ((long long)group * filters + filter) * columns + column, row,
                 columns - column, vector_store);
  }
}
