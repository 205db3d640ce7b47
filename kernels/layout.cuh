// Elementwise iteration over arrays of any strides: thread i works on element i of a shape whose
// axes the launcher has sorted by the output's memory (so that stores coalesce) and joined where
// they step as one. A dense operand is left with one axis: its offset is i, without a division.
//
// index_t: int where all counts and offsets are below 2^30 (the sum of an index and a grid then
// still fits), else long long; the launcher defines it.
#ifndef index_t
#define index_t int
#endif

constexpr int MAX_RANK = 6;
constexpr int MAX_OPERANDS = 4;
constexpr int THREADS = 256;

struct Layout {
  index_t count;
  int rank;
  index_t size[MAX_RANK];
  index_t step[MAX_OPERANDS][MAX_RANK];  // in elements; 0 where the operand is broadcast
};

__device__ __forceinline__ index_t first_element() {
  return (index_t)blockIdx.x * THREADS + threadIdx.x;
}

__device__ __forceinline__ index_t grid_step() { return (index_t)gridDim.x * THREADS; }

// Where element i lies in each operand.
template <int OPERANDS>
__device__ __forceinline__ void locate(const Layout& layout, index_t i, index_t* offset) {
#pragma unroll
  for (int k = 0; k < OPERANDS; k++) offset[k] = 0;
#pragma unroll
  for (int axis = MAX_RANK - 1; axis > 0; axis--) {
    if (axis < layout.rank) {
      const index_t outer = i / layout.size[axis];
      const index_t place = i - outer * layout.size[axis];
#pragma unroll
      for (int k = 0; k < OPERANDS; k++) offset[k] += place * layout.step[k][axis];
      i = outer;
    }
  }
#pragma unroll
  for (int k = 0; k < OPERANDS; k++) offset[k] += i * layout.step[k][0];
}
