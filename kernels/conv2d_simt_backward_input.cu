// 2-D convolution of floats, gradient of the input, as implicit matrix products (simt_tile.cuh).
//
//   dx[n,h,w,c] = sum over r, s, k of dy[n,p,q,k] * weight[k,r,s,c]
//                 where h = p*stride_h - pad_top + r*dilation_h, w likewise, has a p and q
//   then dx += addend, and dx = 0 where not mask > 0
//
// With a stride, an input row h reaches only the taps r of one class: those where r*dilation_h has
// the remainder of h + pad_top by stride_h. The rows of one class and its taps, every step-th from
// a first one, are a product without stride of their own:
//
//   h + pad_top = stride_h * u + a,  r = r0 + i*step  ->  p = u - (r0*dilation_h - a) / stride_h
//                                                            - i * (step*dilation_h / stride_h)
//
// and likewise in the columns: grid.z is groups x stride_h x stride_w classes, and no tap is
// multiplied that contributes nothing.
//
//   D[i][j]: i = input pixel of the class, j = channel of the group, depth = (r,s,k)
//   A[i][(r,s,k)] = dy gathered            B[j][(r,s,k)] = weight[k,r,s,j]
//
// C/groups and K/groups are multiples of 4 and all arrays lie on 16 bytes.
#include "conv2d_simt.cuh"

struct Channels : AcrossDepth<TILE_N> {
  const float* source;
  bool valid;
  int first;       // depth of the thread's first quad
  const int line;  // floats from one filter to the next

  __device__ __forceinline__ void fetch_step(int left, unsigned place) {
#pragma unroll
    for (int q = 0; q < QUADS; q++)
      fetch(q, valid && first < left - q * LINES, further(source, line, q * LINES), place);
  }
  __device__ __forceinline__ void next_step() { source = further(source, line, TILE_K); }
  __device__ __forceinline__ void move(int floats) { source += floats; }
};

// One direction of a class: `count` pixels `first`, first + stride, ..., and its taps.
struct Class {
  int first, count;     // of the pixels
  int tap, step, taps;  // first tap, from tap to tap, how many
  int start, move;      // output under the first pixel at the first tap, and from tap to tap
};

__device__ __forceinline__ Class class_of(int remainder, int stride, int padding, int dilation,
                                          int filter, int size) {
  Class found;
  found.first = ((remainder - padding) % stride + stride) % stride;
  found.count = (size - found.first + stride - 1) / stride;
  int tap = 0;
  while (tap < filter && tap * dilation % stride != remainder) tap++;
  int step = 1;
  while (step * dilation % stride != 0) step++;
  found.tap = tap;
  found.step = step;
  found.taps = (filter - tap + step - 1) / step;
  found.start = (found.first + padding - tap * dilation) / stride;
  found.move = step * dilation / stride;
  return found;
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
    conv2d_implicit_gemm_simt_backward_input(
    const float* __restrict__ dy,      // (N, P, Q, K)
    const float* __restrict__ weight,  // (K, R, S, C/groups)
    const float* addend,               // (N, H, W, C) or null
    const float* mask,                 // (N, H, W, C) or null
    float* dx,                         // (N, H, W, C)
    Conv2d g, int channels, int filters,  // of one group
    int line) {                           // R * S * channels
  typedef Convolution<Channels> Operands;
  __shared__ __align__(16) Operands::Shared shared;
  __shared__ Class rows, columns;  // in shared memory, so that they take no register in the loop
  __shared__ int tile_pixel, tile_channel, pixels, group;
  if (threadIdx.x == 0) {
    const int parity = blockIdx.z / g.groups, tiles_n = (channels + TILE_N - 1) / TILE_N;
    rows = class_of(parity / g.stride_w, g.stride_h, g.pad_top, g.dilation_h, g.r, g.h);
    columns = class_of(parity % g.stride_w, g.stride_w, g.pad_left, g.dilation_w, g.s, g.w);
    pixels = g.n * rows.count * columns.count;
    group = blockIdx.z % g.groups;
    tile_pixel = blockIdx.x / tiles_n * TILE_M;
    tile_channel = blockIdx.x % tiles_n * TILE_N;
  }
  __syncthreads();
  if (tile_pixel >= pixels) return;  // the grid is made for the largest class
  const int taps = rows.taps * columns.taps;
  dy += group * filters;
  weight += (long long)group * filters * line;

  const int run = (filters + TILE_K - 1) / TILE_K * TILE_K;
  for (int tap = threadIdx.x; tap < taps; tap += THREADS) {
    const int i = tap / columns.taps, j = tap % columns.taps, back = columns.taps - 1;
    const int across = j > 0 ? columns.move : rows.move * g.q - back * columns.move;
    const int over = j > 0 ? columns.step : rows.step * g.s - back * columns.step;
    shared.taps[tap] = {-i * rows.move, -j * columns.move, -across * g.k - run,
                        over * channels - run * line};
  }
  __syncthreads();
  Operands operands = {{}, {{}, nullptr, false, 0, line}, shared, 0, 0, taps, filters, g.p, g.q};
#pragma unroll
  for (int n = 0; n < Operands::A::LINES; n++) {
    const int pixel = tile_pixel + Operands::A::row(n);
    const Pixel at = pixel_of(min(pixel, pixels - 1), rows.count, columns.count);
    const int2 corner = {pixel < pixels ? rows.start + at.row : Operands::NOWHERE,
                         columns.start + at.column};
    operands.place(n, dy + (long long)at.image * g.p * g.q * g.k, corner, g.k);
  }
  const int channel = tile_channel + Channels::row();
  operands.b.first = kept(Channels::depth());
  operands.b.valid = channel < channels;
  operands.b.source = weight + (long long)Channels::depth() * line +
                      (rows.tap * g.s + columns.tap) * channels + channel;
  operands.begin();
  float sum[8][8] = {};
  accumulate_tile(shared.tiles, operands, sum);

  auto row = [&](int i) {
    const int pixel = tile_pixel + patch_row(i);
    const Pixel at = pixel_of(pixel, rows.count, columns.count);
    const int h = rows.first + at.row * g.stride_h, w = columns.first + at.column * g.stride_w;
    const long long place = ((long long)at.image * g.h + h) * g.w + w;
    return pixel < pixels ? place * g.c + group * channels : -1;
  };
  auto column = [&](int half) {
    const int c = tile_channel + patch_column(half * 4);
    return c < channels ? c : -1;
  };
  store_patch(sum, dx, addend, mask, false, row, column);
}
