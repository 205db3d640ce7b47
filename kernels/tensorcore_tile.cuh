// One block's share of a matrix product on tensor cores: a TILE_M x TILE_N tile of D.
//
//   D[i][j] = sum over k of A[i][k] * B[j][k]        i, j: rows of A and B in the tile, k: depth
//
// WARPS_M x WARPS_N warps own a patch of D each, in registers. The depth goes by stages through a
// ring in shared memory: while one is multiplied the next are on their way by asynchronous copies.
// What A and B are is the caller's, who copies the stages.
#include "tensorcore_operand.cuh"

// Three stages of 16 words; of TF32X3, which has three times the work in a stage, two of 32.
constexpr int STAGES = PROMOTED ? 2 : 3;

// Shared memory of a block: stages of A and B, and of the low halves of what the block splits.
template <class A, class B>
struct Ring {
  static constexpr int LOW_A = A::BYTES + 2 * B::BYTES;  // from a place to that of the low half
  static constexpr int LOW_B = B::BYTES;
  static constexpr int STAGE =
      A::BYTES + B::BYTES + (B::SPLIT ? B::BYTES : 0) + (A::SPLIT ? A::BYTES : 0);
  static constexpr int BYTES = STAGES * STAGE;
};

// sum += the products of the stage at `stage`.
template <class A, class B>
__device__ __forceinline__ void multiply_stage(const typename A::Lane& lane_a,
                                               const typename B::Lane& lane_b, unsigned stage,
                                               Patch& sum) {
#pragma unroll
  for (int step = 0; step < STEPS; step++) {
    unsigned a[A::FRAGMENTS][4], b[B::FRAGMENTS][4];
    A::load(lane_a, stage, step, a);
    B::load(lane_b, stage, step, b);
#pragma unroll
    for (int i = 0; i < TILES_M; i++)
#pragma unroll
      for (int j = 0; j < TILES_N; j++) multiply(sum[i][j], a[i], &b[j / 2][j % 2 * 2]);
  }
}

// sum = the products of the stage at `stage`, of operands in halves. The small ones come first:
// what tensor cores cut off of a sum grows with it. That of two low halves is beneath float's
// precision.
template <class A, class B>
__device__ __forceinline__ void multiply_halves(const typename A::Lane& lane_a,
                                                const typename B::Lane& lane_b, unsigned stage,
                                                Patch& sum) {
  unsigned a[STEPS][A::FRAGMENTS][4];
#pragma unroll
  for (int step = 0; step < STEPS; step++) {
    unsigned a_low[A::FRAGMENTS][4];
    A::load(lane_a, stage, step, a[step]);
    if constexpr (A::SPLIT) {
      A::load(lane_a, stage + Ring<A, B>::LOW_A, step, a_low);
    } else {
#pragma unroll
      for (int i = 0; i < TILES_M; i++)
#pragma unroll
        for (int word = 0; word < 4; word++) split(a[step][i][word], a_low[i][word], false);
    }
#pragma unroll
    for (int f = 0; f < B::FRAGMENTS; f++) {
      unsigned b[4], b_low[4];
      B::load_one(lane_b, stage, step, f, b);
      B::load_one(lane_b, stage + Ring<A, B>::LOW_B, step, f, b_low);
#pragma unroll
      for (int i = 0; i < TILES_M; i++)
#pragma unroll
        for (int j = 0; j < 2; j++) multiply(sum[i][2 * f + j], a_low[i], &b[j * 2], step == 0);
#pragma unroll
      for (int i = 0; i < TILES_M; i++)
#pragma unroll
        for (int j = 0; j < 2; j++) multiply(sum[i][2 * f + j], a[step][i], &b_low[j * 2]);
    }
  }
  __syncwarp();  // or the compiler loads for what follows too early: there are no registers left
#pragma unroll
  for (int step = 0; step < STEPS; step++)
#pragma unroll
    for (int f = 0; f < B::FRAGMENTS; f++) {
      unsigned b[4];
      B::load_one(lane_b, stage, step, f, b);
#pragma unroll
      for (int i = 0; i < TILES_M; i++)
#pragma unroll
        for (int j = 0; j < 2; j++) multiply(sum[i][2 * f + j], a[step][i], &b[j * 2]);
    }
}

// sum = the product over `stages` stages. `fetch(stage)` starts the copies of the thread's chunks
// of the next stage to `stage` bytes behind their places in the first, and is called for up to two
// stages beyond the last one: those it fills with zeros. `prepare()` is called before the first and
// then before every `period`-th stage, for what fetch needs after the next barrier. All threads
// take part; shared memory is free again after the next barrier.
template <class A, class B, class Fetch, class Prepare>
__device__ __forceinline__ void accumulate(unsigned shared, int stages, int period, Fetch fetch,
                                           Prepare prepare, Patch& sum) {
  constexpr unsigned STAGE = Ring<A, B>::STAGE;
  const typename A::Lane lane_a = A::addresses(shared);
  const typename B::Lane lane_b = B::addresses(shared + A::BYTES);
#pragma unroll
  for (int i = 0; i < STAGES - 1; i++) {
    fetch(i * STAGE);
    commit_copies();
  }
#pragma unroll
  for (int i = 0; i < TILES_M; i++)
#pragma unroll
    for (int j = 0; j < TILES_N; j++)
#pragma unroll
      for (int word = 0; word < 4; word++) sum[i][j][word] = 0;

  unsigned reading = 0;
  if constexpr (!PROMOTED) {
    unsigned read = (STAGES - 1) * STAGE;
    for (int begin = 0; begin < stages; begin += period) {
      prepare();
      const int end = kept(min(period, stages - begin));
#pragma unroll 1
      for (int k = 0; k < end; k++) {
        wait_for_copies<STAGES - 2>();
        __syncthreads();  // the stage is there for all, and all are done with the one before it
        fetch(read);
        commit_copies();
        multiply_stage<A, B>(lane_a, lane_b, reading, sum);
        read = reading;
        reading = reading == (STAGES - 1) * STAGE ? 0 : reading + STAGE;
      }
    }
  } else {
    // Tensor cores cut sums off instead of rounding them, and the error grows with their number. So
    // they add up no more than a stage, 32 elements of depth, from zero; float adds the rest.
    const unsigned own_a = kept(shared + A::own_place());
    const unsigned own_b = kept(shared + A::BYTES + B::own_place());
    auto split_own = [&](unsigned stage) {
      wait_for_copies<0>();
      if constexpr (A::SPLIT) A::split_own(own_a + stage, Ring<A, B>::LOW_A);
      B::split_own(own_b + stage, Ring<A, B>::LOW_B);
    };
    split_own(0);
    for (int begin = 0; begin < stages; begin += period) {
      prepare();
      const int end = kept(min(period, stages - begin));
#pragma unroll 1
      for (int k = 0; k < end; k++) {
        __syncthreads();
        const unsigned next = reading ^ STAGE;
        Patch part;
        fetch(next);
        commit_copies();
        multiply_halves<A, B>(lane_a, lane_b, reading, part);
        split_own(next);
        reading = next;
#pragma unroll
        for (int i = 0; i < TILES_M; i++)
#pragma unroll
          for (int j = 0; j < TILES_N; j++)
#pragma unroll
            for (int word = 0; word < 4; word++) sum[i][j][word] += part[i][j][word];
      }
    }
  }
  wait_for_copies<0>();
}
