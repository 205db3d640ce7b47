// y[o] = the position r of the largest (argmax) or smallest (argmin) x[o, r]: the first of equals,
// and the first NaN before all numbers. Blocks and layouts are those of reduce.cu.
#include "block_reduce.cuh"
#include "layout.cuh"

// An element and its position; -1: none yet.
struct Candidate {
  element value;
  long long position;
};

template <class Operation>
__device__ __forceinline__ Candidate winner(const Candidate& a, const Candidate& b) {
  if (a.position < 0) return b;
  if (b.position < 0) return a;
  const bool a_nan = a.value != a.value, b_nan = b.value != b.value;
  const bool tie = a.value == b.value || (a_nan && b_nan);
  const bool b_wins = tie ? b.position < a.position
                          : b_nan || (!a_nan && Operation::better(b.value, a.value));
  return b_wins ? b : a;
}

template <class Operation, bool columns>
__device__ __forceinline__ void arg_reduce(const element* __restrict__ x,
                                           long long* __restrict__ y, const Layout& kept,
                                           const Layout& reduced) {
  __shared__ element values[THREADS];
  __shared__ long long positions[THREADS];
  const int output = columns ? threadIdx.x : threadIdx.y;
  const int helper = columns ? threadIdx.y : threadIdx.x;
  const int outputs = columns ? blockDim.x : blockDim.y;
  const int helpers = columns ? blockDim.y : blockDim.x;
  const index_t o = (index_t)blockIdx.x * outputs + output;
  const int thread = threadIdx.y * blockDim.x + threadIdx.x;

  index_t at[2] = {0, 0};
  Candidate best = {(element)0, -1};
  if (o < kept.count) {
    locate<2>(kept, o, at);
    for (index_t r = helper; r < reduced.count; r += helpers) {
      index_t inside[2];
      locate<2>(reduced, r, inside);
      best = winner<Operation>(best, {x[at[1] + inside[1]], (long long)r});
    }
  }
  values[thread] = best.value;
  positions[thread] = best.position;
  const auto combine = [](int to, int from) {
    const Candidate chosen = winner<Operation>({values[to], positions[to]},
                                               {values[from], positions[from]});
    values[to] = chosen.value;
    positions[to] = chosen.position;
  };
  if constexpr (columns)
    reduce_rows(combine);
  else
    reduce_columns(combine);
  if (helper == 0 && o < kept.count) y[at[0]] = positions[thread];
}

#define ARG_REDUCE_KERNELS(NAME, EXPRESSION)                                                   \
  struct NAME##_operation {                                                                    \
    static __device__ __forceinline__ bool better(element a, element b) { return EXPRESSION; } \
  };                                                                                           \
  extern "C" __global__ void __launch_bounds__(THREADS)                                        \
      NAME##_rows(const element* __restrict__ x, long long* __restrict__ y, Layout kept,       \
                  Layout reduced) {                                                            \
    arg_reduce<NAME##_operation, false>(x, y, kept, reduced);                                  \
  }                                                                                            \
  extern "C" __global__ void __launch_bounds__(THREADS)                                        \
      NAME##_columns(const element* __restrict__ x, long long* __restrict__ y, Layout kept,    \
                     Layout reduced) {                                                         \
    arg_reduce<NAME##_operation, true>(x, y, kept, reduced);                                   \
  }

ARG_REDUCE_KERNELS(argmax, a > b)
ARG_REDUCE_KERNELS(argmin, a < b)
