// 2-D convolution on tensor cores, forward.
//
//   y[n,p,q,k] = bias[k] + sum over r, s, c of
//                x[n, p*stride_h - pad_top + r*dilation_h, q*stride_w - pad_left + s*dilation_w, c]
//                * weight[k,r,s,c]                                        x is 0 outside the image
//   then y += addend, and y = max(y, 0) with relu
//
//   D[i][j]: i = output pixel (n,p,q), j = filter, depth = (r,s,c)
//   A[i][(r,s,c)] = x gathered        B[j][(r,s,c)] = weight, as it lies
//
// Both operands are contiguous along the depth. The blocks that share pixels are neighbours, so
// that these are read from memory once. For batch norm a block leaves mean and sum of squared
// deviations of each filter over its pixels.
#include "conv2d_tensorcore.cuh"

typedef Operand<false, true, TILE_M> A;
typedef Operand<true, true, TILE_N> B;

// What a block computes: a tile of pixels and of filters.
struct Share {
  int tile, tile_pixel, tile_filter;
};

__device__ __forceinline__ Share share_of_block(const Conv2d& g, int block) {
  const int tiles_n = (g.k + TILE_N - 1) / TILE_N;
  return {block / tiles_n, block / tiles_n * TILE_M, block % tiles_n * TILE_N};
}

// y = [relu](the results + bias + addend), and the moments before addend. Where they lie is worked
// out anew: to keep it over the main loop would take registers that are not there.
__device__ __forceinline__ void finish(Results& d, const Conv2d& g, const float* __restrict__ bias,
                                       const float* __restrict__ addend, float* __restrict__ y,
                                       float* __restrict__ partial, bool relu, bool vector) {
  const auto [tile, tile_pixel, tile_filter] = share_of_block(g, anew(blockIdx.x));
  const int thread = anew(threadIdx.x), own_pixel = tile_pixel + A::own_row(thread);
  const int own_filter = tile_filter + B::own_column(thread), pixels = g.n * g.p * g.q;
  if (bias != nullptr) {
#pragma unroll
    for (int q = 0; q < QUADS; q++) {
      const int k = own_filter + 16 * q;
      const Quad shift = load_quad<false>(bias + k, g.k - k);
#pragma unroll
      for (int i = 0; i < TILES_M; i++)
#pragma unroll
        for (int half = 0; half < 2; half++)
#pragma unroll
          for (int e = 0; e < 4; e++) d[i][half][q].v[e] += shift.v[e];
    }
  }
  if (partial != nullptr) {
    float* mean = partial + (long long)tile * g.k + tile_filter;
    float* squares = mean + (long long)((pixels + TILE_M - 1) / TILE_M) * g.k;
    store_moments<A, B>(d, thread, min(pixels - tile_pixel, TILE_M), g.k - tile_filter, vector,
                        mean, squares);
  }
#pragma unroll
  for (int i = 0; i < TILES_M; i++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int pixel = own_pixel + A::row_step(i, half);
      if (pixel >= pixels) continue;
#pragma unroll
      for (int q = 0; q < QUADS; q++) {
        const int k = own_filter + 16 * q;
        const long long place = (long long)pixel * g.k + k;
        Quad row = d[i][half][q];
        if (addend != nullptr) {
          const Quad other = read_quad(addend + place, g.k - k, vector);
#pragma unroll
          for (int e = 0; e < 4; e++) row.v[e] += other.v[e];
        }
        if (relu) {
#pragma unroll
          for (int e = 0; e < 4; e++) row.v[e] = rectified(row.v[e]);
        }
        store_quad(y + place, row, g.k - k, vector);
      }
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) conv2d_tensorcore_forward(
    const element* __restrict__ x,       // (N, H, W, C)
    const element* __restrict__ weight,  // (K, R, S, C)
    const float* __restrict__ bias,      // (K) or null
    const float* __restrict__ addend,    // (N, P, Q, K) or null
    float* __restrict__ y,               // (N, P, Q, K)
    float* __restrict__ partial,         // (2, tiles of pixels, K) or null: means, squares
    Conv2d g, bool relu,
    bool vector) {  // K is a multiple of 4, and y, addend and partial lie on 16 bytes
  const auto [tile, tile_pixel, tile_filter] = share_of_block(g, blockIdx.x);
  const int pixels = g.n * g.p * g.q, chunks = g.c / CHUNK;
  const Window window = {g.h, g.w, chunks, g.r, g.s, g.dilation_h, g.dilation_w};

  Gather<A> a;
#pragma unroll
  for (int i = 0; i < A::PASSES; i++) {
    const int pixel = tile_pixel + A::line() + i * A::LINES;
    const Pixel at = pixel_of(pixel, g.p, g.q);
    a.place(i, (const Chunk*)x, window, at.image, at.row * g.stride_h - g.pad_top,
            at.column * g.stride_w - g.pad_left, pixel < pixels);
  }
  const Chunk* filter[B::PASSES];
#pragma unroll
  for (int i = 0; i < B::PASSES; i++) {
    // A filter that is none reads the last one's: its column is not stored.
    const int k = min(tile_filter + B::line() + i * B::LINES, g.k - 1);
    filter[i] = kept((const Chunk*)weight + (long long)k * g.r * g.s * chunks + B::chunk());
  }
  StageTap* table = (StageTap*)(shared_memory + Ring<A, B>::BYTES);
  write_taps(table, window, [&](int r, int s) { return (r * g.s + s) * chunks; });
  __syncthreads();
  const unsigned shared = shared_address(shared_memory);
  const unsigned own = kept(shared + A::own_place());  // of B too, in its part of a stage
  Walk walk(window, shared_address(table));
  auto fetch = [&](unsigned stage) {
    const StageTap tap = walk.tap();
    const unsigned bit = walk.bit_of(tap, A::chunk());
    const unsigned other_bit = A::HALVES == 2 ? walk.bit_of(tap, A::chunk() + 4) : 0;
    a.copy(own + stage, (own ^ 64) + stage, tap.a + walk.chunk, bit, other_bit);
#pragma unroll
    for (int i = 0; i < B::PASSES; i++) {
      const Chunk* from = filter[i] + (tap.b + walk.chunk);
      copy_chunk(own + stage + A::BYTES + i * B::PASS_BYTES, from, bit);
      if (B::HALVES == 2)
        copy_chunk((own ^ 64) + stage + A::BYTES + i * B::PASS_BYTES, from + 4, other_bit);
    }
    walk.advance();
  };
  Patch sum;
  accumulate<A, B>(shared, window.stages(), window.stages(), fetch, [] {}, sum);

  Results d;
  take_results<B>(sum, d);
  finish(d, g, bias, addend, y, partial, relu, vector);
}
