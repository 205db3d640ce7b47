// 2-D convolution on tensor cores, gradient of the input, in gather form.
//
//   dx[n,h,w,c] = sum over r, s, k of dy[n,p,q,k] * weight[k,r,s,c]
//                 where h = p*stride_h - pad_top + r*dilation_h, w likewise, has a p and q
//   then dx += addend, and dx = 0 where not mask > 0
//
//   D[i][j]: i = input pixel (n,h,w), j = channel, depth = (r,s,k)
//   A[i][(r,s,k)] = dy gathered       B[j][(r,s,k)] = weight[k,r,s,j], as it lies: across the depth
//
// With a stride only some taps reach an input pixel: those with h + pad_top - r*dilation_h in its
// multiples. All pixels of equal h % stride_h and w % stride_w, a class, have the same taps, and
// are a convolution of stride 1 with these alone: one class for each blockIdx.z.
#include "conv2d_tensorcore.cuh"

typedef Operand<false, true, TILE_M> A;
typedef Operand<true, false, TILE_N> B;

// In one direction, the taps that reach the pixels `residue`, `residue` + stride, ...: first, first
// + step, ... Pixel number i lies under output i + shift - j * advance at tap first + j * step.
struct Reach {
  int first, step, taps, shift, advance;
};

__device__ __forceinline__ Reach reach(int residue, int stride, int pad, int dilation, int size) {
  int first = 0, step = 1;
  while (first < stride && (residue + pad - first * dilation) % stride != 0) first++;
  while (step * dilation % stride != 0) step++;
  const int taps = first < min(stride, size) ? (size - first + step - 1) / step : 0;
  return {first, step, taps, (residue + pad - first * dilation) / stride, step * dilation / stride};
}

// What a block computes: a tile of pixels of a class, and of channels. `height` x `width` is the
// class in an image, its pixels begin at (top, left).
struct Share {
  int tile_pixel, tile_channel, top, left, height, width, pixels;
};

__device__ __forceinline__ Share share_of_block(const Conv2d& g, int block, int group) {
  const int tiles_n = (g.c + TILE_N - 1) / TILE_N;
  const int top = group / g.stride_w, left = group % g.stride_w;
  const int height = (g.h - top + g.stride_h - 1) / g.stride_h;
  const int width = (g.w - left + g.stride_w - 1) / g.stride_w;
  return {block / tiles_n * TILE_M, block % tiles_n * TILE_N, top, left, height, width,
          g.n * height * width};
}

// dx = (the results + addend) where mask > 0, else 0. Where they lie is worked out anew: to keep it
// over the main loop would take registers that are not there.
__device__ __forceinline__ void store(const Results& d, const Conv2d& g,
                                      const float* __restrict__ addend,
                                      const float* __restrict__ mask, float* __restrict__ dx) {
  const auto [tile_pixel, tile_channel, top, left, height, width, pixels] =
      share_of_block(g, anew(blockIdx.x), anew(blockIdx.z));
  const int thread = anew(threadIdx.x), own_pixel = tile_pixel + A::own_row(thread);
  const int own_channel = tile_channel + B::own_column(thread);
#pragma unroll
  for (int i = 0; i < TILES_M; i++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int pixel = own_pixel + A::row_step(i, half);
      if (pixel >= pixels) continue;
      const Pixel at = pixel_of(pixel, height, width);
      const long long line = (long long)at.image * g.h + at.row * g.stride_h + top;
      const long long place = (line * g.w + at.column * g.stride_w + left) * g.c;
#pragma unroll
      for (int q = 0; q < QUADS; q++) {
        const int c = own_channel + 16 * q;
        Quad row = d[i][half][q];
        if (addend != nullptr) {
          const Quad other = load_quad<true>(addend + place + c, g.c - c);
#pragma unroll
          for (int e = 0; e < 4; e++) row.v[e] += other.v[e];
        }
        if (mask != nullptr) {
          const Quad sign = load_quad<true>(mask + place + c, g.c - c);
#pragma unroll
          for (int e = 0; e < 4; e++) row.v[e] = sign.v[e] > 0 ? row.v[e] : 0;
        }
        store_quad(dx + place + c, row, g.c - c, true);
      }
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) conv2d_tensorcore_backward_input(
    const element* __restrict__ dy,      // (N, P, Q, K)
    const element* __restrict__ weight,  // (K, R, S, C)
    const float* __restrict__ addend,    // (N, H, W, C) or null
    const float* __restrict__ mask,      // (N, H, W, C) or null
    float* __restrict__ dx,              // (N, H, W, C), on 16 bytes as addend and mask
    Conv2d g) {
  const auto [tile_pixel, tile_channel, top, left, height, width, pixels] =
      share_of_block(g, blockIdx.x, blockIdx.z);
  if (tile_pixel >= pixels) return;
  const Reach vertical = reach(top, g.stride_h, g.pad_top, g.dilation_h, g.r);
  const Reach horizontal = reach(left, g.stride_w, g.pad_left, g.dilation_w, g.s);
  const Window window = {g.p, g.q, g.k / CHUNK, vertical.taps, horizontal.taps,
                         -vertical.advance, -horizontal.advance};

  Gather<A> a;
#pragma unroll
  for (int i = 0; i < A::PASSES; i++) {
    const int pixel = tile_pixel + A::line() + i * A::LINES;
    const Pixel at = pixel_of(pixel, height, width);
    a.place(i, (const Chunk*)dy, window, at.image, at.row + vertical.shift,
            at.column + horizontal.shift, pixel < pixels);
  }
  // Lines of B are filters. Channels behind the last read the last chunk's: they are not stored.
  const int chunks = g.c / CHUNK, taps = g.r * g.s;
  const int own_chunk = min(tile_channel / CHUNK + B::chunk(), chunks - 1);
  const Chunk* filter[B::PASSES];
  int lasts[B::PASSES];  // the chunk behind the last at which a stage has that filter
#pragma unroll
  for (int i = 0; i < B::PASSES; i++) {
    const int k = B::line() + i * B::LINES;
    filter[i] = kept((const Chunk*)weight + (long long)k * taps * chunks + own_chunk);
    lasts[i] = (g.k - k + CHUNK - 1) / CHUNK;
  }
  StageTap* table = (StageTap*)(shared_memory + Ring<A, B>::BYTES);
  write_taps(table, window, [&](int r, int s) {
    const int row = vertical.first + r * vertical.step;
    const int column = horizontal.first + s * horizontal.step;
    return (row * g.s + column) * chunks;
  });
  __syncthreads();
  const unsigned shared = shared_address(shared_memory);
  const unsigned own_a = kept(shared + A::own_place());
  const unsigned own_b = kept(shared + A::BYTES + B::own_place());
  const int filter_step = CHUNK * taps * chunks;
  Walk walk(window, shared_address(table));
  auto fetch = [&](unsigned stage) {
    const StageTap tap = walk.tap();
    const unsigned other_bit = A::HALVES == 2 ? walk.bit_of(tap, A::chunk() + 4) : 0;
    a.copy(own_a + stage, (own_a ^ 64) + stage, tap.a + walk.chunk, walk.bit_of(tap, A::chunk()),
           other_bit);
    const int offset = tap.b + walk.chunk * filter_step;
#pragma unroll
    for (int i = 0; i < B::PASSES; i++)
      copy_chunk(own_b + stage + i * B::PASS_BYTES, filter[i] + offset,
                 tap.bit && walk.chunk < lasts[i]);
    walk.advance();
  };
  Patch sum;
  accumulate<A, B>(shared, window.stages(), window.stages(), fetch, [] {}, sum);

  Results d;
  take_results<B>(sum, d);
  store(d, g, addend, mask, dx);
}
