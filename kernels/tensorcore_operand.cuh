// One operand of a tensor-core tile: how its stages lie in shared memory, who copies them there,
// and who reads what of them for the matrix instructions.
#include "real.cuh"
#include "tensorcore.cuh"

constexpr int THREADS = 32 * WARPS_M * WARPS_N;
constexpr bool PROMOTED = arithmetic == TF32X3;
constexpr int STEPS = PROMOTED ? 4 : 2;              // of a stage, each 8 words deep
constexpr int DEPTH = STEPS * 8 * (NARROW ? 2 : 1);  // elements of a stage
constexpr int WARP_M = TILE_M / WARPS_M;
constexpr int WARP_N = TILE_N / WARPS_N;
constexpr int TILES_M = WARP_M / 16;  // matrix instructions that a warp's patch of D is made of
constexpr int TILES_N = WARP_N / 8;

typedef float Patch[TILES_M][TILES_N][4];

__device__ __forceinline__ int lane() { return threadIdx.x % 32; }
__device__ __forceinline__ int warp_row() { return threadIdx.x / 32 % WARPS_M * WARP_M; }
__device__ __forceinline__ int warp_column() { return threadIdx.x / 32 / WARPS_M * WARP_N; }

// A stage is `rows` of D's rows (of A) or columns (of B) by 16 or 32 words of depth, in lines of
// chunks of 16 bytes. An operand whose neighbours in memory follow the depth lies `along` it, a
// line of 4 or 8 chunks a row; any other lies across, a line of rows for each element of depth. The
// chunks of a line are exchanged (XOR) such that the eight of a copy, of a matrix load and of a
// quarter of a 128-bit load lie in eight different places modulo 128 bytes; the words of narrower
// loads then lie in different banks, too.
//
// In which order the depth is used is free, as long as both operands agree: a step of 32-bit
// elements takes four depths and those 8 behind them.
template <bool is_b, bool along, int rows>
struct Operand {
  static constexpr int BYTES = rows * STEPS * 32;
  static constexpr int LINE = along ? STEPS * 2 : rows / CHUNK;  // chunks
  static constexpr int LINE_BYTES = LINE * 16;
  static constexpr int FRAGMENTS = (is_b ? WARP_N : WARP_M) / 16;  // two matrices of 8 rows each

  // Threads copy in passes, each a chunk of a line; along the depth a pass is half a line of 8, and
  // the other half is copied with it.
  static constexpr int HALVES = along ? STEPS / 2 : 1;
  static constexpr int WIDTH = LINE / HALVES;
  static constexpr int PASSES = BYTES / 16 / HALVES / THREADS;
  static constexpr int LINES = THREADS / WIDTH;  // that a pass copies
  static constexpr int PASS_BYTES = LINES * LINE_BYTES;
  static_assert(PASSES * PASS_BYTES == BYTES && LINES % (along ? 16 : NARROW ? 8 : 4) == 0,
                "the order of chunks differs by pass");

  // TF32X3: whether the block splits the operand in shared memory, once, and not each warp for
  // itself. For A that is cheaper where two warps share its rows, and takes shared memory.
  static constexpr bool SPLIT = PROMOTED && (is_b || WARPS_N == 2 && TILE_N == 128);

  // The split of an operand across pairs the words of chunks 8 elements of depth apart: what an
  // instruction wants in neighbouring registers then comes in one load. Chunk 0 (1) of the pair
  // takes words 0 and 1 (2 and 3) of both, as (depth, depth + 8) of a row, then of the next (of B),
  // or as both rows at depth, then at depth + 8 (of A).
  static constexpr bool PAIRED = SPLIT && !along;

  // What the thread copies in pass 0: `chunk` of `line` to `own_place`; in pass i that of line + i *
  // LINES to `pass(own_place, i)`. The other half's place differs by 64 bytes (XOR).
  __device__ static __forceinline__ int line() { return threadIdx.x / WIDTH; }
  __device__ static __forceinline__ int chunk() { return threadIdx.x % WIDTH; }
  __device__ static __forceinline__ unsigned own_place() { return place(line(), chunk()); }

  __device__ static __forceinline__ unsigned pass(unsigned own, int i) {
    return (own ^ (PAIRED && !is_b ? i % 2 * 64 : 0)) + i * PASS_BYTES;
  }

  __device__ static __forceinline__ unsigned place(int line, int chunk) {
    const int order = along    ? (HALVES == 2 ? (line & 1) << 2 : 0) | (line >> 2 & 3)
                      : NARROW ? line & 7
                      : PAIRED ? (is_b ? 0 : line >> 1 & 4) | (line & 3)
                               : (line & 3) << 1;
    return (line * LINE + (chunk ^ order)) * 16;
  }

  // The lane's addresses in the first stage. Which of them is read depends on step and fragment;
  // they differ in chunk bits that the exchange may flip, so that no one can be reached from
  // another by a constant distance.
  struct Lane {
    unsigned at[along ? STEPS : PAIRED && is_b ? 1 : NARROW || is_b ? 4 : 2];
    __device__ __forceinline__ unsigned operator[](int n) const { return at[n]; }
  };
  __device__ static constexpr unsigned distance(int n) {
    if (along) return NARROW ? n * 32 : n % 2 * 16 + n / 2 * 64;
    return is_b || NARROW ? n * 32 : n * 64;
  }

  __device__ static __forceinline__ Lane addresses(unsigned tile) {
    const int first = is_b ? warp_column() : warp_row(), i = lane();
    const int low = i / 8 % 2, high = i / 16;  // which of four matrices, as two bits
    unsigned origin;
    if constexpr (along) {
      // Row r of a fragment's matrix m is row 4 (r / 2) + 2 m + r % 2 of its 16: so a thread owns
      // four neighbouring columns of D. A's words are both matrices at the first chunk, then at the
      // second; B's are both chunks of one matrix, then of the other.
      const int matrix = is_b ? high : low, second = is_b ? low : high;
      origin = place(first + i % 8 / 2 * 4 + matrix * 2 + i % 2, NARROW ? second : second * 2);
    } else if constexpr (NARROW) {
      const int matrix = is_b ? high : low, second = is_b ? low : high;
      origin = place(i % 8 + second * 8, first / CHUNK + matrix);
    } else if constexpr (PAIRED) {
      const int odd = i / 4 % 2;
      origin = is_b ? place(i % 4, first / CHUNK + i / 8 + odd * 4)
                    : place(i % 4 + odd * 8, first / CHUNK + i / 8);
    } else if constexpr (is_b) {
      origin = place(i % 4, first / CHUNK + i / 16) + i / 4 % 4 * 4;
    } else {
      origin = place(i % 4, first / CHUNK + i / 8) + i / 4 % 2 * 8;
    }
    Lane result;
    constexpr int COUNT = sizeof(result.at) / sizeof(unsigned);
#pragma unroll
    for (int n = 0; n < COUNT; n++) result.at[n] = kept(tile + (origin ^ distance(n)));
    return result;
  }

  // The fragments of a step from the stage that lies `stage` bytes behind the first.
  __device__ static __forceinline__ void load(const Lane& lane, unsigned stage, int step,
                                              unsigned (&words)[FRAGMENTS][4]) {
#pragma unroll
    for (int f = 0; f < FRAGMENTS; f++) load_one(lane, stage, step, f, words[f]);
  }

  __device__ static __forceinline__ void load_one(const Lane& lane, unsigned stage, int step, int f,
                                                  unsigned (&words)[4]) {
    const unsigned line = NARROW ? step * 16 : step % 2 * 4 + step / 2 * 16;  // of those across
    const unsigned lines = stage + line * LINE_BYTES;
    if constexpr (along) {
      load_matrices(words, lane[step] + stage + f * 16 * LINE_BYTES);
    } else if constexpr (NARROW) {
      load_matrices_transposed(words, lane[f] + lines);
    } else if constexpr (PAIRED) {
      load_chunk(words, lane[is_b ? 0 : f % 2] + lines + f / 2 * 128 +
                            (is_b ? f % 2 * 8 * LINE_BYTES : 0));
    } else if constexpr (is_b) {
#pragma unroll
      for (int word = 0; word < 4; word++)
        words[word] = load_word(lane[f % 2 * 2 + word / 2] + lines + word % 2 * 8 * LINE_BYTES +
                                f / 2 * 128);
    } else {
      load_pair(words[0], words[1], lane[f % 2] + lines + f / 2 * 128);
      load_pair(words[2], words[3], lane[f % 2] + lines + f / 2 * 128 + 8 * LINE_BYTES);
    }
  }

  // Row in the tile of a thread's results sum[i][...][2 half + {0, 1}]: own_row + row_step (of A).
  __device__ static __forceinline__ int own_row(int thread) {
    const int g = thread % 32 / 4;
    return thread / 32 % WARPS_M * WARP_M + (along ? g / 2 * 4 + g % 2 : NARROW ? g : 2 * g);
  }
  __device__ static constexpr int row_step(int i, int half) {
    return 16 * i + (along ? 2 : NARROW ? 8 : 1) * half;
  }

  // First column in the tile of quad q of a thread's row: own_column + 16 q (of B).
  __device__ static __forceinline__ int own_column(int thread) {
    const int t = thread % 4;
    return thread / 32 / WARPS_M * WARP_N + (along || PAIRED ? 4 * t : t % 2 * 8 + t / 2 * 4);
  }

  // That quad, of the results of a row of matrices. All lanes of the warp take part.
  __device__ static __forceinline__ Quad quad(const float (&sum)[WARP_N / 8][4], int half, int q) {
    const int e = 2 * half;
    if constexpr (along) {
      return {sum[2 * q][e], sum[2 * q][e + 1], sum[2 * q + 1][e], sum[2 * q + 1][e + 1]};
    } else if constexpr (PAIRED) {
      const int m = q / 2 * 4, n = e + q % 2;
      return {sum[m][n], sum[m + 1][n], sum[m + 2][n], sum[m + 3][n]};
    } else {
      // Two columns of each of two matrices: neighbours exchange, and have four of one.
      const bool odd = lane() % 2;
      float pairs[2][2];
#pragma unroll
      for (int n = 0; n < 2; n++) {
        const float one = sum[2 * q][e + n], other = sum[2 * q + 1][e + n];
        const float got = __shfl_xor_sync(0xffffffffu, odd ? one : other, 1);
        pairs[0][n] = odd ? got : one;
        pairs[1][n] = odd ? other : got;
      }
      return {pairs[0][0], pairs[0][1], pairs[1][0], pairs[1][1]};
    }
  }

  // The thread's own chunks, which have landed at `own` and in the other half, become their high
  // halves; the low ones go `low` bytes behind.
  __device__ static __forceinline__ void split_own(unsigned own, unsigned low) {
    if constexpr (PAIRED) {
      static_assert(LINES == 8, "the passes are 8 elements of depth apart");
#pragma unroll
      for (int i = 0; i < PASSES; i += 2) {
        unsigned high[2][4], rest[2][4];
#pragma unroll
        for (int n = 0; n < 2; n++) split_chunk(pass(own, i + n), high[n], rest[n]);
#pragma unroll
        for (int n = 0; n < 2; n++) {
          store_pairs(pass(own, i + n), high, 2 * n);
          store_pairs(pass(own, i + n) + low, rest, 2 * n);
        }
      }
    } else {
#pragma unroll
      for (int i = 0; i < PASSES; i++)
#pragma unroll
        for (int half = 0; half < HALVES; half++) {
          unsigned high[4], rest[4];
          const unsigned at = (own ^ half * 64) + i * PASS_BYTES;
          split_chunk(at, high, rest);
          store_chunk(at, high[0], high[1], high[2], high[3]);
          store_chunk(at + low, rest[0], rest[1], rest[2], rest[3]);
        }
    }
  }

  __device__ static __forceinline__ void split_chunk(unsigned at, unsigned (&high)[4],
                                                     unsigned (&rest)[4]) {
    load_chunk(high, at);
#pragma unroll
    for (int j = 0; j < 4; j++) split(high[j], rest[j], is_b);
  }

  __device__ static __forceinline__ void store_pairs(unsigned at, const unsigned (&words)[2][4],
                                                     int n) {
    if constexpr (is_b)
      store_chunk(at, words[0][n], words[1][n], words[0][n + 1], words[1][n + 1]);
    else
      store_chunk(at, words[0][n], words[0][n + 1], words[1][n], words[1][n + 1]);
  }
};
