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
// A row belongs to the blockDim.x threads with one threadIdx.y (a power of two). A target outside
// 0..C-1 that is not ignored cannot be reported from here: its row's loss and gradient are NaN.
#include "block_reduce.cuh"
#include "real.cuh"

constexpr int BLOCK = 256;
// Blocks that must fit a multiprocessor: 64 registers a thread. Without it the compiler aims lower
// and spills.
constexpr int BLOCKS = 4;

struct Problem {
  long long rows;
  int classes;
  long long ignore_index;
  real smoothing;
};

// One launch for log-probabilities, row losses and their sums. A block takes every gridDim.x-th
// group of blockDim.y rows and leaves one partial sum; the launcher makes the grid from the shape
// alone, so that the order of the sum is fixed.
extern "C" __global__ void __launch_bounds__(BLOCK, BLOCKS) cross_entropy_forward(
    const real* __restrict__ logits,       // (M, C), strides row_stride and class_stride
    const long long* __restrict__ target,  // (M), stride target_stride
    const real* __restrict__ weight,       // (C) or null: 1
    real* __restrict__ row_loss,           // (M) or null
    real* __restrict__ log_probabilities,  // (M, C)
    real* __restrict__ partial,            // (2, blocks): sum of losses, sum of w[t]
    Problem g, long long row_stride, long long class_stride, long long target_stride) {
  __shared__ real shared[BLOCK];
  const int own = threadIdx.y * blockDim.x, thread = own + threadIdx.x;
  real loss_sum = 0, weight_sum = 0;
  for (long long first = (long long)blockIdx.x * blockDim.y; first < g.rows;
       first += (long long)gridDim.x * blockDim.y) {
    const long long row = first + threadIdx.y;
    const int classes = row < g.rows ? g.classes : 0;
    const real* x = logits + row * row_stride;
    real* logp = log_probabilities + row * g.classes;

    real top = negative_infinity();
    for (int c = threadIdx.x; c < classes; c += blockDim.x) top = max(top, x[c * class_stride]);
    shared[thread] = top;
    reduce_columns([&](int to, int from) { shared[to] = max(shared[to], shared[from]); });
    top = shared[own];
    __syncthreads();

    real sum = 0;
    for (int c = threadIdx.x; c < classes; c += blockDim.x)
      sum += exponential(x[c * class_stride] - top);
    shared[thread] = sum;
    reduce_columns([&](int to, int from) { shared[to] += shared[from]; });
    const real shift = logarithm(shared[own]);
    __syncthreads();

    real smooth = 0;  // minus the sum of w * logp, for the label smoothing
    for (int c = threadIdx.x; c < classes; c += blockDim.x) {
      const real value = x[c * class_stride] - top - shift;
      logp[c] = value;
      // Not multiplied by a smoothing of 0: that would turn a log-probability of -inf into NaN.
      if (g.smoothing != 0) smooth -= weight == nullptr ? value : weight[c] * value;
    }
    shared[thread] = smooth;
    reduce_columns([&](int to, int from) { shared[to] += shared[from]; });
    if (threadIdx.x == 0 && row < g.rows) {
      const long long t = target[row * target_stride];
      real loss = 0, own_weight = 0;
      if (t != g.ignore_index && (t < 0 || t >= g.classes)) {
        loss = not_a_number();
      } else if (t != g.ignore_index) {
        own_weight = weight == nullptr ? 1 : weight[t];
        loss = -(1 - g.smoothing) * own_weight * (x[t * class_stride] - top - shift);
        if (g.smoothing != 0) loss += g.smoothing / g.classes * shared[own];
      }
      if (row_loss != nullptr) row_loss[row] = loss;
      loss_sum += loss;
      weight_sum += own_weight;
    }
    __syncthreads();
  }

  // Only the first thread of each row holds sums: a tree over the rows of the block.
  for (int which = 0; which < 2; which++) {
    shared[thread] = which == 0 ? loss_sum : weight_sum;
    reduce_rows([&](int to, int from) { shared[to] += shared[from]; });
    if (thread == 0) partial[which * gridDim.x + blockIdx.x] = shared[0];
    __syncthreads();
  }
}

// The sums of the blocks become the loss. One block.
extern "C" __global__ void __launch_bounds__(BLOCK, BLOCKS) cross_entropy_finish(
    const real* __restrict__ partial,  // (2, parts)
    real* __restrict__ loss,           // () or null when every row has its own
    real* __restrict__ divisor,        // ()
    int parts, bool mean) {
  __shared__ real losses[BLOCK], weights[BLOCK];
  const int thread = threadIdx.x;
  real loss_sum = 0, weight_sum = 0;
  for (int part = thread; part < parts; part += blockDim.x) {
    loss_sum += partial[part];
    weight_sum += partial[parts + part];
  }
  losses[thread] = loss_sum;
  weights[thread] = weight_sum;
  reduce_columns([&](int to, int from) {
    losses[to] += losses[from];
    weights[to] += weights[from];
  });
  if (thread != 0) return;
  const real by = mean ? weights[0] : 1;
  *divisor = by;
  if (loss != nullptr) *loss = by == 0 ? not_a_number() : losses[0] / by;
}

extern "C" __global__ void __launch_bounds__(BLOCK, BLOCKS) cross_entropy_backward(
    const real* __restrict__ dloss,              // (M) or (): stride dloss_stride, or 0
    const real* __restrict__ log_probabilities,  // (M, C)
    const long long* __restrict__ target,        // (M), stride target_stride
    const real* __restrict__ weight,             // (C) or null: 1
    const real* __restrict__ divisor,            // ()
    real* __restrict__ dlogits,                  // (M, C)
    Problem g, long long dloss_stride, long long target_stride) {
  __shared__ real shared[BLOCK];
  const int thread = threadIdx.y * blockDim.x + threadIdx.x;
  real all_weights = g.classes;
  if (weight != nullptr && g.smoothing != 0) {
    // The whole block adds up the class weights: every row needs the same sum.
    real sum = 0;
    for (int c = thread; c < g.classes; c += BLOCK) sum += weight[c];
    shared[thread] = sum;
    reduce_columns([&](int to, int from) { shared[to] += shared[from]; });
    reduce_rows([&](int to, int from) { shared[to] += shared[from]; });
    all_weights = shared[0];
  }
  const long long row = (long long)blockIdx.x * blockDim.y + threadIdx.y;
  if (row >= g.rows) return;
  const long long t = target[row * target_stride];
  const bool ignored = t == g.ignore_index, valid = t >= 0 && t < g.classes;
  real scale = 0, hit = 0;
  if (!ignored) {
    scale = valid ? dloss[row * dloss_stride] / *divisor : not_a_number();
    hit = (1 - g.smoothing) * (weight == nullptr || !valid ? 1 : weight[t]);
  }
  const real smooth = g.smoothing / g.classes, whole = hit + smooth * all_weights;
  for (int c = threadIdx.x; c < g.classes; c += blockDim.x) {
    const long long at = row * g.classes + c;
    real value = exponential(log_probabilities[at]) * whole;
    if (g.smoothing != 0) value -= smooth * (weight == nullptr ? 1 : weight[c]);
    if (c == t) value -= hit;
    // An ignored row is zero even where its logits or the divisor are not finite.
    dlogits[at] = ignored ? 0 : value * scale;
  }
}
