// Dropout: y[i] = x[i] / (1 - p) where the random word of element i is at least threshold, else 0.
//
// The words are those of numpy.random.Philox(key=key, counter=0): Philox4x64-10 (Salmon et al.,
// SC 2011), whose block number b (counter b + 1: NumPy counts up before the first block) gives four
// 64-bit numbers, eight words, low half first. Word i belongs to the element with C-order index i,
// so that a mask does not depend on the memory order or the device, and the backward pass makes the
// same mask again from the key.
#include "real.cuh"

constexpr int BLOCK = 256;
constexpr int WORDS = 8;  // of one Philox block
constexpr int MAX_RANK = 8;

typedef unsigned long long uint64;

struct Key {
  unsigned long long low, high;
};

// The four numbers of one block.
struct Numbers {
  unsigned long long a, b, c, d;
};

__device__ __forceinline__ Numbers philox(uint64 counter, const Key& key) {
  Numbers n = {counter, 0, 0, 0};
  uint64 low = key.low, high = key.high;
#pragma unroll
  for (int round = 0; round < 10; round++) {
    const uint64 m0 = 0xD2E7470EE14C6C93ull, m1 = 0xCA5A826395121157ull;
    n = {__umul64hi(m1, n.c) ^ n.b ^ low, m1 * n.c, __umul64hi(m0, n.a) ^ n.d ^ high, m0 * n.a};
    low += 0x9E3779B97F4A7C15ull;
    high += 0xBB67AE8584CAA73Bull;
  }
  return n;
}

// Word i of a block, by selection: an array with a variable index would live in local memory.
__device__ __forceinline__ unsigned word_of(const Numbers& n, int i) {
  const uint64 number = i < 4 ? (i < 2 ? n.a : n.b) : (i < 6 ? n.c : n.d);
  return i % 2 == 0 ? (unsigned)number : (unsigned)(number >> 32);
}

// Memory in C order: 256 threads make 256 Philox blocks for 2,048 elements. The words pass through
// shared memory so that neighbouring threads write neighbouring elements; a pitch of 256 + 4 keeps
// both the writes (one word number, 32 blocks) and the reads (8 words of 4 blocks) off each other's
// banks.
extern "C" __global__ void __launch_bounds__(BLOCK) dropout_contiguous(
    const real* __restrict__ x,  // (count)
    real* __restrict__ y,        // (count)
    long long count, real scale, unsigned long long threshold, Key key) {
  constexpr int PITCH = BLOCK + 4;
  __shared__ unsigned shared[WORDS * PITCH];
  const long long tile = (long long)BLOCK * WORDS;
  for (long long first = blockIdx.x * tile; first < count; first += gridDim.x * tile) {
    const Numbers numbers = philox(first / WORDS + threadIdx.x + 1, key);
#pragma unroll
    for (int word = 0; word < WORDS; word++)
      shared[word * PITCH + threadIdx.x] = word_of(numbers, word);
    __syncthreads();
#pragma unroll
    for (int part = 0; part < WORDS; part++) {
      const int element = part * BLOCK + threadIdx.x;
      const long long i = first + element;
      if (i < count)
        y[i] = x[i] * (shared[element % WORDS * PITCH + element / WORDS] < threshold ? 0 : scale);
    }
    __syncthreads();
  }
}

// The axes from slowest to fastest in memory: sizes, and steps of the C-order index.
struct Axes {
  int rank;
  int size[MAX_RANK];
  long long step[MAX_RANK];
};

// Any other dense memory order: a thread walks the memory, finds the C-order index of its element
// and makes the whole Philox block for its one word. Coalesced, but eight times the arithmetic.
extern "C" __global__ void __launch_bounds__(BLOCK) dropout_permuted(
    const real* __restrict__ x,  // (count), same memory order as y
    real* __restrict__ y,        // (count)
    long long count, real scale, unsigned long long threshold, Key key,
    const __grid_constant__ Axes axes) {  // constant memory: an index into it needs no local copy
  const long long step = (long long)gridDim.x * blockDim.x;
  for (long long at = (long long)blockIdx.x * blockDim.x + threadIdx.x; at < count; at += step) {
    long long rest = at, index = 0;
    for (int axis = axes.rank - 1; axis >= 0; axis--) {
      index += rest % axes.size[axis] * axes.step[axis];
      rest /= axes.size[axis];
    }
    const unsigned word = word_of(philox(index / WORDS + 1, key), index % WORDS);
    y[at] = x[at] * (word < threshold ? 0 : scale);
  }
}
