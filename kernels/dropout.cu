// Dropout: y[i] = x[i] / (1 - p) where the random word of element i is at least threshold, else 0.
//
// The words are those of numpy.random.Philox(key=key, counter=0): Philox4x64-10 (Salmon et al.,
// SC 2011), whose block number b (counter b + 1: NumPy counts up before the first block) gives four
// 64-bit numbers, eight words, low half first. Word i belongs to the element with C-order index i,
// so that a mask does not depend on the memory order or the device, and the backward pass makes the
// same mask again from the key. The key lies in device memory: a captured step is replayed with
// the same arguments.
//
// Ten rounds of 64-bit products are dear: the thread that makes a block of words decides for all
// eight elements, and passes the eight bits on to whoever moves them.
#include "pack.cuh"
#include "real.cuh"

#ifndef WIDTH
#define WIDTH 1
#endif

constexpr int BLOCK = 256;
// Blocks that must fit a multiprocessor: 80 registers a thread. Without it the compiler aims lower and
// spills.
constexpr int BLOCKS = 3;
constexpr int WORDS = 8;  // of one Philox block
constexpr int MAX_RANK = 8;

typedef unsigned long long uint64;
typedef Pack<real, WIDTH> Vector;

struct Options {
  real scale;            // 1 / (1 - p)
  long long threshold;   // p * 2^32
};

// The bits of a Philox key.
typedef Pack<long long, 2> Key;

// Bit i tells whether element i of Philox block number `block` stays.
__device__ __forceinline__ unsigned kept(uint64 block, const Key& key, long long threshold) {
  uint64 a = block + 1, b = 0, c = 0, d = 0, low = key.v[0], high = key.v[1];
#pragma unroll
  for (int round = 0; round < 10; round++) {
    const uint64 m0 = 0xD2E7470EE14C6C93ull, m1 = 0xCA5A826395121157ull;
    const uint64 next_a = __umul64hi(m1, c) ^ b ^ low, next_c = __umul64hi(m0, a) ^ d ^ high;
    b = m1 * c;
    d = m0 * a;
    a = next_a;
    c = next_c;
    low += 0x9E3779B97F4A7C15ull;
    high += 0xBB67AE8584CAA73Bull;
  }
  const uint64 numbers[4] = {a, b, c, d}, least = threshold;
  unsigned bits = 0;
#pragma unroll
  for (int i = 0; i < 4; i++) {
    bits |= (unsigned)((numbers[i] & 0xffffffffu) >= least) << 2 * i;
    bits |= (unsigned)((numbers[i] >> 32) >= least) << (2 * i + 1);
  }
  return bits;
}

// Memory in C order. A warp makes the bits of 256 neighbours and moves them in packs; each thread
// asks the one that has the bits of its pack.
extern "C" __global__ void __launch_bounds__(BLOCK, BLOCKS) dropout_contiguous(
    const real* __restrict__ x,          // (count)
    const long long* __restrict__ key,   // (2) on 16 bytes: the bits of the Philox key
    real* __restrict__ y,                // (count)
    long long count, Options options) {
  const Key words = load_pack<2>(key);
  const int lane = threadIdx.x % 32;
  const long long step = (long long)gridDim.x * BLOCK * WORDS;
  long long first = ((long long)blockIdx.x * BLOCK + threadIdx.x - lane) * WORDS;
  for (; first < count; first += step) {
    const unsigned own = kept(first / WORDS + lane, words, options.threshold);
#pragma unroll
    for (int part = 0; part < WORDS / WIDTH; part++) {
      const int element = (part * 32 + lane) * WIDTH;
      const unsigned bits = __shfl_sync(~0u, own, element / WORDS) >> element % WORDS;
      const long long i = first + element;
      if (i + WIDTH <= count) {
        Vector values = load_pack<WIDTH>(x + i);
#pragma unroll
        for (int j = 0; j < WIDTH; j++) values.v[j] *= bits >> j & 1 ? options.scale : 0;
        store_pack(y + i, values);
      } else {
        for (int j = 0; i + j < count; j++) y[i + j] = x[i + j] * (bits >> j & 1 ? options.scale : 0);
      }
    }
  }
}

// Channels behind the pixels in memory and before them in the C order:
// element (n, pixel, c) of memory has the index n * batch_step + c * channel_step + pixel.
struct ChannelsLast {
  int batch, pixels, channels;
  int lanes;  // channels of a block: a power of two, a multiple of WIDTH
  long long batch_step, channel_step;
};

// A block takes `lanes` channels of a run of pixels. The eight elements of a Philox block are
// neighbours along the pixels; where the run begins amid such a block differs from channel to
// channel, so it is as long as the words of all threads minus those of one block.
extern "C" __global__ void __launch_bounds__(BLOCK, BLOCKS) dropout_channels_last(
    const real* __restrict__ x,         // (batch, pixels, channels)
    const long long* __restrict__ key,  // (2)
    real* __restrict__ y,               // (batch, pixels, channels)
    ChannelsLast g, Options options) {
  __shared__ unsigned char bits[BLOCK];  // of Philox block j of channel c at j * lanes + c
  const Key words = load_pack<2>(key);
  const int run = (BLOCK / g.lanes - 1) * WORDS;
  const int runs = (g.pixels - 1) / run + 1, columns = (g.channels - 1) / g.lanes + 1;
  const long long tiles = (long long)columns * runs * g.batch;
  for (long long tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    const int channel = (int)(tile % columns) * g.lanes;
    const int pixel = (int)(tile / columns % runs) * run;
    const int n = (int)(tile / columns / runs);
    const int length = min(run, g.pixels - pixel);
    // The C-order index of the run's first pixel in the block's first channel.
    const long long origin = n * g.batch_step + channel * g.channel_step + pixel;
    {
      const int c = threadIdx.x % g.lanes, j = threadIdx.x / g.lanes;
      const long long index = origin + c * g.channel_step;
      // Not all blocks of words reach a pixel of a short run.
      if (channel + c < g.channels && j * WORDS < (int)(index % WORDS) + length)
        bits[threadIdx.x] = kept(index / WORDS + j, words, options.threshold);
    }
    __syncthreads();
    const long long start = ((long long)n * g.pixels + pixel) * g.channels + channel;
    const int packs = g.lanes / WIDTH, shift = 31 - __clz(packs);
    const unsigned first = (unsigned)origin, step = (unsigned)g.channel_step;  // mod 8 is enough
    const int c = threadIdx.x % packs * WIDTH;
    if (channel + c < g.channels)
      for (int q = threadIdx.x; q < length * packs; q += BLOCK) {
        const int place = q >> shift;
        const long long at = start + (long long)place * g.channels + c;
        Vector values = load_pack<WIDTH>(x + at);
#pragma unroll
        for (int j = 0; j < WIDTH; j++) {
          const unsigned word = (first + (c + j) * step) % WORDS + place;
          const unsigned of_block = bits[word / WORDS * g.lanes + c + j];
          values.v[j] *= of_block >> word % WORDS & 1 ? options.scale : 0;
        }
        store_pack(y + at, values);
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
// and makes the whole Philox block for its one bit. Coalesced, but eight times the arithmetic.
extern "C" __global__ void __launch_bounds__(BLOCK, BLOCKS) dropout_permuted(
    const real* __restrict__ x,         // (count), same memory order as y
    const long long* __restrict__ key,  // (2)
    real* __restrict__ y,               // (count)
    long long count, Options options,
    const __grid_constant__ Axes axes) {  // constant memory: an index into it needs no local copy
  const Key words = load_pack<2>(key);
  const long long step = (long long)gridDim.x * blockDim.x;
  for (long long at = (long long)blockIdx.x * blockDim.x + threadIdx.x; at < count; at += step) {
    long long rest = at, index = 0;
    for (int axis = axes.rank - 1; axis >= 0; axis--) {
      index += rest % axes.size[axis] * axes.step[axis];
      rest /= axes.size[axis];
    }
    const unsigned bits = kept(index / WORDS, words, options.threshold);
    y[at] = x[at] * (bits >> index % WORDS & 1 ? options.scale : 0);
  }
}
