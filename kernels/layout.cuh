// Elementwise iteration over arrays of any strides: thread i works on element i of a shape whose
// axes the launcher has sorted by the output's memory (so that stores coalesce) and joined where
// they step as one. A dense operand is left with one axis: its offset is i, without a division.
//
// With a WIDTH above 1 the elements are packs of that many neighbours along the last axis, which
// move as one access: the launcher has proved the alignment and counted the axis in packs.
//
// index_t: int where all counts and offsets are below 2^30 (the sum of an index and a grid then
// still fits), else long long; the launcher defines it.
#include "pack.cuh"

#ifndef index_t
#define index_t int
#endif

#ifndef WIDTH
#define WIDTH 1
#endif

constexpr int MAX_RANK = 6;
constexpr int MAX_OPERANDS = 4;
constexpr int THREADS = 256;
// Blocks that must fit a multiprocessor, of kernels with long functions: 64 registers a thread. Without
// it the compiler aims lower and spills.
constexpr int BLOCKS = 4;

struct Layout {
  index_t count;  // of packs
  int rank;
  int packed;  // bit k: the elements of operand k are neighbours; else a pack is one, repeated
  int tail;    // single elements behind the packs of a single axis
  index_t size[MAX_RANK];
  index_t step[MAX_OPERANDS][MAX_RANK];  // in elements; 0 where the operand is broadcast
};

__device__ __forceinline__ index_t first_element() {
  return (index_t)blockIdx.x * THREADS + threadIdx.x;
}

__device__ __forceinline__ index_t grid_step() { return (index_t)gridDim.x * THREADS; }

// Where element (or pack) i lies in each operand.
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

// Calls visitor.at<N>(offsets) for the packs of the grid's threads (N is WIDTH) and for the elements
// behind them (N is 1).
template <int OPERANDS, class Visitor>
__device__ __forceinline__ void for_packs(const Layout& layout, const Visitor& visitor) {
  index_t offset[OPERANDS];
  for (index_t i = first_element(); i < layout.count; i += grid_step()) {
    locate<OPERANDS>(layout, i, offset);
    visitor.template at<WIDTH>(offset);
  }
  if constexpr (WIDTH > 1) {
    const index_t i = first_element();
    if (i >= layout.tail) return;
#pragma unroll
    for (int k = 0; k < OPERANDS; k++)
      offset[k] = layout.packed >> k & 1 ? layout.count * WIDTH + i : 0;
    visitor.template at<1>(offset);
  }
}

template <int N, class Element>
__device__ __forceinline__ Pack<Element, N> repeated(Element value) {
  Pack<Element, N> pack;
#pragma unroll
  for (int j = 0; j < N; j++) pack.v[j] = value;
  return pack;
}

// The pack of operand K at the offsets that `for_packs` gave.
template <int N, int K, class Element>
__device__ __forceinline__ Pack<Element, N> load_operand(const Layout& layout, const Element* x,
                                                         const index_t* offset) {
  if (N == 1 || layout.packed >> K & 1) return load_pack<N>(x + offset[K]);
  return repeated<N>(x[offset[K]]);
}

// The same where a null pointer stands for a number.
template <int N, int K, class Element>
__device__ __forceinline__ Pack<Element, N> load_operand(const Layout& layout, const Element* x,
                                                         Element number, const index_t* offset) {
  return x == nullptr ? repeated<N>(number) : load_operand<N, K>(layout, x, offset);
}
