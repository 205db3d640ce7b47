// Matrix products with batch, of any strides, alignment and float type.
//
//   y[z][m][n] = sum over k of a[z][m][k] * b[z][k][n] + bias[n]
//   then y = max(y, 0) with relu, and y = 0 where mask <= 0
//
// Made for the linear layers of small networks, whose results are too few to fill a device with
// large tiles: a block owns a TILE x TILE tile of y, and its WARPS warps share the depth. Each warp
// multiplies every WARPS-th step of it on its own, without a barrier, and at the end their sums are
// added up in order. That is a split of the depth without a second launch. Where even this leaves
// the device empty, the depth is split over blocks as well (grid.y): each writes its share to a
// workspace, which split_k_finish sums in fixed order.
//
// Large products of floats: gemm_simt.cu.
#include "gemm_finish.cuh"
#include "pack.cuh"

#ifndef TILE
#define TILE 32
#endif
#ifndef WARPS
#define WARPS 8
#endif

constexpr int THREADS = 32 * WARPS;
// Blocks that must fit a multiprocessor: what registers a thread may take.
constexpr int BLOCKS = TILE == 32 ? 1 : 2;
constexpr int STEP = 256 / TILE;  // depths of a step: a thread fetches two quads of each operand
// Lines of TILE + 4: a multiple of 4 keeps the 128-bit reads aligned, and the 4 more let the
// transposed stores of a warp (16 rows, two quads four lines apart) spread over the banks.
constexpr int PITCH = TILE + 4;
constexpr int ROWS = TILE / 8;     // of a thread's patch of y
constexpr int GROUPS = TILE / 16;  // of four columns of it
// Lines of the warps' sums: two rows of patches begin half of the banks apart.
constexpr int SUM_PITCH = TILE + (TILE == 32 ? 4 : 8);
// What a warp has of shared memory: a step of both operands, then its sums.
constexpr int OWN = 2 * STEP * PITCH > TILE * SUM_PITCH ? 2 * STEP * PITCH : TILE * SUM_PITCH;

// One operand: `row` runs over m or n. Strides in elements; 0 broadcasts.
struct Matrix {
  long long row, depth, outer, inner;
  bool along_depth;  // its neighbours in memory follow the depth, else the rows
  bool vector;       // it takes 128-bit accesses along them
};

struct Gemm {
  int batch, m, n, k;
  int k_per_split;   // a multiple of STEP; k or more when not split
  int inner_batch;   // batch index z = outer * inner_batch + inner
  bool vector_store; // y, mask and the workspace take 128-bit accesses
  bool relu;
  long long share;   // elements from one split's results to the next one's
  Matrix a, b;
};

// In PTX, because the compiler takes such a store apart where another path stores single elements.
__device__ __forceinline__ void store_shared(real* to, const Quad& quad) {
  const unsigned address = (unsigned)__cvta_generic_to_shared(to);
  const uint4* words = reinterpret_cast<const uint4*>(&quad);
#pragma unroll
  for (int i = 0; i < (int)sizeof(Quad) / 16; i++)
    asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(address + 16 * i),
                 "r"(words[i].x), "r"(words[i].y), "r"(words[i].z), "r"(words[i].w)
                 : "memory");
}

// The thread's share of an operand's steps: two quads, `apart` elements from each other.
//
// An operand whose neighbours follow the depth is fetched along it, two threads a row: 32 bytes, a
// whole sector. Any other is fetched across, a quad of rows a thread; with 16 rows a quarter of a
// warp stores to two depths, which four lines apart do not share a bank.
struct Share {
  const real* next;
  long long apart;
  int row, depth;  // of the first quad, from the tile's and the step's
  Quad quads[2];

  static constexpr int SECOND_ROW = TILE == 32 ? 16 : 0, SECOND_ALONG = TILE == 32 ? 0 : 8;
  static constexpr int SECOND_ACROSS = STEP / 2;

  __device__ __forceinline__ Share(const Matrix& matrix, const real* __restrict__ from, int tile,
                                   int k) {
    const int lane = threadIdx.x % 32;
    if (matrix.along_depth) {
      row = lane / 2;
      depth = lane % 2 * 4;
      apart = SECOND_ROW * matrix.row + SECOND_ALONG * matrix.depth;
    } else {
      row = lane % (TILE / 4) * 4;
      depth = TILE == 32 ? lane / 8 : lane / 4 % 2 * 4 + lane / 8;
      apart = SECOND_ACROSS * matrix.depth;
    }
    next = from + (tile + row) * matrix.row + (k + depth) * matrix.depth;
  }

  // A step with `rows` rows and `left` depths inside the operand, zero beyond them.
  __device__ __forceinline__ void fetch(const Matrix& matrix, int rows, int left) {
#pragma unroll
    for (int q = 0; q < 2; q++) {
      int count;
      if (matrix.along_depth)
        count = row + q * SECOND_ROW < rows ? left - depth - q * SECOND_ALONG : 0;
      else
        count = depth + q * SECOND_ACROSS < left ? rows - row : 0;
      const real* from = next + q * apart;
      if (matrix.vector)
        quads[q] = load_quad<true>(from, count);
      else
        quads[q] = load_quad<false>(from, count, matrix.along_depth ? matrix.depth : matrix.row);
    }
    next += WARPS * STEP * matrix.depth;
  }

  // To shared memory, depth first.
  __device__ __forceinline__ void keep(const Matrix& matrix, real* step) const {
#pragma unroll
    for (int q = 0; q < 2; q++) {
      if (matrix.along_depth) {
        real* to = step + (depth + q * SECOND_ALONG) * PITCH + row + q * SECOND_ROW;
#pragma unroll
        for (int j = 0; j < 4; j++) to[j * PITCH] = quads[q].v[j];
      } else {
        store_shared(step + (depth + q * SECOND_ACROSS) * PITCH + row, quads[q]);
      }
    }
  }
};

// First row, and first column of a group, of the thread's patch of the tile.
__device__ __forceinline__ int patch_row() { return threadIdx.x % 32 / 4 * ROWS; }
__device__ __forceinline__ int patch_column(int group) {
  return threadIdx.x % 4 * 4 + group * 16;
}

struct Patch {
  real sum[ROWS][4 * GROUPS];
  real rows[ROWS];  // sums of a alone, where they are asked for

  template <bool WITH_ROWS>
  __device__ __forceinline__ void multiply(const real* a, const real* b) {
#pragma unroll
    for (int k = 0; k < STEP; k++) {
      const Pack<real, ROWS> x = load_pack<ROWS>(a + k * PITCH + patch_row());
      Quad y[GROUPS];
#pragma unroll
      for (int group = 0; group < GROUPS; group++)
        y[group] = *reinterpret_cast<const Quad*>(b + k * PITCH + patch_column(group));
#pragma unroll
      for (int i = 0; i < ROWS; i++) {
        if (WITH_ROWS) rows[i] += x.v[i];
#pragma unroll
        for (int j = 0; j < 4 * GROUPS; j++) sum[i][j] += x.v[i] * y[j / 4].v[j % 4];
      }
    }
  }
};

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) gemm_sliced(
    const real* __restrict__ a,     // (batch, m, k), any strides
    const real* __restrict__ b,     // (batch, k, n), any strides
    const real* __restrict__ bias,  // (n) or null; null when split
    const real* __restrict__ mask,  // (batch, m, n) or null; null when split
    real* __restrict__ y,           // (splits, batch, m, n)
    real* __restrict__ row_sums,    // (splits, m) or null: sums of a's rows (without batch)
    const __grid_constant__ Gemm g) {
  __shared__ __align__(16) real shared[WARPS * OWN];
  __shared__ real shared_rows[WARPS * TILE];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int tiles_n = (g.n - 1) / TILE + 1, tiles_m = (g.m - 1) / TILE + 1;
  const int tile_n = blockIdx.x % tiles_n * TILE;
  const int tile_m = blockIdx.x / tiles_n % tiles_m * TILE;
  const int z = blockIdx.x / tiles_n / tiles_m;
  const int begin = blockIdx.y * g.k_per_split;
  const int end = min(g.k - begin, g.k_per_split) + begin;
  a += z / g.inner_batch * g.a.outer + z % g.inner_batch * g.a.inner;
  b += z / g.inner_batch * g.b.outer + z % g.inner_batch * g.b.inner;
  const bool with_rows = row_sums != nullptr && tile_n == 0;

  real* own = shared + warp * OWN;
  Patch patch = {};
  int k = begin + warp * STEP;
  Share share_a(g.a, a, tile_m, k), share_b(g.b, b, tile_n, k);
  auto fetch = [&](int left) {
    share_a.fetch(g.a, g.m - tile_m, left);
    share_b.fetch(g.b, g.n - tile_n, left);
  };
  if (k < end) fetch(end - k);
  for (; k < end; k += WARPS * STEP) {
    share_a.keep(g.a, own);
    share_b.keep(g.b, own + STEP * PITCH);
    __syncwarp();
    // The next step travels into registers while this one is multiplied.
    if (end - k > WARPS * STEP) fetch(end - k - WARPS * STEP);
    if (with_rows)
      patch.multiply<true>(own, own + STEP * PITCH);
    else
      patch.multiply<false>(own, own + STEP * PITCH);
    __syncwarp();
  }

  // The warps' sums go where their steps were; then all threads add them up, warp after warp.
#pragma unroll
  for (int i = 0; i < ROWS; i++)
#pragma unroll
    for (int group = 0; group < GROUPS; group++) {
      Quad quad;
#pragma unroll
      for (int j = 0; j < 4; j++) quad.v[j] = patch.sum[i][group * 4 + j];
      store_shared(own + (patch_row() + i) * SUM_PITCH + patch_column(group), quad);
    }
  if (with_rows && lane % 4 == 0)
#pragma unroll
    for (int i = 0; i < ROWS; i++) shared_rows[warp * TILE + patch_row() + i] = patch.rows[i];
  __syncthreads();
  if (with_rows && threadIdx.x < TILE && tile_m + (int)threadIdx.x < g.m) {
    real sum = 0;
#pragma unroll
    for (int w = 0; w < WARPS; w++) sum += shared_rows[w * TILE + threadIdx.x];
    row_sums[blockIdx.y * g.share + tile_m + threadIdx.x] = sum;
  }
  y += blockIdx.y * g.share + (long long)z * g.m * g.n;
  if (mask != nullptr) mask += (long long)z * g.m * g.n;
  for (int place = threadIdx.x; place < TILE * TILE / 4; place += THREADS) {
    // With 16 columns a quarter of a warp reads two rows: those that do not share a bank.
    const int line = place / (TILE / 4), column = place % (TILE / 4) * 4;
    const int row = TILE == 32 ? line : (line & ~3) + line % 2 * 2 + line / 2 % 2;
    const int m = tile_m + row, n = tile_n + column;
    if (m >= g.m || n >= g.n) continue;
    Quad sum = {};
#pragma unroll
    for (int w = 0; w < WARPS; w++) {
      const Quad quad =
          *reinterpret_cast<const Quad*>(shared + w * OWN + row * SUM_PITCH + column);
#pragma unroll
      for (int j = 0; j < 4; j++) sum.v[j] += quad.v[j];
    }
    const long long at = (long long)m * g.n + n;
    sum = finished(sum, bias, mask, at, n, g.n - n, g.relu, g.vector_store);
    store_quad(y + at, sum, g.n - n, g.vector_store);
  }
}
