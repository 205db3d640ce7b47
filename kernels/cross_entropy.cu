// Cross entropy of rows of logits against class numbers, with class weights w, label smoothing e
// and an ignored class number (the meaning of torch.nn.functional.cross_entropy).
//
//   logp[i,c] = logits[i,c] - log(sum over j of exp(logits[i,j]))
//   l[i] = -(1 - e) * w[t] * logp[i,t] - e/C * sum over c of w[c] * logp[i,c]       t = target[i]
//   loss = l[i] each, or sum l[i], or sum l[i] / sum w[t]         0 for a row whose t is ignored
//
//   dlogits[i,c] = g[i] * (exp(logp[i,c]) * W - (1 - e) * w[t] * [c == t] - e/C * w[c])
//   W = (1 - e) * w[t] + e/C * sum over c of w[c],   g[i] = dloss[i] / divisor
//
// A row belongs to the blockDim.x threads with one threadIdx.y, a power of two and at most a warp:
// they exchange by shuffles. A target outside 0..C-1 that is not ignored cannot be reported from
// here: its row's loss and gradient are NaN.
#include "row.cuh"

// Whether there is label smoothing; without it nothing asks for the class weights of a whole row.
#ifndef SMOOTHING
#define SMOOTHING true
#endif

// Threads of a block: as many as the registers for these values leave room for.
#ifndef BLOCK
#define BLOCK 512
#endif

struct Problem {
  long long rows;
  int classes;
  long long ignore_index;
  real smoothing;
  long long row_stride, class_stride, target_stride;
};

// The logits of row i, none where there is no such row.
__device__ __forceinline__ Row logits_of(const real* __restrict__ logits, const Problem& g,
                                         long long i) {
  return Row(logits + i * g.row_stride, g.class_stride, i < g.rows ? g.classes : 0);
}

// What takes a logit to its logarithm of a probability: logp = (logit - top) - shift.
__device__ __forceinline__ void normalise(const Row& row, real& top, real& shift) {
  const real highest = row.maximum();
  shift = logarithm(row.sum([&](real x) { return exponential(x - highest); }));
  top = highest;
}

// What the class number of a row says.
struct Target {
  long long number;
  bool ignored, valid;
  real weight;  // w[t]; 0 for a row that does not count

  __device__ __forceinline__ Target(const long long* __restrict__ target,
                                    const real* __restrict__ weights, const Problem& g,
                                    long long row) {
    number = row < g.rows ? target[row * g.target_stride] : g.ignore_index;
    ignored = number == g.ignore_index;
    valid = number >= 0 && number < g.classes;
    weight = ignored || !valid ? 0 : weights == nullptr ? 1 : weights[number];
  }
};

// The loss of a row, in all of its threads.
__device__ __forceinline__ real loss_of(const Row& row, const Target& t,
                                        const real* __restrict__ weights, const Problem& g,
                                        real top, real shift) {
  real hit = 0, smooth = 0;
  row.each([&](int c, real x) {
    const real logp = x - top - shift;
    if (c == t.number) hit = logp;
    // Not multiplied by a smoothing of 0: that would turn a log-probability of -inf into NaN.
    if (SMOOTHING) smooth -= weights == nullptr ? logp : weights[c] * logp;
  });
  hit = lanes_sum(hit, lanes());
  real loss = -(1 - g.smoothing) * t.weight * hit;
  if (SMOOTHING) loss += g.smoothing / g.classes * lanes_sum(smooth, lanes());
  return t.ignored ? 0 : t.valid ? loss : not_a_number();
}

// The gradient of a row: store(class, value) for each of the thread's classes.
template <class Store>
__device__ __forceinline__ void gradient_of(const Target& t, const real* __restrict__ weights,
                                            const Problem& g, real scale, real all_weights, int c,
                                            real logp, Store store) {
  const real hit = (1 - g.smoothing) * (t.valid ? t.weight : 1);
  const real smooth = g.smoothing / g.classes;
  real value = exponential(logp) * (hit + smooth * all_weights);
  if (SMOOTHING) value -= smooth * (weights == nullptr ? 1 : weights[c]);
  if (c == t.number) value -= hit;
  // An ignored row is zero even where its logits or the divisor are not finite.
  store(t.ignored ? 0 : value * (t.valid ? scale : not_a_number()));
}

// The sum of the class weights, which only smoothing asks for; in every thread of the block.
__device__ __forceinline__ real sum_of_weights(const real* __restrict__ weights, const Problem& g) {
  __shared__ real shared[BLOCK / 32];
  if (weights == nullptr || !SMOOTHING) return g.classes;
  real sum = 0;
  for (int c = thread_of_block(); c < g.classes; c += BLOCK) sum += weights[c];
  return block_sum(sum, shared);
}

// One launch for log-probabilities, row losses and their sums. A block takes every gridDim.x-th
// group of blockDim.y rows and leaves one partial sum; the launcher makes the grid from the shape
// alone, so that the order of the sum is fixed.
extern "C" __global__ void __launch_bounds__(BLOCK, 1) cross_entropy_forward(
    const real* __restrict__ logits,       // (M, C), any strides
    const long long* __restrict__ target,  // (M), any stride
    const real* __restrict__ weight,       // (C) or null: 1
    real* __restrict__ row_loss,           // (M) or null
    real* __restrict__ log_probabilities,  // (M, C)
    real* __restrict__ partial,            // (2, blocks): sum of losses, sum of w[t]
    Problem g) {
  __shared__ real losses[BLOCK / 32], weights[BLOCK / 32];
  real loss_sum = 0, weight_sum = 0;
  for (long long first = (long long)blockIdx.x * blockDim.y; first < g.rows;
       first += (long long)gridDim.x * blockDim.y) {
    const long long i = first + threadIdx.y;
    const Row row = logits_of(logits, g, i);
    const Target t(target, weight, g, i);
    real top, shift;
    normalise(row, top, shift);
    const real loss = loss_of(row, t, weight, g, top, shift);
    row.each([&](int c, real x) { log_probabilities[i * g.classes + c] = x - top - shift; });
    if (threadIdx.x == 0) {
      if (row_loss != nullptr && i < g.rows) row_loss[i] = loss;
      loss_sum += loss;
      weight_sum += t.weight;
    }
  }
  loss_sum = block_sum(loss_sum, losses);
  weight_sum = block_sum(weight_sum, weights);
  if (thread_of_block() == 0) {
    partial[blockIdx.x] = loss_sum;
    partial[gridDim.x + blockIdx.x] = weight_sum;
  }
}

// The sums of the blocks become the loss. One block.
extern "C" __global__ void __launch_bounds__(BLOCK, 1) cross_entropy_finish(
    const real* __restrict__ partial,  // (2, parts)
    real* __restrict__ loss,           // () or null when every row has its own
    real* __restrict__ divisor,        // () or null when nobody asks
    int parts, bool mean) {
  __shared__ real losses[BLOCK / 32], weights[BLOCK / 32];
  real loss_sum = 0, weight_sum = 0;
  for (int part = threadIdx.x; part < parts; part += BLOCK) {
    loss_sum += partial[part];
    weight_sum += partial[parts + part];
  }
  loss_sum = block_sum(loss_sum, losses);
  weight_sum = block_sum(weight_sum, weights);
  if (threadIdx.x != 0) return;
  const real by = mean ? weight_sum : 1;
  if (divisor != nullptr) *divisor = by;
  if (loss != nullptr) *loss = by == 0 ? not_a_number() : loss_sum / by;
}

extern "C" __global__ void __launch_bounds__(BLOCK, 1) cross_entropy_backward(
    const real* __restrict__ dloss,              // (M) or (): stride dloss_stride, or 0
    const real* __restrict__ log_probabilities,  // (M, C)
    const long long* __restrict__ target,        // (M), any stride
    const real* __restrict__ weight,             // (C) or null: 1
    const real* __restrict__ divisor,            // ()
    real* __restrict__ dlogits,                  // (M, C)
    Problem g, long long dloss_stride) {
  const real all_weights = sum_of_weights(weight, g);
  const long long i = (long long)blockIdx.x * blockDim.y + threadIdx.y;
  if (i >= g.rows) return;
  const Target t(target, weight, g, i);
  const real scale = dloss[i * dloss_stride] / *divisor;
  for (int c = threadIdx.x; c < g.classes; c += blockDim.x) {
    const long long at = i * g.classes + c;
    gradient_of(t, weight, g, scale, all_weights, c, log_probabilities[at],
                [&](real value) { dlogits[at] = value; });
  }
}

// Partial sums of w[t], for the mean over rows of several blocks.
extern "C" __global__ void __launch_bounds__(BLOCK, 1) cross_entropy_weights(
    const long long* __restrict__ target,  // (M), any stride
    const real* __restrict__ weight,       // (C) or null: 1
    real* __restrict__ partial,            // (blocks)
    Problem g) {
  __shared__ real shared[BLOCK / 32];
  real sum = 0;
  for (long long i = (long long)blockIdx.x * BLOCK + threadIdx.x; i < g.rows;
       i += (long long)gridDim.x * BLOCK)
    sum += Target(target, weight, g, i).weight;
  sum = block_sum(sum, shared);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

// Loss and gradient (for dloss = 1) of the logits, which are read once. One block does all of a
// small problem. Several leave their sums for cross_entropy_finish, and have those of the weights.
extern "C" __global__ void __launch_bounds__(BLOCK, 1) cross_entropy_with_gradient(
    const real* __restrict__ logits,        // (M, C), any strides
    const long long* __restrict__ target,   // (M), any stride
    const real* __restrict__ weight,        // (C) or null: 1
    const real* __restrict__ weight_parts,  // (parts): sums of w[t], or null: to be made here
    real* __restrict__ row_loss,            // (M) or null
    real* __restrict__ loss,                // () or null when every row has its own, or partial
    real* __restrict__ partial,             // (2, blocks): sums of losses and of w[t], or null
    real* __restrict__ dlogits,             // (M, C)
    Problem g, int parts, bool mean) {
  __shared__ real losses[BLOCK / 32], weights[BLOCK / 32];
  const int thread = thread_of_block();
  const real all_weights = sum_of_weights(weight, g);
  real weight_sum = 0;
  if (mean) {
    if (weight_parts != nullptr)
      for (int part = thread; part < parts; part += BLOCK) weight_sum += weight_parts[part];
    else
      for (long long i = thread; i < g.rows; i += BLOCK)
        weight_sum += Target(target, weight, g, i).weight;
    weight_sum = block_sum(weight_sum, weights);
  }
  const real divisor = mean ? weight_sum : 1, scale = 1 / divisor;
  real loss_sum = 0;
  for (long long first = (long long)blockIdx.x * blockDim.y; first < g.rows;
       first += (long long)gridDim.x * blockDim.y) {
    const long long i = first + threadIdx.y;
    const Row row = logits_of(logits, g, i);
    const Target t(target, weight, g, i);
    real top, shift;
    normalise(row, top, shift);
    const real own_loss = loss_of(row, t, weight, g, top, shift);
    row.each([&](int c, real x) {
      gradient_of(t, weight, g, scale, all_weights, c, x - top - shift,
                  [&](real value) { dlogits[i * g.classes + c] = value; });
    });
    if (threadIdx.x == 0) {
      if (row_loss != nullptr && i < g.rows) row_loss[i] = own_loss;
      loss_sum += own_loss;
    }
  }
  loss_sum = block_sum(loss_sum, losses);
  if (thread != 0) return;
  if (loss != nullptr) *loss = divisor == 0 ? not_a_number() : loss_sum / divisor;
  if (partial != nullptr) {
    partial[blockIdx.x] = loss_sum;
    // Each block knows the sum of all weights; the finish adds up, so the first one says it.
    partial[gridDim.x + blockIdx.x] = blockIdx.x == 0 ? divisor : 0;
  }
}

// Whether logit x of class c comes before logit y of class t in the order of argmax: the larger, of
// equals the first, a NaN above all numbers.
__device__ __forceinline__ bool before(real x, int c, real y, long long t) {
  if (y != y) return x != x && c < t;
  return x != x || x > y || (x == y && c < t);
}

// Running sums over batches: loss_sum += images * loss, and correct += the rows whose target has the
// first largest logit. Counts of integers may be added in any order.
extern "C" __global__ void __launch_bounds__(BLOCK, 1) add_scores(
    const real* __restrict__ loss,         // (): the mean over the images
    const real* __restrict__ logits,       // (M, C), any strides
    const long long* __restrict__ target,  // (M), any stride
    double* __restrict__ loss_sum,         // ()
    long long* __restrict__ correct,       // ()
    long long images, Problem g) {
  __shared__ int counts[BLOCK / 32];
  int count = 0;
  for (long long first = (long long)blockIdx.x * blockDim.y; first < g.rows;
       first += (long long)gridDim.x * blockDim.y) {
    const long long i = first + threadIdx.y;
    const Row row = logits_of(logits, g, i);
    const long long t = i < g.rows ? target[i * g.target_stride] : -1;
    const bool valid = t >= 0 && t < g.classes;
    const real own = valid ? logits[i * g.row_stride + t * g.class_stride] : 0;
    int beaten = 0;
    row.each([&](int c, real x) { beaten += before(x, c, own, t); });
    beaten = lanes_sum(beaten, lanes());
    if (threadIdx.x == 0) count += valid && beaten == 0;
  }
  count = block_sum(count, counts);
  if (thread_of_block() != 0) return;
  if (count > 0) atomicAdd((unsigned long long*)correct, (unsigned long long)count);
  if (blockIdx.x == 0) *loss_sum += (double)*loss * images;
}
