// One block's share of a matrix product: a 64 x 64 tile of D, for gemm.cu and the implicit-GEMM
// convolutions.
//
//   D[i][j] = sum over k of A[i][k] * B[j][k]        i, j: rows of A and B in the tile, k: depth
//
// 256 threads walk along the depth in steps of 16. Each thread brings four values of A and four of
// B to shared memory per step and owns a 4 x 4 patch of D in registers: 16 multiply-adds for two
// 128-bit shared loads. What A and B are is the caller's: functions from (step's first k) to the
// thread's four values, so that a convolution gathers its pixels where gemm reads a matrix.
#include "real.cuh"

constexpr int TILE = 64;
constexpr int DEPTH = 16;
constexpr int THREADS = 256;
// Blocks that must fit a multiprocessor: leaves a thread 80 registers for float, 255 for double.
// Without it the compiler aims lower and spills.
constexpr int BLOCKS = sizeof(real) == 4 ? 3 : 1;
// Rows of 64 + 4: a multiple of 4 keeps the 128-bit reads aligned, and the 4 more let the
// transposed stores of `keep_along_depth` spread over the banks.
constexpr int PITCH = TILE + 4;

typedef real Operand[DEPTH][PITCH];  // one step of A or B in shared memory, depth first

// Which four values of a 64 x 16 operand tile a thread fetches. An operand whose neighbours in
// memory follow the depth (K-major) is fetched along the depth, one row a thread: 4 threads x 4
// values cover the step. Any other is fetched along its rows: 16 threads x 4 values cover the tile.
// Either way neighbouring threads read neighbouring addresses.
template <bool along_depth>
struct Share {
  __device__ static __forceinline__ int row() {
    return along_depth ? threadIdx.x / 4 : threadIdx.x % 16 * 4;
  }
  __device__ static __forceinline__ int depth() {
    return along_depth ? threadIdx.x % 4 * 4 : threadIdx.x / 16;
  }
  __device__ static __forceinline__ void keep(Operand& tile, const Quad& quad) {
    if constexpr (along_depth) {
#pragma unroll
      for (int j = 0; j < 4; j++) tile[depth() + j][row()] = quad.v[j];
    } else {
      *reinterpret_cast<Quad*>(&tile[depth()][row()]) = quad;
    }
  }
};

// First row and column of the thread's patch of D. A warp covers 16 x 32: its reads of A (4
// different quads, broadcast) and of B (8 quads, 128 bytes) take one pass over the banks each.
__device__ __forceinline__ int patch_row() {
  return threadIdx.x / 64 * 16 + threadIdx.x % 32 / 8 * 4;
}
__device__ __forceinline__ int patch_column() {
  return threadIdx.x / 32 % 2 * 32 + threadIdx.x % 8 * 4;
}

__device__ __forceinline__ void multiply_step(const Operand& a, const Operand& b,
                                              real (&sum)[4][4]) {
#pragma unroll
  for (int k = 0; k < DEPTH; k++) {
    const Quad x = *reinterpret_cast<const Quad*>(&a[k][patch_row()]);
    const Quad y = *reinterpret_cast<const Quad*>(&b[k][patch_column()]);
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
      for (int j = 0; j < 4; j++) sum[i][j] += x.v[i] * y.v[j];
  }
}

// sum += the tile's product over k in [begin, end). `fetch_a(k)` and `fetch_b(k)` return the
// thread's four values (see Share) of the step that starts at k, zero outside the operand and at
// depths from `end` on. All threads of the block take part.
template <bool a_along_depth, bool b_along_depth, class FetchA, class FetchB>
__device__ __forceinline__ void accumulate_tile(int begin, int end, FetchA fetch_a, FetchB fetch_b,
                                                real (&sum)[4][4]) {
  __shared__ __align__(16) Operand a[2];
  __shared__ __align__(16) Operand b[2];
  if (begin >= end) return;
  Share<a_along_depth>::keep(a[0], fetch_a(begin));
  Share<b_along_depth>::keep(b[0], fetch_b(begin));
  __syncthreads();
  int now = 0;
  for (int k = begin; k < end; k += DEPTH) {
    // Two buffers: the next step travels from global memory into registers while this one is
    // multiplied, and lands in the other buffer, so that one barrier a step is enough.
    const bool more = end - k > DEPTH;
    Quad next_a, next_b;
    if (more) {
      next_a = fetch_a(k + DEPTH);
      next_b = fetch_b(k + DEPTH);
    }
    multiply_step(a[now], b[now], sum);
    if (more) {
      Share<a_along_depth>::keep(a[now ^ 1], next_a);
      Share<b_along_depth>::keep(b[now ^ 1], next_b);
    }
    __syncthreads();
    now ^= 1;
  }
}
