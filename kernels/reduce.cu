// Reductions: y[o] = OPERATION over r of x[o, r], for elements of type `element`.
//
// o runs over the kept axes and r over the reduced ones; two Layouts say where they lie (operand 0
// is y, operand 1 is x). A block is a grid of outputs by threads per output, laid out so that
// neighbouring threads read neighbouring elements: `rows` where a reduced axis is the fastest one in
// memory, `columns` where a kept one is (the bias gradient of channels-last activations).
//
// blockIdx.y takes a segment of r and writes its result to a plane of its own in a workspace, which
// a second launch reduces. All orders are fixed by the shape: the same bits in every run.
#include "block_reduce.cuh"
#include "layout.cuh"

// A thread adds up chunks of this many elements before they join its total: the error of a long sum
// then grows with the number of chunks, not of elements.
constexpr int CHUNK = 16;

template <class Operation>
__device__ __forceinline__ element walk(const element* __restrict__ x, const Layout& reduced,
                                        index_t first, index_t last, index_t step,
                                        element identity) {
  element total = identity;
  index_t r = first;
  for (; r + (CHUNK - 1) * step < last; r += CHUNK * step) {
    element part = identity;
#pragma unroll(sizeof(index_t) == 4 ? 4 : 1)
    for (int k = 0; k < CHUNK; k++) {
      index_t at[2];
      locate<2>(reduced, r + k * step, at);
      part = Operation::of(part, x[at[1]]);
    }
    total = Operation::of(total, part);
  }
  element part = identity;
  for (; r < last; r += step) {
    index_t at[2];
    locate<2>(reduced, r, at);
    part = Operation::of(part, x[at[1]]);
  }
  return Operation::of(total, part);
}

template <class Operation, bool columns>
__device__ __forceinline__ void reduce(const element* __restrict__ x, element* __restrict__ y,
                                       element identity, index_t segment, index_t plane,
                                       const Layout& kept, const Layout& reduced) {
  __shared__ element slots[THREADS];
  const int output = columns ? threadIdx.x : threadIdx.y;
  const int helper = columns ? threadIdx.y : threadIdx.x;
  const int outputs = columns ? blockDim.x : blockDim.y;
  const int helpers = columns ? blockDim.y : blockDim.x;
  const index_t o = (index_t)blockIdx.x * outputs + output;
  const index_t begin = blockIdx.y * segment;
  const index_t end = min(begin + segment, reduced.count);
  const int thread = threadIdx.y * blockDim.x + threadIdx.x;

  index_t at[2] = {0, 0};
  slots[thread] = identity;
  if (o < kept.count) {
    locate<2>(kept, o, at);
    slots[thread] = walk<Operation>(x + at[1], reduced, begin + helper, end, helpers, identity);
  }
  const auto combine = [](int to, int from) {
    slots[to] = Operation::of(slots[to], slots[from]);
  };
  if constexpr (columns)
    reduce_rows(combine);
  else
    reduce_columns(combine);
  if (helper == 0 && o < kept.count) y[at[0] + blockIdx.y * plane] = slots[thread];
}

#define REDUCE_KERNELS(NAME, EXPRESSION)                                                      \
  struct NAME##_operation {                                                                   \
    static __device__ __forceinline__ element of(element a, element b) { return EXPRESSION; } \
  };                                                                                          \
  extern "C" __global__ void __launch_bounds__(THREADS) NAME##_rows(                          \
      const element* __restrict__ x, element* __restrict__ y, element identity,               \
      index_t segment, index_t plane, Layout kept, Layout reduced) {                          \
    reduce<NAME##_operation, false>(x, y, identity, segment, plane, kept, reduced);           \
  }                                                                                           \
  extern "C" __global__ void __launch_bounds__(THREADS) NAME##_columns(                       \
      const element* __restrict__ x, element* __restrict__ y, element identity,               \
      index_t segment, index_t plane, Layout kept, Layout reduced) {                          \
    reduce<NAME##_operation, true>(x, y, identity, segment, plane, kept, reduced);            \
  }

REDUCE_KERNELS(sum, a + b)
// A NaN on either side wins.
REDUCE_KERNELS(max, a > b || a != a ? a : b)
REDUCE_KERNELS(min, a < b || a != a ? a : b)
