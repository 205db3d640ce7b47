// One block's tile of a float matrix product on the ordinary lanes, with 8 x 8 results a thread.
//
//   D[i][j] = sum over k of A[i][k] * B[j][k]        i, j: rows of A and B in the tile, k: depth
//
// A block owns TILE_M x TILE_N of D and walks along the depth in steps of TILE_K. Each step is
// fetched into registers while the one before it is multiplied, and then lies in the other of two
// buffers of shared memory, so that one barrier a step is enough. In shared memory the depth is
// the slow axis: a thread reads its 8 rows of A and 8 rows of B as four 128-bit words, for 64
// multiply-adds.
//
// What A and B are is the caller's: shares of an operand (AlongDepth, AcrossDepth) that know where
// their quads lie in global memory.
#include "quad.cuh"

#ifndef TILE_M
#define TILE_M 128
#endif
#ifndef TILE_N
#define TILE_N 128
#endif
#ifndef TILE_K
#define TILE_K 16
#endif
#ifndef BLOCKS
#define BLOCKS 2  // that must fit a multiprocessor: what registers a thread may take
#endif

constexpr int THREADS = TILE_M * TILE_N / 64;
constexpr int WARPS_N = TILE_N / 32;  // a warp owns 64 x 32 of D

// The value, out of the compiler's sight, which would rather compute an offset from the thread's
// number again in every step than keep it in a register.
__device__ __forceinline__ int kept(int value) {
  return __shfl_sync(0xffffffff, value, threadIdx.x % 32);
}

// The thread's share of an operand whose neighbours in memory follow the depth: quads of rows come
// into registers and are stored turned. The 4 floats more a line let those stores spread over the
// banks: 16 rows x 2 quads, which are four lines apart.
template <int ROWS>
struct AlongDepth {
  static constexpr int PITCH = ROWS + 4;
  static constexpr int LINES = ROWS * 2 / THREADS;  // rows of a thread
  static constexpr int QUADS = TILE_K / 8;          // of each of them, every other one
  const float* source[LINES];
  bool valid[LINES];
  float4 quad[LINES][QUADS];

  // Two threads share a row: the 32 bytes that they read together are a whole sector.
  __device__ static __forceinline__ int row(int n) { return threadIdx.x / 2 + n * (THREADS / 2); }
  __device__ static __forceinline__ int depth() { return threadIdx.x % 2 * 4; }
  __device__ static __forceinline__ int place() { return depth() * PITCH + row(0); }

  // Bring the step in, of which the first `left` depths are inside the operand.
  __device__ __forceinline__ void fetch(int depth, int left) {
#pragma unroll
    for (int n = 0; n < LINES; n++)
#pragma unroll
      for (int q = 0; q < QUADS; q++)
        quad[n][q] = load_quad_if(valid[n] && depth < left - q * 8, source[n] + q * 8);
  }
  // Store what was fetched; `place` is that of `place()` in the tile.
  __device__ __forceinline__ void keep(unsigned place) const {
#pragma unroll
    for (int n = 0; n < LINES; n++)
#pragma unroll
      for (int q = 0; q < QUADS; q++) {
        const unsigned at = place + 4 * (q * 8 * PITCH + n * (THREADS / 2));
        store_shared(at, quad[n][q].x);
        store_shared(at + 4 * PITCH, quad[n][q].y);
        store_shared(at + 8 * PITCH, quad[n][q].z);
        store_shared(at + 12 * PITCH, quad[n][q].w);
      }
  }
  __device__ __forceinline__ void move(long long floats) {
#pragma unroll
    for (int n = 0; n < LINES; n++) source[n] += floats;
  }
};

// The thread's share of an operand whose neighbours in memory are its rows: a quad of rows at
// every LINES-th depth. A warp reads and stores neighbours. Nothing has to be turned: from sm_80 on
// the quads go to shared memory on their own, without registers.
template <int ROWS>
struct AcrossDepth {
  static constexpr int PITCH = ROWS;
  static constexpr int LANES = ROWS / 4;         // threads to one depth
  static constexpr int LINES = THREADS / LANES;  // depths that the block fetches at once
  static constexpr int QUADS = TILE_K / LINES;   // of a thread
#if __CUDA_ARCH__ < 800
  float4 quad[QUADS];
#endif

  __device__ static __forceinline__ int row() { return threadIdx.x % LANES * 4; }
  __device__ static __forceinline__ int depth() { return threadIdx.x / LANES; }
  __device__ static __forceinline__ int place() { return depth() * PITCH + row(); }

  // Bring quad q in, zeros where it is not valid; `place` is that of `place()` in the tile.
  __device__ __forceinline__ void fetch(int q, bool valid, const float* source, unsigned place) {
#if __CUDA_ARCH__ < 800
    quad[q] = load_quad_if(valid, source);
#else
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(
                     place + 4 * q * LINES * PITCH),
                 "l"(source), "r"(valid ? 16 : 0)
                 : "memory");
#endif
  }
  __device__ __forceinline__ void keep(unsigned place) const {
#if __CUDA_ARCH__ < 800
#pragma unroll
    for (int q = 0; q < QUADS; q++) store_shared(place + 4 * q * LINES * PITCH, quad[q]);
#endif
  }
};

// Until what AcrossDepth has fetched for this thread lies in shared memory.
__device__ __forceinline__ void wait_for_quads() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_all;" ::: "memory");
#endif
}

// Row i and column j of the thread's results in the tile: two groups of four each. The reads of a
// warp are then 128 bytes of A and 64 of B, one pass over the banks each, and four lanes store 64
// bytes that are neighbours.
__device__ __forceinline__ int patch_row(int i) {
  return threadIdx.x / 32 / WARPS_N * 64 + threadIdx.x % 32 / 4 * 4 + i % 4 + i / 4 * 32;
}
__device__ __forceinline__ int patch_column(int j) {
  return threadIdx.x / 32 % WARPS_N * 32 + threadIdx.x % 4 * 4 + j % 4 + j / 4 * 16;
}

// sum += the product over the depths FROM to TO of a step. `a` and `b` are where the patch begins.
template <int FROM, int TO, int PITCH_A, int PITCH_B>
__device__ __forceinline__ void multiply(unsigned a, unsigned b, float (&sum)[8][8]) {
#pragma unroll
  for (int k = FROM; k < TO; k++) {
    float x[8], y[8];
    load_shared(&x[0], a + 4 * (k * PITCH_A));
    load_shared(&x[4], a + 4 * (k * PITCH_A + 32));
    load_shared(&y[0], b + 4 * (k * PITCH_B));
    load_shared(&y[4], b + 4 * (k * PITCH_B + 16));
#pragma unroll
    for (int i = 0; i < 8; i++)
#pragma unroll
      for (int j = 0; j < 8; j++) sum[i][j] += x[i] * y[j];
  }
}

// Floats of shared memory that `accumulate_tile` works in.
template <class Operands>
constexpr int TILE_FLOATS = 2 * TILE_K * (Operands::A::PITCH + Operands::B::PITCH);

// sum += the tile's product over the whole depth of the operands, which have
//
//   A, B                  the shares' classes
//   left                  depths left of a stretch, such as the channels at one tap
//   fetch_a(place), fetch_b(place)  bring the thread's quads of a step in, in this order, to lie
//                         there in shared memory; zeros where nothing is left
//   a, b                  the shares, to be kept
//   arrived(place)        the thread's quads of A of a step lie there
//   advance()             go on by TILE_K within the stretch
//   next_stretch()        go on to the next stretch; behind the last, `left` stays 0
//
// All threads of the block take part. After it, and a barrier, `tiles` may hold something else.
template <class Operands>
__device__ __forceinline__ void accumulate_tile(float* tiles, Operands& operands,
                                                float (&sum)[8][8]) {
  typedef typename Operands::A A;
  typedef typename Operands::B B;
  constexpr int SIZE_A = TILE_K * A::PITCH, SIZE = TILE_FLOATS<Operands> / 2;
  if (operands.left <= 0) return;
  const unsigned at_a = address_of(tiles), at_b = address_of(tiles + SIZE_A);
  unsigned place_a = kept(at_a + 4 * A::place());
  // Shares of one shape have one place: no register for the second.
  constexpr bool SAME = A::PITCH == B::PITCH;
  unsigned own_b = SAME ? 0 : kept(at_b + 4 * B::place());
  auto place_b = [&] { return SAME ? place_a + 4 * SIZE_A : own_b; };
  operands.fetch_a(place_a);
  operands.fetch_b(place_b());
  operands.advance();
  operands.a.keep(place_a);
  operands.b.keep(place_b());
  if (operands.left <= 0) operands.next_stretch();
  unsigned row = kept(at_a + 4 * patch_row(0)), column = kept(at_b + 4 * patch_column(0));
  int other = 4 * SIZE;  // from one buffer to the other, there and back
  bool last;
#pragma unroll 1
  do {
    last = operands.left <= 0;  // what was fetched last is all that remains to be multiplied
#pragma unroll 1
    do {
      wait_for_quads();
      __syncthreads();
      operands.arrived(place_a);
      place_a += other;
      own_b += other;
      // A travels through the first half of the step and B through the second, in one set of
      // registers.
      operands.fetch_a(place_a);
      multiply<0, TILE_K / 2, A::PITCH, B::PITCH>(row, column, sum);
      operands.a.keep(place_a);
      operands.fetch_b(place_b());
      operands.advance();
      multiply<TILE_K / 2, TILE_K, A::PITCH, B::PITCH>(row, column, sum);
      operands.b.keep(place_b());
      row += other;
      column += other;
      other = -other;
    } while (operands.left > 0);
    operands.next_stretch();
  } while (!last);
}

// Store the thread's results, four neighbours at a time:
//
//   target = sum + addend, then max(target, 0) with relu, then 0 where not mask > 0
//
// `row(i)` is where row i of the patch begins in target, addend and mask, `column(half)` how far
// its columns from 4 * half on are from there; negative outside.
template <class Row, class Column>
__device__ __forceinline__ void store_patch(const float (&sum)[8][8], float* target,
                                            const float* addend, const float* mask, bool relu,
                                            Row row, Column column) {
  const int columns[2] = {column(0), column(1)};
#pragma unroll
  for (int i = 0; i < 8; i++) {
    const long long start = row(i);
    float4 other[2], sign[2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const bool valid = start >= 0 && columns[half] >= 0;
      const long long at = start + columns[half];
      if (addend != nullptr) other[half] = load_quad_if<false>(valid, addend + at);
      if (mask != nullptr) sign[half] = load_quad_if<false>(valid, mask + at);
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const float* own = &sum[i][half * 4];
      float4 quad = {own[0], own[1], own[2], own[3]};
      if (addend != nullptr) quad = added(quad, other[half]);
      if (relu) quad = rectified(quad);
      if (mask != nullptr) quad = where_positive(sign[half], quad);
      if (start >= 0 && columns[half] >= 0) store_quad(target + start + columns[half], quad);
    }
  }
}
