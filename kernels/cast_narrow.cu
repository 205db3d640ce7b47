// y[i] = x[i] rounded to 16 bits (to nearest, ties to even), as the words that tensor cores read.
//
// Two arrays a launch: the operands of a product. A thread takes four neighbours, one 128-bit load
// and one 64-bit store, so that a warp's accesses are whole sectors.
#include "real.cuh"

constexpr int THREADS = 256;

struct __align__(8) Words {
  unsigned low, high;
};

#define NARROW_KERNEL(name, type)                                                                 \
  __device__ __forceinline__ unsigned name##_word(float low, float high) {                        \
    unsigned word;                                                                                \
    asm("cvt.rn." type "x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));                  \
    return word;                                                                                  \
  }                                                                                               \
  extern "C" __global__ void __launch_bounds__(THREADS) name(                                     \
      const float* __restrict__ x,              /* (x_quads * 4), on 16 bytes */                  \
      unsigned short* __restrict__ narrow_x,    /* (x_quads * 4), on 8 bytes */                   \
      long long x_quads, const float* __restrict__ w, /* the other array, likewise */             \
      unsigned short* __restrict__ narrow_w, long long w_quads) {                                 \
    const long long step = (long long)gridDim.x * THREADS;                                        \
    for (long long i = (long long)blockIdx.x * THREADS + threadIdx.x; i < x_quads + w_quads;      \
         i += step) {                                                                             \
      const bool first = i < x_quads;                                                             \
      const long long at = first ? i : i - x_quads;                                               \
      const Quad quad = reinterpret_cast<const Quad*>(first ? x : w)[at];                         \
      const Words words = {name##_word(quad.v[0], quad.v[1]), name##_word(quad.v[2], quad.v[3])}; \
      reinterpret_cast<Words*>(first ? narrow_x : narrow_w)[at] = words;                          \
    }                                                                                             \
  }

NARROW_KERNEL(narrow_bf16, "bf16")
NARROW_KERNEL(narrow_fp16, "f16")
