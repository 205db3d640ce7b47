// 2-D convolution of 3 x 3 with a stride of 1 by Winograd's minimal filtering F(2 x 2, 3 x 3).
//
//   Y = A^T [ sum over channels of (G g G^T) * (B^T d B) ] A        (* element by element)
//
//         | 1 0 -1 0|
//   B^T = | 0 1  1 0|    A^T = | 1 1  1 0|     d: 4 x 4 input pixels, Y: 2 x 2 output pixels
//         | 0-1  1 0|          | 0 1 -1 1|     U = G g G^T comes from conv2d_winograd_filter.cu
//         | 0-1  0 1|
//
// 16 multiplications for 4 outputs of 9 taps: 2.25 times fewer. Lavin and Gray, "Fast algorithms for
// convolutional neural networks", 2016.
//
//   then y += bias, y += addend, y = max(y, 0) with relu, y = 0 where not mask > 0
//
// A block makes 32 tiles (2 x 2 outputs) of 64 filters. For each of the 16 frequencies that is a
// matrix product, filters x channels x tiles: a warp has one frequency, a lane 8 x 8 sums, 4 shared
// loads of 128 bits for 64 multiply-adds. All threads transform the input of the next four channels
// while these are multiplied; a lane has one pixel, rows and columns are combined by shuffles.
//
// x and y lie channels-last; the channels are a multiple of 4, x and u lie on 16 bytes.
#include "real.cuh"

constexpr int WARPS = 16;  // a warp, a frequency
constexpr int THREADS = 32 * WARPS;
constexpr int TILES = 32;
constexpr int FILTERS = 64;
constexpr int CHANNELS = 4;
// Each frequency's filters and pixels of one step in shared memory.
constexpr int FILTER_WORDS = CHANNELS * FILTERS;
constexpr int TILE_WORDS = CHANNELS * TILES;
constexpr int ROUND = 8;  // tiles whose frequencies are gathered at a time at the end

struct Sizes {
  int images, channels, height, width;  // input
  int filters, rows, columns;           // output
  int pad_top, pad_left;
  int down, across;  // tiles of an image
};

struct Step {
  float filters[WARPS][FILTER_WORDS];  // [frequency][channel][filter]
  float tiles[WARPS][TILE_WORDS];      // [frequency][channel][tile ^ 2 * frequency]
};

// The position of a tile's first output.
struct Place {
  int image, row, column;
};

constexpr int BUFFER = sizeof(Step) / sizeof(float);

union Shared {
  Step steps[2];
  struct {
    float products[WARPS][ROUND][FILTERS];
    Place places[TILES];
  };
};

__device__ __forceinline__ Place place_of(int tile, const Sizes& g) {
  const int row = tile / g.across;
  return {row / g.down, row % g.down * 2, tile % g.across * 2};
}

__device__ __forceinline__ Quad load_shared(const float* source) {
  return *reinterpret_cast<const Quad*>(source);
}

// Of four values that four threads have, one each, row `index` of B^T times them: the thread's own
// plus or minus that of `partner`.
__device__ __forceinline__ Quad transformed(const Quad& own, float sign, int partner) {
  Quad result;
#pragma unroll
  for (int k = 0; k < 4; k++)
    result.v[k] = own.v[k] + sign * __shfl_sync(0xffffffff, own.v[k], partner);
  return result;
}

// 16 bytes from global to shared memory: asynchronously, without registers, where there is the
// instruction. They have arrived behind wait_for_copies() and a barrier.
__device__ __forceinline__ void copy_quad(float* target, const float* source) {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(
                   (unsigned)__cvta_generic_to_shared(target)),
               "l"(__cvta_generic_to_global(source))
               : "memory");
#else
  *reinterpret_cast<Quad*>(target) = *reinterpret_cast<const Quad*>(source);
#endif
}

__device__ __forceinline__ void wait_for_copies() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_all;" ::: "memory");
#endif
}

extern "C" __global__ void __launch_bounds__(THREADS) conv2d_winograd(
    const float* __restrict__ x,       // (N, H, W, C)
    const float* __restrict__ u,       // (ceil(K / 64), C / 4, 16, 4, 64)
    const float* __restrict__ bias,    // (K) or null
    const float* __restrict__ addend,  // (N, P, Q, K) or null
    const float* __restrict__ mask,    // (N, P, Q, K) or null
    float* __restrict__ y,             // (N, P, Q, K)
    Sizes g, bool relu) {
  __shared__ __align__(16) Shared shared;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int first_tile = blockIdx.x * TILES, tiles = g.images * g.down * g.across;
  const int steps = g.channels / CHANNELS;

  // Loading, a thread has one pixel (i, j) of one tile.
  const int pixel = lane % 16, i = pixel / 4, j = pixel % 4, own_tile = 2 * warp + lane / 16;
  // Row i of B^T combines value i with value 2, 2, 1, 1, and adds only in row 1.
  const int row_partner = lane - 4 * i + (i < 2 ? 8 : 4), column_partner = lane - j + (j < 2 ? 2 : 1);
  const float row_sign = i == 1 ? 1 : -1, column_sign = j == 1 ? 1 : -1;
  const Place at = place_of(min(first_tile + own_tile, tiles - 1), g);
  const int h = at.row - g.pad_top + i, w = at.column - g.pad_left + j;
  const bool exists = (unsigned)h < (unsigned)g.height && (unsigned)w < (unsigned)g.width;
  unsigned source = (((unsigned)at.image * g.height + h) * g.width + w) * g.channels;
  float* const own_pixels = &shared.steps[0].tiles[pixel][own_tile ^ 2 * pixel];
  float* const own_filters = &shared.steps[0].filters[0][0] + 4 * threadIdx.x;
  unsigned place = blockIdx.y * steps * (WARPS * FILTER_WORDS) + 4 * threadIdx.x;

  Quad next;
  const auto fetch = [&](int buffer) {
    next = load_quad<true>(x + source, exists ? 4 : 0);
    source += CHANNELS;
    copy_quad(own_filters + buffer, u + place);
    copy_quad(own_filters + buffer + 4 * THREADS, u + place + 4 * THREADS);
    place += WARPS * FILTER_WORDS;
  };
  const auto keep = [&](int buffer) {
    next = transformed(next, row_sign, row_partner);
    next = transformed(next, column_sign, column_partner);
#pragma unroll
    for (int k = 0; k < 4; k++) own_pixels[buffer + k * TILES] = next.v[k];
    wait_for_copies();
  };

  // Multiplying, a lane has 4 filters from 4 * (lane % 8) on and 4 more 32 behind, 4 tiles from
  // 4 * (lane / 8) on and 4 more 16 behind.
  const int filter = lane % 8 * 4, tile = lane / 8 * 4;
  float sums[8][8] = {};  // [tile][filter]
  const float* filters = &shared.steps[0].filters[warp][filter];
  const float* pixels = &shared.steps[0].tiles[warp][tile];
  fetch(0);
  keep(0);
  __syncthreads();
  int now = 0;  // the buffer that is multiplied, in words
  for (int step = 1;; step++) {
    const int other = BUFFER - now;
    if (step < steps) fetch(other);
#pragma unroll
    for (int k = 0; k < CHANNELS; k++) {
      Quad a[2], b[2];
#pragma unroll
      for (int half = 0; half < 2; half++) {
        a[half] = load_shared(filters + now + k * FILTERS + 32 * half);
        b[half] = load_shared(pixels + now + k * TILES + 16 * half);
      }
#pragma unroll
      for (int m = 0; m < 8; m++)
#pragma unroll
        for (int n = 0; n < 8; n++) sums[m][n] += b[m / 4].v[m % 4] * a[n / 4].v[n % 4];
    }
    if (step < steps) keep(other);
    __syncthreads();
    if (step >= steps) break;
    now = other;
  }

  // A warp's tiles lie XORed with twice its frequency. Brought into order in the registers as far as
  // those tell tiles apart; the lanes' part is `in_order`.
  if (warp % 2 == 1)
#pragma unroll
    for (int m = 0; m < 8; m++)
#pragma unroll
      for (int n = 0; n < 8; n++)
        if (m % 4 < 2) {
          const float kept = sums[m][n];
          sums[m][n] = sums[m + 2][n];
          sums[m + 2][n] = kept;
        }
  if (warp >= 8)
#pragma unroll
    for (int m = 0; m < 4; m++)
#pragma unroll
      for (int n = 0; n < 8; n++) {
        const float kept = sums[m][n];
        sums[m][n] = sums[m + 4][n];
        sums[m + 4][n] = kept;
      }
  const int in_order = lane / 8 ^ warp / 2 % 4;

  if (threadIdx.x < TILES)
    shared.places[threadIdx.x] = place_of(min(first_tile + (int)threadIdx.x, tiles - 1), g);
  const int out = blockIdx.y * FILTERS + threadIdx.x % FILTERS;
  const float shift = bias != nullptr && out < g.filters ? bias[out] : 0;
  // Rounds of 8 tiles, two of each lane: what the warps have of them comes together.
#pragma unroll
  for (int round = 0; round < TILES / ROUND; round++) {
    if (round > 0) __syncthreads();
#pragma unroll
    for (int e = 0; e < 2; e++)
#pragma unroll
      for (int half = 0; half < 2; half++) {
        Quad some;
#pragma unroll
        for (int k = 0; k < 4; k++) some.v[k] = sums[2 * round + e][4 * half + k];
        *reinterpret_cast<Quad*>(
            &shared.products[warp][2 * in_order + e][filter + 32 * half]) = some;
      }
    __syncthreads();
    const int own = threadIdx.x / FILTERS;  // of the round's tiles
    float rows[2][4];                       // A^T M
#pragma unroll
    for (int n = 0; n < 4; n++) {
      float m[4];
#pragma unroll
      for (int k = 0; k < 4; k++) m[k] = shared.products[4 * k + n][own][threadIdx.x % FILTERS];
      rows[0][n] = m[0] + m[1] + m[2];
      rows[1][n] = m[1] - m[2] + m[3];
    }
    const int number = round / 2 * 16 + own / 2 * 4 + round % 2 * 2 + own % 2;
    const Place to = shared.places[number];
    if (first_tile + number >= tiles || out >= g.filters) continue;
#pragma unroll
    for (int a = 0; a < 2; a++) {
      const float both[2] = {rows[a][0] + rows[a][1] + rows[a][2],
                             rows[a][1] - rows[a][2] + rows[a][3]};
#pragma unroll
      for (int b = 0; b < 2; b++) {
        const int p = to.row + a, q = to.column + b;
        if (p >= g.rows || q >= g.columns) continue;
        const unsigned place = (((unsigned)to.image * g.rows + p) * g.columns + q) * g.filters + out;
        float value = both[b] + shift;
        if (addend != nullptr) value += addend[place];
        if (relu) value = rectified(value);
        if (mask != nullptr && !(mask[place] > 0)) value = 0;
        y[place] = value;
      }
    }
  }
}
