// Gradients of the filters and the bias of a 3 x 3 depthwise convolution, by quads of channels.
//
//   dweight[c,r,s] = sum over n, p, q of dy[n,p,q,c]
//                    * x[n, p*STRIDE - pad_top + r, q*STRIDE - pad_left + s, c]
//   dbias[c]       = sum over n, p, q of dy[n,p,q,c]
//
// A thread keeps the sums of its channels' nine taps; each row of x meets the rows of dy that it is
// under, which stay in registers. The blocks of grid.x share the pixels, grid.y are groups of
// channels. Lanes are summed by shuffles, warps in shared memory, blocks by split_k.cu.
#include "conv2d_depthwise_quads.cuh"

constexpr int BLOCKS = 2;  // that must fit a multiprocessor: 255 registers a thread
constexpr int ROWS = STRIDE == 1 ? 3 : 2;  // of dy that a row of x is under
constexpr int WARPS = THREADS / 32;
constexpr int SUMS = TAPS + 1;  // of a channel, the bias's behind the taps

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) conv2d_depthwise_quads_backward_weight(
    const float* __restrict__ x,   // (N, H, W, C)
    const float* __restrict__ dy,  // (N, P, Q, C)
    float* __restrict__ dweight,   // (splits, C, R, S), shares apart
    float* __restrict__ dbias,     // (splits, C), likewise, or null
    Conv2d g, Walk walk,
    long long share) {  // elements from one block's share to the next
  __shared__ float shared[WARPS][32 * SUMS];
  const int per_warp = 32 / walk.lanes, warps = (walk.items + per_warp - 1) / per_warp;
  Quad sums[SUMS] = {};
  for (int warp = blockIdx.x * WARPS + threadIdx.x / 32; warp < warps; warp += gridDim.x * WARPS) {
    const Item at = item_of(walk, g.c, warp, blockIdx.y, WIDE);
    const int left = at.first * STRIDE - g.pad_left;
    const int next = min(at.lane + walk.lanes, 31);
    const bool take = at.lane + walk.lanes < 32 && at.first + WIDE < g.q;
    const float* image = x + at.image * ((long long)g.h * g.w * g.c) + at.channel;
    const float* gradients = dy + at.image * ((long long)g.p * g.q * g.c) + at.channel;
    const int begin = at.band * walk.band, end = min(begin + walk.band, g.p);
    Quad rows[ROWS][WIDE] = {};  // of dy: p, p - 1, ...
    for (int p = begin; p < begin + walk.band + ROWS - 1; p++) {
#pragma unroll
      for (int j = 0; j < WIDE; j++) {
#pragma unroll
        for (int i = ROWS - 1; i > 0; i--) rows[i][j] = rows[i - 1][j];
        const int q = at.first + j;
        rows[0][j] = load_quad<true>(gradients + ((long long)p * g.q + q) * g.c,
                                     at.exists && p < end && q < g.q ? 4 : 0);
#pragma unroll
        for (int k = 0; k < 4; k++) sums[TAPS].v[k] += rows[0][j].v[k];
      }
#pragma unroll
      for (int step = 0; step < STRIDE; step++) {
        const int h = p * STRIDE - g.pad_top + step;
        Quad columns[OWN + BEYOND];
        load_columns(columns, image + (long long)h * g.w * g.c, left, g.w, g.c,
                     at.exists && (unsigned)h < (unsigned)g.h, next, take);
#pragma unroll
        for (int i = 0; i < ROWS; i++)
#pragma unroll
          for (int s = 0; s < FILTER; s++)
#pragma unroll
            for (int j = 0; j < WIDE; j++)
              if (step + i * STRIDE < FILTER)
                multiply_add(sums[(step + i * STRIDE) * FILTER + s], columns[j * STRIDE + s],
                             rows[i][j]);
      }
    }
  }

  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll
  for (int t = 0; t < SUMS; t++)
#pragma unroll
    for (int k = 0; k < 4; k++) {
      float sum = sums[t].v[k];
      for (int step = walk.lanes; step < 32; step *= 2)
        sum += __shfl_xor_sync(0xffffffff, sum, step);
      // The taps of all channels, then their biases.
      const int c = 4 * lane + k, place = t < TAPS ? c * TAPS + t : 4 * walk.lanes * TAPS + c;
      if (lane < walk.lanes) shared[warp][place] = sum;
    }
  __syncthreads();
  const int first = blockIdx.y * walk.lanes * 4, channels = min(walk.lanes * 4, g.c - first);
  dweight += blockIdx.x * share + (long long)first * TAPS;
  for (int i = threadIdx.x; i < channels * SUMS; i += THREADS) {
    const int c = i - channels * TAPS;  // of a bias
    float sum = 0;
#pragma unroll
    for (int j = 0; j < WARPS; j++) sum += shared[j][c < 0 ? i : 4 * walk.lanes * TAPS + c];
    if (c < 0)
      dweight[i] = sum;
    else if (dbias != nullptr)
      dbias[blockIdx.x * share + first + c] = sum;
  }
}
