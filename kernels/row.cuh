// Rows of numbers, each of which belongs to the blockDim.x threads with one threadIdx.y: a power of
// two, at most a warp. They exchange by shuffles.
#include "block_reduce.cuh"
#include "real.cuh"

// Numbers of a row that each of its threads keeps in registers; 0: as many as there are, read from
// memory each time.
#ifndef VALUES
#define VALUES 0
#endif

// Threads of a row: a whole warp where each has several numbers, which the compiler may know.
__device__ __forceinline__ int lanes() { return VALUES > 1 ? 32 : blockDim.x; }

// The thread's numbers of one row: threadIdx.x, threadIdx.x + lanes(), ... Its methods are for all
// threads of the warp; a row that does not exist has length 0.
struct Row {
  const real* from;
  long long stride;
  int length;
  real v[VALUES > 0 ? VALUES : 1];

  __device__ __forceinline__ Row(const real* __restrict__ from, long long stride, int length)
      : from(from), stride(stride), length(length) {
    const real* next = from + threadIdx.x * stride;
#pragma unroll
    for (int k = 0; k < VALUES; k++) {
      v[k] = threadIdx.x + k * lanes() < length ? *next : 0;
      next += lanes() * stride;
    }
  }

  // visit(place, number) for each.
  template <class Visit>
  __device__ __forceinline__ void each(Visit visit) const {
    if constexpr (VALUES > 0) {
#pragma unroll
      for (int k = 0; k < VALUES; k++)
        if (threadIdx.x + k * lanes() < length) visit(threadIdx.x + k * lanes(), v[k]);
    } else {
      for (int i = threadIdx.x; i < length; i += lanes()) visit(i, from[i * stride]);
    }
  }

  // A NaN is ignored here, and reaches everything through the sum.
  __device__ __forceinline__ real maximum() const {
    real top = negative_infinity();
    each([&](int, real x) { top = max(top, x); });
    return lanes_maximum(top, lanes());
  }

  template <class Function>
  __device__ __forceinline__ real sum(Function function) const {
    real total = 0;
    each([&](int, real x) { total += function(x); });
    return lanes_sum(total, lanes());
  }
};

// visit(place, number of a, number of b) for each of two rows of one length.
template <class Visit>
__device__ __forceinline__ void each_of(const Row& a, const Row& b, Visit visit) {
  if constexpr (VALUES > 0) {
#pragma unroll
    for (int k = 0; k < VALUES; k++)
      if (threadIdx.x + k * lanes() < a.length) visit(threadIdx.x + k * lanes(), a.v[k], b.v[k]);
  } else {
    for (int i = threadIdx.x; i < a.length; i += lanes())
      visit(i, a.from[i * a.stride], b.from[i * b.stride]);
  }
}
