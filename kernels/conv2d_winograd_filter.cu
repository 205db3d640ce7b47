// The filters of conv2d_winograd.cu, transformed: U = G g G^T for each filter and channel.
//
//       | 1    0    0  |
//   G = | 1/2  1/2  1/2|     g = weight[out, in, 0..2, 0..2], U has 4 x 4 frequencies
//       | 1/2 -1/2  1/2|
//       | 0    0    1  |
//
// U lies as (outs / 64, ins / 4, 16, 4, 64), zero beyond the filters: what a block of the
// convolution wants for four channels follows one another. Weights may have any strides: turned
// and transposed they are those of backward_input.
#include "real.cuh"

constexpr int THREADS = 256;
constexpr int OUTS = 32, INS = 8;  // of a block
constexpr int BLOCK_OUTS = 64, BLOCK_INS = 4, FREQUENCIES = 16;

struct Strides {
  long long n, c, h, w;  // in elements: of out, in, row and column
};

// G (a, b, c)
__device__ __forceinline__ void transform(float (&u)[4], float a, float b, float c) {
  u[0] = a;
  u[1] = 0.5f * (a + c) + 0.5f * b;
  u[2] = 0.5f * (a + c) - 0.5f * b;
  u[3] = c;
}

extern "C" __global__ void __launch_bounds__(THREADS) conv2d_winograd_filter(
    const float* __restrict__ weight,  // (outs, ins, 3, 3), any strides
    float* __restrict__ u,             // (ceil(outs / 64), ins / 4, 16, 4, 64)
    Strides strides, int outs, int ins,
    bool in_fastest) {  // neighbours in memory are of one filter
  __shared__ float shared[FREQUENCIES][INS][OUTS + 4];  // no bank twice
  const int first_out = blockIdx.x * OUTS, first_in = blockIdx.y * INS;
  const int own_out = in_fastest ? threadIdx.x / INS : threadIdx.x % OUTS;
  const int own_in = in_fastest ? threadIdx.x % INS : threadIdx.x / OUTS;
  float g[3][3] = {};
  if (first_out + own_out < outs && first_in + own_in < ins) {
    const float* source =
        weight + (first_out + own_out) * strides.n + (first_in + own_in) * strides.c;
#pragma unroll
    for (int r = 0; r < 3; r++)
#pragma unroll
      for (int s = 0; s < 3; s++) g[r][s] = source[r * strides.h + s * strides.w];
  }
  float rows[3][4];  // g G^T
#pragma unroll
  for (int r = 0; r < 3; r++) transform(rows[r], g[r][0], g[r][1], g[r][2]);
#pragma unroll
  for (int j = 0; j < 4; j++) {
    float column[4];
    transform(column, rows[0][j], rows[1][j], rows[2][j]);
#pragma unroll
    for (int i = 0; i < 4; i++) shared[4 * i + j][own_in][own_out] = column[i];
  }
  __syncthreads();
  const int lane = threadIdx.x % 32;
  for (int i = threadIdx.x / 32; i < FREQUENCIES * INS; i += THREADS / 32) {
    const int frequency = i / INS, in = first_in + i % INS, out = first_out + lane;
    if (in >= ins) continue;
    const long long group = (long long)(out / BLOCK_OUTS) * (ins / BLOCK_INS) + in / BLOCK_INS;
    u[((group * FREQUENCIES + frequency) * BLOCK_INS + in % BLOCK_INS) * BLOCK_OUTS +
      out % BLOCK_OUTS] = shared[frequency][i % INS][lane];
  }
}
